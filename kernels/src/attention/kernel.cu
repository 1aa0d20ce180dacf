// Attention for all devices: packed sequences, rows over pages, what slots receive, and few rows over many keys.

#define BIDIRECTIONAL(D, MT, WARPS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                           \
        bidirectional_##D(const f16 *qkv, const u32 *tiles, u32 n_heads, float scale, u32 radius, f16 *out) {          \
        bidirectional<Warps<32 * WARPS>, D, MT, WARPS>(qkv, tiles, n_heads, scale, radius, out);                       \
    }
BIDIRECTIONAL(32, 2, 4)
BIDIRECTIONAL(64, 2, 4)
BIDIRECTIONAL(128, 1, 8)
BIDIRECTIONAL(256, 1, 8)

#define CAUSAL(D, MT, WARPS)                                                                                           \
    extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                           \
        causal_##D(const f16 *queries, const u32 *query_positions, const u32 *query_segments, u32 n_tokens,            \
                   const f16 *keys, const f16 *values, const u32 *pages, const u32 *positions, const u32 *segments,    \
                   const float *log_weights, const u32 *turn_of, const float *turns, u32 neighbours, const u32 *order, \
                   const u32 *starts, const u32 *visits, u32 n_kv_heads, u32 group, float scale, u32 window,           \
                   u32 sinks, f16 *out, float *lse) {                                                                  \
        causal<Warps<32 * WARPS>, D, MT, WARPS>(queries, query_positions, query_segments, n_tokens, keys, values,      \
                                                pages, positions, segments, log_weights, {turn_of, turns, neighbours}, \
                                                order, starts, visits, n_kv_heads, group, scale, window, sinks, out,   \
                                                lse);                                                                  \
    }
CAUSAL(32, 2, 4)
CAUSAL(64, 2, 4)
CAUSAL(128, 1, 8)
CAUSAL(256, 1, 8)

// Queries of a warp from memory: row i of 16 begins at row_of(i), or is zeros where that is null.
template <int D, class RowOf>
__device__ __forceinline__ void load_queries(u32 (&q)[D / 16][4], RowOf row_of) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const f16 *row = row_of(h * 8 + lane / 4);
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
            for (int i = 0; i < 2; ++i)
                q[k][h + 2 * i] =
                    row ? *reinterpret_cast<const u32 *>(row + k * 16 + i * 8 + lane % 4 * 2) : 0;
    }
}

// What each slot receives from all query rows: mass[head, slot] = sum over rows of exp(score - lse). One block takes a
// page and a query head; its four warps share the rows, 16 at a time.
template <int D>
__device__ __forceinline__ void mass(const f16 *queries, const u32 *query_positions, const u32 *query_segments,
                                     u32 n_tokens, const f16 *keys, const u32 *pages, const u32 *positions,
                                     const u32 *segments, const float *log_weights, Turns turns, u32 n_kv_heads,
                                     u32 group, float scale, u32 window, u32 sinks, const float *lse, float *out) {
    DYNAMIC_SHARED(shared);
    __shared__ float sums[4][64];
    const u32 head = blockIdx.y, n_heads = n_kv_heads * group, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const f16 *page = keys + (size_t(pages[blockIdx.x]) * n_kv_heads + head / group) * 64 * D;
    copy_tile<D, 64, 128>(shared, keys, [&](u32 row) { return page + row * D; });
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    u32 least = min(positions[blockIdx.x * 64 + lane], positions[blockIdx.x * 64 + 32 + lane]);
    for (int by = 16; by > 0; by /= 2) least = min(least, __shfl_xor_sync(WHOLE_WARP, least, by));
    Mask<1, 64> seen{positions, segments, log_weights, window, sinks, {}, {}};
    const u32 turn = turns.at(blockIdx.x);
    float sum[8][2] = {};
    for (u32 first = warp * 16; first < n_tokens; first += 64) {
        float row_lse[2];
        for (int h = 0; h < 2; ++h) {
            const u32 token = first + h * 8 + lane / 4, there = min(token, n_tokens - 1);
            seen.query[0][h] = query_positions[there];
            seen.query_segment[0][h] = query_segments ? query_segments[there] : 0xffffffff;
            row_lse[h] = token < n_tokens ? lse[size_t(token) * n_heads + head] * LOG2_E : negative_infinity();
        }
        const bool any = seen.query[0][0] >= least || seen.query[0][1] >= least;
        if (__ballot_sync(WHOLE_WARP, any) == 0) continue;
        Rows<D, 1, 16, true> rows;
        load_queries<D>(rows.q[0], [&](u32 row) -> const f16 * {
            return first + row < n_tokens ? queries + (size_t(first + row) * n_heads + head) * D : nullptr;
        });
        if (turn != NO_TURN) rows.turn_queries(turns.table + turn * D, turns.neighbours);
        float s[1][8][4];
        rows.template scores<64>(shared, s);
        seen.apply(blockIdx.x * 64, s);
#pragma unroll
        for (int n = 0; n < 8; ++n)
            for (int i = 0; i < 4; ++i)
                // A row that saw nothing has no shares to give.
                if (row_lse[i / 2] != negative_infinity())
                    sum[n][i % 2] += exp2_fast(fmaf(s[0][n][i], scale, -row_lse[i / 2]));
    }
#pragma unroll
    for (int n = 0; n < 8; ++n)
        for (int j = 0; j < 2; ++j) {
            for (int by = 4; by < 32; by *= 2) sum[n][j] += __shfl_xor_sync(WHOLE_WARP, sum[n][j], by);
            if (lane < 4) sums[warp][n * 8 + lane * 2 + j] = sum[n][j];
        }
    __syncthreads();
    const u32 slot = threadIdx.x;
    if (slot < 64)
        out[size_t(head) * gridDim.x * 64 + blockIdx.x * 64 + slot] =
            sums[0][slot] + sums[1][slot] + sums[2][slot] + sums[3][slot];
}

