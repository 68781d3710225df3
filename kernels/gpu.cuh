// gpu.cuh: the only header that a kernel includes, and the only file with inline PTX.
//
// Three compilers read it:
//   nvcc   (__CUDACC__)      device code at build time
//   NVRTC  (__CUDACC_RTC__)  device code at run time, without any system or CUDA header
//   g++ or clang++           the CPU emulator: every wrapper has its other body in emulator/device.h
//
// A kernel is written in plain CUDA C++ with three spellings of its own, because C++ compilers must read it, too:
//   KERNEL(max_threads, name)(parameters) { ... }   an extern "C" __global__ function
//   EXPORT_KERNEL(name)                             after the body: makes it known to the emulator, nothing on a GPU
//   SHARED(name, type[n]) and DYNAMIC_SHARED(type, name)
// There is no <<<>>>, no inline PTX and no other header in a kernel file.
//
// Emulated, not yet run on hardware: the PTX bodies below are assembled for every architecture in CI and have not been
// executed.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define GPU_FN __device__ __forceinline__
// At least one block per multiprocessor: without saying so, ptxas 13 spills in some kernels to fit more of them.
#define KERNEL(max_threads, name) KERNEL_WITH_BLOCKS(max_threads, 1, name)
// For kernels that need several blocks per multiprocessor to hide what they wait for.
#define KERNEL_WITH_BLOCKS(max_threads, blocks, name) \
    extern "C" __global__ void __launch_bounds__(max_threads, blocks) name
// For Hopper alone.
#define KERNEL_SM90(max_threads, name) KERNEL(max_threads, name)
// A parameter that tensor copies read where the driver has put it.
#define GRID_CONSTANT const __grid_constant__
#define EXPORT_KERNEL(name)
template <class T> using gpu_type = T;
#define SHARED(name, ...) __shared__ gpu_type<__VA_ARGS__> name
#define DYNAMIC_SHARED(T, name) \
    extern __shared__ __align__(128) unsigned char gpu_dynamic_shared[]; \
    T* const name = reinterpret_cast<T*>(gpu_dynamic_shared)
// The same, aligned for swizzled tensor copies. Such a kernel has no other shared memory.
#define DYNAMIC_SHARED_1024(T, name) \
    extern __shared__ __align__(1024) unsigned char gpu_swizzled_shared[]; \
    T* const name = reinterpret_cast<T*>(gpu_swizzled_shared)

// How tensor copies read a matrix; the driver writes it (cuTensorMapEncodeTiled).
struct alignas(64) TensorMap {
    u64 words[16];
};

GPU_FN float negative_infinity() { return __uint_as_float(0xff800000u); }

// bfloat16: the upper half of a float32.
struct bf16 {
    u16 bits;
};
GPU_FN float to_f32(bf16 h) { return __uint_as_float((u32)h.bits << 16); }
GPU_FN bf16 to_bf16(float f) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(f));
    return r;
}
// Two bf16 in one register, `low` in the lower half, as mma.sync wants them.
GPU_FN u32 pack_bf16(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

GPU_FN u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// ---- cp.async (sm_80): global to shared memory without going through registers ----
// Copies `valid` of BYTES bytes (4, 8 or 16) and fills the rest with zeros. The bytes are there for the issuing thread
// after cp_async_wait, for the others after a barrier behind it.
template <int BYTES> GPU_FN void cp_async(void* to, const void* from, int valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "n"(BYTES), "r"(valid)
                 : "memory");
}
GPU_FN void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of the groups committed by this thread are still under way.
template <int N> GPU_FN void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// ---- ldmatrix, mma.sync (sm_80) ----
// Four 8x8 matrices of 16-bit numbers, transposed; lane l gives the address of row l % 8 of matrix l / 8.
GPU_FN void ldmatrix_x4_trans(u32 (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}
// c[16x8] += a[16x16] b[16x8] of bf16, accumulated in float32.
GPU_FN void mma_bf16_16816(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- barriers of some of a block's warps; numbers 1 to 15 ----
GPU_FN void named_barrier(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900
// ---- mbarrier (sm_90): counts arrivals, and bytes that tensor copies bring ----
GPU_FN void mbarrier_init(u64* at, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(at)), "r"(count) : "memory");
}
// Behind the last init, before the barrier that tells the other threads: the copy engine learns of it.
GPU_FN void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Arrives, and `bytes` more must come before the phase ends.
GPU_FN void mbarrier_arrive_expect(u64* at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(at)), "r"(bytes) : "memory");
}
GPU_FN void mbarrier_arrive(u64* at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(at)) : "memory");
}
// Waits until the phase of this parity has ended: 0 the first, 1 the second; one before the first has.
GPU_FN void mbarrier_wait(u64* at, u32 parity) {
    asm volatile("{.reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra end;\n"
                 "bra again;\n"
                 "end: }" ::"r"(shared_address(at)), "r"(parity)
                 : "memory");
}

