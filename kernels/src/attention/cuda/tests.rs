use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::decode::n_splits;
use super::visits::{Bounds, Visits};
use super::*;
use crate::attention::{AttentionMask, KvRun, KvSlice, QueryRows, cpu};
use crate::device::cuda::emulation::on_each_generation;
use crate::device::cuda::{CudaDevice, F16, Real};
use crate::{RotaryEmbedding, RotaryPairs, RotaryScaling};

fn random<T: Real>(rng: &mut ChaCha8Rng, n: usize) -> Vec<T> {
    (0..n).map(|_| T::from_f32(rng.random_range(-2.0..2.0))).collect()
}

fn widened<T: Real>(numbers: &[T]) -> Vec<f32> {
    numbers.iter().map(|x| x.to_f32()).collect()
}

/// Shares are rounded to the type of the values, and so is the result.
#[track_caller]
fn check<T: Real>(got: &[T], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got.to_f32());
        assert!(got == *want || (got - want).abs() <= tolerance, "{what}, {i}: {got} is not {want}");
    }
}

fn check_bidirectional(device: &CudaDevice, n_heads: usize, dim: usize, ends: &[usize], radius: Option<usize>) {
    let mut rng = ChaCha8Rng::seed_from_u64((dim + ends.len()) as u64);
    let shape = AttentionShape { n_heads, n_kv_heads: n_heads, head_dim: dim, scale: 1.0 / (dim as f32).sqrt() };
    let n = ends.last().copied().unwrap_or(0);
    let qkv = random::<F16>(&mut rng, n * 3 * n_heads * dim);
    let mut want = vec![f32::NAN; n * n_heads * dim];
    crate::bidirectional_attention(&shape, &widened(&qkv), ends, radius, &mut want).unwrap();
    let mut got = device.filled::<F16>(0xff, want.len()).unwrap();
    let sequences = PackedSequences::new(device, ends).unwrap();
    bidirectional_attention(&shape, &device.upload(&qkv).unwrap(), &sequences, radius, &mut got).unwrap();
    let want: Vec<f64> = want.into_iter().map(f64::from).collect();
    check(&got.download().unwrap(), &want, 4e-3, &format!("heads of {dim}, radius {radius:?}"));
}

#[test]
fn a_device_attends_both_ways_as_the_processor_does() {
    on_each_generation(|device| {
        check_bidirectional(device, 2, 32, &[], None);
        check_bidirectional(device, 3, 32, &[1, 1, 18, 90], None);
        check_bidirectional(device, 1, 64, &[5, 205], None);
        check_bidirectional(device, 1, 64, &[150, 151], Some(20));
        check_bidirectional(device, 1, 128, &[70, 199], None);
        check_bidirectional(device, 1, 256, &[70], None);
        check_bidirectional(device, 1, 32, &[300], Some(0));
    });
}

/// A sequence whose tokens lie in pages with holes, in an arena with pages of others.
struct Paged {
    pages: Vec<u32>,
    positions: Vec<u32>,
    segments: Option<Vec<u32>>,
    log_weights: Option<Vec<f32>>,
    /// How far the keys of each page are moved on.
    turns: Option<(RotaryEmbedding, Vec<i64>)>,
    /// Slots that have a token, in order.
    filled: Vec<usize>,
}

impl Paged {
    fn new(rng: &mut ChaCha8Rng, pages: &[u32], n_positions: u32, segments: bool, weights: bool) -> Self {
        let n = pages.len() * PAGE_TOKENS;
        let positions: Vec<u32> = (0..n)
            .map(|_| if rng.random_range(0..5) == 0 { EMPTY_SLOT } else { rng.random_range(0..n_positions) })
            .collect();
        let filled = (0..n).filter(|&slot| positions[slot] != EMPTY_SLOT).collect();
        let segments = segments.then(|| (0..n).map(|slot| slot as u32 / 48 % 3).collect());
        let log_weights = weights.then(|| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect());
        Self { pages: pages.to_vec(), positions, segments, log_weights, turns: None, filled }
    }

