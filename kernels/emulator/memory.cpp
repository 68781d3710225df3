// memory.cpp: device memory and its allocator, and static shared memory.
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "block.h"

namespace emu {

namespace {

// Allocations come from one reserved region and are separated by at least this many bytes that belong to nobody.
constexpr size_t GUARD = 256;
constexpr size_t REGION = (size_t)64 << 30;

struct DeviceMemory {
    std::mutex mutex;
    u8* base = nullptr;
    size_t top = 0;
    Allocations alive;
    std::multimap<size_t, uintptr_t> freed;  // by rounded size

    DeviceMemory() {
        void* p = mmap(nullptr, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED) base = static_cast<u8*>(p);
    }
};

DeviceMemory& memory() {
    static DeviceMemory m;
    return m;
}

size_t rounded(size_t bytes) { return (bytes + 2 * GUARD - 1) / GUARD * GUARD; }

void mark_written(Allocation& a, size_t from, size_t bytes) {
    if (a.written) memset(a.written.get() + from / 2, 1, (from + bytes + 1) / 2 - from / 2);
}

}  // namespace

Allocation* find_allocation(Allocations& all, const void* p, size_t bytes, uintptr_t* start) {
    auto next = all.upper_bound((uintptr_t)p);
    if (next == all.begin()) return nullptr;
    auto& [at, allocation] = *--next;
    if ((uintptr_t)p - at > allocation.bytes || bytes > allocation.bytes - ((uintptr_t)p - at)) return nullptr;
    *start = at;
    return &allocation;
}

bool is_device_memory(const void* p) { return device_offset(p) < REGION; }
u64 device_offset(const void* p) { return (u64)((uintptr_t)p - (uintptr_t)memory().base); }

Allocations allocations_of(u32 device) {
    std::lock_guard<std::mutex> lock(memory().mutex);
    Allocations own;
    for (auto& each : memory().alive)
        if (each.second.device == device) own.insert(own.end(), each);
    return own;
}

void* static_shared(const void* key, size_t bytes, size_t align) {
    Block& b = block();
    for (const StaticShared& s : b.statics)
        if (s.key == key) return b.shared + s.at;
    if (align < 16) align = 16;
    size_t at = (b.static_end + align - 1) / align * align;
    if (at + bytes > SHARED_BYTES) fail("more than 48 KiB of static shared memory");
    memset(b.shared + at, 0xff, bytes);
    b.statics.push_back({key, (u32)at});
    b.static_end = (u32)(at + bytes);
    return b.shared + at;
}

}  // namespace emu

using namespace emu;

void* emu_alloc(size_t bytes, uint32_t device, uint32_t count_writes) {
    DeviceMemory& m = memory();
    std::lock_guard<std::mutex> lock(m.mutex);
    if (!m.base || bytes > REGION / 2) return nullptr;
    size_t size = rounded(bytes);
    uintptr_t at;
    if (auto reuse = m.freed.find(size); reuse != m.freed.end()) {
        at = reuse->second;
        m.freed.erase(reuse);
    } else {
        if (m.top + size > REGION) return nullptr;
        at = (uintptr_t)m.base + m.top;
        m.top += size;
    }
    std::shared_ptr<u8> written;
    if (count_writes) written.reset(static_cast<u8*>(calloc(bytes / 2 + 1, 1)), free);
    memset((void*)at, 0xff, bytes);
    m.alive[at] = Allocation{bytes, device, written};
    return (void*)at;
}

void emu_free(void* p) {
    DeviceMemory& m = memory();
    std::lock_guard<std::mutex> lock(m.mutex);
    auto it = m.alive.find((uintptr_t)p);
    if (it == m.alive.end()) return;
    m.freed.insert({rounded(it->second.bytes), it->first});
    m.alive.erase(it);
}

int emu_copy_to_device(void* to, const void* from, size_t bytes) {
    DeviceMemory& m = memory();
    std::lock_guard<std::mutex> lock(m.mutex);
    uintptr_t start;
    Allocation* a = find_allocation(m.alive, to, bytes, &start);
    if (!a) return 1;
    memcpy(to, from, bytes);
    mark_written(*a, (uintptr_t)to - start, bytes);
    return 0;
}

int emu_copy_from_device(void* to, const void* from, size_t bytes) {
    DeviceMemory& m = memory();
    std::lock_guard<std::mutex> lock(m.mutex);
    uintptr_t start;
    if (!find_allocation(m.alive, from, bytes, &start)) return 1;
    memcpy(to, from, bytes);
    return 0;
}

int emu_fill_zero(void* to, size_t bytes) {
    DeviceMemory& m = memory();
    std::lock_guard<std::mutex> lock(m.mutex);
    uintptr_t start;
    Allocation* a = find_allocation(m.alive, to, bytes, &start);
    if (!a) return 1;
    memset(to, 0, bytes);
    mark_written(*a, (uintptr_t)to - start, bytes);
    return 0;
}
