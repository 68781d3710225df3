// barrier.cpp: __syncthreads, named barriers and __syncwarp.
#include "block.h"
#include "checker.h"

namespace emu {

static void open(Block& b, Barrier& bar, u32 opener) {
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

static void arrive(u32 number, u32 expected, const char* what) {
    Block& b = block();
    Thread& me = *current_thread;
    Barrier& bar = b.barrier[number];
    if (bar.count && bar.expected != expected) fail("%s for %u threads and for %u", what, bar.expected, expected);
    bar.expected = expected;
    bar.waiting[me.warp] |= 1u << me.lane;
    bar.count++;
    if (bar.count == expected) {
        open(b, bar, me.number);
        maybe_yield();
    } else {
        park(what);
    }
}

void syncthreads() {
    Block& b = block();
    if (b.n_alive < b.n_threads) fail("__syncthreads after %u threads have left the kernel", b.n_threads - b.n_alive);
    arrive(0, b.n_threads, "__syncthreads");
}

void named_barrier(u32 number, u32 threads) {
    if (number == 0 || number >= NAMED_BARRIERS) fail("named barriers are 1 to 15, not %u", number);
    if (threads % 32 || threads > block().n_threads) fail("a named barrier for %u threads", threads);
    arrive(number, threads, "a named barrier");
}

void leave_barrier(Block& b) {
    u32 waiting = b.barrier[0].count;
    if (waiting) fail("a thread leaves the kernel while %u others wait at __syncthreads", waiting);
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
