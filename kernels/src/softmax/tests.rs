//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{cpu, fast, log_softmax_at, log_sum_exp, softmax};
use crate::Error;
use crate::device::CpuForm;

const NONE: f32 = f32::NEG_INFINITY;

#[track_caller]
fn check(values: &[f32]) {
    let total = cpu::log_sum_exp(values);
    let probabilities = cpu::softmax(values);
    for form in CpuForm::available() {
        let got = f64::from(fast::log_sum_exp(form, values));
        assert!((got - total).abs() <= 1e-6 + 2e-7 * total.abs(), "{form:?}, {} values: {total}, {got}", values.len());
        let mut row = values.to_vec();
        fast::softmax(form, &mut row);
        for (got, want) in row.into_iter().zip(&probabilities) {
            assert!((f64::from(got) - want).abs() <= 2e-6 * want + 1e-30, "{form:?}: {got} is not {want}");
        }
    }
}

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for n in [1, 2, 7, 16, 17, 100, 4095, 4096, 4097, 20_000] {
        for offset in [0.0, 1000.0, -1000.0] {
            let mut values: Vec<f32> = (0..n).map(|_| rng.random_range(-8.0..8.0) + offset).collect();
            check(&values);
            values[n - 1] = offset + 60.0; // one that outweighs all before it
            check(&values);
            if n > 1 {
                values[0] = NONE;
                check(&values);
            }
        }
    }
    let mut values = vec![NONE; 9000];
    values[5000] = 3.5;
    check(&values);
}

#[test]
fn nothing_has_no_probability() {
    for n in [0, 1, 9, 5000] {
        assert_eq!(log_sum_exp(&vec![NONE; n]), NONE);
        let mut row = vec![NONE; n];
        softmax(&mut row);
        assert_eq!(row, vec![0.0; n]);
    }
    let mut out = [0.0];
    log_softmax_at(&[NONE; 3], &[1], &mut out).unwrap();
    assert_eq!(out, [NONE]);
}

#[test]
fn nan_stays() {
    for values in [vec![f32::NAN; 3], vec![1.0, f32::NAN], vec![NONE, f32::NAN], vec![f32::INFINITY, 0.0]] {
        assert!(log_sum_exp(&values).is_nan(), "{values:?}");
        let mut row = values.clone();
        softmax(&mut row);
        assert!(row.iter().any(|x| x.is_nan()), "{values:?}");
    }
}

#[test]
fn chosen_ids_have_their_logarithms() {
    let mut out = [f32::NAN; 3];
    log_softmax_at(&[0.0, 3f32.ln(), NONE], &[1, 0, 2], &mut out).unwrap();
    assert!((out[0] - 0.75f32.ln()).abs() <= 1e-6); // 3 / (1 + 3)
    assert!((out[1] - 0.25f32.ln()).abs() <= 1e-6); // 1 / (1 + 3)
    assert_eq!(out[2], NONE);
    assert_eq!(log_softmax_at(&[1.0], &[1], &mut [0.0]), Err(Error::Row { row: 1, n_rows: 1 }));
    assert!(matches!(log_softmax_at(&[1.0], &[0], &mut []), Err(Error::Shape { what: "out", .. })));
}
