// gemm_sm90.cu: C = A W with an epilogue on Hopper's tensor cores: tensor copies (TMA), mbarriers, wgmma.
//
// The numbers are those of gemm_sm80.cu: planes of bfloat16, the same packed weights, products of planes with the small
// ones first, at most 64 of k in a tensor core's accumulator before they are added to an ordinary float32 register.
//
// A block is three warpgroups and stays on its multiprocessor for many tiles. The last warpgroup brings: its first thread
// fills a ring of stages, 64 of k each, with tensor copies. The other two compute, 64 rows of the tile each: while one
// multiplies, the other splits its part of A into planes or adds up. A stage's two mbarriers say when it is full and when
// both have read it.
//
//   stage   A [2][128 rows][32 of k] of float32, W [TILE_N / 64][PLANES][64 of k][64 columns] of bf16, all rows of 128
//           bytes and swizzled
//
// Tiles are TILE_N wide: 128; 64 where the grid would otherwise leave multiprocessors idle; 256 for one plane, where
// bringing A costs most (src/backend/cuda/gemm_sm90.rs chooses). The order of k is the same in all of them and every
// number of C sees only its own row and column, so neither the batch nor the choice changes a bit.
//
// Emulated, not yet run on hardware.
#include "gpu.cuh"

enum { TILE_M = 128, TILE_K = 64, CONSUMERS = 256, THREADS = CONSUMERS + 128 };
enum { A_BOX_BYTES = TILE_M * 128, W_BOX_BYTES = TILE_K * 128 };
// Each of the two stages 64 columns at a time for its epilogue.
enum { PASS = 64, SUMS_LD = PASS + 4, SUMS_BYTES = 64 * SUMS_LD * 4 };
enum { SHARED_BYTES = 227 << 10, MBARRIER_BYTES = 128 };
// Row tiles that are worked on together, column by column, so that A and W are found in the L2 cache: about as many as
// there are column tiles under way on 132 multiprocessors.
enum { RASTER = 12 };
// Registers: 2 * 128 * 240 + 128 * 24 of the 65,536.
enum { CONSUMER_REGISTERS = 240, PRODUCER_REGISTERS = 24 };

template <int PLANES, int TILE_N> struct Pipeline {
    static constexpr int w_bytes = TILE_N / 64 * PLANES * W_BOX_BYTES;
    static constexpr int stage_bytes = 2 * A_BOX_BYTES + w_bytes;
    static constexpr int room = (SHARED_BYTES - 2 * SUMS_BYTES - MBARRIER_BYTES) / stage_bytes;
    static constexpr int stages = room < 4 ? room : 4;
};

// What a launch works on. Row tile i is row_tiles[i] or, without them, rows 128 i ...; column tile j begins at column
// j * result_columns of C.
struct Work {
    const RowTile* row_tiles;
    int m, n_row_tiles, n_col_tiles;
};

struct Tile {
    RowTile rows;
    int col;  // in tiles
};

GPU_FN Tile tile_of(const Work& work, int i) {
    int group = i / (RASTER * work.n_col_tiles), first = group * RASTER, within = i % (RASTER * work.n_col_tiles);
    int height = min(work.n_row_tiles - first, (int)RASTER), row = first + within % height;
    RowTile rows = work.row_tiles ? work.row_tiles[row] : RowTile{row * TILE_M, min(work.m - row * TILE_M, (int)TILE_M), 0};
    return {rows, within / height};
}

// Which stage of the ring comes next, and in which of its phases.
struct Ring {
    int stage;
    u32 phase;
};
template <int STAGES> GPU_FN void advance(Ring& ring) {
    if (++ring.stage == STAGES) {
        ring.stage = 0;
        ring.phase ^= 1;
    }
}

