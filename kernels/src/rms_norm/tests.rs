//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{cpu, fast, rms_norm, rms_norm_in_place};
use crate::Error;
use crate::device::CpuForm;

const EPSILON: f32 = 1e-6;

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-2.0..2.0)).collect()
}

#[test]
fn every_form_equals_the_reference_and_the_form_in_place() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dim in [1, 2, 7, 15, 16, 17, 33, 64, 576] {
        let (scale, rows) = (random(&mut rng, dim), random(&mut rng, 3 * dim));
        for form in CpuForm::available() {
            let mut got = vec![f32::NAN; rows.len()];
            fast::rms_norm(form, &rows, &scale, EPSILON, &mut got);
            let mut in_place = rows.clone();
            for row in in_place.chunks_mut(dim) {
                fast::rms_norm_in_place(form, row, &scale, EPSILON);
            }
            assert_eq!(got, in_place, "{form:?}, dim {dim}");
            let want = rows.chunks(dim).flat_map(|row| cpu::rms_norm(row, &scale, EPSILON));
            for (got, want) in got.into_iter().zip(want) {
                assert!((f64::from(got) - want).abs() <= 5e-6, "{form:?}, dim {dim}: {got} is not {want}");
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_lengths_that_do_not_fit_are_refused() {
    let mut out = [f32::NAN; 2];
    assert_eq!(rms_norm(&[0.0; 2], &[1.0; 2], EPSILON, &mut out), Ok(()));
    assert_eq!(out, [0.0; 2]);
    assert_eq!(rms_norm_in_place(&mut [], &[], EPSILON), Err(Error::ZeroDimension));
    assert!(matches!(rms_norm(&[1.0; 2], &[1.0], EPSILON, &mut [0.0]), Err(Error::Shape { what: "out", .. })));
    assert!(matches!(rms_norm_in_place(&mut [1.0; 3], &[1.0; 2], EPSILON), Err(Error::Shape { what: "rows", .. })));
}