    /// With keys that stand elsewhere than where they were computed, some of them.
    fn turned(self, dim: usize, pairs: RotaryPairs) -> Self {
        let embedding = RotaryEmbedding::new(dim, 1e4, pairs, &RotaryScaling::None).unwrap();
        let by = (0..self.pages.len() as i64).map(|page| [0, -700, -700, 33][page as usize % 4]).collect();
        Self { turns: Some((embedding, by)), ..self }
    }

    fn keys(&self) -> PagedKeys<'_> {
        PagedKeys {
            pages: &self.pages,
            positions: &self.positions,
            segments: self.segments.as_deref(),
            log_weights: self.log_weights.as_deref(),
            turns: self.turns.as_ref().map(|(embedding, by)| PageTurns { embedding, by }),
        }
    }

    /// What the filled slots hold, as a run.
    fn with_run<R>(&self, arena: &Arena, layer: usize, then: impl FnOnce(&KvRun) -> R) -> R {
        let rows = |all: &[F16], turned: bool| -> Vec<f32> {
            let mut rows = Vec::new();
            for &slot in &self.filled {
                for head in 0..arena.n_kv_heads {
                    let page = layer * arena.n_pages + self.pages[slot / 64] as usize;
                    let at = ((page * arena.n_kv_heads + head) * 64 + slot % 64) * arena.dim;
                    let mut row = widened(&all[at..at + arena.dim]);
                    if let Some((embedding, by)) = self.turns.as_ref().filter(|_| turned) {
                        embedding.shift(&mut row, 1, by[slot / 64]).unwrap();
                    }
                    rows.extend(row);
                }
            }
            rows
        };
        let of = |all: &[u32]| -> Vec<u32> { self.filled.iter().map(|&slot| all[slot]).collect() };
        let (keys, values, positions) = (rows(&arena.keys, true), rows(&arena.values, false), of(&self.positions));
        let segments = self.segments.as_deref().map(of);
        let weights: Option<Vec<f32>> =
            self.log_weights.as_ref().map(|all| self.filled.iter().map(|&slot| all[slot]).collect());
        then(&KvRun {
            keys: KvSlice::F32(&keys),
            values: KvSlice::F32(&values),
            positions: &positions,
            segments: segments.as_deref(),
            log_weights: weights.as_deref(),
        })
    }
}

struct Arena {
    pages: KvPages,
    keys: Vec<F16>,
    values: Vec<F16>,
    n_pages: usize,
    n_kv_heads: usize,
    dim: usize,
}

fn arena(device: &CudaDevice, rng: &mut ChaCha8Rng, n_pages: usize, n_kv_heads: usize, dim: usize) -> Arena {
    let mut pages = KvPages::new(device, 2, n_pages, n_kv_heads, dim).unwrap();
    let n = 2 * pages.layer_len();
    let (keys, values) = (random(rng, n), random(rng, n));
    pages.keys.write(0, &keys).unwrap();
    pages.values.write(0, &values).unwrap();
    Arena { pages, keys, values, n_pages, n_kv_heads, dim }
}

#[derive(Clone, Copy)]
struct Case {
    dim: usize,
    n_kv_heads: usize,
    group: usize,
    n_tokens: usize,
    mask: AttentionMask,
    segments: bool,
    weights: bool,
    turned: Option<RotaryPairs>,
}

