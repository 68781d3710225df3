// block.h: everything the emulator knows about the block that is running. Not seen by kernels.
#pragma once
#include <string>
#include <vector>

#include "device.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include "emulator.h"

namespace emu {

class Checker;

enum : u32 {
    MAX_THREADS = 1024,
    MAX_DYNAMIC_SHARED = 99 << 10,           // the smallest limit of the architectures we target: sm_86, 89, 120
    STATIC_SHARED_AT = MAX_DYNAMIC_SHARED,   // static shared memory begins here in the arena
    SHARED_BYTES = STATIC_SHARED_AT + (48 << 10),
    GROUPS_PER_WARP = 16,
};

// A collective that some lanes of a warp have reached.
struct Gathering {
    u32 arrived = 0;
    CollectiveFn all = nullptr;
    const char* what = nullptr;
    Collective collective{};
};

struct Warp {
    u32 ready = 0;      // lanes that could run
    u32 alive = 0;      // lanes that have not left the kernel
    u32 gatherings = 0; // in use
    Gathering gathering[GROUPS_PER_WARP];
};

// __syncthreads: who waits at it.
struct Barrier {
    u32 count = 0;
    u32 waiting[32] = {};
};

struct AsyncCopy {
    u8* to;
    const u8* from;
    u32 bytes, valid;
    bool done;
};

// A thread's copies under way and where its committed groups end.
struct AsyncQueue {
    std::vector<AsyncCopy> copies;
    std::vector<size_t> group_ends;
};

struct StaticShared {
    const void* key;
    u32 at;
};

struct Block : BlockView {
    Thread thread[MAX_THREADS];
    Warp warp[32];
    u32 warps_ready, current_warp;
    u32 n_threads, n_alive;
    Barrier barrier;
    AsyncQueue async[MAX_THREADS];
    std::vector<StaticShared> statics;
    u32 static_end;

    Thunk run;
    void** arguments;
    emu_config config;
    u64 random_state;
    Checker* checker;  // null in a fast launch

    void* launcher_stack;  // where to go when the block has ended
    u8* stacks;
    bool failed;
    std::string error;

    Block();
    u32 random();
};

inline Block& block() { return *static_cast<Block*>(current_block); }

// Ends the block with a message that names the thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- scheduler.cpp ----
void make_ready(Block& b, u32 warp, u32 lanes);
// The calling thread waits; somebody else makes it ready again.
void park(const char* waiting_at);
// Under the random order, others may run first.
void maybe_yield();
// Runs the block from its first thread to the end of its last.
void run_threads(Block& b);

// ---- called when a thread leaves the kernel ----
void leave_collectives(Block& b, Thread& t);   // warp.cpp
void leave_barrier(Block& b);                  // barrier.cpp

}  // namespace emu
