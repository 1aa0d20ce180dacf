//! One body for every form.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::exp::exp2;
use super::selected::selected;
use super::simd::{Portable, Simd};
use super::*;
use crate::half_product::f16_to_f32;

const NO_MASK: AttentionMask = AttentionMask { window: None, sinks: 0 };

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn random_f16(rng: &mut ChaCha8Rng, n: usize) -> Vec<u16> {
    // Exponents of 2^-14 to 2^0, and some subnormals.
    (0..n).map(|_| rng.random_range(0..0x3c00u16) | (rng.random_range(0..2u16) << 15)).collect()
}

/// What a run owns.
struct Owned {
    f32: Option<(Vec<f32>, Vec<f32>)>,
    f16: (Vec<u16>, Vec<u16>),
    positions: Vec<u32>,
    segments: Option<Vec<u32>>,
    log_weights: Option<Vec<f32>>,
}

impl Owned {
    fn run(&self) -> KvRun<'_> {
        let (keys, values) = match &self.f32 {
            Some((keys, values)) => (KvSlice::F32(keys), KvSlice::F32(values)),
            None => (KvSlice::F16(&self.f16.0), KvSlice::F16(&self.f16.1)),
        };
        let (segments, log_weights) = (self.segments.as_deref(), self.log_weights.as_deref());
        KvRun { keys, values, positions: &self.positions, segments, log_weights }
    }
}

/// Runs of these lengths whose kinds alternate, at ascending positions.
fn runs(rng: &mut ChaCha8Rng, shape: &AttentionShape, lens: &[usize], extras: bool) -> Vec<Owned> {
    let mut position = 0;
    let mut runs = Vec::new();
    for (i, &len) in lens.iter().enumerate() {
        let n = len * shape.n_kv_heads * shape.head_dim;
        runs.push(Owned {
            f32: (i % 2 == 0).then(|| (random(rng, n), random(rng, n))),
            f16: if i % 2 == 0 { Default::default() } else { (random_f16(rng, n), random_f16(rng, n)) },
            positions: (position..).take(len).collect(),
            segments: (extras && i % 3 != 0).then(|| vec![i as u32 % 3; len]),
            log_weights: (extras && i % 3 != 1).then(|| random(rng, len)),
        });
        position += len as u32;
    }
    runs
}

fn shape(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionShape {
    // Scores of a few units either way, so that the softmax is neither flat nor a choice of one.
    AttentionShape { n_heads, n_kv_heads, head_dim, scale: 6.0 / (head_dim as f32).sqrt() }
}

/// Every form equals the reference, its mass too; threads change no bit.
#[track_caller]
fn check(shape: &AttentionShape, queries: &QueryRows, runs: &[KvRun], mask: &AttentionMask) {
    let (expected, expected_lse) = cpu::attention(shape, queries, runs, mask);
    let scores = cpu::scores(shape, queries, runs, mask);
    let n_keys = runs.iter().map(|run| run.positions.len()).sum::<usize>();
    // Values are at most 1 and shares sum to 1; a score is known to its size's last place, and so is what follows.
    let largest = scores.iter().filter(|score| score.is_finite()).fold(100.0, |a: f64, b| a.max(b.abs()));
    let tolerance = 2e-7 * largest;
    let ranges = [0..n_keys, 0..0, n_keys / 3..n_keys - n_keys / 4, n_keys / 2..n_keys / 2 + n_keys.min(1)];
    let expected_mass = cpu::mass(shape, &scores, &expected_lse, &ranges);
    for form in CpuForm::available() {
        let (mut out, mut lse) = (vec![f32::NAN; expected.len()], vec![f32::NAN; expected_lse.len()]);
        causal(form, shape, queries, runs, mask, &mut out, Some(&mut lse)).unwrap();
        for i in 0..out.len() {
            assert!((f64::from(out[i]) - expected[i]).abs() <= tolerance, "{form:?}: {} not {}", out[i], expected[i]);
        }
        for (&lse, &expected) in lse.iter().zip(&expected_lse) {
            assert!(
                f64::from(lse) == expected || (f64::from(lse) - expected).abs() <= tolerance,
                "{form:?}: {lse} {expected}"
            );
        }
        let mut mass = vec![f32::NAN; expected_mass.len()];
        received(form, shape, queries, runs, mask, &lse, &ranges, &mut mass).unwrap();
        for (&mass, &expected) in mass.iter().zip(&expected_mass) {
            assert!(
                (f64::from(mass) - expected).abs() <= 2.0 * tolerance * expected.max(1.0),
                "{form:?}: {mass} {expected}"
            );
        }
    }
}

fn range_rows<'a>(queries: &QueryRows<'a>, rows: Range<usize>) -> QueryRows<'a> {
    let width = queries.rows.len() / queries.positions.len();
    QueryRows {
        rows: &queries.rows[rows.start * width..rows.end * width],
        positions: &queries.positions[rows.clone()],
        segments: queries.segments.map(|segments| &segments[rows]),
    }
}

