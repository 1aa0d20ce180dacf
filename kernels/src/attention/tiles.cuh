// Attention by the matrix units of a warp, on tiles of keys that are copied while others are computed with.
//
// A warp holds MT tiles of 16 query rows in registers: their numbers, their output so far, the greatest score and the
// sum of exponentials. Keys and values pass by in tiles of N in shared memory, two of each. Scores are in base 2.
// Of a result tile of the matrix units, a lane holds rows lane / 4 and that + 8, and columns 2 (lane % 4) and that + 1.

#define NO_TURN 0xffffffffu

__device__ __forceinline__ void turn_pair(float &x, float &y, float cosine, float sine) {
    const float turned = x * cosine - y * sine;
    y = x * sine + y * cosine;
    x = turned;
}

// Where the 16 bytes with components 8 chunk.. of a row lie in a tile of N rows: eight rows that follow one another lie
// in different banks. Rows of more than 128 bytes are cut into columns of so many, one column after the other.
template <int D, int N> __device__ __forceinline__ u32 place_of(u32 row, u32 chunk) {
    if (D == 32) return row * 64 + (chunk ^ (row / 2 & 3)) * 16;
    return chunk / 8 * (N * 128) + row * 128 + (chunk % 8 ^ (row & 7)) * 16;
}

// Queries come from a tile of TILE rows in shared memory. They STAY in registers, or are read for each tile of keys.
template <int D, int MT, int TILE, bool STAY = D <= 128> struct Rows {
    u32 q[MT][STAY ? D / 16 : 1][4];
    const u8 *queries;
    u32 own_row;
    // The turn of the queries.
    u32 turn;
    float out[MT][D / 8][4];
    float most[MT][2], total[MT][2];

    __device__ __forceinline__ void clear() {
        turn = NO_TURN;
#pragma unroll
        for (int m = 0; m < MT; ++m) {
            for (int h = 0; h < 2; ++h) most[m][h] = negative_infinity(), total[m][h] = 0;
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                for (int i = 0; i < 4; ++i) out[m][d][i] = 0;
        }
    }

    // Queries of a tile in shared memory, from this row on.
    __device__ __forceinline__ void load(const u8 *tile, u32 first_row) {
        queries = tile, own_row = first_row;
        if (STAY) load_all();
    }

    __device__ __forceinline__ void load_all() {
#pragma unroll
        for (int k = 0; k < D / 16; ++k) load_step(k, k);
    }

    __device__ __forceinline__ void load_step(int k, int to) {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < MT; ++m)
            load_matrices(q[m][to], queries + place_of<D, TILE>(own_row + m * 16 + lane % 16, 2 * k + lane / 16));
    }

    // Scores with a tile of keys, unscaled.
    template <int N> __device__ __forceinline__ void scores(const u8 *keys, float (&s)[MT][N / 8][4]) {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
                for (int i = 0; i < 4; ++i) s[m][n][i] = 0;
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            const int at = STAY ? k : 0;
            if (!STAY) load_step(k, 0);
#pragma unroll
            for (int n = 0; n < N / 16; ++n) {
                u32 b[4];
                load_matrices(b, keys + place_of<D, N>(n * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    mma_f16(s[m][2 * n], q[m][at], b[0], b[1]);
                    mma_f16(s[m][2 * n + 1], q[m][at], b[2], b[3]);
                }
            }
        }
    }

    // Turns the queries, as they came, by a row of a table, [D]: cosines, then sines, one a pair. What keys are turned on
    // by, queries are turned back by.
    __device__ __forceinline__ void turn_queries(const float *by, u32 neighbours) {
        const u32 column = threadIdx.x % 4 * 2;
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (neighbours) {
#pragma unroll
                    for (int k = 0; k < D / 16; ++k) {
                        const u32 pair = (k * 16 + i / 2 * 8 + column) / 2;
                        float x = widen(f16{u16(q[m][k][i])}), y = widen(f16{u16(q[m][k][i] >> 16)});
                        turn_pair(x, y, by[pair], by[D / 2 + pair]);
                        q[m][k][i] = pack_f16(x, y);
                    }
                } else {
#pragma unroll
                    for (int k = 0; k < D / 32; ++k) {
                        float x[2], y[2];
#pragma unroll
                        for (int j = 0; j < 2; ++j) {
                            const u32 pair = k * 16 + i / 2 * 8 + column + j;
                            x[j] = widen(f16{u16(q[m][k][i] >> 16 * j)});
                            y[j] = widen(f16{u16(q[m][k + D / 32][i] >> 16 * j)});
                            turn_pair(x[j], y[j], by[pair], by[D / 2 + pair]);
                        }
                        q[m][k][i] = pack_f16(x[0], x[1]);
                        q[m][k + D / 32][i] = pack_f16(y[0], y[1]);
                    }
                }
    }

    // Gives the queries the turn of a tile of keys.
    template <class Tiles> __device__ __forceinline__ void follow(const Tiles &tiles, u32 tile) {
        if constexpr (Tiles::TURN && STAY) {
            const u32 next = tiles.turns.at(tiles.page(tile));
            if (next == turn) return;
            turn = next;
            load_all();
            if (turn != NO_TURN) turn_queries(tiles.turns.table + turn * D, tiles.turns.neighbours);
        }
    }

    // Turns scores into shares relative to the greatest so far, brings the sums to it, and says by what `rescale` brings
    // the output to it.
    template <int N>
    __device__ __forceinline__ void weigh(float (&s)[MT][N / 8][4], float scale, float (&factor)[MT][2]) {
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
                factor[m][h] = exp2_fast(most[m][h] - origin);
                most[m][h] = greatest;
                float sum = 0;
#pragma unroll
                for (int n = 0; n < N / 8; ++n)
                    for (int i = 2 * h; i < 2 * h + 2; ++i) {
                        s[m][n][i] = exp2_fast(fmaf(s[m][n][i], scale, -origin));
                        sum += s[m][n][i];
                    }
                total[m][h] = total[m][h] * factor[m][h] + sum;
            }
    }

    __device__ __forceinline__ void rescale(const float (&factor)[MT][2]) {
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                for (int i = 0; i < 4; ++i) out[m][d][i] *= factor[m][i / 2];
    }

    // The shares of 16 keys as an operand of the matrix units.
    template <int N>
    __device__ __forceinline__ static void pack_shares(const float (&p)[N / 8][4], int k, u32 (&a)[4]) {
        a[0] = pack_f16(p[2 * k][0], p[2 * k][1]);
        a[1] = pack_f16(p[2 * k][2], p[2 * k][3]);
        a[2] = pack_f16(p[2 * k + 1][0], p[2 * k + 1][1]);
        a[3] = pack_f16(p[2 * k + 1][2], p[2 * k + 1][3]);
    }

    // Adds the values of a tile by their shares.
    template <int N> __device__ __forceinline__ void add(const u8 *values, const float (&p)[MT][N / 8][4]) {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < N / 16; ++k) {
            u32 a[MT][4];
#pragma unroll
            for (int m = 0; m < MT; ++m) pack_shares<N>(p[m], k, a[m]);
#pragma unroll
            for (int d = 0; d < D / 16; ++d) {
                u32 b[4];
                load_matrices_transposed(b, values + place_of<D, N>(k * 16 + lane % 16, 2 * d + lane / 16));
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    mma_f16(out[m][2 * d], a[m], b[0], b[1]);
                    mma_f16(out[m][2 * d + 1], a[m], b[2], b[3]);
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

    // The log-sum-exp of a row, in base 2. What is no number stays, here and in the output.
    __device__ __forceinline__ float log_sum(int m, int h) const {
        return total[m][h] == 0 ? negative_infinity() : most[m][h] + log2f(total[m][h]);
    }

    // Writes a row's output of this lane.
    __device__ __forceinline__ void store(int m, int h, f16 *to) const {
        const float by = total[m][h] == 0 ? 0 : 1.0f / total[m][h];
#pragma unroll
        for (int d = 0; d < D / 8; ++d)
            *reinterpret_cast<u32 *>(to + d * 8 + threadIdx.x % 4 * 2) =
                pack_f16(out[m][d][2 * h] * by, out[m][d][2 * h + 1] * by);
    }
};

// Copies a tile of rows to shared memory by TEAM threads; `row_of` gives a row's address or null, which makes zeros.
template <int D, int N, int TEAM, class RowOf>
__device__ __forceinline__ void copy_tile(u8 *tile, const void *anywhere, RowOf row_of) {
    constexpr int CHUNKS = D / 8;
// Long rows leave few registers for addresses.
#pragma unroll (D > 128 ? 2 : 16)
    for (int i = 0; i < (N * CHUNKS + TEAM - 1) / TEAM; ++i) {
        const u32 at = i * TEAM + threadIdx.x % TEAM, row = at / CHUNKS, chunk = at % CHUNKS;
        if (N * CHUNKS % TEAM != 0 && row >= N) break;
        const auto *from = row_of(row);
        copy_16_async(tile + place_of<D, N>(row, chunk), from ? from + chunk * 8 : anywhere, from != nullptr);
    }
}

template <int TEAM> __device__ __forceinline__ void team_barrier() {
    if constexpr (TEAM == 32) __syncwarp();
    else __syncthreads();
}

// Keys of a tile that a team takes together: as many as leave room for two tiles of keys and of values in the 99 KB that a
// block has on the devices with the least.
template <int D> __device__ __forceinline__ constexpr int team_keys() { return D > 128 ? 16 : 64; }

// Attention by TEAM threads, each warp by its own instructions.
template <int TEAM> struct Warps {
    // Warps that are active together.
    static constexpr u32 TOGETHER = 1;

    // Passes tiles of keys and values by the rows of the team, whose warps have rows of their own. `buffers` has room for
    // two tiles of keys and two of values: one is copied while the other is computed with. `tiles` gives the rows of a tile
    // and masks its scores. A warp that is not active only copies.
    template <int N, int D, int MT, int TILE, class Tiles>
    __device__ __forceinline__ static void attend(Rows<D, MT, TILE> &rows, u8 *buffers, const Tiles &tiles, u32 n_tiles,
                                                  float scale, bool active) {
        constexpr u32 BYTES = N * D * 2;
        u8 *keys = buffers, *values = buffers + 2 * BYTES;
        const auto copy_keys = [&](u32 tile) {
            if (tile < n_tiles)
                copy_tile<D, N, TEAM>(keys + tile % 2 * BYTES, tiles.keys, [&](u32 row) { return tiles.key(tile, row); });
            commit_copies();
        };
        const auto copy_values = [&](u32 tile) {
            if (tile < n_tiles)
                copy_tile<D, N, TEAM>(values + tile % 2 * BYTES, tiles.values,
                                      [&](u32 row) { return tiles.value(tile, row); });
            commit_copies();
        };
        copy_keys(0);
        copy_values(0);
        for (u32 tile = 0; tile < n_tiles; ++tile) {
            float s[MT][N / 8][4], factor[MT][2];
            wait_copies<1>(); // The keys are there; the values may still be under way.
            team_barrier<TEAM>();
            copy_keys(tile + 1);
            if (active) {
                rows.follow(tiles, tile);
                rows.template scores<N>(keys + tile % 2 * BYTES, s);
                if (tiles.masked(tile)) tiles.mask(tile, s);
                rows.template weigh<N>(s, scale, factor);
                rows.rescale(factor);
            }
            wait_copies<1>(); // The values are there; the next keys may still be under way.
            team_barrier<TEAM>();
            copy_values(tile + 1);
            if (active) rows.template add<N>(values + tile % 2 * BYTES, s);
        }
        wait_copies<0>();
        rows.finish();
    }
};

// Packed sequences that see both ways.

template <int MT, int N> struct Neighbourhood {
    // Whether half of the rows are often missing.
    static constexpr bool SHORT = true;
    // Whether keys are turned as they are read.
    static constexpr bool TURN = false;
    const f16 *keys, *values; // of the sequence's first row
    u32 stride, first_key, end, radius, first_row;
    __device__ __forceinline__ const f16 *at(const f16 *from, u32 tile, u32 row) const {
        const u32 key = first_key + tile * N + row;
        return key < end ? from + size_t(key) * stride : nullptr;
    }
    __device__ __forceinline__ const f16 *key(u32 tile, u32 row) const { return at(keys, tile, row); }
    __device__ __forceinline__ const f16 *value(u32 tile, u32 row) const { return at(values, tile, row); }
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
template <class By, int D, int MT, int WARPS>
__device__ __forceinline__ void bidirectional(const f16 *qkv, const u32 *tiles, u32 n_heads, float scale, u32 radius,
                                              f16 *out) {
    constexpr int N = team_keys<D>(), M = MT * 16 * WARPS;
    DYNAMIC_SHARED(shared);
    const u32 start = tiles[3 * blockIdx.x], end = tiles[3 * blockIdx.x + 1] - start;
    const u32 first_row = tiles[3 * blockIdx.x + 2] - start, head = blockIdx.y, warp = threadIdx.x / 32;
    const u32 width = n_heads * D, stride = 3 * width, lane = threadIdx.x % 32;
    const f16 *queries = qkv + size_t(start) * stride + head * D;
    copy_tile<D, M, 32 * WARPS>(shared, qkv, [&](u32 row) -> const f16 * {
        return first_row + row < end ? queries + size_t(first_row + row) * stride : nullptr;
    });
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    Rows<D, MT, M> rows;
    rows.clear();
    rows.load(shared, warp * MT * 16);
    const u32 last_row = min(first_row + M, end) - 1;
    const u32 first_key = radius < first_row ? first_row - radius : 0;
    const u32 end_key = radius < end - 1 - last_row ? last_row + radius + 1 : end;
    const u32 own_row = first_row + warp * MT * 16;
    const Neighbourhood<MT, N> keys{queries + width, queries + 2 * width, stride, first_key, end_key, radius, own_row};
    By::template attend<N>(rows, shared + M * D * 2, keys, (end_key - first_key + N - 1) / N, scale,
                           first_row + warp / By::TOGETHER * By::TOGETHER * MT * 16 < end);
#pragma unroll
    for (int m = 0; m < MT; ++m)
        for (int h = 0; h < 2; ++h) {
            const u32 row = own_row + m * 16 + h * 8 + lane / 4;
            if (row < end) rows.store(m, h, out + (size_t(start) + row) * width + head * D);
        }
}

// Keys and values in pages of 64 tokens, [page, kv head, 64, D].

// Which keys a query sees, as AttentionMask says. A slot without a token stands after all queries.
__device__ __forceinline__ bool sees(u32 query, u32 query_segment, u32 key, u32 key_segment, u32 window, u32 sinks) {
    return key <= query && (query - key < window || key < sinks) &&
           (key_segment == 0 || key_segment == query_segment || query_segment == 0xffffffff);
}

// By which row of a table the queries are turned for each page of the sequence, whose keys are read as if they were turned
// the other way.
struct Turns {
    const u32 *of_pages; // or null
    const float *table;
    u32 neighbours;
    __device__ __forceinline__ u32 at(u32 page) const { return of_pages ? of_pages[page] : NO_TURN; }
};

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

template <int D, int MT, int N> struct Visits {
    static constexpr bool SHORT = false, TURN = true;
    const f16 *keys, *values; // of this kv head of page 0
    const u32 *pages, *visits;
    u32 page_len; // numbers of all heads of a page
    Turns turns;
    Mask<MT, N> seen;
    __device__ __forceinline__ u32 visit(u32 tile) const { return visits[tile * N / 64]; }
    __device__ __forceinline__ u32 page(u32 tile) const { return visit(tile) / 2; }
    __device__ __forceinline__ u32 in_page(u32 tile) const { return tile * N % 64; }
    __device__ __forceinline__ const f16 *at(const f16 *from, u32 tile, u32 row) const {
        return from + size_t(pages[page(tile)]) * page_len + (in_page(tile) + row) * D;
    }
    __device__ __forceinline__ const f16 *key(u32 tile, u32 row) const { return at(keys, tile, row); }
    __device__ __forceinline__ const f16 *value(u32 tile, u32 row) const { return at(values, tile, row); }
    __device__ __forceinline__ bool masked(u32 tile) const { return visit(tile) % 2; }
    __device__ __forceinline__ void mask(u32 tile, float (&s)[MT][N / 8][4]) const {
        seen.apply(page(tile) * 64 + in_page(tile), s);
    }
};

// Any query rows over the pages of one sequence. The query heads of a kv head are rows side by side: row p of a kv head is
// token p / group, head p % group. Block x takes tile order[x], which visits visits[starts[tile]..starts[tile + 1]]: twice
// a page's number in the sequence, plus one where not all of it is seen by all rows.
template <class By, int D, int MT, int WARPS>
__device__ __forceinline__ void causal(const f16 *queries, const u32 *query_positions, const u32 *query_segments,
                                       u32 n_tokens, const f16 *keys, const f16 *values, const u32 *pages,
                                       const u32 *positions, const u32 *segments, const float *log_weights,
                                       Turns turns, const u32 *order, const u32 *starts, const u32 *visits,
                                       u32 n_kv_heads, u32 group, float scale, u32 window, u32 sinks, f16 *out,
                                       float *lse) {
    constexpr int N = team_keys<D>(), M = MT * 16 * WARPS;
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
    Rows<D, MT, M> rows;
    rows.clear();
    rows.load(shared, warp * MT * 16);
    const size_t head_start = size_t(kv_head) * 64 * D;
    Visits<D, MT, N> tiles{keys + head_start,
                        values + head_start,
                        pages,
                        visits + starts[tile],
                        n_kv_heads * 64 * D,
                        turns,
                        {positions, segments, log_weights, window, sinks, {}, {}}};
#pragma unroll
    for (int m = 0; m < MT; ++m)
        for (int h = 0; h < 2; ++h) {
            const u32 token = min(own_row + m * 16 + h * 8 + lane / 4, n_rows - 1) / group;
            tiles.seen.query[m][h] = query_positions[token];
            tiles.seen.query_segment[m][h] = query_segments ? query_segments[token] : 0xffffffff;
        }
    By::template attend<N>(rows, shared + M * D * 2, tiles, (starts[tile + 1] - starts[tile]) * (64 / N), scale,
                           first_row + warp / By::TOGETHER * By::TOGETHER * MT * 16 < n_rows);
#pragma unroll
    for (int m = 0; m < MT; ++m)
        for (int h = 0; h < 2; ++h) {
            const u32 row = own_row + m * 16 + h * 8 + lane / 4;
            if (row >= n_rows) continue;
            rows.store(m, h, out + cell(row) * D);
            if (lse && lane % 4 == 0) lse[cell(row)] = rows.log_sum(m, h) * LN_2;
        }
}
