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
