// metrics.cu: what metrics read of the logits, without a row of the whole vocabulary in memory: logits of a few tokens,
// and log-sum-exp and KL divergence accumulated over blocks of the vocabulary.
//
// Logits are float32; their sums of exponentials are float64, since a KL divergence is a small difference of large
// sums. Emulated, not yet run on hardware.
#include "gpu.cuh"

// logit = cap * tanh(scale * (dot + bias) / cap)
GPU_FN float finish_logit(float dot, const float* bias, int token, float scale, float softcap) {
    float logit = scale * (bias ? dot + bias[token] : dot);
    return softcap != 0.0f ? softcap * tanhf(logit / softcap) : logit;
}

enum { WARPS = 8, THREADS = 128 };

// out[i] = logit of tokens[i] in hidden row rows[i]. matrix: [d_vocab, d]. A warp per item.
KERNEL(WARPS * 32, token_logits)(float* out, const float* hidden, int hidden_stride, int d, const u32* rows,
                                 const u32* tokens, int n_items, const float* matrix, const float* bias, float scale,
                                 float softcap) {
    int lane = threadIdx.x & 31;
    int item = (int)(blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5));
    if (item >= n_items) return;
    const float* h = hidden + (i64)rows[item] * hidden_stride;
    const float* w = matrix + (i64)tokens[item] * d;
    float sum = 0.0f;
    for (int i = lane; i < d; i += 32) sum = fmaf(h[i], w[i], sum);
    sum = warp_sum(sum);
    if (lane == 0) out[item] = finish_logit(sum, bias, (int)tokens[item], scale, softcap);
}
EXPORT_KERNEL(token_logits)

// Finishes raw products in place: rows of `cols` logits, of the tokens from first_token on. One block per row.
KERNEL(256, finish_logits)(float* x, int stride, int cols, const float* bias, int first_token, float scale,
                           float softcap) {
    float* row = x + (i64)blockIdx.x * stride;
    for (int i = threadIdx.x; i < cols; i += blockDim.x)
        row[i] = finish_logit(row[i], bias, first_token + i, scale, softcap);
}
EXPORT_KERNEL(finish_logits)

// Running sums over part of the vocabulary: sum = sum of exp(logit - largest).
struct Total {
    double largest, sum;
};

GPU_FN Total merge(Total a, Total b) {
    double largest = fmax(a.largest, b.largest);
    if (largest == negative_infinity()) return Total{largest, 0.0};
    return Total{largest, a.sum * exp(a.largest - largest) + b.sum * exp(b.largest - largest)};
}

// The block's totals, in the order of the threads; valid in thread 0.
GPU_FN Total merge_block(Total mine, Total* shared) {
    shared[threadIdx.x] = mine;
    __syncthreads();
    Total all = mine;
    if (threadIdx.x == 0)
        for (int i = 1; i < THREADS; i++) all = merge(all, shared[i]);
    return all;
}

GPU_FN Total add(Total t, float logit) { return merge(t, Total{logit, 1.0}); }

// Merges raw products of a block of the vocabulary `[rows, cols]` into totals[row]. `begin` starts them. One block of
// THREADS per row.
KERNEL(THREADS, sum_exp_rows)(Total* totals, const float* products, int stride, int cols, const float* bias,
                              int first_token, float scale, float softcap, int begin) {
    SHARED(shared, Total[THREADS]);
    const float* row = products + (i64)blockIdx.x * stride;
    Total mine = {negative_infinity(), 0.0};
    for (int i = threadIdx.x; i < cols; i += THREADS)
        mine = add(mine, finish_logit(row[i], bias, first_token + i, scale, softcap));
    Total all = merge_block(mine, shared);
    if (threadIdx.x == 0) totals[blockIdx.x] = begin ? all : merge(totals[blockIdx.x], all);
}
EXPORT_KERNEL(sum_exp_rows)

// out[i] = ln of the sum of exponentials.
KERNEL(256, log_totals)(float* out, const Total* totals, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[i] = (float)(totals[i].largest + log(totals[i].sum));
}
EXPORT_KERNEL(log_totals)

// Adds a block of the vocabulary's share of KL(p_clean || p_row) to divergence[row]:
//   sum over tokens of exp(c - Zc) * ((c - Zc) - (l - Z)).
//   products, clean     raw products [rows, cols] and [clean rows, cols]
//   clean_rows          [rows]: the clean row of each row
//   totals, clean_totals  over the whole vocabulary, from sum_exp_rows
KERNEL(THREADS, divergence_rows)(double* divergence, const float* products, int stride, const float* clean,
                                 int clean_stride, const u32* clean_rows, int cols, const float* bias, int first_token,
                                 float scale, float softcap, const Total* totals, const Total* clean_totals,
                                 int begin) {
    SHARED(shared, double[THREADS]);
    u32 clean_row = clean_rows[blockIdx.x];
    const float* row = products + (i64)blockIdx.x * stride;
    const float* reference = clean + (i64)clean_row * clean_stride;
    Total t = totals[blockIdx.x], c = clean_totals[clean_row];
    double z = t.largest + log(t.sum), clean_z = c.largest + log(c.sum), mine = 0.0;
    for (int i = threadIdx.x; i < cols; i += THREADS) {
        double log_p = finish_logit(reference[i], bias, first_token + i, scale, softcap) - clean_z;
        double log_q = finish_logit(row[i], bias, first_token + i, scale, softcap) - z;
        mine += exp(log_p) * (log_p - log_q);
    }
    shared[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
        double all = 0.0;
        for (int i = 0; i < THREADS; i++) all += shared[i];
        divergence[blockIdx.x] = begin ? all : divergence[blockIdx.x] + all;
    }
}
EXPORT_KERNEL(divergence_rows)

// float64 to float32.
KERNEL(256, narrow)(float* out, const double* x, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[i] = (float)x[i];
}
EXPORT_KERNEL(narrow)
