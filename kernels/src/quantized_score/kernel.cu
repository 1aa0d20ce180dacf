// The best k of many vectors by the inner product of their bytes, or by the bits in which they differ from a query.
//
// A candidate is a number of 64 bits: its score, so turned that greater scores are greater integers, then the complement
// of its index, so that of equal scores the lower index is greater. No two are equal, so that the best do not depend on
// the order in which they come. Zero is no candidate.

#define CAPACITY 2048
#define ROUND 1024 // vectors between two looks at how many candidates there are

__device__ __forceinline__ u64 candidate(float score, u32 index) {
    const u32 bits = __float_as_uint(score + 0.0f); // -0 becomes 0
    const u32 turned = bits & 0x80000000 ? ~bits : bits | 0x80000000;
    return u64(turned) << 32 | ~index;
}

// The candidates of a block.
struct Best {
    u64 *kept;  // CAPACITY
    u32 *count; // how many of them there are
    u64 *least; // what is not above it cannot be among the best

    __device__ __forceinline__ void clear() const {
        if (threadIdx.x == 0) *count = 0, *least = 0;
        __syncthreads();
    }

    __device__ __forceinline__ void offer(u64 key) const {
        if (key > *least) kept[atomicAdd(count, 1u)] = key;
    }

    // Keeps the best k, in falling order. All threads of the block call it.
    __device__ __forceinline__ void thin_out(u32 k) const {
        __syncthreads();
        const u32 n = *count;
        for (u32 i = n + threadIdx.x; i < CAPACITY; i += blockDim.x) kept[i] = 0;
        __syncthreads();
        for (u32 size = 2; size <= CAPACITY; size *= 2)
            for (u32 by = size / 2; by > 0; by /= 2) {
                for (u32 i = threadIdx.x; i < CAPACITY / 2; i += blockDim.x) {
                    const u32 a = i / by * 2 * by + i % by, b = a + by;
                    const bool falling = (a & size) == 0 || size == CAPACITY;
                    const u64 x = kept[a], y = kept[b];
                    if (falling ? x < y : x > y) kept[a] = y, kept[b] = x;
                }
                __syncthreads();
            }
        if (threadIdx.x == 0) *count = min(n, k), *least = n >= k ? kept[k - 1] : 0;
        __syncthreads();
    }

    // Makes room for another round.
    __device__ __forceinline__ void make_room(u32 k) const {
        __syncthreads();
        const bool full = *count > CAPACITY - ROUND;
        __syncthreads();
        if (full) thin_out(k);
    }

    __device__ __forceinline__ void store(u32 k, u64 *out) const {
        thin_out(k);
        for (u32 i = threadIdx.x; i < k; i += blockDim.x) out[i] = kept[i];
    }
};

// Bytes: eight lanes a vector, 16 bytes a lane and step.
struct Bytes {
    typedef uint4 Load;
    const float *scales;
    float scale;
    static __device__ __forceinline__ void add(uint4 x, uint4 q, int &sum) {
        sum = __dp4a(int(x.x), int(q.x), sum);
        sum = __dp4a(int(x.y), int(q.y), sum);
        sum = __dp4a(int(x.z), int(q.z), sum);
        sum = __dp4a(int(x.w), int(q.w), sum);
    }
    __device__ __forceinline__ float score(int sum, u32 v) const { return float(sum) * (scale * scales[v]); }
};

// Bits: eight bytes a lane and step.
struct Bits {
    typedef uint2 Load;
    static __device__ __forceinline__ void add(uint2 x, uint2 q, int &sum) {
        sum += __popc(x.x ^ q.x) + __popc(x.y ^ q.y);
    }
    __device__ __forceinline__ float score(int sum, u32) const { return -float(sum); }
};

// Block x takes `each` vectors of `n_loads` loads each, query y; it leaves its best k at out[y, x].
template <class Kind>
__device__ __forceinline__ void scan(const typename Kind::Load *vectors, const typename Kind::Load *queries, const Kind &kind,
                                     u32 n, u32 n_loads, u32 each, u32 k, u64 *out) {
    typedef typename Kind::Load Load;
    DYNAMIC_SHARED(shared);
    __shared__ u32 count;
    __shared__ u64 least;
    const Best best{reinterpret_cast<u64 *>(shared), &count, &least};
    Load *query = reinterpret_cast<Load *>(shared + CAPACITY * 8);
    for (u32 i = threadIdx.x; i < n_loads; i += 256) query[i] = queries[size_t(blockIdx.y) * n_loads + i];
    best.clear();
    const u32 start = blockIdx.x * each, end = min(start + each, n);
    const u32 group = threadIdx.x / 8, lane = threadIdx.x % 8;
    for (u32 round = start; round < end; round += ROUND) {
        best.make_room(k);
#pragma unroll 1
        for (u32 first = round; first < round + ROUND; first += 128) {
            int sum[4] = {};
#pragma unroll 1
            for (u32 c = lane; c < n_loads; c += 8) {
                const Load q = query[c];
                Load x[4];
#pragma unroll
                for (int u = 0; u < 4; ++u) {
                    // Past the end the last vector is read again, and not offered.
                    const u32 v = min(first + u * 32 + group, n - 1);
                    x[u] = vectors[size_t(v) * n_loads + c];
                }
#pragma unroll
                for (int u = 0; u < 4; ++u) Kind::add(x[u], q, sum[u]);
            }
#pragma unroll
            for (int u = 0; u < 4; ++u) {
                for (int by = 4; by > 0; by /= 2) sum[u] += __shfl_xor_sync(WHOLE_WARP, sum[u], by);
                const u32 v = first + u * 32 + group;
                if (lane == 0 && v < end) best.offer(candidate(kind.score(sum[u], v), v));
            }
        }
    }
    best.store(k, out + (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * k);
}

extern "C" __global__ void __launch_bounds__(256, 3)
    best_by_bytes(const uint4 *vectors, const float *scales, const uint4 *queries, const float *query_scales, u32 n,
                  u32 n_loads, u32 each, u32 k, u64 *out) {
    scan(vectors, queries, Bytes{scales, query_scales[blockIdx.y]}, n, n_loads, each, k, out);
}

extern "C" __global__ void __launch_bounds__(256, 3)
    best_by_bits(const uint2 *vectors, const uint2 *queries, u32 n, u32 n_loads, u32 each, u32 k, u64 *out) {
    scan(vectors, queries, Bits(), n, n_loads, each, k, out);
}

// The best k of n candidates of query x.
extern "C" __global__ void __launch_bounds__(256) best_of_best(const u64 *candidates, u32 n, u32 k, u64 *out) {
    DYNAMIC_SHARED(memory);
    __shared__ u32 count;
    __shared__ u64 least;
    const Best best{reinterpret_cast<u64 *>(memory), &count, &least};
    best.clear();
    for (u32 round = 0; round < n; round += ROUND) {
        best.make_room(k);
        for (u32 i = round + threadIdx.x; i < min(round + ROUND, n); i += 256)
            best.offer(candidates[size_t(blockIdx.x) * n + i]);
    }
    best.store(k, out + size_t(blockIdx.x) * k);
}
