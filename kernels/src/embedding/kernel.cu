// out[t] = words[ids[t]] + positions[position of t] + kinds[kind of t]: tables and their numbers may be absent.

// One thread a number.
extern "C" __global__ void __launch_bounds__(256)
    embed(const f16 *words, const u32 *ids, const f16 *positions, const u32 *places, const f16 *kinds,
          const u32 *kind_of, u32 dim, u64 n, f16 *out) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= n) return;
    const u64 token = i / dim;
    const u32 d = i % dim;
    float x = widen(words[u64(ids[token]) * dim + d]);
    if (positions) x += widen(positions[u64(places[token]) * dim + d]);
    if (kinds) x += widen(kinds[u64(kind_of[token]) * dim + d]);
    narrow(x, out[i]);
}