#[test]
fn powers_of_two_are_right() {
    fn check<S: Simd>() {
        for i in -1_300_000..=1_270_000 {
            let x = i as f32 / 1e4;
            let mut got = [0.0; 16];
            // SAFETY: the processor runs it, and there is room for 16.
            unsafe { S::store(got.as_mut_ptr(), exp2::<S>(S::splat(x))) };
            let want = if x < -126.0 { 0.0 } else { f64::from(x).exp2() };
            assert!((f64::from(got[0]) - want).abs() <= 2.5e-7 * want, "2^{x}: {} not {want}", got[0]);
        }
        let mut got = [0.0; 16];
        // SAFETY: as before.
        unsafe { S::store(got.as_mut_ptr(), exp2::<S>(S::splat(f32::NEG_INFINITY))) };
        assert_eq!(got[0], 0.0);
        // SAFETY: as before.
        unsafe { S::store(got.as_mut_ptr(), exp2::<S>(S::splat(f32::NAN))) };
        assert!(got[0].is_nan());
    }
    check::<Portable>();
    #[cfg(target_arch = "x86_64")]
    if CpuForm::available().contains(&CpuForm::Avx2) {
        check::<avx2::Avx2>();
    }
    #[cfg(target_arch = "x86_64")]
    if CpuForm::available().contains(&CpuForm::Avx512) {
        check::<avx512::Avx512>();
    }
    #[cfg(target_arch = "aarch64")]
    check::<neon::Neon>();
}

#[test]
fn squares_are_transposed() {
    fn check<S: Simd>() {
        let numbers: Vec<f32> = (0..16 * 20).map(|i| i as f32).collect();
        let mut got = vec![f32::NAN; 16 * 18];
        // SAFETY: the processor runs it, and both have sixteen rows of more than sixteen columns.
        unsafe { S::transpose(numbers.as_ptr(), 20, got.as_mut_ptr(), 18) };
        for (row, column) in (0..S::LANES).flat_map(|row| (0..S::LANES).map(move |column| (row, column))) {
            assert_eq!(got[column * 18 + row], numbers[row * 20 + column], "row {row}, column {column}");
        }
    }
    check::<Portable>();
    #[cfg(target_arch = "x86_64")]
    if CpuForm::available().contains(&CpuForm::Avx2) {
        check::<avx2::Avx2>();
    }
    #[cfg(target_arch = "x86_64")]
    if CpuForm::available().contains(&CpuForm::Avx512) {
        check::<avx512::Avx512>();
    }
    #[cfg(target_arch = "aarch64")]
    check::<neon::Neon>();
}

#[test]
fn half_precision_is_read_in_full() {
    assert_eq!(f16_to_f32(0x3c00), 1.0);
    assert_eq!(f16_to_f32(0xc000), -2.0);
    assert_eq!(f16_to_f32(0x7bff), 65504.0);
    assert_eq!(f16_to_f32(0x0001), 2f32.powi(-24));
    assert_eq!(f16_to_f32(0x83ff), -1023.0 * 2f32.powi(-24));
    assert_eq!(f16_to_f32(0xfc00), f32::NEG_INFINITY);
    assert!(f16_to_f32(0x7e00).is_nan());
}

/// Numbers are off by 2⁻⁹ of them in bf16 at most, so that scores of a few units are off by a hundredth.
fn tolerance(form: CpuForm, rounds: bool) -> f64 {
    if rounds && form == CpuForm::Avx512Bf16 { 2e-2 } else { 2e-5 }
}

