//! The reference: plain loops and `f64` sums.

/// `out[d] = Σ_i max_j query[i] · tokens[j]`, `j` over the tokens of document `d`; 0 where there are none.
pub fn max_sim(query: &[f32], tokens: &[f32], dim: usize, ends: &[usize]) -> Vec<f64> {
    let mut out = Vec::new();
    let mut start = 0;
    for &end in ends {
        let mut score = 0.0;
        for query in query.chunks_exact(dim) {
            let mut greatest = f64::NEG_INFINITY;
            for token in tokens[start * dim..end * dim].chunks_exact(dim) {
                let mut sum = 0.0;
                for d in 0..dim {
                    sum += f64::from(query[d]) * f64::from(token[d]);
                }
                greatest = greatest.max(sum);
            }
            score += if end > start { greatest } else { 0.0 };
        }
        out.push(score);
        start = end;
    }
    out
}
