// activation.cu: the MLP's non-linearity with its gate, and the multiplications and clamps of whole rows. One block per
// row. Emulated, not yet run on hardware.
#include "gpu.cuh"

GPU_FN float xielu(float x, float alpha_p, float alpha_n, float beta, float eps) {
    return (x > 0.0f ? alpha_p * x * x : alpha_n * (expm1f(fminf(x, eps)) - x)) + beta * x;
}

// Rows of [gate | up], `width` columns each: gate <- act(gate) * up. Not gated: rows of `width` columns <- act.
// The GEMMs' epilogue does the same where nothing needs what lies before the activation; xIELU, whose numbers are learned
// and come last here, is always a kernel of its own.
KERNEL(256, activation_rows)(float* x, int stride, int width, int kind, int gated, float alpha_p, float alpha_n,
                             float beta, float eps) {
    float* gate = x + (i64)blockIdx.x * stride;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float v = kind == XIELU ? xielu(gate[i], alpha_p, alpha_n, beta, eps) : activate(kind, gate[i]);
        gate[i] = gated ? v * gate[width + i] : v;
    }
}
EXPORT_KERNEL(activation_rows)

// x *= factor, or row i of x *= factors[i] where `factors` is not null.
KERNEL(256, scale_rows)(float* x, int stride, int cols, float factor, const float* factors) {
    float* row = x + (i64)blockIdx.x * stride;
    float f = factors ? factors[blockIdx.x] : factor;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) row[i] *= f;
}
EXPORT_KERNEL(scale_rows)

// x <- min(max(x, -limit), limit). A NaN stays one.
KERNEL(256, clamp_rows)(float* x, int stride, int cols, float limit) {
    float* row = x + (i64)blockIdx.x * stride;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
        float v = row[i];
        row[i] = v > limit ? limit : v < -limit ? -limit : v;
    }
}
EXPORT_KERNEL(clamp_rows)
