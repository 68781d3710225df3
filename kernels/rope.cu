// rope.cu: rotary positions. Emulated, not yet run on hardware.
#include "gpu.cuh"

// Rotates the first n_rot dimensions of each of `heads` heads of every row, in place. One block per row.
//   table        [table rows, n_rot]: cos | sin, n_rot / 2 each
//   index        [rows]: the table row of each row
//   interleaved  pairs (2i, 2i + 1) instead of (i, i + n_rot / 2)
KERNEL(256, rope_rows)(float* x, int stride, int heads, int d_head, const float* table, int n_rot, const u32* index,
                       int interleaved) {
    int half = n_rot / 2;
    float* row = x + (i64)blockIdx.x * stride;
    const float* angles = table + (i64)index[blockIdx.x] * n_rot;
    for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
        int head = i / half, pair = i % half;
        float* at = row + head * d_head + (interleaved ? 2 * pair : pair);
        int other = interleaved ? 1 : half;
        float c = angles[pair], s = angles[half + pair];
        float a = at[0], b = at[other];
        at[0] = fmaf(a, c, -(b * s));
        at[other] = fmaf(b, c, a * s);
    }
}
EXPORT_KERNEL(rope_rows)
