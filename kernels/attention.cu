// attention.cu: causal attention over segments, plain float32, for the short sequences of interpretability.
//
// A segment's keys are those of positions 0 .. prefix_len in the base run's cache, shared by all cells, and its own from
// there on. Where a key comes from changes no bit: the arithmetic sees only the sequence of positions.
//
// Two kernels give the same bits:
//   attention_segments  materialises scores and pattern of a query, which may be captured or replaced: what base runs and
//                       patches of scores and patterns need.
//   attention_fused     keeps neither: all else, the bulk of a wave.
// A base run is captured and a wave is not, so they may differ in no bit, or a patch of a run with itself would change its
// metric. That forbids the rescaling of an online softmax. Both do, for a query and a head, the same in the same order:
//   score     one chain of fmaf over the dimensions, then scale, ALiBi, softcap
//   largest   lane l has the keys l, l + 32 ...; then a butterfly over the lanes
//   sum       likewise, of exp(score - largest)
//   pattern   exp(score - largest) * (1 / sum)
//   z         one chain of fmaf over the keys
// Emulated, not yet run on hardware.
#include "gpu.cuh"

enum { WARPS = 8, KEYS = 32 /* of a tile, one per lane */ };

struct Segment {
    int q_row, n_q, q_position;      // queries and results; position of the first query
    int prefix_row, prefix_len;      // positions 0 .. prefix_len in the base cache
    int own_row, own_len;            // and those behind them
    int first_head;                  // of the model, for column block 0 of q
    int first_override, n_overrides; // in the list of overrides
    i64 capture_at;                  // [n_q, heads, prefix_len + own_len] in the capture buffers
};

struct Override {
    int kind;  // REPLACE_SCORES, REPLACE_PATTERN, CHANGE_SCORES or KNOCKOUT
    int first_head, end_head;
    int first_destination, end_destination;
    int n_positions;
    int first_source, end_source;  // that a knockout takes away
    float factor;                  // of the score, where it is changed
    i64 values_at;                 // [n_positions, n_heads, n_positions] in the values; -1: zeros
};

enum { REPLACE_SCORES, REPLACE_PATTERN, CHANGE_SCORES, KNOCKOUT };

GPU_FN bool fits(const Override& o, int head, int t) {
    return o.first_head <= head && head < o.end_head && o.first_destination <= t && t < o.end_destination;
}

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

// Column blocks first .. end of q, whose heads read one key/value head: number `own_kv` of those in the segment's own rows,
// number `kv` of the model's.
struct Columns {
    int own_kv, kv, first, end;
};

GPU_FN Columns columns_of(const Segment& s, const Layer& layer, int heads, int own_kv) {
    int group = layer.n_heads / layer.n_kv_heads, kv = s.first_head / group + own_kv;
    return Columns{own_kv, kv, max(0, kv * group - s.first_head), min(heads, (kv + 1) * group - s.first_head)};
}

// The first key that a query at position t sees.
GPU_FN int first_seen(const Layer& layer, int t) { return layer.window ? max(0, t + 1 - layer.window) : 0; }

// A lane has the keys lane, lane + 32 ...: the first from `from` on.
GPU_FN int first_of(int lane, int from) { return from + ((lane - from) & 31); }

// What follows is in one place so that both kernels round alike. A compiler may contract a * b + c in one kernel and not in
// the other; __fmul_rn and __fadd_rn are never contracted.

// A score, from the product of query and key.
GPU_FN float score_of(const Layer& layer, int head, float product, int key) {
    float score;
    if (layer.alibi && layer.alibi_rounded)
        score = __fmul_rn(__fadd_rn(product, to_f32(to_bf16(layer.alibi[head] * (float)key))), layer.scale);
    else {
        score = __fmul_rn(product, layer.scale);
        if (layer.alibi) score = fmaf(layer.alibi[head], (float)key, score);
    }
    if (layer.softcap != 0.0f) score = __fmul_rn(layer.softcap, tanhf(score / layer.softcap));
    return score;
}

// Where a lane's largest score begins. A sink takes its share of the softmax and leaves.
GPU_FN float before_scores(const Layer& layer, int head) {
    return layer.sinks ? layer.sinks[head] : negative_infinity();
}

// 1 / the sum of all exponentials, from a lane's.
GPU_FN float inverse_of(const Layer& layer, int head, float sum, float largest) {
    sum = warp_sum(sum);
    if (layer.sinks) sum = __fadd_rn(sum, expf(layer.sinks[head] - largest));
    return 1.0f / sum;
}

