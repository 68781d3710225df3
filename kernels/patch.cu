// patch.cu: rows from one matrix to another, the patch table, and the comparison that finds patches which change
// nothing. Emulated, not yet run on hardware.
#include "gpu.cuh"

enum Combine { SET, ADD, SUBTRACT };

// dst[to(i)] (=, +=, -=) scale * src[from(i)]; `from` and `to` are 0, 1, 2 ... where null. One block per row. No row is
// written twice.
KERNEL(256, copy_rows)(float* dst, int dst_stride, const u32* to, const float* src, int src_stride, const u32* from,
                       int cols, int combine, float scale) {
    u32 i = blockIdx.x;
    float* out = dst + (i64)(to ? to[i] : i) * dst_stride;
    const float* in = src + (i64)(from ? from[i] : i) * src_stride;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        float v = in[c];
        if (combine == SET) out[c] = scale * v;
        else out[c] = fmaf(combine == ADD ? scale : -scale, v, out[c]);
    }
}
EXPORT_KERNEL(copy_rows)

// A rectangle of a site's matrix and what becomes of it: x = factor * x + value.
struct PatchEntry {
    int first_row, end_row, first_col, end_col;
    int source_row;  // of `values`, for first_row; the same columns. -1: zeros
    float factor;    // 0: what is there is not read
};

// Writes every entry of the table, the later over the earlier. One block per row, from row `first_row` on. A column is
// always written by the same thread, so entries that overlap need no barrier between them.
KERNEL(256, patch_rows)(float* x, int stride, const float* values, int values_stride, const PatchEntry* table,
                        int n_entries, int first_row) {
    int row = first_row + (int)blockIdx.x;
    float* out = x + (i64)row * stride;
    for (int e = 0; e < n_entries; e++) {
        PatchEntry p = table[e];
        if (row < p.first_row || row >= p.end_row) continue;
        const float* in = values + (i64)(p.source_row + row - p.first_row) * values_stride;
        int first = p.first_col / (int)blockDim.x * (int)blockDim.x + (int)threadIdx.x;
        for (int c = first; c < p.end_col; c += blockDim.x)
            if (c >= p.first_col) {
                float value = p.source_row < 0 ? 0.0f : in[c];
                out[c] = p.factor == 0.0f ? value : fmaf(p.factor, out[c], value);
            }
    }
}
EXPORT_KERNEL(patch_rows)

enum { WARPS = 8 };

// flags[row, slice] = 1 where any number of the slice differs from b's (from zero where b is null), as numbers. One
// warp per slice.
KERNEL(WARPS * 32, differs_rows)(u32* flags, const float* a, int a_stride, const float* b, int b_stride, int n_rows,
                                 int slices, int width) {
    int lane = threadIdx.x & 31;
    i64 item = (i64)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (item >= (i64)n_rows * slices) return;
    int row = (int)(item / slices), slice = (int)(item % slices);
    const float* x = a + (i64)row * a_stride + slice * width;
    const float* y = b ? b + (i64)row * b_stride + slice * width : nullptr;
    int differs = 0;
    for (int i = lane; i < width; i += 32) differs |= x[i] != (y ? y[i] : 0.0f);
    differs = __any_sync(0xffffffffu, differs);
    if (lane == 0) flags[item] = (u32)differs;
}
EXPORT_KERNEL(differs_rows)