template <int PLANES, int TILE_N>
GPU_FN void bring(const TensorMap& a, const TensorMap& w, u8* shared, u64* full, u64* empty, const Work& work,
                  const Epilogue& e, int first_k, int first_col, int n_k, int plane_rows) {
    using P = Pipeline<PLANES, TILE_N>;
    Ring ring{0, 0};
    int width = result_columns<TILE_N>(e);
    for (int i = blockIdx.x; i < work.n_row_tiles * work.n_col_tiles; i += gridDim.x) {
        Tile tile = tile_of(work, i);
        for (int k = 0; k < n_k; k += TILE_K) {
            u8* stage = shared + ring.stage * P::stage_bytes;
            u64* here = full + ring.stage;
            mbarrier_wait(empty + ring.stage, ring.phase ^ 1);
            mbarrier_arrive_expect(here, P::stage_bytes);
            for (int box = 0; box < 2; box++)
                tensor_copy(stage + box * A_BOX_BYTES, a, k + box * 32, tile.rows.first_row, here);
            for (int box = 0; box < TILE_N / 64; box++)
                for (int p = 0; p < PLANES; p++)
                    // Behind the last k lie other rows of W, or zeros; A has zeros there.
                    tensor_copy(stage + 2 * A_BOX_BYTES + (box * PLANES + p) * W_BOX_BYTES, w,
                                first_col + tile.col * width + gate_or_up<TILE_N>(e, box * 64),
                                p * plane_rows + first_k + tile.rows.k0 + k, here);
            advance<P::stages>(ring);
        }
    }
}

// The planes of this thread's part of A [64, 64], in fragments of 16 of k. `row` is the first of its two rows, the other
// lies 8 below.
template <int PLANES> GPU_FN void split(u32 (&x)[4][PLANES][4], const u8* a, int row, int lane) {
#pragma unroll
    for (int q = 0; q < 4; q++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = row + i % 2 * 8, piece = (q % 2 * 4 + i / 2 * 2 + lane % 4 / 2) ^ (r & 7);
            float2 v = *reinterpret_cast<const float2*>(a + q / 2 * A_BOX_BYTES + r * 128 + piece * 16 + lane % 2 * 8);
#pragma unroll
            for (int p = 0; p < PLANES; p++) {
                u32 both = pack_bf16(v.x, v.y);
                x[q][p][i] = both;
                v.x -= __uint_as_float(both << 16);  // exact
                v.y -= __uint_as_float(both & 0xffff0000u);
            }
        }
}

template <int PLANES, int TILE_N>
GPU_FN void compute(u8* shared, u64* full, u64* empty, float* c, int c_stride, const Work& work, const Epilogue& e,
                    int n, int n_k) {
    using P = Pipeline<PLANES, TILE_N>;
    constexpr int AT_ONCE = TILE_N < 128 ? TILE_N : 128, PARTS = TILE_N / AT_ONCE;  // columns of a wgmma
    int group = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = threadIdx.x & 31;
    // Rows 0, 2, 4, 6, 1, 3, 5, 7 of A are the fragment's rows 0 to 7: then the 16 lanes that load together meet no bank
    // twice. C's rows come back in the same order.
    int row = warp * 16 + lane / 4 % 4 * 2 + lane / 16;
    float* sums = reinterpret_cast<float*>(shared + P::stages * P::stage_bytes + group * SUMS_BYTES);
    Ring ring{0, 0};
    int width = result_columns<TILE_N>(e);
    for (int i = blockIdx.x; i < work.n_row_tiles * work.n_col_tiles; i += gridDim.x) {
        Tile tile = tile_of(work, i);
        int n_rows = min(tile.rows.n_rows - group * 64, 64);
        bool useful = n_rows > 0;  // a warpgroup whose rows all lie outside multiplies nothing
        float total[PARTS][AT_ONCE / 2];
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int j = 0; j < AT_ONCE / 2; j++) total[part][j] = 0.0f;
        for (int k = 0; k < n_k; k += TILE_K) {
            mbarrier_wait(full + ring.stage, ring.phase);
            if (useful) {
                const u8* stage = shared + ring.stage * P::stage_bytes;
                u32 x[4][PLANES][4];
                split<PLANES>(x, stage, group * 64 + row, lane);
                u32 w = shared_address(stage + 2 * A_BOX_BYTES);
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    float sum[AT_ONCE / 2];
                    wgmma_fence();
                    // Small products first.
#pragma unroll
                    for (int order = PLANES - 1; order >= 0; order--)
#pragma unroll
                        for (int p = 0; p <= order; p++)
#pragma unroll
                            for (int q = 0; q < 4; q++)
                                wgmma_bf16(sum, x[q][p],
                                           swizzled_columns(w + (part * (AT_ONCE / 64) * PLANES + order - p) * W_BOX_BYTES +
                                                                q * 16 * 128,
                                                            PLANES * W_BOX_BYTES),
                                           order < PLANES - 1 || p > 0 || q > 0);
                    wgmma_commit();
                    wgmma_wait(sum);
#pragma unroll
                    for (int j = 0; j < AT_ONCE / 2; j++) total[part][j] += sum[j];
                }
            }
            __syncwarp();  // all of its lanes have read A
            if (lane == 0) mbarrier_arrive(empty + ring.stage);
            advance<P::stages>(ring);
        }
        if (!useful) continue;
        // By way of shared memory, so that rows of C are written in whole and the epilogue is there once. 64 columns at a
        // time; with a gate 32 gates and their ups.
        float* to = c + (i64)(tile.rows.first_row + group * 64) * c_stride;
