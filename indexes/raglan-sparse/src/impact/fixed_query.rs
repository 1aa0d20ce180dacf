//! A query in whole numbers.

use raglan_core::SparseVector;

use crate::{Error, Result};

/// A query whose weights are whole numbers, so that its scores are sums of integers and do not depend on their order.
///
/// Weight `q_t` becomes `max(1, round(s · q_t))` with the greatest power of two `s` for which `255 · Σ_t` of these fits
/// 32 bits: a weight is off by at most 2⁻²⁴ of the sum of all, which is what sums of `f32` lose too, and short binary
/// fractions stay as they are.
pub struct FixedQuery {
    /// Terms, increasing.
    pub terms: Vec<u32>,
    /// As long as `terms`, and not 0; `255 · Σ weights ≤ u32::MAX`.
    pub weights: Vec<u32>,
    /// What 1 is worth as a score.
    pub unit: f64,
}

impl FixedQuery {
    /// The query for impacts of which each is worth `step`.
    ///
    /// # Errors
    ///
    /// [`Error::Vectors`] when a weight is negative or there are too many.
    pub fn new(query: &SparseVector, step: f64) -> Result<Self> {
        let refuse = |problem| Err(Error::Vectors { problem });
        if let Some(at) = query.weights().iter().position(|&weight| weight < 0.0) {
            return refuse(format!("the query's weight of term {} is negative", query.terms()[at]));
        }
        let most = f64::from(u32::MAX / 255);
        let n = query.terms().len() as f64;
        if n > most / 2.0 {
            return refuse(format!("the query has {n} terms"));
        }
        let sum: f64 = query.weights().iter().copied().map(f64::from).sum();
        // Each weight grows by at most 1. Without a term any scale will do.
        let scale = ((most - n) / sum.max(f64::MIN_POSITIVE)).log2().floor().exp2();
        let weights = query.weights().iter().map(|&weight| ((f64::from(weight) * scale).round() as u32).max(1));
        Ok(Self { terms: query.terms().to_vec(), weights: weights.collect(), unit: step / scale })
    }
}
