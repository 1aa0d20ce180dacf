//! The reference: sort everything.

/// The best `k` scores with their indices; no score is NaN.
pub fn top_k(scores: &[f32], k: usize) -> Vec<(f32, u32)> {
    let mut all: Vec<(f32, u32)> = scores.iter().copied().zip(0..).collect();
    all.sort_by(|a, b| b.0.partial_cmp(&a.0).expect("no score is NaN").then(a.1.cmp(&b.1)));
    all.truncate(k);
    all
}
