//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{all_pairs, cpu, inner_product, inner_products, inner_products_at};
use crate::Error;
use crate::device::CpuForm;

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Every form equals the reference within what `dim` roundings of a sum of that size allow.
#[track_caller]
fn check(queries: &[f32], vectors: &[f32], dim: usize) {
    let n = (queries.len() / dim) * (vectors.len() / dim);
    let mut expected = vec![0.0f64; n];
    cpu::inner_products(queries, vectors, dim, &mut expected);
    let magnitude = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let mut sums_of_magnitudes = vec![0.0f64; n];
    cpu::inner_products(&magnitude(queries), &magnitude(vectors), dim, &mut sums_of_magnitudes);
    for form in CpuForm::available() {
        let mut got = vec![f32::NAN; n];
        all_pairs(form, queries, vectors, dim, &mut got);
        for i in 0..n {
            let tolerance = f64::from(f32::EPSILON) * (dim as f64 + 2.0) * sums_of_magnitudes[i];
            assert!((f64::from(got[i]) - expected[i]).abs() <= tolerance, "{form:?}, dim {dim}, pair {i}");
        }
    }
}

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dim in [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 63, 65, 100, 384, 385] {
        for (n_queries, n_vectors) in [(1, 1), (1, 5), (3, 2), (4, 3), (5, 7), (9, 1)] {
            check(&random(&mut rng, n_queries * dim), &random(&mut rng, n_vectors * dim), dim);
        }
    }
}

#[test]
fn outliers_are_not_lost() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut query = random(&mut rng, 70);
    let mut vector = random(&mut rng, 70);
    (query[69], vector[69]) = (1e6, 1e6);
    (query[0], vector[0]) = (-1e-20, 1e-20);
    check(&query, &vector, 70);
}

#[test]
fn a_score_does_not_depend_on_its_place_in_the_batch() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for dim in [5, 24, 384, 391] {
        let (queries, vectors) = (random(&mut rng, 7 * dim), random(&mut rng, 13 * dim));
        for form in CpuForm::available() {
            let mut together = vec![0.0; 7 * 13];
            all_pairs(form, &queries, &vectors, dim, &mut together);
            for q in 0..7 {
                for v in 0..13 {
                    let mut alone = [0.0];
                    all_pairs(form, &queries[q * dim..][..dim], &vectors[v * dim..][..dim], dim, &mut alone);
                    assert_eq!(alone[0].to_bits(), together[q * 13 + v].to_bits(), "{form:?}");
                }
            }
        }
        let mut all = vec![0.0; 13];
        inner_products(&queries[..dim], &vectors, dim, &mut all).unwrap();
        let mut some = [0.0; 3];
        inner_products_at(&queries[..dim], &vectors, &[12, 0, 7], &mut some).unwrap();
        assert_eq!(some, [all[12], all[0], all[7]]);
        assert_eq!(inner_product(&queries[..dim], &vectors[..dim]), Ok(all[0]));
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let mut out = [0.0; 2];
    assert!(matches!(inner_products(&[1.0; 3], &[1.0; 4], 2, &mut out), Err(Error::Shape { what: "queries", .. })));
    assert!(matches!(inner_products(&[1.0; 2], &[1.0; 3], 2, &mut out), Err(Error::Shape { what: "vectors", .. })));
    assert!(matches!(inner_products(&[1.0; 2], &[1.0; 6], 2, &mut out), Err(Error::Shape { what: "out", .. })));
    assert_eq!(inner_products(&[], &[], 0, &mut []), Err(Error::ZeroDimension));
    assert_eq!(inner_products(&[], &[1.0; 4], 2, &mut []), Ok(()));
    assert_eq!(inner_products_at(&[1.0], &[1.0, 2.0], &[2], &mut [0.0]), Err(Error::Row { row: 2, n_rows: 2 }));
    assert!(inner_product(&[1.0], &[]).is_err());
}