#[test]
fn bidirectional_equals_the_reference_and_itself() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (dim, n_heads, lens) in
        [(32, 3, &[8, 0, 1, 33, 140][..]), (64, 2, &[256, 17, 300]), (7, 1, &[5, 129]), (1, 2, &[]), (48, 1, &[0, 16])]
    {
        let shape = shape(n_heads, n_heads, dim);
        let width = n_heads * dim;
        let ends: Vec<usize> = lens
            .iter()
            .scan(0, |end, len| {
                *end += len;
                Some(*end)
            })
            .collect();
        let n_tokens = lens.iter().sum::<usize>();
        let qkv = random(&mut rng, n_tokens * 3 * width);
        for (form, rounds) in CpuForm::available().into_iter().flat_map(|form| [(form, false), (form, true)]) {
            let tolerance = tolerance(form, rounds);
            let mut out = vec![f32::NAN; n_tokens * width];
            bidirectional(form, &shape, &qkv, &ends, None, rounds, &mut out).unwrap();
            for (&len, &end) in lens.iter().zip(&ends) {
                let rows = &qkv[(end - len) * 3 * width..end * 3 * width];
                let part = |i: usize| -> Vec<f32> {
                    rows.chunks_exact(3 * width).flat_map(|row| &row[i * width..(i + 1) * width]).copied().collect()
                };
                let (queries, keys, values) = (part(0), part(1), part(2));
                let positions = vec![0; len];
                let run = KvRun {
                    keys: KvSlice::F32(&keys),
                    values: KvSlice::F32(&values),
                    positions: &positions,
                    segments: None,
                    log_weights: None,
                };
                let queries = QueryRows { rows: &queries, positions: &positions, segments: None };
                let (expected, _) = cpu::attention(&shape, &queries, &[run], &NO_MASK);
                let got = &out[(end - len) * width..end * width];
                for (got, expected) in got.iter().zip(expected) {
                    assert!(
                        (f64::from(*got) - expected).abs() <= tolerance,
                        "{form:?}, dim {dim}: {got} not {expected}"
                    );
                }
                let mut alone = vec![f32::NAN; len * width];
                bidirectional(form, &shape, rows, &[len], None, rounds, &mut alone).unwrap();
                assert_eq!(alone, got, "{form:?}");
            }
            for n_threads in [1, 2, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                let mut again = vec![f32::NAN; out.len()];
                pool.install(|| bidirectional(form, &shape, &qkv, &ends, None, rounds, &mut again)).unwrap();
                assert_eq!(again, out, "{form:?}, {n_threads} threads");
            }
        }
    }
}

#[test]
fn within_a_radius_rows_see_their_neighbours() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (shape, width) = (shape(3, 3, 20), 60);
    let lens = [1, 0, 7, 300, 129];
    let ends: Vec<usize> = lens.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len) + len)).collect();
    let n_tokens = ends[ends.len() - 1];
    let qkv = random(&mut rng, n_tokens * 3 * width);
    for (form, rounds) in CpuForm::available().into_iter().flat_map(|form| [(form, false), (form, true)]) {
        let tolerance = tolerance(form, rounds);
        for radius in [0, 1, 5, 64, 128, 299, usize::MAX] {
            let mut out = vec![f32::NAN; n_tokens * width];
            bidirectional(form, &shape, &qkv, &ends, Some(radius), rounds, &mut out).unwrap();
            for (&len, &end) in lens.iter().zip(&ends) {
                let start = end - len;
                for token in (start..end).step_by(13).chain((start..end).last()) {
                    let near = token.saturating_sub(radius).max(start)..token.saturating_add(radius).min(end - 1) + 1;
                    let part = |i: usize| -> Vec<f32> {
                        let rows = qkv[near.start * 3 * width..near.end * 3 * width].chunks_exact(3 * width);
                        rows.flat_map(|row| &row[i * width..(i + 1) * width]).copied().collect()
                    };
                    let (keys, values, positions) = (part(1), part(2), vec![0; near.len()]);
                    let (keys, values) = (KvSlice::F32(&keys), KvSlice::F32(&values));
                    let run = KvRun { keys, values, positions: &positions, segments: None, log_weights: None };
                    let rows = &qkv[token * 3 * width..][..width];
                    let queries = QueryRows { rows, positions: &[0], segments: None };
                    let (expected, _) = cpu::attention(&shape, &queries, &[run], &NO_MASK);
                    for (got, expected) in out[token * width..(token + 1) * width].iter().zip(expected) {
                        assert!(
                            (f64::from(*got) - expected).abs() <= tolerance,
                            "{form:?}, {radius}: {got} not {expected}"
                        );
                    }
                }
                let mut alone = vec![f32::NAN; len * width];
                let rows = &qkv[start * 3 * width..end * 3 * width];
                bidirectional(form, &shape, rows, &[len], Some(radius), rounds, &mut alone).unwrap();
                assert_eq!(alone, out[start * width..end * width], "{form:?}");
            }
            for n_threads in [1, 2, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                let mut again = vec![f32::NAN; out.len()];
                pool.install(|| bidirectional(form, &shape, &qkv, &ends, Some(radius), rounds, &mut again)).unwrap();
                assert_eq!(again, out, "{form:?}, {n_threads} threads");
            }
        }
    }
}

