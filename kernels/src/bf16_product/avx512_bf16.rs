//! AVX-512 BF16: thirty-two products in an instruction, added in pairs; up to twenty-four sums of sixteen lanes.

use std::arch::x86_64::*;

use super::{Bf16Matrix, PANEL, PairRow, Sink, TASK_PANELS, TASK_ROWS, round};
use crate::parallel::{Tiles, for_each_task};

/// Rows of a register tile, at most.
const TALL: usize = 12;
/// Panels of a register tile, at most: few rows take more, or they would wait for sums.
const WIDE: usize = 6;

/// Rounds the rows to bf16 and multiplies them.
///
/// # Safety
///
/// The processor has AVX-512F and BF16; `sink` has a place for each row and output.
pub unsafe fn product(input: &[f32], weights: &Bf16Matrix, sink: &Sink<'_>) {
    let (n_in, n_out, n_pairs) = (weights.n_in, weights.n_out, weights.n_pairs());
    let (n_rows, n_panels) = (input.len() / n_in, n_out.div_ceil(PANEL));
    let pairs = rounded(input, n_in, n_pairs);
    let panel_runs = n_panels.div_ceil(TASK_PANELS);
    for_each_task(n_rows.div_ceil(TASK_ROWS) * panel_runs, n_rows * n_in * n_out / 2, |task| {
        let rows = task / panel_runs * TASK_ROWS..n_rows.min((task / panel_runs + 1) * TASK_ROWS);
        let panels = task % panel_runs * TASK_PANELS..n_panels.min((task % panel_runs + 1) * TASK_PANELS);
        let mut sums = [0.0; TALL * 2 * PANEL];
        let (tall, wide) = if rows.len() <= 2 { (2, WIDE) } else { (TALL, 2) };
        let mut panel = panels.start;
        while panel < panels.end {
            let n_panels = if panels.end - panel >= wide { wide } else { 1 };
            let weights = &weights.panels[panel * n_pairs..(panel + n_panels) * n_pairs];
            for row in rows.clone().step_by(tall) {
                let n_rows = (rows.end - row).min(tall);
                let inputs = &pairs[row * n_pairs..(row + n_rows) * n_pairs];
                let sums = &mut sums[..n_rows * n_panels * PANEL];
                // SAFETY: the caller promises the instructions; the slices have the shapes that are said.
                unsafe { tile(n_rows, n_panels, inputs, weights, n_pairs, sums) };
                for (r, sums) in sums.chunks_exact(n_panels * PANEL).enumerate() {
                    // SAFETY: `out` is borrowed by the product, and each of its elements belongs to one tile of one task.
                    unsafe { sink.take(row + r, panel * PANEL, sums, true) };
                }
            }
            panel += n_panels;
        }
    });
}

/// The rows in bf16, `[n_rows, n_pairs]`, zeros after a row's last number.
fn rounded(input: &[f32], n_in: usize, n_pairs: usize) -> Vec<[u16; 2]> {
    let mut pairs = vec![[0; 2]; input.len() / n_in * n_pairs];
    let rows = Tiles::new(&mut pairs);
    for_each_task(input.len().div_ceil(n_in * TASK_ROWS), 4 * input.len(), |task| {
        for (r, row) in input.chunks_exact(n_in).enumerate().skip(task * TASK_ROWS).take(TASK_ROWS) {
            // SAFETY: `pairs` is borrowed until all tasks are done, and each has rows of its own. The product promises the
            // instructions.
            unsafe { round_row(row, rows.slice(r * n_pairs, n_pairs).as_flattened_mut()) };
        }
    });
    pairs
}

/// Rounds a row into as many places or more.
///
/// # Safety
///
/// The processor has AVX-512F and BF16; there are as many places.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn round_row(row: &[f32], to: &mut [u16]) {
    let (blocks, tail) = row.as_chunks::<32>();
    for (from, to) in blocks.iter().zip(to.chunks_exact_mut(32)) {
        // SAFETY: both have thirty-two numbers; bits are bits.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(16)));
            let bits: __m512i = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), bits);
        }
    }
    for (to, x) in to[blocks.len() * 32..].iter_mut().zip(tail) {
        *to = round(*x);
    }
}

/// The sums of `n_rows` rows with `n_panels` panels: `[n_rows, n_panels · 16]`.
///
/// # Safety
///
/// The processor has AVX-512F and BF16; `rows` is `[n_rows, n_pairs]`, `panels` `[n_panels, n_pairs]`, `sums` as long as
/// said.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile(
    n_rows: usize,
    n_panels: usize,
    rows: &[[u16; 2]],
    panels: &[PairRow],
    n_pairs: usize,
    sums: &mut [f32],
) {
    // SAFETY: as the caller promises.
    unsafe {
        match n_panels {
            1 => high::<1>(n_rows, rows, panels, n_pairs, sums),
            2 => high::<2>(n_rows, rows, panels, n_pairs, sums),
            WIDE if n_rows == 1 => registers::<1, WIDE>(rows, panels, n_pairs, sums),
            WIDE if n_rows == 2 => registers::<2, WIDE>(rows, panels, n_pairs, sums),
            _ => unreachable!("no tile is wider"),
        }
    }
}

/// Any number of rows by `P` panels.
///
/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn high<const P: usize>(n_rows: usize, rows: &[[u16; 2]], panels: &[PairRow], n_pairs: usize, sums: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        match n_rows {
            1 => registers::<1, P>(rows, panels, n_pairs, sums),
            2 => registers::<2, P>(rows, panels, n_pairs, sums),
            3 => registers::<3, P>(rows, panels, n_pairs, sums),
            4 => registers::<4, P>(rows, panels, n_pairs, sums),
            5 => registers::<5, P>(rows, panels, n_pairs, sums),
            6 => registers::<6, P>(rows, panels, n_pairs, sums),
            7 => registers::<7, P>(rows, panels, n_pairs, sums),
            8 => registers::<8, P>(rows, panels, n_pairs, sums),
            9 => registers::<9, P>(rows, panels, n_pairs, sums),
            10 => registers::<10, P>(rows, panels, n_pairs, sums),
            11 => registers::<11, P>(rows, panels, n_pairs, sums),
            TALL => registers::<TALL, P>(rows, panels, n_pairs, sums),
            _ => unreachable!("no tile is higher"),
        }
    }
}

/// `R` rows by `P` panels of one register each.
///
/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
unsafe fn registers<const R: usize, const P: usize>(
    rows: &[[u16; 2]],
    panels: &[PairRow],
    n_pairs: usize,
    sums: &mut [f32],
) {
    let mut acc = [[_mm512_setzero_ps(); P]; R];
    // SAFETY: every row and every panel has `n_pairs` pairs; `sums` has `R` times `P` times sixteen places.
    unsafe {
        for pair in 0..n_pairs {
            let weights: [__m512bh; P] = std::array::from_fn(|p| {
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(
                    panels.as_ptr().add(p * n_pairs + pair).cast(),
                ))
            });
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(rows.as_ptr().add(r * n_pairs + pair).cast::<i32>().read_unaligned());
                let x = std::mem::transmute::<__m512i, __m512bh>(x);
                for (acc, weights) in acc.iter_mut().zip(&weights) {
                    *acc = _mm512_dpbf16_ps(*acc, x, *weights);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (p, acc) in acc.iter().enumerate() {
                _mm512_storeu_ps(sums.as_mut_ptr().add((r * P + p) * PANEL), *acc);
            }
        }
    }
}
