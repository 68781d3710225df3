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
    SHARED_LIMIT = 99 << 10,         // dynamic, and the smallest limit of the architectures we target: sm_86, 89, 120
    SHARED_LIMIT_SM90 = 227 << 10,   // of kernels for Hopper alone
    STATIC_SHARED_AT = 228 << 10,    // static shared memory begins here in the arena
    SHARED_BYTES = STATIC_SHARED_AT + (48 << 10),
    GROUPS_PER_WARP = 16,
    NAMED_BARRIERS = 16,             // the first of them is __syncthreads
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

// A barrier of the block: who waits at it, and for how many.
struct Barrier {
    u32 count = 0, expected = 0;
    u32 waiting[32] = {};
};

// An mbarrier in shared memory. The eight bytes there are opaque to kernels, so its state is kept here.
struct MBarrier {
    u64 at;           // in the arena
    u32 count;        // arrivals that end a phase
    u32 pending;      // of them, how many are missing in this one
    i64 bytes;        // that tensor copies still have to bring in this phase
    u32 phase;        // 0 or 1
    bool fenced;      // its initialisation is known to the copy engine
    std::vector<u32> waiting[2];       // threads that wait for the end of the phase with this parity
    std::vector<u32> arrived, ended;   // the checker's: clocks of this phase's arrivals, and of all that have ended
};

// A tensor copy (TMA) under way.
struct TensorCopy {
    TensorMap map;
    u64 to, mbarrier;  // in the arena
    int x, y;
    u32 thread;
    std::vector<u32> clock;  // the checker's: of the issuing thread
};

// A wgmma of one warp: 16 of its 64 rows.
struct WarpMma {
    float* d[32];
    const u32* a[32];
    u64 b;
    u32 n;
    bool accumulate;
    const void* caller;
};

// A warp's wgmmas.
struct MmaQueue {
    std::vector<WarpMma> issued;  // and not yet performed
    size_t committed = 0;         // of them
    u64 count = 0;                // ever issued
    bool fenced = false;          // wgmma.fence since the registers could last be touched
    bool uncommitted = false, unwaited = false;  // whether there are any, performed or not
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
    Barrier barrier[NAMED_BARRIERS];
    AsyncQueue async[MAX_THREADS];
    std::vector<MBarrier> mbarriers;
    std::vector<TensorCopy> tensor_copies;  // issued and not yet performed
    MmaQueue mma[32];                       // of each warp
    float mma_b[16][128], mma_d[16][128];   // wgmma.cpp's scratch: stacks are short
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

// Whether something asynchronous happens now or later, as the launch's policy says.
bool happens_late(Block& b);

// ---- what the scheduler does when no thread can run ----
bool perform_a_tensor_copy(Block& b);          // tensor_copy.cpp

// A tensor copy has brought bytes for which the mbarrier at `at` waits; `clock` is the issuing thread's (mbarrier.cpp).
void bytes_have_come(u64 at, u32 bytes, const std::vector<u32>& clock);

// ---- called when a thread leaves the kernel ----
void leave_collectives(Block& b, Thread& t);   // warp.cpp
void leave_barrier(Block& b);                  // barrier.cpp
void leave_wgmma(Block& b);                    // wgmma.cpp

}  // namespace emu
