//! Attention on a device, by the matrix units, over packed sequences and over pages of keys and values.
//!
//! What depends on positions alone (which tiles of rows visit which pages, and where a mask is needed) is found once,
//! on the processor, and serves all layers of a forward pass.

mod causal;
mod decode;
#[cfg(test)]
mod tests;
mod visits;

use super::AttentionShape;
use crate::device::cuda::{
    Argument, Buffer, CudaDevice, F16, HEAD_DIMS, Kernel, KvPages, Launch, Module, PAGE_TOKENS, PackedSequences,
    TILE_ROWS, check_len, count,
};
use crate::{Error, Result};

pub use causal::{CausalPlan, PageTurns, PagedKeys, attention_mass, causal_attention};
pub use decode::{DecodePlan, decode_attention};

pub(crate) static MODULE: Module = Module {
    name: "attention",
    source: concat!(
        include_str!("../../device/cuda/common.cuh"),
        include_str!("../tiles.cuh"),
        include_str!("../kernel.cu")
    ),
    kernels: &[
        Kernel { name: "bidirectional_32", most_registers: 255 },
        Kernel { name: "bidirectional_64", most_registers: 255 },
        Kernel { name: "bidirectional_128", most_registers: 255 },
        Kernel { name: "bidirectional_256", most_registers: 255 },
        Kernel { name: "causal_32", most_registers: 255 },
        Kernel { name: "causal_64", most_registers: 255 },
        Kernel { name: "causal_128", most_registers: 255 },
        Kernel { name: "causal_256", most_registers: 255 },
        Kernel { name: "mass_32", most_registers: 128 },
        Kernel { name: "mass_64", most_registers: 128 },
        Kernel { name: "mass_128", most_registers: 255 },
        Kernel { name: "mass_256", most_registers: 255 },
        Kernel { name: "decode_32", most_registers: 128 },
        Kernel { name: "decode_64", most_registers: 128 },
        Kernel { name: "decode_128", most_registers: 255 },
        Kernel { name: "decode_256", most_registers: 255 },
        Kernel { name: "merge_splits", most_registers: 40 },
    ],
};

/// What has forms of its own for Hopper.
pub(crate) static HOPPER: Module = Module {
    name: "attention-hopper",
    source: concat!(
        include_str!("../../device/cuda/common.cuh"),
        include_str!("../../device/cuda/hopper.cuh"),
        include_str!("../tiles.cuh"),
        include_str!("../hopper.cu")
    ),
    kernels: &[
        Kernel { name: "hopper_bidirectional_32", most_registers: 128 },
        Kernel { name: "hopper_bidirectional_64", most_registers: 128 },
        Kernel { name: "hopper_bidirectional_128", most_registers: 255 },
        Kernel { name: "hopper_causal_32", most_registers: 128 },
        Kernel { name: "hopper_causal_64", most_registers: 128 },
        Kernel { name: "hopper_causal_128", most_registers: 255 },
    ],
};

/// A slot of a page that has no token.
pub const EMPTY_SLOT: u32 = u32::MAX;

