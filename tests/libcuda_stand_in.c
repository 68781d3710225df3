// A stand-in for libcuda.so with one GPU of compute capability 8.0, for tests/cuda_driver.rs. Everything that a stream is
// given is done as late as the driver API allows: when somebody waits for it. So an upload whose source was overwritten
// too early brings the wrong bytes. Every kernel adds 1 to `n` floats at `p`.
//
// With STAND_IN_IDLE its GPU does nothing, in no time, and has endless memory; whatever is downloaded is 1.0. So what the
// host does of its own shows: its time, and what it asks for (`stand_in_counts`).
#include <stdlib.h>
#include <string.h>

enum { INVALID_CONTEXT = 201, OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719, MOST = 1 << 16 };
typedef unsigned long long u64;

static __thread int current;
static struct { int kind; char *to; const char *from; size_t bytes; } queue[MOST];
static int queued, done, most_shared;
// Launches, uploads, downloads, times that the host waited for the stream and for an event, allocations.
enum { LAUNCHES, UPLOADS, DOWNLOADS, STREAM_WAITS, EVENT_WAITS, ALLOCATIONS, KINDS };
static u64 counts[KINDS];
static int idle = -1;

void stand_in_counts(u64 *to) { memcpy(to, counts, sizeof counts); }
static int is_idle(void) {
    if (idle < 0) idle = getenv("STAND_IN_IDLE") != 0;
    return idle;
}

static void run_until(int end) {
    for (; done < end; done++) {
        char *to = queue[done].to;
        size_t n = queue[done].bytes;
        if (queue[done].kind == 0) memcpy(to, queue[done].from, n);
        else if (queue[done].kind == 1) memset(to, 0, n);
        else for (size_t i = 0; i < n; i++) ((float *)to)[i] += 1;
    }
}
static int push(int kind, void *to, const void *from, size_t bytes) {
    if (!current) return INVALID_CONTEXT;
    queue[queued].kind = kind, queue[queued].to = to, queue[queued].from = from, queue[queued++].bytes = bytes;
    return 0;
}

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuGetErrorName(int code, const char **s) { *s = code == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR"; return 0; }
int cuGetErrorString(int code, const char **s) { *s = "as the test wants it"; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return i != 0; }
int cuDeviceGetName(char *s, int n, int d) { strcpy(s, "Stand-in"); return 0; }
int cuDeviceGetAttribute(int *v, int which, int d) { *v = which == 75 ? 8 : which == 76 ? 0 : which == 97 ? 101376 : which == 16 ? 132 : -1; return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = (size_t)8 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = &queued; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { return 0; }
int cuCtxSetCurrent(void *c) { current = c == &queued; return 0; }
int cuStreamCreate(void **s, unsigned flags) { *s = &done; return current ? 0 : INVALID_CONTEXT; }
int cuStreamDestroy_v2(void *s) { return 0; }
int cuStreamSynchronize(void *s) { counts[STREAM_WAITS]++; if (!current) return INVALID_CONTEXT; run_until(queued); return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = (size_t)6 << 30, *t = (size_t)8 << 30; return current ? 0 : INVALID_CONTEXT; }
int cuMemAlloc_v2(u64 *p, size_t n) {
    static u64 unused = 1 << 20;
    if (!current) return INVALID_CONTEXT;
    counts[ALLOCATIONS]++;
    if (is_idle()) return *p = unused, unused += (n + 511) & ~(u64)255, 0;
    if (n > (size_t)1 << 30) return OUT_OF_MEMORY;
    *p = (u64)malloc(n);
    return 0;
}
int cuMemFree_v2(u64 p) { if (is_idle()) return 0; run_until(queued); free((void *)p); return 0; }
int cuMemHostAlloc(void **p, size_t n, unsigned flags) { *p = getenv("STAND_IN_UNPINNED") ? 0 : malloc(n); return *p ? 0 : OUT_OF_MEMORY; }
int cuMemFreeHost(void *p) { free(p); return 0; }
int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t n, void *s) {
    counts[UPLOADS]++;
    return is_idle() ? 0 : push(0, (void *)to, from, n);
}
int cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t n, void *s) {
    counts[DOWNLOADS]++;
    if (!is_idle()) return push(0, to, (void *)from, n);
    for (size_t i = 0; i < n / 4; i++) ((float *)to)[i] = 1;
    return 0;
}
int cuMemsetD8Async(u64 at, unsigned char v, size_t n, void *s) { return is_idle() ? 0 : push(1, (void *)at, 0, n); }
int cuModuleLoadData(void **m, const void *image) { *m = &queue; return current ? 0 : INVALID_CONTEXT; }
int cuModuleUnload(void *m) { return 0; }
int cuModuleGetFunction(void **f, void *m, const char *name) { *f = &most_shared; return strcmp(name, "nothing") ? 0 : NOT_FOUND; }
int cuFuncGetAttribute(int *v, int which, void *f) { *v = which == 1 ? 1024 : 0; return 0; }
int cuFuncSetAttribute(void *f, int which, int v) { if (which == 8) most_shared = v; return 0; }
int cuLaunchKernel(void *f, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **arguments, void **extra) {
    counts[LAUNCHES]++;
    if (is_idle()) return 0;
    if (shared > most_shared || bx > 1024) return LAUNCH_FAILED;
    return push(2, *(void **)arguments[0], 0, *(int *)arguments[1]);
}
// What it was asked for, as words; a real driver writes what its cards read.
int cuTensorMapEncodeTiled(u64 *map, int numbers, unsigned rank, void *base, const u64 *size, const u64 *row_bytes, const unsigned *box,
                           const unsigned *every, int interleave, int swizzle, int promotion, int outside) {
    u64 words[16] = {numbers, rank, (u64)base, size[0], size[1], row_bytes[0], box[0], box[1], every[0], every[1], interleave, swizzle,
                     promotion, outside};
    memcpy(map, words, sizeof words);
    return (u64)base % 16 || (u64)map % 64;
}
int cuEventCreate(void **e, unsigned flags) { *e = calloc(1, sizeof(int)); return current ? 0 : INVALID_CONTEXT; }
int cuEventRecord(void *e, void *s) { *(int *)e = queued; return 0; }
int cuEventSynchronize(void *e) { counts[EVENT_WAITS]++; run_until(*(int *)e); return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { *ms = *(int *)b - *(int *)a; return 0; }
int cuEventDestroy_v2(void *e) { free(e); return 0; }
