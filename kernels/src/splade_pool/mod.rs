//! SPLADE's pooling: from one logit a token and term to one weight a term.
//!
//! The weight is `max_t ln(1 + max(0, logit_t))`. The logarithm rises with its argument, so the maximum of the logits
//! is taken first and the logarithm once a term.

#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fast;
#[cfg(test)]
mod tests;

pub(crate) use fast::running_max as running_max_by;

use crate::device::CpuForm;
use crate::{Error, Result};

/// Raises weights to those of some tokens' logits: `out[v] = max(out[v], max_t ln(1 + max(0, logits[t, v])))`.
///
/// Shapes: `logits` is `[n_tokens, n_terms]`, `out` is `[n_terms]` and starts at zeros. For a text whose logits come in
/// several tiles, [`running_max`] over all and one [`log1p_relu`] cost less.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit `n_terms`; [`Error::ZeroDimension`] when `n_terms` is 0.
pub fn log_relu_max(logits: &[f32], n_terms: usize, out: &mut [f32]) -> Result<()> {
    let mut max = vec![0.0; n_terms];
    running_max(logits, n_terms, &mut max)?;
    if out.len() != n_terms {
        return Err(Error::Shape { what: "out", expected: n_terms, found: out.len() });
    }
    log1p_relu(&mut max);
    fast::running_max(CpuForm::best(), &max, n_terms, out);
    Ok(())
}

/// Raises each term's maximum to the greatest of some tokens' logits: `max[v] = max(max[v], max_t logits[t, v])`.
///
/// Shapes: `logits` is `[n_tokens, n_terms]`, `max` is `[n_terms]`. A logit that is NaN is passed over.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit `n_terms`; [`Error::ZeroDimension`] when `n_terms` is 0.
pub fn running_max(logits: &[f32], n_terms: usize, max: &mut [f32]) -> Result<()> {
    if n_terms == 0 {
        return Err(Error::ZeroDimension);
    }
    if !logits.len().is_multiple_of(n_terms) {
        let expected = logits.len().next_multiple_of(n_terms);
        return Err(Error::Shape { what: "logits", expected, found: logits.len() });
    }
    if max.len() != n_terms {
        return Err(Error::Shape { what: "max", expected: n_terms, found: max.len() });
    }
    fast::running_max(CpuForm::best(), logits, n_terms, max);
    Ok(())
}

/// Turns maxima into weights: `x = ln(1 + max(0, x))`; NaN becomes 0.
pub fn log1p_relu(max: &mut [f32]) {
    for x in max {
        *x = if *x > 0.0 { x.ln_1p() } else { 0.0 };
    }
}
