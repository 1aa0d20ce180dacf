// Normalisation of rows, one warp a row: x = rows (+ residual), then out = (x - mean) / deviation * scale (+ shift).
//
// Where C > 0, a row is held in registers, four columns a lane in each of C steps of 128; otherwise columns come one by
// one and the row is read again for each of its sums, by way of the nearest cache. `sums` receives x where it is not
// null. It may be `rows`, and so may `out`, which may else be of another type.
template <class T, class U, int C, bool LAYER>
__device__ __forceinline__ void row_norm(const T *rows, const T *residual, const float *scale, const float *shift,
                                         float epsilon, u32 n, u32 dim, T *sums, U *out) {
    const u32 lane = threadIdx.x % 32, row = blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= n) return;
    const size_t at = size_t(row) * dim;
    if constexpr (C > 0) {
        float x[C][4];
        float total = 0, square = 0;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            const u32 d = (c * 32 + lane) * 4;
            x[c][0] = x[c][1] = x[c][2] = x[c][3] = 0;
            if (d >= dim) continue;
            load_4(rows + at + d, x[c]);
            if (residual) {
                float more[4];
                load_4(residual + at + d, more);
                for (int i = 0; i < 4; ++i) x[c][i] += more[i];
            }
            if (sums) store_4(sums + at + d, x[c]);
            for (int i = 0; i < 4; ++i) total += x[c][i];
        }
        const float mean = LAYER ? warp_sum(total) / dim : 0;
#pragma unroll
        for (int c = 0; c < C; ++c)
            for (int i = 0; i < 4; ++i)
                if ((c * 32 + lane) * 4 < dim) square += (x[c][i] - mean) * (x[c][i] - mean);
        const float by = rsqrtf(warp_sum(square) / dim + epsilon);
#pragma unroll
        for (int c = 0; c < C; ++c) {
            const u32 d = (c * 32 + lane) * 4;
            if (d >= dim) continue;
            float s[4], y[4];
            load_4(scale + d, s);
            for (int i = 0; i < 4; ++i) y[i] = (x[c][i] - mean) * by * s[i];
            if (LAYER) {
                load_4(shift + d, s);
                for (int i = 0; i < 4; ++i) y[i] += s[i];
            }
            store_4(out + at + d, y);
        }
    } else {
        const auto x = [&](u32 d) {
            return widen(rows[at + d]) + (residual ? widen(residual[at + d]) : 0);
        };
        float total = 0, square = 0;
        if (LAYER)
            for (u32 d = lane; d < dim; d += 32) total += x(d);
        const float mean = LAYER ? warp_sum(total) / dim : 0;
        for (u32 d = lane; d < dim; d += 32) square += (x(d) - mean) * (x(d) - mean);
        const float by = rsqrtf(warp_sum(square) / dim + epsilon);
        for (u32 d = lane; d < dim; d += 32) {
            const float value = x(d);
            if (sums) narrow(value, sums[at + d]);
            narrow((value - mean) * by * scale[d] + (LAYER ? shift[d] : 0), out[at + d]);
        }
    }
}

typedef float f32;
