// Attention by the matrix units of a warp, on tiles of keys that are copied while others are computed with.
//
// A warp holds MT tiles of 16 query rows in registers: their numbers, their output so far, the greatest score and the
// sum of exponentials. Keys and values pass by in tiles of N in shared memory, two of each. Scores are in base 2.
// Of a result tile of the matrix units, a lane holds rows lane / 4 and that + 8, and columns 2 (lane % 4) and that + 1.

__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, bf16) { mma_bf16(c, a, b0, b1); }
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, f16) { mma_f16(c, a, b0, b1); }

// Where the 16 bytes with components 8 chunk.. of a row lie in a tile: eight rows that follow one another lie in
// different banks.
template <int D> __device__ __forceinline__ u32 place_of(u32 row, u32 chunk) {
    const u32 turned = D == 32 ? chunk ^ (row / 2 & 3) : chunk ^ (row & 7);
    return row * (D * 2) + turned * 16;
}

template <class T, int D, int MT> struct Rows {
    u32 q[MT][D / 16][4];
    float out[MT][D / 8][4];
    float most[MT][2], total[MT][2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < MT; ++m) {
            for (int h = 0; h < 2; ++h) most[m][h] = negative_infinity(), total[m][h] = 0;
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                for (int i = 0; i < 4; ++i) out[m][d][i] = 0;
        }
    }

    // Queries from a tile in shared memory whose first row this is.
    __device__ __forceinline__ void load(const u8 *tile, u32 first_row) {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int k = 0; k < D / 16; ++k)
                load_matrices(q[m][k], tile + place_of<D>(first_row + m * 16 + lane % 16, 2 * k + lane / 16));
    }

    // Scores with a tile of keys, unscaled.
    template <int N> __device__ __forceinline__ void scores(const u8 *keys, float (&s)[MT][N / 8][4]) const {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
                for (int i = 0; i < 4; ++i) s[m][n][i] = 0;
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
#pragma unroll
            for (int n = 0; n < N / 16; ++n) {
                u32 b[4];
                load_matrices(b, keys + place_of<D>(n * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    mma(s[m][2 * n], q[m][k], b[0], b[1], T());
                    mma(s[m][2 * n + 1], q[m][k], b[2], b[3], T());
                }
            }
    }

    // Turns scores into shares relative to the greatest so far, and brings sums and output to the new greatest.
    template <int N> __device__ __forceinline__ void weigh(float (&s)[MT][N / 8][4], float scale) {
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float greatest = negative_infinity();
#pragma unroll
                for (int n = 0; n < N / 8; ++n) greatest = fmaxf(greatest, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
                greatest = fmaxf(greatest, __shfl_xor_sync(WHOLE_WARP, greatest, 1));
                greatest = fmaxf(greatest, __shfl_xor_sync(WHOLE_WARP, greatest, 2));
                greatest = fmaxf(most[m][h], greatest * scale);
                // Where no key was seen yet, every share is exp2(-inf - 0).
                const float origin = greatest == negative_infinity() ? 0 : greatest;
                const float factor = exp2_fast(most[m][h] - origin);
                most[m][h] = greatest;
                float sum = 0;
#pragma unroll
                for (int n = 0; n < N / 8; ++n)
                    for (int i = 2 * h; i < 2 * h + 2; ++i) {
                        s[m][n][i] = exp2_fast(fmaf(s[m][n][i], scale, -origin));
                        sum += s[m][n][i];
                    }
                total[m][h] = total[m][h] * factor + sum;
#pragma unroll
                for (int d = 0; d < D / 8; ++d) out[m][d][2 * h] *= factor, out[m][d][2 * h + 1] *= factor;
            }
    }

    // Adds the values of a tile by their shares.
    template <int N> __device__ __forceinline__ void add(const u8 *values, const float (&p)[MT][N / 8][4]) {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < N / 16; ++k) {
            u32 a[MT][4];
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                a[m][0] = pack(p[m][2 * k][0], p[m][2 * k][1], T());
                a[m][1] = pack(p[m][2 * k][2], p[m][2 * k][3], T());
                a[m][2] = pack(p[m][2 * k + 1][0], p[m][2 * k + 1][1], T());
                a[m][3] = pack(p[m][2 * k + 1][2], p[m][2 * k + 1][3], T());
            }
#pragma unroll
            for (int d = 0; d < D / 16; ++d) {
                u32 b[4];
                load_matrices_transposed(b, values + place_of<D>(k * 16 + lane % 16, 2 * d + lane / 16));
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    mma(out[m][2 * d], a[m], b[0], b[1], T());
                    mma(out[m][2 * d + 1], a[m], b[2], b[3], T());
                }
            }
        }
    }

    // Sums of the four lanes that share a row.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int m = 0; m < MT; ++m)
            for (int h = 0; h < 2; ++h) {
                total[m][h] += __shfl_xor_sync(WHOLE_WARP, total[m][h], 1);
                total[m][h] += __shfl_xor_sync(WHOLE_WARP, total[m][h], 2);
            }
    }

    // The log-sum-exp of a row, in base 2.
    __device__ __forceinline__ float log_sum(int m, int h) const {
        return total[m][h] > 0 ? most[m][h] + log2f(total[m][h]) : negative_infinity();
    }

    // Writes a row's output of this lane.
    __device__ __forceinline__ void store(int m, int h, T *to) const {
        const float by = total[m][h] > 0 ? 1.0f / total[m][h] : 0;
#pragma unroll
        for (int d = 0; d < D / 8; ++d)
            *reinterpret_cast<u32 *>(to + d * 8 + threadIdx.x % 4 * 2) =
                pack(out[m][d][2 * h] * by, out[m][d][2 * h + 1] * by, T());
    }
};

