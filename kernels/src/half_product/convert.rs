//! Between `f32` and the bits of `f16`.

#[cfg(target_arch = "x86_64")]
use crate::device::CpuForm;
use crate::{Error, Result};

/// Rounds numbers to `f16`, halves to even; what is too great becomes infinite.
///
/// # Errors
///
/// [`Error::Shape`] when the lengths differ.
pub fn to_f16(from: &[f32], to: &mut [u16]) -> Result<()> {
    if from.len() != to.len() {
        return Err(Error::Shape { what: "to", expected: from.len(), found: to.len() });
    }
    #[cfg(target_arch = "x86_64")]
    if CpuForm::best() >= CpuForm::Avx2 {
        // SAFETY: that form and faster ones have F16C; the lengths are equal.
        unsafe { to_f16_by_eights(from, to) };
        return Ok(());
    }
    one_by_one(from, to);
    Ok(())
}

fn one_by_one(from: &[f32], to: &mut [u16]) {
    for (to, &x) in to.iter_mut().zip(from) {
        *to = f32_to_f16(x);
    }
}

/// Eight numbers in an instruction; only the bits of what is not a number may differ.
///
/// # Safety
///
/// The processor has F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
unsafe fn to_f16_by_eights(from: &[f32], to: &mut [u16]) {
    use std::arch::x86_64::*;
    let ((from, rest), (to, rest_to)) = (from.as_chunks::<8>(), to.as_chunks_mut::<8>());
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both have eight numbers.
        unsafe {
            let bits = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr()));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bits);
        }
    }
    one_by_one(rest, rest_to);
}

/// Widens the bits of `f16`, exactly.
///
/// # Errors
///
/// [`Error::Shape`] when the lengths differ.
pub fn from_f16(from: &[u16], to: &mut [f32]) -> Result<()> {
    if from.len() != to.len() {
        return Err(Error::Shape { what: "to", expected: from.len(), found: to.len() });
    }
    for (to, &bits) in to.iter_mut().zip(from) {
        *to = f16_to_f32(bits);
    }
    Ok(())
}

pub fn f32_to_f16(x: f32) -> u16 {
    const SMALLEST_NORMAL: f32 = 6.103_515_6e-5; // 2⁻¹⁴
    const OVERFLOW: f32 = 65_520.0; // Halfway from the greatest to what would be the next.
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    if magnitude >= OVERFLOW {
        return sign | 0x7c00;
    }
    if magnitude < SMALLEST_NORMAL {
        // Steps of 2⁻²⁴; 1024 of them are the smallest normal number, as its bits say too.
        return sign | (magnitude * 16_777_216.0).round_ties_even() as u16;
    }
    let bits = magnitude.to_bits() - (112 << 23); // The exponents' biases, 127 and 15, are 112 apart.
    sign | ((bits + 0xfff + (bits >> 13 & 1)) >> 13) as u16
}

/// The number whose IEEE half-precision bits these are.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let shifted = if magnitude >= 0x7c00 {
        0x7f80_0000 | (magnitude << 13)
    } else {
        // The exponent's bias differs by 112; a multiplication by 2^112 mends it for subnormals as well.
        (f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits()
    };
    f32::from_bits(sign | shifted)
}
