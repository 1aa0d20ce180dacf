// out[s, first + v] = ln(1 + max(0, max over the tokens t of sequence s of logits[t, v])) for a tile of the vocabulary:
// one thread a term and sequence, so that neighbours read neighbours.

template <class T>
__device__ __forceinline__ void log_relu_max(const T *logits, const u32 *ends, u32 width, u32 first, u32 n_terms,
                                             float *out) {
    const u32 v = blockIdx.x * 128 + threadIdx.x, sequence = blockIdx.y;
    if (v >= width) return;
    const u32 start = sequence == 0 ? 0 : ends[sequence - 1], end = ends[sequence];
    float most = 0;
    for (u32 t = start; t < end; ++t) {
        const float x = widen(logits[size_t(t) * width + v]);
        most = x > most ? x : most; // what is no number is passed over
    }
    out[size_t(sequence) * n_terms + first + v] = log1pf(most);
}

extern "C" __global__ void __launch_bounds__(128)
    log_relu_max_f32(const float *logits, const u32 *ends, u32 width, u32 first, u32 n_terms, float *out) {
    log_relu_max(logits, ends, width, first, n_terms, out);
}

// Numbers above zero of each row of `weights`, [rows, width]: one block a row.
extern "C" __global__ void __launch_bounds__(256) count_positive(const float *weights, u32 width, u32 *counts) {
    __shared__ u32 of_warp[8];
    const float *row = weights + size_t(blockIdx.x) * width;
    u32 n = 0;
    for (u32 first = 0; first < width; first += 256) {
        const u32 v = first + threadIdx.x;
        n += __popc(__ballot_sync(WHOLE_WARP, v < width && row[v] > 0));
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = n;
    __syncthreads();
    if (threadIdx.x == 0) {
        n = 0;
        for (int w = 0; w < 8; ++w) n += of_warp[w];
        counts[blockIdx.x] = n;
    }
}

// Those numbers, and where they stand in their row, in order; row r's begin at starts[r].
extern "C" __global__ void __launch_bounds__(256)
    take_positive(const float *weights, u32 width, const u32 *starts, u32 *terms, float *taken) {
    __shared__ u32 of_warp[8];
    const float *row = weights + size_t(blockIdx.x) * width;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 start = starts[blockIdx.x];
    for (u32 first = 0; first < width; first += 256) {
        const u32 v = first + threadIdx.x;
        const float x = v < width ? row[v] : 0;
        const u32 there = __ballot_sync(WHOLE_WARP, x > 0);
        if (lane == 0) of_warp[warp] = __popc(there);
        __syncthreads();
        u32 before = 0, all = 0;
        for (u32 w = 0; w < 8; ++w) {
            if (w < warp) before += of_warp[w];
            all += of_warp[w];
        }
        if (x > 0) {
            const u32 at = start + before + __popc(there & ((1u << lane) - 1));
            terms[at] = v;
            taken[at] = x;
        }
        start += all;
        __syncthreads();
    }
}
