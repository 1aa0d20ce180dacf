//! Attention: softmax of scores, times values, never with a matrix of scores in memory.
//!
//! Three shapes of work share one arithmetic. An encoder lets every token of a sequence see every other
//! ([`bidirectional_attention`], packed: no padding between sequences). A decoder's prefill and its single steps let
//! chosen query rows see keys that lie in runs ([`causal_attention`]), a single step also keys that are chosen for each
//! head ([`selected_attention`]). Partial results over disjoint keys are merged
//! by their log-sum-exp ([`merge_attention`]).
//!
//! A row's result depends on its keys and their indices alone, to the bit: not on the other rows of a call, on how keys
//! are cut into runs, or on threads. Forms for different instruction sets differ in the last bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod exp;
mod merge;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod selected;
mod simd;
#[cfg(test)]
mod tests;
mod tile;

use std::ops::Range;

use rayon::prelude::*;

pub use self::merge::merge_attention;
pub use self::selected::selected_attention;
use self::simd::{Portable, Singles};
use self::tile::{BLOCK, BlockBounds, Job, Scratch, Source, State, Visibility};
use crate::device::CpuForm;
use crate::{Error, Result};

/// Heads and their size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and values, a divisor of `n_heads`: head `h` of the queries reads `h · n_kv_heads / n_heads`.
    pub n_kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
    /// What a product of query and key is multiplied by, most often `1 / √head_dim`.
    pub scale: f32,
}

/// Numbers of keys or values as they are stored.
#[derive(Clone, Copy, Debug)]
pub enum KvSlice<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// The bits of IEEE half-precision numbers.
    F16(&'a [u16]),
}

impl KvSlice<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(bits) => bits.len(),
        }
    }

    /// Writes some of the numbers to `to`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when `to` is not as long; [`Error::Row`] when there are not so many numbers.
    pub fn read(&self, numbers: Range<usize>, to: &mut [f32]) -> Result<()> {
        check_length("numbers", to.len(), numbers.len())?;
        let missing = Error::Row { row: numbers.end, n_rows: self.len() };
        match self {
            Self::F32(from) => to.copy_from_slice(from.get(numbers).ok_or(missing)?),
            Self::F16(bits) => crate::from_f16(bits.get(numbers).ok_or(missing)?, to)?,
        }
        Ok(())
    }
}

/// Keys and values of a run of tokens: a page or a chunk of a cache. It may be empty.
#[derive(Clone, Copy, Debug)]
pub struct KvRun<'a> {
    /// `[n, n_kv_heads · head_dim]`, with the rotation of their positions.
    pub keys: KvSlice<'a>,
    /// `[n, n_kv_heads · head_dim]`.
    pub values: KvSlice<'a>,
    /// Where each token stands, in any order.
    pub positions: &'a [u32],
    /// The segment of each token; 0, which every query sees, when there is none.
    pub segments: Option<&'a [u32]>,
    /// What is added to the scores of each token, in nats; 0 when there is none.
    pub log_weights: Option<&'a [f32]>,
}

/// Which keys a query sees of those that do not stand after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionMask {
    /// A key is seen when `query position − key position < window`.
    pub window: Option<u32>,
    /// Keys at positions below this are seen whatever the window.
    pub sinks: u32,
}

/// Query rows: any subset of the tokens in any order.
#[derive(Clone, Copy, Debug)]
pub struct QueryRows<'a> {
    /// `[n_rows, n_heads · head_dim]`, with the rotation of their positions.
    pub rows: &'a [f32],
    /// Where each row stands.
    pub positions: &'a [u32],
    /// A row sees keys of segment 0 and of its own; one of segment `u32::MAX` sees all, and so do all when there is none.
    pub segments: Option<&'a [u32]>,
}

/// Query tokens of one task: with three heads a key head, 64 groups of rows share what was packed.
const TOKENS: usize = 128;
/// Blocks of one task when few rows meet many keys.
const BLOCKS: usize = 8;
/// Multiplications that are worth a second thread: about 100 µs.
const WORTH_THREADS: usize = 4_000_000;

