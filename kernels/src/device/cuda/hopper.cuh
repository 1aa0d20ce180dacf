// What only Hopper has: products of four warps together, whose right operand is read from shared memory by the matrix
// units themselves, and which go on while the warps do something else.
//
// Warp i of the four has rows 16 i.. of 64; a lane's numbers are where `mma` has them. Operands and results must not be
// touched between the product's beginning and the wait for it.

// A tile in shared memory as `place_of` lays it out: rows of 64 bytes or columns of 128, both turned by eight rows.
// `column_bytes` lie between two columns.
template <int ROW_BYTES> __device__ __forceinline__ u64 operand(const void *tile, u32 column_bytes) {
    static_assert(ROW_BYTES == 64 || ROW_BYTES == 128, "the two ways to turn that tiles have");
    const u64 turning = ROW_BYTES == 128 ? 1 : 2;
    return u64((shared_address(tile) & 0x3ffff) >> 4) | u64(column_bytes >> 4) << 16 | u64(8 * ROW_BYTES >> 4) << 32 |
           turning << 62;
}

#ifndef RAGLAN_EMULATION

// Lets the matrix units see what this thread's copies brought to shared memory.
__device__ __forceinline__ void publish_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Comes before a product whose registers were written by other instructions.
__device__ __forceinline__ void order_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int N> __device__ __forceinline__ void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps the compiler from moving what reads or writes these registers to the other side.
template <int N> __device__ __forceinline__ void settle(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
        for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[n][i])::"memory");
}
template <int N> __device__ __forceinline__ void settle(u32 (&a)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
        for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[n][i])::"memory");
}

#define NUMBERS_4(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define NUMBERS_16(j) NUMBERS_4(j), NUMBERS_4(j + 1), NUMBERS_4(j + 2), NUMBERS_4(j + 3)
#define NUMBERS_32(j) NUMBERS_16(j), NUMBERS_16(j + 4)
#define NUMBERS_64(j) NUMBERS_32(j), NUMBERS_32(j + 8)
#define NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_32                                                                                                       \
    NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                                                       \
    NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, "  \
             "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// c = a b, or c += a b, of half floats: a [64, 16] by rows in registers; b [16, N] at `operand`, whose tile has a row for
// each column of b, or, TRANSPOSED, a row for each row of b.
#define BEGIN_PRODUCT(N, NUMBERS, NAMES, A, B, MORE, WAY)                                                              \
    template <bool TRANSPOSED>                                                                                         \
    __device__ __forceinline__ void begin_product(float (&c)[N / 8][4], const u32 (&a)[4], u64 b, bool add) {          \
        asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, " MORE ", 0;\n"                                           \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" NAMES "}, {" A "}, " B                  \
                     ", more, 1, 1, " WAY ";\n}\n"                                                                     \
                     : NUMBERS                                                                                         \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(TRANSPOSED)));       \
    }
BEGIN_PRODUCT(32, NUMBERS_16(0), NAMES_16, "%16, %17, %18, %19", "%20", "%21", "%22")
BEGIN_PRODUCT(64, NUMBERS_32(0), NAMES_32, "%32, %33, %34, %35", "%36", "%37", "%38")
BEGIN_PRODUCT(128, NUMBERS_64(0), NAMES_64, "%64, %65, %66, %67", "%68", "%69", "%70")

#else

template <bool TRANSPOSED, int N> void begin_product(float (&c)[N][4], const u32 (&a)[4], u64 b, bool add) {
    emulation::begin_product(c[0], 8 * N, a, b, add, TRANSPOSED);
}

#endif
