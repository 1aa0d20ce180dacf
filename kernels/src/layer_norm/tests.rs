//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{add_layer_norm, cpu, fast, layer_norm};
use crate::Error;
use crate::device::CpuForm;

const EPSILON: f32 = 1e-5;

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-2.0..2.0)).collect()
}

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dim in [1, 2, 7, 15, 16, 17, 33, 384, 385] {
        let (scale, shift) = (random(&mut rng, dim), random(&mut rng, dim));
        for offset in [0.0, 30.0] {
            let mut rows: Vec<f32> = random(&mut rng, 3 * dim).into_iter().map(|x| x + offset).collect();
            rows[dim - 1] += 50.0; // an outlier
            for form in CpuForm::available() {
                let mut got = rows.clone();
                fast::layer_norm(form, &mut got, &scale, &shift, EPSILON);
                let want = rows.chunks(dim).flat_map(|row| cpu::layer_norm(row, &scale, &shift, EPSILON));
                for (got, want) in got.into_iter().zip(want) {
                    assert!((f64::from(got) - want).abs() <= 2e-5, "{form:?}, dim {dim}: {got} is not {want}");
                }
            }
        }
    }
}

#[test]
fn the_fused_sum_is_the_sum_and_a_row_is_the_same_alone() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let dim = 37;
    let (scale, shift) = (random(&mut rng, dim), random(&mut rng, dim));
    let (mut rows, residual) = (random(&mut rng, 5 * dim), random(&mut rng, 5 * dim));
    let mut sums: Vec<f32> = rows.iter().zip(&residual).map(|(x, y)| x + y).collect();
    add_layer_norm(&mut rows, &residual, &scale, &shift, EPSILON).unwrap();
    for row in sums.chunks_mut(dim) {
        layer_norm(row, &scale, &shift, EPSILON).unwrap();
    }
    assert_eq!(rows, sums);
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    assert_eq!(layer_norm(&mut [], &[], &[], EPSILON), Err(Error::ZeroDimension));
    assert!(matches!(layer_norm(&mut [1.0; 3], &[1.0; 2], &[1.0; 2], EPSILON), Err(Error::Shape { what: "rows", .. })));
    assert!(matches!(layer_norm(&mut [1.0; 2], &[1.0; 2], &[], EPSILON), Err(Error::Shape { what: "shift", .. })));
    assert!(matches!(
        add_layer_norm(&mut [1.0; 2], &[], &[1.0; 2], &[0.0; 2], EPSILON),
        Err(Error::Shape { what: "residual", .. })
    ));
    assert_eq!(layer_norm(&mut [], &[1.0], &[0.0], EPSILON), Ok(()));
}
