//! The frequencies of pairs under each scaling.

use std::f64::consts::TAU;

use super::RotaryScaling;
use crate::{Error, Result};

/// The frequency of each pair, and the magnitude; `head_dim` is even and not 0.
pub fn scaled(head_dim: usize, base: f64, scaling: &RotaryScaling) -> Result<(Vec<f64>, f64)> {
    positive("base", base)?;
    let dim = head_dim as f64;
    let mut magnitude = 1.0;
    let mut frequencies = powers(head_dim, base);
    match *scaling {
        RotaryScaling::None => {}
        RotaryScaling::Linear { factor } => {
            positive("factor", factor)?;
            for frequency in &mut frequencies {
                *frequency /= factor;
            }
        }
        RotaryScaling::Ntk { factor } => {
            positive("factor", factor)?;
            if head_dim > 2 {
                frequencies = powers(head_dim, base * factor.powf(dim / (dim - 2.0)));
            }
        }
        RotaryScaling::Yarn { factor, original_len, beta_fast, beta_slow } => {
            positive("factor", factor)?;
            positive("original_len", f64::from(original_len))?;
            positive("beta_slow", beta_slow)?;
            positive("beta_fast - beta_slow", beta_fast - beta_slow)?;
            positive("base - 1", base - 1.0)?;
            // The pair, as a real number, that makes so many turns in the trained length.
            let pair = |turns: f64| dim * (f64::from(original_len) / (turns * TAU)).ln() / (2.0 * base.ln());
            let first = pair(beta_fast).floor().max(0.0);
            let last = pair(beta_slow).ceil().min(dim - 1.0);
            for (i, frequency) in frequencies.iter_mut().enumerate() {
                let interpolated = ((i as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
                *frequency = mix(*frequency, *frequency / factor, interpolated);
            }
            if factor > 1.0 {
                magnitude = 0.1 * factor.ln() + 1.0;
            }
        }
        RotaryScaling::Llama3 { factor, low, high, original_len } => {
            positive("factor", factor)?;
            positive("original_len", f64::from(original_len))?;
            positive("low", low)?;
            positive("high - low", high - low)?;
            for frequency in &mut frequencies {
                let turns = f64::from(original_len) * *frequency / TAU;
                let interpolated = ((high - turns) / (high - low)).clamp(0.0, 1.0);
                *frequency = mix(*frequency, *frequency / factor, interpolated);
            }
        }
        RotaryScaling::Divisors(ref divisors) => {
            if divisors.len() != frequencies.len() {
                return Err(Error::Shape { what: "divisors", expected: frequencies.len(), found: divisors.len() });
            }
            for (frequency, &divisor) in frequencies.iter_mut().zip(divisors) {
                positive("divisor", divisor)?;
                *frequency /= divisor;
            }
        }
    }
    for &frequency in &frequencies {
        positive("frequency", frequency)?;
    }
    Ok((frequencies, magnitude))
}

/// `base^(-2i/dim)` for each pair `i`.
fn powers(head_dim: usize, base: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|i| base.powf(-2.0 * i as f64 / head_dim as f64)).collect()
}

/// `a` at 0, `b` at 1, and exactly `a` wherever `a = b`.
fn mix(a: f64, b: f64, at: f64) -> f64 {
    a + (b - a) * at
}

fn positive(what: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() { Ok(()) } else { Err(Error::NotPositive { what }) }
}
