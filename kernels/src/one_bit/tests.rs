//! One body for every form, and the estimator's own promises.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn unit(rng: &mut ChaCha8Rng, n: usize, dim: usize) -> Vec<f32> {
    // The sum of twelve uniform numbers is nearly normal.
    let normal = |rng: &mut ChaCha8Rng| (0..12).map(|_| rng.random_range(-0.5..0.5f32)).sum::<f32>();
    let mut vectors: Vec<f32> = (0..n * dim).map(|_| normal(rng)).collect();
    crate::l2_normalize(&mut vectors, dim).unwrap();
    vectors
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn a_rotation_keeps_inner_products_and_mixes() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dim in [1, 2, 3, 5, 16, 63, 100, 384, 385, 1024] {
        let rotation = RandomRotation::new(dim, 7);
        let (a, b) = (unit(&mut rng, 1, dim), unit(&mut rng, 1, dim));
        let (mut turned_a, mut turned_b) = (a.clone(), b.clone());
        rotation.apply(&mut turned_a);
        rotation.apply(&mut turned_b);
        assert!((dot(&turned_a, &turned_b) - dot(&a, &b)).abs() <= 1e-5, "dim {dim}");
        let mut axis = vec![0.0; dim];
        axis[dim - 1] = 1.0;
        rotation.apply(&mut axis);
        let greatest = axis.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        assert!(dim < 16 || greatest <= 7.0 / (dim as f32).sqrt(), "dim {dim}: {greatest}");
    }
}

#[test]
fn every_form_estimates_as_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for dim in [1, 3, 8, 17, 64, 65, 100, 384, 512, 768, 1024, 5000] {
        let n = if dim > 1000 { 40 } else { 75 };
        let vectors = unit(&mut rng, n, dim);
        let centroid: Vec<f32> = (0..dim).map(|_| rng.random_range(-0.01..0.01)).collect();
        let encoder = OneBitEncoder::new(&centroid, 3).unwrap();
        let n_words = one_bit_words(dim);
        let mut codes = vec![0; n * n_words];
        encoder.encode(&vectors, &mut codes).unwrap();
        let blocks = one_bit_blocks(&codes, dim).unwrap();
        assert_eq!(blocks.len(), n.div_ceil(32) * one_bit_block_bytes(dim));
        let queries = unit(&mut rng, 6, dim); // Four together and two alone.
        let query = &queries[..dim];
        let prepared = encoder.query(query).unwrap();
        let tables: Vec<_> = queries.chunks_exact(dim).map(|query| encoder.table(query).unwrap()).collect();
        let table = &tables[0];
        let rows: Vec<u32> = (0..n as u32).rev().collect();
        for form in CpuForm::available() {
            for margin in [0.0, 1.9] {
                let mut by_row = vec![f32::NAN; n];
                prepared.row_bounds(form, &codes, &rows, margin, &mut by_row);
                let mut by_block = vec![f32::NAN; n.next_multiple_of(32)];
                OneBitTable::scan(form, &tables[..1], &blocks, margin, &mut by_block);
                for v in 0..n {
                    let vector = &vectors[v * dim..][..dim];
                    let (estimate, error) = cpu::estimate(vector, query, &centroid, &encoder.rotation);
                    let expected = estimate + f64::from(margin) * error;
                    // Rounding the query to four bits.
                    let steps = 3.0 * f64::from(prepared.step);
                    let tolerance = 1e-5 + 1.3 * steps / if dim < 64 { 1.0 } else { 2.0 };
                    let by_row = f64::from(by_row[n - 1 - v]);
                    assert!((by_row - expected).abs() <= tolerance, "{form:?} {dim}: {by_row} {expected}");
                    // Rounding each four components to a step: six deviations of their sum, or all of few.
                    let tolerance = 1e-5 + 1.3 * f64::from(table.step);
                    let by_block = f64::from(by_block[v]);
                    assert!((by_block - expected).abs() <= tolerance, "{form:?} {dim}: {by_block} {expected}");
                }
                assert!(by_block[n..].iter().all(|&bound| bound == f32::NEG_INFINITY));
            }
        }
        let n_rows = n.next_multiple_of(32);
        let mut expected = vec![0.0; 6 * n_rows];
        OneBitTable::scan(CpuForm::Portable, &tables, &blocks, 1.0, &mut expected);
        for form in CpuForm::available() {
            let mut together = vec![0.0; expected.len()];
            OneBitTable::scan(form, &tables, &blocks, 1.0, &mut together);
            for (got, expected) in together.chunks(n_rows).zip(expected.chunks(n_rows)) {
                for (got, expected) in got[..n].iter().zip(expected) {
                    assert!((got - expected).abs() <= 1e-5, "{form:?}: {got} is not {expected}");
                }
            }
            let mut alone = vec![0.0; n_rows];
            for (table, together) in tables.iter().zip(together.chunks(n_rows)) {
                OneBitTable::scan(form, std::slice::from_ref(table), &blocks, 1.0, &mut alone);
                assert_eq!(alone, together, "{form:?}, dim {dim}");
            }
        }
    }
}