// ---- tensor copies (sm_90, TMA) ----
// The box at column x, row y of the map's matrix, with zeros for what lies outside. One thread issues it; it counts its
// bytes on the mbarrier. `to` is a multiple of 1024.
GPU_FN void tensor_copy(void* to, const TensorMap& map, int x, int y, u64* mbarrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
                     "r"(shared_address(to)), "l"(&map), "r"(shared_address(mbarrier)), "r"(x), "r"(y)
                 : "memory");
}

// ---- registers that a warpgroup may use (sm_90a) ----
template <int N> GPU_FN void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> GPU_FN void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// ---- wgmma (sm_90a): D[64 x n] = A[64 x 16] B[16 x n] (+ D) of bf16, by the four warps of a warpgroup ----
// A in registers as for mma.sync m16n8k16, a warp's 16 rows each; D as n / 8 of its C side by side. B in shared memory by
// descriptor (swizzled_columns). Registers are handed over by wgmma_fence and come back with wgmma_wait.
GPU_FN void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GPU_FN void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all that was committed; d is whole then.
template <int R> GPU_FN void wgmma_wait(float (&d)[R]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i])::"memory");  // no read of it moves up
}
#define D8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
GPU_FN void wgmma_bf16(float (&d)[64], const u32 (&a)[4], u64 b, bool accumulate) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
                 "{%64,%65,%66,%67}, %68, p, 1, 1, 1;}"
                 : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate));
}
GPU_FN void wgmma_bf16(float (&d)[32], const u32 (&a)[4], u64 b, bool accumulate) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
                 "{%32,%33,%34,%35}, %36, p, 1, 1, 1;}"
                 : D8(0), D8(8), D8(16), D8(24)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate));
}
#undef D8
#endif

#else
#include "emulator/device.h"
#endif

// ---- the same for all three compilers ----

// The descriptor of B for wgmma where it lies in boxes of 64 columns that tensor copies have swizzled by 128 bytes:
// [k, 64] of bf16, `box_bytes` apart. `at` is the first k's row in the first box, a multiple of 1024.
GPU_FN u64 swizzled_columns(u32 at, u32 box_bytes) {
    const u64 eight_rows = 8 * 128, swizzled_by_128 = 1;
    return (u64)((at & 0x3ffff) >> 4) | (u64)(box_bytes >> 4) << 16 | (eight_rows >> 4) << 32 | swizzled_by_128 << 62;
}

