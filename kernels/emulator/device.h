// device.h: CUDA as a kernel sees it, for an ordinary C++17 compiler. gpu.cuh includes it when no CUDA compiler is at
// work. Nothing here computes anything clever: each name forwards to the emulator (emulator.h tells how that works).
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;

#define GPU_FN static inline __attribute__((always_inline))
#define __restrict__ __restrict

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
GPU_FN float2 make_float2(float x, float y) { return {x, y}; }
GPU_FN float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// As gpu.cuh says. The emulator writes into it what it likes (tensor_copy.cpp).
struct alignas(64) TensorMap { u64 words[16]; };

// Code of the emulator itself is not instrumented when kernels are compiled for the checker.
#define EMU_UNCHECKED __attribute__((no_sanitize("thread"), no_sanitize("alignment")))

namespace emu {

// One CUDA thread: a fiber with a stack of its own.
struct Thread {
    void* stack_pointer;
    uint3 index;
    u32 number;  // in its block
    u16 warp;
    u8 lane;
    bool exited;
    const char* waiting_at;  // for the description of a deadlock
};

// The part of a block that kernels read.
struct BlockView {
    uint3 index;
    dim3 block_dim, grid_dim;
    u8* shared;         // dynamic shared memory first, static behind it
    u32 dynamic_bytes;
};

extern __thread Thread* current_thread __attribute__((tls_model("initial-exec")));
extern __thread BlockView* current_block __attribute__((tls_model("initial-exec")));

// Barriers (barrier.cpp).
void syncthreads();
void syncwarp(u32 mask);
void named_barrier(u32 number, u32 threads);

// Warp collectives (warp.cpp): every lane of `mask` brings `operand`; the last one to arrive runs `all` for all.
struct Collective {
    u32 mask;
    void* operand[32];
};
typedef void (*CollectiveFn)(Collective&);
void warp_collective(u32 mask, CollectiveFn all, void* operand, const char* what);
u32 vote(u32 mask, bool yes);

// Shared memory (memory.cpp), cp.async (async_copy.cpp), tensor cores (tensor_core.cpp, wgmma.cpp), mbarriers
// (mbarrier.cpp), tensor copies (tensor_copy.cpp).
void* static_shared(const void* key, size_t bytes, size_t align);
void async_copy(void* to, const void* from, u32 bytes, u32 valid);
void async_commit();
void async_wait(u32 keep);
void ldmatrix_trans(u32* r, const void* p);
void mma_bf16(float* c, const u32* a, u32 b0, u32 b1);
u32 shared_offset(const void* p);
void mbarrier_init(u64* at, u32 count);
void mbarrier_fence();
void mbarrier_expect(u64* at, u32 bytes);
void mbarrier_arrive(u64* at);
void mbarrier_wait(u64* at, u32 parity);
void tensor_copy(void* to, const TensorMap& map, int x, int y, u64* mbarrier);
void wgmma_fence();
void wgmma(float* d, const u32* a, u64 b, u32 n, bool accumulate);
void wgmma_commit();
void wgmma_wait();

// Kernels by name (launch.cpp).
typedef void (*Thunk)(void** arguments);
struct Registration {
    Registration(const char* name, bool checked, Thunk run, u32 max_threads, bool sm90, const u32* argument_bytes,
                 u32 arguments);
};
template <auto F> struct KernelOf;
template <class... A, void (*F)(A...)> struct KernelOf<F> {
    static constexpr u32 bytes[sizeof...(A) + 1] = {sizeof(A)..., 0};
    static constexpr u32 count = sizeof...(A);
    template <size_t... I> EMU_UNCHECKED static void call(void** a, std::index_sequence<I...>) {
        F(*reinterpret_cast<std::remove_reference_t<A>*>(a[I])...);
    }
    EMU_UNCHECKED static void run(void** a) { call(a, std::index_sequence_for<A...>{}); }
};

}  // namespace emu

