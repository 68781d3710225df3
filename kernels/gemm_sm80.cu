// gemm_sm80.cu: C = A W with an epilogue on tensor cores, for every card since Ampere: cp.async, ldmatrix, mma.sync.
//
// A float32 number is the sum of up to three bf16 numbers ("planes"): the number rounded, what is left rounded, and so
// on. The product of two such sums is a sum of products of planes, of which the largest are kept:
//   1 plane   bfloat16    1 product    errors of 2.3e-3
//   2 planes  bf16x3      3 products   4.5e-6
//   3 planes  float32     6 products   1.2e-7, that of a good float32 GEMM
// A tensor core's accumulator rounds badly. So at most 64 of k are summed in it; then the sum is added to an ordinary
// float32 register. W is split once, when it is loaded; A is split in registers.
//
// The order of k is fixed and every number of C sees only its own row and column, so a row does not depend on the batch
// it is in. Emulated, not yet run on hardware.
//
// A block of 8 warps computes 128 x 64 numbers, a warp 32 x 32. Stages of 32 k: A as float32, W as planes.
#include "gpu.cuh"

enum { TILE_M = 128, TILE_N = 64, TILE_K = 32, THREADS = 256, PROMOTE_EVERY = 2 /* stages: 64 of k */ };
enum { A_LD = TILE_K + 8, W_LD = TILE_N + 8, SUMS_LD = TILE_N + 8 };  // padded: no bank conflicts
enum { A_BYTES = TILE_M * A_LD * 4, PLANE_BYTES = TILE_K * W_LD * 2 };

// Three planes leave room for two stages in the 99 KiB that every card has; fewer planes get three.
template <int PLANES> struct Pipeline {
    static constexpr int stages = PLANES == 3 ? 2 : 3;
    static constexpr int stage_bytes = A_BYTES + PLANES * PLANE_BYTES;
};

// Bytes of the float32 number (row, k) and those behind it that exist, of `width` numbers.
GPU_FN int valid_bytes(int k, int n_k, int width) { return max(0, min(n_k - k, width)) * 4; }

template <int PLANES, int A_WIDTH>
GPU_FN void load_stage(u8* stage, const float* a, int a_stride, int n_rows, const bf16* w, int w_stride, i64 plane,
                       int w_cols, int w_col, int k0, int n_k) {
    float* to_a = reinterpret_cast<float*>(stage);
    for (int i = threadIdx.x; i < TILE_M * TILE_K / A_WIDTH; i += THREADS) {
        int row = i / (TILE_K / A_WIDTH), k = i % (TILE_K / A_WIDTH) * A_WIDTH;
        int valid = row < n_rows ? valid_bytes(k0 + k, n_k, A_WIDTH) : 0;
        cp_async<A_WIDTH * 4>(to_a + row * A_LD + k, valid ? a + (i64)row * a_stride + k0 + k : a, valid);
    }
    bf16* to_w = reinterpret_cast<bf16*>(stage + A_BYTES);
#pragma unroll
    for (int p = 0; p < PLANES; p++) {
        int k = threadIdx.x / (TILE_N / 8), col = threadIdx.x % (TILE_N / 8) * 8;
        bool inside = k0 + k < n_k && w_col < w_cols;
        const bf16* from = inside ? w + p * plane + (i64)(k0 + k) * w_stride + w_col : w;
        cp_async<16>(to_w + (p * TILE_K + k) * W_LD + col, from, inside ? 16 : 0);
    }
}

// The planes of a fragment of A, from float32 in shared memory.
template <int PLANES> GPU_FN void load_a(u32 (&fragment)[PLANES][4], const float* a, int lane) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 v = *reinterpret_cast<const float2*>(a + (lane / 4 + i % 2 * 8) * A_LD + lane % 4 * 2 + i / 2 * 8);
#pragma unroll
        for (int p = 0; p < PLANES; p++) {
            u32 both = pack_bf16(v.x, v.y);
            fragment[p][i] = both;
            v.x -= __uint_as_float(both << 16);  // exact
            v.y -= __uint_as_float(both & 0xffff0000u);
        }
    }
}

