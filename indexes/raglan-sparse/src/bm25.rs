//! The formula of Robertson and Zaragoza, in Lucene's variant.
//!
//! `score = Σ_t n_q(t) · idf(t) · tf / (tf + k1 · (1 − b + b · dl / avgdl))` with
//! `idf(t) = ln(1 + (N − df + ½) / (df + ½))`; `n_q(t)` is how often the term is in the query. Lengths are exact: unlike
//! Lucene's and tantivy's they are not rounded to one byte. The constant factor `k1 + 1` of the older variant is left
//! out, as it changes no order.

use crate::{Error, Result};

/// The parameters of the formula.
///
/// Invariant: `k1` is finite and at least 0, `b` is from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bm25Parameters {
    k1: f32,
    b: f32,
}

impl Bm25Parameters {
    /// Parameters: the saturation of the term frequency, and how much a chunk's length counts.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when one is out of its range.
    pub fn new(k1: f32, b: f32) -> Result<Self> {
        if !(k1.is_finite() && k1 >= 0.0) {
            return Err(Error::Parameter { name: "k1", value: k1, range: "a finite number of at least 0" });
        }
        if !(0.0..=1.0).contains(&b) {
            return Err(Error::Parameter { name: "b", value: b, range: "from 0 to 1" });
        }
        Ok(Self { k1, b })
    }

    /// The saturation of the term frequency.
    pub fn k1(self) -> f32 {
        self.k1
    }

    /// How much a chunk's length counts.
    pub fn b(self) -> f32 {
        self.b
    }

    /// `k1 · (1 − b + b · dl / avgdl)`.
    pub(crate) fn length_norm(self, dl: u32, avgdl: f64) -> f32 {
        let (k1, b) = (f64::from(self.k1), f64::from(self.b));
        (k1 * (1.0 - b + b * f64::from(dl) / avgdl)) as f32
    }
}

impl Default for Bm25Parameters {
    /// Lucene's: `k1` 1.2, `b` 0.75.
    fn default() -> Self {
        Self { k1: 1.2, b: 0.75 }
    }
}

/// `ln(1 + (n_docs − df + ½) / (df + ½))`.
pub fn idf(n_docs: u64, df: u64) -> f32 {
    let (n_docs, df) = (n_docs as f64, df as f64);
    (1.0 + (n_docs - df + 0.5) / (df + 0.5)).ln() as f32
}

/// `weight · tf / (tf + norm)`.
#[inline]
pub fn contribution(weight: f32, tf: u32, norm: f32) -> f32 {
    let tf = tf as f32;
    weight * (tf / (tf + norm))
}
