//! Queries, keys and values of one head, brought together where a tile reads them.

use std::ops::Range;

use super::KvSlice;
use super::simd::{Lanes, Simd};
use super::tile::{Job, Scratch, Source};

/// Tokens ahead whose numbers are asked for: a head's rows lie too far apart for the processor to guess.
pub const AHEAD: usize = 32;

/// Lanes that a head's components fill.
#[inline(always)]
pub fn depth<S: Simd, L: Lanes<S>>(dim: usize) -> usize {
    if L::NUMBERS == 1 { dim } else { dim.next_multiple_of(L::NUMBERS * S::LANES) / L::NUMBERS }
}

/// Writes the query rows as `[n_rows, depth]`, times the scale.
///
/// # Safety
///
/// The processor runs `S` with `L`.
#[inline(always)]
pub unsafe fn pack_queries<S: Simd, L: Lanes<S>>(
    job: &Job,
    kv_head: usize,
    tokens: &Range<usize>,
    scratch: &mut Scratch,
) {
    let (dim, group) = (job.dim, job.group);
    let padded_dim = L::NUMBERS * depth::<S, L>(dim);
    let packed = scratch.queries.reserve(tokens.len() * group * padded_dim);
    if padded_dim != dim {
        packed.fill(0.0);
    }
    for (row, packed) in packed.chunks_exact_mut(padded_dim).enumerate() {
        let start = (tokens.start + row / group) * job.query_stride + (kv_head * group + row % group) * dim;
        for (to, &from) in packed.iter_mut().zip(&job.queries[start..start + dim]) {
            *to = from * job.scale;
        }
    }
    if L::NUMBERS > 1 {
        let start = packed.as_mut_ptr();
        // SAFETY: all numbers are there, in pairs of vectors.
        unsafe { narrow::<S, L>(start, packed.len(), start) };
    }
}

/// Puts `n` numbers into as few lanes as they fill.
///
/// # Safety
///
/// The processor runs `S` with `L`; `n` is a multiple of two vectors' numbers, which are there; `to` has room and does not
/// stand after `from`.
#[inline(always)]
unsafe fn narrow<S: Simd, L: Lanes<S>>(from: *const f32, n: usize, to: *mut f32) {
    for at in (0..n).step_by(2 * S::LANES) {
        // SAFETY: as the caller promises.
        unsafe { L::store(to.add(at / L::NUMBERS), S::load(from.add(at)), S::load(from.add(at + S::LANES))) };
    }
}

/// Writes `keys` in panels `[n / PANEL, depth, PANEL]`, zeros after the last.
///
/// # Safety
///
/// As [`attend`](super::tile::attend).
#[inline(always)]
pub unsafe fn pack_keys<S: Simd, L: Lanes<S>>(job: &Job, kv_head: usize, keys: Range<usize>, scratch: &mut Scratch) {
    let dim = job.dim;
    let (depth, padded_dim) = (depth::<S, L>(dim), dim.next_multiple_of(L::NUMBERS * S::LANES));
    let n_panels = keys.len().div_ceil(S::PANEL);
    let staging = scratch.staging.reserve(S::PANEL * padded_dim);
    let panels = scratch.keys.reserve(n_panels * padded_dim * S::PANEL);
    if !keys.len().is_multiple_of(S::PANEL) || padded_dim != dim {
        staging.fill(0.0);
    }
    for panel in 0..n_panels {
        let first = keys.start + panel * S::PANEL;
        let here = first..(first + S::PANEL).min(keys.end);
        if here.len() < S::PANEL {
            staging[here.len() * padded_dim..].fill(0.0);
        }
        // SAFETY: staging has a row of `padded_dim` for each key of the panel; a panel has `padded_dim` rows.
        unsafe {
            copy_rows::<S>(job, kv_head, here, |source| &source.keys, staging.as_mut_ptr(), padded_dim);
            if L::NUMBERS > 1 {
                for key in 0..S::PANEL {
                    let row = staging.as_mut_ptr().add(key * padded_dim);
                    narrow::<S, L>(row, padded_dim, row);
                }
            }
            let to = panels.as_mut_ptr().add(panel * depth * S::PANEL);
            for key in (0..S::PANEL).step_by(S::LANES) {
                for d in (0..padded_dim / L::NUMBERS).step_by(S::LANES) {
                    let from = staging.as_ptr().add(key * padded_dim + d);
                    S::transpose(from, padded_dim, to.add(d * S::PANEL + key), S::PANEL);
                }
            }
        }
    }
}