#pragma unroll
        for (int pass = 0; pass < TILE_N / PASS; pass++) {
#pragma unroll
            for (int j = 0; j < TILE_N / 8; j++) {
                int first = j * 8, inside = first - pass * PASS;
                if (e.up) {
                    int up = first >= TILE_N / 2;
                    inside = first - up * (TILE_N / 2) - pass * (PASS / 2);
                    if (inside < 0 || inside >= PASS / 2) continue;
                    inside += up * (PASS / 2);
                } else if (inside < 0 || inside >= PASS) {
                    continue;
                }
#pragma unroll
                for (int half = 0; half < 2; half++)
                    *reinterpret_cast<float2*>(sums + (row + half * 8) * SUMS_LD + inside + lane % 4 * 2) =
                        make_float2(total[first / AT_ONCE][first % AT_ONCE / 2 + half * 2],
                                    total[first / AT_ONCE][first % AT_ONCE / 2 + half * 2 + 1]);
            }
            named_barrier(1 + group, 128);
            epilogue<PASS, SUMS_LD, 128>(e, thread, sums, to, c_stride, n_rows,
                                         tile.col * width + pass * result_columns<PASS>(e), n);
            named_barrier(1 + group, 128);  // before the sums are written over
        }
    }
}

// C [m, n] = A [m, k] W[first_k ..+ k, first_col ..+ n], through the epilogue, whose bias and `up` count from first_col.
//   a, w       maps of A [m, k] of float32, boxes of 32 x 128; of W [planes * plane_rows, ..] of bf16, boxes of 64 x 64
//   row_tiles  null, or the grouped GEMM as in gemm_f32.cu with tiles of 128 rows
// Any number of blocks; Pipeline's bytes of shared memory (src/backend/cuda/gemm_sm90.rs).
#define GEMM(name, PLANES, TILE_N) \
    KERNEL_SM90(THREADS, name)(GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap w, float* c, int c_stride, Epilogue e, \
                               int m, int first_k, int first_col, int n, int k, int plane_rows, \
                               const RowTile* row_tiles, int n_row_tiles, int n_col_tiles) { \
        DYNAMIC_SHARED_1024(u8, shared); \
        using P = Pipeline<PLANES, TILE_N>; \
        u64* full = reinterpret_cast<u64*>(shared + P::stages * P::stage_bytes + 2 * SUMS_BYTES); \
        u64* empty = full + P::stages; \
        if (threadIdx.x == 0) { \
            for (int i = 0; i < P::stages; i++) { \
                mbarrier_init(full + i, 1); \
                mbarrier_init(empty + i, CONSUMERS / 32); \
            } \
            mbarrier_init_fence(); \
        } \
        __syncthreads(); \
        Work work{row_tiles, m, n_row_tiles, n_col_tiles}; \
        if (threadIdx.x >= CONSUMERS) { \
            fewer_registers<PRODUCER_REGISTERS>(); \
            if (threadIdx.x == CONSUMERS) \
                bring<PLANES, TILE_N>(a, w, shared, full, empty, work, e, first_k, first_col, k, plane_rows); \
        } else { \
            more_registers<CONSUMER_REGISTERS>(); \
            compute<PLANES, TILE_N>(shared, full, empty, c, c_stride, work, e, n, k); \
        } \
    } \
    EXPORT_KERNEL(name)

GEMM(gemm_sm90_bf16_64, 1, 64)
GEMM(gemm_sm90_bf16_128, 1, 128)
GEMM(gemm_sm90_bf16_256, 1, 256)
GEMM(gemm_sm90_bf16x3_64, 2, 64)
GEMM(gemm_sm90_bf16x3_128, 2, 128)
GEMM(gemm_sm90_bf16x6_64, 3, 64)
GEMM(gemm_sm90_bf16x6_128, 3, 128)
