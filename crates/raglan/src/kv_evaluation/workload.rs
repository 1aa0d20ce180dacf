//! How many tokens of prompts are computed when questions come again.

use std::collections::HashMap;
use std::sync::Arc;

use raglan_core::{ChunkId, Context};
use raglan_datasets::{ContextQuestion, Draws};
use raglan_generate::reuse::{KvKeeper, ReuseMethod};
use raglan_generate::{ChatGenerator, GenerateOptions, LanguageModel};
use raglan_kv::{BlockPrecision, CacheLimits, ChunkCache};
use serde::Serialize;

use super::blocks::context_of;
use super::{of_model, scores};
use crate::{Error, Result};

/// What is asked, and how.
#[derive(Clone, Debug)]
pub struct KvWorkloadOptions {
    /// The ways to read a prompt; prefix caching is always among them.
    pub methods: Vec<ReuseMethod>,
    /// How often a question is asked, in all.
    pub n_requests: usize,
    /// The question of rank `r` is asked in proportion to `r^-exponent`; 0 is evenly.
    pub exponent: f64,
    /// The share of requests whose passages come in a drawn order instead of the question's own, 0 to 1: a question that
    /// is worded otherwise finds its passages in another order.
    pub reordered: f64,
    /// The most tokens of a passage; what is longer is cut.
    pub passage_tokens: Option<usize>,
    /// How blocks keep numbers.
    pub precision: BlockPrecision,
    /// What blocks may take.
    pub limits: CacheLimits,
    /// Decides which questions come when, and their passages' order.
    pub seed: u64,
}

/// A workload by one method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvWorkloadRow {
    /// The method.
    pub method: String,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Tokens of them that were computed while someone waited, those that were computed anew among them.
    pub computed_tokens: usize,
    /// The same as a share of what prefix caching computed.
    pub of_prefix: f64,
    /// Tokens that were computed after answers, to keep their keys and values.
    pub later_tokens: usize,
    /// Both, as a share of what prefix caching computed.
    pub all_of_prefix: f64,
    /// Passages whose keys and values were there.
    pub hits: usize,
    /// Passages that had none.
    pub misses: usize,
    /// Blocks that were kept in the end.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The median of the time to the first token, in milliseconds.
    pub ttft_ms: f64,
}

/// What a workload took, method by method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvWorkload {
    /// Requests.
    pub n_requests: usize,
    /// Questions that were asked at all.
    pub n_questions: usize,
    /// Passages of these.
    pub n_passages: usize,
    /// The methods, prefix caching first.
    pub rows: Vec<KvWorkloadRow>,
}

