// Runs CUDA kernels on the processor: the check of their indexing, masks and barriers where there is no device.
//
// The threads of a block are fibers that take turns: each runs until it waits for others. A launch runs them in rising
// or in falling order, by turns, so that a missing barrier shows as a wrong result in one of the two. What the hardware
// does for a warp as a whole (shuffles, products of tiles, loads of matrices) is done over what the lanes brought.
// Asynchronous copies happen when they are waited for, and their target holds NaN until then; so do products of four warps
// and their results.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#define RAGLAN_EMULATION
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __constant__ static const

struct uint2 {
    unsigned x, y;
} __attribute__((aligned(8)));
struct uint4 {
    unsigned x, y, z, w;
} __attribute__((aligned(16)));
struct int4 {
    int x, y, z, w;
} __attribute__((aligned(16)));
struct float2 {
    float x, y;
} __attribute__((aligned(8)));
struct float4 {
    float x, y, z, w;
} __attribute__((aligned(16)));
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct Index3 {
    unsigned x, y, z;
};
static Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr size_t STACK = 256 << 10;
constexpr size_t SHARED = 228 << 10;

[[noreturn]] static void fail(const char *problem) {
    fprintf(stderr, "emulated kernel, block (%u, %u, %u), thread %u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
            threadIdx.x, problem);
    abort();
}

struct Barrier {
    unsigned live = 0, arrived = 0, generation = 0;
    void release_if_complete() {
        if (arrived == live) {
            arrived = 0;
            ++generation;
        }
    }
};

struct Copy {
    void *to;
    const void *from;
    bool present;
};

// A product of four warps, of which this thread brings four registers.
struct Product {
    float *to;
    unsigned n;
    uint32_t rows[4];
    uint64_t operand;
    bool add, transposed;
};

struct Fiber {
    ucontext_t context;
    jmp_buf state;
    bool started = false, done = false;
    unsigned turn = 0, n_products = 0;
    const unsigned *waits_on = nullptr;
    unsigned waits_while = 0;
    std::unique_ptr<char[]> stack{new char[STACK]};
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
    // Whether copies happened that the matrix units were not told of.
    bool unpublished = false;
    std::vector<Product> open_products;
    std::deque<std::vector<Product>> product_groups;
    // What results hold that nobody may look at yet.
    std::map<float *, std::vector<float>> results;
};

// What lanes bring to a collective lies in one of two places by turns: a lane may be one collective ahead of another.
struct Warp {
    Barrier barrier;
    uint32_t brought[2][32][12];
    // Products of tiles that the first lane behind the barrier makes for all, and how many there were.
    float made[2][32][4];
    unsigned n_made = 0;
};

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static Barrier block_barrier;
static jmp_buf scheduler;
static unsigned current;
static void (*body)(void *);
static void *body_arguments;
alignas(1024) static unsigned char shared_memory[SHARED];
// How much of it the launch asked for.
static size_t shared_bytes;

static void yield() {
    if (!_setjmp(fibers[current].state)) _longjmp(scheduler, 1);
}

static void wait(Barrier &barrier) {
    const unsigned generation = barrier.generation;
    ++barrier.arrived;
    barrier.release_if_complete();
    if (barrier.generation == generation) {
        Fiber &fiber = fibers[current];
        fiber.waits_on = &barrier.generation;
        fiber.waits_while = generation;
        yield();
        fibers[current].waits_on = nullptr;
    }
}

static Warp &warp() { return warps[current / 32]; }
static unsigned lane() { return current % 32; }

static void whole_warp() {
    if (warp().barrier.live != 32) fail("a collective of a warp whose lanes have ended");
    wait(warp().barrier);
}

// What all lanes of the warp bring, once all have.
static uint32_t (&bring(const void *numbers, size_t n_bytes))[32][12] {
    Fiber &fiber = fibers[current];
    auto &brought = warp().brought[fiber.turn ^= 1];
    memcpy(brought[lane()], numbers, n_bytes);
    whole_warp();
    return brought;
}

// What a fiber does: a thread of each block in turn, for a fiber is dear to make.
static void run_threads() {
    for (;;) {
        body(body_arguments);
        Fiber &fiber = fibers[current];
        if (!fiber.open.empty() || !fiber.groups.empty()) fail("ends with copies that nobody waited for");
        if (!fiber.open_products.empty() || !fiber.product_groups.empty())
            fail("ends with products that nobody waited for");
        fiber.done = true;
        --warp().barrier.live;
        warp().barrier.release_if_complete();
        --block_barrier.live;
        block_barrier.release_if_complete();
        yield();
    }
}

