// attention.cu: causal attention over segments, plain float32, for the short sequences of interpretability.
//
// A segment's keys are those of positions 0 .. prefix_len in the base run's cache, shared by all cells, and its own from
// there on. Where a key comes from changes no bit: the arithmetic sees only the sequence of positions. Scores and
// pattern of a query are materialised before the values are added up, so that a pattern written from a cache gives the
// bits of the run it was taken from. Emulated, not yet run on hardware.
//
// One block per (segment, key/value head); a warp takes one (query, query head) at a time. Keys pass through shared
// memory in tiles of 32, one key per lane.
#include "gpu.cuh"

enum { WARPS = 8, KEYS = 32 };

struct Segment {
    int q_row, n_q, q_position;      // queries and results; position of the first query
    int prefix_row, prefix_len;      // positions 0 .. prefix_len in the base cache
    int own_row, own_len;            // and those behind them
    int first_head;                  // of the model, for column block 0 of q
    int first_override, n_overrides; // in the list of overrides
    i64 capture_at;                  // [n_q, heads, prefix_len + own_len] in the capture buffers
};

struct Override {
    int pattern;  // replaces the pattern; otherwise the scores
    int first_head, end_head;
    int first_destination, end_destination;
    int n_positions;
    i64 values_at;  // [n_positions, n_heads, n_positions] in the values; -1 writes zeros
};

struct Layer {
    int n_heads, n_kv_heads, d_qk, d_v;
    float scale;
    int window;     // 0: none
    float softcap;  // 0: none
    int alibi_rounded;   // slope * position is rounded to bfloat16 and added before the scale, not after it
    const float* alibi;  // [n_heads] slopes, or null
    const float* sinks;  // [n_heads], or null
};

// A matrix of rows `stride` apart; null where it is not needed.
struct Rows {
    const float* at;
    i64 stride;
};

GPU_FN const float* key_row(const Segment& s, Rows prefix, int prefix_col, Rows own, int own_col, int position) {
    return position < s.prefix_len ? prefix.at + (s.prefix_row + position) * prefix.stride + prefix_col
                                   : own.at + (s.own_row + position - s.prefix_len) * own.stride + own_col;
}

