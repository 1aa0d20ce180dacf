// What every kernel stands on: number formats, sums over warps and blocks, and the few instructions that C++ lacks.
//
// It needs no header of a toolkit, so that the run-time compiler alone is enough. Where RAGLAN_EMULATION is defined,
// emulation.h came first and the instructions are its functions.

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define WHOLE_WARP 0xffffffffu
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

#ifndef RAGLAN_EMULATION

#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ float fdividef(float a, float b) { return __fdividef(a, b); }

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float f16_bits_to_float(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ __forceinline__ u16 float_to_f16_bits(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ u16 float_to_bf16_bits(float x) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ u32 pack_f16(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// c += a b with a [16, 16] by rows and b [16, 8] by columns.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 shared_address(const void *pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// Four 8x8 matrices of 16-bit numbers; lane i brings the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(u32 (&out)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(u32 (&out)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Begins to copy 16 bytes to shared memory; zeros where nothing is present, and `from` is not read then.
__device__ __forceinline__ void copy_16_async(void *to, const void *from, bool present) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(present ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of this thread's committed groups are under way.
template <int N> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif

// 16-bit numbers, as types of their own.
struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float widen(f16 x) { return f16_bits_to_float(x.bits); }

__device__ __forceinline__ void narrow(float x, float &to) { to = x; }
__device__ __forceinline__ void narrow(float x, bf16 &to) { to.bits = float_to_bf16_bits(x); }
__device__ __forceinline__ void narrow(float x, f16 &to) { to.bits = float_to_f16_bits(x); }

__device__ __forceinline__ u32 pack(float low, float high, bf16) { return pack_bf16(low, high); }
__device__ __forceinline__ u32 pack(float low, float high, f16) { return pack_f16(low, high); }

__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, bf16) { mma_bf16(c, a, b0, b1); }
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, f16) { mma_f16(c, a, b0, b1); }

// Four numbers side by side, aligned to their size.
__device__ __forceinline__ void load_4(const float *from, float (&to)[4]) {
    const float4 v = *reinterpret_cast<const float4 *>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
template <class T> __device__ __forceinline__ void load_4(const T *from, float (&to)[4]) {
    const uint2 v = *reinterpret_cast<const uint2 *>(from);
    to[0] = widen(T{u16(v.x)}), to[1] = widen(T{u16(v.x >> 16)});
    to[2] = widen(T{u16(v.y)}), to[3] = widen(T{u16(v.y >> 16)});
}
__device__ __forceinline__ void store_4(float *to, const float (&from)[4]) {
    *reinterpret_cast<float4 *>(to) = make_float4(from[0], from[1], from[2], from[3]);
}
template <class T> __device__ __forceinline__ void store_4(T *to, const float (&from)[4]) {
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack(from[0], from[1], T()), pack(from[2], from[3], T()));
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) x += __shfl_xor_sync(WHOLE_WARP, x, by);
    return x;
}

__device__ __forceinline__ float negative_infinity() { return __int_as_float(0xff800000); }

#define GELU 0
#define GELU_TANH 1
#define RELU 2
#define SILU 3
#define IDENTITY 4

__device__ __forceinline__ float activation(u32 kind, float x) {
    switch (kind) {
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case RELU: return x < 0.0f ? 0.0f : x; // what is no number stays
    case IDENTITY: return x;
    default: return x / (1.0f + expf(-x));
    }
}
