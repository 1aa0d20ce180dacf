// The kernels of row_norm.cuh, which stands before this: by the types of the rows and of the result, and by how many columns
// are held in registers.

#define KERNEL(NAME, T, U, C)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        NAME##_##C(const T *rows, const T *residual, const float *scale, const float *shift, float epsilon, u32 n,     \
                   u32 dim, T *sums, U *out) {                                                                         \
        row_norm<T, U, C, false>(rows, residual, scale, shift, epsilon, n, dim, sums, out);                            \
    }
#define KERNELS(NAME, T, U)                                                                                            \
    KERNEL(NAME, T, U, 0)                                                                                              \
    KERNEL(NAME, T, U, 8)                                                                                              \
    KERNEL(NAME, T, U, 16)
KERNELS(rms_norm_f32, f32, f32)
KERNELS(rms_norm_f16, f16, f16)
