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
#define EXPORT_KERNEL(name)
template <class T> using gpu_type = T;
#define SHARED(name, ...) __shared__ gpu_type<__VA_ARGS__> name
#define DYNAMIC_SHARED(T, name) \
    extern __shared__ __align__(128) unsigned char gpu_dynamic_shared[]; \
    T* const name = reinterpret_cast<T*>(gpu_dynamic_shared)

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

#else
#include "emulator/device.h"
#endif

// ---- the same for all three compilers ----

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

// What every GEMM does with a finished sum: one place, so that all of them do the same.
GPU_FN float epilogue(float sum, const float* bias, int column) { return bias ? sum + bias[column] : sum; }

// A grouped GEMM's row tile: rows first_row ..+ n_rows use the weight's input dimensions from k0 on.
struct RowTile {
    int first_row, n_rows, k0;
};
