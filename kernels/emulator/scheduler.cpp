// scheduler.cpp: which fiber runs next.
//
// Ready threads are kept as a mask of lanes per warp and a mask of warps that have any. In order, a warp's lanes run one
// after the other as long as one is ready, which keeps collectives cheap.
#include <stdarg.h>
#include <stdio.h>

#include <map>

#include "block.h"
#include "fiber.h"

namespace emu {

__thread Thread* current_thread;
__thread BlockView* current_block;

u32 Block::random() {  // xorshift64
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (u32)(random_state >> 32);
}

void fail(const char* format, ...) {
    Block& b = block();
    char what[512], where[160] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (const Thread* t = current_thread) {
        snprintf(where, sizeof where, " [block (%u,%u,%u), thread (%u,%u,%u)]", b.index.x, b.index.y, b.index.z,
                 t->index.x, t->index.y, t->index.z);
    }
    b.error = std::string(what) + where;
    b.failed = true;
    void* abandoned;
    emu_switch_stack(&abandoned, b.launcher_stack);
    __builtin_unreachable();
}

void make_ready(Block& b, u32 warp, u32 lanes) {
    if (!lanes) return;
    b.warp[warp].ready |= lanes;
    b.warps_ready |= 1u << warp;
}

static u32 lowest(u32 mask) { return (u32)__builtin_ctz(mask); }
static u32 highest(u32 mask) { return 31 - (u32)__builtin_clz(mask); }
static u32 any_of(Block& b, u32 mask) {
    for (u32 skip = b.random() % (u32)__builtin_popcount(mask); skip; skip--) mask &= mask - 1;
    return lowest(mask);
}

static Thread* take(Block& b, u32 warp, u32 lane) {
    Warp& w = b.warp[warp];
    w.ready &= ~(1u << lane);
    if (!w.ready) b.warps_ready &= ~(1u << warp);
    b.current_warp = warp;
    return &b.thread[warp * 32 + lane];
}

static Thread* next_thread(Block& b) {
    while (!b.warps_ready)
        if (!perform_a_tensor_copy(b)) return nullptr;
    u32 warp;
    switch (b.config.order) {
        case 0: {
            if (u32 here = b.warp[b.current_warp].ready) return take(b, b.current_warp, lowest(here));
            u32 later = b.warps_ready & ~((2u << b.current_warp) - 1);
            warp = lowest(later ? later : b.warps_ready);
            return take(b, warp, lowest(b.warp[warp].ready));
        }
        case 1:
            warp = highest(b.warps_ready);
            return take(b, warp, highest(b.warp[warp].ready));
        default:
            warp = any_of(b, b.warps_ready);
            return take(b, warp, any_of(b, b.warp[warp].ready));
    }
}

[[noreturn]] static void deadlock(Block& b) {
    std::map<std::string, u32> places;
    for (u32 i = 0; i < b.n_threads; i++) {
        const Thread& t = b.thread[i];
        places[t.exited ? "the kernel's end" : t.waiting_at ? t.waiting_at : "their start"]++;
    }
    std::string message = "deadlock:";
    for (auto& [place, n] : places) message += " " + std::to_string(n) + " threads at " + place + ",";
    message.pop_back();
    fail("%s", message.c_str());
}

void park(const char* waiting_at) {
    Block& b = block();
    Thread* me = current_thread;
    me->waiting_at = waiting_at;
    Thread* next = next_thread(b);
    if (!next) deadlock(b);
    if (next == me) return;
    current_thread = next;
    emu_switch_stack(&me->stack_pointer, next->stack_pointer);
}

void maybe_yield() {
    Block& b = block();
    if (b.config.order != 2) return;
    if (!b.tensor_copies.empty() && b.random() % 8 == 0) perform_a_tensor_copy(b);
    make_ready(b, current_thread->warp, 1u << current_thread->lane);
    park("a yield");
}

// The first and last function of every fiber.
static void thread_main() {
    block().run(block().arguments);
    Block& b = block();
    Thread& me = *current_thread;
    me.exited = true;
    b.n_alive--;
    b.warp[me.warp].alive &= ~(1u << me.lane);
    leave_barrier(b);
    leave_wgmma(b);
    leave_collectives(b, me);
    Thread* next = next_thread(b);
    if (!next && b.n_alive) deadlock(b);
    current_thread = next;
    emu_switch_stack(&me.stack_pointer, next ? next->stack_pointer : b.launcher_stack);
    __builtin_unreachable();
}

void run_threads(Block& b) {
    b.n_alive = b.n_threads;
    b.warps_ready = b.current_warp = 0;
    b.failed = false;
    for (Barrier& each : b.barrier) each = Barrier{};
    for (MmaQueue& each : b.mma) each = MmaQueue{};
    b.mbarriers.clear();
    b.tensor_copies.clear();
    for (u32 i = 0; i < b.n_threads; i++) {
        Thread& t = b.thread[i];
        u32 x = b.block_dim.x, y = b.block_dim.y;
        t = Thread{nullptr, {i % x, i / x % y, i / x / y}, i, (u16)(i / 32), (u8)(i % 32), false, nullptr};
        // Staggered: otherwise the hot frames of all stacks map to the same cache sets.
        u8* top = b.stacks + (size_t)(i + 1) * STACK_BYTES - 256 - i % 61 * 192;
        t.stack_pointer = fresh_stack(top, thread_main);
        b.async[i].copies.clear();
        b.async[i].group_ends.clear();
    }
    for (u32 w = 0; w * 32 < b.n_threads; w++) {
        u32 lanes = b.n_threads - w * 32;
        Warp& warp = b.warp[w];
        warp.alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        warp.ready = warp.gatherings = 0;
        for (Gathering& g : warp.gathering) g.arrived = 0;
        make_ready(b, w, warp.alive);
    }
    current_block = &b;
    current_thread = next_thread(b);
    emu_switch_stack(&b.launcher_stack, current_thread->stack_pointer);
    current_thread = nullptr;
    if (!b.failed && !b.tensor_copies.empty()) {
        b.error = "the block ends while a tensor copy is under way";
        b.failed = true;
    }
    current_block = nullptr;
}

}  // namespace emu