/// Writes the values of `keys` as `[n, padded_dim]`, those of neighbours in one row where lanes hold two, zeros after the
/// last component.
///
/// # Safety
///
/// As [`attend`](super::tile::attend).
#[inline(always)]
pub unsafe fn pack_values<S: Simd, L: Lanes<S>>(
    job: &Job,
    kv_head: usize,
    keys: Range<usize>,
    padded_dim: usize,
    scratch: &mut Scratch,
) {
    let n = keys.len().next_multiple_of(L::NUMBERS);
    let values = scratch.values.reserve(n * padded_dim);
    if padded_dim != job.dim {
        values.fill(0.0);
    }
    values[keys.len() * padded_dim..].fill(0.0);
    let to = values.as_mut_ptr();
    // SAFETY: there is a row of `padded_dim` for each key, and one that makes their number even.
    unsafe {
        copy_rows::<S>(job, kv_head, keys, |source| &source.values, to, padded_dim);
        if L::NUMBERS > 1 {
            // Rows are written no later than they are read.
            for row in 0..n / 2 {
                for d in (0..padded_dim).step_by(S::LANES) {
                    let first = to.add(2 * row * padded_dim + d);
                    let pairs = L::pairs(S::load(first), S::load(first.add(padded_dim)));
                    S::store(to.add(row * padded_dim + d), pairs);
                }
            }
        }
    }
}

/// Copies one head of some tokens as f32, `to[key * to_stride..]`.
///
/// # Safety
///
/// The processor runs `S`; `to` has room; the sources are as long as they say.
#[inline(always)]
unsafe fn copy_rows<S: Simd>(
    job: &Job,
    kv_head: usize,
    keys: Range<usize>,
    part: impl for<'a> Fn(&'a Source<'a>) -> &'a KvSlice<'a>,
    mut to: *mut f32,
    to_stride: usize,
) {
    let dim = job.dim;
    let whole = dim / S::LANES * S::LANES;
    let mut key = keys.start;
    // The last source that starts at or before the key; empty ones that start there too come before it.
    let mut at = job.sources.partition_point(|source| source.start <= key).saturating_sub(1);
    while key < keys.end {
        let source = &job.sources[at];
        let end = keys.end.min(source.start + source.len);
        let offset = |key: usize| (key - source.start) * job.kv_stride + kv_head * dim;
        match part(source) {
            KvSlice::F32(numbers) => {
                for key in key..end {
                    let row = &numbers[offset(key)..][..dim];
                    prefetch::<S, _>(row, AHEAD * job.kv_stride);
                    // SAFETY: `to` has room for `dim` numbers a key, `row` has them.
                    unsafe {
                        for d in (0..whole).step_by(S::LANES) {
                            S::store(to.add(d), S::load(row.as_ptr().add(d)));
                        }
                        for (d, &number) in row.iter().enumerate().skip(whole) {
                            *to.add(d) = number;
                        }
                        to = to.add(to_stride);
                    }
                }
            }
            KvSlice::F16(bits) => {
                for key in key..end {
                    let row = &bits[offset(key)..][..dim];
                    prefetch::<S, _>(row, AHEAD * job.kv_stride);
                    // SAFETY: `to` has room for `dim` numbers a key, `row` has them.
                    unsafe {
                        for d in (0..whole).step_by(S::LANES) {
                            S::store(to.add(d), S::load_f16(row.as_ptr().add(d)));
                        }
                        for (d, &bits) in row.iter().enumerate().skip(whole) {
                            *to.add(d) = crate::half_product::f16_to_f32(bits);
                        }
                        to = to.add(to_stride);
                    }
                }
            }
        }
        key = end;
        at += 1;
    }
}

/// Asks for what stands `distance` numbers after a row, of which nothing is read.
#[inline(always)]
fn prefetch<S: Simd, T>(row: &[T], distance: usize) {
    let ahead = row.as_ptr().wrapping_add(distance).cast::<u8>();
    for byte in (0..size_of_val(row)).step_by(64) {
        S::prefetch(ahead.wrapping_add(byte));
    }
}