#[test]
fn blocks_and_queries_that_do_not_fit_are_refused() {
    let table = |dim: usize| OneBitEncoder::new(&vec![0.0; dim], 1).unwrap().table(&vec![1.0; dim]).unwrap();
    let blocks = vec![0; 2 * one_bit_block_bytes(20)];
    let bounds = |queries: &[OneBitTable], n_bytes: usize, n_out: usize| {
        OneBitTable::block_bounds(queries, &blocks[..n_bytes], 0.0, &mut vec![0.0; n_out])
    };
    assert_eq!(bounds(&[], blocks.len(), 0), Ok(()));
    assert_eq!(bounds(&[table(20), table(20)], blocks.len(), 128), Ok(()));
    assert!(matches!(bounds(&[], blocks.len(), 1), Err(Error::Shape { what: "out", .. })));
    assert!(matches!(bounds(&[table(20), table(40)], 0, 0), Err(Error::Shape { what: "query", .. })));
    assert!(matches!(bounds(&[table(20)], 7, 64), Err(Error::Shape { what: "blocks", .. })));
    assert!(matches!(bounds(&[table(20)], blocks.len(), 63), Err(Error::Shape { what: "out", .. })));
}

#[test]
fn estimates_are_without_bias_and_within_their_bounds() {
    let (n, dim) = (5000, 384);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let vectors = unit(&mut rng, n, dim);
    let centroid = vec![0.01; dim];
    let encoder = OneBitEncoder::new(&centroid, 5).unwrap();
    let mut codes = vec![0; n * one_bit_words(dim)];
    encoder.encode(&vectors, &mut codes).unwrap();
    let rows: Vec<u32> = (0..n as u32).collect();
    let (mut sum, mut n_outside) = (0.0, 0);
    for query in unit(&mut rng, 4, dim).chunks_exact(dim) {
        let prepared = encoder.query(query).unwrap();
        let (mut estimates, mut bounds) = (vec![0.0; n], vec![0.0; n]);
        prepared.bounds_at(&codes, &rows, 0.0, &mut estimates).unwrap();
        prepared.bounds_at(&codes, &rows, 3.5, &mut bounds).unwrap();
        for (v, vector) in vectors.chunks_exact(dim).enumerate() {
            let error = f64::from(estimates[v]) - dot(vector, query);
            sum += error;
            n_outside += usize::from(error.abs() > f64::from(bounds[v] - estimates[v]));
        }
    }
    assert!((sum / (4 * n) as f64).abs() <= 1e-3, "{}", sum / (4 * n) as f64); // .038 / √20,000 is .0003
    assert!(n_outside as f64 <= 0.001 * (4 * n) as f64, "{n_outside}");
}

#[test]
fn a_vector_at_the_centroid_is_estimated_exactly() {
    let centroid = [0.5, -0.25, 0.0];
    let encoder = OneBitEncoder::new(&centroid, 1).unwrap();
    let mut code = vec![0; one_bit_words(3)];
    encoder.encode(&centroid, &mut code).unwrap();
    assert_eq!(cpu::signs(&code, 3), [false; 3]);
    let mut out = [0.0];
    encoder.query(&[1.0, 1.0, 1.0]).unwrap().bounds_at(&code, &[0], 2.0, &mut out).unwrap();
    assert!((out[0] - 0.25).abs() <= 1e-6);
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(matches!(OneBitEncoder::new(&[], 0), Err(Error::ZeroDimension)));
    assert!(matches!(OneBitEncoder::new(&[f32::NAN], 0), Err(Error::NotANumber { index: 0 })));
    let encoder = OneBitEncoder::new(&[0.0; 3], 0).unwrap();
    assert!(matches!(encoder.encode(&[1.0; 4], &mut []), Err(Error::Shape { what: "vectors", .. })));
    assert!(matches!(encoder.encode(&[1.0; 3], &mut [0; 2]), Err(Error::Shape { what: "rows", .. })));
    assert!(matches!(encoder.encode(&[f32::INFINITY; 3], &mut [0; 3]), Err(Error::NotANumber { index: 0 })));
    assert!(matches!(encoder.query(&[1.0; 2]), Err(Error::Shape { what: "query", .. })));
    let query = encoder.query(&[1.0; 3]).unwrap();
    assert!(matches!(query.bounds_at(&[0; 4], &[], 0.0, &mut []), Err(Error::Shape { what: "codes", .. })));
    assert!(matches!(query.bounds_at(&[0; 3], &[0], 0.0, &mut []), Err(Error::Shape { what: "out", .. })));
    assert!(matches!(query.bounds_at(&[0; 3], &[1], 0.0, &mut [0.0]), Err(Error::Row { row: 1, n_rows: 1 })));
    assert!(matches!(encoder.table(&[1.0; 2]), Err(Error::Shape { what: "query", .. })));
    assert!(matches!(one_bit_blocks(&[0; 4], 3), Err(Error::Shape { what: "codes", .. })));
    assert!(matches!(one_bit_blocks(&[], 0), Err(Error::ZeroDimension)));
}