// Copies a tile of rows to shared memory by TEAM threads; `row_of` gives a row's address or null, which makes zeros.
template <int D, int N, int TEAM, class RowOf>
__device__ __forceinline__ void copy_tile(u8 *tile, const void *anywhere, RowOf row_of) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < (N * CHUNKS + TEAM - 1) / TEAM; ++i) {
        const u32 at = i * TEAM + threadIdx.x % TEAM, row = at / CHUNKS, chunk = at % CHUNKS;
        if (N * CHUNKS % TEAM != 0 && row >= N) break;
        const auto *from = row_of(row);
        copy_16_async(tile + place_of<D>(row, chunk), from ? from + chunk * 8 : anywhere, from != nullptr);
    }
}

template <int TEAM> __device__ __forceinline__ void team_barrier() {
    if constexpr (TEAM == 32) __syncwarp();
    else __syncthreads();
}

// Passes tiles of keys and values by the rows of a team of threads, whose warps have rows of their own. `buffers` has
// room for two tiles of keys and two of values. `tiles` gives the rows of a tile and masks its scores. A warp that is
// not active only copies.
template <class T, int D, int N, int MT, int TEAM, class Tiles>
__device__ __forceinline__ void attend(Rows<T, D, MT> &rows, u8 *buffers, const Tiles &tiles, u32 n_tiles, float scale,
                                       bool active) {
    constexpr u32 BYTES = N * D * 2;
    u8 *keys = buffers, *values = buffers + 2 * BYTES;
    const auto copy_keys = [&](u32 tile) {
        if (tile < n_tiles)
            copy_tile<D, N, TEAM>(keys + tile % 2 * BYTES, tiles.keys, [&](u32 row) { return tiles.key(tile, row); });
        commit_copies();
    };
    const auto copy_values = [&](u32 tile) {
        if (tile < n_tiles)
            copy_tile<D, N, TEAM>(values + tile % 2 * BYTES, tiles.values, [&](u32 row) { return tiles.value(tile, row); });
        commit_copies();
    };
    copy_keys(0);
    copy_values(0);
    for (u32 tile = 0; tile < n_tiles; ++tile) {
        float s[MT][N / 8][4];
        wait_copies<1>(); // The keys are there; the values may still be under way.
        team_barrier<TEAM>();
        copy_keys(tile + 1);
        if (active) {
            rows.template scores<N>(keys + tile % 2 * BYTES, s);
            if (tiles.masked(tile)) tiles.mask(tile, s);
            rows.template weigh<N>(s, scale);
        }
        wait_copies<1>(); // The values are there; the next keys may still be under way.
        team_barrier<TEAM>();
        copy_values(tile + 1);
        if (active) rows.template add<N>(values + tile % 2 * BYTES, s);
    }
    wait_copies<0>();
    rows.finish();
}