template <int PLANES, int A_WIDTH>
GPU_FN void gemm_tile(float* c, int c_stride, const float* a, int a_stride, const bf16* w, int w_stride, i64 plane,
                      int w_cols, const Epilogue& e, int n_rows, int first_col, int n_cols, int n_k, int col0) {
    DYNAMIC_SHARED(u8, shared);
    constexpr int stages = Pipeline<PLANES>::stages, stage_bytes = Pipeline<PLANES>::stage_bytes;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
    bool useful = warp_row < n_rows;  // a warp whose rows all lie outside multiplies nothing

    float total[2][4][4], part[2][4][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) total[i][j][e] = part[i][j][e] = 0.0f;

    // The first of the eight columns of W that this thread loads.
    int w_col = col0 + gate_or_up<TILE_N>(e, threadIdx.x % (TILE_N / 8) * 8);
    int n_stages = (n_k + TILE_K - 1) / TILE_K;
    auto load = [&](int s) {
        if (s < n_stages)
            load_stage<PLANES, A_WIDTH>(shared + s % stages * stage_bytes, a, a_stride, n_rows, w, w_stride, plane,
                                        w_cols, w_col, s * TILE_K, n_k);
        cp_async_commit();  // a group per stage, empty at the end, so that the count below is right
    };
#pragma unroll
    for (int s = 0; s < stages - 1; s++) load(s);

    for (int s = 0; s < n_stages; s++) {
        cp_async_wait<stages - 2>();  // this thread's part of stage s has arrived
        __syncthreads();              // everybody's has, and everybody has read stage s - 1
        load(s + stages - 1);         // over stage s - 1
        const u8* stage = shared + s % stages * stage_bytes;
        const float* stage_a = reinterpret_cast<const float*>(stage);
        const bf16* stage_w = reinterpret_cast<const bf16*>(stage + A_BYTES);
        if (useful) {
#pragma unroll
            for (int k = 0; k < TILE_K; k += 16) {
                u32 x[2][PLANES][4];
#pragma unroll
                for (int i = 0; i < 2; i++) load_a<PLANES>(x[i], stage_a + (warp_row + i * 16) * A_LD + k, lane);
                // Of each plane of W a strip of 16 k x 32 columns: two 16 x 16 squares, 4 matrices each.
                u32 y[PLANES][2][4];
#pragma unroll
                for (int p = 0; p < PLANES; p++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
                        ldmatrix_x4_trans(y[p][j], stage_w + (p * TILE_K + k + lane % 16) * W_LD + warp_col + j * 16 +
                                                       lane / 16 * 8);
                // Small products first.
#pragma unroll
                for (int order = PLANES - 1; order >= 0; order--)
#pragma unroll
                    for (int p = 0; p <= order; p++)
#pragma unroll
                        for (int i = 0; i < 2; i++)
#pragma unroll
                            for (int j = 0; j < 4; j++)
                                mma_bf16_16816(part[i][j], x[i][p], y[order - p][j / 2][j % 2 * 2],
                                               y[order - p][j / 2][j % 2 * 2 + 1]);
            }
        }
        if (s % PROMOTE_EVERY == PROMOTE_EVERY - 1 || s == n_stages - 1) {
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        total[i][j][e] += part[i][j][e];
                        part[i][j][e] = 0.0f;
                    }
        }
    }
    // By way of shared memory, so that rows of C are written in whole and the epilogue is there once.
    float* sums = reinterpret_cast<float*>(shared);
    __syncthreads();  // everybody has read the last stage
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = warp_row + i * 16 + lane / 4 + half * 8, col = warp_col + j * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(sums + row * SUMS_LD + col) =
                    make_float2(total[i][j][half * 2], total[i][j][half * 2 + 1]);
            }
    __syncthreads();
    epilogue<TILE_N, SUMS_LD, THREADS>(e, threadIdx.x, sums, c, c_stride, n_rows, col0 - first_col, n_cols);
}

// C [m, n] = A [m, k] W[.., first_col ..+ n], through the epilogue, whose bias and `up` count from first_col. Grid: (row
// tiles, column tiles, 64 wide, with a gate 32, of the range first_col / 8 * 8 .. first_col + n). `up` is a multiple of 8.
//   w          planes of bf16, `plane` numbers apart: [k, w_cols], w_cols a multiple of 8, 16-byte aligned
//   row_tiles  null, or the grouped GEMM as in gemm_f32.cu with tiles of 128 rows
// _a16: rows of A are 16-byte aligned. The arithmetic is the same without. Two blocks share a multiprocessor, but where
// that would cost spills or where their 67 KiB of shared memory and more would not fit: some have 100 KiB.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
enum { TOGETHER = 1 };
#else
enum { TOGETHER = 2 };
#endif
#define GEMM(name, PLANES, A_WIDTH, BLOCKS) \
    KERNEL_WITH_BLOCKS(THREADS, BLOCKS, name)(float* c, int c_stride, const float* a, int a_stride, const bf16* w, \
                                              int w_cols, i64 plane, Epilogue e, int m, int first_col, int n, \
                                              int k, const RowTile* row_tiles) { \
        int tile = blockIdx.x; \
        RowTile t = row_tiles ? row_tiles[tile] : RowTile{tile * TILE_M, min(m - tile * TILE_M, (int)TILE_M), 0}; \
        gemm_tile<PLANES, A_WIDTH>(c + (i64)t.first_row * c_stride, c_stride, a + (i64)t.first_row * a_stride, \
                                   a_stride, w + (i64)t.k0 * w_cols, w_cols, plane, w_cols, e, t.n_rows, first_col, \
                                   n, k, first_col / 8 * 8 + (int)blockIdx.y * result_columns<TILE_N>(e)); \
    } \
    EXPORT_KERNEL(name)

GEMM(gemm_sm80_bf16, 1, 1, TOGETHER)
GEMM(gemm_sm80_bf16x3, 2, 1, TOGETHER)
GEMM(gemm_sm80_bf16x6, 3, 1, 1)
GEMM(gemm_sm80_bf16_a16, 1, 4, TOGETHER)
GEMM(gemm_sm80_bf16x3_a16, 2, 4, TOGETHER)
GEMM(gemm_sm80_bf16x6_a16, 3, 4, TOGETHER)

// Splits a float32 matrix [n, k] (as Hugging Face stores weights) into planes [k, w_cols] from column first_col on.
// Grid: (ceil(k / 32), ceil(n / 32)), 256 threads.
KERNEL(256, split_planes)(bf16* w, int w_cols, i64 plane, int planes, int first_col, const float* from, int n, int k) {
    SHARED(square, float[32][33]);
    int k0 = (int)blockIdx.x * 32, n0 = (int)blockIdx.y * 32, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int r = warp; r < 32; r += 8)
        if (n0 + r < n && k0 + lane < k) square[r][lane] = from[(i64)(n0 + r) * k + k0 + lane];
    __syncthreads();
    for (int r = warp; r < 32; r += 8) {
        if (k0 + r >= k || n0 + lane >= n) continue;
        float v = square[lane][r];
        for (int p = 0; p < planes; p++) {
            bf16 part = to_bf16(v);
            w[p * plane + (i64)(k0 + r) * w_cols + first_col + n0 + lane] = part;
            v -= to_f32(part);
        }
    }
}
EXPORT_KERNEL(split_planes)
