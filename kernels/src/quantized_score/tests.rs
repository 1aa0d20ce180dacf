//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Int8Query, binarize, cpu, distances, hamming, quantize_i8, sums};
use crate::Error;
use crate::device::CpuForm;

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

#[test]
fn every_form_sums_exactly() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dim in [1, 15, 16, 31, 32, 33, 64, 100, 384, 1025] {
        let mut codes: Vec<i8> = (0..5 * dim).map(|_| rng.random()).collect();
        codes[..dim].fill(-128);
        let queries = [&codes[..dim], &codes[dim..2 * dim], &codes[2 * dim..3 * dim], &codes[4 * dim..]];
        let wide = queries.map(|query| query.iter().map(|&code| i16::from(code)).collect::<Vec<_>>());
        let want = queries.map(|query| cpu::inner_products(query, &codes));
        for form in CpuForm::available() {
            for (v, codes) in codes.chunks(dim).enumerate() {
                let together = sums(form, wide.each_ref().map(Vec::as_slice), codes);
                for q in 0..queries.len() {
                    assert_eq!(i64::from(together[q]), want[q][v], "{form:?}, dim {dim}");
                    assert_eq!(sums(form, [&wide[q]], codes), [together[q]], "{form:?}, dim {dim}");
                }
            }
        }
    }
    let wide = vec![-128; super::MAX_DIM];
    let codes = vec![-128; super::MAX_DIM];
    for form in CpuForm::available() {
        assert_eq!(sums(form, [&wide], &codes), [131_071 * 128 * 128]);
    }
}

#[test]
fn queries_together_score_as_each_alone() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (n, dim) = (5, 40);
    let vectors = random(&mut rng, n * dim);
    let (mut codes, mut scales) = (vec![0; n * dim], [0.0; 5]);
    quantize_i8(&vectors, dim, &mut codes, &mut scales).unwrap();
    let queries: Vec<Int8Query> = (0..6).map(|_| Int8Query::new(&random(&mut rng, dim)).unwrap()).collect();
    for form in CpuForm::available() {
        let mut together = vec![f32::NAN; 6 * n];
        Int8Query::products(form, &queries, &codes, &scales, &mut together);
        for (query, together) in queries.iter().zip(together.chunks(n)) {
            let mut alone = vec![f32::NAN; n];
            query.products_at(form, &codes, &scales, &[0, 1, 2, 3, 4], &mut alone);
            assert_eq!(alone, together, "{form:?}");
        }
    }
}

#[test]
fn every_form_counts_exactly() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for n_words in [1, 2, 3, 4, 5, 6, 8, 12, 13, 16] {
        let mut bits: Vec<u64> = (0..7 * n_words).map(|_| rng.random()).collect();
        let query: Vec<u64> = (0..n_words).map(|_| rng.random()).collect();
        bits[..n_words].copy_from_slice(&query);
        for (word, bit) in bits[n_words..].iter_mut().zip(&query) {
            *word = !bit;
        }
        let want = cpu::hamming(&query, &bits);
        assert_eq!(want[..2], [0, 64 * n_words as u32]);
        for form in CpuForm::available() {
            let mut got = vec![u32::MAX; 7];
            distances(form, &query, &bits, &mut got);
            assert_eq!(got, want, "{form:?}, {n_words} words");
        }
    }
}

#[test]
fn scores_of_bytes_are_near_those_of_the_vectors() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let dim = 100;
    let (query, vectors) = (random(&mut rng, dim), random(&mut rng, 6 * dim));
    let (mut codes, mut scales, mut out) = (vec![0; 6 * dim], [0.0; 6], [f32::NAN; 6]);
    quantize_i8(&vectors, dim, &mut codes, &mut scales).unwrap();
    let prepared = Int8Query::new(&query).unwrap();
    Int8Query::inner_products(std::slice::from_ref(&prepared), &codes, &scales, &mut out).unwrap();
    let mut some = [f32::NAN; 5];
    prepared.inner_products_at(&codes, &scales, &[5, 0, 3, 3, 1], &mut some).unwrap();
    assert_eq!(some, [out[5], out[0], out[3], out[3], out[1]]);
    for form in CpuForm::available() {
        let mut some = [f32::NAN; 6];
        prepared.products_at(form, &codes, &scales, &[1, 5, 0, 3, 3, 2], &mut some);
        assert_eq!(some, [out[1], out[5], out[0], out[3], out[3], out[2]], "{form:?}");
    }
    let mut want = [0.0; 6];
    crate::inner_products(&query, &vectors, dim, &mut want).unwrap();
    for (got, want) in out.iter().zip(want) {
        assert!((got - want).abs() <= 0.1, "{got} is not {want}"); // 100 errors of at most 2 · 1/254, of either sign
    }
    for (i, &x) in vectors.iter().enumerate() {
        let scale = scales[i / dim];
        assert!((f32::from(codes[i]) * scale - x).abs() <= 0.5001 * scale);
    }
}

