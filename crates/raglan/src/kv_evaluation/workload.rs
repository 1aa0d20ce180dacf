//! How many tokens of prompts are computed when questions come again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use raglan_core::{ChunkId, Context};
use raglan_datasets::{ContextQuestion, Draws};
use raglan_eval::answers;
use raglan_eval::significance::bootstrap_interval;
use raglan_generate::reuse::{KvKeeper, PassageOrder, ReuseMethod};
use raglan_generate::{ChatGenerator, GenerateOptions, LanguageModel};
use raglan_kv::{BlockPrecision, CacheLimits, ChunkCache};
use serde::Serialize;

use super::blocks::context_of;
use super::of_model;
use super::scores::{mean, quantile};
use crate::kept_kv::limits_of;
use crate::{Error, Result};

/// What is asked, and how.
#[derive(Clone, Debug)]
pub struct KvWorkloadOptions {
    /// The ways to read a prompt; prefix caching with the passages as they come is always among them.
    pub methods: Vec<ReuseMethod>,
    /// The orders in which prompts show passages; each method is run with each.
    pub orders: Vec<PassageOrder>,
    /// Whether each request is that of a process of its own, which has nothing in memory.
    pub restarts: bool,
    /// The most tokens of an answer, 1 at least.
    pub n_tokens: usize,
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
    /// The order of the passages.
    pub order: String,
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
    /// The best token F1 with a right answer, the mean over questions of the means over their requests.
    pub f1: f64,
    /// The same less that of the first row.
    pub f1_difference: f64,
    /// The bootstrap interval over questions of the difference.
    pub f1_interval: (f64, f64),
    /// The share of the requests whose answer is that of the first row, letter by letter.
    pub same_answers: f64,
}

impl KvWorkloadRow {
    /// The method and, where it is another than that of rank, the order.
    pub fn label(&self) -> String {
        if self.order == PassageOrder::Rank.to_string() {
            self.method.clone()
        } else {
            format!("{} ({})", self.method, self.order)
        }
    }
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
    /// The methods, prefix caching with the passages as they come first.
    pub rows: Vec<KvWorkloadRow>,
}

/// Asks questions again and again, the first of them most often, by several methods, each of which begins with nothing.
///
/// Requests come one after the other, as from one process that goes on unless it [restarts](KvWorkloadOptions::restarts):
/// whole beginnings are kept in its memory, as `raglan ask` keeps them, and blocks in a folder. Methods are used without
/// tests. `on_request` is told how many requests are done, over all methods, and says whether to go on.
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
    let mut runs = vec![(ReuseMethod::Prefix, PassageOrder::Rank)];
    for run in options.methods.iter().flat_map(|&method| options.orders.iter().map(move |&order| (method, order))) {
        if !runs.contains(&run) {
            runs.push(run);
        }
    }
    let mut passages: HashMap<(String, String), ChunkId> = HashMap::new();
    let generate = GenerateOptions {
        max_tokens: options.n_tokens.max(1),
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
    let mut rows: Vec<KvWorkloadRow> = Vec::with_capacity(runs.len());
    // By run what was answered, and how well, request by request.
    let mut answered: Vec<Vec<(String, f64)>> = Vec::with_capacity(runs.len());
    for (number, &(method, order)) in runs.iter().enumerate() {
        let folder = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
        let begin = || -> Result<(ChatGenerator, Arc<ChunkCache>)> {
            let limits = limits_of(method, options.limits);
            let chunks = Arc::new(ChunkCache::open(Some(folder.path().to_owned()), limits).map_err(of_model)?);
            let generator = ChatGenerator::new(model.clone(), generate.clone())?;
            if method == ReuseMethod::Full {
                return Ok((generator, chunks));
            }
            let keeper = KvKeeper::new(method, options.precision, chunks.clone(), &model.name).ordered_by(order);
            Ok((generator.keeping(keeper), chunks))
        };
        let (mut generator, mut chunks) = begin()?;
        let mut row = KvWorkloadRow {
            method: method.to_string(),
            order: order.to_string(),
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
            f1: 0.0,
            f1_difference: 0.0,
            f1_interval: (0.0, 0.0),
            same_answers: 1.0,
        };
        let mut times = Vec::with_capacity(requests.len());
        let mut texts = Vec::with_capacity(requests.len());
        for (done, (question, order)) in requests.iter().enumerate() {
            if !on_request(number * requests.len() + done) {
                return Err(raglan_generate::Error::Interrupted.into());
            }
            if options.restarts && done > 0 {
                (generator, chunks) = begin()?;
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
            let f1 = answers::best(&answer.text, &questions[*question].answers, answers::token_f1);
            texts.push((answer.text, f1));
            row.later_tokens += generator.remember()?.block_tokens;
        }
        let usage = chunks.usage();
        (row.blocks, row.bytes) = (usage.blocks, usage.bytes);
        row.ttft_ms = quantile(times, 0.5);
        answered.push(texts);
        let prefix = rows.first().map_or(row.computed_tokens, |prefix| prefix.computed_tokens).max(1) as f64;
        row.of_prefix = row.computed_tokens as f64 / prefix;
        row.all_of_prefix = (row.computed_tokens + row.later_tokens) as f64 / prefix;
        let (own, first) = (by_question(&requests, &answered[number]), by_question(&requests, &answered[0]));
        let differences: Vec<f64> = own.iter().zip(&first).map(|(own, first)| own - first).collect();
        row.f1 = mean(own.into_iter());
        row.f1_difference = mean(differences.iter().copied());
        row.f1_interval = bootstrap_interval(&differences);
        let pairs = answered[number].iter().zip(&answered[0]);
        row.same_answers = mean(pairs.map(|(own, first)| f64::from(u8::from(own.0 == first.0))));
        rows.push(row);
    }
    on_request(runs.len() * requests.len());
    Ok(KvWorkload { n_requests: requests.len(), n_questions: contexts.len(), n_passages: passages.len(), rows })
}

/// The mean F1 of each question over its requests, by the number of the question.
fn by_question(requests: &[Request], answered: &[(String, f64)]) -> Vec<f64> {
    let mut of_question: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for ((question, _), (_, f1)) in requests.iter().zip(answered) {
        of_question.entry(*question).or_default().push(*f1);
    }
    of_question.into_values().map(|f1| mean(f1.into_iter())).collect()
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
            orders: Vec::new(),
            restarts: false,
            n_tokens: 1,
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
