//! Loops that the compiler vectorises on any processor.

/// How many sums run side by side; two SSE or NEON registers' worth for each of two chains.
const LANES: usize = 16;

/// The products of `Q` queries with one vector; all slices are of one length.
#[inline]
pub fn products<const Q: usize>(queries: [&[f32]; Q], vector: &[f32], out: &mut [f32; Q]) {
    for (score, query) in out.iter_mut().zip(queries) {
        let mut sums = [0.0f32; LANES];
        let (query_blocks, query_tail) = query.as_chunks::<LANES>();
        let (vector_blocks, vector_tail) = vector.as_chunks::<LANES>();
        for (a, b) in query_blocks.iter().zip(vector_blocks) {
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        for (lane, (a, b)) in query_tail.iter().zip(vector_tail).enumerate() {
            sums[lane] += a * b;
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
            width /= 2;
        }
        *score = sums[0];
    }
}
