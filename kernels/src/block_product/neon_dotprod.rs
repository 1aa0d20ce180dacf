//! NEON with DotProd: four vectors of four outputs, one instruction for four inputs of each.

use std::arch::aarch64::*;

use super::activations::Row;
use super::matrix::{BLOCK, GROUP, Layout, Scales};
use crate::neon::{dot_lane, halves};

/// Registers of a group's sums.
const PARTS: usize = GROUP / 4;

/// The sums of `R` rows with the outputs of one group.
///
/// # Safety
///
/// The processor has NEON and DotProd; the rows have as many blocks as the group has records.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn tile<L: Layout, const R: usize>(records: &[u8], rows: [Row<'_>; R]) -> [[f32; GROUP]; R] {
    let n_blocks = records.len() / L::RECORD_BYTES;
    debug_assert!(rows.iter().all(|row| row.scales.len() == n_blocks && row.quants.len() == n_blocks * BLOCK));
    let mut out = [[vdupq_n_f32(0.0); PARTS]; R];
    for b in 0..n_blocks {
        // SAFETY: there are `n_blocks` records of `RECORD_BYTES`; a row has as many blocks of `BLOCK` quants and as
        // many scales and sums.
        unsafe {
            let record = records.as_ptr().add(b * L::RECORD_BYTES);
            let [d, m] = scales::<L>(record);
            let mut sums = [[vdupq_n_s32(0); PARTS]; R];
            for half in 0..2 {
                if L::SCALES == Scales::FloatPer16 {
                    sums = [[vdupq_n_s32(0); PARTS]; R];
                }
                let quants: [int8x16_t; R] =
                    std::array::from_fn(|r| vld1q_s8(rows[r].quants.as_ptr().add(b * BLOCK + half * 16)));
                let packed = record.add(L::SCALE_BYTES + half * GROUP * BLOCK / if L::NIBBLES { 4 } else { 2 });
                steps::<L, 0, 1, R>(packed, &quants, &mut sums);
                steps::<L, 2, 3, R>(packed, &quants, &mut sums);
                if L::SCALES == Scales::FloatPer16 {
                    scale(&mut out, &sums, if half == 0 { &d } else { &m }, &rows, b);
                }
            }
            if L::SCALES != Scales::FloatPer16 {
                scale(&mut out, &sums, &d, &rows, b);
            }
            if L::HAS_MIN {
                for (out, row) in out.iter_mut().zip(&rows) {
                    let sum = vdupq_n_f32(*row.sums.get_unchecked(b));
                    for (out, m) in out.iter_mut().zip(m) {
                        *out = vfmaq_f32(*out, m, sum);
                    }
                }
            }
        }
    }
    let mut sums = [[0.0; GROUP]; R];
    for (sums, out) in sums.iter_mut().zip(out) {
        for (part, out) in out.into_iter().enumerate() {
            // SAFETY: a row of sums is four vectors of four.
            unsafe { vst1q_f32(sums.as_mut_ptr().add(part * 4), out) };
        }
    }
    sums
}

/// Adds the products of two neighbouring steps of four inputs, which are in the lanes `LOW` and `HIGH` of `quants`.
///
/// # Safety
///
/// The processor has NEON and DotProd; `packed` begins the values of sixteen inputs.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn steps<L: Layout, const LOW: usize, const HIGH: usize, const R: usize>(
    packed: *const u8,
    quants: &[int8x16_t; R],
    sums: &mut [[int32x4_t; PARTS]; R],
) {
    for part in 0..PARTS {
        // SAFETY: of nibbles, two steps take 64 bytes, of bytes each of them does.
        let (low, high) = unsafe {
            if L::NIBBLES {
                let raw = vld1q_u8(packed.add(LOW / 2 * 64 + part * 16));
                (vreinterpretq_s8_u8(vandq_u8(raw, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8::<4>(raw)))
            } else {
                let step = |step: usize| vreinterpretq_s8_u8(vld1q_u8(packed.add(step * 64 + part * 16)));
                (step(LOW), step(HIGH))
            }
        };
        for (sums, quants) in sums.iter_mut().zip(quants) {
            sums[part] = dot_lane::<LOW>(sums[part], low, *quants);
            sums[part] = dot_lane::<HIGH>(sums[part], high, *quants);
        }
    }
}

/// `out += d · scale · sums` for each row's scale of block `b`.
///
/// # Safety
///
/// The rows have a block `b`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn scale<const R: usize>(
    out: &mut [[float32x4_t; PARTS]; R],
    sums: &[[int32x4_t; PARTS]; R],
    d: &[float32x4_t; PARTS],
    rows: &[Row<'_>; R],
    b: usize,
) {
    for ((out, sums), row) in out.iter_mut().zip(sums).zip(rows) {
        // SAFETY: as the caller promises.
        let scale = vdupq_n_f32(unsafe { *row.scales.get_unchecked(b) });
        for ((out, sum), d) in out.iter_mut().zip(sums).zip(d) {
            *out = vfmaq_f32(*out, vmulq_f32(*d, scale), vcvtq_f32_s32(*sum));
        }
    }
}

/// The scales of a record, then its minima or the scales of the second half.
///
/// # Safety
///
/// `record` begins `SCALE_BYTES`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn scales<L: Layout>(record: *const u8) -> [[float32x4_t; PARTS]; 2] {
    // SAFETY: each layout has as many bytes before the values as its arm reads; see `SCALE_BYTES`.
    unsafe {
        let halves = |at: usize| -> [float32x4_t; PARTS] {
            std::array::from_fn(|part| halves(vld1_u16(record.add(2 * (at + part * 4)).cast())))
        };
        let floats = |at: usize| -> [float32x4_t; PARTS] {
            std::array::from_fn(|part| vld1q_f32(record.add(4 * (at + part * 4)).cast()))
        };
        match L::SCALES {
            Scales::Half => [halves(0), [vdupq_n_f32(0.0); PARTS]],
            Scales::HalfCentred => [halves(0), halves(0).map(|d| vmulq_n_f32(d, -8.0))],
            Scales::HalfMin => [halves(0), halves(GROUP)],
            Scales::FloatMin | Scales::FloatPer16 => [floats(0), floats(GROUP)],
        }
    }
}
