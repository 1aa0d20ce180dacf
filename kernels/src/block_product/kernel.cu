// Products with weights in blocks of few bits, and their widening to half floats.
//
// Weights are repacked by fours: of 32 weights of a row, the lower four bits lie in one load of 16 bytes, whose lower
// halves of bytes are the first 16 weights; each further bit lies in a word of its own, bit i of weight i. Weights of
// eight bits lie as they are, 32 bytes. A weight is scale * (q - offset) + least.
//
// The scales come in two kinds. Simple: two half floats for 32 weights, scale and least. Super: for 256 weights two half
// floats, for 32 two bytes that multiply them: a scale and a least (a negative one), or two scales of 16 weights each.

#define SIMPLE 0
#define SUPER 1       // scale and least
#define SUPER_PAIR 2  // two scales

struct Scales {
    float scale[2], least;
};

template <int KIND> __device__ __forceinline__ Scales scales_of(const u32 *simple, const u16 *parts, u64 sub) {
    if (KIND == SIMPLE) {
        const u32 both = simple[sub];
        const float scale = f16_bits_to_float(u16(both));
        return {{scale, scale}, f16_bits_to_float(u16(both >> 16))};
    }
    const u32 both = simple[sub / 8], part = parts[sub];
    const float d = f16_bits_to_float(u16(both));
    if (KIND == SUPER) {
        const float scale = d * float(part & 255);
        return {{scale, scale}, -(f16_bits_to_float(u16(both >> 16)) * float(part >> 8))};
    }
    return {{d * float(i8(part & 255)), d * float(i8(part >> 8))}, 0};
}

// Four bits to the lowest bits of four bytes.
__device__ __forceinline__ u32 spread(u32 bits) { return (bits & 15) * 0x00204081 & 0x01010101; }

// 32 weights as unsigned bytes (signed where they have eight bits), by fours.
template <int BITS> __device__ __forceinline__ void load_weights(const uint4 *low, const u32 *high, u64 sub, u32 (&q)[8]) {
    if (BITS == 8) {
        const uint4 a = low[2 * sub], b = low[2 * sub + 1];
        q[0] = a.x, q[1] = a.y, q[2] = a.z, q[3] = a.w, q[4] = b.x, q[5] = b.y, q[6] = b.z, q[7] = b.w;
        return;
    }
    const uint4 a = low[sub];
    const u32 words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) q[i] = words[i] & 0x0f0f0f0f, q[4 + i] = words[i] >> 4 & 0x0f0f0f0f;
#pragma unroll
    for (int plane = 0; plane < BITS - 4; ++plane) {
        const u32 bits = high[sub * (BITS - 4) + plane];
#pragma unroll
        for (int i = 0; i < 8; ++i) q[i] |= spread(bits >> 4 * i) << (4 + plane);
    }
}

// Activations of 32 inputs as signed bytes: x = d * code, and the sums of the first and of the last 16 codes. One warp
// a block of 32.
extern "C" __global__ void __launch_bounds__(256)
    quantize(const float *rows, u64 n, i8 *codes, float *scales, u32 *sums) {
    const u64 sub = u64(blockIdx.x) * 8 + threadIdx.x / 32;
    const u32 lane = threadIdx.x % 32;
    if (sub >= n) return;
    const float x = rows[sub * 32 + lane];
    float most = fabsf(x);
    for (int by = 16; by > 0; by /= 2) {
        const float other = __shfl_xor_sync(WHOLE_WARP, most, by);
        most = other > most || other != other ? other : most; // what is no number stays
    }
    const float d = most / 127.0f;
    // Of numbers that are barely there, `d` may be much too small.
    const int code = d > 0 ? max(-127, min(127, int(rintf(x / d)))) : 0;
    codes[sub * 32 + lane] = i8(code);
    int sum = code;
    for (int by = 8; by > 0; by /= 2) sum += __shfl_xor_sync(WHOLE_WARP, sum, by);
    const int last = __shfl_sync(WHOLE_WARP, sum, 16);
    if (lane == 0) scales[sub] = d * (most - most == 0 ? 1 : most - most), sums[sub] = u32(sum & 0xffff) | u32(last) << 16;
}

