//! The reference: plain loops in `f64`.

use super::RotaryPairs;

/// Turns one head to `position`, and multiplies it by `magnitude`.
pub fn rotate(head: &[f32], pairs: RotaryPairs, frequencies: &[f64], magnitude: f64, position: f64) -> Vec<f64> {
    let mut out = vec![0.0; head.len()];
    for (i, frequency) in frequencies.iter().enumerate() {
        let (a, b) = match pairs {
            RotaryPairs::Neighbours => (2 * i, 2 * i + 1),
            RotaryPairs::Halves => (i, i + frequencies.len()),
        };
        let (x, y) = (f64::from(head[a]), f64::from(head[b]));
        let (sine, cosine) = (position * frequency).sin_cos();
        out[a] = (x * cosine - y * sine) * magnitude;
        out[b] = (x * sine + y * cosine) * magnitude;
    }
    out
}
