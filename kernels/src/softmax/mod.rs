//! Softmax and its logarithm.

#[cfg(test)]
mod cpu;
mod fast;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::{Error, Result};

/// Replaces a row of logits by probabilities: `exp(x - max) / Σ exp(x - max)`.
///
/// A logit of -∞ has probability 0; where all are -∞, all are 0. A NaN or a +∞ makes the row NaN.
pub fn softmax(row: &mut [f32]) {
    fast::softmax(CpuForm::best(), row);
}

/// `ln Σ exp(x)`, without overflow; -∞ where there are no values or all are -∞.
///
/// The values are read once: each tile has its maximum and its sum, and the sums are brought to one maximum. A NaN or a
/// +∞ makes it NaN.
pub fn log_sum_exp(values: &[f32]) -> f32 {
    fast::log_sum_exp(CpuForm::best(), values)
}

/// The logarithm of the probability of chosen ids: `out[i] = logits[ids[i]] - log_sum_exp(logits)`.
///
/// # Errors
///
/// [`Error::Shape`] when `out` is not as long as `ids`; [`Error::Row`] when there is no logit for an id.
pub fn log_softmax_at(logits: &[f32], ids: &[u32], out: &mut [f32]) -> Result<()> {
    if out.len() != ids.len() {
        return Err(Error::Shape { what: "out", expected: ids.len(), found: out.len() });
    }
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= logits.len()) {
        return Err(Error::Row { row: id as usize, n_rows: logits.len() });
    }
    let total = log_sum_exp(logits);
    for (out, &id) in out.iter_mut().zip(ids) {
        let logit = logits[id as usize];
        // -∞ - -∞ is no number: what cannot be stays at -∞.
        *out = if logit == f32::NEG_INFINITY { logit } else { logit - total };
    }
    Ok(())
}