fn check_causal(device: &CudaDevice, case: Case, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let Case { dim, n_kv_heads, group, n_tokens, mask, .. } = case;
    let n_heads = n_kv_heads * group;
    let shape = AttentionShape { n_heads, n_kv_heads, head_dim: dim, scale: 1.0 / (dim as f32).sqrt() };
    let arena = arena(device, &mut rng, 5, n_kv_heads, dim);
    let mut sequence = Paged::new(&mut rng, &[4, 0, 2], 200, case.segments, case.weights);
    if let Some(pairs) = case.turned {
        sequence = sequence.turned(dim, pairs);
    }
    // Queries that are turned are rounded once more.
    let tolerance = if case.turned.is_some() { 1.2e-2 } else { 4e-3 };
    let mut positions: Vec<u32> = (0..n_tokens).map(|_| rng.random_range(0..220)).collect();
    positions.sort_unstable();
    if let Some(first) = positions.first_mut() {
        *first = 0;
    }
    let segments: Option<Vec<u32>> = case.segments.then(|| (0..n_tokens).map(|t| [1, 2, u32::MAX][t % 3]).collect());
    let rows = random::<F16>(&mut rng, n_tokens * n_heads * dim);
    let wide = widened(&rows);
    let queries = QueryRows { rows: &wide, positions: &positions, segments: segments.as_deref() };
    let keys = sequence.keys();
    let plan = CausalPlan::new(&arena.pages, &shape, &positions, segments.as_deref(), &keys, &mask).unwrap();
    let rows = device.upload(&rows).unwrap();
    let mut out = device.filled::<F16>(0xff, rows.len()).unwrap();
    let mut lse = device.filled::<f32>(0xff, n_tokens * n_heads).unwrap();
    let mut mass = device.filled::<f32>(0xff, n_heads * plan.n_slots()).unwrap();
    for layer in 0..2 {
        causal_attention(&plan, &rows, &arena.pages, layer, &mut out, Some(&mut lse)).unwrap();
        attention_mass(&plan, &rows, &arena.pages, layer, &lse, &mut mass).unwrap();
        sequence.with_run(&arena, layer, |run| {
            let what = format!("heads of {dim}, layer {layer}, seed {seed}");
            let runs = [*run];
            let (want, want_lse) = cpu::attention(&shape, &queries, &runs, &mask);
            check(&out.download().unwrap(), &want, tolerance, &what);
            check(&lse.download().unwrap(), &want_lse, tolerance / 4.0, &format!("lse, {what}"));
            let ranges: Vec<Range<usize>> = (0..sequence.filled.len()).map(|key| key..key + 1).collect();
            let scores = cpu::scores(&shape, &queries, &runs, &mask);
            let of_filled = cpu::mass(&shape, &scores, &want_lse, &ranges);
            let mut want = vec![0.0; n_heads * plan.n_slots()];
            for head in 0..n_heads {
                for (key, &slot) in sequence.filled.iter().enumerate() {
                    want[head * plan.n_slots() + slot] = of_filled[head * ranges.len() + key];
                }
            }
            check(&mass.download().unwrap(), &want, tolerance / 2.0, &format!("mass, {what}"));
        });
    }
}

const PLAIN: Case = Case {
    dim: 64,
    n_kv_heads: 2,
    group: 3,
    n_tokens: 45,
    mask: AttentionMask { window: None, sinks: 0 },
    segments: false,
    weights: false,
    turned: None,
};

#[test]
fn a_device_attends_from_any_rows_as_the_reference_does() {
    on_each_generation(|device| {
        check_causal(device, PLAIN, 1);
        check_causal(device, Case { dim: 32, n_kv_heads: 1, group: 1, n_tokens: 140, segments: true, ..PLAIN }, 2);
        check_causal(device, Case { dim: 128, n_kv_heads: 1, group: 2, n_tokens: 3, weights: true, ..PLAIN }, 3);
        let mask = AttentionMask { window: Some(30), sinks: 4 };
        check_causal(device, Case { mask, group: 1, n_kv_heads: 1, segments: true, weights: true, ..PLAIN }, 4);
        check_causal(device, Case { n_tokens: 0, ..PLAIN }, 5);
        let (halves, neighbours) = (Some(RotaryPairs::Halves), Some(RotaryPairs::Neighbours));
        check_causal(device, Case { turned: halves, n_kv_heads: 1, n_tokens: 20, ..PLAIN }, 7);
        check_causal(device, Case { turned: neighbours, dim: 32, n_kv_heads: 1, ..PLAIN }, 8);
        check_causal(device, Case { turned: halves, dim: 128, n_kv_heads: 1, group: 1, n_tokens: 9, ..PLAIN }, 9);
        check_causal(device, Case { dim: 256, n_kv_heads: 1, group: 2, n_tokens: 20, ..PLAIN }, 6);
    });
}

