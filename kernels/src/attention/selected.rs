//! Attention of one row to keys of its own for each head of keys.

use std::ops::Range;

use rayon::prelude::*;

use super::tile::{Job, Scratch, Source, State};
use super::{
    AttentionShape, BLOCKS, KvRun, WORTH_THREADS, attend_tile, check_length, check_shape, log_weights_of, merge_states,
};
use crate::Result;
use crate::device::CpuForm;

/// Lets one query row attend to keys that were chosen for each head of keys apart:
/// `out[h] = Σ_j softmax_j(scale · q[h] · k[j] + log_weight[j]) v[j]` over the keys `j` of `runs[kv]`, which are
/// numbered through, `kv` being the head of keys that head `h` reads.
///
/// Every key of the runs is seen: positions and segments are not looked at. `query` and `out` are
/// `[n_heads · head_dim]`, `lse`, `[n_heads]`, receives `ln Σ_j exp(score)`, and `runs` has a list for each head of
/// keys. A head without keys has an output of 0 and `lse` of −∞. Where all lists hold the keys that a row of
/// [`causal_attention`](super::causal_attention) sees, and that row sees all its keys, the results have the same bits.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) when a length does not fit or `n_kv_heads` does not divide `n_heads`; [`Error::ZeroDimension`](crate::Error::ZeroDimension) when
/// there are no heads or no components.
pub fn selected_attention(
    shape: &AttentionShape,
    query: &[f32],
    runs: &[Vec<KvRun<'_>>],
    out: &mut [f32],
    lse: &mut [f32],
) -> Result<()> {
    selected(CpuForm::best(), shape, query, runs, out, lse)
}

pub(super) fn selected(
    form: CpuForm,
    shape: &AttentionShape,
    query: &[f32],
    runs: &[Vec<KvRun<'_>>],
    out: &mut [f32],
    lse: &mut [f32],
) -> Result<()> {
    check_shape(shape)?;
    check_length("query", query.len(), shape.n_heads * shape.head_dim)?;
    check_length("out", out.len(), query.len())?;
    check_length("lse", lse.len(), shape.n_heads)?;
    check_length("lists of runs", runs.len(), shape.n_kv_heads)?;
    let jobs = runs.iter().map(|runs| job_of(shape, query, runs)).collect::<Result<Vec<Job<'_>>>>()?;
    let group = shape.n_heads / shape.n_kv_heads;
    let outs = out.chunks_exact_mut(group * shape.head_dim).zip(lse.chunks_exact_mut(group));
    let finish = |state: &mut State, (out, lse): (&mut [f32], &mut [f32])| {
        for (row, (out, lse)) in out.chunks_exact_mut(shape.head_dim).zip(lse).enumerate() {
            *lse = state.finish(row, out);
        }
    };
    let work: usize = jobs.iter().map(|job| 2 * job.n_keys * group * job.dim).sum();
    if rayon::current_num_threads() == 1 || work < WORTH_THREADS {
        let (mut scratch, mut state) = (Scratch::default(), State::default());
        for ((kv_head, job), out) in jobs.iter().enumerate().zip(outs) {
            state.reset(group, job.dim);
            attend_tile(form, job, kv_head, 0..1, 0..job.n_blocks(), &mut scratch, &mut state);
            finish(&mut state, out);
        }
        return Ok(());
    }
    // The keys are cut; each block keeps a state of its own until they are merged in order, as `attend` does.
    let cuts: Vec<(usize, Range<usize>)> = jobs
        .iter()
        .enumerate()
        .flat_map(|(kv_head, job)| {
            let n = job.n_blocks();
            (0..n).step_by(BLOCKS).map(move |first| (kv_head, first..(first + BLOCKS).min(n)))
        })
        .collect();
    let parts = cuts.into_par_iter().map_init(Scratch::default, |scratch, (kv_head, blocks)| {
        blocks
            .map(|block| {
                let mut state = State::default();
                state.reset(group, shape.head_dim);
                attend_tile(form, &jobs[kv_head], kv_head, 0..1, block..block + 1, scratch, &mut state);
                state
            })
            .collect::<Vec<_>>()
    });
    let mut parts = parts.collect::<Vec<_>>().into_iter().flatten();
    for (job, out) in jobs.iter().zip(outs) {
        let mut state = State::default();
        state.reset(group, shape.head_dim);
        for mut part in parts.by_ref().take(job.n_blocks()) {
            merge_states(form, &mut state, &mut part);
        }
        finish(&mut state, out);
    }
    Ok(())
}

/// The job of one head of keys, checked.
fn job_of<'a>(shape: &AttentionShape, query: &'a [f32], runs: &[KvRun<'a>]) -> Result<Job<'a>> {
    let kv_width = shape.n_kv_heads * shape.head_dim;
    let mut sources = Vec::with_capacity(runs.len());
    let mut n_keys = 0;
    for run in runs {
        let len = run.positions.len();
        check_length("keys", run.keys.len(), len * kv_width)?;
        check_length("values", run.values.len(), len * kv_width)?;
        check_length("log weights", run.log_weights.map_or(len, <[f32]>::len), len)?;
        if len > 0 {
            sources.push(Source { keys: run.keys, values: run.values, start: n_keys, len });
            n_keys += len;
        }
    }
    Ok(Job {
        group: shape.n_heads / shape.n_kv_heads,
        dim: shape.head_dim,
        scale: shape.scale * std::f32::consts::LOG2_E,
        queries: query,
        n_tokens: 1,
        query_stride: shape.n_heads * shape.head_dim,
        sources,
        kv_stride: kv_width,
        n_keys,
        visibility: None,
        radius: None,
        log_weights: log_weights_of(runs, n_keys),
        rounds: false,
    })
}
