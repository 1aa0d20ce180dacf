//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{cpu, max_sim, max_sim_f16, scores};
use crate::device::CpuForm;
use crate::half_product::f16_to_f32;
use crate::{Error, PackedMatrix};

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The bits of halves between −1 and 1, and the numbers that they are.
fn halves(rng: &mut ChaCha8Rng, n: usize) -> (Vec<u16>, Vec<f32>) {
    let bits: Vec<u16> = (0..n).map(|_| rng.random_range(0..0x3c00) | rng.random_range(0..2) << 15).collect();
    let numbers = bits.iter().map(|&bits| f16_to_f32(bits)).collect();
    (bits, numbers)
}

/// The ends of documents of these lengths.
fn ends(lengths: &[usize]) -> Vec<usize> {
    lengths.iter().scan(0, |end, length| Some(*end + length).inspect(|new| *end = *new)).collect()
}

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let lengths: [&[usize]; 6] =
        [&[], &[0], &[1], &[0, 5, 0, 0, 7, 0], &[1, 1, 1, 200, 3, 1, 95, 0], &[1500, 2, 1100, 6, 6, 12]];
    for (dim, n_query, lengths) in [1, 7, 16, 128, 385, 800].into_iter().flat_map(|dim| {
        let of_query = move |n| lengths.map(|lengths| (dim, n, lengths));
        [1, 15, 16, 17, 32, 33, 50].into_iter().flat_map(of_query)
    }) {
        if dim * n_query * lengths.iter().sum::<usize>() > 4_000_000 {
            continue; // The reference is slow.
        }
        let ends = ends(lengths);
        let n_tokens = ends.last().copied().unwrap_or(0);
        let query = random(&mut rng, n_query * dim);
        let packed = PackedMatrix::new(&query, n_query, dim).unwrap();
        let (bits, numbers) = halves(&mut rng, n_tokens * dim);
        let want = cpu::max_sim(&query, &numbers, dim, &ends);
        for form in CpuForm::available() {
            let (mut got, mut of_halves) = (vec![f32::NAN; ends.len()], vec![f32::NAN; ends.len()]);
            scores(form, &packed, &numbers[..], &ends, &mut got);
            scores(form, &packed, &bits[..], &ends, &mut of_halves);
            assert_eq!(got, of_halves, "{form:?}");
            for (got, want) in got.iter().zip(&want) {
                let tolerance = 1e-6 * (dim as f64).sqrt() * (n_query as f64 + 2.0);
                assert!((f64::from(*got) - want).abs() <= tolerance, "{form:?} {dim} {n_query}: {got} is not {want}");
            }
        }
    }
}

#[test]
fn a_score_does_not_depend_on_its_place_in_the_batch_or_the_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (dim, n_query) = (48, 21);
    let lengths: Vec<usize> = (0..300).map(|i| i * 7 % 40).collect();
    let ends = ends(&lengths);
    let tokens = random(&mut rng, ends[299] * dim);
    let query = PackedMatrix::new(&random(&mut rng, n_query * dim), n_query, dim).unwrap();
    let mut together = vec![0.0; 300];
    max_sim(&query, &tokens, &ends, &mut together).unwrap();
    for d in (0..300).step_by(13) {
        let own = &tokens[(ends[d] - lengths[d]) * dim..ends[d] * dim];
        let mut alone = [f32::NAN];
        max_sim(&query, own, &[lengths[d]], &mut alone).unwrap();
        assert_eq!(alone[0].to_bits(), together[d].to_bits(), "document {d}");
    }
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut got = vec![0.0; 300];
        pool.install(|| max_sim(&query, &tokens, &ends, &mut got)).unwrap();
        assert_eq!(got, together, "{threads} threads");
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let query = PackedMatrix::new(&[1.0, 0.0], 1, 2).unwrap();
    let mut out = [0.0];
    assert!(matches!(max_sim(&query, &[1.0; 3], &[1], &mut out), Err(Error::Shape { what: "tokens", .. })));
    assert!(matches!(max_sim_f16(&query, &[0; 2], &[1, 1], &mut out), Err(Error::Shape { what: "out", .. })));
    assert!(matches!(max_sim(&query, &[1.0; 2], &[2], &mut out), Err(Error::Shape { .. })));
    assert!(matches!(max_sim(&query, &[1.0; 2], &[], &mut []), Err(Error::Shape { .. })));
    assert!(matches!(max_sim(&query, &[1.0; 2], &[2, 1], &mut [0.0; 2]), Err(Error::Shape { .. })));
    assert_eq!(max_sim(&query, &[0.5, 9.0], &[1], &mut out), Ok(()));
    assert_eq!(out, [0.5]);
}
