// mbarrier.cpp: barriers in shared memory that count arrivals and the bytes of tensor copies.
//
// A phase ends when its last arrival and its last byte have come; the next begins at once. Who waits names the parity of
// the phase: the first has parity 0, and before it ended, the one with parity 1 counts as ended.
#include "block.h"
#include "checker.h"

namespace emu {

u32 shared_offset(const void* p) {
    u64 at = (u64)(static_cast<const u8*>(p) - block().shared);
    if (at >= SHARED_BYTES) fail("an address of shared memory is asked of what does not lie there");
    return (u32)at;
}

static MBarrier& find(const u64* p) {
    u64 at = shared_offset(p);
    for (MBarrier& m : block().mbarriers)
        if (m.at == at) return m;
    fail("an mbarrier is used that nobody has initialised");
}

static void end_phase_if_complete(Block& b, MBarrier& m) {
    if (m.pending || m.bytes) return;
    std::vector<u32> waiting;
    waiting.swap(m.waiting[m.phase]);
    m.phase ^= 1;
    m.pending = m.count;
    if (b.checker) Checker::merge(m.ended, m.arrived);
    m.arrived.clear();
    for (u32 t : waiting) make_ready(b, t / 32, 1u << t % 32);
}

void mbarrier_init(u64* p, u32 count) {
    Block& b = block();
    u64 at = shared_offset(p);
    if (at % 8 || !count) fail("mbarrier.init: an address that is not a multiple of 8, or no arrivals");
    for (MBarrier& m : b.mbarriers)
        if (m.at == at) fail("an mbarrier is initialised twice");
    if (b.checker) {
        b.checker->shared_write(at, 8, current_thread->number, __builtin_return_address(0), A_STORE);
    }
    b.mbarriers.push_back(MBarrier{at, count, count, 0, 0, false, {}, {}, {}});
}

void mbarrier_fence() {
    for (MBarrier& m : block().mbarriers) m.fenced = true;
}

static void arrive(u64* p, u32 bytes, const void* caller) {
    Block& b = block();
    MBarrier& m = find(p);
    u32 me = current_thread->number;
    if (!m.pending) fail("more arrivals at an mbarrier than its %u", m.count);
    if (b.checker) {
        b.checker->shared_read(m.at, 8, me, caller);  // it must be known to be initialised
        Checker::merge(m.arrived, b.checker->clock_of(me));
    }
    m.pending--;
    m.bytes += bytes;
    end_phase_if_complete(b, m);
}

void mbarrier_expect(u64* p, u32 bytes) { arrive(p, bytes, __builtin_return_address(0)); }

void mbarrier_arrive(u64* p) {
    arrive(p, 0, __builtin_return_address(0));
    maybe_yield();
}

void mbarrier_wait(u64* p, u32 parity) {
    Block& b = block();
    u32 me = current_thread->number;
    if (b.checker) b.checker->shared_read(shared_offset(p), 8, me, __builtin_return_address(0));
    if (find(p).phase == parity) {
        find(p).waiting[parity].push_back(me);
        park("an mbarrier");
    } else {
        maybe_yield();
    }
    if (b.checker) b.checker->learn(me, find(p).ended);
}

void bytes_have_come(u64 at, u32 bytes, const std::vector<u32>& clock) {
    Block& b = block();
    for (MBarrier& m : b.mbarriers) {
        if (m.at != at) continue;
        m.bytes -= bytes;
        if (b.checker) Checker::merge(m.arrived, clock);
        end_phase_if_complete(b, m);
    }
}

}  // namespace emu