#ifdef EMU_CHECK
#define EMU_CHECKED_BUILD true
#else
#define EMU_CHECKED_BUILD false
#endif
#define KERNEL(max_threads, name) \
    static constexpr u32 emu_threads_of_##name = max_threads; \
    static constexpr bool emu_sm90_##name = false; \
    static void name
#define KERNEL_SM90(max_threads, name) \
    static constexpr u32 emu_threads_of_##name = max_threads; \
    static constexpr bool emu_sm90_##name = true; \
    static void name
#define GRID_CONSTANT const
#define KERNEL_WITH_BLOCKS(max_threads, blocks, name) KERNEL(max_threads, name)
#define EXPORT_KERNEL(name) \
    static ::emu::Registration emu_registration_of_##name(#name, EMU_CHECKED_BUILD, &::emu::KernelOf<&name>::run, \
                                                          emu_threads_of_##name, emu_sm90_##name, \
                                                          ::emu::KernelOf<&name>::bytes, \
                                                          ::emu::KernelOf<&name>::count);

#define threadIdx (::emu::current_thread->index)
#define blockIdx (::emu::current_block->index)
#define blockDim (::emu::current_block->block_dim)
#define gridDim (::emu::current_block->grid_dim)

#define SHARED(name, ...) \
    static const char emu_key_of_##name = 0; \
    auto& name = *reinterpret_cast<std::remove_reference_t<__VA_ARGS__>*>( \
        ::emu::static_shared(&emu_key_of_##name, sizeof(__VA_ARGS__), alignof(__VA_ARGS__)))
#define DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(::emu::current_block->shared)
#define DYNAMIC_SHARED_1024(T, name) DYNAMIC_SHARED(T, name)

// ---- numbers ----
GPU_FN float __uint_as_float(u32 bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
GPU_FN u32 __float_as_uint(float f) {
    u32 bits;
    memcpy(&bits, &f, 4);
    return bits;
}
GPU_FN float negative_infinity() { return -HUGE_VALF; }
struct bf16 { u16 bits; };
GPU_FN float to_f32(bf16 h) { return __uint_as_float((u32)h.bits << 16); }
// Round to nearest even, as cvt.rn does; every NaN becomes the canonical one.
GPU_FN bf16 to_bf16(float f) {
    u32 u = __float_as_uint(f);
    if ((u & 0x7fffffff) > 0x7f800000) return bf16{0x7fff};
    return bf16{(u16)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
GPU_FN u32 pack_bf16(float low, float high) { return (u32)to_bf16(low).bits | (u32)to_bf16(high).bits << 16; }
// Nothing is contracted here (-ffp-contract=off), so these are the plain operators.
GPU_FN float __fadd_rn(float a, float b) { return a + b; }
GPU_FN float __fmul_rn(float a, float b) { return a * b; }
GPU_FN float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <class T> GPU_FN T min(T a, T b) { return a < b ? a : b; }
template <class T> GPU_FN T max(T a, T b) { return a > b ? a : b; }

// ---- barriers and warp primitives, by CUDA's names ----
GPU_FN void __syncthreads() { emu::syncthreads(); }
GPU_FN void __syncwarp(u32 mask = 0xffffffffu) { emu::syncwarp(mask); }
GPU_FN u32 __ballot_sync(u32 mask, int yes) { return emu::vote(mask, yes != 0); }
GPU_FN int __any_sync(u32 mask, int yes) { return emu::vote(mask, yes != 0) != 0; }
GPU_FN int __all_sync(u32 mask, int yes) { return emu::vote(mask, yes == 0) == 0; }

namespace emu {
template <class T> struct ShuffleOperand {
    T value;
    u32 source;
};
// A lane that reads from one outside the mask gets garbage on a GPU; here it gets all bits set.
template <class T> EMU_UNCHECKED inline void shuffle_all(Collective& c) {
    auto lane = [&](u32 l) { return static_cast<ShuffleOperand<T>*>(c.operand[l]); };
    T result[32];
    for (u32 l = 0; l < 32; l++) {
        if (!(c.mask >> l & 1)) continue;
        u32 source = lane(l)->source;
        if (c.mask >> source & 1) result[l] = lane(source)->value;
        else memset(&result[l], 0xff, sizeof(T));
    }
    for (u32 l = 0; l < 32; l++)
        if (c.mask >> l & 1) lane(l)->value = result[l];
}
template <class T> EMU_UNCHECKED inline T shuffle(u32 mask, T value, u32 source, const char* what) {
    ShuffleOperand<T> operand{value, source};
    warp_collective(mask, shuffle_all<T>, &operand, what);
    return operand.value;
}
}  // namespace emu
template <class T> GPU_FN T __shfl_sync(u32 mask, T v, int source) {
    return emu::shuffle(mask, v, source & 31, "__shfl_sync");
}
template <class T> GPU_FN T __shfl_xor_sync(u32 mask, T v, int bits) {
    return emu::shuffle(mask, v, (emu::current_thread->lane ^ bits) & 31, "__shfl_xor_sync");
}
template <class T> GPU_FN T __shfl_up_sync(u32 mask, T v, u32 by) {
    u32 lane = emu::current_thread->lane;
    return emu::shuffle(mask, v, lane < by ? lane : lane - by, "__shfl_up_sync");
}
template <class T> GPU_FN T __shfl_down_sync(u32 mask, T v, u32 by) {
    u32 lane = emu::current_thread->lane;
    return emu::shuffle(mask, v, lane + by > 31 ? lane : lane + by, "__shfl_down_sync");
}

// ---- the wrappers of gpu.cuh ----
template <int BYTES> GPU_FN void cp_async(void* to, const void* from, int valid) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    emu::async_copy(to, from, BYTES, (u32)valid);
}
GPU_FN void cp_async_commit() { emu::async_commit(); }
template <int N> GPU_FN void cp_async_wait() { emu::async_wait(N); }
GPU_FN void ldmatrix_x4_trans(u32 (&r)[4], const void* p) { emu::ldmatrix_trans(r, p); }
GPU_FN void mma_bf16_16816(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu::mma_bf16(c, a, b0, b1); }

GPU_FN u32 shared_address(const void* p) { return emu::shared_offset(p); }
GPU_FN void named_barrier(int number, int threads) { emu::named_barrier((u32)number, (u32)threads); }
GPU_FN void mbarrier_init(u64* at, u32 count) { emu::mbarrier_init(at, count); }
GPU_FN void mbarrier_init_fence() { emu::mbarrier_fence(); }
GPU_FN void mbarrier_arrive_expect(u64* at, u32 bytes) { emu::mbarrier_expect(at, bytes); }
GPU_FN void mbarrier_arrive(u64* at) { emu::mbarrier_arrive(at); }
GPU_FN void mbarrier_wait(u64* at, u32 parity) { emu::mbarrier_wait(at, parity); }
GPU_FN void tensor_copy(void* to, const TensorMap& map, int x, int y, u64* mbarrier) {
    emu::tensor_copy(to, map, x, y, mbarrier);
}
template <int N> GPU_FN void more_registers() {}
template <int N> GPU_FN void fewer_registers() {}
GPU_FN void wgmma_fence() { emu::wgmma_fence(); }
GPU_FN void wgmma_bf16(float (&d)[64], const u32 (&a)[4], u64 b, bool accumulate) {
    emu::wgmma(d, a, b, 128, accumulate);
}
GPU_FN void wgmma_bf16(float (&d)[32], const u32 (&a)[4], u64 b, bool accumulate) {
    emu::wgmma(d, a, b, 64, accumulate);
}
GPU_FN void wgmma_commit() { emu::wgmma_commit(); }
template <int R> GPU_FN void wgmma_wait(float (&)[R]) { emu::wgmma_wait(); }
