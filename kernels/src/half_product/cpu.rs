//! The reference: a plain loop.

use super::f16_to_f32;

/// `Σ_d query[d] · vector[d]`.
pub fn product(query: &[f32], vector: &[u16]) -> f64 {
    query.iter().zip(vector).map(|(&a, &b)| f64::from(a) * f64::from(f16_to_f32(b))).sum()
}