// Scores to pattern, in place. The lane has the numbers first, first + 32 ... up to `last`.
GPU_FN void softmax(const Layer& layer, int head, float* row, int first, int last) {
    float largest = before_scores(layer, head), sum = 0.0f;
    for (int i = first; i <= last; i += 32) largest = fmaxf(largest, row[i]);
    largest = warp_max(largest);
    for (int i = first; i <= last; i += 32) {
        float e = expf(row[i] - largest);
        row[i] = e;
        sum = __fadd_rn(sum, e);
    }
    float inverse = inverse_of(layer, head, sum, largest);
    for (int i = first; i <= last; i += 32) row[i] *= inverse;
}

// ---- the pattern is kept ----
//
// One block per (segment, key/value head); a warp takes one (query, query head) at a time. Keys pass through shared
// memory in tiles, values come from where they are.

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
    auto [own_kv, kv, first, end] = columns_of(s, layer, heads, (int)blockIdx.y);
    if (first >= end) return;
    int n_keys = s.prefix_len + s.own_len;
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
        int from = first_seen(layer, t);
        int mine = first_of(lane, from);
        const Override* replaced = nullptr;
        for (int o = s.n_overrides - 1; o >= 0; o--) {  // the first that fits counts
            const Override* each = overrides + s.first_override + o;
            if (each->kind != KNOCKOUT && fits(*each, head, t)) replaced = each;
        }
        bool computed = !replaced || replaced->kind == CHANGE_SCORES;

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
                if (active && computed && key >= from && key <= t) {
                    float sum = 0.0f;
                    for (int d = 0; d < d_qk; d++) sum = fmaf(query_row[d], tile[lane * (d_qk + 1) + d], sum);
                    row[key] = score_of(layer, head, sum, key);
                }
            }
        }
        if (!active) continue;
        if (replaced) {
            const float* values =
                override_values + replaced->values_at + ((i64)t * layer.n_heads + head) * replaced->n_positions;
            for (int key = mine; key <= t; key += 32)
                row[key] = fmaf(replaced->factor, computed ? row[key] : 0.0f,
                                replaced->values_at < 0 ? 0.0f : values[key]);
        }
        for (int o = 0; o < s.n_overrides; o++) {
            const Override& each = overrides[s.first_override + o];
            if (each.kind == KNOCKOUT && fits(each, head, t))
                for (int key = mine; key <= t; key += 32)
                    if (each.first_source <= key && key < each.end_source) row[key] = negative_infinity();
        }
        i64 captured = s.capture_at + ((i64)query * heads + column) * n_keys;
        bool has_scores = !(replaced && replaced->kind == REPLACE_PATTERN);
        if (scores) {
            for (int key = lane; key < n_keys; key += 32)
                scores[captured + key] =
                    has_scores && key >= from && key <= t ? row[key] : negative_infinity();
        }

        // Each lane has its own keys until here.
        if (has_scores) softmax(layer, head, row, mine, t);
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

// ---- the pattern is not kept ----
//
// One block per (tile of items, key/value head); an item is a query and a query head. Its warps take turns at the items, up
// to PER_WARP each, and go through the keys together: tiles of keys and then of values come into shared memory once for
// all items of the block, one while the one before is worked on (cp.async).
//
// Scores are in no memory but the block's own. Where its items see no more keys than a row of shared memory is long, each
// lane keeps the scores of its keys there and makes them the pattern. Where they see more, nothing is kept and the scores
// are computed three times: for the largest, for the sum, and for the pattern of 32 keys at a time. Rows rather than
// registers: registers would need a kernel per length, and an exchange between lanes for every key. The barrier that
// hands on a tile also hands a pattern from the lanes that have keys to the same lanes as they have dimensions.

enum { PER_WARP = 2, ITEMS = WARPS * PER_WARP };
// A tile has at most 64 dimensions of its keys, so that a head may be of any width; padded: no bank conflicts.
enum { DIMS = 64, TILE_LD = DIMS + 4, TILE = KEYS * TILE_LD };

// Items first_item ..+ ITEMS of a segment: item i is query i / columns, column block first + i % columns.
struct ItemTile {
    int segment, first_item;
};

// A query head by its column block, and a query by its position `to`: it sees the keys from .. to.
struct Item {
    int column, from, to;
};

enum Pass { LARGEST, SUM, PATTERN, VALUES };

// What a block does, as a list of stages, each with one tile in shared memory:
//   kept         keys (LARGEST, which ends with the pattern), then VALUES
//   not kept     keys (LARGEST), keys (SUM), then a tile of keys (PATTERN) before each of VALUES
// Where a head is wider than a tile, the chunks of its keys follow each other, and VALUES go through all keys per chunk.
struct Plan {
    bool kept;
    int tiles, qk_chunks, v_chunks;  // tiles of KEYS keys, chunks of DIMS dimensions
};