static void run_block(bool falling, size_t shared) {
    const unsigned n = blockDim.x;
    warps.assign((n + 31) / 32, Warp());
    block_barrier = Barrier();
    block_barrier.live = n;
    if (fibers.size() < n) fibers.resize(n);
    for (unsigned i = 0; i < n; ++i) {
        ++warps[i / 32].barrier.live;
        Fiber &fiber = fibers[i];
        fiber.done = false;
        fiber.turn = fiber.n_products = 0;
        fiber.waits_on = nullptr;
        fiber.open.clear();
        fiber.groups.clear();
        fiber.unpublished = false;
        fiber.open_products.clear();
        fiber.product_groups.clear();
        fiber.results.clear();
        if (fiber.started) continue;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_threads, 0);
    }
    memset(shared_memory, 0xff, shared);
    shared_bytes = shared;
    static unsigned n_done, n_ran, i;
    for (n_done = 0; n_done < n;) {
        n_done = n_ran = 0;
        for (i = 0; i < n; ++i) {
            current = falling ? n - 1 - i : i;
            Fiber &fiber = fibers[current];
            if (fiber.done) {
                ++n_done;
                continue;
            }
            if (fiber.waits_on && *fiber.waits_on == fiber.waits_while) continue;
            ++n_ran;
            threadIdx = {current, 0, 0};
            if (!_setjmp(scheduler)) {
                if (fiber.started) _longjmp(fiber.state, 1);
                fiber.started = true;
                setcontext(&fiber.context);
            }
        }
        if (n_ran == 0 && n_done < n) fail("all threads wait");
    }
}

template <class... A, size_t... I>
void launch_by(void (*kernel)(A...), const unsigned *grid, unsigned block, size_t shared, void **arguments,
               std::index_sequence<I...>) {
    if (shared > SHARED) fail("more shared memory than a block can have");
    static bool falling = false;
    falling = !falling;
    using Call = std::pair<void (*)(A...), std::tuple<A...>>;
    Call call{kernel, std::tuple<A...>(*static_cast<A *>(arguments[I])...)};
    body = [](void *pointer) {
        Call &call = *static_cast<Call *>(pointer);
        std::apply(call.first, call.second);
    };
    body_arguments = &call;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0]; ++x) {
                blockIdx = {x, y, z};
                run_block(falling, shared);
            }
}

template <class... A>
void launch(void (*kernel)(A...), const unsigned *grid, unsigned block, size_t shared, void **arguments) {
    launch_by(kernel, grid, block, shared, arguments, std::index_sequence_for<A...>());
}

template <class T> T exchange(T value, unsigned from) {
    static_assert(sizeof(T) <= 8, "at most two registers");
    memcpy(&value, bring(&value, sizeof(T))[from % 32], sizeof(T));
    return value;
}

static float half_value(uint16_t bits, bool bf16) {
    uint32_t word;
    if (bf16) {
        word = uint32_t(bits) << 16;
    } else {
        const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
        if (exponent == 0) {
            const float value = std::ldexp(float(fraction), -24);
            return sign ? -value : value;
        }
        word = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
    }
    float value;
    memcpy(&value, &word, 4);
    return value;
}

} // namespace emulation

static inline void __syncthreads() { emulation::wait(emulation::block_barrier); }
static inline void __syncwarp() { emulation::wait(emulation::warp().barrier); }
template <class T> T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    return emulation::exchange(value, emulation::lane() ^ mask);
}
template <class T> T __shfl_sync(unsigned, T value, unsigned from) { return emulation::exchange(value, from); }
template <class T> T __shfl_down_sync(unsigned, T value, unsigned by) {
    const unsigned from = emulation::lane() + by;
    return emulation::exchange(value, from < 32 ? from : emulation::lane());
}
static inline unsigned __ballot_sync(unsigned, int predicate) {
    const unsigned own = predicate != 0;
    const auto &brought = emulation::bring(&own, 4);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; ++i) bits |= brought[i][0] << i;
    return bits;
}
template <class T, class U> T atomicAdd(T *to, U value) {
    const T old = *to;
    *to = old + T(value);
    return old;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline float __int_as_float(int x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}
static inline float __uint_as_float(unsigned x) { return __int_as_float(int(x)); }
static inline int __float_as_int(float x) {
    int y;
    memcpy(&y, &x, 4);
    return y;
}
static inline unsigned __float_as_uint(float x) { return unsigned(__float_as_int(x)); }
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
    return c;
}
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline float fdividef(float a, float b) { return a / b; }
template <class T> T __ldg(const T *from) { return *from; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }

// The primitives that common.cuh has in assembly.

