//! One body for every form.

use super::{Activation, activate, cpu, fast, gated};
use crate::Error;
use crate::device::CpuForm;

const ALL: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];

#[test]
fn every_form_equals_the_reference() {
    let mut values: Vec<f32> = (-20_000..=20_000).map(|i| i as f32 / 1000.0).collect();
    values.extend([0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 100.0, -100.0, 1e10, -1e10, f32::MAX / 2.0]);
    for activation in ALL {
        for form in CpuForm::available() {
            let mut got = values.clone();
            fast::activate(form, &mut got, activation);
            for (&x, got) in values.iter().zip(got) {
                let want = cpu::value(activation, f64::from(x));
                let tolerance = 1e-6 + 2e-7 * want.abs();
                assert!(
                    (f64::from(got) - want).abs() <= tolerance,
                    "{form:?}, {activation:?}({x}) = {want}, not {got}"
                );
            }
        }
    }
}

#[test]
fn a_value_does_not_depend_on_its_place_and_nan_stays() {
    let values: Vec<f32> = (0..53).map(|i| (i as f32 - 26.0) * 0.37).collect();
    for activation in ALL {
        let mut together = values.clone();
        activate(&mut together, activation);
        for (&x, together) in values.iter().zip(together) {
            let mut alone = [x];
            activate(&mut alone, activation);
            assert_eq!(alone[0].to_bits(), together.to_bits());
        }
        let mut nan = [f32::NAN; 9];
        activate(&mut nan, activation);
        assert!(nan.iter().all(|x| x.is_nan()), "{activation:?}");
    }
}

#[test]
fn a_gate_multiplies_its_own_row() {
    for dim in [1, 3, 8, 21] {
        let gate_up: Vec<f32> = (0..6 * dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 13.0).collect();
        for activation in ALL {
            for form in CpuForm::available() {
                let mut out = vec![f32::NAN; 3 * dim];
                fast::gated(form, &gate_up, dim, activation, &mut out);
                for i in 0..3 * dim {
                    let (row, d) = (&gate_up[i / dim * 2 * dim..], i % dim);
                    let mut gate = [row[d]];
                    fast::activate(form, &mut gate, activation);
                    assert!((out[i] - gate[0] * row[dim + d]).abs() <= 1e-6, "{form:?}");
                }
            }
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    assert_eq!(gated(&[], 0, Activation::Silu, &mut []), Err(Error::ZeroDimension));
    assert!(matches!(gated(&[1.0; 3], 1, Activation::Silu, &mut []), Err(Error::Shape { what: "gate_up", .. })));
    assert!(matches!(gated(&[1.0; 4], 1, Activation::Silu, &mut []), Err(Error::Shape { what: "out", .. })));
    assert_eq!(gated(&[], 5, Activation::Silu, &mut []), Ok(()));
}
