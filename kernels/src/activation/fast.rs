//! Loops without branches over the functions of [`crate::elementary`].

use super::Activation;
use crate::elementary::exp;
use crate::forms::{fma, forms};

forms! {
    /// Replaces each value.
    pub fn activate(values: &mut [f32], activation: Activation) {
        match activation {
            Activation::Gelu => each(values, gelu::<FMA>),
            Activation::GeluTanh => each(values, gelu_tanh::<FMA>),
            Activation::Relu => each(values, relu),
            Activation::Silu => each(values, silu::<FMA>),
        }
    }

    /// `out = activation(gate) · up`; the lengths fit and `dim` is not 0.
    pub fn gated(gate_up: &[f32], dim: usize, activation: Activation, out: &mut [f32]) {
        match activation {
            Activation::Gelu => each_gated(gate_up, dim, out, gelu::<FMA>),
            Activation::GeluTanh => each_gated(gate_up, dim, out, gelu_tanh::<FMA>),
            Activation::Relu => each_gated(gate_up, dim, out, relu),
            Activation::Silu => each_gated(gate_up, dim, out, silu::<FMA>),
        }
    }
}

#[inline(always)]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in values {
        *x = f(*x);
    }
}

#[inline(always)]
fn each_gated(gate_up: &[f32], dim: usize, out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (row, out) in gate_up.chunks_exact(2 * dim).zip(out.chunks_exact_mut(dim)) {
        let (gate, up) = row.split_at(dim);
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = f(gate) * up;
        }
    }
}

/// `max(0, x) - |x|/2 · erfc(|x|/√2)`, which loses nothing where `1 + erf` would cancel; absolute error below 1e-6.
///
/// `erf(m/√2) / m` is a polynomial in `t = 2 (m/5.1)² - 1`, fitted by least squares at Chebyshev points; from 5.1 on, `erfc`
/// is below 4e-7. There is no division, and no exponential.
#[inline(always)]
pub fn gelu<const FMA: bool>(x: f32) -> f32 {
    const END: f32 = 5.1;
    const COEFFICIENTS: [f32; 12] = [
        -0.004_021_84,
        0.004_613_493,
        -0.006_220_227_6,
        0.013_857_818,
        -0.024_235_945,
        0.034_894_28,
        -0.047_970_545,
        0.063_434_21,
        -0.080_445_476,
        0.101_566_136,
        -0.138_006_24,
        0.277_210_56,
    ];
    let magnitude = x.abs();
    let near = if magnitude < END { magnitude } else { END };
    let t = fma::<FMA>(near * near, 2.0 / (END * END), -1.0);
    let mut p = 0.001_402_178_9;
    for coefficient in COEFFICIENTS {
        p = fma::<FMA>(p, t, coefficient);
    }
    let erfc = fma::<FMA>(-near, p, 1.0);
    let erfc = if magnitude < END { erfc } else { 0.0 };
    fma::<FMA>(-0.5 * near, erfc, relu(x))
}

/// `(1 + tanh u) / 2 = 1 / (1 + e^(-2u))`.
#[inline(always)]
pub fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const MINUS_2_SQRT_2_PI: f32 = -1.595_769; // -2 · √(2/π)
    x / (1.0 + exp::<FMA>(x * fma::<FMA>(MINUS_2_SQRT_2_PI * 0.044_715, x * x, MINUS_2_SQRT_2_PI)))
}

/// Written so that NaN stays.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
pub fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}
