//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{cpu, fast, log_relu_max, log1p_relu, running_max};
use crate::Error;
use crate::device::CpuForm;

#[test]
fn every_form_equals_the_reference_in_tiles_of_any_height() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for n_terms in [1, 3, 8, 17, 9001] {
        let logits: Vec<f32> = (0..7 * n_terms).map(|_| rng.random_range(-9.0..1.0)).collect();
        let want = cpu::log_relu_max(&logits, n_terms);
        for form in CpuForm::available() {
            let mut got = vec![f32::NEG_INFINITY; n_terms];
            for tile in logits.chunks(3 * n_terms) {
                fast::running_max(form, tile, n_terms, &mut got);
            }
            log1p_relu(&mut got);
            let mut at_once = vec![0.0; n_terms];
            log_relu_max(&logits[..2 * n_terms], n_terms, &mut at_once).unwrap();
            log_relu_max(&logits[2 * n_terms..], n_terms, &mut at_once).unwrap();
            assert_eq!(got, at_once);
            for (got, want) in got.into_iter().zip(&want) {
                assert!((f64::from(got) - want).abs() <= 1e-7, "{form:?}: {got} is not {want}");
            }
        }
    }
}

#[test]
fn nan_is_passed_over_and_lengths_that_do_not_fit_are_refused() {
    let mut max = [0.0, 0.5];
    running_max(&[f32::NAN, 1.0, -1.0, 0.25], 2, &mut max).unwrap();
    assert_eq!(max, [0.0, 1.0]);
    assert_eq!(running_max(&[], 0, &mut []), Err(Error::ZeroDimension));
    assert!(matches!(running_max(&[1.0; 3], 2, &mut max), Err(Error::Shape { what: "logits", .. })));
    assert!(matches!(running_max(&[1.0; 3], 3, &mut max), Err(Error::Shape { what: "max", .. })));
    assert!(matches!(log_relu_max(&[1.0; 3], 3, &mut max), Err(Error::Shape { what: "out", .. })));
}
