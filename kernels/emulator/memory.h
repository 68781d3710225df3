// memory.h: the device's global memory.
#pragma once
#include <map>
#include <memory>
#include <mutex>

#include "device.h"

namespace emu {

// One allocation of one device, and which of its 2-byte halfwords have been written.
struct Allocation {
    size_t bytes;
    u32 device;
    std::shared_ptr<u8> written;  // [bytes / 2], null where nobody counts
};

typedef std::map<uintptr_t, Allocation> Allocations;

// The allocation that holds all of p ..+ bytes; null where there is none.
Allocation* find_allocation(Allocations& all, const void* p, size_t bytes, uintptr_t* start);

// Whether p lies in the region from which device memory comes.
bool is_device_memory(const void* p);
// Bytes from the region's beginning, for messages.
u64 device_offset(const void* p);

// The allocations of one device as they are now. Their `written` flags are shared with the allocator.
Allocations allocations_of(u32 device);

}  // namespace emu
