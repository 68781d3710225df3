// gemm_f32.cu: C = A W with an epilogue in float32 on the ordinary cores: the oracle of the tensor-core GEMMs and the path for
// every shape and stride.
//
// Each number of C is one chain of fused multiply-adds over k = 0, 1, 2 ... It does not depend on the tile it lies in,
// on the other rows or on the other columns: results are the same however a wave is cut. Emulated, not yet run on
// hardware.
//
// A block computes 64 x 64 numbers with 128 threads, 8 x 4 each. Two stages of 16 k: while one is multiplied, the next
// is on its way to registers.
#include "gpu.cuh"

enum { TILE_M = 64, TILE_N = 64, TILE_K = 16, THREADS = 128, PER_M = 8, PER_N = 4, PAD = 4 };
enum { LOADS_A = TILE_M * TILE_K / THREADS, LOADS_W = TILE_N * TILE_K / THREADS };

union Tiles {
    struct {
        float a[2][TILE_K][TILE_M + PAD];  // transposed: a thread's rows lie side by side
        float w[2][TILE_K][TILE_N + PAD];
    };
    float sums[TILE_M][TILE_N + PAD];  // afterwards
};

GPU_FN void gemm_tile(Tiles& tiles, float* c, int c_stride, const float* a, int a_stride, const float* w, int w_stride,
                      const Epilogue& e, int n_rows, int n_cols, int n_k, int col0) {
    int thread = threadIdx.x, row_of = thread / (TILE_N / PER_N) * PER_M, col_of = thread % (TILE_N / PER_N) * PER_N;
    float sum[PER_M][PER_N];
#pragma unroll
    for (int i = 0; i < PER_M; i++)
#pragma unroll
        for (int j = 0; j < PER_N; j++) sum[i][j] = 0.0f;

    float next_a[LOADS_A], next_w[LOADS_W];
    // Neighbouring threads read neighbouring addresses; what lies outside is zero.
    auto fetch = [&](int k0) {
#pragma unroll
        for (int i = 0; i < LOADS_A; i++) {
            int at = thread + i * THREADS, row = at / TILE_K, k = k0 + at % TILE_K;
            next_a[i] = row < n_rows && k < n_k ? a[(i64)row * a_stride + k] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < LOADS_W; i++) {
            int at = thread + i * THREADS, col = at / TILE_K, k = k0 + at % TILE_K;
            bool inside = k < n_k && col0 + col % result_columns<TILE_N>(e) < n_cols;
            next_w[i] = inside ? w[(i64)(col0 + gate_or_up<TILE_N>(e, col)) * w_stride + k] : 0.0f;
        }
    };
    auto store = [&](int stage) {
#pragma unroll
        for (int i = 0; i < LOADS_A; i++) {
            int at = thread + i * THREADS;
            tiles.a[stage][at % TILE_K][at / TILE_K] = next_a[i];
        }
#pragma unroll
        for (int i = 0; i < LOADS_W; i++) {
            int at = thread + i * THREADS;
            tiles.w[stage][at % TILE_K][at / TILE_K] = next_w[i];
        }
    };

    fetch(0);
    store(0);
    __syncthreads();
    int stage = 0;
    for (int k0 = 0; k0 < n_k; k0 += TILE_K, stage ^= 1) {
        bool more = k0 + TILE_K < n_k;
        if (more) fetch(k0 + TILE_K);
#pragma unroll
        for (int k = 0; k < TILE_K; k++) {
            float x[PER_M], y[PER_N];
#pragma unroll
            for (int i = 0; i < PER_M; i += 4) {
                float4 v = *reinterpret_cast<const float4*>(&tiles.a[stage][k][row_of + i]);
                x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
            }
            float4 v = *reinterpret_cast<const float4*>(&tiles.w[stage][k][col_of]);
            y[0] = v.x, y[1] = v.y, y[2] = v.z, y[3] = v.w;
#pragma unroll
            for (int i = 0; i < PER_M; i++)
#pragma unroll
                for (int j = 0; j < PER_N; j++) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        }
        if (more) store(stage ^ 1);  // the stage that nobody reads since the last barrier
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < PER_M; i++)  // over the stages, which everybody has read
        *reinterpret_cast<float4*>(&tiles.sums[row_of + i][col_of]) =
            make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    __syncthreads();
    epilogue<TILE_N, TILE_N + PAD, THREADS>(e, threadIdx.x, tiles.sums[0], c, c_stride, n_rows, col0, n_cols);
}

// C [m, n] = A [m, k] W, through the epilogue; W stored [n, k] as Hugging Face stores it (with a gate [2 n, k]), rows
// w_stride apart. Grid: (row tiles, column tiles of 64, with a gate of 32).
//   row_tiles  null: row tile i is rows 64 i ..+ 64. Otherwise the grouped GEMM: tile i is row_tiles[i], of at most 64
//              rows, and its weight's first input dimension is row_tiles[i].k0.
KERNEL_WITH_BLOCKS(THREADS, 4, gemm_f32)(float* c, int c_stride, const float* a, int a_stride, const float* w,
                                         int w_stride, Epilogue e, int m, int n, int k,
                                         const RowTile* row_tiles) {
    SHARED(tiles, Tiles);
    int tile = blockIdx.x;
    RowTile t = row_tiles ? row_tiles[tile] : RowTile{tile * TILE_M, min(m - tile * TILE_M, (int)TILE_M), 0};
    gemm_tile(tiles, c + (i64)t.first_row * c_stride, c_stride, a + (i64)t.first_row * a_stride, a_stride, w + t.k0,
              w_stride, e, t.n_rows, n, k, (int)blockIdx.y * result_columns<TILE_N>(e));
}
EXPORT_KERNEL(gemm_f32)
