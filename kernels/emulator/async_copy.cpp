// async_copy.cpp: cp.async. A copy is performed when it is issued or when it is waited for, as the launch's policy says;
// both are allowed by the PTX ISA, and everything between is no different to the threads that look.
#include "block.h"
#include "checker.h"

namespace emu {

bool happens_late(Block& b) { return b.config.async_copies == 1 || (b.config.async_copies == 2 && b.random() & 1); }

static void perform(AsyncCopy& c) {
    memcpy(c.to, c.from, c.valid);
    memset(c.to + c.valid, 0, c.bytes - c.valid);
    c.done = true;
}

void async_copy(void* to, const void* from, u32 bytes, u32 valid) {
    Block& b = block();
    const void* caller = __builtin_return_address(0);
    if ((uintptr_t)to % bytes || (valid && (uintptr_t)from % bytes)) fail("cp.async: not aligned to %u bytes", bytes);
    if (valid > bytes) fail("cp.async: %u valid bytes of %u", valid, bytes);
    u64 at = (u64)(static_cast<u8*>(to) - b.shared);
    if (at + bytes > SHARED_BYTES) fail("cp.async: the destination is not shared memory");
    if (b.checker) {
        if (valid) b.checker->global_access(from, valid, current_thread->number, caller, false);
        b.checker->shared_write(at, bytes, current_thread->number, caller, CP_ASYNC);
    }
    AsyncCopy copy{static_cast<u8*>(to), static_cast<const u8*>(from), bytes, valid, false};
    if (!happens_late(b)) perform(copy);
    b.async[current_thread->number].copies.push_back(copy);
}

void async_commit() {
    AsyncQueue& q = block().async[current_thread->number];
    q.group_ends.push_back(q.copies.size());
}

void async_wait(u32 keep) {
    Block& b = block();
    AsyncQueue& q = b.async[current_thread->number];
    if (q.group_ends.size() <= keep) return;
    size_t groups = q.group_ends.size() - keep, end = q.group_ends[groups - 1];
    for (size_t i = 0; i < end; i++) {
        AsyncCopy& c = q.copies[i];
        if (!c.done) perform(c);
        if (b.checker) b.checker->copy_has_landed((u64)(c.to - b.shared), c.bytes, current_thread->number);
    }
    q.copies.erase(q.copies.begin(), q.copies.begin() + (long)end);
    q.group_ends.erase(q.group_ends.begin(), q.group_ends.begin() + (long)groups);
    for (size_t& e : q.group_ends) e -= end;
}

}  // namespace emu
