//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{cpu, fast, mean_pool};
use crate::Error;
use crate::device::CpuForm;

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let ends = [0, 1, 8, 8, 300, 301];
    for dim in [1, 3, 8, 17, 384] {
        let rows: Vec<f32> = (0..301 * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let want = cpu::mean_pool(&rows, &ends, dim);
        for form in CpuForm::available() {
            let mut got = vec![f32::NAN; ends.len() * dim];
            fast::mean_pool(form, &rows, &ends, dim, &mut got);
            for (got, want) in got.into_iter().zip(&want) {
                assert!((f64::from(got) - want).abs() <= 2e-6, "{form:?}, dim {dim}: {got} is not {want}");
            }
        }
        let (mut alone, mut together) = (vec![0.0; dim], vec![0.0; ends.len() * dim]);
        mean_pool(&rows, &ends, dim, &mut together).unwrap();
        mean_pool(&rows[8 * dim..300 * dim], &[292], dim, &mut alone).unwrap();
        assert_eq!(alone, together[4 * dim..5 * dim]);
    }
}

#[test]
fn ends_that_do_not_fit_are_refused() {
    let mut out = [0.0; 2];
    assert_eq!(mean_pool(&[1.0; 3], &[2, 1], 1, &mut out), Err(Error::Row { row: 1, n_rows: 3 }));
    assert_eq!(mean_pool(&[1.0; 3], &[2, 4], 1, &mut out), Err(Error::Row { row: 4, n_rows: 3 }));
    assert!(matches!(mean_pool(&[1.0; 3], &[1, 2], 1, &mut out), Err(Error::Shape { what: "rows", .. })));
    assert!(matches!(mean_pool(&[1.0; 3], &[3], 1, &mut out), Err(Error::Shape { what: "out", .. })));
    assert_eq!(mean_pool(&[], &[], 0, &mut []), Err(Error::ZeroDimension));
    assert_eq!(mean_pool(&[], &[], 4, &mut []), Ok(()));
}