struct Stage {
    int pass, tile, chunk;
};

GPU_FN int n_stages(const Plan& p) {
    return p.kept ? p.tiles * (p.qk_chunks + p.v_chunks)
                  : p.tiles * (2 * p.qk_chunks + (p.qk_chunks + 1) * p.v_chunks);
}

GPU_FN Stage stage_at(const Plan& p, int i) {
    int per_pass = p.tiles * p.qk_chunks, passes = p.kept ? 1 : 2;
    if (i < passes * per_pass) return Stage{i / per_pass, i / p.qk_chunks % p.tiles, i % p.qk_chunks};
    i -= passes * per_pass;
    int keys_first = p.kept ? 0 : p.qk_chunks, per_tile = keys_first + 1, within = i % per_tile;
    int tile = i / per_tile % p.tiles;
    return within < keys_first ? Stage{PATTERN, tile, within} : Stage{VALUES, tile, i / (per_tile * p.tiles)};
}

// z [q rows, heads * d_v], as attention_segments for segments without overrides and captures. Grid: tiles of items x
// key/value heads that `heads` heads can touch.
//   row_length  of the rows of scores, a multiple of KEYS
// Dynamic shared memory: 2 * TILE floats, then ITEMS * (d_qk rounded up to 4 + row_length).
KERNEL_WITH_BLOCKS(WARPS * 32, 2, attention_fused)(float* z, i64 z_stride, Layer layer, int heads, Rows q, Rows k, Rows v,
                                                   Rows prefix_k, Rows prefix_v, const Segment* segments,
                                                   const ItemTile* item_tiles, int row_length) {
    DYNAMIC_SHARED(float, shared);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    ItemTile block = item_tiles[blockIdx.x];
    Segment s = segments[block.segment];
    Columns c = columns_of(s, layer, heads, (int)blockIdx.y);
    int columns = c.end - c.first, items = min(s.n_q * columns - block.first_item, (int)ITEMS);
    if (columns <= 0 || items <= 0) return;
    int query_ld = (layer.d_qk + 3) / 4 * 4;
    float* queries = shared + 2 * TILE + warp * PER_WARP * query_ld;  // of this warp's items, and so are its rows
    float* rows = shared + 2 * TILE + ITEMS * query_ld + warp * PER_WARP * row_length;

    // This warp's items are number warp, warp + WARPS ... of the block's: so many. A place that is left over works on the
    // last item once more and writes nothing.
    int mine = (items - warp + WARPS - 1) / WARPS;
    Item item[PER_WARP];
    float product[PER_WARP], largest[PER_WARP], sum[PER_WARP] /* in the end 1 / it */, out[PER_WARP][2];
#pragma unroll
    for (int r = 0; r < PER_WARP; r++) {
        int i = block.first_item + min(warp + r * WARPS, items - 1), query = i / columns, column = c.first + i % columns;
        int t = s.q_position + query;
        item[r] = Item{column, first_seen(layer, t), t};
        largest[r] = before_scores(layer, s.first_head + column);
        sum[r] = 0.0f;
        const float* in = q.at + (s.q_row + query) * q.stride + column * layer.d_qk;
        for (int d = lane; d < layer.d_qk; d += 32) cp_async<4>(queries + r * query_ld + d, in + d, 4);
    }
    // The keys that any item of the block sees, in tiles that begin where those of attention_segments do.
    int key0 = first_seen(layer, s.q_position + block.first_item / columns) / KEYS * KEYS;
    int end = s.q_position + (block.first_item + items - 1) / columns + 1;
    Plan plan = {end - key0 <= row_length, (end - key0 + KEYS - 1) / KEYS, (layer.d_qk + DIMS - 1) / DIMS,
                 (layer.d_v + DIMS - 1) / DIMS};

    auto load = [&](const Stage& stage, float* tile) {
        bool values = stage.pass == VALUES;
        Rows prefix = values ? prefix_v : prefix_k, own = values ? v : k;
        int d = values ? layer.d_v : layer.d_qk, dims = min(d - stage.chunk * DIMS, (int)DIMS);
        for (int row = warp; row < KEYS; row += WARPS) {
            int key = key0 + stage.tile * KEYS + row;
            if (key >= end) break;
            const float* in = key_row(s, prefix, c.kv * d, own, c.own_kv * d, key) + stage.chunk * DIMS;
            for (int x = lane; x < dims; x += 32) cp_async<4>(tile + row * TILE_LD + x, in + x, 4);
        }
        cp_async_commit();
    };
    Stage next = stage_at(plan, 0);
    load(next, shared);  // with the queries

    int stages = n_stages(plan);
    for (int i = 0; i < stages; i++) {
        Stage stage = next;
        const float* tile = shared + i % 2 * TILE;
        cp_async_wait<0>();  // this thread's part of stage i has arrived
        __syncthreads();     // everybody's has, everybody is done with stage i - 1, and the pattern it wrote is there
        if (i + 1 < stages) {
            next = stage_at(plan, i + 1);
            load(next, shared + (i + 1) % 2 * TILE);
        }
        if (mine == 0) continue;
        int tile_key = key0 + stage.tile * KEYS;
        bool last_tile = stage.tile == plan.tiles - 1;

        if (stage.pass == VALUES) {  // lanes have dimensions, keys come one after the other
            int dims = min(layer.d_v - stage.chunk * DIMS, (int)DIMS), n_keys = min(end - tile_key, (int)KEYS);
            const float* pattern = rows + (plan.kept ? stage.tile * KEYS : 0);
            if (stage.tile == 0) {
#pragma unroll
                for (int r = 0; r < PER_WARP; r++) out[r][0] = out[r][1] = 0.0f;
            }
            for (int j = 0; j < n_keys; j++) {
                const float* value = tile + j * TILE_LD;
                float low = lane < dims ? value[lane] : 0.0f, high = lane + 32 < dims ? value[lane + 32] : 0.0f;
#pragma unroll
                for (int r = 0; r < PER_WARP; r++) {
                    if (tile_key + j < item[r].from || tile_key + j > item[r].to) continue;
                    float p = pattern[r * row_length + j];
                    out[r][0] = fmaf(p, low, out[r][0]);
                    out[r][1] = fmaf(p, high, out[r][1]);
                }
            }
            if (!last_tile) continue;
#pragma unroll
            for (int r = 0; r < PER_WARP; r++) {
                if (r >= mine) continue;
                i64 row = s.q_row + item[r].to - s.q_position;
                float* at = z + row * z_stride + item[r].column * layer.d_v + stage.chunk * DIMS;
                if (lane < dims) at[lane] = out[r][0];
                if (lane + 32 < dims) at[lane + 32] = out[r][1];
            }
            continue;
        }

        // Lanes have keys, dimensions come one after the other.
        int key = tile_key + lane, dims = min(layer.d_qk - stage.chunk * DIMS, (int)DIMS), d = 0;
        const float *my_key = tile + lane * TILE_LD, *my_queries = queries + stage.chunk * DIMS;
        if (stage.chunk == 0) {
#pragma unroll
            for (int r = 0; r < PER_WARP; r++) product[r] = 0.0f;
        }
        if (key < end) {
            for (; d + 4 <= dims; d += 4) {
                float4 b = *reinterpret_cast<const float4*>(my_key + d);
#pragma unroll
                for (int r = 0; r < PER_WARP; r++) {
                    float4 a = *reinterpret_cast<const float4*>(my_queries + r * query_ld + d);
                    product[r] = fmaf(a.x, b.x, product[r]);
                    product[r] = fmaf(a.y, b.y, product[r]);
                    product[r] = fmaf(a.z, b.z, product[r]);
                    product[r] = fmaf(a.w, b.w, product[r]);
                }
            }
            for (; d < dims; d++) {
#pragma unroll
                for (int r = 0; r < PER_WARP; r++)
                    product[r] = fmaf(my_queries[r * query_ld + d], my_key[d], product[r]);
            }
        }
        if (stage.chunk < plan.qk_chunks - 1) continue;
#pragma unroll
        for (int r = 0; r < PER_WARP; r++) {
            int head = s.first_head + item[r].column;
            float* row = rows + r * row_length;
            if (item[r].from <= key && key <= item[r].to) {
                float score = score_of(layer, head, product[r], key);
                if (plan.kept) row[key - key0] = score;
                else if (stage.pass == LARGEST) largest[r] = fmaxf(largest[r], score);
                else {
                    float e = expf(score - largest[r]);
                    if (stage.pass == SUM) sum[r] = __fadd_rn(sum[r], e);
                    else row[lane] = e * sum[r];
                }
            }
            if (!last_tile) continue;
            if (plan.kept) softmax(layer, head, row, first_of(lane, item[r].from) - key0, item[r].to - key0);
            else if (stage.pass == LARGEST) largest[r] = warp_max(largest[r]);
            else if (stage.pass == SUM) sum[r] = inverse_of(layer, head, sum[r], largest[r]);
        }
    }
}
EXPORT_KERNEL(attention_fused)