#define MASS(D)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        mass_##D(const f16 *queries, const u32 *query_positions, const u32 *query_segments, u32 n_tokens,              \
                 const f16 *keys, const u32 *pages, const u32 *positions, const u32 *segments,                         \
                 const float *log_weights, const u32 *turn_of, const float *turns, u32 neighbours, u32 n_kv_heads,     \
                 u32 group, float scale, u32 window, u32 sinks, const float *lse, float *out) {                        \
        mass<D>(queries, query_positions, query_segments, n_tokens, keys, pages, positions, segments, log_weights,     \
                {turn_of, turns, neighbours}, n_kv_heads, group, scale, window, sinks, lse, out);                      \
    }
MASS(32)
MASS(64)
MASS(128)
MASS(256)

// Few rows of each of many sequences: the keys are cut into splits, and a block's warps take tiles of N keys in turn, each
// with an output of its own. What they have is merged, and what the splits have, by a kernel after. Two blocks or more
// have room on a multiprocessor, and one in the 99 KB of the devices with the least.

template <int D> __device__ __forceinline__ constexpr int decode_keys() { return D > 64 ? 16 : 32; }
template <int D> __device__ __forceinline__ constexpr int decode_warps() { return D > 128 ? 2 : 4; }

template <int D, int N> struct Part {
    static constexpr bool TURN = true;
    const f16 *keys, *values;
    const u32 *pages;
    u32 page_len, first;
    Turns turns;
    Mask<1, N> seen;
    __device__ __forceinline__ u32 part(u32 tile) const { return first + decode_warps<D>() * tile; }
    __device__ __forceinline__ u32 page(u32 tile) const { return part(tile) * N / 64; }
    __device__ __forceinline__ const f16 *at(const f16 *from, u32 tile, u32 row) const {
        return from + size_t(pages[page(tile)]) * page_len + (part(tile) * N % 64 + row) * D;
    }
    __device__ __forceinline__ const f16 *key(u32 tile, u32 row) const { return at(keys, tile, row); }
    __device__ __forceinline__ const f16 *value(u32 tile, u32 row) const { return at(values, tile, row); }
    __device__ __forceinline__ bool masked(u32) const { return true; }
    __device__ __forceinline__ void mask(u32 tile, float (&s)[1][N / 8][4]) const { seen.apply(part(tile) * N, s); }
};