// Packed sequences that see both ways.

template <class T, int MT, int N> struct Neighbourhood {
    const T *keys, *values; // of the sequence's first row
    u32 stride, first_key, end, radius, first_row;
    __device__ __forceinline__ const T *at(const T *from, u32 tile, u32 row) const {
        const u32 key = first_key + tile * N + row;
        return key < end ? from + size_t(key) * stride : nullptr;
    }
    __device__ __forceinline__ const T *key(u32 tile, u32 row) const { return at(keys, tile, row); }
    __device__ __forceinline__ const T *value(u32 tile, u32 row) const { return at(values, tile, row); }
    __device__ __forceinline__ bool masked(u32 tile) const {
        return radius != 0xffffffff || first_key + (tile + 1) * N > end;
    }
    __device__ __forceinline__ void mask(u32 tile, float (&s)[MT][N / 8][4]) const {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
                for (int i = 0; i < 4; ++i) {
                    const u32 key = first_key + tile * N + n * 8 + lane % 4 * 2 + i % 2;
                    const u32 row = first_row + m * 16 + lane / 4 + i / 2 * 8;
                    const u32 distance = key > row ? key - row : row - key;
                    if (key >= end || distance > radius) s[m][n][i] = negative_infinity();
                }
    }
};

// `tiles` has three numbers a block: a sequence's start and end, and the tile's first row, of qkv [n, 3 heads D].
template <class T, int D, int MT, int WARPS>
__device__ __forceinline__ void bidirectional(const T *qkv, const u32 *tiles, u32 n_heads, float scale, u32 radius,
                                              T *out) {
    constexpr int N = 64, M = MT * 16 * WARPS;
    DYNAMIC_SHARED(shared);
    const u32 start = tiles[3 * blockIdx.x], end = tiles[3 * blockIdx.x + 1] - start;
    const u32 first_row = tiles[3 * blockIdx.x + 2] - start, head = blockIdx.y, warp = threadIdx.x / 32;
    const u32 width = n_heads * D, stride = 3 * width, lane = threadIdx.x % 32;
    const T *queries = qkv + size_t(start) * stride + head * D;
    copy_tile<D, M, 32 * WARPS>(shared, qkv, [&](u32 row) -> const T * {
        return first_row + row < end ? queries + size_t(first_row + row) * stride : nullptr;
    });
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    Rows<T, D, MT> rows;
    rows.clear();
    rows.load(shared, warp * MT * 16);
    const u32 last_row = min(first_row + M, end) - 1;
    const u32 first_key = radius < first_row ? first_row - radius : 0;
    const u32 end_key = radius < end - 1 - last_row ? last_row + radius + 1 : end;
    const u32 own_row = first_row + warp * MT * 16;
    const Neighbourhood<T, MT, N> keys{queries + width, queries + 2 * width, stride, first_key, end_key, radius, own_row};
    attend<T, D, N, MT, 32 * WARPS>(rows, shared + M * D * 2, keys, (end_key - first_key + N - 1) / N, scale,
                                    own_row < end);
#pragma unroll
    for (int m = 0; m < MT; ++m)
        for (int h = 0; h < 2; ++h) {
            const u32 row = own_row + m * 16 + h * 8 + lane / 4;
            if (row < end) rows.store(m, h, out + (size_t(start) + row) * width + head * D);
        }
}

#define BIDIRECTIONAL(D, MT, WARPS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                           \
        bidirectional_##D(const bf16 *qkv, const u32 *tiles, u32 n_heads, float scale, u32 radius, bf16 *out) {        \
        bidirectional<bf16, D, MT, WARPS>(qkv, tiles, n_heads, scale, radius, out);                                    \
    }
BIDIRECTIONAL(32, 2, 4)
BIDIRECTIONAL(64, 2, 4)
BIDIRECTIONAL(128, 1, 8)

// Keys and values in pages of 64 tokens, [page, kv head, 64, D].