fn check_decode(
    device: &CudaDevice,
    dim: usize,
    (n_kv_heads, group): (usize, usize),
    n_queries: usize,
    turned: Option<RotaryPairs>,
    seed: u64,
) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n_heads = n_kv_heads * group;
    let shape = AttentionShape { n_heads, n_kv_heads, head_dim: dim, scale: 1.0 / (dim as f32).sqrt() };
    let mask = AttentionMask { window: (seed % 2 == 1).then_some(50), sinks: 3 };
    let arena = arena(device, &mut rng, 9, n_kv_heads, dim);
    let pages: [&[u32]; 3] = [&[3], &[], &[8, 1, 0, 2, 7, 5]];
    let sequences = pages.map(|pages| {
        let sequence = Paged::new(&mut rng, pages, 100, false, false);
        match turned {
            Some(pairs) => sequence.turned(dim, pairs),
            None => sequence,
        }
    });
    let tolerance = if turned.is_some() { 1.2e-2 } else { 4e-3 };
    let positions: Vec<u32> = (0..3 * n_queries).map(|_| rng.random_range(0..120)).collect();
    let rows = random::<F16>(&mut rng, positions.len() * n_heads * dim);
    let keys: Vec<PagedKeys> = sequences.iter().map(Paged::keys).collect();
    let mut plan = DecodePlan::new(&arena.pages, &shape, n_queries, &positions, &keys, &mask).unwrap();
    let queries = device.upload(&rows).unwrap();
    let mut out = device.filled::<F16>(0xff, rows.len()).unwrap();
    let mut lse = device.filled::<f32>(0xff, positions.len() * n_heads).unwrap();
    decode_attention(&mut plan, &queries, &arena.pages, 1, &mut out, Some(&mut lse)).unwrap();
    let (out, lse) = (out.download().unwrap(), lse.download().unwrap());
    for (i, sequence) in sequences.iter().enumerate() {
        let of = i * n_queries..(i + 1) * n_queries;
        let cells = of.start * n_heads..of.end * n_heads;
        let wide = widened(&rows[cells.start * dim..cells.end * dim]);
        let queries = QueryRows { rows: &wide, positions: &positions[of], segments: None };
        let (want, want_lse) = sequence.with_run(&arena, 1, |run| cpu::attention(&shape, &queries, &[*run], &mask));
        let what = format!("sequence {i}, heads of {dim}, {} splits", plan.n_splits);
        check(&out[cells.start * dim..cells.end * dim], &want, tolerance, &what);
        check(&lse[cells], &want_lse, tolerance / 4.0, &what);
    }
}

#[test]
fn a_device_decodes_as_the_reference_does() {
    if let Some(device) = &CudaDevice::to_test() {
        check_decode(device, 64, (1, 3), 1, None, 1);
        check_decode(device, 32, (2, 4), 4, None, 2);
        check_decode(device, 128, (1, 1), 2, None, 3);
        check_decode(device, 256, (1, 2), 1, None, 4);
        check_decode(device, 64, (1, 2), 2, Some(RotaryPairs::Halves), 5);
        check_decode(device, 32, (1, 1), 1, Some(RotaryPairs::Neighbours), 6);
    }
}