// out[r, o] = sum over i of input[r, i] * weights[o, i] for R rows from 4 * blockIdx.y: one warp an output, one block of
// 32 weights a lane and step.
template <int BITS, int KIND, int R>
__device__ __forceinline__ void product(const uint4 *low, const u32 *high, const u32 *simple, const u16 *parts, int offset,
                                        const uint4 *codes, const float *scales, const u32 *sums, u32 n_rows, u32 n_subs,
                                        u32 n_out, float *out) {
    const u32 lane = threadIdx.x % 32, o = blockIdx.x * 4 + threadIdx.x / 32, first = blockIdx.y * R;
    if (o >= n_out) return;
    float total[R] = {};
    for (u32 b = lane; b < n_subs; b += 32) {
        const u64 sub = u64(o) * n_subs + b;
        u32 q[8];
        load_weights<BITS>(low, high, sub, q);
        const Scales s = scales_of<KIND>(simple, parts, sub);
#pragma unroll
        for (int r = 0; r < R; ++r) {
            if (R > 1 && first + r >= n_rows) break;
            const u64 at = u64(first + r) * n_subs + b;
            const uint4 x = codes[2 * at], y = codes[2 * at + 1];
            const u32 a[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
            int sum[2] = {};
#pragma unroll
            for (int i = 0; i < 8; ++i) sum[i / 4] = __dp4a(int(q[i]), int(a[i]), sum[i / 4]);
            const u32 both = sums[at];
            const int of_first = short(both), of_last = short(both >> 16);
            total[r] += scales[at] * (s.scale[0] * float(sum[0] - offset * of_first) +
                                      s.scale[1] * float(sum[1] - offset * of_last) + s.least * float(of_first + of_last));
        }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
        const float sum = warp_sum(total[r]);
        if (lane == 0 && first + r < n_rows) out[size_t(first + r) * n_out + o] = sum;
    }
}

// Weights as half floats, [n_out, n_in]: one thread 32 of them.
template <int BITS, int KIND>
__device__ __forceinline__ void dequantize(const uint4 *low, const u32 *high, const u32 *simple, const u16 *parts,
                                           int offset, u64 n, f16 *out) {
    const u64 sub = u64(blockIdx.x) * 128 + threadIdx.x;
    if (sub >= n) return;
    u32 q[8];
    load_weights<BITS>(low, high, sub, q);
    const Scales s = scales_of<KIND>(simple, parts, sub);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        float x[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int value = BITS == 8 ? int(i8(q[i] >> 8 * j)) : int(q[i] >> 8 * j & 255) - offset;
            x[j] = s.scale[i / 4] * float(value) + s.least;
        }
        store_4(out + sub * 32 + i * 4, x);
    }
}

#define KERNELS(NAME, BITS, KIND)                                                                                      \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        product_##NAME##_1(const uint4 *low, const u32 *high, const u32 *simple, const u16 *parts, u32 offset,         \
                           const uint4 *codes, const float *scales, const u32 *sums, u32 n_rows, u32 n_subs,           \
                           u32 n_out, float *out) {                                                                    \
        product<BITS, KIND, 1>(low, high, simple, parts, int(offset), codes, scales, sums, n_rows, n_subs, n_out,      \
                               out);                                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        product_##NAME##_4(const uint4 *low, const u32 *high, const u32 *simple, const u16 *parts, u32 offset,         \
                           const uint4 *codes, const float *scales, const u32 *sums, u32 n_rows, u32 n_subs,           \
                           u32 n_out, float *out) {                                                                    \
        product<BITS, KIND, 4>(low, high, simple, parts, int(offset), codes, scales, sums, n_rows, n_subs, n_out,      \
                               out);                                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        dequantize_##NAME(const uint4 *low, const u32 *high, const u32 *simple, const u16 *parts, u32 offset, u64 n,   \
                          f16 *out) {                                                                                  \
        dequantize<BITS, KIND>(low, high, simple, parts, int(offset), n, out);                                         \
    }
KERNELS(4, 4, SIMPLE)
KERNELS(5, 5, SIMPLE)
KERNELS(8, 8, SIMPLE)
KERNELS(4k, 4, SUPER)
KERNELS(5k, 5, SUPER)
KERNELS(6k, 6, SUPER_PAIR)