/// Attends within packed sequences: `out[t, h] = Σ_u softmax_u(scale · q[t, h] · k[u, h]) v[u, h]` over the tokens `u`
/// of `t`'s sequence, and of these over the ones with `|t − u| ≤ radius` when there is one.
///
/// `qkv` is `[n_tokens, 3 · n_heads · head_dim]`: a token's queries, then its keys, then its values. `ends[b]` is one
/// past the last row of sequence `b`; sequences follow one another without gaps and may be empty. `out` is
/// `[n_tokens, n_heads · head_dim]`. All numbers are finite.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit, `ends` descends or does not end at `n_tokens`, or `n_kv_heads` is not
/// `n_heads`; [`Error::ZeroDimension`] when there are no heads or no components.
pub fn bidirectional_attention(
    shape: &AttentionShape,
    qkv: &[f32],
    ends: &[usize],
    radius: Option<usize>,
    out: &mut [f32],
) -> Result<()> {
    bidirectional(CpuForm::best(), shape, qkv, ends, radius, false, out)
}

/// [`bidirectional_attention`] for numbers that are no more exact than bf16: where a processor multiplies pairs of bf16
/// faster than `f32` ([`CpuForm::Avx512Bf16`]), queries, keys, values and shares are rounded to it, with sums in `f32`.
///
/// # Errors
///
/// As [`bidirectional_attention`].
pub fn bidirectional_attention_bf16(
    shape: &AttentionShape,
    qkv: &[f32],
    ends: &[usize],
    radius: Option<usize>,
    out: &mut [f32],
) -> Result<()> {
    bidirectional(CpuForm::best(), shape, qkv, ends, radius, true, out)
}

/// Attends from query rows to the keys of all `runs`, which are numbered through:
/// `out[r, h] = Σ_j softmax_j(scale · q[r, h] · k[j] + log_weight[j]) v[j]` over the keys `j` that row `r` sees.
///
/// A key is seen when it does not stand after the row, [`AttentionMask`] allows it, and the segments do
/// ([`QueryRows::segments`]). `out` is `[n_rows, n_heads · head_dim]`; `lse`, `[n_rows, n_heads]`, receives
/// `ln Σ_j exp(score)`. A row that sees no key has an output of 0 and `lse` of −∞. Keys and values are finite.
///
/// Few rows over many keys are as welcome as many rows: keys and values are read once for every 128 rows.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit or `n_kv_heads` does not divide `n_heads`; [`Error::ZeroDimension`] when
/// there are no heads or no components.
pub fn causal_attention(
    shape: &AttentionShape,
    queries: &QueryRows,
    runs: &[KvRun],
    mask: &AttentionMask,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
) -> Result<()> {
    causal(CpuForm::best(), shape, queries, runs, mask, out, lse)
}

/// Measures how much attention ranges of keys receive:
/// `mass[h, i] = Σ_r Σ_{j in ranges[i]} exp(score[r, h, j] − lse[r, h])`.
///
/// The scores are those of [`causal_attention`], and `lse` is what it gave for the same rows and keys (or for more
/// keys). Ranges number the keys of all runs through, in any order; they may overlap. `mass` is `[n_heads, n_ranges]`.
///
/// # Errors
///
/// As [`causal_attention`]; [`Error::Row`] when a range ends after the last key.
pub fn attention_mass(
    shape: &AttentionShape,
    queries: &QueryRows,
    runs: &[KvRun],
    mask: &AttentionMask,
    lse: &[f32],
    ranges: &[Range<usize>],
    mass: &mut [f32],
) -> Result<()> {
    received(CpuForm::best(), shape, queries, runs, mask, lse, ranges, mass)
}

