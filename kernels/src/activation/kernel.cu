// Activations, plain with a bias and gated: one thread a number, for these follow a product whose result is in the cache.

// values[r, o] = activation(values[r, o] + bias[o]); no bias where it is null.
template <class T>
__device__ __forceinline__ void activate(T *values, const float *bias, u32 kind, u64 n, u32 width) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= n) return;
    narrow(activation(kind, widen(values[i]) + (bias ? bias[i % width] : 0)), values[i]);
}

// out[r, o] = activation(gates[r, o]) * up[r, o]: rows of `out` are `dim` long, the others begin `stride` after one
// another.
template <class T>
__device__ __forceinline__ void gated(const T *gates, const T *up, u32 kind, u64 n, u32 dim, u32 stride, T *out) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= n) return;
    const u64 at = i / dim * stride + i % dim;
    narrow(activation(kind, widen(gates[at])) * widen(up[at]), out[i]);
}

#define KERNELS(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        activate_##T(T *values, const float *bias, u32 kind, u64 n, u32 width) {                                       \
        activate(values, bias, kind, n, width);                                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        gated_##T(const T *gates, const T *up, u32 kind, u64 n, u32 dim, u32 stride, T *out) {                         \
        gated(gates, up, kind, n, dim, stride, out);                                                                   \
    }
typedef float f32;
KERNELS(f32)
KERNELS(f16)
