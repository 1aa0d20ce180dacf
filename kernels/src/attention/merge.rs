//! Merging of partial attention.

use crate::{Error, Result};

/// Merges attention over two disjoint sets of keys into the first.
///
/// With `M = max(a, b)` of the two log-sum-exps of a row and head, `w = exp(lse − M)`:
/// `out = (w_a out_a + w_b out_b) / (w_a + w_b)` and `lse = M + ln(w_a + w_b)`. A part that saw no key (−∞) counts for
/// nothing. `out` and `other_out` are `[n, head_dim]`, `lse` and `other_lse` `[n]`, of any number of rows and heads.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `head_dim` is 0.
pub fn merge_attention(
    head_dim: usize,
    out: &mut [f32],
    lse: &mut [f32],
    other_out: &[f32],
    other_lse: &[f32],
) -> Result<()> {
    if head_dim == 0 {
        return Err(Error::ZeroDimension);
    }
    let n = lse.len();
    for (what, found, expected) in [
        ("out", out.len(), n * head_dim),
        ("other_out", other_out.len(), n * head_dim),
        ("other_lse", other_lse.len(), n),
    ] {
        super::check_length(what, found, expected)?;
    }
    let others = other_out.chunks_exact(head_dim).zip(other_lse);
    for ((out, lse), (other_out, &other_lse)) in out.chunks_exact_mut(head_dim).zip(lse).zip(others) {
        if other_lse == f32::NEG_INFINITY {
            continue;
        }
        if *lse == f32::NEG_INFINITY {
            out.copy_from_slice(other_out);
            *lse = other_lse;
            continue;
        }
        let maximum = lse.max(other_lse);
        let (weight, other_weight) = ((*lse - maximum).exp(), (other_lse - maximum).exp());
        let sum = weight + other_weight;
        let (share, other_share) = (weight / sum, other_weight / sum);
        for (out, other) in out.iter_mut().zip(other_out) {
            *out = share * *out + other_share * other;
        }
        *lse = maximum + sum.ln();
    }
    Ok(())
}
