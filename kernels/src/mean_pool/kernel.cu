// Normalises each row, takes the mean of each sequence's rows, its first or its last, and brings it to unit length: rows
// are read once, and those that are not wanted never.
//
// One block a sequence, one warp a row at a time, four columns a lane in each of C steps of 128. Scale and shift are
// the same for all rows, so they are applied to the mean.

#define NO_NORM 0
#define LAYER_NORM 1
#define RMS_NORM 2

#define FIRST_ROW 1
#define LAST_ROW 2

template <class T, int C>
__device__ __forceinline__ void norm_pool(const T *rows, const u32 *ends, const float *scale, const float *shift,
                                          float epsilon, u32 norm, u32 pooled, u32 unit, u32 dim, float *out) {
    __shared__ float sums[C * 128];
    __shared__ float squares[8];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 start = blockIdx.x == 0 ? 0 : ends[blockIdx.x - 1], end = ends[blockIdx.x];
    if (pooled == FIRST_ROW) end = min(end, start + 1);
    if (pooled == LAST_ROW && end > start) start = end - 1;
    float sum[C][4] = {};
    for (u32 t = start + warp; t < end; t += 8) {
        float x[C][4];
        float total = 0, square = 0;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            const u32 d = (c * 32 + lane) * 4;
            x[c][0] = x[c][1] = x[c][2] = x[c][3] = 0;
            if (d < dim) load_4(rows + size_t(t) * dim + d, x[c]);
            for (int i = 0; i < 4; ++i) total += x[c][i];
        }
        const float mean = norm == LAYER_NORM ? warp_sum(total) / dim : 0;
#pragma unroll
        for (int c = 0; c < C; ++c)
            for (int i = 0; i < 4; ++i)
                if ((c * 32 + lane) * 4 < dim) square += (x[c][i] - mean) * (x[c][i] - mean);
        const float by = norm == NO_NORM ? 1 : rsqrtf(warp_sum(square) / dim + epsilon);
#pragma unroll
        for (int c = 0; c < C; ++c)
            for (int i = 0; i < 4; ++i) sum[c][i] += (x[c][i] - mean) * by;
    }
    // The warps add up one after the other, so that the sum does not depend on who is first.
    for (u32 turn = 0; turn < 8; ++turn) {
        if (turn == warp) {
#pragma unroll
            for (int c = 0; c < C; ++c)
                for (int i = 0; i < 4; ++i) {
                    const u32 d = (c * 32 + lane) * 4 + i;
                    sums[d] = turn == 0 ? sum[c][i] : sums[d] + sum[c][i];
                }
        }
        __syncthreads();
    }
    const float per_row = end > start ? 1.0f / float(end - start) : 0;
    float square = 0;
    for (u32 d = threadIdx.x; d < dim; d += 256) {
        float mean = sums[d] * per_row;
        if (norm != NO_NORM && end > start) mean = mean * scale[d] + (norm == LAYER_NORM ? shift[d] : 0);
        sums[d] = mean;
        square += mean * mean;
    }
    square = warp_sum(square);
    if (lane == 0) squares[warp] = square;
    __syncthreads();
    square = 0;
    for (int i = 0; i < 8; ++i) square += squares[i];
    const float by = unit && square > 0 ? 1.0f / sqrtf(square) : 1;
    for (u32 d = threadIdx.x; d < dim; d += 256) out[size_t(blockIdx.x) * dim + d] = sums[d] * by;
}

#define NORM_POOL(T, C)                                                                                                \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        norm_pool_##T##_##C(const T *rows, const u32 *ends, const float *scale, const float *shift, float epsilon,     \
                            u32 norm, u32 pooled, u32 unit, u32 dim, float *out) {                                     \
        norm_pool<T, C>(rows, ends, scale, shift, epsilon, norm, pooled, unit, dim, out);                              \
    }
typedef float f32;
NORM_POOL(f32, 4)
NORM_POOL(f32, 8)
NORM_POOL(f32, 16)
NORM_POOL(f16, 4)
NORM_POOL(f16, 8)
NORM_POOL(f16, 16)
