// planted_bugs_sm90.cu: as planted_bugs.cu, one mistake each with mbarriers, tensor copies and wgmma.
#include "../gpu.cuh"

enum { BOX_BYTES = 64 * 128 };

// A box of 64 x 64 of 2-byte numbers in shared memory, and its mbarrier behind two of them, with one arrival.
struct Place {
    u8* box;
    u64* there;
};
GPU_FN Place place() {
    DYNAMIC_SHARED_1024(u8, shared);
    return {shared, reinterpret_cast<u64*>(shared + 2 * BOX_BYTES)};
}
GPU_FN void begin(const Place& p, bool fenced) {
    if (threadIdx.x == 0) {
        mbarrier_init(p.there, 1);
        if (fenced) mbarrier_init_fence();
    }
    __syncthreads();
}
GPU_FN void copy(const Place& p, const TensorMap& map, u32 bytes) {
    if (threadIdx.x != 0) return;
    mbarrier_arrive_expect(p.there, bytes);
    tensor_copy(p.box, map, 0, 0, p.there);
}
// The box is there.
GPU_FN Place arrived(const TensorMap& map) {
    Place p = place();
    begin(p, true);
    copy(p, map, BOX_BYTES);
    mbarrier_wait(p.there, 0);
    return p;
}
// D[64 x 64] = 0 B, for wgmma_commit and wgmma_wait behind it.
GPU_FN void multiply(float (&d)[32], const u32 (&zeros)[4], const Place& p) {
    wgmma_bf16(d, zeros, swizzled_columns(shared_address(p.box), BOX_BYTES), false);
}

KERNEL_SM90(128, bug_read_before_tensor_copy)(float* out, GRID_CONSTANT TensorMap map) {
    Place p = place();
    begin(p, true);
    copy(p, map, BOX_BYTES);
    out[threadIdx.x] = reinterpret_cast<const float*>(p.box)[threadIdx.x];
    mbarrier_wait(p.there, 0);
}
EXPORT_KERNEL(bug_read_before_tensor_copy)

// The second copy does not wait until the first has been read.
KERNEL_SM90(128, bug_tensor_copy_over_unread)(float* out, GRID_CONSTANT TensorMap map) {
    Place p = arrived(map);
    out[threadIdx.x] = reinterpret_cast<const float*>(p.box)[threadIdx.x];
    copy(p, map, BOX_BYTES);
    mbarrier_wait(p.there, 1);
}
EXPORT_KERNEL(bug_tensor_copy_over_unread)

KERNEL_SM90(128, bug_mbarrier_without_fence)(float* out, GRID_CONSTANT TensorMap map) {
    Place p = place();
    begin(p, false);
    copy(p, map, BOX_BYTES);
    mbarrier_wait(p.there, 0);
    out[threadIdx.x] = 0.0f;
}
EXPORT_KERNEL(bug_mbarrier_without_fence)

// The phase never ends: more bytes are expected than come.
KERNEL_SM90(128, bug_expects_too_much)(float* out, GRID_CONSTANT TensorMap map) {
    Place p = place();
    begin(p, true);
    copy(p, map, BOX_BYTES + 16);
    mbarrier_wait(p.there, 0);
    out[threadIdx.x] = 0.0f;
}
EXPORT_KERNEL(bug_expects_too_much)

// B by ordinary stores, which the tensor cores may not see without a fence that gpu.cuh does not have.
KERNEL_SM90(128, bug_wgmma_reads_stores)(float* out, GRID_CONSTANT TensorMap map) {
    Place p = place();
    for (int i = threadIdx.x; i < BOX_BYTES / 4; i += 128) reinterpret_cast<float*>(p.box)[i] = 0.0f;
    __syncthreads();
    u32 zeros[4] = {};
    float d[32];
    wgmma_fence();
    multiply(d, zeros, p);
    wgmma_commit();
    wgmma_wait(d);
    out[threadIdx.x] = d[0];
}
EXPORT_KERNEL(bug_wgmma_reads_stores)

KERNEL_SM90(128, bug_wgmma_without_fence)(float* out, GRID_CONSTANT TensorMap map) {
    Place p = arrived(map);
    u32 zeros[4] = {};
    float d[32];
    multiply(d, zeros, p);
    wgmma_commit();
    wgmma_wait(d);
    out[threadIdx.x] = d[0];
}
EXPORT_KERNEL(bug_wgmma_without_fence)

// The sums are used before they are there.
KERNEL_SM90(128, bug_wgmma_without_wait)(float* out, GRID_CONSTANT TensorMap map) {
    Place p = arrived(map);
    u32 zeros[4] = {};
    float d[32];
    wgmma_fence();
    multiply(d, zeros, p);
    wgmma_commit();
    out[threadIdx.x] = d[0];
}
EXPORT_KERNEL(bug_wgmma_without_wait)

// Half of the warpgroup is elsewhere.
KERNEL_SM90(128, bug_wgmma_of_two_warps)(float* out, GRID_CONSTANT TensorMap map) {
    Place p = arrived(map);
    if (threadIdx.x >= 64) return;
    u32 zeros[4] = {};
    float d[32];
    wgmma_fence();
    multiply(d, zeros, p);
    wgmma_commit();
    wgmma_wait(d);
    out[threadIdx.x] = d[0];
}
EXPORT_KERNEL(bug_wgmma_of_two_warps)

KERNEL_SM90(128, bug_two_barriers_of_one_number)(float* out, GRID_CONSTANT TensorMap map) {
    named_barrier(1, threadIdx.x < 64 ? 64 : 128);
    out[threadIdx.x] = 0.0f;
}
EXPORT_KERNEL(bug_two_barriers_of_one_number)
