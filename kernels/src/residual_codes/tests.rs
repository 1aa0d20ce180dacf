//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{ResidualBits, decode, decode_residuals, encode_residuals, portable};
use crate::Error;
use crate::device::CpuForm;

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

#[test]
fn every_form_codes_and_reads_by_the_formula() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for bits in [ResidualBits::Two, ResidualBits::Four] {
        let mut cutoffs = random(&mut rng, bits.n_buckets() - 1);
        cutoffs.sort_by(f32::total_cmp);
        let weights = random(&mut rng, bits.n_buckets());
        for dim in [0, 1, 7, 8, 9, 16, 17, 31, 32, 33, 64, 100, 128, 384, 390] {
            let (mut vector, centroid) = (random(&mut rng, dim), random(&mut rng, dim));
            if dim > 0 {
                vector[0] = centroid[0] + 50.0;
                vector[dim - 1] = centroid[dim - 1] - 50.0;
            }
            let code = |d: usize| cutoffs.iter().filter(|&&cutoff| cutoff < vector[d] - centroid[d]).count();
            let want: Vec<f32> = (0..dim).map(|d| centroid[d] + weights[code(d)]).collect();
            let mut codes = vec![0xff; bits.n_bytes(dim)];
            encode_residuals(bits, &cutoffs, &vector, &centroid, &mut codes).unwrap();
            for form in CpuForm::available() {
                let mut again = vec![0xff; bits.n_bytes(dim)];
                portable::encode(form, bits.count(), &cutoffs, &vector, &centroid, &mut again);
                assert_eq!(again, codes, "{form:?}");
                let mut got = vec![f32::NAN; dim];
                decode(form, bits, &weights, &codes, &centroid, &mut got);
                assert_eq!(got, want, "{form:?}, {bits:?}, dim {dim}");
            }
        }
    }
}

#[test]
fn sizes_are_those_of_whole_blocks() {
    assert_eq!(ResidualBits::Two.n_bytes(128), 32);
    assert_eq!(ResidualBits::Four.n_bytes(384), 192);
    assert_eq!(ResidualBits::Four.n_bytes(17), 16);
    assert_eq!(ResidualBits::Two.n_bytes(0), 0);
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let two = ResidualBits::Two;
    assert!(encode_residuals(two, &[0.0; 4], &[1.0], &[1.0], &mut [0; 8]).is_err());
    assert!(encode_residuals(two, &[0.0; 3], &[1.0], &[], &mut [0; 8]).is_err());
    assert!(encode_residuals(two, &[0.0; 3], &[1.0], &[1.0], &mut [0; 7]).is_err());
    assert!(matches!(
        decode_residuals(two, &[0.0; 16], &[0; 8], &[1.0], &mut [0.0]),
        Err(Error::Shape { what: "weights", .. })
    ));
    assert!(decode_residuals(two, &[0.0; 4], &[0; 9], &[1.0], &mut [0.0]).is_err());
    assert!(decode_residuals(two, &[0.0; 4], &[0; 8], &[1.0], &mut [0.0; 2]).is_err());
}
