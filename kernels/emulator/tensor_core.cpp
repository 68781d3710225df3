// tensor_core.cpp: ldmatrix and mma.sync, by the fragment layouts of the PTX ISA ("Matrix Fragments for mma.m16n8k16").
//
// A warp holds a matrix spread over its lanes. With g = lane / 4 and t = lane % 4, lane holds of
//   A [16 x 16]  rows g and g + 8, columns 2t, 2t+1 and 2t+8, 2t+9: four registers of two
//   B [16 x 8]   rows 2t, 2t+1 and 2t+8, 2t+9 of column g: two registers of two
//   C [16 x 8]   rows g and g + 8, columns 2t, 2t+1: four floats
#include "block.h"
#include "checker.h"

namespace emu {

static void need_whole_warp(const char* what) {
    if (block().warp[current_thread->warp].alive != ~0u) fail("%s needs all 32 lanes of the warp", what);
}

namespace {
struct LoadOperand {
    u32* r;
    const u8* row;
    const void* caller;
};

void load_transposed(Collective& c) {
    Block& b = block();
    auto lane = [&](u32 l) { return static_cast<LoadOperand*>(c.operand[l]); };
    for (u32 l = 0; l < 32; l++) {
        const u8* row = lane(l)->row;
        u64 at = (u64)(row - b.shared);
        if ((uintptr_t)row % 16) fail("ldmatrix: the row of lane %u is not aligned to 16 bytes", l);
        if (at + 16 > SHARED_BYTES) fail("ldmatrix: the row of lane %u is not in shared memory", l);
        if (b.checker) b.checker->shared_read(at, 16, current_thread->warp * 32u + l, lane(l)->caller);
    }
    for (u32 matrix = 0; matrix < 4; matrix++) {
        for (u32 l = 0; l < 32; l++) {
            u16 low, high;  // column l / 4 of rows 2 (l % 4) and the next
            memcpy(&low, lane(matrix * 8 + l % 4 * 2)->row + l / 4 * 2, 2);
            memcpy(&high, lane(matrix * 8 + l % 4 * 2 + 1)->row + l / 4 * 2, 2);
            lane(l)->r[matrix] = low | (u32)high << 16;
        }
    }
}

struct MmaOperand {
    float* c;
    const u32* a;
    u32 b0, b1;
};

float low_half(u32 pair) { return __uint_as_float(pair << 16); }
float high_half(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

typedef float Row __attribute__((vector_size(32)));

// Products of bf16 are exact in float32; they are added one after the other, rounding to nearest. A tensor core keeps
// a few more bits within a step and truncates: see docs/kernels.md.
void multiply(Collective& all) {
    float a[16][16];
    alignas(32) float b[16][8], c[16][8];
    for (u32 l = 0; l < 32; l++) {
        const MmaOperand& m = *static_cast<MmaOperand*>(all.operand[l]);
        u32 g = l / 4, t = l % 4 * 2;
        for (u32 i = 0; i < 4; i++) {
            u32 row = g + i % 2 * 8, column = t + i / 2 * 8;
            a[row][column] = low_half(m.a[i]);
            a[row][column + 1] = high_half(m.a[i]);
            c[g + i / 2 * 8][t + i % 2] = m.c[i];
        }
        b[t][g] = low_half(m.b0);
        b[t + 1][g] = high_half(m.b0);
        b[t + 8][g] = low_half(m.b1);
        b[t + 9][g] = high_half(m.b1);
    }
    for (u32 i = 0; i < 16; i++) {
        Row sum;
        memcpy(&sum, c[i], sizeof sum);
        for (u32 k = 0; k < 16; k++) {
            Row row;
            memcpy(&row, b[k], sizeof row);
            sum += a[i][k] * row;
        }
        memcpy(c[i], &sum, sizeof sum);
    }
    for (u32 l = 0; l < 32; l++) {
        const MmaOperand& m = *static_cast<MmaOperand*>(all.operand[l]);
        for (u32 i = 0; i < 4; i++) m.c[i] = c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
    }
}
}  // namespace

void ldmatrix_trans(u32* r, const void* p) {
    need_whole_warp("ldmatrix");
    LoadOperand operand{r, static_cast<const u8*>(p), __builtin_return_address(0)};
    warp_collective(~0u, load_transposed, &operand, "ldmatrix");
}

void mma_bf16(float* c, const u32* a, u32 b0, u32 b1) {
    need_whole_warp("mma.sync");
    MmaOperand operand{c, a, b0, b1};
    warp_collective(~0u, multiply, &operand, "mma.sync");
}

}  // namespace emu
