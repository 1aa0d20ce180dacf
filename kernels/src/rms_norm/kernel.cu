// The kernels of row_norm.cuh, which stands before this: by the type of the rows, and by how many are held in registers.

#define KERNEL(T, C)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        rms_norm_##T##_##C(const T *rows, const T *residual, const float *scale, const float *shift, float epsilon,   \
                          u32 n, u32 dim, T *sums, T *out) {                                                           \
        row_norm<T, C, false>(rows, residual, scale, shift, epsilon, n, dim, sums, out);                               \
    }
KERNEL(f32, 0)
KERNEL(f32, 8)
KERNEL(f32, 16)
KERNEL(bf16, 0)
KERNEL(bf16, 8)
KERNEL(bf16, 16)
