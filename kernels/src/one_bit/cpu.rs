//! The reference: plain loops over bits and components.

use super::{FACTOR_WORDS, RandomRotation};

/// The estimate of the inner product of `vector` and `query`, and the deviation of its error.
pub fn estimate(vector: &[f32], query: &[f32], centroid: &[f32], rotation: &RandomRotation) -> (f64, f64) {
    let turned = |x: &[f32]| {
        let mut turned: Vec<f32> = x.iter().zip(centroid).map(|(x, c)| x - c).collect();
        rotation.apply(&mut turned);
        turned.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let (z, y) = (turned(vector), turned(query));
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let dim = z.len() as f64;
    let cosine = z.iter().map(|z| z.abs()).sum::<f64>() / (length(&z) * dim.sqrt());
    let signed: f64 = z.iter().zip(&y).map(|(&z, &y)| if z > 0.0 { y } else { -y }).sum();
    let estimate = length(&z) / (cosine * dim.sqrt()) * signed + dot(vector, centroid) - dot(centroid, centroid)
        + dot(centroid, query);
    let error = length(&y) * ((length(&z) / cosine).powi(2) - length(&z).powi(2)).max(0.0).sqrt();
    (estimate, error / (dim - 1.0).max(1.0).sqrt())
}

/// The sign of each component of a row.
pub fn signs(row: &[u64], dim: usize) -> Vec<bool> {
    assert_eq!(row.len(), dim.div_ceil(64) + FACTOR_WORDS);
    (0..dim).map(|d| row[d / 64] >> (d % 64) & 1 == 1).collect()
}
