// emulator.h: runs the CUDA kernels of this project on a CPU, and proves things about them that a GPU would not tell.
//
// HOW IT WORKS, in the order in which to read the files
//
//   device.h        CUDA's names for a C++ compiler: threadIdx, __syncthreads, shuffles, the wrappers of gpu.cuh. A
//                   kernel file is compiled twice from it: fast, and instrumented for the checker.
//   fiber           One OS thread runs one block of a grid at a time. Every CUDA thread of that block is a fiber: a
//                   stack of its own and a context switch of a dozen instructions.
//   scheduler       A fiber runs until it calls something that waits for other threads. Then the scheduler picks the
//                   next one that is ready: in order, in reverse order, or at random by a seed. A correct kernel gives
//                   the same result under all of them; one with a missing barrier, sooner or later, does not.
//                   When nobody is ready, the deadlock is described ("32 threads at __syncthreads, 32 at mma.sync").
//   barrier         __syncthreads, named barriers and __syncwarp.
//   warp            Collectives of a warp (shuffles, votes, ldmatrix, mma.sync): each lane leaves a pointer to its
//                   operand and waits; the last one to arrive computes the result of all of them.
//   tensor_core     The fragment layouts of ldmatrix and mma.sync, from the PTX ISA.
//   async_copy      cp.async. A copy may happen at once, or as late as its wait allows: a kernel that reads too early
//                   then reads what was there before.
//   mbarrier        Barriers in shared memory that count arrivals and bytes.
//   tensor_copy     The copy engine (TMA): boxes of a matrix, swizzled, late or out of order.
//   wgmma           Hopper's tensor core instruction: descriptors and fragments. It happens when it is issued, or as late
//                   as its wait allows, and reads shared memory and its registers then.
//   memory          Device memory is one reserved region of addresses, so that a stray pointer is recognised. Shared
//                   memory lies in an arena. Both are filled with 0xff (NaN) before they are handed out.
//   checker         In a checked launch every load and store of the kernel goes through shadow memory with a vector
//                   clock per thread (as in FastTrack, Flanagan & Freund 2009, but with whole clocks). It reports
//                     races, in shared and in global memory, within a block and between blocks,
//                     reads of shared or global memory that nobody has written,
//                     accesses outside every allocation, and misaligned ones,
//                     reads of what cp.async brings before its wait, and writes over a copy under way.
//                   A barrier joins the clocks of those who meet at it. A shuffle does not: CUDA promises no ordering
//                   of memory at shuffles.
//   instrument      Where those loads and stores come from: the instrumented build is compiled with
//                   -fsanitize=thread,alignment, but linked with the functions of this file instead of a sanitizer's
//                   runtime (the idea of the Linux kernel's KCSAN).
//   launch          Kernels by name, and the grid: blocks too run in order, in reverse or shuffled.
//
// WHAT IT DOES NOT TELL: time, occupancy, register pressure; a GPU's rounding inside tensor cores, its approximations of
// exp or tanh, and its contraction of a * b + c where a kernel does not write fmaf (results agree within tolerances, not
// to bits); memory orders weaker than happens-before; blocks that wait for each other.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {

struct emu_config {
    uint32_t order;        // 0 in order, 1 in reverse, 2 at random
    uint32_t async_copies; // 0 at once, 1 as late as allowed, 2 at random; wgmma, too
    uint64_t seed;         // of what is random
    uint32_t check;        // run the instrumented build under the checker
    uint32_t device;       // whose memory the kernel may touch
};

enum emu_status {
    EMU_OK = 0,
    EMU_NO_SUCH_KERNEL = 1,
    EMU_BAD_LAUNCH = 2,   // threads, shared memory or arguments that do not fit the kernel
    EMU_KERNEL_FAILED = 3, // a deadlock, a divergent barrier, a misused instruction
    EMU_CHECKER_REPORT = 4,
};

// A kernel by its name; null where there is none.
const void* emu_kernel(const char* name);
// The shape of cuLaunchKernel. `argument_bytes` are the sizes of the caller's arguments: they must be the kernel's own.
// What went wrong is written to `error`, zero-terminated.
int emu_launch(const void* kernel, const uint32_t grid[3], const uint32_t block[3], uint32_t shared_bytes,
               void** arguments, const uint32_t* argument_bytes, uint32_t n_arguments, const emu_config* config,
               char* error, size_t error_bytes);

// Memory of a device, any number of the caller's. Kernels of one device see no memory of another. `count_writes` keeps
// track of what has been written, for the checker. Null where there is no room.
void* emu_alloc(size_t bytes, uint32_t device, uint32_t count_writes);
void emu_free(void* p);
// Both return 0, or 1 where the device's side is not inside one allocation.
int emu_copy_to_device(void* to, const void* from, size_t bytes);
int emu_copy_from_device(void* to, const void* from, size_t bytes);
int emu_fill_zero(void* to, size_t bytes);

// What cuTensorMapEncodeTiled is to a GPU: 128 bytes at `map` for tensor copies of boxes of a matrix [height, width] of
// numbers of 2 or 4 bytes whose rows begin row_bytes apart, swizzled by 128 bytes. A row of a box has 128 bytes. 1 where
// a GPU would refuse.
int emu_tensor_map(void* map, const void* base, uint64_t width, uint64_t height, uint64_t row_bytes,
                   uint32_t number_bytes, uint32_t box_width, uint32_t box_height);
}
