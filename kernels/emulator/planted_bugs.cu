// planted_bugs.cu: one mistake each. The tests ask of the checker that it names every one of them.
#include "../gpu.cuh"

// A tree reduction without the barrier after its stores.
KERNEL(256, bug_missing_barrier)(float* out, const float* in) {
    SHARED(s, float[256]);
    int t = threadIdx.x;
    s[t] = in[t];
    __syncthreads();
    for (int o = 128; o; o >>= 1)
        if (t < o) s[t] += s[t + o];
    if (t == 0) out[0] = s[0];
}
EXPORT_KERNEL(bug_missing_barrier)

// The next turn's stores overtake this turn's loads.
KERNEL(256, bug_write_after_read)(float* out, const float* in) {
    SHARED(s, float[256]);
    int t = threadIdx.x;
    float sum = 0.0f;
    for (int i = 0; i < 3; i++) {
        s[t] = in[i * 256 + t];
        __syncthreads();
        sum += s[(t + 33) % 256];
    }
    out[t] = sum;
}
EXPORT_KERNEL(bug_write_after_read)

// Lanes of a warp exchange through shared memory without __syncwarp.
KERNEL(64, bug_missing_syncwarp)(float* out, const float* in) {
    SHARED(s, float[64]);
    int t = threadIdx.x;
    s[t] = in[t];
    out[t] = s[t ^ 1];
}
EXPORT_KERNEL(bug_missing_syncwarp)

// A shuffle orders no memory.
KERNEL(32, bug_shuffle_as_barrier)(float* out, const float* in) {
    SHARED(s, float[32]);
    int t = threadIdx.x;
    s[t] = in[t];
    int other = __shfl_xor_sync(0xffffffffu, t, 1);
    out[t] = s[other];
}
EXPORT_KERNEL(bug_shuffle_as_barrier)

KERNEL(32, bug_missing_wait)(float* out, const float* in) {
    SHARED(s, float[128]);
    int t = threadIdx.x;
    cp_async<16>(&s[t * 4], in + t * 4, 16);
    cp_async_commit();
    __syncthreads();
    out[t] = s[t * 4];
}
EXPORT_KERNEL(bug_missing_wait)

// Waited for by each thread for itself, then read by another.
KERNEL(32, bug_wait_without_barrier)(float* out, const float* in) {
    SHARED(s, float[128]);
    int t = threadIdx.x;
    cp_async<16>(&s[t * 4], in + t * 4, 16);
    cp_async_commit();
    cp_async_wait<0>();
    out[t] = s[(t ^ 1) * 4];
}
EXPORT_KERNEL(bug_wait_without_barrier)

KERNEL(32, bug_write_over_copy)(float* out, const float* in) {
    SHARED(s, float[128]);
    int t = threadIdx.x;
    cp_async<16>(&s[t * 4], in + t * 4, 16);
    cp_async_commit();
    s[t * 4] = 1.0f;
    cp_async_wait<0>();
    out[t] = s[t * 4];
}
EXPORT_KERNEL(bug_write_over_copy)

KERNEL(64, bug_divergent_barrier)(float* out, const float* in) {
    if (threadIdx.x < 32) __syncthreads();
    else __syncwarp();
    out[threadIdx.x] = in[threadIdx.x];
}
EXPORT_KERNEL(bug_divergent_barrier)

KERNEL(32, bug_divergent_shuffle)(float* out, const float* in) {
    float v = in[threadIdx.x];
    if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
    else v = __shfl_down_sync(0xffffffffu, v, 1);
    out[threadIdx.x] = v;
}
EXPORT_KERNEL(bug_divergent_shuffle)

// A lane outside its own mask.
KERNEL(32, bug_wrong_mask)(float* out, const float* in) {
    out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, in[threadIdx.x], 1);
}
EXPORT_KERNEL(bug_wrong_mask)

KERNEL(64, bug_exit_before_barrier)(float* out, const float* in) {
    if (threadIdx.x >= 40) return;
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}
EXPORT_KERNEL(bug_exit_before_barrier)

KERNEL(64, bug_device_out_of_bounds)(float* out, const float* in) { out[threadIdx.x] = in[threadIdx.x + 3 * 256 - 63]; }
EXPORT_KERNEL(bug_device_out_of_bounds)

KERNEL(32, bug_shared_out_of_bounds)(float* out, const float* in) {
    SHARED(s, float[32]);
    s[threadIdx.x + 1] = in[threadIdx.x];
    out[threadIdx.x] = 0.0f;
}
EXPORT_KERNEL(bug_shared_out_of_bounds)

KERNEL(32, bug_uninitialised_shared)(float* out, const float* in) {
    SHARED(s, float[64]);
    s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x + 32];
}
EXPORT_KERNEL(bug_uninitialised_shared)

// Reads what it was to write.
KERNEL(32, bug_uninitialised_device)(float* out, const float* in) { out[threadIdx.x] += in[threadIdx.x]; }
EXPORT_KERNEL(bug_uninitialised_device)

// Every block adds to the same number.
KERNEL(32, bug_race_between_blocks)(float* out, const float* in) {
    if (threadIdx.x == 0) out[0] = in[blockIdx.x];
}
EXPORT_KERNEL(bug_race_between_blocks)

KERNEL(32, bug_misaligned)(float* out, const float* in) {
    float4 v = reinterpret_cast<const float4*>(in + 1)[threadIdx.x];
    out[threadIdx.x] = v.x + v.w;
}
EXPORT_KERNEL(bug_misaligned)
