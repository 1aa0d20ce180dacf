//! AVX2: two vectors of eight outputs; each four inputs of a row are one broadcast.

use std::arch::x86_64::*;

use super::activations::Row;
use super::matrix::{BLOCK, GROUP, Layout, Scales};

/// The sums of `R` rows with the outputs of one group.
///
/// # Safety
///
/// The processor has AVX2, FMA and F16C; the rows have as many blocks as the group has records.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile<L: Layout, const R: usize>(records: &[u8], rows: [Row<'_>; R]) -> [[f32; GROUP]; R] {
    let n_blocks = records.len() / L::RECORD_BYTES;
    debug_assert!(rows.iter().all(|row| row.scales.len() == n_blocks && row.quants.len() == n_blocks * BLOCK));
    let ones = _mm256_set1_epi16(1);
    // A count that the compiler does not know keeps it from unrolling the steps, reordering them by row and spilling
    // the unpacked weights.
    let n_pairs = if R == 1 { 4 } else { std::hint::black_box(4) };
    let mut out = [[_mm256_setzero_ps(); 2]; R];
    for b in 0..n_blocks {
        // SAFETY: there are `n_blocks` records of `RECORD_BYTES`, which are a multiple of 32 and begin where 32 bytes
        // are aligned; a row has as many blocks of `BLOCK` quants and as many scales and sums.
        unsafe {
            let record = records.as_ptr().add(b * L::RECORD_BYTES);
            let packed = record.add(L::SCALE_BYTES);
            let [d, m] = scales::<L>(record);
            if L::NIBBLES {
                // 8 steps of two products each: 16 · 15 · 127 = 30480 fits 16 bits.
                let mut sums = [[_mm256_setzero_si256(); 2]; R];
                for pair in 0..n_pairs {
                    let nibbles = _mm256_set1_epi8(15);
                    let raw = [0, 1].map(|v| _mm256_load_si256(packed.add(pair * 64 + v * 32).cast()));
                    let low = raw.map(|raw| _mm256_and_si256(raw, nibbles));
                    for r in 0..R {
                        let a = four(rows[r].quants, b * BLOCK + pair * 8);
                        for v in 0..2 {
                            sums[r][v] = _mm256_add_epi16(sums[r][v], _mm256_maddubs_epi16(low[v], a));
                        }
                    }
                    let high = raw.map(|raw| _mm256_and_si256(_mm256_srli_epi16::<4>(raw), nibbles));
                    for r in 0..R {
                        let a = four(rows[r].quants, b * BLOCK + pair * 8 + 4);
                        for v in 0..2 {
                            sums[r][v] = _mm256_add_epi16(sums[r][v], _mm256_maddubs_epi16(high[v], a));
                        }
                    }
                }
                for r in 0..R {
                    let scale = _mm256_broadcast_ss(rows[r].scales.get_unchecked(b));
                    for v in 0..2 {
                        let sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(sums[r][v], ones));
                        out[r][v] = _mm256_fmadd_ps(_mm256_mul_ps(d[v], scale), sum, out[r][v]);
                    }
                }
            } else {
                let n_parts = if L::SCALES == Scales::FloatPer16 { 2 } else { 1 };
                for part in 0..n_parts {
                    let mut sums = [[_mm256_setzero_si256(); 2]; R];
                    for step in part * 4..if n_parts == 2 { part * 4 + 4 } else { 8 } {
                        let w = [0, 1].map(|v| _mm256_load_si256(packed.add(step * 64 + v * 32).cast()));
                        let magnitude = w.map(|w| _mm256_abs_epi8(w));
                        for r in 0..R {
                            let a = four(rows[r].quants, b * BLOCK + step * 4);
                            for v in 0..2 {
                                // The sign goes over to the activation. Two products of 128 · 127 fit 16 bits.
                                let products = _mm256_maddubs_epi16(magnitude[v], _mm256_sign_epi8(a, w[v]));
                                sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(products, ones));
                            }
                        }
                    }
                    let d = if part == 0 { d } else { m };
                    for r in 0..R {
                        let scale = _mm256_broadcast_ss(rows[r].scales.get_unchecked(b));
                        for v in 0..2 {
                            let sum = _mm256_cvtepi32_ps(sums[r][v]);
                            out[r][v] = _mm256_fmadd_ps(_mm256_mul_ps(d[v], scale), sum, out[r][v]);
                        }
                    }
                }
            }
            if L::HAS_MIN {
                for r in 0..R {
                    let sum = _mm256_broadcast_ss(rows[r].sums.get_unchecked(b));
                    for v in 0..2 {
                        out[r][v] = _mm256_fmadd_ps(m[v], sum, out[r][v]);
                    }
                }
            }
        }
    }
    let mut sums = [[0.0; GROUP]; R];
    for (sums, out) in sums.iter_mut().zip(out) {
        // SAFETY: a row of sums is two vectors of eight.
        unsafe {
            _mm256_storeu_ps(sums.as_mut_ptr(), out[0]);
            _mm256_storeu_ps(sums.as_mut_ptr().add(8), out[1]);
        }
    }
    sums
}

/// Four quants from `at` on, in every lane of 32 bits.
///
/// # Safety
///
/// They are there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn four(quants: &[i8], at: usize) -> __m256i {
    // SAFETY: as the caller promises.
    _mm256_set1_epi32(unsafe { quants.as_ptr().add(at).cast::<i32>().read_unaligned() })
}

/// The scales of a record, then its minima or the scales of the second half.
///
/// # Safety
///
/// `record` begins `SCALE_BYTES`.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn scales<L: Layout>(record: *const u8) -> [[__m256; 2]; 2] {
    // SAFETY: each layout has as many bytes before the values as its arm reads; see `SCALE_BYTES`.
    unsafe {
        let halves = |at: usize| [at, at + 8].map(|i| _mm256_cvtph_ps(_mm_loadu_si128(record.add(2 * i).cast())));
        let floats = |at: usize| [at, at + 8].map(|i| _mm256_loadu_ps(record.add(4 * i).cast()));
        match L::SCALES {
            Scales::Half => [halves(0), [_mm256_setzero_ps(); 2]],
            Scales::HalfCentred => {
                let d = halves(0);
                [d, d.map(|d| _mm256_mul_ps(d, _mm256_set1_ps(-8.0)))]
            }
            Scales::HalfMin => [halves(0), halves(GROUP)],
            Scales::FloatMin | Scales::FloatPer16 => [floats(0), floats(GROUP)],
        }
    }
}