fn bidirectional(
    form: CpuForm,
    shape: &AttentionShape,
    qkv: &[f32],
    ends: &[usize],
    radius: Option<usize>,
    rounds: bool,
    out: &mut [f32],
) -> Result<()> {
    check_shape(shape)?;
    check_length("n_kv_heads", shape.n_kv_heads, shape.n_heads)?;
    let width = shape.n_heads * shape.head_dim;
    let n_tokens = ends.last().copied().unwrap_or(0);
    check_length("qkv", qkv.len(), n_tokens * 3 * width)?;
    check_length("out", out.len(), n_tokens * width)?;
    if let Some(pair) = ends.windows(2).find(|pair| pair[1] < pair[0]) {
        return Err(Error::Shape { what: "ends", expected: pair[0], found: pair[1] });
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let mut jobs = Vec::new();
    for (start, &end) in starts.zip(ends).filter(|(start, end)| start < *end) {
        let rows = &qkv[start * 3 * width..end * 3 * width];
        let source = Source {
            keys: KvSlice::F32(&rows[width..]),
            values: KvSlice::F32(&rows[2 * width..]),
            start: 0,
            len: end - start,
        };
        let job = Job {
            group: 1,
            dim: shape.head_dim,
            scale: shape.scale * std::f32::consts::LOG2_E,
            queries: rows,
            n_tokens: end - start,
            query_stride: 3 * width,
            sources: vec![source],
            kv_stride: 3 * width,
            n_keys: end - start,
            visibility: None,
            radius,
            log_weights: None,
            rounds,
        };
        jobs.push((start, job));
    }
    let out = Cells::new(out);
    let task = |scratch: &mut (Scratch, State), (start, job): &(usize, Job), head: usize| {
        for tokens in tiles(job.n_tokens) {
            let (scratch, state) = scratch;
            state.reset(tokens.len(), job.dim);
            attend_tile(form, job, head, tokens.clone(), job.blocks_of(&tokens), scratch, state);
            for (row, token) in tokens.enumerate() {
                // SAFETY: no other task has this token of this sequence and this head.
                state.finish(row, unsafe { out.at((start + token) * width + head * job.dim, job.dim) });
            }
        }
    };
    let seen = |job: &Job| radius.map_or(job.n_keys, |radius| job.n_keys.min(radius.saturating_mul(2)));
    let work: usize = jobs.iter().map(|(_, job)| 2 * job.n_keys * seen(job) * width).sum();
    if rayon::current_num_threads() == 1 || work < WORTH_THREADS {
        let mut scratch = Default::default();
        for job in &jobs {
            (0..shape.n_heads).for_each(|head| task(&mut scratch, job, head));
        }
    } else {
        let tasks = jobs.len() * shape.n_heads;
        (0..tasks).into_par_iter().for_each_init(Default::default, |scratch, i| {
            task(scratch, &jobs[i / shape.n_heads], i % shape.n_heads);
        });
    }
    Ok(())
}

fn causal(
    form: CpuForm,
    shape: &AttentionShape,
    queries: &QueryRows,
    runs: &[KvRun],
    mask: &AttentionMask,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
) -> Result<()> {
    let job = job_of(shape, queries, runs, mask)?;
    check_length("out", out.len(), queries.rows.len())?;
    if let Some(lse) = &lse {
        check_length("lse", lse.len(), job.n_tokens * shape.n_heads)?;
    }
    let out = Cells::new(out);
    let lse = lse.map(Cells::new);
    let finish = |state: &mut State, tokens: Range<usize>, kv_head: usize| {
        for row in 0..tokens.len() * job.group {
            let cell = (tokens.start + row / job.group) * shape.n_heads + kv_head * job.group + row % job.group;
            // SAFETY: no other task has this token and this head.
            let row_lse = state.finish(row, unsafe { out.at(cell * job.dim, job.dim) });
            if let Some(lse) = &lse {
                // SAFETY: as before.
                unsafe { lse.at(cell, 1)[0] = row_lse };
            }
        }
    };
    let tiles: Vec<_> = tiles(job.n_tokens).collect();
    let whole = |(scratch, state): &mut (Scratch, State), tokens: Range<usize>, kv_head: usize| {
        state.reset(tokens.len() * job.group, job.dim);
        attend_tile(form, &job, kv_head, tokens.clone(), 0..job.n_blocks(), scratch, state);
        finish(state, tokens, kv_head);
    };
    let n_threads = rayon::current_num_threads();
    let n_tasks = tiles.len() * shape.n_kv_heads;
    if n_threads == 1 || job.n_tokens * job.n_keys * shape.n_heads * job.dim * 2 < WORTH_THREADS {
        let mut scratch = Scratch::default();
        let mut states: Vec<State> = (0..shape.n_kv_heads).map(|_| State::default()).collect();
        for tokens in &tiles {
            states.iter_mut().for_each(|state| state.reset(tokens.len() * job.group, job.dim));
            // All heads of some blocks before the next, since they lie side by side in memory.
            for first in (0..job.n_blocks()).step_by(BLOCKS) {
                let blocks = first..(first + BLOCKS).min(job.n_blocks());
                for (kv_head, state) in states.iter_mut().enumerate() {
                    attend_tile(form, &job, kv_head, tokens.clone(), blocks.clone(), &mut scratch, state);
                }
            }
            for (kv_head, state) in states.iter_mut().enumerate() {
                finish(state, tokens.clone(), kv_head);
            }
        }
    } else if tiles.len() > 1 || n_tasks >= 4 * n_threads {
        (0..n_tasks).into_par_iter().for_each_init(Default::default, |scratch, i| {
            whole(scratch, tiles[i / shape.n_kv_heads].clone(), i % shape.n_kv_heads);
        });
    } else if let Some(tokens) = tiles.first() {
        // The keys are cut too. Each block keeps a state of its own until they are merged in order, as `attend` does.
        let n_cuts = job.n_blocks().div_ceil(BLOCKS);
        let parts = (0..shape.n_kv_heads * n_cuts).into_par_iter().map_init(Scratch::default, |scratch, i| {
            let first = i % n_cuts * BLOCKS;
            let blocks = first..(first + BLOCKS).min(job.n_blocks());
            blocks
                .map(|block| {
                    let mut state = State::default();
                    state.reset(tokens.len() * job.group, job.dim);
                    attend_tile(form, &job, i / n_cuts, tokens.clone(), block..block + 1, scratch, &mut state);
                    state
                })
                .collect::<Vec<_>>()
        });
        let mut parts = parts.collect::<Vec<_>>().into_iter().flatten();
        for kv_head in 0..shape.n_kv_heads {
            let mut state = State::default();
            state.reset(tokens.len() * job.group, job.dim);
            for mut part in parts.by_ref().take(job.n_blocks()) {
                merge_states(form, &mut state, &mut part);
            }
            finish(&mut state, tokens.clone(), kv_head);
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the arguments of `attention_mass`")]
fn received(
    form: CpuForm,
    shape: &AttentionShape,
    queries: &QueryRows,
    runs: &[KvRun],
    mask: &AttentionMask,
    lse: &[f32],
    ranges: &[Range<usize>],
    mass: &mut [f32],
) -> Result<()> {
    let job = job_of(shape, queries, runs, mask)?;
    check_length("lse", lse.len(), job.n_tokens * shape.n_heads)?;
    check_length("mass", mass.len(), shape.n_heads * ranges.len())?;
    if let Some(range) = ranges.iter().find(|range| range.end > job.n_keys) {
        return Err(Error::Row { row: range.end, n_rows: job.n_keys });
    }
    let mut wanted = vec![false; job.n_blocks()];
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        wanted[range.start / BLOCK..=(range.end - 1) / BLOCK].fill(true);
    }
    // Sums of columns, [n_blocks, n_kv_heads, group, BLOCK]: a number for each head and key, not for each row.
    let mut sums = vec![0.0f32; job.n_blocks() * shape.n_heads * BLOCK];
    let task = |scratch: &mut Scratch, i: usize, sums: &mut [f32]| {
        let (block, kv_head) = (i / shape.n_kv_heads, i % shape.n_kv_heads);
        if wanted[block] {
            for tokens in tiles(job.n_tokens) {
                mass_tile(form, &job, kv_head, tokens, block, lse, scratch, sums);
            }
        }
    };
    let columns = job.group * BLOCK;
    if rayon::current_num_threads() == 1 || job.n_tokens * job.n_keys * shape.n_heads * job.dim < WORTH_THREADS {
        let mut scratch = Scratch::default();
        sums.chunks_exact_mut(columns).enumerate().for_each(|(i, sums)| task(&mut scratch, i, sums));
    } else {
        let chunks = sums.par_chunks_exact_mut(columns).enumerate();
        chunks.for_each_init(Scratch::default, |scratch, (i, sums)| task(scratch, i, sums));
    }
    for head in 0..shape.n_heads {
        for (i, range) in ranges.iter().enumerate() {
            let column = |key: usize| sums[(key / BLOCK * shape.n_heads + head) * BLOCK + key % BLOCK];
            mass[head * ranges.len() + i] = range.clone().map(|key| f64::from(column(key))).sum::<f64>() as f32;
        }
    }
    Ok(())
}

/// Cuts tokens into tiles of [`TOKENS`].
fn tiles(n_tokens: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n_tokens).step_by(TOKENS).map(move |start| start..(start + TOKENS).min(n_tokens))
}

fn check_length(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::Shape { what, expected, found }) }
}