static inline float exp2_fast(float x) { return std::exp2(x); }

static inline float f16_bits_to_float(unsigned short bits) { return emulation::half_value(bits, false); }

static inline unsigned short float_to_bf16_bits(float x) {
    const uint32_t word = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

static inline unsigned short float_to_f16_bits(float x) {
    const uint32_t word = __float_as_uint(x), sign = word >> 16 & 0x8000;
    const float magnitude = std::fabs(x);
    if (x != x) return 0x7fff;
    if (magnitude >= 65520.0f) return uint16_t(sign | 0x7c00);
    // Adding a power of two rounds to its last place; halves go to even as the processor rounds.
    int exponent;
    std::frexp(magnitude, &exponent);
    const int step = exponent - 11 < -24 ? -24 : exponent - 11;
    const float rounded = std::nearbyint(std::ldexp(magnitude, -step));
    const float value = std::ldexp(rounded, step);
    if (value == 0) return uint16_t(sign);
    if (value < std::ldexp(1.0f, -14)) return uint16_t(sign | uint32_t(std::ldexp(value, 24)));
    const uint32_t bits = __float_as_uint(value);
    return uint16_t(sign | (((bits >> 23) - 112) << 10 | (bits >> 13 & 0x3ff)));
}

static inline unsigned pack_bf16(float low, float high) {
    return float_to_bf16_bits(low) | unsigned(float_to_bf16_bits(high)) << 16;
}

static inline unsigned pack_f16(float low, float high) {
    return float_to_f16_bits(low) | unsigned(float_to_f16_bits(high)) << 16;
}

namespace emulation {

// The product of what the lanes of a warp brought: four registers of rows, two of columns, four sums.
template <bool BF16> void make_product(const uint32_t (&brought)[32][12], float (&made)[32][4]) {
    float left[16][16], right[16][8], sums[16][8];
    for (unsigned lane = 0; lane < 32; ++lane) {
        for (unsigned i = 0; i < 8; ++i)
            left[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i % 2 + i / 4 * 8] =
                half_value(uint16_t(brought[lane][i / 2] >> 16 * (i % 2)), BF16);
        for (unsigned i = 0; i < 4; ++i)
            right[lane % 4 * 2 + i % 2 + i / 2 * 8][lane / 4] =
                half_value(uint16_t(brought[lane][4 + i / 2] >> 16 * (i % 2)), BF16);
        for (unsigned i = 0; i < 4; ++i) memcpy(&sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], &brought[lane][6 + i], 4);
    }
    for (unsigned row = 0; row < 16; ++row)
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned col = 0; col < 8; ++col) sums[row][col] += left[row][k] * right[k][col];
    for (unsigned lane = 0; lane < 32; ++lane)
        for (unsigned i = 0; i < 4; ++i) made[lane][i] = sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

} // namespace emulation

template <bool BF16> void mma_16x8x16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    uint32_t mine[10] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(mine + 6, c, 16);
    const auto &brought = emulation::bring(mine, sizeof(mine));
    emulation::Fiber &fiber = emulation::fibers[emulation::current];
    emulation::Warp &warp = emulation::warp();
    auto &made = warp.made[fiber.turn];
    if (warp.n_made == fiber.n_products) {
        emulation::make_product<BF16>(brought, made);
        ++warp.n_made;
    }
    ++fiber.n_products;
    memcpy(c, made[emulation::lane()], 16);
}

static inline void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    mma_16x8x16<true>(c, a, b0, b1);
}

static inline void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    mma_16x8x16<false>(c, a, b0, b1);
}

static inline void load_matrices(unsigned (&out)[4], const void *row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulation::fail("a row of a matrix is not aligned");
    const auto &brought = emulation::bring(row, 16);
    const unsigned lane = emulation::lane();
    for (unsigned i = 0; i < 4; ++i) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; ++j) {
            const unsigned line = transposed ? lane % 4 * 2 + j : lane / 4;
            const unsigned at = transposed ? lane / 4 : lane % 4 * 2 + j;
            memcpy(&pair[j], reinterpret_cast<const uint16_t *>(brought[i * 8 + line]) + at, 2);
        }
        out[i] = pair[0] | unsigned(pair[1]) << 16;
    }
}

static inline void load_matrices(unsigned (&out)[4], const void *row) { load_matrices(out, row, false); }
static inline void load_matrices_transposed(unsigned (&out)[4], const void *row) { load_matrices(out, row, true); }

