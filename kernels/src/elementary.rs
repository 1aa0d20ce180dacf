//! Functions of one number, without branches, so that loops over them vectorise.

use crate::forms::fma;

/// `ln` of the least positive normal number; below, [`exp`] is 0.
const EXP_LEAST: f32 = -87.336_54;
/// `ln` of the greatest number; above, [`exp`] is infinite.
const EXP_GREATEST: f32 = 88.722_83;

/// `eˣ`, relative error below 3e-7; 0 where the value would be subnormal.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let (power, shifted) = exp_parts::<FMA>(x);
    // The exponent is added, as 2¹²⁸ is no factor.
    let scaled = f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23));
    let finite = if x < EXP_LEAST { 0.0 } else { scaled };
    if x <= EXP_GREATEST { finite } else { x * f32::INFINITY }
}

/// [`exp`] for `x <= 0`, where nothing overflows.
#[inline(always)]
pub fn exp_nonpositive<const FMA: bool>(x: f32) -> f32 {
    const ONE: u32 = 1.0f32.to_bits();
    let (power, shifted) = exp_parts::<FMA>(x);
    let scaled = power * f32::from_bits((shifted.to_bits() << 23).wrapping_add(ONE));
    if x < EXP_LEAST { 0.0 } else { scaled }
}

/// `eʳ`, and a number with `n` in its low bits, where `eˣ = 2ⁿ · eʳ` and `|r| <= ln 2 / 2`.
///
/// The coefficients of the polynomial are those of Cephes' `expf`.
#[inline(always)]
fn exp_parts<const FMA: bool>(x: f32) -> (f32, f32) {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: a sum with it has no fraction, and an integer in its low bits
    const LN_2_HIGH: f32 = 355.0 / 512.0; // 9 bits, so that n · LN_2_HIGH is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let bounded = if x < EXP_LEAST { EXP_LEAST } else { x };
    let shifted = fma::<FMA>(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -LN_2_LOW, fma::<FMA>(n, -LN_2_HIGH, bounded));
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_2e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    (fma::<FMA>(p, r * r, r + 1.0), shifted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_near_the_exact_value_over_its_whole_range() {
        let mut x = -87.33f32;
        while x < 88.72 {
            let of =
                if x > 0.0 { [exp::<false>, exp::<true>] } else { [exp_nonpositive::<false>, exp_nonpositive::<true>] };
            for got in [exp::<false>(x), exp::<true>(x), of[0](x), of[1](x)] {
                let want = f64::from(x).exp();
                assert!(((f64::from(got) - want) / want).abs() <= 3e-7, "e^{x} is {want}, not {got}");
            }
            x += 0.003_7;
        }
    }

    #[test]
    fn exp_has_its_limits() {
        assert_eq!(exp::<true>(0.0), 1.0);
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(-88.0), 0.0);
        assert_eq!(exp_nonpositive::<true>(0.0), 1.0);
        assert_eq!(exp_nonpositive::<true>(f32::NEG_INFINITY), 0.0);
        assert!(exp_nonpositive::<true>(f32::from_bits(0x7fc0_0123)).is_nan());
        assert_eq!(exp::<true>(89.0), f32::INFINITY);
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<true>(f32::NAN).is_nan());
        assert!(exp::<true>(f32::from_bits(0x7fc0_0123)).is_nan());
    }
}
