//! One body for both forms.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{cpu, fast, l2_normalize};
use crate::Error;

#[track_caller]
fn check(row: &[f32]) {
    let (mut expected, mut got) = (row.to_vec(), row.to_vec());
    cpu::l2_normalize(&mut expected);
    fast::l2_normalize(&mut got);
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-6, "{got} is not {expected}");
    }
}

#[test]
fn the_fast_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for dim in [1, 3, 8, 17, 384] {
        for scale in [1.0, 1e-25, 1e-4, 1e25] {
            check(&(0..dim).map(|_| rng.random_range(-1.0..1.0) * scale).collect::<Vec<f32>>());
        }
    }
    check(&[0.0; 5]);
    check(&[1e-45, 0.0]);
}

#[test]
fn rows_become_unit_vectors_and_zeros_stay() {
    let mut vectors = [3.0, 4.0, 0.0, 0.0, 0.0, -2.0];
    l2_normalize(&mut vectors, 2).unwrap();
    for (got, expected) in vectors.iter().zip([0.6, 0.8, 0.0, 0.0, 0.0, -1.0]) {
        assert!((got - expected).abs() <= 1e-7);
    }
    assert_eq!(l2_normalize(&mut [1.0; 3], 2), Err(Error::Shape { what: "vectors", expected: 4, found: 3 }));
    assert_eq!(l2_normalize(&mut [], 0), Err(Error::ZeroDimension));
}
