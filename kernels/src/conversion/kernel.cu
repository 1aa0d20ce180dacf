// Numbers in other widths, and numbers as sums of narrower ones: one thread a number.

// What a type does not reach stays at its end, so that one outlier does not make a row of a product infinite.
__device__ __forceinline__ float within(float x, f16) {
    return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
}
template <class B> __device__ __forceinline__ float within(float x, B) { return x; }

template <class A, class B> __device__ __forceinline__ void convert(const A *from, u64 n, B *to) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i < n) narrow(within(widen(from[i]), B()), to[i]);
}

#define CONVERT(A, B)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) convert_##A##_##B(const A *from, u64 n, B *to) {                 \
        convert(from, n, to);                                                                                          \
    }
typedef float f32;
CONVERT(f32, f16)
CONVERT(f32, bf16)
CONVERT(f16, f32)

// from = first + second + third, each the nearest to what the others before it leave.
extern "C" __global__ void __launch_bounds__(256) split(const float *from, u64 n, bf16 *first, bf16 *second, bf16 *third) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= n) return;
    const float x = from[i];
    narrow(x, first[i]);
    const float rest = x - widen(first[i]);
    narrow(rest, second[i]);
    narrow(rest - widen(second[i]), third[i]);
}
