//! Codes of 32 vectors side by side, for look-up in tables that fit a register.
//!
//! A block has 32 bytes for every eight components, byte `v` with those of vector `v`: the first four in its low half,
//! the other four in its high half. Then come 32 scales, 32 offsets and 32 errors, all `f32`, little endian.

use super::{one_bit_words, rounded};
use crate::{Error, Result};

/// How many vectors a block holds.
pub const ONE_BIT_BLOCK: usize = 32;

/// Factors of each vector.
pub const FACTORS: usize = 3;

/// Groups whose look-ups, two each, are added as bytes before they are widened.
pub const GROUPS_OF_BYTES: usize = 8;

/// What sixteen look-ups may be at most. Rounding to so few steps adds a fiftieth to the error of one bit.
const GREATEST_ENTRY: usize = 255 / (2 * GROUPS_OF_BYTES);

/// Groups of eight components, an even number.
pub fn n_groups(dim: usize) -> usize {
    dim.div_ceil(16) * 2
}

/// How many bytes a block of codes has.
pub fn one_bit_block_bytes(dim: usize) -> usize {
    n_groups(dim) * ONE_BIT_BLOCK + FACTORS * ONE_BIT_BLOCK * size_of::<f32>()
}

/// Lays codes, `[n, one_bit_words(dim)]`, out as `⌈n / 32⌉` blocks of [`one_bit_block_bytes`].
///
/// # Errors
///
/// [`Error::ZeroDimension`] when `dim` is 0; [`Error::Shape`] when the length does not fit.
pub fn one_bit_blocks(codes: &[u64], dim: usize) -> Result<Vec<u8>> {
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    let n_words = one_bit_words(dim);
    if !codes.len().is_multiple_of(n_words) {
        return Err(Error::Shape {
            what: "codes",
            expected: codes.len().next_multiple_of(n_words),
            found: codes.len(),
        });
    }
    let n_bits = dim.div_ceil(64);
    let mut blocks = Vec::with_capacity((codes.len() / n_words).div_ceil(ONE_BIT_BLOCK) * one_bit_block_bytes(dim));
    for rows in codes.chunks(ONE_BIT_BLOCK * n_words) {
        for group in 0..n_groups(dim) {
            for v in 0..ONE_BIT_BLOCK {
                let word = rows.get(v * n_words + group / 8).filter(|_| group / 8 < n_bits);
                blocks.push(word.map_or(0, |word| (word >> (8 * (group % 8))) as u8));
            }
        }
        for (factor, filling) in [0.0, f32::NEG_INFINITY, 0.0].into_iter().enumerate() {
            for v in 0..ONE_BIT_BLOCK {
                let word = rows.get(v * n_words + n_bits + factor / 2);
                let number = word.map_or(filling, |word| f32::from_bits((word >> (32 * (factor % 2))) as u32));
                blocks.extend_from_slice(&number.to_le_bytes());
            }
        }
    }
    Ok(blocks)
}

/// For each four components, what their signs are worth: `Σ ±y = step · entry + …`, where the rest, summed over all
/// components, is the last number.
pub fn look_up_table(turned: &[f32]) -> (Vec<[u8; 16]>, f32, f32) {
    let n_tables = 2 * n_groups(turned.len());
    let greatest_entry = GREATEST_ENTRY.min(usize::from(u16::MAX) / n_tables) as f32;
    let magnitude = |four: &[f32]| four.iter().map(|y| y.abs()).sum::<f32>();
    let range = 2.0 * turned.chunks(4).map(magnitude).fold(0.0, f32::max);
    let step = range / greatest_entry;
    let mut table = vec![[0; 16]; n_tables];
    let mut least = 0.0;
    for (entries, four) in table.iter_mut().zip(turned.chunks(4)) {
        let below = magnitude(four);
        least -= below;
        for (pattern, entry) in entries.iter_mut().enumerate() {
            let mut sum = below;
            for (d, y) in four.iter().enumerate() {
                sum += if pattern >> d & 1 == 1 { *y } else { -y };
            }
            *entry = if step > 0.0 { rounded(sum / step).clamp(0, greatest_entry as i32) as u8 } else { 0 };
        }
    }
    (table, step, least)
}
