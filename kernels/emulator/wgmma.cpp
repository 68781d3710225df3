// wgmma.cpp: the tensor core instruction of Hopper, D[64, n] = A[64, 16] B[16, n] (+ D) of bf16.
//
// Four warps issue it together and each has 16 of the rows, so here every warp computes its own. A lies in registers as
// for mma.sync m16n8k16; D [16, n] is n / 8 of that instruction's C side by side. B lies in shared memory, n contiguous
// ("MN-major"), as tensor copies with a swizzle of 128 bytes leave it; a descriptor says where (PTX ISA, "Asynchronous
// Warpgroup Level Matrix Shared Memory Layout"):
//   bits  0 - 13  first address / 16
//   bits 16 - 29  bytes / 16 from 64 columns to the next 64
//   bits 32 - 45  bytes / 16 from 8 rows of k to the next 8
//   bits 62 - 63  1: swizzled by 128 bytes
// A wgmma is performed when it is issued or when it is waited for, and reads its registers then.
#include "block.h"
#include "checker.h"

namespace emu {

static void perform(Block& b, const WarpMma& op) {
    u64 start = (op.b & 0x3fff) << 4, next_columns = (op.b >> 16 & 0x3fff) << 4, next_rows = (op.b >> 32 & 0x3fff) << 4;
    if (op.b >> 62 != 1) fail("wgmma: only the swizzle of 128 bytes is emulated");
    if (start % 1024) fail("wgmma: B begins at an address that is not a multiple of 1024");
    auto &y = b.mma_b, &d = b.mma_d;
    float x[16][16];
    u32 thread = current_thread->warp * 32u;
    for (u32 k = 0; k < 16; k++) {
        for (u32 col = 0; col < op.n; col += 8) {
            u64 at = start + col / 64 * next_columns + k / 8 * next_rows + k % 8 * 128 + col % 64 * 2;
            at ^= (at >> 7 & 7) << 4;
            if (at + 16 > SHARED_BYTES) fail("wgmma: B does not lie in shared memory");
            if (b.checker) b.checker->shared_read(at, 16, thread, op.caller, true);
            u16 bits[8];
            memcpy(bits, b.shared + at, 16);
            for (u32 i = 0; i < 8; i++) y[k][col + i] = to_f32(bf16{bits[i]});
        }
    }
    for (u32 l = 0; l < 32; l++) {
        u32 g = l / 4, t = l % 4 * 2;
        for (u32 i = 0; i < 4; i++) {
            u32 row = g + i % 2 * 8, k = t + i / 2 * 8;
            x[row][k] = __uint_as_float(op.a[l][i] << 16);
            x[row][k + 1] = __uint_as_float(op.a[l][i] & 0xffff0000u);
        }
        for (u32 i = 0; i < op.n / 2; i++) {
            float& to = d[g + i / 2 % 2 * 8][i / 4 * 8 + t + i % 2];
            to = op.accumulate ? op.d[l][i] : 0.0f;
        }
    }
    for (u32 row = 0; row < 16; row++)
        for (u32 k = 0; k < 16; k++)
            for (u32 col = 0; col < op.n; col++) d[row][col] += x[row][k] * y[k][col];
    for (u32 l = 0; l < 32; l++)
        for (u32 i = 0; i < op.n / 2; i++) op.d[l][i] = d[l / 4 + i / 2 % 2 * 8][i / 4 * 8 + l % 4 * 2 + i % 2];
}

static MmaQueue& queue() { return block().mma[current_thread->warp]; }

// Warps of a warpgroup issue the same wgmmas. Here one may run ahead; but none may leave with fewer than another.
static void need_whole_warpgroup() {
    Block& b = block();
    u32 first = current_thread->warp / 4 * 4;
    for (u32 w = first; w < first + 4; w++) {
        bool gone = w * 32 >= b.n_threads || !b.warp[w].alive;
        if (gone && b.mma[w].count <= queue().count) fail("wgmma needs all four warps of the warpgroup");
    }
    if (b.warp[current_thread->warp].alive != ~0u) fail("wgmma needs all 32 lanes of the warp");
}

struct Operand {
    float* d;
    const u32* a;
    u64 b;
    u32 n;
    bool accumulate;
    const void* caller;
};

static void issue(Collective& all) {
    const Operand& first = *static_cast<Operand*>(all.operand[0]);
    WarpMma op{{}, {}, first.b, first.n, first.accumulate, first.caller};
    for (u32 l = 0; l < 32; l++) {
        const Operand& own = *static_cast<Operand*>(all.operand[l]);
        if (own.b != op.b || own.accumulate != op.accumulate) fail("wgmma: the lanes of a warp do not agree");
        op.d[l] = own.d;
        op.a[l] = own.a;
    }
    MmaQueue& q = queue();
    if (!q.fenced) fail("wgmma without wgmma.fence since its registers could be touched");
    q.uncommitted = q.unwaited = true;
    q.count++;
    // In order: one that happens at once must not overtake one that waits.
    if (!q.issued.empty() || happens_late(block())) q.issued.push_back(op);
    else perform(block(), op);
}

static void commit(Collective&) {
    queue().committed = queue().issued.size();
    queue().uncommitted = false;
}

static void wait(Collective&) {
    MmaQueue& q = queue();
    for (size_t i = 0; i < q.committed; i++) perform(block(), q.issued[i]);
    q.issued.erase(q.issued.begin(), q.issued.begin() + (long)q.committed);
    q.committed = 0;
    q.fenced = false;
    q.unwaited = q.uncommitted;
}

void leave_wgmma(Block& b) {
    u32 warp = current_thread->warp;
    if (b.mma[warp].unwaited) fail("a thread leaves the kernel without having waited for its wgmma");
    for (u32 w = warp / 4 * 4; w < warp / 4 * 4 + 4; w++)
        if (b.mma[w].count > b.mma[warp].count && !b.warp[warp].alive) fail("wgmma needs all four warps of the warpgroup");
}

static void fence(Collective&) { queue().fenced = true; }

void wgmma_fence() {
    need_whole_warpgroup();
    warp_collective(~0u, fence, nullptr, "wgmma.fence");
}

void wgmma(float* d, const u32* a, u64 b, u32 n, bool accumulate) {
    need_whole_warpgroup();
    Operand operand{d, a, b, n, accumulate, __builtin_return_address(0)};
    warp_collective(~0u, issue, &operand, "wgmma");
}

void wgmma_commit() { warp_collective(~0u, commit, nullptr, "wgmma.commit_group"); }
void wgmma_wait() { warp_collective(~0u, wait, nullptr, "wgmma.wait_group"); }

}  // namespace emu
