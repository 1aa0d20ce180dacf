//! The last steps of an encoder on a device: norm, pooling and unit length in one launch.

use crate::device::cuda::{Argument, Buffer, Kernel, Launch, Module, PackedSequences, Real, check_len, count};
use crate::{Error, Result};

pub(crate) static MODULE: Module = Module {
    name: "mean_pool",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "norm_pool_f32_4", most_registers: 64 },
        Kernel { name: "norm_pool_f32_8", most_registers: 128 },
        Kernel { name: "norm_pool_f32_16", most_registers: 255 },
        Kernel { name: "norm_pool_f16_4", most_registers: 64 },
        Kernel { name: "norm_pool_f16_8", most_registers: 128 },
        Kernel { name: "norm_pool_f16_16", most_registers: 255 },
    ],
};

/// What is done with a row before it is used.
#[derive(Clone, Copy, Debug)]
pub enum RowNorm<'a> {
    /// Nothing.
    None,
    /// [`layer_norm`](crate::layer_norm) with a scale and a shift, `[dim]`.
    Layer {
        /// Multiplied with what is normalised.
        scale: &'a Buffer<f32>,
        /// Added to that.
        shift: &'a Buffer<f32>,
        /// Added to the variance.
        epsilon: f32,
    },
    /// [`rms_norm`](crate::rms_norm) with a scale, `[dim]`.
    Rms {
        /// Multiplied with what is normalised.
        scale: &'a Buffer<f32>,
        /// Added to the mean square.
        epsilon: f32,
    },
}

/// Which vector stands for a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooled {
    /// The mean of its rows.
    Mean,
    /// Its first row.
    First,
    /// Its last row.
    Last,
}

/// Whether vectors are brought to unit length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// They stay as long as they are.
    Kept,
    /// They are divided by their length; zeros stay zeros.
    Unit,
}

/// A vector for each sequence of rows that are normalised on the way, by [`mean_pool`](crate::mean_pool) or one of the
/// rows, and then perhaps [`l2_normalize`](crate::l2_normalize): the last norm of an encoder, its pooling and the unit
/// length in one launch.
///
/// `rows` is `[n_tokens, dim]`, the result `[n_sequences, dim]`. A sequence without rows gives zeros. `dim` is a
/// multiple of 4 up to 2048.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::Unsupported`] for another `dim`.
pub fn norm_pool<T: Real>(
    rows: &Buffer<T>,
    sequences: &PackedSequences,
    dim: usize,
    norm: RowNorm<'_>,
    pooled: Pooled,
    length: Length,
) -> Result<Buffer<f32>> {
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    // A warp holds 128 columns in each of its steps.
    let kernel = match (T::SUFFIX, dim.div_ceil(128)) {
        _ if !dim.is_multiple_of(4) => None,
        ("f32", ..=4) => Some("norm_pool_f32_4"),
        ("f32", ..=8) => Some("norm_pool_f32_8"),
        ("f32", ..=16) => Some("norm_pool_f32_16"),
        ("f16", ..=4) => Some("norm_pool_f16_4"),
        ("f16", ..=8) => Some("norm_pool_f16_8"),
        ("f16", ..=16) => Some("norm_pool_f16_16"),
        _ => None,
    };
    let kernel = kernel.ok_or(Error::Unsupported { what: "dimension of pooled rows", found: dim })?;
    check_len("rows", rows.len(), sequences.n_tokens() * dim)?;
    let none = Argument::Address(0);
    let (scale, shift, epsilon, kind) = match norm {
        RowNorm::None => (none, none, 0.0, 0),
        RowNorm::Layer { scale, shift, epsilon } => {
            check_len("scale", scale.len(), dim)?;
            check_len("shift", shift.len(), dim)?;
            (scale.argument(), shift.argument(), epsilon, 1)
        }
        RowNorm::Rms { scale, epsilon } => {
            check_len("scale", scale.len(), dim)?;
            (scale.argument(), none, epsilon, 2)
        }
    };
    let out = rows.device().allocate(sequences.n_sequences() * dim)?;
    // One block a sequence: a batch of an encoder has some hundred of them, and each is read from one end to the other.
    let launch = Launch { grid: [count("sequences", sequences.n_sequences())?, 1, 1], block: 256, shared_bytes: 0 };
    let arguments = [
        rows.argument(),
        sequences.ends().argument(),
        scale,
        shift,
        Argument::F32(epsilon),
        Argument::U32(kind),
        Argument::U32(match pooled {
            Pooled::Mean => 0,
            Pooled::First => 1,
            Pooled::Last => 2,
        }),
        Argument::U32(u32::from(length == Length::Unit)),
        Argument::U32(dim as u32),
        out.argument(),
    ];
    // SAFETY: the arguments are the kernel's; the sequences' rows are all of `rows`, and there is a block for each row
    // of `out`.
    unsafe { rows.device().launch(&MODULE, kernel, launch, &arguments) }?;
    Ok(out)
}