#[test]
fn causal_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let lens: [&[usize]; 5] = [&[], &[0], &[1], &[5, 0, 130, 64, 0], &[100, 128, 33, 250]];
    for (dim, n_heads, n_kv_heads) in [(64, 3, 1), (32, 4, 2), (5, 2, 2), (40, 7, 1)] {
        let shape = shape(n_heads, n_kv_heads, dim);
        for (lens, extras) in lens.iter().flat_map(|lens| [(lens, false), (lens, true)]) {
            let owned = runs(&mut rng, &shape, lens, extras);
            let runs: Vec<_> = owned.iter().map(Owned::run).collect();
            for n_rows in [0, 1, 2, 19] {
                let rows = random(&mut rng, n_rows * n_heads * dim);
                let positions: Vec<u32> = (0..n_rows).map(|_| rng.random_range(0..600)).collect();
                let segments: Vec<u32> = (0..n_rows).map(|_| [0, 1, 2, u32::MAX][rng.random_range(0..4)]).collect();
                for segments in [None, Some(&segments[..])] {
                    let queries = QueryRows { rows: &rows, positions: &positions, segments };
                    for mask in [
                        NO_MASK,
                        AttentionMask { window: Some(50), sinks: 0 },
                        AttentionMask { window: Some(9), sinks: 4 },
                    ] {
                        check(&shape, &queries, &runs, &mask);
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_in_a_batch_in_other_runs_and_on_other_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let shape = shape(6, 2, 64);
    let width = 2 * 64;
    let owned = runs(&mut rng, &shape, &[1500], false);
    let whole = owned[0].run();
    let (KvSlice::F32(keys), KvSlice::F32(values)) = (whole.keys, whole.values) else { panic!("the first run is f32") };
    let pages: Vec<KvRun> = (0..1500)
        .step_by(48)
        .map(|start| {
            let end = (start + 48).min(1500);
            KvRun {
                keys: KvSlice::F32(&keys[start * width..end * width]),
                values: KvSlice::F32(&values[start * width..end * width]),
                positions: &whole.positions[start..end],
                ..whole
            }
        })
        .collect();
    let n_rows = 150;
    let rows = random(&mut rng, n_rows * 6 * 64);
    let positions: Vec<u32> = (0..n_rows).map(|_| rng.random_range(0..1600)).collect();
    let queries = QueryRows { rows: &rows, positions: &positions, segments: None };
    let mask = AttentionMask { window: Some(1100), sinks: 4 };
    for form in CpuForm::available() {
        let attend = |queries: &QueryRows, runs: &[KvRun], n_threads: usize| {
            let (mut out, mut lse) = (vec![f32::NAN; queries.rows.len()], vec![f32::NAN; queries.positions.len() * 6]);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| causal(form, &shape, queries, runs, &mask, &mut out, Some(&mut lse))).unwrap();
            (out, lse)
        };
        let (out, lse) = attend(&queries, &[whole], 1);
        for n_threads in [1, 2, 4] {
            assert!(attend(&queries, &pages, n_threads) == (out.clone(), lse.clone()), "{form:?}, pages");
            for rows in [0..1, 7..9, 20..51, 148..150] {
                let some = attend(&range_rows(&queries, rows.clone()), &[whole], n_threads);
                let expected = (&out[rows.start * 384..rows.end * 384], &lse[rows.start * 6..rows.end * 6]);
                assert!((&some.0[..], &some.1[..]) == expected, "{form:?}, {n_threads} threads, rows {rows:?}");
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let mass = |runs: &[KvRun]| {
                let mut mass = vec![f32::NAN; 12];
                received(form, &shape, &queries, runs, &mask, &lse, &[0..1500, 3..900], &mut mass).unwrap();
                mass
            };
            assert_eq!(pool.install(|| mass(&pages)), mass(&[whole]));
        }
    }
}

#[test]
fn chosen_keys_of_each_head_are_those_of_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for (n_heads, n_kv_heads, head_dim) in [(9, 3, 64), (4, 2, 13), (3, 3, 32), (8, 1, 128)] {
        let shape = shape(n_heads, n_kv_heads, head_dim);
        let query = random(&mut rng, n_heads * head_dim);
        // For each head of keys runs of its own, one of them empty, some with weights, and for the last none at all.
        let owned: Vec<Vec<Owned>> = (0..n_kv_heads)
            .map(|head| runs(&mut rng, &shape, &[[16, 0, 100, 33], [1, 7, 300, 2], [0, 0, 0, 0]][head.min(2)], true))
            .collect();
        let lists: Vec<Vec<KvRun<'_>>> = owned.iter().map(|runs| runs.iter().map(Owned::run).collect()).collect();
        for form in CpuForm::available() {
            let (mut out, mut lse) = (vec![f32::NAN; query.len()], vec![f32::NAN; n_heads]);
            selected(form, &shape, &query, &lists, &mut out, &mut lse).unwrap();
            for (head, lse) in lse.iter().enumerate() {
                let last = [u32::MAX];
                let queries = QueryRows { rows: &query, positions: &last, segments: None };
                let kv_head = head * n_kv_heads / n_heads;
                let (expected, expected_lse) = cpu::attention(&shape, &queries, &lists[kv_head], &NO_MASK);
                for d in head * head_dim..(head + 1) * head_dim {
                    assert!((f64::from(out[d]) - expected[d]).abs() <= 2e-5, "{form:?}: {} {}", out[d], expected[d]);
                }
                let expected = expected_lse[head];
                assert!(f64::from(*lse) == expected || (f64::from(*lse) - expected).abs() <= 2e-5);
            }
        }
    }
}

#[test]
fn all_keys_chosen_for_each_head_give_the_bits_of_causal_attention() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let shape = shape(6, 2, 64);
    for lens in [&[1][..], &[64, 64, 64, 17], &[700, 64, 3000, 2300]] {
        let owned = runs(&mut rng, &shape, lens, false);
        let list: Vec<KvRun<'_>> = owned.iter().map(Owned::run).collect();
        let query = random(&mut rng, 6 * 64);
        let queries = QueryRows { rows: &query, positions: &[1 << 20], segments: None };
        for n_threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            for form in CpuForm::available() {
                let (mut a, mut b) = ((vec![0.0; query.len()], vec![0.0; 6]), (vec![1.0; query.len()], vec![1.0; 6]));
                pool.install(|| {
                    causal(form, &shape, &queries, &list, &NO_MASK, &mut a.0, Some(&mut a.1)).unwrap();
                    selected(form, &shape, &query, &[list.clone(), list.clone()], &mut b.0, &mut b.1).unwrap();
                });
                assert_eq!(a, b, "{form:?}");
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = AttentionShape { n_heads: 1, n_kv_heads: 1, head_dim: 1, scale: 1.0 };
    let run = KvRun {
        keys: KvSlice::F32(&[-1000.0, 1000.0, 999.0]),
        values: KvSlice::F32(&[5.0, 1.0, 2.0]),
        positions: &[0, 1, 2],
        segments: None,
        log_weights: None,
    };
    check(&shape, &QueryRows { rows: &[1.0, 1.0], positions: &[2, 0], segments: None }, &[run], &NO_MASK);
}

#[test]
fn parts_merge_to_the_whole() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let shape = shape(4, 2, 24);
    let owned = runs(&mut rng, &shape, &[70, 90, 40], false);
    let runs: Vec<_> = owned.iter().map(Owned::run).collect();
    // The first row sees the first run only, so that the other parts are empty to it.
    let positions = [10, 100, 199];
    let rows = random(&mut rng, 3 * 4 * 24);
    let queries = QueryRows { rows: &rows, positions: &positions, segments: None };
    let part = |runs: &[KvRun]| {
        let (mut out, mut lse) = (vec![0.0; rows.len()], vec![0.0; 12]);
        causal_attention(&shape, &queries, runs, &NO_MASK, &mut out, Some(&mut lse)).unwrap();
        (out, lse)
    };
    let (expected, expected_lse) = part(&runs);
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let (mut out, mut lse) = part(&[]);
        assert!(lse.iter().all(|&lse| lse == f32::NEG_INFINITY));
        for i in order {
            let (other, other_lse) = part(&runs[i..=i]);
            merge_attention(24, &mut out, &mut lse, &other, &other_lse).unwrap();
        }
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5);
        assert!(close(&out, &expected) && close(&lse, &expected_lse));
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let shape = AttentionShape { n_heads: 2, n_kv_heads: 1, head_dim: 2, scale: 1.0 };
    let run = KvRun {
        keys: KvSlice::F32(&[0.0; 2]),
        values: KvSlice::F16(&[0; 2]),
        positions: &[0],
        segments: None,
        log_weights: None,
    };
    let queries = QueryRows { rows: &[0.0; 4], positions: &[0], segments: None };
    let attend = |shape: &AttentionShape, queries: &QueryRows, run: KvRun| {
        causal_attention(shape, queries, &[run], &NO_MASK, &mut [0.0; 4], None)
    };
    let refused = |result: Result<()>, name: &str| matches!(result, Err(Error::Shape { what, .. }) if what == name);
    assert_eq!(attend(&shape, &queries, run), Ok(()));
    assert!(refused(attend(&AttentionShape { n_kv_heads: 3, ..shape }, &queries, run), "n_heads"));
    assert_eq!(attend(&AttentionShape { head_dim: 0, ..shape }, &queries, run), Err(Error::ZeroDimension));
    assert!(refused(attend(&shape, &QueryRows { rows: &[0.0; 3], ..queries }, run), "query rows"));
    assert!(refused(attend(&shape, &QueryRows { segments: Some(&[]), ..queries }, run), "query segments"));
    assert!(refused(attend(&shape, &queries, KvRun { keys: KvSlice::F32(&[]), ..run }), "keys"));
    assert!(refused(attend(&shape, &queries, KvRun { values: KvSlice::F32(&[]), ..run }), "values"));
    assert!(refused(attend(&shape, &queries, KvRun { log_weights: Some(&[]), ..run }), "log weights"));
    assert!(refused(causal_attention(&shape, &queries, &[run], &NO_MASK, &mut [0.0; 3], None), "out"));
    let mass = |range: Range<usize>, mass: &mut [f32]| {
        attention_mass(&shape, &queries, &[run], &NO_MASK, &[0.0; 2], &[range], mass)
    };
    assert_eq!(mass(0..2, &mut [0.0; 2]), Err(Error::Row { row: 2, n_rows: 1 }));
    assert!(refused(mass(0..1, &mut [0.0; 1]), "mass"));
    let encoder = AttentionShape { n_kv_heads: 2, ..shape };
    assert!(refused(bidirectional_attention(&shape, &[], &[], None, &mut []), "n_kv_heads"));
    assert!(refused(bidirectional_attention(&encoder, &[0.0; 24], &[2, 1], None, &mut [0.0; 8]), "qkv"));
    assert!(refused(bidirectional_attention(&encoder, &[0.0; 12], &[2, 1], None, &mut [0.0; 4]), "ends"));
    assert!(refused(merge_attention(2, &mut [0.0; 2], &mut [0.0; 1], &[0.0; 2], &[]), "other_lse"));
}
