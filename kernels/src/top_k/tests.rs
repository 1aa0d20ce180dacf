//! The threshold form against the reference.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{TopK, cpu, top_k};
use crate::Error;

#[track_caller]
fn check(scores: &[f32], k: usize) {
    assert_eq!(top_k(scores, k).unwrap(), cpu::top_k(scores, k), "k {k} of {}", scores.len());
}

#[test]
fn equals_the_reference_with_and_without_ties() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for n in [0, 1, 2, 31, 32, 33, 63, 64, 65, 1000] {
        for distinct in [1, 2, 7, 1_000_000] {
            let scores: Vec<f32> = (0..n).map(|_| rng.random_range(0..distinct) as f32 - 3.0).collect();
            for k in [0, 1, 2, 10, 31, 32, 33, 100, n, n + 1, usize::MAX] {
                check(&scores, k);
            }
        }
    }
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let scores: Vec<f32> = (0..500).map(|_| rng.random_range(0..9) as f32).collect();
    let mut order: Vec<u32> = (0..500).collect();
    for _ in 0..20 {
        order.shuffle(&mut rng);
        let mut best = TopK::new(37);
        for &index in &order {
            best.push(scores[index as usize], index).unwrap();
        }
        assert_eq!(best.into_best_first(), cpu::top_k(&scores, 37));
    }
}

#[test]
fn only_positive_scores_when_asked_for() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for n in [0, 5, 64, 700] {
        let scores: Vec<f32> = (0..n).map(|_| rng.random_range(-3..4) as f32).collect();
        for k in [1, 40, 1000] {
            let mut best = TopK::new(k);
            best.extend_positive(&scores, 0).unwrap();
            let expected: Vec<_> = cpu::top_k(&scores, n).into_iter().filter(|hit| hit.0 > 0.0).take(k).collect();
            assert_eq!(best.into_best_first(), expected);
        }
    }
    assert!(TopK::new(1).extend_positive(&[f32::from_bits(1), f32::NAN], 0).is_err());
}

#[test]
fn infinities_have_a_place_and_nan_has_none() {
    check(&[f32::NEG_INFINITY, 0.0, f32::INFINITY, -0.0, f32::NEG_INFINITY], 4);
    let mut scores = vec![1.0; 300];
    scores[299] = f32::NAN;
    assert_eq!(top_k(&scores, 5), Err(Error::NotANumber { index: 299 }));
    assert_eq!(top_k(&[f32::NAN], 0), Err(Error::NotANumber { index: 0 }));
}
