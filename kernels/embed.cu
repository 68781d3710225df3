// embed.cu: token ids to rows. Emulated, not yet run on hardware.
#include "gpu.cuh"

// out[row] = scale * table[ids[row]]. One block per row.
KERNEL(256, embed_rows)(float* out, int out_stride, const float* table, int table_stride, int cols, const u32* ids,
                        float scale) {
    const float* from = table + (i64)ids[blockIdx.x] * table_stride;
    float* to = out + (i64)blockIdx.x * out_stride;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) to[i] = scale * from[i];
}
EXPORT_KERNEL(embed_rows)
