//! Plain loops in `f64`, which every result is checked against.

/// `Σ a · b`.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Softmax of scores.
pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - maximum).exp()).sum();
    scores.iter().map(|score| (score - maximum).exp() / sum).collect()
}

/// The output of one query: `softmax(scale · query · keys) · values`; keys and values are `[n, dim]`.
pub fn attention(query: &[f32], keys: &[f32], values: &[f32], scale: f64) -> Vec<f64> {
    let dim = query.len();
    let scores: Vec<f64> = keys.chunks_exact(dim).map(|key| dot(query, key) * scale).collect();
    let mut out = vec![0.0; dim];
    for (share, value) in softmax(&scores).iter().zip(values.chunks_exact(dim)) {
        out.iter_mut().zip(value).for_each(|(out, value)| *out += share * f64::from(*value));
    }
    out
}

/// Mean and variance.
pub fn moments(row: &[f32]) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    (mean, row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n)
}

/// `x / (1 + e⁻ˣ)`.
pub fn silu(x: f32) -> f64 {
    f64::from(x) / (1.0 + (-f64::from(x)).exp())
}

/// `x/2 · (1 + erf(x/√2))`, the error function as its power series, for `|x|` of a few.
pub fn gelu(x: f32) -> f64 {
    let (x, z) = (f64::from(x), f64::from(x) / std::f64::consts::SQRT_2);
    let (mut term, mut sum) = (z, z);
    for n in 1..60 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    x / 2.0 * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * sum)
}

/// The value of a normal IEEE half.
pub fn half(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits & 0x8000) << 16 | ((u32::from(bits & 0x7fff) << 13) + (112 << 23)))
}
