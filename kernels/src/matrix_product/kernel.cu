// out = finish(a w^T): rows a [m, k] and weights w [n, k] in bf16 or f16, both with k side by side, sums in f32.
//
// A block makes 128 by 128 outputs, each of its eight warps 64 by 32. Steps of 32 along k pass by in three buffers:
// one is computed with while two are copied.

#define REPLACE 0
#define ADD 1
#define ACTIVATE 2

// Where eight numbers of a row of 32 lie: rows that follow one another lie in different banks.
__device__ __forceinline__ u32 place_of(u32 row, u32 chunk) { return row * 64 + (chunk ^ (row / 2 & 3)) * 16; }

template <class N, class T>
__device__ __forceinline__ void product(const N *a, const N *w, const float *bias, u32 mode, u32 kind, u32 m, u32 n,
                                        u32 k, T *out) {
    constexpr u32 TILE = 128 * 64; // bytes
    DYNAMIC_SHARED(shared);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 first_row = blockIdx.y * 128, first_col = blockIdx.x * 128;
    const u32 own_row = warp / 4 * 64, own_col = warp % 4 * 32, n_steps = (k + 31) / 32;
    // Tiles of 16 rows that the warp has: a product of few rows leaves the others out.
    const u32 n_tiles = first_row + own_row < m ? (m - first_row - own_row + 15) / 16 : 0;
    const auto copy = [&](u32 step) {
        if (step < n_steps) {
            u8 *tile = shared + step % 3 * 2 * TILE;
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                const u32 row = i * 64 + threadIdx.x / 4, chunk = threadIdx.x % 4, d = step * 32 + chunk * 8;
                const bool a_there = first_row + row < m && d < k, w_there = first_col + row < n && d < k;
                copy_16_async(tile + place_of(row, chunk), a_there ? a + size_t(first_row + row) * k + d : a, a_there);
                copy_16_async(tile + TILE + place_of(row, chunk), w_there ? w + size_t(first_col + row) * k + d : w,
                              w_there);
            }
        }
        commit_copies();
    };
    float sums[4][4][4] = {};
    copy(0);
    copy(1);
    for (u32 step = 0; step < n_steps; ++step) {
        wait_copies<1>();
        __syncthreads();
        copy(step + 2);
        const u8 *tile = shared + step % 3 * 2 * TILE;
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            u32 left[4][4], right[2][4];
#pragma unroll
            for (u32 i = 0; i < 4; ++i)
                if (i < n_tiles)
                    load_matrices(left[i], tile + place_of(own_row + i * 16 + lane % 16, half * 2 + lane / 16));
#pragma unroll
            for (u32 j = 0; j < 2; ++j)
                load_matrices(right[j], tile + TILE + place_of(own_col + j * 16 + lane / 16 * 8 + lane % 8,
                                                               half * 2 + lane / 8 % 2));
#pragma unroll
            for (u32 i = 0; i < 4; ++i)
#pragma unroll
                for (u32 j = 0; j < 4; ++j)
                    if (i < n_tiles) mma(sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1], N());
        }
    }
    wait_copies<0>();
#pragma unroll
    for (u32 i = 0; i < 4; ++i)
#pragma unroll
        for (u32 j = 0; j < 4; ++j)
#pragma unroll
            for (u32 e = 0; e < 4; ++e) {
                const u32 row = first_row + own_row + i * 16 + lane / 4 + e / 2 * 8;
                const u32 col = first_col + own_col + j * 8 + lane % 4 * 2 + e % 2;
                if (row >= m || col >= n) continue;
                T *to = out + size_t(row) * n + col;
                float x = sums[i][j][e] + (bias ? bias[col] : 0);
                if (mode == ADD) x += widen(*to);
                if (mode == ACTIVATE) x = activation(kind, x);
                narrow(x, *to);
            }
}

#define PRODUCT(NAME, N, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        NAME(const N *a, const N *w, const float *bias, u32 mode, u32 kind, u32 m, u32 n, u32 k, T *out) {             \
        product(a, w, bias, mode, kind, m, n, k, out);                                                                 \
    }
PRODUCT(product_bf16_f32, bf16, float)
PRODUCT(product_f16, f16, f16)
PRODUCT(product_f16_f32, f16, float)
