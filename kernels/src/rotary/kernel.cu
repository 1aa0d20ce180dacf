// Turns heads to their positions, and puts keys and values into pages while it turns the keys.
//
// A turn is a row of a table, [dim]: cosines, then sines, one a pair. A turn that is not in the table makes NaN.

#define NO_TURN 0xffffffffu

// One thread a pair of one head.
template <class T>
__device__ __forceinline__ void rotate(T *rows, u32 stride, u32 n_heads, u32 dim, u32 neighbours, const u32 *turn_of,
                                       const float *turns, u32 n_turns, u64 n) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= n) return;
    const u32 half = dim / 2, pair = i % half, head = i / half % n_heads;
    const u64 token = i / half / n_heads;
    const u32 turn = turn_of[token];
    const float nan = __int_as_float(0x7fffffff);
    const float cosine = turn < n_turns ? turns[u64(turn) * dim + pair] : nan;
    const float sine = turn < n_turns ? turns[u64(turn) * dim + half + pair] : nan;
    T *a = rows + token * stride + head * dim + (neighbours ? 2 * pair : pair);
    T *b = a + (neighbours ? 1 : half);
    const float x = widen(*a), y = widen(*b);
    narrow(x * cosine - y * sine, *a);
    narrow(x * sine + y * cosine, *b);
}

#define ROTATE(T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        rotate_##T(T *rows, u32 stride, u32 n_heads, u32 dim, u32 neighbours, const u32 *turn_of, const float *turns,  \
                   u32 n_turns, u64 n) {                                                                               \
        rotate(rows, stride, n_heads, dim, neighbours, turn_of, turns, n_turns, n);                                    \
    }
typedef float f32;
ROTATE(f32)
ROTATE(bf16)
ROTATE(f16)

// Eight numbers side by side, 16 bytes of a page.
template <class T> __device__ __forceinline__ void load_8(const T *from, float (&to)[8]) {
    float four[4];
    load_4(from, four);
    for (int i = 0; i < 4; ++i) to[i] = four[i];
    load_4(from + 4, four);
    for (int i = 0; i < 4; ++i) to[4 + i] = four[i];
}

__device__ __forceinline__ void store_8(f16 *to, const float (&from)[8]) {
    *reinterpret_cast<uint4 *>(to) = make_uint4(pack_f16(from[0], from[1]), pack_f16(from[2], from[3]),
                                                pack_f16(from[4], from[5]), pack_f16(from[6], from[7]));
}

// Puts token t of layer blockIdx.y into slot slots[t] of the pages, [layer, page, kv head, 64, dim], its keys turned by
// turns[turn_of[t]], or as they are. One thread takes eight pairs of a head's key and the 16 numbers of its value at the
// same place: two loads and two stores of 16 bytes each.
template <class T>
__device__ __forceinline__ void place(const T *keys, const T *values, u32 token_stride, u64 layer_stride, u32 n_kv_heads,
                                      u32 dim, u32 neighbours, const u32 *slots, const u32 *turn_of, const float *turns,
                                      u32 n_turns, u64 page_layer, f16 *key_pages, f16 *value_pages, u64 n) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= n) return;
    const u32 units = dim / 16, unit = i % units, head = i / units % n_kv_heads, half = dim / 2;
    const u64 token = i / units / n_kv_heads;
    const u32 slot = slots[token], turn = turn_of[token];
    const u32 first = neighbours ? 16 * unit : 8 * unit, second = neighbours ? first + 8 : half + first;
    const u64 from = blockIdx.y * layer_stride + token * token_stride + head * dim;
    const u64 to = blockIdx.y * page_layer + ((u64(slot / 64) * n_kv_heads + head) * 64 + slot % 64) * dim;
    float a[8], b[8];
    load_8(keys + from + first, a);
    load_8(keys + from + second, b);
    if (turn != NO_TURN) {
        const float nan = __int_as_float(0x7fffffff);
#pragma unroll
        for (u32 p = 0; p < 8; ++p) {
            const u32 pair = 8 * unit + p;
            const float cosine = turn < n_turns ? turns[u64(turn) * dim + pair] : nan;
            const float sine = turn < n_turns ? turns[u64(turn) * dim + half + pair] : nan;
            float &x = neighbours ? (p < 4 ? a[2 * p % 8] : b[2 * p % 8]) : a[p];
            float &y = neighbours ? (p < 4 ? a[2 * p % 8 + 1] : b[2 * p % 8 + 1]) : b[p];
            const float turned = x * cosine - y * sine;
            y = x * sine + y * cosine;
            x = turned;
        }
    }
    store_8(key_pages + to + first, a);
    store_8(key_pages + to + second, b);
    load_8(values + from + first, a);
    load_8(values + from + second, b);
    store_8(value_pages + to + first, a);
    store_8(value_pages + to + second, b);
}

#define PLACE(T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        place_##T(const T *keys, const T *values, u32 token_stride, u64 layer_stride, u32 n_kv_heads, u32 dim,         \
                  u32 neighbours, const u32 *slots, const u32 *turn_of, const float *turns, u32 n_turns,               \
                  u64 page_layer, f16 *key_pages, f16 *value_pages, u64 n) {                                           \
        place(keys, values, token_stride, layer_stride, n_kv_heads, dim, neighbours, slots, turn_of, turns, n_turns,   \
              page_layer, key_pages, value_pages, n);                                                                  \
    }
PLACE(f32)
PLACE(bf16)
PLACE(f16)

// Copies slot pairs[2 i] over slot pairs[2 i + 1] in every layer, one pair after the other. One thread takes eight numbers
// of a head through all pairs, so that a slot that was written may be read.
extern "C" __global__ void __launch_bounds__(256)
    copy_slots(const u32 *pairs, u32 n_pairs, u32 n_kv_heads, u32 dim, u64 page_layer, f16 *keys, f16 *values, u64 n) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= n) return;
    const u32 units = dim / 8, unit = i % units, head = i / units % n_kv_heads;
    const u64 layer = i / units / n_kv_heads;
    const auto place_of = [&](u32 slot) {
        return layer * page_layer + ((u64(slot / 64) * n_kv_heads + head) * 64 + slot % 64) * dim + unit * 8;
    };
    for (u32 pair = 0; pair < n_pairs; ++pair) {
        const u64 from = place_of(pairs[2 * pair]), to = place_of(pairs[2 * pair + 1]);
        *reinterpret_cast<uint4 *>(keys + to) = *reinterpret_cast<const uint4 *>(keys + from);
        *reinterpret_cast<uint4 *>(values + to) = *reinterpret_cast<const uint4 *>(values + from);
    }
}
