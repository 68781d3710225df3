// norm.cu: LayerNorm and RMSNorm of rows or of slices of rows. One warp per slice.
//
// Statistics are float32 in two passes (the variance around the mean found first): the one-pass formula loses digits
// where the mean is large. Emulated, not yet run on hardware.
#include "gpu.cuh"

enum { WARPS = 8 };

// y[row, slice] = (x - mean) / sqrt(var + eps) * w + b, over `width` columns; RMSNorm has mean 0.
//   x, y      rows x_stride and y_stride apart; y may be x
//   weight    [width], or [slices, width] where `distinct`; may be null. one_plus: multiplies by 1 + w
//   bias      as weight
KERNEL(WARPS * 32, norm_rows)(float* y, int y_stride, const float* x, int x_stride, int n_rows, int slices, int width,
                              const float* weight, const float* bias, float eps, int centred, int one_plus,
                              int distinct) {
    int lane = threadIdx.x & 31;
    i64 item = (i64)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (item >= (i64)n_rows * slices) return;
    int row = (int)(item / slices), slice = (int)(item % slices);
    const float* in = x + (i64)row * x_stride + slice * width;
    float* out = y + (i64)row * y_stride + slice * width;
    int params = distinct ? slice * width : 0;

    float mean = 0.0f;
    if (centred) {
        float sum = 0.0f;
        for (int i = lane; i < width; i += 32) sum += in[i];
        mean = warp_sum(sum) / (float)width;
    }
    float squares = 0.0f;
    for (int i = lane; i < width; i += 32) {
        float d = in[i] - mean;
        squares = fmaf(d, d, squares);
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / (float)width + eps);
    for (int i = lane; i < width; i += 32) {
        float v = (in[i] - mean) * scale;
        if (weight) v *= one_plus ? 1.0f + weight[params + i] : weight[params + i];
        if (bias) v += bias[params + i];
        out[i] = v;
    }
}
EXPORT_KERNEL(norm_rows)