#[test]
fn codes_are_rounded_and_signs_are_bits() {
    let (mut codes, mut scales) = ([9; 6], [9.0; 3]);
    quantize_i8(&[127.0, -63.5, 0.0, 0.0, 1e-44, -1e-44], 2, &mut codes, &mut scales).unwrap();
    assert_eq!(codes, [127, -64, 0, 0, 127, -127]);
    assert_eq!(scales[..2], [1.0, 0.0]);

    let mut vectors = vec![-1.0; 2 * 65];
    (vectors[0], vectors[63], vectors[64], vectors[65 + 1]) = (1.0, 2.0, 0.5, 1e-9);
    vectors[65] = 0.0;
    let mut bits = [u64::MAX; 4];
    binarize(&vectors, 65, &mut bits).unwrap();
    assert_eq!(bits, [1 | 1 << 63, 1, 2, 0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (codes, scales) = (&mut [0; 2], &mut [0.0; 1]);
    assert_eq!(quantize_i8(&[1.0, f32::NAN], 2, codes, scales), Err(Error::NotANumber { index: 1 }));
    assert!(matches!(quantize_i8(&[1.0; 3], 2, codes, scales), Err(Error::Shape { what: "vectors", .. })));
    assert!(matches!(quantize_i8(&[1.0; 4], 2, codes, scales), Err(Error::Shape { what: "codes", .. })));
    assert!(matches!(quantize_i8(&[1.0; 2], 1, codes, scales), Err(Error::Shape { what: "scales", .. })));
    assert_eq!(quantize_i8(&[], 0, &mut [], &mut []), Err(Error::ZeroDimension));
    let query = Int8Query::new(&[1.0, 2.0]).unwrap();
    let score = |queries: &[Int8Query], codes: &[i8], scales: &[f32], n_out: usize| {
        Int8Query::inner_products(queries, codes, scales, &mut vec![0.0; n_out])
    };
    let one = std::slice::from_ref(&query);
    assert!(matches!(score(one, &[1; 3], &[1.0], 1), Err(Error::Shape { what: "codes", .. })));
    assert!(matches!(score(one, &[1; 2], &[], 1), Err(Error::Shape { what: "scales", .. })));
    assert!(matches!(score(one, &[1; 2], &[1.0], 0), Err(Error::Shape { what: "out", .. })));
    let other = Int8Query::new(&[1.0]).unwrap();
    assert!(matches!(score(&[query.clone(), other], &[1; 2], &[1.0], 2), Err(Error::Shape { what: "query", .. })));
    assert_eq!(score(&[], &[], &[], 0), Ok(()));
    let missing = query.inner_products_at(&[1; 2], &[1.0], &[1], &mut [0.0]);
    assert_eq!(missing, Err(Error::Row { row: 1, n_rows: 1 }));
    assert!(matches!(Int8Query::new(&[]), Err(Error::ZeroDimension)));
    let long = vec![0; super::MAX_DIM + 1];
    assert!(matches!(Int8Query::from_codes(&long, 1.0), Err(Error::Shape { what: "dim", .. })));
    assert!(matches!(binarize(&[1.0; 2], 1, &mut [0]), Err(Error::Shape { what: "bits", .. })));
    assert_eq!(binarize(&[f32::INFINITY], 1, &mut [0]), Err(Error::NotANumber { index: 0 }));
    assert_eq!(hamming(&[], &[], &mut []), Err(Error::ZeroDimension));
    assert!(matches!(hamming(&[0; 2], &[0; 3], &mut [0]), Err(Error::Shape { what: "bits", .. })));
    assert_eq!(hamming(&[0; 2], &[], &mut []), Ok(()));
}
