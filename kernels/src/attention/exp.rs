//! Powers of two in vectors, the one transcendental function of attention.

use super::simd::Simd;

// (2^f - 1) / f at the six Chebyshev points of [-1/2, 1/2], interpolated.
const C1: f32 = std::f32::consts::LN_2;
const C2: f32 = 0.2402265;
const C3: f32 = 0.05550357;
const C4: f32 = 0.009618083;
const C5: f32 = 0.0013390863;
const C6: f32 = 0.00015453163;

/// `2^x` of each lane, within two units in the last place; 0 below the smallest normal number, `2^127` above it.
///
/// `x = n + f` with `n` whole and `|f| <= 1/2`; `2^n` is an exponent's bits, and `2^f` the polynomial of degree 6
/// through the Chebyshev points (5e-9 off without roundings) that is exact at 0. NaN stays NaN.
///
/// # Safety
///
/// The processor runs `S`.
#[inline(always)]
pub unsafe fn exp2<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: the processor runs `S`.
    unsafe {
        let bounded = S::clamp(x, -126.0, 127.0);
        let n = S::round(bounded);
        let f = S::sub(bounded, n);
        let mut power = S::splat(C6);
        for coefficient in [C5, C4, C3, C2, C1, 1.0] {
            power = S::fma(power, f, S::splat(coefficient));
        }
        S::zero_below(x, -126.0, S::mul(power, S::power_of_two(n)))
    }
}
