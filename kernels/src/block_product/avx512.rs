//! AVX-512 with VNNI: one vector of sixteen outputs, one instruction for four inputs.

use std::arch::x86_64::*;

use super::activations::Row;
use super::matrix::{BLOCK, GROUP, Layout, Scales};

/// The sums of `R` rows with the outputs of one group.
///
/// # Safety
///
/// The processor has AVX-512F, BW, VL and VNNI; the rows have as many blocks as the group has records.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn tile<L: Layout, const R: usize>(records: &[u8], rows: [Row<'_>; R]) -> [[f32; GROUP]; R] {
    let n_blocks = records.len() / L::RECORD_BYTES;
    debug_assert!(rows.iter().all(|row| row.scales.len() == n_blocks && row.quants.len() == n_blocks * BLOCK));
    let mut out = [_mm512_setzero_ps(); R];
    for b in 0..n_blocks {
        // SAFETY: there are `n_blocks` records of `RECORD_BYTES`; a row has as many blocks of `BLOCK` quants and as
        // many scales, sums and sums of halves.
        unsafe {
            let record = records.as_ptr().add(b * L::RECORD_BYTES);
            let packed = record.add(L::SCALE_BYTES);
            let [d, m] = scales::<L>(record);
            if L::NIBBLES {
                let nibbles = _mm512_set1_epi8(15);
                let mut sums = [_mm512_setzero_si512(); R];
                for pair in 0..4 {
                    let raw = _mm512_loadu_si512(packed.add(pair * 64).cast());
                    let low = _mm512_and_si512(raw, nibbles);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(raw), nibbles);
                    for r in 0..R {
                        let at = b * BLOCK + pair * 8;
                        sums[r] = _mm512_dpbusd_epi32(sums[r], low, four(rows[r].quants, at));
                        sums[r] = _mm512_dpbusd_epi32(sums[r], high, four(rows[r].quants, at + 4));
                    }
                }
                for r in 0..R {
                    let d = _mm512_mul_ps(d, _mm512_set1_ps(*rows[r].scales.get_unchecked(b)));
                    out[r] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(sums[r]), out[r]);
                }
            } else {
                // The instruction takes unsigned weights: 128 is added to them and 128 · Σ q subtracted beforehand.
                let n_parts = if L::SCALES == Scales::FloatPer16 { 2 } else { 1 };
                for part in 0..n_parts {
                    let mut sums = [_mm512_setzero_si512(); R];
                    for r in 0..R {
                        let halves = rows[r].half_sums.get_unchecked(b);
                        let sum = if n_parts == 2 { halves[part] } else { halves[0] + halves[1] };
                        sums[r] = _mm512_set1_epi32(-128 * sum);
                    }
                    for step in part * 4..if n_parts == 2 { part * 4 + 4 } else { 8 } {
                        let w = _mm512_loadu_si512(packed.add(step * 64).cast());
                        let w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
                        for r in 0..R {
                            sums[r] = _mm512_dpbusd_epi32(sums[r], w, four(rows[r].quants, b * BLOCK + step * 4));
                        }
                    }
                    let d = if part == 0 { d } else { m };
                    for r in 0..R {
                        let d = _mm512_mul_ps(d, _mm512_set1_ps(*rows[r].scales.get_unchecked(b)));
                        out[r] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(sums[r]), out[r]);
                    }
                }
            }
            if L::HAS_MIN {
                for r in 0..R {
                    out[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(*rows[r].sums.get_unchecked(b)), out[r]);
                }
            }
        }
    }
    let mut sums = [[0.0; GROUP]; R];
    for (sums, out) in sums.iter_mut().zip(out) {
        // SAFETY: a row of sums is one vector of sixteen.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), out) };
    }
    sums
}

/// Four quants from `at` on, in every lane of 32 bits.
///
/// # Safety
///
/// They are there.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn four(quants: &[i8], at: usize) -> __m512i {
    // SAFETY: as the caller promises.
    _mm512_set1_epi32(unsafe { quants.as_ptr().add(at).cast::<i32>().read_unaligned() })
}

/// The scales of a record, then its minima or the scales of the second half.
///
/// # Safety
///
/// `record` begins `SCALE_BYTES`.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn scales<L: Layout>(record: *const u8) -> [__m512; 2] {
    // SAFETY: each layout has as many bytes before the values as its arm reads; see `SCALE_BYTES`.
    unsafe {
        let halves = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(record.add(2 * at).cast()));
        let floats = |at: usize| _mm512_loadu_ps(record.add(4 * at).cast());
        match L::SCALES {
            Scales::Half => [halves(0), _mm512_setzero_ps()],
            Scales::HalfCentred => [halves(0), _mm512_mul_ps(halves(0), _mm512_set1_ps(-8.0))],
            Scales::HalfMin => [halves(0), halves(GROUP)],
            Scales::FloatMin | Scales::FloatPer16 => [floats(0), floats(GROUP)],
        }
    }
}
