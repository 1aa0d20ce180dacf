//! The reference: plain loops and `f64` sums.

/// `out[q, v] = Σ_d queries[q, d] · vectors[v, d]`, row-major.
pub fn inner_products(queries: &[f32], vectors: &[f32], dim: usize, out: &mut [f64]) {
    let n_vectors = vectors.len() / dim;
    for (q, query) in queries.chunks_exact(dim).enumerate() {
        for (v, vector) in vectors.chunks_exact(dim).enumerate() {
            let mut sum = 0.0;
            for d in 0..dim {
                sum += f64::from(query[d]) * f64::from(vector[d]);
            }
            out[q * n_vectors + v] = sum;
        }
    }
}
