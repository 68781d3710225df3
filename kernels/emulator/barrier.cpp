// barrier.cpp: __syncthreads and __syncwarp.
#include "block.h"
#include "checker.h"

namespace emu {

static void open(Block& b, u32 opener) {
    Barrier& bar = b.barrier;
    u32 n_warps = (b.n_threads + 31) / 32;
    if (b.checker) {
        std::vector<u32> met;
        for (u32 w = 0; w < n_warps; w++)
            for (u32 m = bar.waiting[w]; m; m &= m - 1) met.push_back(w * 32 + (u32)__builtin_ctz(m));
        b.checker->join(met);
    }
    for (u32 w = 0; w < n_warps; w++) {
        u32 lanes = bar.waiting[w];
        if (opener / 32 == w) lanes &= ~(1u << opener % 32);  // it goes on running
        bar.waiting[w] = 0;
        make_ready(b, w, lanes);
    }
    bar.count = 0;
}

void syncthreads() {
    Block& b = block();
    Thread& me = *current_thread;
    b.barrier.waiting[me.warp] |= 1u << me.lane;
    b.barrier.count++;
    if (b.n_alive < b.n_threads) fail("__syncthreads after %u threads have left the kernel", b.n_threads - b.n_alive);
    if (b.barrier.count == b.n_threads) {
        open(b, me.number);
        maybe_yield();
    } else {
        park("__syncthreads");
    }
}

void leave_barrier(Block& b) {
    if (b.barrier.count) fail("a thread leaves the kernel while %u others wait at __syncthreads", b.barrier.count);
}

static void join_lanes(Collective& c) {
    Block& b = block();
    if (!b.checker) return;
    std::vector<u32> met;
    for (u32 m = c.mask; m; m &= m - 1) met.push_back(current_thread->warp * 32u + (u32)__builtin_ctz(m));
    b.checker->join(met);
}

void syncwarp(u32 mask) { warp_collective(mask, join_lanes, nullptr, "__syncwarp"); }

}  // namespace emu