// Butterflies: every lane of the warp ends with the same bits, since float addition commutes.
GPU_FN float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
GPU_FN float warp_max(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

// ---- activations ----
// src/backend/cuda/rows.rs numbers them the same way.
enum Activation { RELU, RELU_SQUARED, SILU, GELU_ERF, GELU_TANH, QUICK_GELU, XIELU };

// Compilers for GPUs contract a product and the sum behind it to one fused multiply-add where they see both, and what
// they see depends on the kernel that a function is inlined into. Where that could happen, the rounding is written down
// (__fadd_rn, __fmul_rn, fmaf): an activation has the same bits in every kernel.
GPU_FN float sigmoid(float x) { return 1.0f / __fadd_rn(1.0f, expf(-x)); }
GPU_FN float activate(int kind, float x) {
    switch (kind) {
        case RELU: return fmaxf(x, 0.0f);
        case RELU_SQUARED: return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
        case SILU: return x * sigmoid(x);
        case GELU_ERF: return 0.5f * x * __fadd_rn(1.0f, erff(x * 0.70710678118654752f));
        // x / 2 * (1 + tanh(u)) = x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3)
        case GELU_TANH: return x * sigmoid(2.0f * 0.79788456080286536f * fmaf(0.044715f * x * x, x, x));
        default: return x * sigmoid(1.702f * x);
    }
}

// ---- the epilogue of every GEMM ----
// What becomes of a finished sum s: s + bias; the activation of that; times the gate's other half; and then it is the
// result, or `scale` times it is added to what is there. Each step rounds as the kernel that does only this step.
struct Epilogue {
    const float* bias;  // of the columns of W; null: none
    float scale;
    int add;         // C += scale * result instead of C = result
    int activation;  // an Activation, or -1
    int up;          // not 0: gate and up; the up half of column i is column i + up, and C has their products
};

// Which column of W, counted from the tile's first, column i of the tile is: with a gate, half of the tile's columns
// are gates and the other half their ups, so that both of a hidden unit lie in one block.
template <int TILE_N> GPU_FN int gate_or_up(const Epilogue& e, int i) {
    return e.up && i >= TILE_N / 2 ? i - TILE_N / 2 + e.up : i;
}
// Columns of C that a tile has.
template <int TILE_N> GPU_FN int result_columns(const Epilogue& e) { return e.up ? TILE_N / 2 : TILE_N; }

// From a tile of sums in shared memory, LD numbers a row, to columns first_col ... of C that lie in 0..n_cols, by threads
// 0 to THREADS. Each has one column; the threads of a warp have neighbours. The caller's barrier lies before, none behind.
template <int TILE_N, int LD, int THREADS>
GPU_FN void epilogue(const Epilogue& e, int thread, float* sums, float* c, int c_stride, int n_rows, int first_col,
                     int n_cols) {
    int width = result_columns<TILE_N>(e), step = THREADS / width, first_row = thread / width;
    int col = first_col + thread % width;
    if (col < 0 || col >= n_cols) return;
    sums += thread % width;
    c += col;
    float bias = e.bias ? e.bias[col] : 0.0f;
    if (e.activation >= 0) {
        float up_bias = e.bias && e.up ? e.bias[col + e.up] : 0.0f;
#pragma unroll 1  // one copy of all activations
        for (int row = first_row; row < n_rows; row += step) {
            float v = sums[row * LD];
            v = activate(e.activation, e.bias ? v + bias : v);
            if (e.up) {
                float up = sums[row * LD + TILE_N / 2];
                v *= e.bias ? up + up_bias : up;
            }
            sums[row * LD] = v;
        }
    }
    bool add_bias = e.bias && e.activation < 0;
    // Several rows at a time, so that as many loads are under way together.
    enum { AT_ONCE = 8 };
#pragma unroll 1
    for (int some = first_row; some < n_rows; some += AT_ONCE * step) {
        float before[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            int row = some + i * step;
            before[i] = e.add && row < n_rows ? c[(i64)row * c_stride] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            int row = some + i * step;
            if (row >= n_rows) continue;
            float v = sums[row * LD];
            if (add_bias) v += bias;
            c[(i64)row * c_stride] = e.add ? __fadd_rn(before[i], __fmul_rn(e.scale, v)) : v;
        }
    }
}

// A grouped GEMM's row tile: rows first_row ..+ n_rows use the weight's input dimensions from k0 on.
struct RowTile {
    int first_row, n_rows, k0;
};