// Which keys a query sees, as AttentionMask says. A slot without a token stands after all queries.
__device__ __forceinline__ bool sees(u32 query, u32 query_segment, u32 key, u32 key_segment, u32 window, u32 sinks) {
    return key <= query && (query - key < window || key < sinks) &&
           (key_segment == 0 || key_segment == query_segment || query_segment == 0xffffffff);
}

template <int MT, int N> struct Mask {
    const u32 *positions, *segments; // of all slots of the sequence; no segments where null
    const float *log_weights;        // in units of unscaled scores, or null
    u32 window, sinks;
    u32 query[MT][2], query_segment[MT][2]; // of the rows of this lane
    __device__ __forceinline__ void apply(u32 first_slot, float (&s)[MT][N / 8][4]) const {
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
            for (int j = 0; j < 2; ++j) {
                const u32 slot = first_slot + n * 8 + threadIdx.x % 4 * 2 + j;
                const u32 key = positions[slot], segment = segments ? segments[slot] : 0;
                const float weight = log_weights ? log_weights[slot] : 0;
#pragma unroll
                for (int m = 0; m < MT; ++m)
                    for (int h = 0; h < 2; ++h) {
                        const bool seen = sees(query[m][h], query_segment[m][h], key, segment, window, sinks);
                        s[m][n][2 * h + j] = seen ? s[m][n][2 * h + j] + weight : negative_infinity();
                    }
            }
    }
};

template <int D, int MT> struct Visits {
    const f16 *keys, *values; // of this kv head of page 0
    const u32 *pages, *visits;
    u32 page_len; // numbers of all heads of a page
    Mask<MT, 64> seen;
    __device__ __forceinline__ const f16 *at(const f16 *from, u32 tile, u32 row) const {
        return from + size_t(pages[visits[tile] / 2]) * page_len + row * D;
    }
    __device__ __forceinline__ const f16 *key(u32 tile, u32 row) const { return at(keys, tile, row); }
    __device__ __forceinline__ const f16 *value(u32 tile, u32 row) const { return at(values, tile, row); }
    __device__ __forceinline__ bool masked(u32 tile) const { return visits[tile] % 2; }
    __device__ __forceinline__ void mask(u32 tile, float (&s)[MT][8][4]) const { seen.apply(visits[tile] / 2 * 64, s); }
};

// Any query rows over the pages of one sequence. The query heads of a kv head are rows side by side: row p of a kv head is
// token p / group, head p % group. Block x takes tile order[x], which visits visits[starts[tile]..starts[tile + 1]]: twice
// a page's number in the sequence, plus one where not all of it is seen by all rows.
template <int D, int MT, int WARPS>
__device__ __forceinline__ void causal(const f16 *queries, const u32 *query_positions, const u32 *query_segments,
                                       u32 n_tokens, const f16 *keys, const f16 *values, const u32 *pages,
                                       const u32 *positions, const u32 *segments, const float *log_weights,
                                       const u32 *order, const u32 *starts, const u32 *visits, u32 n_kv_heads, u32 group,
                                       float scale, u32 window, u32 sinks, f16 *out, float *lse) {
    constexpr int N = 64, M = MT * 16 * WARPS;
    DYNAMIC_SHARED(shared);
    const u32 tile = order[blockIdx.x], kv_head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 n_rows = n_tokens * group, first_row = tile * M, own_row = first_row + warp * MT * 16;
    const u32 n_heads = n_kv_heads * group;
    const auto cell = [&](u32 row) { return size_t(row / group) * n_heads + kv_head * group + row % group; };
    copy_tile<D, M, 32 * WARPS>(shared, queries, [&](u32 row) -> const f16 * {
        return first_row + row < n_rows ? queries + cell(first_row + row) * D : nullptr;
    });
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    Rows<f16, D, MT> rows;
    rows.clear();
    rows.load(shared, warp * MT * 16);
    const size_t head_start = size_t(kv_head) * 64 * D;
    Visits<D, MT> tiles{keys + head_start,
                        values + head_start,
                        pages,
                        visits + starts[tile],
                        n_kv_heads * 64 * D,
                        {positions, segments, log_weights, window, sinks, {}, {}}};
#pragma unroll
    for (int m = 0; m < MT; ++m)
        for (int h = 0; h < 2; ++h) {
            const u32 token = min(own_row + m * 16 + h * 8 + lane / 4, n_rows - 1) / group;
            tiles.seen.query[m][h] = query_positions[token];
            tiles.seen.query_segment[m][h] = query_segments ? query_segments[token] : 0xffffffff;
        }
    attend<f16, D, N, MT, 32 * WARPS>(rows, shared + M * D * 2, tiles, starts[tile + 1] - starts[tile], scale,
                                      own_row < n_rows);
#pragma unroll
    for (int m = 0; m < MT; ++m)
        for (int h = 0; h < 2; ++h) {
            const u32 row = own_row + m * 16 + h * 8 + lane / 4;
            if (row >= n_rows) continue;
            rows.store(m, h, out + cell(row) * D);
            if (lse && lane % 4 == 0) lse[cell(row)] = rows.log_sum(m, h) * LN_2;
        }
}

