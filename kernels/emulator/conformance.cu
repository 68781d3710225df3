// conformance.cu: kernels with known answers, for the tests of the emulator itself. The same sources run on a GPU.
#include "../gpu.cuh"

// Every shuffle and vote, with partial masks, 10 words a lane.
KERNEL(32, conformance_warp)(u32* out) {
    u32 lane = threadIdx.x, all = 0xffffffffu;
    out[lane] = __shfl_sync(all, lane * 3, 5);
    out[32 + lane] = __shfl_xor_sync(all, lane, 9);
    out[64 + lane] = __shfl_down_sync(all, lane, 3);
    out[96 + lane] = __shfl_up_sync(all, lane, 3);
    out[128 + lane] = __ballot_sync(all, lane % 3 == 0);
    out[160 + lane] = (u32)__any_sync(all, lane == 7) | (u32)__all_sync(all, lane < 31) << 1;
    u32 half = lane < 16 ? 0x0000ffffu : 0xffff0000u;  // two groups of one warp in collectives at once
    out[192 + lane] = __shfl_xor_sync(half, lane, 1);
    if (lane & 1) out[224 + lane] = __ballot_sync(0xaaaaaaaau, lane > 16);
    else out[224 + lane] = __ballot_sync(0x55555555u, lane > 16);
}
EXPORT_KERNEL(conformance_warp)

// c [16, 16] = a [16, 16] b [16, 16] in bf16, all row-major: the fragments of mma.sync and ldmatrix.trans.
KERNEL(32, conformance_mma)(float* c, const float* a, const float* b) {
    SHARED(square, bf16[16][24]);
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) square[i / 16][i % 16] = to_bf16(b[i]);
    __syncwarp();
    u32 x[4], y[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float* at = a + (lane / 4 + i % 2 * 8) * 16 + lane % 4 * 2 + i / 2 * 8;
        x[i] = pack_bf16(at[0], at[1]);
    }
    ldmatrix_x4_trans(y, &square[lane % 16][lane / 16 * 8]);
    float sum[2][4] = {};
    mma_bf16_16816(sum[0], x, y[0], y[1]);
    mma_bf16_16816(sum[1], x, y[2], y[3]);
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) c[(lane / 4 + e / 2 * 8) * 16 + j * 8 + lane % 4 * 2 + e % 2] = sum[j][e];
}
EXPORT_KERNEL(conformance_mma)

// Rounding to bf16 of given bit patterns, alone and in pairs.
KERNEL(128, conformance_round)(u32* alone, u32* paired, const u32* x, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    float f = __uint_as_float(x[i]);
    alone[i] = to_bf16(f).bits;
    paired[i] = pack_bf16(f, -f);
}
EXPORT_KERNEL(conformance_round)

// A chain of cp.async groups of 4, 8 and 16 bytes with their tails zeroed; out [stages, 32, 4].
KERNEL(32, conformance_async)(u32* out, const u32* in, int stages) {
    SHARED(ring, u32[2][32][4]);
    int lane = threadIdx.x;
    auto load = [&](int s) {
        if (s < stages) {
            const u32* from = in + (s * 32 + lane) * 4;
            if (s % 3 == 0) cp_async<16>(ring[s % 2][lane], from, 4 * (lane % 5));
            if (s % 3 == 1)
                for (int i = 0; i < 4; i += 2) cp_async<8>(&ring[s % 2][lane][i], from + i, 8);
            if (s % 3 == 2)
                for (int i = 0; i < 4; i++) cp_async<4>(&ring[s % 2][lane][i], from + i, i < lane % 5 ? 4 : 0);
        }
        cp_async_commit();
    };
    load(0);
    for (int s = 0; s < stages; s++) {
        load(s + 1);
        cp_async_wait<1>();
        __syncwarp();
        for (int i = 0; i < 4; i++) out[(s * 32 + lane) * 4 + i] = ring[s % 2][31 - lane][i];
        __syncwarp();
    }
}
EXPORT_KERNEL(conformance_async)
