//! The formula of Robertson and Zaragoza, in Lucene's variant.
//!
//! `score = Σ_t n_q(t) · idf(t) · tf / (tf + k1 · (1 − b + b · dl / avgdl))` with
//! `idf(t) = ln(1 + (N − df + ½) / (df + ½))`; `n_q(t)` is how often the term is in the query. Lengths are exact: unlike
//! Lucene's and tantivy's they are not rounded to one byte. The constant factor `k1 + 1` of the older variant is left
//! out, as it changes no order.

/// Saturation of the term frequency.
pub const K1: f32 = 1.2;

/// How much a chunk's length counts.
pub const B: f32 = 0.75;

/// `ln(1 + (n_docs − df + ½) / (df + ½))`.
pub fn idf(n_docs: u64, df: u64) -> f32 {
    let (n_docs, df) = (n_docs as f64, df as f64);
    (1.0 + (n_docs - df + 0.5) / (df + 0.5)).ln() as f32
}

/// `k1 · (1 − b + b · dl / avgdl)`.
pub fn length_norm(dl: u32, avgdl: f64) -> f32 {
    (f64::from(K1) * (1.0 - f64::from(B) + f64::from(B) * f64::from(dl) / avgdl)) as f32
}

/// `weight · tf / (tf + norm)`.
#[inline]
pub fn contribution(weight: f32, tf: u32, norm: f32) -> f32 {
    let tf = tf as f32;
    weight * (tf / (tf + norm))
}
