//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CentroidProducts, ResidualQuery, cpu, score};
use crate::centroid_max_sim::CENTROID_LANES;
use crate::device::CpuForm;
use crate::half_product::f16_to_f32;
use crate::{Error, ResidualBits, decode_residuals};

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The bits of 0.25, 0.5 and 1.
const HALVES: [u16; 3] = [0x3400, 0x3800, 0x3c00];

#[test]
fn every_form_scores_tokens_as_they_are_read_back() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for bits in [ResidualBits::Two, ResidualBits::Four] {
        let mut weights = random(&mut rng, bits.n_buckets());
        weights.sort_by(f32::total_cmp);
        for (dim, n_query, n_tokens) in [1, 7, 16, 33, 64, 128, 130, 384]
            .into_iter()
            .flat_map(|dim| [(1, 1), (5, 0), (31, 12), (32, 3), (33, 40), (70, 9)].map(|(q, t)| (dim, q, t)))
        {
            let n_centroids = 11;
            let (query, centroids) = (random(&mut rng, n_query * dim), random(&mut rng, n_centroids * dim));
            let mut products = Vec::new();
            for centroid in centroids.chunks_exact(dim) {
                for query in query.chunks_exact(dim) {
                    products.push(query.iter().zip(centroid).map(|(q, c)| q * c).sum::<f32>());
                }
            }
            let n_panels = n_query.div_ceil(CENTROID_LANES);
            let mut table = vec![[0; CENTROID_LANES]; n_centroids * n_panels];
            for (row, products) in table.chunks_exact_mut(n_panels).zip(products.chunks_exact(n_query)) {
                for (byte, product) in row.as_flattened_mut().iter_mut().zip(products) {
                    *byte = (128.0 + product * 20.0) as u8;
                }
            }
            let codes: Vec<u16> = (0..n_tokens).map(|_| rng.random_range(0..n_centroids as u16)).collect();
            let (mut tokens, mut rows, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
            for &centroid in &codes {
                let (size, factor) = (HALVES[rng.random_range(0..3)], HALVES[rng.random_range(0..3)]);
                tokens.extend(size.to_le_bytes());
                tokens.extend(factor.to_le_bytes());
                let start = tokens.len();
                tokens.extend((0..bits.n_bytes(dim)).map(|_| rng.random::<u8>()));
                let sized: Vec<f32> = weights.iter().map(|weight| weight * f16_to_f32(size)).collect();
                let mut row = vec![0.0; dim];
                let at = usize::from(centroid);
                decode_residuals(bits, &sized, &tokens[start..], &centroids[at * dim..][..dim], &mut row).unwrap();
                rows.extend(row.iter().map(|x| x * f16_to_f32(factor)));
                bytes.push(table[at * n_panels..][..n_panels].as_flattened().to_vec());
            }
            for margin in [0, 9, 255] {
                let asked = ResidualQuery::new(bits, &query, dim, &weights, margin).unwrap();
                let of_centroids = CentroidProducts { table: &table, products: &products };
                let want = cpu::score(&query, &rows, dim, &bytes, margin);
                let got = asked.score(of_centroids, &codes, &tokens).unwrap();
                // Components and weights are rounded to a 127th of the greatest.
                let tolerance = 0.02 * (dim as f64).sqrt() * n_query as f64;
                assert!((f64::from(got) - want).abs() <= tolerance, "{bits:?} {dim} {n_query}: {got} is not {want}");
                for form in CpuForm::available() {
                    let of_form = score(form, &asked, of_centroids, &codes, &tokens);
                    assert_eq!(of_form.to_bits(), got.to_bits(), "{form:?}");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let four = ResidualBits::Four;
    let weights = [0.5; 16];
    assert!(matches!(ResidualQuery::new(four, &[], 0, &weights, 0), Err(Error::ZeroDimension)));
    assert!(matches!(ResidualQuery::new(four, &[1.0; 3], 2, &weights, 0), Err(Error::Shape { .. })));
    assert!(matches!(ResidualQuery::new(four, &[1.0; 2], 2, &weights[1..], 0), Err(Error::Shape { .. })));
    assert!(matches!(ResidualQuery::new(four, &[f32::NAN], 1, &weights, 0), Err(Error::NotANumber { .. })));
    let query = ResidualQuery::new(four, &[1.0, 0.5], 2, &weights, 0).unwrap();
    assert_eq!(query.token_bytes(), 12);
    let products = CentroidProducts { table: &[[0; CENTROID_LANES]; 2], products: &[1.0, 2.0] };
    assert!(matches!(query.score(products, &[0], &[0; 11]), Err(Error::Shape { what: "tokens", .. })));
    assert!(matches!(query.score(products, &[2], &[0; 12]), Err(Error::Row { row: 2, n_rows: 2 })));
    let short = CentroidProducts { products: &[1.0], ..products };
    assert!(matches!(query.score(short, &[0], &[0; 12]), Err(Error::Shape { what: "table", .. })));
    assert_eq!(query.score(products, &[], &[]), Ok(0.0));
    let none = ResidualQuery::new(four, &[], 2, &weights, 0).unwrap();
    assert_eq!(none.score(products, &[1], &[0; 12]), Ok(0.0));
}
