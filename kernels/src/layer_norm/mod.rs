//! Layer normalisation.

#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fast;
#[cfg(test)]
mod tests;

#[cfg(all(test, feature = "cuda"))]
pub(crate) use cpu::layer_norm as reference;

use crate::device::CpuForm;
use crate::{Error, Result};

/// Normalises each row of `rows`, shape `[n, dim]`, in place: `(x - mean) / √(variance + epsilon) · scale + shift`.
///
/// `dim` is the length of `scale` and of `shift`; the variance is `Σ (x - mean)² / dim`.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit that of `scale`; [`Error::ZeroDimension`] when `scale` is empty.
pub fn layer_norm(rows: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) -> Result<()> {
    check(rows.len(), scale, shift)?;
    fast::layer_norm(CpuForm::best(), rows, scale, shift, epsilon);
    Ok(())
}

/// Adds `residual`, of the shape of `rows`, and normalises: `rows = layer_norm(rows + residual)`.
///
/// The result is that of the addition followed by [`layer_norm`], to the bit.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit that of `scale`, or `residual` is not as long as `rows`;
/// [`Error::ZeroDimension`] when `scale` is empty.
pub fn add_layer_norm(rows: &mut [f32], residual: &[f32], scale: &[f32], shift: &[f32], epsilon: f32) -> Result<()> {
    check(rows.len(), scale, shift)?;
    if residual.len() != rows.len() {
        return Err(Error::Shape { what: "residual", expected: rows.len(), found: residual.len() });
    }
    fast::add_layer_norm(CpuForm::best(), rows, residual, scale, shift, epsilon);
    Ok(())
}

fn check(n: usize, scale: &[f32], shift: &[f32]) -> Result<()> {
    let dim = scale.len();
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    if shift.len() != dim {
        return Err(Error::Shape { what: "shift", expected: dim, found: shift.len() });
    }
    if !n.is_multiple_of(dim) {
        return Err(Error::Shape { what: "rows", expected: n.next_multiple_of(dim), found: n });
    }
    Ok(())
}