static inline void copy_16_async(void *to, const void *from, bool present) {
    if (reinterpret_cast<uintptr_t>(to) % 16 != 0) emulation::fail("the target of a copy is not aligned");
    if (present && reinterpret_cast<uintptr_t>(from) % 16 != 0) emulation::fail("the source of a copy is not aligned");
    memset(to, 0xff, 16);
    emulation::fibers[emulation::current].open.push_back({to, from, present});
}

static inline void commit_copies() {
    auto &fiber = emulation::fibers[emulation::current];
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

template <int N> void wait_copies() {
    auto &groups = emulation::fibers[emulation::current].groups;
    while (groups.size() > N) {
        for (const auto &copy : groups.front()) {
            emulation::fibers[emulation::current].unpublished = true;
            if (copy.present) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        groups.pop_front();
    }
}

#define DYNAMIC_SHARED(name) unsigned char *name = emulation::shared_memory

// What hopper.cuh has in assembly.

static inline void publish_copies() { emulation::fibers[emulation::current].unpublished = false; }
static inline void order_products() {}
template <class T, int N> void settle(T (&)[N][4]) {}
static inline unsigned shared_address(const void *pointer) {
    return unsigned(static_cast<const unsigned char *>(pointer) - emulation::shared_memory);
}

namespace emulation {

// The number of column n and row k of an operand: rows of 8 lie `stride` bytes apart, columns of a transposed one
// `leading` bytes, and the 16 bytes of an address are turned by the bits above those of a row.
static uint16_t number_of(const Product &product, unsigned n, unsigned k) {
    const uint64_t operand = product.operand;
    const unsigned start = (operand & 0x3fff) << 4, leading = (operand >> 16 & 0x3fff) << 4;
    const unsigned stride = (operand >> 32 & 0x3fff) << 4, turning = operand >> 62;
    if (turning != 1 && turning != 2) fail("an operand that is not turned");
    const unsigned row_bytes = turning == 1 ? 128 : 64, of_row = row_bytes / 2;
    const unsigned along = product.transposed ? k : n, across = product.transposed ? n : k;
    unsigned address = start + along / 8 * stride + along % 8 * row_bytes + across % of_row * 2;
    if (product.transposed) address += across / of_row * leading;
    address ^= (address >> 7 & (turning == 1 ? 7 : 3)) << 4;
    if (address + 2 > shared_bytes) fail("an operand beyond shared memory");
    uint16_t bits;
    memcpy(&bits, shared_memory + address, 2);
    return bits;
}

static void begin_product(float *to, unsigned n, const unsigned (&rows)[4], uint64_t operand, bool add, bool transposed) {
    for (unsigned i = 0; i < blockDim.x; ++i)
        if (fibers[i].unpublished) fail("a product before the copies to its operand were published");
    Fiber &fiber = fibers[current];
    if (fiber.results.find(to) == fiber.results.end()) {
        fiber.results[to] = std::vector<float>(to, to + n / 2);
        std::fill(to, to + n / 2, NAN);
    }
    Product product{to, n, {}, operand, add, transposed};
    memcpy(product.rows, rows, 16);
    fiber.open_products.push_back(product);
}

static void finish_product(const Product &product) {
    uint32_t mine[6];
    memcpy(mine, product.rows, 16);
    memcpy(mine + 4, &product.operand, 8);
    const auto &brought = bring(mine, sizeof(mine));
    if (memcmp(brought[0] + 4, mine + 4, 8) != 0) fail("lanes that differ in an operand");
    auto &result = fibers[current].results[product.to];
    if (!product.add) std::fill(result.begin(), result.end(), 0.0f);
    for (unsigned i = 0; i < product.n / 2; ++i) {
        const unsigned row = lane() / 4 + i % 4 / 2 * 8, col = i / 4 * 8 + lane() % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; ++k) {
            const uint32_t left = brought[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            result[i] += half_value(uint16_t(left >> 16 * (k % 2)), false) * half_value(number_of(product, col, k), false);
        }
    }
}

} // namespace emulation

static inline void commit_products() {
    auto &fiber = emulation::fibers[emulation::current];
    fiber.product_groups.push_back(std::move(fiber.open_products));
    fiber.open_products.clear();
}

template <int N> void wait_products() {
    auto &fiber = emulation::fibers[emulation::current];
    while (fiber.product_groups.size() > N) {
        const auto group = fiber.product_groups.front();
        fiber.product_groups.pop_front();
        for (const auto &product : group) emulation::finish_product(product);
        for (const auto &product : group) {
            const auto result = fiber.results.find(product.to);
            if (result == fiber.results.end()) continue;
            memcpy(product.to, result->second.data(), 4 * result->second.size());
            fiber.results.erase(result);
        }
    }
}