/// The kernel for heads of this size.
fn by_head_dim(names: [&'static str; 4], dim: usize) -> Result<&'static str> {
    match HEAD_DIMS.iter().position(|&served| served == dim) {
        Some(i) => Ok(names[i]),
        None if dim == 0 => Err(Error::ZeroDimension),
        None => Err(Error::Unsupported { what: "size of attention's heads", found: dim }),
    }
}

/// Where a kernel is that takes tiles of [`TILE_ROWS`] rows, and how many threads its blocks have: `names` for heads of
/// [`HEAD_DIMS`], and on Hopper, for heads of up to 128, those of its own.
fn by_tiles(
    device: &CudaDevice,
    names: [&'static str; 4],
    of_hopper: [&'static str; 3],
    dim: usize,
) -> Result<(&'static Module, &'static str, u32)> {
    let kernel = by_head_dim(names, dim)?;
    let own = HEAD_DIMS.iter().zip(of_hopper).find(|(served, _)| **served == dim);
    Ok(match own {
        Some((_, kernel)) if device.limits().is_hopper() => (&HOPPER, kernel, 256),
        _ => (&MODULE, kernel, if dim <= 64 { 128 } else { 256 }),
    })
}

/// The scale of scores in base 2.
fn scale_of(shape: &AttentionShape) -> Result<f32> {
    if shape.n_heads == 0 || shape.n_kv_heads == 0 {
        return Err(Error::ZeroDimension);
    }
    check_len("n_heads", shape.n_heads, shape.n_heads.next_multiple_of(shape.n_kv_heads))?;
    if !(shape.scale > 0.0 && shape.scale.is_finite()) {
        return Err(Error::NotPositive { what: "the scale of scores" });
    }
    Ok(shape.scale * std::f32::consts::LOG2_E)
}

/// Keys of a tile that a block takes together, as the kernels have it.
fn team_keys(dim: usize) -> usize {
    if dim > 128 { PAGE_TOKENS / 4 } else { PAGE_TOKENS }
}

/// Shared memory of a tile of rows and two tiles of keys and values each.
fn shared_bytes(dim: usize) -> usize {
    (TILE_ROWS + 4 * team_keys(dim)) * dim * size_of::<u16>()
}

/// [`bidirectional_attention`](crate::bidirectional_attention) of half floats, with sums in `f32`.
///
/// `qkv` is `[n_tokens, 3 · n_heads · head_dim]`, `out` is `[n_tokens, n_heads · head_dim]`.
///
/// # Errors
///
/// As [`bidirectional_attention`](crate::bidirectional_attention); [`Error::Unsupported`] when `head_dim` is not 32, 64,
/// 128 or 256; [`Error::NotPositive`] when the scale is not.
pub fn bidirectional_attention(
    shape: &AttentionShape,
    qkv: &Buffer<F16>,
    sequences: &PackedSequences,
    radius: Option<usize>,
    out: &mut Buffer<F16>,
) -> Result<()> {
    let names = ["bidirectional_32", "bidirectional_64", "bidirectional_128", "bidirectional_256"];
    let of_hopper = ["hopper_bidirectional_32", "hopper_bidirectional_64", "hopper_bidirectional_128"];
    let (module, kernel, block) = by_tiles(qkv.device(), names, of_hopper, shape.head_dim)?;
    let scale = scale_of(shape)?;
    check_len("n_kv_heads", shape.n_kv_heads, shape.n_heads)?;
    let width = shape.n_heads * shape.head_dim;
    check_len("qkv", qkv.len(), sequences.n_tokens() * 3 * width)?;
    check_len("out", out.len(), sequences.n_tokens() * width)?;
    let launch = Launch {
        grid: [count("tiles", sequences.n_tiles())?, shape.n_heads as u32, 1],
        block,
        shared_bytes: shared_bytes(shape.head_dim),
    };
    let arguments = [
        qkv.argument(),
        sequences.tiles().argument(),
        Argument::U32(shape.n_heads as u32),
        Argument::F32(scale),
        Argument::U32(radius.map_or(u32::MAX, |radius| u32::try_from(radius).unwrap_or(u32::MAX))),
        out.argument(),
    ];
    // SAFETY: the arguments are the kernel's; the tiles are of sequences that together have the rows of both buffers.
    unsafe { qkv.device().launch(module, kernel, launch, &arguments) }
}

fn check_pages(pages: &[u32], arena: &KvPages) -> Result<()> {
    match pages.iter().find(|&&page| page as usize >= arena.n_pages()) {
        Some(&page) => Err(Error::Row { row: page as usize, n_rows: arena.n_pages() }),
        None => Ok(()),
    }
}

fn check_queries(positions: &[u32]) -> Result<()> {
    match positions.contains(&EMPTY_SLOT) {
        true => Err(Error::Row { row: EMPTY_SLOT as usize, n_rows: EMPTY_SLOT as usize }),
        false => Ok(()),
    }
}