#define CAUSAL(D, MT, WARPS)                                                                                           \
    extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                           \
        causal_##D(const f16 *queries, const u32 *query_positions, const u32 *query_segments, u32 n_tokens,            \
                   const f16 *keys, const f16 *values, const u32 *pages, const u32 *positions, const u32 *segments,    \
                   const float *log_weights, const u32 *order, const u32 *starts, const u32 *visits, u32 n_kv_heads,   \
                   u32 group, float scale, u32 window, u32 sinks, f16 *out, float *lse) {                              \
        causal<D, MT, WARPS>(queries, query_positions, query_segments, n_tokens, keys, values, pages, positions,       \
                             segments, log_weights, order, starts, visits, n_kv_heads, group, scale, window, sinks,    \
                             out, lse);                                                                                \
    }
CAUSAL(32, 2, 4)
CAUSAL(64, 2, 4)
CAUSAL(128, 1, 8)

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
                                     const u32 *segments, const float *log_weights, u32 n_kv_heads, u32 group,
                                     float scale, u32 window, u32 sinks, const float *lse, float *out) {
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
        Rows<f16, D, 1> rows;
        load_queries<D>(rows.q[0], [&](u32 row) -> const f16 * {
            return first + row < n_tokens ? queries + (size_t(first + row) * n_heads + head) * D : nullptr;
        });
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
                 const float *log_weights, u32 n_kv_heads, u32 group, float scale, u32 window, u32 sinks,              \
                 const float *lse, float *out) {                                                                       \
        mass<D>(queries, query_positions, query_segments, n_tokens, keys, pages, positions, segments, log_weights,     \
                n_kv_heads, group, scale, window, sinks, lse, out);                                                    \
    }
MASS(32)
MASS(64)
MASS(128)

// Few rows of each of many sequences: the keys are cut into splits, and a block's four warps take tiles of 32 keys in
// turn, each with an output of its own. What they have is merged, and what the splits have, by a kernel after.

template <int D> struct Half {
    const f16 *keys, *values;
    const u32 *pages;
    u32 page_len, first;
    Mask<1, 32> seen;
    __device__ __forceinline__ u32 half(u32 tile) const { return first + 4 * tile; }
    __device__ __forceinline__ const f16 *at(const f16 *from, u32 tile, u32 row) const {
        return from + size_t(pages[half(tile) / 2]) * page_len + (half(tile) % 2 * 32 + row) * D;
    }
    __device__ __forceinline__ const f16 *key(u32 tile, u32 row) const { return at(keys, tile, row); }
    __device__ __forceinline__ const f16 *value(u32 tile, u32 row) const { return at(values, tile, row); }
    __device__ __forceinline__ bool masked(u32) const { return true; }
    __device__ __forceinline__ void mask(u32 tile, float (&s)[1][4][4]) const { seen.apply(half(tile) * 32, s); }
};

