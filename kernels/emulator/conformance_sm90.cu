// conformance_sm90.cu: as conformance.cu, for what Hopper alone has: mbarriers, tensor copies, wgmma, named barriers.
#include "../gpu.cuh"

enum { BOX = 64, BOX_BYTES = 64 * 128 };

// The box at (x, y) of a matrix of 2-byte numbers, 64 x 64, as it lies in shared memory: swizzled, zeros outside.
KERNEL_SM90(128, conformance_tensor_copy)(u32* out, GRID_CONSTANT TensorMap map, int x, int y) {
    DYNAMIC_SHARED_1024(u8, shared);
    u64* there = reinterpret_cast<u64*>(shared + BOX_BYTES);
    if (threadIdx.x == 0) {
        mbarrier_init(there, 1);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(there, BOX_BYTES);
        tensor_copy(shared, map, x, y, there);
    }
    mbarrier_wait(there, 0);
    for (int i = threadIdx.x; i < BOX_BYTES / 4; i += 128) out[i] = reinterpret_cast<const u32*>(shared)[i];
}
EXPORT_KERNEL(conformance_tensor_copy)

// d [64, N] = a [64, 64] b [64, N] in bf16, a and d row-major and float32, b by its map in boxes of 64 x 64. With integers of
// a few bits every sum is exact, on whatever computes it.
template <int N> GPU_FN void multiply(float* out, const float* a, const TensorMap& b) {
    DYNAMIC_SHARED_1024(u8, shared);
    u64* there = reinterpret_cast<u64*>(shared + N / 64 * BOX_BYTES);
    if (threadIdx.x == 0) {
        mbarrier_init(there, 1);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(there, N / 64 * BOX_BYTES);
        for (int box = 0; box < N / 64; box++) tensor_copy(shared + box * BOX_BYTES, b, box * 64, 0, there);
    }
    mbarrier_wait(there, 0);
    int lane = threadIdx.x & 31, row = (int)threadIdx.x / 32 * 16 + lane / 4;
    u32 x[4][4];
    float d[N / 2];
#pragma unroll
    for (int q = 0; q < 4; q++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float* at = a + (row + i % 2 * 8) * 64 + q * 16 + lane % 4 * 2 + i / 2 * 8;
            x[q][i] = pack_bf16(at[0], at[1]);
        }
    wgmma_fence();
#pragma unroll
    for (int q = 0; q < 4; q++)
        wgmma_bf16(d, x[q], swizzled_columns(shared_address(shared) + q * 16 * 128, BOX_BYTES), q > 0);
    wgmma_commit();
    wgmma_wait(d);
#pragma unroll
    for (int i = 0; i < N / 2; i++) out[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
}

KERNEL_SM90(128, conformance_wgmma_128)(float* out, const float* a, GRID_CONSTANT TensorMap b) {
    multiply<128>(out, a, b);
}
EXPORT_KERNEL(conformance_wgmma_128)

KERNEL_SM90(128, conformance_wgmma_64)(float* out, const float* a, GRID_CONSTANT TensorMap b) { multiply<64>(out, a, b); }
EXPORT_KERNEL(conformance_wgmma_64)

// A ring of two numbers: the first warp fills it, the other two read it, for more turns than the ring has places; then
// those two meet at a barrier of their own. out [turns, 2]: what the readers have seen; out[2 * turns]: their sums.
KERNEL_SM90(96, conformance_mbarrier)(u32* out, int turns) {
    DYNAMIC_SHARED_1024(u8, shared);
    u32* ring = reinterpret_cast<u32*>(shared);
    u32* sums = ring + 2;
    u64* full = reinterpret_cast<u64*>(shared + 16);
    u64* empty = full + 2;
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(full + i, 1);
            mbarrier_init(empty + i, 2);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (lane == 0) {
        u32 sum = 0;
        for (int t = 0; t < turns; t++) {
            u32 phase = (u32)t / 2 & 1;
            if (warp == 0) {
                mbarrier_wait(empty + t % 2, phase ^ 1);
                ring[t % 2] = (u32)t * t + 1;
                mbarrier_arrive(full + t % 2);
            } else {
                mbarrier_wait(full + t % 2, phase);
                out[t * 2 + warp - 1] = ring[t % 2];
                sum += ring[t % 2];
                mbarrier_arrive(empty + t % 2);
            }
        }
        if (warp) sums[warp - 1] = sum;
    }
    if (warp == 0) return;
    named_barrier(3, 64);
    if (threadIdx.x == 95) out[turns * 2] = sums[0] + sums[1];
}
EXPORT_KERNEL(conformance_mbarrier)