fn check_shape(shape: &AttentionShape) -> Result<()> {
    if shape.n_heads == 0 || shape.n_kv_heads == 0 || shape.head_dim == 0 {
        return Err(Error::ZeroDimension);
    }
    check_length("n_heads", shape.n_heads, shape.n_heads.next_multiple_of(shape.n_kv_heads))
}

/// Checks every length and gathers what tiles ask of a key or a block.
fn job_of<'a>(
    shape: &AttentionShape,
    queries: &QueryRows<'a>,
    runs: &[KvRun<'a>],
    mask: &'a AttentionMask,
) -> Result<Job<'a>> {
    check_shape(shape)?;
    let n_tokens = queries.positions.len();
    check_length("query rows", queries.rows.len(), n_tokens * shape.n_heads * shape.head_dim)?;
    check_length("query segments", queries.segments.map_or(n_tokens, <[u32]>::len), n_tokens)?;
    let kv_width = shape.n_kv_heads * shape.head_dim;
    let n_keys = runs.iter().map(|run| run.positions.len()).sum();
    let mut sources = Vec::with_capacity(runs.len());
    let mut key_positions = Vec::with_capacity(n_keys);
    for run in runs {
        let len = run.positions.len();
        check_length("keys", run.keys.len(), len * kv_width)?;
        check_length("values", run.values.len(), len * kv_width)?;
        check_length("key segments", run.segments.map_or(len, <[u32]>::len), len)?;
        check_length("log weights", run.log_weights.map_or(len, <[f32]>::len), len)?;
        if len > 0 {
            sources.push(Source { keys: run.keys, values: run.values, start: key_positions.len(), len });
            key_positions.extend_from_slice(run.positions);
        }
    }
    let key_segments = runs.iter().any(|run| run.segments.is_some()).then(|| {
        let zeros = |n| std::iter::repeat_n(0, n);
        let mut all = Vec::with_capacity(n_keys);
        for run in runs {
            match run.segments {
                Some(segments) => all.extend_from_slice(segments),
                None => all.extend(zeros(run.positions.len())),
            }
        }
        all
    });
    let log_weights = log_weights_of(runs, n_keys);
    let bounds = |numbers: &[u32]| {
        numbers.iter().fold((u32::MAX, 0), |(low, high), &number| (low.min(number), high.max(number)))
    };
    let mut blocks: Vec<BlockBounds> = key_positions
        .chunks(BLOCK)
        .map(|positions| BlockBounds { positions: bounds(positions), segments: (0, 0) })
        .collect();
    for (block, segments) in blocks.iter_mut().zip(key_segments.iter().flat_map(|segments| segments.chunks(BLOCK))) {
        block.segments = bounds(segments);
    }
    Ok(Job {
        group: shape.n_heads / shape.n_kv_heads,
        dim: shape.head_dim,
        scale: shape.scale * std::f32::consts::LOG2_E,
        queries: queries.rows,
        n_tokens,
        query_stride: shape.n_heads * shape.head_dim,
        sources,
        kv_stride: kv_width,
        n_keys,
        visibility: Some(Visibility {
            mask,
            query_positions: queries.positions,
            query_segments: queries.segments,
            key_positions,
            key_segments,
            blocks,
        }),
        radius: None,
        log_weights,
        rounds: false,
    })
}