// Sequence z has n_pages[z] pages in its row of `pages`, [sequences, most_pages], whose slots are at `positions`; and
// n_queries tokens, with group heads each at most 16 rows. Partial results are [sequence, kv head, split, 16 rows].
template <int D>
__device__ __forceinline__ void decode(const f16 *queries, const u32 *query_positions, u32 n_queries, const f16 *keys,
                                       const f16 *values, const u32 *pages, const u32 *n_pages, u32 most_pages,
                                       const u32 *positions, u32 n_kv_heads, u32 group, float scale, u32 window,
                                       u32 sinks, float *part_out, float *part_lse) {
    DYNAMIC_SHARED(shared);
    __shared__ float mosts[4][16], totals[4][16];
    const u32 split = blockIdx.x, n_splits = gridDim.x, kv_head = blockIdx.y, sequence = blockIdx.z;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_heads = n_kv_heads * group;
    const u32 n_halves = 2 * n_pages[sequence], each = (n_halves + n_splits - 1) / n_splits;
    const u32 start = min(split * each, n_halves), end = min(start + each, n_halves);
    const size_t head_start = size_t(kv_head) * 64 * D;
    Half<D> tiles{keys + head_start,
                  values + head_start,
                  pages + size_t(sequence) * most_pages,
                  n_kv_heads * 64 * D,
                  start + warp,
                  {positions + size_t(sequence) * most_pages * 64, nullptr, nullptr, window, sinks, {}, {}}};
    Rows<f16, D, 1> rows;
    rows.clear();
    const auto token_of = [&](u32 row) { return sequence * n_queries + min(row / group, n_queries - 1); };
    load_queries<D>(rows.q[0], [&](u32 row) -> const f16 * {
        const size_t cell = size_t(token_of(row)) * n_heads + kv_head * group + row % group;
        return row < n_queries * group ? queries + cell * D : nullptr;
    });
    for (int h = 0; h < 2; ++h) {
        tiles.seen.query[0][h] = query_positions[token_of(h * 8 + lane / 4)];
        tiles.seen.query_segment[0][h] = 0xffffffff;
    }
    const u32 n_tiles = start + warp < end ? (end - start - warp + 3) / 4 : 0;
    constexpr u32 WARP_BYTES = 4 * 32 * D * 2;
    attend<f16, D, 32, 1, 32>(rows, shared + warp * WARP_BYTES, tiles, n_tiles, scale, true);
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
    for (u32 i = threadIdx.x; i < n_queries * group * D; i += 128) {
        const u32 row = i / D;
        float most = negative_infinity(), total = 0, sum = 0;
        for (int w = 0; w < 4; ++w) most = fmaxf(most, mosts[w][row]);
        const float origin = most == negative_infinity() ? 0 : most;
        for (int w = 0; w < 4; ++w) {
            const float factor = exp2_fast(mosts[w][row] - origin);
            total += totals[w][row] * factor;
            sum += reinterpret_cast<const float *>(shared + w * WARP_BYTES)[i] * factor;
        }
        part_out[part * 16 * D + i] = total > 0 ? sum / total : 0;
        if (i % D == 0) part_lse[part * 16 + row] = total > 0 ? most + log2f(total) : negative_infinity();
    }
}

#define DECODE(D)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        decode_##D(const f16 *queries, const u32 *query_positions, u32 n_queries, const f16 *keys, const f16 *values,  \
                   const u32 *pages, const u32 *n_pages, u32 most_pages, const u32 *positions, u32 n_kv_heads,         \
                   u32 group, float scale, u32 window, u32 sinks, float *part_out, float *part_lse) {                  \
        decode<D>(queries, query_positions, n_queries, keys, values, pages, n_pages, most_pages, positions,            \
                  n_kv_heads, group, scale, window, sinks, part_out, part_lse);                                        \
    }
DECODE(32)
DECODE(64)
DECODE(128)

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
    const float by = total > 0 ? 1.0f / total : 0;
    for (u32 d = lane; d < dim; d += 32) {
        float sum = 0;
        for (u32 split = 0; split < n_splits; ++split)
            sum += part_out[((size_t(part) * n_splits + split) * 16 + row) * dim + d] *
                   exp2_fast(lses[split * 16] - origin);
        narrow(sum * by, out[cell * dim + d]);
    }
    if (lse && lane == 0) lse[cell] = total > 0 ? (most + log2f(total)) * LN_2 : negative_infinity();
}
