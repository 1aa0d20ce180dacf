//! Activation functions, plain and gated.

#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fast;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use fast::{activate as activate_by, gated as gate_by};
pub(crate) use fast::{gelu, gelu_tanh, relu, silu};

use crate::device::CpuForm;
use crate::{Error, Result};

/// A function applied to each component between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x/2 · (1 + erf(x/√2))`; absolute error below 1e-6.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
    /// `max(0, x)`.
    Relu,
    /// `x / (1 + e⁻ˣ)`.
    Silu,
}

/// Replaces each value by the activation's value there.
pub fn activate(values: &mut [f32], activation: Activation) {
    fast::activate(CpuForm::best(), values, activation);
}

/// A gated layer's middle: `out[i, d] = activation(gate[i, d]) · up[i, d]`.
///
/// Row-major shapes: `gate_up` is `[n, 2 · dim]`, in each row first the gate, then up; `out` is `[n, dim]`.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit `dim`; [`Error::ZeroDimension`] when `dim` is 0.
pub fn gated(gate_up: &[f32], dim: usize, activation: Activation, out: &mut [f32]) -> Result<()> {
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    let n = gate_up.len();
    if !n.is_multiple_of(2 * dim) {
        return Err(Error::Shape { what: "gate_up", expected: n.next_multiple_of(2 * dim), found: n });
    }
    if out.len() != n / 2 {
        return Err(Error::Shape { what: "out", expected: n / 2, found: out.len() });
    }
    fast::gated(CpuForm::best(), gate_up, dim, activation, out);
    Ok(())
}