// Sequence z has n_pages[z] pages in its row of `pages`, [sequences, most_pages], whose slots are at `positions`; and
// n_queries tokens, with group heads each at most 16 rows. Partial results are [sequence, kv head, split, 16 rows].
template <int D>
__device__ __forceinline__ void decode(const f16 *queries, const u32 *query_positions, u32 n_queries, const f16 *keys,
                                       const f16 *values, const u32 *pages, const u32 *n_pages, u32 most_pages,
                                       const u32 *positions, Turns turns, u32 n_kv_heads, u32 group, float scale,
                                       u32 window, u32 sinks, float *part_out, float *part_lse) {
    constexpr int N = decode_keys<D>(), WARPS = decode_warps<D>();
    DYNAMIC_SHARED(shared);
    __shared__ float mosts[WARPS][16], totals[WARPS][16];
    const u32 split = blockIdx.x, n_splits = gridDim.x, kv_head = blockIdx.y, sequence = blockIdx.z;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_heads = n_kv_heads * group;
    const u32 n_parts = 64 / N * n_pages[sequence], each = (n_parts + n_splits - 1) / n_splits;
    const u32 start = min(split * each, n_parts), end = min(start + each, n_parts);
    const size_t head_start = size_t(kv_head) * 64 * D;
    Part<D, N> tiles{keys + head_start,
                  values + head_start,
                  pages + size_t(sequence) * most_pages,
                  n_kv_heads * 64 * D,
                  start + warp,
                  {turns.of_pages ? turns.of_pages + size_t(sequence) * most_pages : nullptr, turns.table, turns.neighbours},
                  {positions + size_t(sequence) * most_pages * 64, nullptr, nullptr, window, sinks, {}, {}}};
    constexpr u32 WARP_BYTES = 4 * N * D * 2;
    Rows<D, 1, 16> rows;
    rows.clear();
    const auto token_of = [&](u32 row) { return sequence * n_queries + min(row / group, n_queries - 1); };
    copy_tile<D, 16, 32 * WARPS>(shared + WARPS * WARP_BYTES, queries, [&](u32 row) -> const f16 * {
        const size_t cell = size_t(token_of(row)) * n_heads + kv_head * group + row % group;
        return row < n_queries * group ? queries + cell * D : nullptr;
    });
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    rows.load(shared + WARPS * WARP_BYTES, 0);
    for (int h = 0; h < 2; ++h) {
        tiles.seen.query[0][h] = query_positions[token_of(h * 8 + lane / 4)];
        tiles.seen.query_segment[0][h] = 0xffffffff;
    }
    const u32 n_tiles = start + warp < end ? (end - start - warp + WARPS - 1) / WARPS : 0;
    Warps<32>::attend<N>(rows, shared + warp * WARP_BYTES, tiles, n_tiles, scale, true);
    // Every warp leaves what it has, relative to its own greatest, where its tiles were.
    float *own = reinterpret_cast<float *>(shared + warp * WARP_BYTES);
    __syncwarp();
    for (int h = 0; h < 2; ++h) {
        const u32 row = h * 8 + lane / 4;
        if (lane % 4 == 0) mosts[warp][row] = rows.most[0][h], totals[warp][row] = rows.total[0][h];
#pragma unroll
        for (int d = 0; d < D / 8; ++d)
            for (int j = 0; j < 2; ++j) own[row * D + d * 8 + lane % 4 * 2 + j] = rows.out[0][d][2 * h + j];
    }
    __syncthreads();
    const size_t part = (size_t(sequence) * n_kv_heads + kv_head) * n_splits + split;
    for (u32 i = threadIdx.x; i < n_queries * group * D; i += 32 * WARPS) {
        const u32 row = i / D;
        float most = negative_infinity(), total = 0, sum = 0;
        for (int w = 0; w < WARPS; ++w) most = fmaxf(most, mosts[w][row]);
        const float origin = most == negative_infinity() ? 0 : most;
        for (int w = 0; w < WARPS; ++w) {
            const float factor = exp2_fast(mosts[w][row] - origin);
            total += totals[w][row] * factor;
            sum += reinterpret_cast<const float *>(shared + w * WARP_BYTES)[i] * factor;
        }
        part_out[part * 16 * D + i] = total == 0 ? 0 : sum / total;
        if (i % D == 0) part_lse[part * 16 + row] = total == 0 ? negative_infinity() : most + log2f(total);
    }
}

#define DECODE(D)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(32 * decode_warps<D>())                                              \
        decode_##D(const f16 *queries, const u32 *query_positions, u32 n_queries, const f16 *keys, const f16 *values,  \
                   const u32 *pages, const u32 *n_pages, u32 most_pages, const u32 *positions, const u32 *turn_of,     \
                   const float *turns, u32 neighbours, u32 n_kv_heads, u32 group, float scale, u32 window, u32 sinks,  \
                   float *part_out, float *part_lse) {                                                                 \
        decode<D>(queries, query_positions, n_queries, keys, values, pages, n_pages, most_pages, positions,            \
                  {turn_of, turns, neighbours}, n_kv_heads, group, scale, window, sinks, part_out, part_lse);          \
    }
DECODE(32)
DECODE(64)
DECODE(128)
DECODE(256)

// Merges the splits of one row, a warp each, as merge_attention does.
extern "C" __global__ void __launch_bounds__(128)
    merge_splits(const float *part_out, const float *part_lse, u32 n_splits, u32 n_queries, u32 n_kv_heads, u32 group,
                 u32 dim, u32 n, f16 *out, float *lse) {
    const u32 lane = threadIdx.x % 32, i = blockIdx.x * 4 + threadIdx.x / 32;
    if (i >= n) return;
    const u32 n_rows = n_queries * group, row = i % n_rows, part = i / n_rows, sequence = part / n_kv_heads;
    const float *lses = part_lse + size_t(part) * n_splits * 16 + row;
    float most = negative_infinity(), total = 0;
    for (u32 split = lane; split < n_splits; split += 32) most = fmaxf(most, lses[split * 16]);
    for (int by = 16; by > 0; by /= 2) most = fmaxf(most, __shfl_xor_sync(WHOLE_WARP, most, by));
    const float origin = most == negative_infinity() ? 0 : most;
    for (u32 split = lane; split < n_splits; split += 32) total += exp2_fast(lses[split * 16] - origin);
    total = warp_sum(total);
    const size_t cell = (size_t(sequence) * n_queries + row / group) * n_kv_heads * group + part % n_kv_heads * group + row % group;
    const float by = total == 0 ? 0 : 1.0f / total;
    for (u32 d = lane; d < dim; d += 32) {
        float sum = 0;
        for (u32 split = 0; split < n_splits; ++split)
            sum += part_out[((size_t(part) * n_splits + split) * 16 + row) * dim + d] *
                   exp2_fast(lses[split * 16] - origin);
        narrow(sum * by, out[cell * dim + d]);
    }
    if (lse && lane == 0) lse[cell] = total == 0 ? negative_infinity() : (most + log2f(total)) * LN_2;
}