/// What is added to the scores of each key of some runs, in base 2; nothing where no run adds anything.
fn log_weights_of(runs: &[KvRun<'_>], n_keys: usize) -> Option<Vec<f32>> {
    runs.iter().any(|run| run.log_weights.is_some()).then(|| {
        let mut all = Vec::with_capacity(n_keys);
        for run in runs {
            match run.log_weights {
                Some(weights) => all.extend(weights.iter().map(|weight| weight * std::f32::consts::LOG2_E)),
                None => all.extend(std::iter::repeat_n(0.0, run.positions.len())),
            }
        }
        all
    })
}

/// [`tile::attend`] in the form's instructions. The job was checked, `form` is available, `state` was reset.
fn attend_tile(
    form: CpuForm,
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    blocks: Range<usize>,
    scratch: &mut Scratch,
    state: &mut State,
) {
    match form {
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx512Bf16 if job.rounds => {
            // SAFETY: the form is chosen only where the processor has AVX-512F, BW, DQ, VL and BF16; the job was checked.
            unsafe { avx512::attend_tile_in_bf16(job, kv_head, tokens, blocks, scratch, state) }
        }
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => {
            // SAFETY: these forms are chosen only where the processor has AVX-512F, BW, DQ and VL; the job was checked.
            unsafe { avx512::attend_tile(job, kv_head, tokens, blocks, scratch, state) }
        }
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx2 => {
            // SAFETY: the form is chosen only where the processor has AVX2, FMA and F16C; the job was checked.
            unsafe { avx2::attend_tile(job, kv_head, tokens, blocks, scratch, state) }
        }
        #[cfg(target_arch = "aarch64")]
        CpuForm::Neon | CpuForm::NeonDotprod => {
            // SAFETY: these forms are chosen only where the processor has NEON; the job was checked.
            unsafe { neon::attend_tile(job, kv_head, tokens, blocks, scratch, state) }
        }
        // SAFETY: any processor runs this; the job was checked.
        _ => unsafe { tile::attend::<Portable, Singles>(job, kv_head, tokens, blocks, scratch, state) },
    }
}

/// [`tile::mass_of_block`] in the form's instructions. The job was checked and `form` is available.
#[expect(clippy::too_many_arguments, reason = "those of the tile, which are loose so that they are reused")]
fn mass_tile(
    form: CpuForm,
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    block: usize,
    lse: &[f32],
    scratch: &mut Scratch,
    sums: &mut [f32],
) {
    match form {
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => {
            // SAFETY: these forms are chosen only where the processor has AVX-512F, BW, DQ and VL; the job was checked.
            unsafe { avx512::mass_tile(job, kv_head, tokens, block, lse, scratch, sums) }
        }
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx2 => {
            // SAFETY: the form is chosen only where the processor has AVX2, FMA and F16C; the job was checked.
            unsafe { avx2::mass_tile(job, kv_head, tokens, block, lse, scratch, sums) }
        }
        #[cfg(target_arch = "aarch64")]
        CpuForm::Neon | CpuForm::NeonDotprod => {
            // SAFETY: these forms are chosen only where the processor has NEON; the job was checked.
            unsafe { neon::mass_tile(job, kv_head, tokens, block, lse, scratch, sums) }
        }
        // SAFETY: any processor runs this; the job was checked.
        _ => unsafe { tile::mass_of_block::<Portable>(job, kv_head, tokens, block, lse, scratch, sums) },
    }
}

/// [`tile::merge_states`] in the form's instructions. `form` is available.
fn merge_states(form: CpuForm, state: &mut State, block: &mut State) {
    match form {
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => {
            // SAFETY: these forms are chosen only where the processor has AVX-512F, BW, DQ and VL.
            unsafe { avx512::merge_states(state, block) }
        }
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx2 => {
            // SAFETY: the form is chosen only where the processor has AVX2, FMA and F16C.
            unsafe { avx2::merge_states(state, block) }
        }
        #[cfg(target_arch = "aarch64")]
        CpuForm::Neon | CpuForm::NeonDotprod => {
            // SAFETY: these forms are chosen only where the processor has NEON.
            unsafe { neon::merge_states(state, block) }
        }
        // SAFETY: any processor runs this.
        _ => unsafe { tile::merge_states::<Portable>(state, block) },
    }
}

/// An output of which each task writes cells of its own.
struct Cells(*mut f32, usize);

// SAFETY: a cell is written by one task only, which is what `at` asks for.
unsafe impl Sync for Cells {}

impl Cells {
    fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr(), out.len())
    }

    /// # Safety
    ///
    /// No other reference to these cells lives.
    #[expect(clippy::mut_from_ref, reason = "cells are disjoint by the caller's promise")]
    unsafe fn at(&self, start: usize, n: usize) -> &mut [f32] {
        assert!(start + n <= self.1, "a cell is in the output");
        // SAFETY: the cells are in the output, and the caller has no other reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), n) }
    }
}
