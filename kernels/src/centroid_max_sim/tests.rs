//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CENTROID_LANES, centroid_max_sim, cpu, fast};
use crate::Error;
use crate::device::CpuForm;

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (n_centroids, n_panels) in [(1, 1), (5, 1), (300, 1), (77, 2), (40, 3), (9, 5)] {
        let table: Vec<[u8; CENTROID_LANES]> =
            (0..n_centroids * n_panels).map(|_| std::array::from_fn(|_| rng.random())).collect();
        for n_tokens in [0, 1, 2, 17, 200] {
            let codes: Vec<u16> = (0..n_tokens).map(|_| rng.random_range(0..n_centroids as u16)).collect();
            let want = cpu::score(&table, n_panels, &codes);
            for form in CpuForm::available() {
                assert_eq!(fast::score(form, &table, n_panels, &codes), Some(want), "{form:?}");
            }
            assert_eq!(centroid_max_sim(&table, n_panels, &codes), Ok(want));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let table = [[1; CENTROID_LANES]; 4];
    assert_eq!(centroid_max_sim(&table, 2, &[1, 2, 0]), Err(Error::Row { row: 2, n_rows: 2 }));
    assert_eq!(centroid_max_sim(&table, 1, &[u16::MAX]), Err(Error::Row { row: 65_535, n_rows: 4 }));
    assert!(matches!(centroid_max_sim(&table, 3, &[]), Err(Error::Shape { what: "table", .. })));
    assert_eq!(centroid_max_sim(&table, 0, &[]), Err(Error::ZeroDimension));
}