#[test]
fn what_is_no_number_is_not_taken_for_a_row_that_sees_nothing() {
    on_each_generation(|device| {
        let (dim, n_heads) = (64, 2);
        let shape = AttentionShape { n_heads, n_kv_heads: 1, head_dim: dim, scale: 0.125 };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let arena = arena(device, &mut rng, 4, 1, dim);
        let sequence = Paged::new(&mut rng, &[3, 1, 0], 100, false, false);
        let mut rows = random::<F16>(&mut rng, n_heads * dim);
        rows[7] = F16::from_f32(f32::NAN);
        let rows = device.upload(&rows).unwrap();
        let check = |out: &Buffer<F16>, lse: &Buffer<f32>| {
            let (out, lse) = (widened(&out.download().unwrap()), lse.download().unwrap());
            assert!(out[..dim].iter().all(|x| x.is_nan()) && lse[0].is_nan(), "{out:?} {lse:?}");
            assert!(out[dim..].iter().all(|x| x.is_finite()) && lse[1].is_finite(), "{out:?} {lse:?}");
        };
        let mut out = device.filled::<F16>(0, n_heads * dim).unwrap();
        let mut lse = device.filled::<f32>(0, n_heads).unwrap();
        let none = AttentionMask { window: None, sinks: 0 };
        let plan = CausalPlan::new(&arena.pages, &shape, &[100], None, &sequence.keys(), &none).unwrap();
        causal_attention(&plan, &rows, &arena.pages, 0, &mut out, Some(&mut lse)).unwrap();
        check(&out, &lse);
        let mut plan = DecodePlan::new(&arena.pages, &shape, 1, &[100], &[sequence.keys()], &none).unwrap();
        decode_attention(&mut plan, &rows, &arena.pages, 0, &mut out, Some(&mut lse)).unwrap();
        check(&out, &lse);
    });
}

#[test]
fn what_kernels_do_not_serve_is_refused() {
    if let Some(device) = &CudaDevice::to_test() {
        let shape = AttentionShape { n_heads: 4, n_kv_heads: 1, head_dim: 64, scale: 0.125 };
        let pages = KvPages::new(device, 1, 2, 1, 64).unwrap();
        let positions = vec![0; 64];
        let keys = |pages: &'static [u32]| PagedKeys {
            pages,
            positions: &positions,
            segments: None,
            log_weights: None,
            turns: None,
        };
        let mask = AttentionMask::default();
        let plan = |page, scale: f32, at: u32| {
            CausalPlan::new(&pages, &AttentionShape { scale, ..shape }, &[at], None, &keys(page), &mask)
        };
        assert!(plan(&[1], 0.125, 0).is_ok());
        assert!(matches!(plan(&[2], 0.125, 0), Err(Error::Row { row: 2, n_rows: 2 })));
        assert!(matches!(plan(&[1], 0.0, 0), Err(Error::NotPositive { .. })));
        assert!(matches!(plan(&[1], 0.125, EMPTY_SLOT), Err(Error::Row { .. })));
        assert!(plan(&[0, 1], 0.125, 0).is_err(), "positions of one page");
        let long = AttentionShape { head_dim: 256, ..shape };
        let long_pages = KvPages::new(device, 1, 2, 1, 256).unwrap();
        let embedding = RotaryEmbedding::new(256, 1e4, RotaryPairs::Halves, &RotaryScaling::None).unwrap();
        let turned = |by: &[i64]| {
            let turns = Some(PageTurns { embedding: &embedding, by });
            CausalPlan::new(&long_pages, &long, &[0], None, &PagedKeys { turns, ..keys(&[0]) }, &mask).map(|_| ())
        };
        assert!(matches!(turned(&[5]), Err(Error::Unsupported { found: 256, .. })));
        assert!(matches!(turned(&[]), Err(Error::Shape { .. })));
        let decode = |n_queries| {
            DecodePlan::new(&pages, &shape, n_queries, &vec![0; n_queries], &[keys(&[0])], &mask).map(|_| ())
        };
        assert_eq!(decode(4), Ok(()));
        assert!(matches!(decode(5), Err(Error::Unsupported { found: 20, .. })));
        let plan = plan(&[1], 0.125, 0).unwrap();
        let (rows, mut out) = (device.filled::<F16>(0, 256).unwrap(), device.filled::<F16>(0, 256).unwrap());
        let refused = causal_attention(&plan, &rows, &pages, 1, &mut out, None);
        assert_eq!(refused, Err(Error::Row { row: 1, n_rows: 1 }));
    }
}

