// activation.cu: the MLP's non-linearity with its gate, and the multiplications and clamps of whole rows. One block per
// row. Emulated, not yet run on hardware.
#include "gpu.cuh"

enum Activation { RELU, RELU_SQUARED, SILU, GELU_ERF, GELU_TANH, QUICK_GELU, XIELU };

GPU_FN float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

GPU_FN float xielu(float x, float alpha_p, float alpha_n, float beta, float eps) {
    return (x > 0.0f ? alpha_p * x * x : alpha_n * (expm1f(fminf(x, eps)) - x)) + beta * x;
}

GPU_FN float activate(int kind, float x) {
    switch (kind) {
        case RELU: return fmaxf(x, 0.0f);
        case RELU_SQUARED: return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
        case SILU: return x * sigmoid(x);
        case GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        // x / 2 * (1 + tanh(u)) = x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3)
        case GELU_TANH: return x * sigmoid(2.0f * 0.79788456080286536f * (x + 0.044715f * x * x * x));
        default: return x * sigmoid(1.702f * x);
    }
}

// Rows of [gate | up], `width` columns each: gate <- act(gate) * up. Not gated: rows of `width` columns <- act.
// The last four are xIELU's numbers.
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