// z [q rows, heads * d_v]. Grid: segments x key/value heads that `heads` heads can touch.
//   q, k, v               q may be null where every score or pattern is replaced
//   scores, patterns      capture buffers, or null
//   long_rows             [blocks, WARPS, row_length] where the rows of scores do not fit in shared memory; else null
//   row_length            at least the keys of every segment
// Dynamic shared memory: KEYS * (d_qk + 1) floats, then WARPS * row_length unless long_rows is given.
KERNEL(WARPS * 32, attention_segments)(float* z, i64 z_stride, Layer layer, int heads, Rows q, Rows k, Rows v,
                                       Rows prefix_k, Rows prefix_v, const Segment* segments,
                                       const Override* overrides, const float* override_values, float* scores,
                                       float* patterns, float* long_rows, int row_length) {
    DYNAMIC_SHARED(float, shared);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    Segment s = segments[blockIdx.x];
    int group = layer.n_heads / layer.n_kv_heads, n_keys = s.prefix_len + s.own_len;
    int own_kv = blockIdx.y, kv = s.first_head / group + own_kv;
    // Column blocks of q whose heads read this key/value head.
    int first = max(0, kv * group - s.first_head), end = min(heads, (kv + 1) * group - s.first_head);
    if (first >= end) return;
    int d_qk = layer.d_qk, d_v = layer.d_v;
    float* tile = shared;
    i64 block = (i64)blockIdx.x * gridDim.y + blockIdx.y;
    float* row = long_rows ? long_rows + (block * WARPS + warp) * row_length
                           : shared + KEYS * (d_qk + 1) + warp * row_length;

    int items = s.n_q * (end - first);
    for (int round = 0; round < items; round += WARPS) {
        bool active = round + warp < items;
        int item = active ? round + warp : items - 1;
        int query = item / (end - first), column = first + item % (end - first);
        int head = s.first_head + column, t = s.q_position + query;
        int from = layer.window ? max(0, t + 1 - layer.window) : 0;
        int mine = from + ((lane - from) & 31);  // a lane has the keys lane, lane + 32 ...: the first from `from` on
        const Override* replaced = nullptr;
        for (int o = s.n_overrides - 1; o >= 0; o--) {  // the first that fits counts
            const Override* each = overrides + s.first_override + o;
            if (each->first_head <= head && head < each->end_head && each->first_destination <= t &&
                t < each->end_destination)
                replaced = each;
        }

        // Scores of the keys that the query sees, into `row`.
        if (q.at) {
            const float* query_row = q.at + (s.q_row + query) * q.stride + column * d_qk;
            for (int key0 = 0; key0 < n_keys; key0 += KEYS) {
                __syncthreads();  // the tile before has been read
                for (int i = threadIdx.x; i < KEYS * d_qk; i += blockDim.x) {
                    int key = key0 + i / d_qk, d = i % d_qk;
                    if (key < n_keys)
                        tile[i / d_qk * (d_qk + 1) + d] =
                            key_row(s, prefix_k, kv * d_qk, k, own_kv * d_qk, key)[d];
                }
                __syncthreads();
                int key = key0 + lane;
                if (active && !replaced && key >= from && key <= t) {
                    float sum = 0.0f;
                    for (int d = 0; d < d_qk; d++) sum = fmaf(query_row[d], tile[lane * (d_qk + 1) + d], sum);
                    float bias = layer.alibi ? layer.alibi[head] * (float)key : 0.0f;
                    sum = layer.alibi_rounded ? (sum + to_f32(to_bf16(bias))) * layer.scale : sum * layer.scale + bias;
                    if (layer.softcap != 0.0f) sum = layer.softcap * tanhf(sum / layer.softcap);
                    row[key] = sum;
                }
            }
        }
        if (!active) continue;
        if (replaced) {
            const float* values =
                override_values + replaced->values_at + ((i64)t * layer.n_heads + head) * replaced->n_positions;
            for (int key = mine; key <= t; key += 32)
                row[key] = replaced->values_at < 0 ? 0.0f : values[key];
        }
        i64 captured = s.capture_at + ((i64)query * heads + column) * n_keys;
        bool has_scores = !(replaced && replaced->pattern);
        if (scores) {
            for (int key = lane; key < n_keys; key += 32)
                scores[captured + key] =
                    has_scores && key >= from && key <= t ? row[key] : negative_infinity();
        }

        // Softmax. Each lane has its own keys until here; a sink takes its share of the sum and leaves.
        if (has_scores) {
            float largest = layer.sinks ? layer.sinks[head] : negative_infinity();
            float sink = largest, sum = 0.0f;
            for (int key = mine; key <= t; key += 32) largest = fmaxf(largest, row[key]);
            largest = warp_max(largest);
            for (int key = mine; key <= t; key += 32) {
                float e = expf(row[key] - largest);
                row[key] = e;
                sum += e;
            }
            sum = warp_sum(sum);
            if (layer.sinks) sum += expf(sink - largest);
            float inverse = 1.0f / sum;
            for (int key = mine; key <= t; key += 32) row[key] *= inverse;
        }
        __syncwarp();  // from here on lanes read each other's keys
        if (patterns) {
            for (int key = lane; key < n_keys; key += 32)
                patterns[captured + key] = key >= from && key <= t ? row[key] : 0.0f;
        }

        // z: lanes have dimensions, keys come one after the other.
        float* out = z + (s.q_row + query) * z_stride + column * d_v;
        for (int d = lane; d < d_v; d += 32) {
            float sum = 0.0f;
            for (int key = from; key <= t; key++)
                sum = fmaf(row[key], key_row(s, prefix_v, kv * d_v, v, own_kv * d_v, key)[d], sum);
            out[d] = sum;
        }
        __syncwarp();  // `row` is written again in the next round
    }
}
EXPORT_KERNEL(attention_segments)
