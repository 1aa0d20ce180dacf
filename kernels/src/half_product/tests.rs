//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{all_pairs, cpu, f16_to_f32, from_f16, inner_products_f16, inner_products_f16_at, products, to_f16};
use crate::Error;
use crate::device::CpuForm;

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dim in [1, 7, 8, 15, 16, 17, 33, 100, 384, 385] {
        let mut random = |n: usize| -> Vec<f32> { (0..n * dim).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let (queries, vectors) = (random(6), random(3));
        let mut half = vec![0; 3 * dim];
        to_f16(&vectors, &mut half).unwrap();
        for form in CpuForm::available() {
            let mut out = [f32::NAN; 18]; // Four queries together and two alone.
            all_pairs(form, &queries, &half, dim, &mut out);
            for (query, out) in queries.chunks(dim).zip(out.chunks(3)) {
                for (vector, &got) in half.chunks(dim).zip(out) {
                    assert_eq!(products(form, [query], vector), [got], "{form:?}, dim {dim}");
                    let (got, expected) = (f64::from(got), cpu::product(query, vector));
                    assert!(
                        (got - expected).abs() <= 1e-6 * dim as f64,
                        "{form:?}, dim {dim}: {got} is not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_half_goes_there_and_back() {
    let bits: Vec<u16> = (0..=u16::MAX).filter(|bits| bits & 0x7fff <= 0x7c00).collect();
    let (mut wide, mut back) = (vec![0.0; bits.len()], vec![1; bits.len()]);
    from_f16(&bits, &mut wide).unwrap();
    to_f16(&wide, &mut back).unwrap();
    assert!(bits == back);
}

#[test]
fn numbers_are_rounded_to_the_nearest() {
    let numbers = [1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 65_519.9, 65_520.0, -1e9, 2f32.powi(-25), 1e-7];
    let mut half = [0; 7];
    to_f16(&numbers, &mut half).unwrap();
    // Halves go to even: 1, 1 + 2 · 2⁻¹⁰; the greatest; ±∞; 0; 2 · 2⁻²⁴.
    assert_eq!(half, [0x3c00, 0x3c02, 0x7bff, 0x7c00, 0xfc00, 0, 2]);
    to_f16(&[f32::NAN; 7], &mut half).unwrap();
    assert!(f16_to_f32(half[0]).is_nan());
}

#[test]
fn chosen_rows_score_as_all_rows_do() {
    let vectors = [0x3c00, 0, 0, 0x3c00, 0x4000, 0xbc00]; // (1, 0), (0, 1), (2, -1)
    let mut all = [0.0; 3];
    inner_products_f16(&[3.0, 5.0], &vectors, 2, &mut all).unwrap();
    assert_eq!(all, [3.0, 5.0, 1.0]);
    let mut some = [0.0; 2];
    inner_products_f16_at(&[3.0, 5.0], &vectors, &[2, 0], &mut some).unwrap();
    assert_eq!(some, [1.0, 3.0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    assert_eq!(inner_products_f16(&[], &[], 0, &mut []), Err(Error::ZeroDimension));
    assert!(matches!(inner_products_f16(&[1.0; 2], &[0; 3], 2, &mut [0.0]), Err(Error::Shape { what: "vectors", .. })));
    assert!(matches!(inner_products_f16(&[1.0; 2], &[0; 2], 2, &mut []), Err(Error::Shape { what: "out", .. })));
    assert!(matches!(inner_products_f16(&[1.0; 3], &[], 2, &mut []), Err(Error::Shape { what: "queries", .. })));
    assert!(matches!(inner_products_f16_at(&[1.0; 2], &[0; 2], &[0], &mut []), Err(Error::Shape { what: "out", .. })));
    let missing = inner_products_f16_at(&[1.0; 2], &[0; 2], &[1], &mut [0.0]);
    assert_eq!(missing, Err(Error::Row { row: 1, n_rows: 1 }));
    assert!(to_f16(&[1.0], &mut []).is_err());
    assert!(from_f16(&[1], &mut []).is_err());
}
