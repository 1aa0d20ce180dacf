//! The reference: plain loops over the tokens as they are read back.

/// `Σ_i max_j query[i] · tokens[j]`, over those tokens whose centroid's byte is at most `margin` below the greatest.
pub fn score(query: &[f32], tokens: &[f32], dim: usize, bytes: &[Vec<u8>], margin: u8) -> f64 {
    let mut score = 0.0;
    for (i, query) in query.chunks_exact(dim).enumerate() {
        let greatest = bytes.iter().map(|row| row[i]).max().unwrap_or(0);
        let mut best = f64::NEG_INFINITY;
        for (token, row) in tokens.chunks_exact(dim).zip(bytes) {
            if row[i] >= greatest.saturating_sub(margin) {
                let product: f64 = query.iter().zip(token).map(|(q, t)| f64::from(*q) * f64::from(*t)).sum();
                best = best.max(product);
            }
        }
        score += if tokens.is_empty() { 0.0 } else { best };
    }
    score
}