/// Every pair of a row and a slot that the mask allows is visited, and where no mask is applied all are allowed.
#[test]
fn visits_miss_no_key_that_is_seen() {
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n_keys = rng.random_range(1..5) * PAGE_TOKENS;
        let ordered = rng.random_range(0..2) == 0;
        let positions: Vec<u32> = (0..n_keys as u32)
            .map(|slot| match (ordered, rng.random_range(0..300)) {
                (_, 0) => EMPTY_SLOT,
                (true, _) => slot,
                (false, position) => position,
            })
            .collect();
        let segments: Vec<u32> = (0..n_keys).map(|slot| (slot / 70 % 3) as u32).collect();
        let rows: Vec<u32> = (0..rng.random_range(1..300)).map(|row| row + seed as u32).collect();
        let row_segments: Vec<u32> =
            (0..rows.len()).map(|row| [1, 2, u32::MAX][(row / 140 + seed as usize) % 3]).collect();
        let mask = AttentionMask {
            window: (rng.random_range(0..2) == 0).then(|| rng.random_range(1..200)),
            sinks: rng.random_range(0..5),
        };
        let tiles: Vec<Bounds> = rows
            .chunks(TILE_ROWS)
            .zip(row_segments.chunks(TILE_ROWS))
            .map(|(positions, segments)| Bounds::of(positions, segments))
            .collect();
        let pages: Vec<Option<Bounds>> = positions
            .chunks(PAGE_TOKENS)
            .zip(segments.chunks(PAGE_TOKENS))
            .map(|(positions, segments)| Bounds::of_page(positions, segments))
            .collect();
        let weighted = seed % 5 == 0;
        let Visits { starts, visits, mut order } = Visits::new(&tiles, &pages, &mask, weighted);
        for (row, (&position, &segment)) in rows.iter().zip(&row_segments).enumerate() {
            let tile = row / TILE_ROWS;
            let visits = &visits[starts[tile] as usize..starts[tile + 1] as usize];
            assert!(visits.is_sorted());
            for (slot, (&key, &key_segment)) in positions.iter().zip(&segments).enumerate() {
                let seen = key != EMPTY_SLOT
                    && key <= position
                    && (mask.window.is_none_or(|window| position - key < window) || key < mask.sinks)
                    && (key_segment == 0 || key_segment == segment || segment == u32::MAX);
                match visits.iter().find(|&&visit| visit as usize / 2 == slot / PAGE_TOKENS) {
                    None => assert!(!seen, "seed {seed}, row {row}, slot {slot}"),
                    Some(visit) => {
                        assert!(seen && !weighted || visit % 2 == 1, "seed {seed}, row {row}, slot {slot}");
                    }
                }
            }
        }
        let lengths: Vec<u32> = order.iter().map(|&t| starts[t as usize + 1] - starts[t as usize]).collect();
        assert!(lengths.is_sorted_by(|a, b| a >= b));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..tiles.len() as u32));
    }
}

#[test]
fn pages_before_all_rows_are_visited_without_a_mask() {
    let rows = Bounds::of(&[128, 200], &[u32::MAX]);
    let page = |positions: Range<u32>| Bounds::of_page(&positions.collect::<Vec<_>>(), &[0]);
    let pages = [page(0..64), page(64..128), page(128..192), page(256..320), None];
    let visits = Visits::new(&[rows], &pages, &AttentionMask::default(), false);
    assert_eq!(visits, Visits { starts: vec![0, 3], visits: vec![0, 2, 5], order: vec![0] });
}

#[test]
fn splits_fill_the_device_and_have_a_page_at_least() {
    assert_eq!(n_splits(1, 1000, 132), 264);
    assert_eq!(n_splits(8, 1000, 132), 33);
    assert_eq!(n_splits(8, 3, 132), 3);
    assert_eq!(n_splits(1000, 1000, 132), 1);
    assert_eq!(n_splits(0, 0, 132), 1);
}
