// Attention for Hopper: four warps multiply 64 rows together with keys and values where they lie in shared memory, and
// weigh the scores of a tile while the values of the one before are added.

template <int TEAM> struct WarpGroups {
    static constexpr u32 TOGETHER = 4;

    template <int N, int D, int TILE>
    __device__ __forceinline__ static void begin_scores(const Rows<D, 1, TILE> &rows, const u8 *keys, float (&s)[N / 8][4]) {
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
            begin_product<false>(s, rows.q[0][k], operand<ROW_BYTES<D>>(keys + k / 4 * (N * 128) + k % 4 * 32, 16), k > 0);
        commit_products();
    }

    template <int N, int D, int TILE>
    __device__ __forceinline__ static void begin_sums(Rows<D, 1, TILE> &rows, const u8 *values, const u32 (&p)[N / 16][4]) {
#pragma unroll
        for (int k = 0; k < N / 16; ++k)
            begin_product<true>(rows.out[0], p[k], operand<ROW_BYTES<D>>(values + k * 16 * ROW_BYTES<D>, N * 128), true);
        commit_products();
    }

    template <int D> static constexpr int ROW_BYTES = D == 32 ? 64 : 128;

    // As `Warps::attend`, with two tiles of keys and two of values.
    template <int N, int D, int TILE, class Tiles>
    __device__ __forceinline__ static void attend(Rows<D, 1, TILE> &rows, u8 *buffers, const Tiles &tiles, u32 n_tiles,
                                                  float scale, bool active) {
        constexpr u32 BYTES = N * D * 2;
        u8 *keys = buffers, *values = buffers + 2 * BYTES;
        // The keys of a tile, and the values of the one before.
        const auto copy = [&](u32 tile) {
            if (tile < n_tiles)
                copy_tile<D, N, TEAM>(keys + tile % 2 * BYTES, tiles.keys, [&](u32 row) { return tiles.key(tile, row); });
            if (tile - 1 < n_tiles)
                copy_tile<D, N, TEAM>(values + (tile - 1) % 2 * BYTES, tiles.values,
                                      [&](u32 row) { return tiles.value(tile - 1, row); });
            commit_copies();
        };
        if (n_tiles == 0) return;
        float s[1][N / 8][4], factor[1][2];
        u32 p[N / 16][4];
        const auto weigh = [&](u32 tile) {
            settle(s[0]);
            if (tiles.masked(tile)) tiles.mask(tile, s);
            rows.template weigh<N>(s, scale, factor);
        };
        const auto pack = [&] {
#pragma unroll
            for (int k = 0; k < N / 16; ++k) rows.template pack_shares<N>(s[0], k, p[k]);
        };
        copy(0);
        copy(1);
        wait_copies<1>();
        publish_copies();
        __syncthreads();
        // The compiler must see that a warp goes one way, or it waits for each product.
        if (Tiles::SHORT && __shfl_sync(WHOLE_WARP, int(active), 0) == 0) {
            for (u32 tile = 0; tile < n_tiles; ++tile) {
                wait_copies<0>();
                publish_copies();
                __syncthreads();
                copy(tile + 2);
            }
            wait_copies<0>();
            return;
        }
        rows.follow(tiles, 0);
        settle(rows.q[0]);
        order_products();
        begin_scores<N>(rows, keys, s[0]);
        wait_products<0>();
        weigh(0);
        pack();
        for (u32 tile = 0; tile + 1 < n_tiles; ++tile) {
            wait_copies<0>();
            publish_copies();
            __syncthreads(); // All warps have read what the next copies write over.
            copy(tile + 2);
            rows.follow(tiles, tile + 1);
            settle(rows.q[0]);
            settle(rows.out[0]);
            settle(p);
            order_products();
            begin_scores<N>(rows, keys + (tile + 1) % 2 * BYTES, s[0]);
            begin_sums<N>(rows, values + tile % 2 * BYTES, p);
            wait_products<1>(); // The scores are there; the sums may still be under way.
            weigh(tile + 1);
            wait_products<0>();
            settle(rows.out[0]);
            settle(p); // Its new numbers are not made before the products are done with the old.
            rows.rescale(factor);
            pack();
        }
        wait_copies<0>();
        publish_copies();
        __syncthreads();
        settle(rows.out[0]);
        settle(p);
        order_products();
        begin_sums<N>(rows, values + (n_tiles - 1) % 2 * BYTES, p);
        wait_products<0>();
        settle(rows.out[0]);
        rows.finish();
    }
};

// BLOCKS of a kernel run beside one another on a multiprocessor.
#define HOPPER(D, BLOCKS)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS)                                                          \
        hopper_bidirectional_##D(const f16 *qkv, const u32 *tiles, u32 n_heads, float scale, u32 radius, f16 *out) {   \
        bidirectional<WarpGroups<256>, D, 1, 8>(qkv, tiles, n_heads, scale, radius, out);                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS)                                                          \
        hopper_causal_##D(const f16 *queries, const u32 *query_positions, const u32 *query_segments, u32 n_tokens,     \
                          const f16 *keys, const f16 *values, const u32 *pages, const u32 *positions,                  \
                          const u32 *segments, const float *log_weights, const u32 *turn_of, const float *turns,       \
                          u32 neighbours, const u32 *order, const u32 *starts, const u32 *visits, u32 n_kv_heads,      \
                          u32 group, float scale, u32 window, u32 sinks, f16 *out, float *lse) {                       \
        causal<WarpGroups<256>, D, 1, 8>(queries, query_positions, query_segments, n_tokens, keys, values, pages,      \
                                         positions, segments, log_weights, {turn_of, turns, neighbours}, order,        \
                                         starts, visits, n_kv_heads, group, scale, window, sinks, out, lse);           \
    }
HOPPER(32, 2)
HOPPER(64, 2)
HOPPER(128, 1)
