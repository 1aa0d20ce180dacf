//! Root-mean-square normalisation.

#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fast;
#[cfg(test)]
mod tests;

#[cfg(all(test, feature = "cuda"))]
pub(crate) use cpu::rms_norm as reference;

use crate::device::CpuForm;
use crate::{Error, Result};

/// Normalises each row of `input`, shape `[n, dim]`, into `out`: `x / √(Σ x² / dim + epsilon) · scale`.
///
/// `dim` is the length of `scale`: that of a token's vector, or of one head's part where heads are normalised.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `scale` is empty.
pub fn rms_norm(input: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) -> Result<()> {
    check(input.len(), scale)?;
    if out.len() != input.len() {
        return Err(Error::Shape { what: "out", expected: input.len(), found: out.len() });
    }
    fast::rms_norm(CpuForm::best(), input, scale, epsilon, out);
    Ok(())
}

/// Does to `rows` what [`rms_norm`] does, in place and to the bit.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `scale` is empty.
pub fn rms_norm_in_place(rows: &mut [f32], scale: &[f32], epsilon: f32) -> Result<()> {
    check(rows.len(), scale)?;
    fast::rms_norm_in_place(CpuForm::best(), rows, scale, epsilon);
    Ok(())
}

fn check(n: usize, scale: &[f32]) -> Result<()> {
    let dim = scale.len();
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    if !n.is_multiple_of(dim) {
        return Err(Error::Shape { what: "rows", expected: n.next_multiple_of(dim), found: n });
    }
    Ok(())
}