/// Asks questions again and again, the first of them most often, by several methods, each of which begins with nothing.
///
/// Requests come one after the other, as from one process that goes on: whole beginnings are kept in its memory, as
/// `raglan ask` keeps them, and blocks in a folder. Methods are used without tests. Answers are not written but for
/// their first token. `on_request` is told how many requests are done, over all methods, and says whether to go on.
///
/// # Errors
///
/// Those of the model; [`raglan_generate::Error::Interrupted`] when `on_request` says so.
pub fn evaluate_kv_workload(
    model: &Arc<LanguageModel>,
    questions: &[ContextQuestion],
    options: &KvWorkloadOptions,
    on_request: &mut dyn FnMut(usize) -> bool,
) -> Result<KvWorkload> {
    let requests = requests(questions.len(), options);
    let mut methods = vec![ReuseMethod::Prefix];
    for &method in &options.methods {
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    let mut passages: HashMap<(String, String), ChunkId> = HashMap::new();
    let generate = GenerateOptions {
        max_tokens: 1,
        context_tokens: Some(model.transformer.config().context_len),
        ..Default::default()
    };
    let plain = ChatGenerator::new(model.clone(), generate.clone())?;
    let mut contexts: HashMap<usize, Context> = HashMap::new();
    for (question, _) in &requests {
        if contexts.contains_key(question) {
            continue;
        }
        let mut context = context_of(&plain, &questions[*question], options.passage_tokens)?;
        for passage in &mut context.passages {
            // The same text is the same chunk, whichever question it belongs to.
            let next = ChunkId(passages.len() as u32);
            let name = (passage.document.path.clone(), passage.chunk.text.clone());
            passage.chunk.id = *passages.entry(name).or_insert(next);
        }
        contexts.insert(*question, context);
    }
    let mut rows: Vec<KvWorkloadRow> = Vec::with_capacity(methods.len());
    for (number, &method) in methods.iter().enumerate() {
        let folder = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
        let chunks = ChunkCache::open(Some(folder.path().to_owned()), options.limits).map_err(of_model)?;
        let chunks = Arc::new(chunks);
        let mut generator = ChatGenerator::new(model.clone(), generate.clone())?;
        if method != ReuseMethod::Full {
            let keeper = KvKeeper::new(method, options.precision, chunks.clone(), &model.name);
            generator = generator.keeping(keeper);
        }
        let mut row = KvWorkloadRow {
            method: method.to_string(),
            prompt_tokens: 0,
            computed_tokens: 0,
            of_prefix: 1.0,
            later_tokens: 0,
            all_of_prefix: 1.0,
            hits: 0,
            misses: 0,
            blocks: 0,
            bytes: 0,
            ttft_ms: 0.0,
        };
        let mut times = Vec::with_capacity(requests.len());
        for (done, (question, order)) in requests.iter().enumerate() {
            if !on_request(number * requests.len() + done) {
                return Err(raglan_generate::Error::Interrupted.into());
            }
            let mut context = contexts[question].clone();
            if let Some(seed) = order {
                Draws::new(options.seed, *seed).shuffle(&mut context.passages);
            }
            let answer = generator.answer(&context, &mut |_| {})?;
            row.prompt_tokens += answer.tokens.prompt;
            row.computed_tokens += answer.kv.as_ref().map_or(answer.tokens.prompt, |kv| kv.computed_tokens);
            row.hits += answer.kv.as_ref().map_or(0, |kv| kv.hits);
            row.misses += answer.kv.as_ref().map_or(0, |kv| kv.misses);
            times.push(1e3 * answer.timings.prefill_s);
            row.later_tokens += generator.remember()?.block_tokens;
        }
        let usage = chunks.usage();
        (row.blocks, row.bytes) = (usage.blocks, usage.bytes);
        row.ttft_ms = scores::quantile(times, 0.5);
        let prefix = rows.first().map_or(row.computed_tokens, |prefix| prefix.computed_tokens).max(1) as f64;
        row.of_prefix = row.computed_tokens as f64 / prefix;
        row.all_of_prefix = (row.computed_tokens + row.later_tokens) as f64 / prefix;
        rows.push(row);
    }
    on_request(methods.len() * requests.len());
    Ok(KvWorkload { n_requests: requests.len(), n_questions: contexts.len(), n_passages: passages.len(), rows })
}

/// The question, and the number of the draw that orders its passages, if they are drawn.
type Request = (usize, Option<u64>);

/// Who asks for what, in order.
fn requests(n_questions: usize, options: &KvWorkloadOptions) -> Vec<Request> {
    let mut sums = Vec::with_capacity(n_questions);
    let mut sum = 0.0;
    for rank in 1..=n_questions {
        sum += (rank as f64).powf(-options.exponent);
        sums.push(sum);
    }
    const STEPS: usize = 1 << 24;
    let mut draws = Draws::new(options.seed, 0);
    let mut unit = move || draws.below(STEPS) as f64 / STEPS as f64;
    let request = |number: usize| {
        let drawn = unit() * sum;
        let question = sums.partition_point(|&upto| upto <= drawn).min(n_questions - 1);
        (question, (unit() < options.reordered).then_some(1 + number as u64))
    };
    if n_questions == 0 { Vec::new() } else { (0..options.n_requests).map(request).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_by_zipf_and_the_same_ones_each_time() {
        let options = KvWorkloadOptions {
            methods: Vec::new(),
            n_requests: 20_000,
            exponent: 1.0,
            reordered: 0.25,
            passage_tokens: None,
            precision: BlockPrecision::F16,
            limits: CacheLimits::default(),
            seed: 7,
        };
        let drawn = requests(4, &options);
        assert_eq!(drawn, requests(4, &options));
        assert_ne!(drawn, requests(4, &KvWorkloadOptions { seed: 8, ..options.clone() }));
        let share = |of: &dyn Fn(&Request) -> bool| {
            drawn.iter().filter(|request| of(request)).count() as f64 / drawn.len() as f64
        };
        for (question, expected) in [(0, 0.48), (1, 0.24), (2, 0.16), (3, 0.12)] {
            let got = share(&|request| request.0 == question); // 12/25 of 1 + 1/2 + 1/3 + 1/4
            assert!((got - expected).abs() <= 0.02, "{question}: {got}");
        }
        assert!((share(&|request| request.1.is_some()) - 0.25).abs() <= 0.02);
        let even = requests(4, &KvWorkloadOptions { exponent: 0.0, ..options.clone() });
        assert!((even.iter().filter(|request| request.0 == 3).count() as f64 / 20_000.0 - 0.25).abs() <= 0.02);
        assert!(requests(0, &options).is_empty());
    }
}
