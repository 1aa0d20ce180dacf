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
    Argument, Bf16, Buffer, Kernel, KvPages, Launch, Module, PAGE_TOKENS, PackedSequences, TILE_ROWS, check_len, count,
};
use crate::{Error, Result};

pub use causal::{CausalPlan, PagedKeys, attention_mass, causal_attention};
pub use decode::{DecodePlan, decode_attention};

pub(crate) static MODULE: Module = Module {
    name: "attention",
    source: concat!(include_str!("../../device/cuda/common.cuh"), include_str!("../kernel.cu")),
    kernels: &[
        Kernel { name: "bidirectional_32", most_registers: 255 },
        Kernel { name: "bidirectional_64", most_registers: 255 },
        Kernel { name: "bidirectional_128", most_registers: 255 },
        Kernel { name: "causal_32", most_registers: 255 },
        Kernel { name: "causal_64", most_registers: 255 },
        Kernel { name: "causal_128", most_registers: 255 },
        Kernel { name: "mass_32", most_registers: 128 },
        Kernel { name: "mass_64", most_registers: 128 },
        Kernel { name: "mass_128", most_registers: 255 },
        Kernel { name: "decode_32", most_registers: 128 },
        Kernel { name: "decode_64", most_registers: 128 },
        Kernel { name: "decode_128", most_registers: 168 },
        Kernel { name: "merge_splits", most_registers: 40 },
    ],
};

/// A slot of a page that has no token.
pub const EMPTY_SLOT: u32 = u32::MAX;

/// The kernel for heads of this size, and the threads of its blocks where a tile of rows is [`TILE_ROWS`] long.
fn by_head_dim(names: [&'static str; 3], dim: usize) -> Result<(&'static str, u32)> {
    match dim {
        32 => Ok((names[0], 128)),
        64 => Ok((names[1], 128)),
        128 => Ok((names[2], 256)),
        0 => Err(Error::ZeroDimension),
        found => Err(Error::Unsupported { what: "size of attention's heads", found }),
    }
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

/// Shared memory of a tile of rows and two tiles of 64 keys and values each.
fn shared_bytes(dim: usize) -> usize {
    (TILE_ROWS + 4 * PAGE_TOKENS) * dim * size_of::<u16>()
}

/// [`bidirectional_attention`](crate::bidirectional_attention) of bf16 rows, with sums in `f32`.
///
/// `qkv` is `[n_tokens, 3 · n_heads · head_dim]`, `out` is `[n_tokens, n_heads · head_dim]`.
///
/// # Errors
///
/// As [`bidirectional_attention`](crate::bidirectional_attention); [`Error::Unsupported`] when `head_dim` is not 32, 64
/// or 128; [`Error::NotPositive`] when the scale is not.
pub fn bidirectional_attention(
    shape: &AttentionShape,
    qkv: &Buffer<Bf16>,
    sequences: &PackedSequences,
    radius: Option<usize>,
    out: &mut Buffer<Bf16>,
) -> Result<()> {
    let names = ["bidirectional_32", "bidirectional_64", "bidirectional_128"];
    let (kernel, block) = by_head_dim(names, shape.head_dim)?;
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
    unsafe { qkv.device().launch(&MODULE, kernel, launch, &arguments) }
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
