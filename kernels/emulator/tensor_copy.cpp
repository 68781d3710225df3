// tensor_copy.cpp: the copy engine (TMA). A box of a matrix in device memory goes to shared memory as its tensor map says:
// what lies outside the matrix arrives as zeros, and with a swizzle the 16-byte pieces of a row of 128 bytes change
// places. The copy counts its bytes down on an mbarrier. It is performed when it is issued, or when all threads wait, or
// at random between; and at random in another order than it was issued.
#include "block.h"
#include "checker.h"
#include "memory.h"

namespace emu {

// What a TensorMap holds here; on a GPU the driver writes something else into it.
struct EmulatedMap {
    u64 magic, base, width, height, row_bytes;  // of the matrix: numbers, rows, bytes from row to row
    u32 number_bytes, box_width, box_height, swizzle;
};
static_assert(sizeof(EmulatedMap) <= sizeof(TensorMap), "it has 128 bytes");
enum : u64 { MAGIC = 0x70617463686d6170 };

static EmulatedMap read(const TensorMap& map) {
    EmulatedMap m;
    memcpy(&m, map.words, sizeof m);
    if (m.magic != MAGIC) fail("a tensor copy by a map that nobody has made");
    return m;
}

static void perform(Block& b, const TensorCopy& c) {
    EmulatedMap m = read(c.map);
    u32 bytes = m.box_width * m.box_height * m.number_bytes;
    for (u32 r = 0; r < m.box_height; r++) {
        for (u32 i = 0; i < m.box_width; i++) {
            i64 x = (i64)c.x + i, y = (i64)c.y + r;
            u64 at = c.to + ((u64)r * m.box_width + i) * m.number_bytes;
            if (m.swizzle == 128) at ^= (at >> 7 & 7) << 4;
            u8* to = b.shared + at;
            bool inside = x >= 0 && y >= 0 && (u64)x < m.width && (u64)y < m.height;
            const u8* from = reinterpret_cast<const u8*>(m.base + (u64)y * m.row_bytes + (u64)x * m.number_bytes);
            if (inside) memcpy(to, from, m.number_bytes);
            else memset(to, 0, m.number_bytes);
        }
    }
    if (b.checker) b.checker->tensor_copy_has_landed(c.to, bytes);
    bytes_have_come(c.mbarrier, bytes, c.clock);
}

bool perform_a_tensor_copy(Block& b) {
    if (b.tensor_copies.empty()) return false;
    size_t which = b.config.order == 2 ? b.random() % b.tensor_copies.size() : 0;
    TensorCopy c = std::move(b.tensor_copies[which]);
    b.tensor_copies.erase(b.tensor_copies.begin() + (long)which);
    perform(b, c);
    return true;
}

// Every row of the box that lies inside the matrix is read by the issuing thread.
static void check_reads(Checker& checker, const EmulatedMap& m, int x, int y, const void* caller) {
    i64 first = max((i64)x, (i64)0), end = min((i64)x + m.box_width, (i64)m.width);
    for (i64 row = max((i64)y, (i64)0); row < min((i64)y + m.box_height, (i64)m.height) && first < end; row++) {
        u64 from = m.base + (u64)row * m.row_bytes + (u64)first * m.number_bytes;
        u32 bytes = (u32)(end - first) * m.number_bytes;
        checker.global_access(reinterpret_cast<const void*>(from), bytes, current_thread->number, caller, false);
    }
}

void tensor_copy(void* to, const TensorMap& map, int x, int y, u64* mbarrier) {
    Block& b = block();
    const void* caller = __builtin_return_address(0);
    EmulatedMap m = read(map);
    u32 at = shared_offset(to), bytes = m.box_width * m.box_height * m.number_bytes;
    if (at % (m.swizzle ? 1024 : 128)) fail("a tensor copy to an address that is not aligned for its swizzle");
    if (at + bytes > SHARED_BYTES) fail("a tensor copy runs past the end of shared memory");
    bool fenced = false;
    for (const MBarrier& each : b.mbarriers) fenced |= each.at == shared_offset(mbarrier) && each.fenced;
    if (!fenced) fail("a tensor copy to an mbarrier that the copy engine does not know (mbarrier_init_fence)");
    TensorCopy copy{map, at, shared_offset(mbarrier), x, y, current_thread->number, {}};
    if (b.checker) {
        check_reads(*b.checker, m, x, y, caller);
        b.checker->shared_write(at, bytes, current_thread->number, caller, TENSOR_COPY);
        copy.clock = b.checker->clock_of(current_thread->number);
    }
    if (happens_late(b)) b.tensor_copies.push_back(std::move(copy));
    else perform(b, copy);
}

}  // namespace emu

using namespace emu;

int emu_tensor_map(void* map, const void* base, uint64_t width, uint64_t height, uint64_t row_bytes,
                   uint32_t number_bytes, uint32_t box_width, uint32_t box_height) {
    bool whole = number_bytes == 2 || number_bytes == 4;
    bool aligned = (uintptr_t)base % 16 == 0 && row_bytes % 16 == 0;
    // The limits of cuTensorMapEncodeTiled.
    bool fits = width && height && width <= 1ull << 32 && height <= 1ull << 32 && row_bytes < 1ull << 40;
    bool box = box_width && box_height && box_height <= 256 && box_width * number_bytes == 128;
    if (!whole || !aligned || !fits || !box || row_bytes < width * number_bytes) return 1;
    EmulatedMap m{MAGIC, (u64)(uintptr_t)base, width, height, row_bytes, number_bytes, box_width, box_height, 128};
    memset(map, 0, sizeof(TensorMap));
    memcpy(map, &m, sizeof m);
    return 0;
}
