//! How near ways to reuse keys and values come to computing a prompt in full, and how fast they are.
//!
//! For each prompt the whole is computed once and continued greedily: that is what the methods are held against. Each
//! reads the same prompt with its passages' blocks, captured apart from it, and then the same continuation, so that its
//! distribution over the next token can be compared at every place.

mod blocks;
mod calibration;
mod scores;
mod workload;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use raglan_datasets::{ContextPassage, ContextQuestion, Draws};
use raglan_eval::answers;
use raglan_generate::reuse::{
    Continuation, Distributions, Followed, Prefilled, ReuseMethod, best_token, prefill, read_tokens,
};
use raglan_generate::{ChatGenerator, Prompt};
use raglan_kv::{BlockPrecision, KvBlock, KvCache, open_block, write_block};
use raglan_model::DecoderModel;

pub use self::blocks::KvCapture;
pub use self::calibration::{KvCalibrated, KvCalibration, calibrate_kv};
pub(crate) use self::calibration::{calibrated, write_calibrated};
pub use self::scores::{KvComparison, KvEvaluation, KvPromptScore, KvRow, KvTimes};
pub use self::workload::{KvWorkload, KvWorkloadOptions, KvWorkloadRow, evaluate_kv_workload};

use self::blocks::{Captured, context_of};
use self::scores::mean;
use crate::{Error, Result};

/// What is evaluated, and how.
#[derive(Clone, Debug)]
pub struct KvEvaluationOptions {
    /// The ways to read a prompt.
    pub methods: Vec<ReuseMethod>,
    /// What stood before passages when their blocks were captured; each method that takes blocks is run with each, but
    /// Cache-Craft with blocks in context alone, since it goes by what was seen there.
    pub captures: Vec<KvCapture>,
    /// Prompts that are evaluated: the first so many; passages of the others may stand in for neighbours.
    pub n_prompts: usize,
    /// The most tokens of a continuation, 1 at least.
    pub n_tokens: usize,
    /// The most tokens of a passage; what is longer is cut.
    pub passage_tokens: Option<usize>,
    /// How blocks keep numbers.
    pub precision: BlockPrecision,
    /// The share of a passage's neighbours that are those of other prompts when its block is captured in context.
    pub replaced: f32,
    /// Decides orders and neighbours.
    pub seed: u64,
    /// Where blocks are when a prompt is read.
    pub tier: KvTier,
}

/// Where blocks are when a prompt is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvTier {
    /// In memory.
    Memory,
    /// In files that the system was asked to drop from its memory.
    Disk,
}

/// Evaluates ways to reuse keys and values on questions with passages.
///
/// Naive reuse behind the shared beginning is always among the rows, since the others are compared with it; and a
/// method that computes a share of the passages' tokens is compared with as many tokens drawn at random. `on_prompt`
/// is told how many prompts are done, and says whether to go on; if not, the evaluation is of those that are done.
///
/// # Errors
///
/// Those of the model; [`raglan_generate::Error::Interrupted`] when `on_prompt` stops it before the first is done.
pub fn evaluate_kv(
    generator: &ChatGenerator,
    questions: &[ContextQuestion],
    options: &KvEvaluationOptions,
    on_prompt: &mut dyn FnMut(usize) -> bool,
) -> Result<KvEvaluation> {
    let evaluator = Evaluator { generator, model: &generator.model().transformer, questions, options };
    let runs = runs(options);
    let mut scores: Vec<Vec<KvPromptScore>> = runs.iter().map(|_| Vec::new()).collect();
    let mut is_dropped = true;
    for (number, question) in questions.iter().take(options.n_prompts).enumerate() {
        if !on_prompt(number) {
            if number == 0 {
                return Err(raglan_generate::Error::Interrupted.into());
            }
            break;
        }
        let context = context_of(generator, question, options.passage_tokens)?;
        let prompt = generator.prompt(&context)?;
        let reference = evaluator.reference(question, &prompt)?;
        let mut captured: Vec<(KvCapture, Stored)> = Vec::new();
        for (run, scores) in runs.iter().zip(&mut scores) {
            if let Some(capture) = run.1
                && !captured.iter().any(|(there, _)| *there == capture)
            {
                let blocks = evaluator.captured(number, capture, &prompt, &reference.prefix)?;
                captured.push((capture, Stored::new(blocks, options.tier)?));
            }
            let stored = captured.iter().find(|(capture, _)| Some(*capture) == run.1).map(|(_, stored)| stored);
            let mut score = evaluator.score(question, &prompt, &reference, run.0, stored, &mut is_dropped)?;
            // What is chosen has to be better than as much that is not.
            let share = score.recompute_share as f32;
            if let Some(stored) = stored
                && !matches!(run.0, ReuseMethod::Random { .. })
                && share > 0.0
                && share < 1.0
            {
                let drawn = evaluator.read(&prompt, &reference, ReuseMethod::Random { share }, stored.resident())?;
                let followed = evaluator.follow(drawn.0, drawn.1, &reference)?.0;
                score.random_kl = Some(mean(followed.kl.into_iter()));
            }
            scores.push(score);
        }
    }
    on_prompt(scores[0].len());
    let cold = (options.tier == KvTier::Disk).then_some(is_dropped);
    Ok(KvEvaluation::new(runs, scores, cold))
}

/// Each method with what its blocks were captured behind, if it takes any.
fn runs(options: &KvEvaluationOptions) -> Vec<(ReuseMethod, Option<KvCapture>)> {
    let mut runs = vec![(ReuseMethod::Full, None), (ReuseMethod::Naive, Some(KvCapture::Prefix))];
    for &method in &options.methods {
        let of_method: Vec<_> = match method {
            ReuseMethod::Full | ReuseMethod::Prefix => vec![None],
            ReuseMethod::CacheCraft { .. } => vec![Some(KvCapture::Context)],
            _ => options.captures.iter().copied().map(Some).collect(),
        };
        for run in of_method.into_iter().map(|capture| (method, capture)) {
            if !runs.contains(&run) {
                runs.push(run);
            }
        }
    }
    runs
}

/// The blocks of a prompt's passages where they are to be read from.
enum Stored {
    Memory(Captured),
    /// With the folder that goes when it is dropped; the blocks are there for what is not timed.
    Disk {
        blocks: Captured,
        paths: Vec<Vec<PathBuf>>,
        _folder: tempfile::TempDir,
    },
}

impl Stored {
    fn new(blocks: Captured, tier: KvTier) -> Result<Self> {
        if tier == KvTier::Memory {
            return Ok(Self::Memory(blocks));
        }
        let io = |source| Error::Io { path: std::env::temp_dir(), source };
        let folder = tempfile::tempdir().map_err(io)?;
        let mut paths = Vec::with_capacity(blocks.len());
        for (passage, variants) in blocks.iter().enumerate() {
            let mut of_passage = Vec::new();
            for (variant, block) in variants.iter().enumerate() {
                let path = folder.path().join(format!("{passage}-{variant}.kv"));
                write_block(&path, block).map_err(of_model)?;
                of_passage.push(path);
            }
            paths.push(of_passage);
        }
        Ok(Self::Disk { blocks, paths, _folder: folder })
    }

    /// The blocks in memory.
    fn resident(&self) -> &Captured {
        match self {
            Self::Memory(blocks) | Self::Disk { blocks, .. } => blocks,
        }
    }

    /// The blocks from where they are to be read, and whether the system's memory has none of them.
    fn opened(&self) -> Result<(Captured, bool, f64)> {
        let Self::Disk { paths, .. } = self else { return Ok((self.resident().clone(), false, 0.0)) };
        let is_dropped = paths.iter().flatten().all(|path| drop_pages(path));
        let begin = Instant::now();
        let open = |variants: &Vec<PathBuf>| variants.iter().map(|path| open_block(path)).collect();
        let blocks: Captured = paths.iter().map(open).collect::<raglan_kv::Result<_>>().map_err(of_model)?;
        Ok((blocks, is_dropped, begin.elapsed().as_secs_f64()))
    }
}

/// Asks the system to drop a file from its memory, and says whether that was taken.
#[cfg(target_os = "linux")]
fn drop_pages(path: &std::path::Path) -> bool {
    std::fs::File::open(path).is_ok_and(|file| {
        // Pages that are not written yet stay.
        file.sync_all().is_ok() && rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_ok()
    })
}

/// Asks the system to drop a file from its memory, and says whether that was taken.
#[cfg(not(target_os = "linux"))]
fn drop_pages(_path: &std::path::Path) -> bool {
    false
}

/// What everything is held against.
struct Reference {
    /// What has read the prompt's first piece.
    prefix: KvCache,
    /// Seconds that took.
    prefix_s: f64,
    continuation: Continuation,
    text: String,
    /// The first right answer's first tokens.
    answer: Vec<u32>,
}

struct Evaluator<'a> {
    generator: &'a ChatGenerator,
    model: &'a DecoderModel,
    questions: &'a [ContextQuestion],
    options: &'a KvEvaluationOptions,
}

impl Evaluator<'_> {
    /// Computes a prompt in full and goes on greedily.
    fn reference(&self, question: &ContextQuestion, prompt: &Prompt) -> Result<Reference> {
        let begin = Instant::now();
        let mut prefix = self.model.cache();
        if let Some(first) = prompt.pieces.first().filter(|piece| !piece.ids.is_empty()) {
            // The last token of a prompt of one piece is left to be read.
            let n = if prompt.pieces.len() == 1 { first.ids.len() - 1 } else { first.ids.len() };
            if n > 0 {
                read_tokens(self.model, &mut prefix, &first.ids[..n], &[])?;
            }
        }
        let prefix_s = begin.elapsed().as_secs_f64();
        let prefilled = prefill(self.model, &prefix, &prompt.pieces, &no_blocks(prompt), ReuseMethod::Full, false)?;
        let mut cache = prefilled.cache;
        let first = read_tokens(self.model, &mut cache, &last(&prefilled.tokens), &[0])?;
        let go_on = || ControlFlow::Continue(());
        let continuation = Continuation::greedy(self.model, &mut cache, first, self.options.n_tokens, &go_on)?;
        let mut answer = self.generator.model().tokenizer.encode(&question.answers[0], false).map_err(of_model)?;
        answer.ids.truncate(self.options.n_tokens.max(1));
        Ok(Reference { prefix, prefix_s, text: self.text(&continuation.tokens)?, continuation, answer: answer.ids })
    }

    /// Reads a prompt by a method, its last token apart: what was read, and what comes after that token.
    fn read(
        &self,
        prompt: &Prompt,
        reference: &Reference,
        method: ReuseMethod,
        blocks: &[Vec<KvBlock>],
    ) -> Result<(Prefilled, Vec<f32>, f64)> {
        let mut prefilled = prefill(self.model, &reference.prefix, &prompt.pieces, blocks, method, false)?;
        let begin = Instant::now();
        let logits = read_tokens(self.model, &mut prefilled.cache, &last(&prefilled.tokens), &[0])?;
        Ok((prefilled, logits, begin.elapsed().as_secs_f64()))
    }

    /// Reads the reference's continuation, and compares; the cache has that continuation then, and how many tokens it
    /// had before is given too.
    fn follow(
        &self,
        prefilled: Prefilled,
        first: Vec<f32>,
        reference: &Reference,
    ) -> Result<(Followed, KvCache, usize)> {
        let mut cache = prefilled.cache;
        let n_prompt = cache.len();
        let followed = reference.continuation.follow(self.model, &mut cache, first)?;
        Ok((followed, cache, n_prompt))
    }

    fn score(
        &self,
        question: &ContextQuestion,
        prompt: &Prompt,
        reference: &Reference,
        method: ReuseMethod,
        stored: Option<&Stored>,
        is_dropped: &mut bool,
    ) -> Result<KvPromptScore> {
        let (blocks, dropped, open_s) = stored.map_or_else(|| Ok((no_blocks(prompt), true, 0.0)), Stored::opened)?;
        *is_dropped &= dropped;
        let begin = Instant::now();
        let (prefilled, first, last_s) = self.read(prompt, reference, method, &blocks)?;
        let mut ttft_s = open_s + begin.elapsed().as_secs_f64();
        let cost = prefilled.cost;
        if method == ReuseMethod::Full {
            ttft_s += reference.prefix_s; // Nothing was there.
        }
        let times = KvTimes {
            assemble_ms: 1e3 * (open_s + cost.assemble_s),
            choose_ms: 1e3 * cost.choose_s,
            compute_ms: 1e3 * cost.compute_s,
            last_token_ms: 1e3 * last_s,
        };
        let computed =
            cost.recomputed_share * cost.reused_tokens as f32 + (cost.passage_tokens - cost.reused_tokens) as f32;
        let recompute_share = f64::from(computed) / cost.passage_tokens.max(1) as f64;
        let (followed, mut cache, n_prompt) = self.follow(prefilled, first, reference)?;
        let tokens = &reference.continuation.tokens;
        let n_same = followed.best.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let text = if n_same == tokens.len() {
            reference.text.clone()
        } else {
            cache.truncate(n_prompt + n_same);
            let mut tokens = tokens[..n_same].to_vec();
            let mut next = followed.best[n_same];
            loop {
                tokens.push(next);
                if tokens.len() == self.options.n_tokens.max(1) || self.is_end(next) {
                    break;
                }
                next = best_token(&read_tokens(self.model, &mut cache, &[next], &[0])?)?;
            }
            self.text(&tokens)?
        };
        cache.truncate(n_prompt);
        let (answer_nats, answer_is_best) = self.answer(&mut cache, &followed.first, &reference.answer)?;
        let golds = &question.answers;
        Ok(KvPromptScore {
            question: question.id.clone(),
            n_prompt_tokens: prompt.n_tokens,
            recompute_share,
            ttft_ms: 1e3 * ttft_s,
            times,
            n_agree: followed.best.iter().zip(tokens).filter(|(a, b)| a == b).count(),
            is_equal: n_same == tokens.len(),
            exact_match: answers::best(&text, golds, answers::exact_match),
            f1: answers::best(&text, golds, answers::token_f1),
            contains: answers::best(&text, golds, answers::contains),
            answer_nats,
            answer_is_best,
            block_bytes: blocks.iter().flatten().map(KvBlock::n_bytes).sum(),
            kl: followed.kl,
            random_kl: None,
            answer: text,
        })
    }

    /// How surprising the right answer is, in nats a token, and whether each of its tokens is the best.
    fn answer(&self, cache: &mut KvCache, first: &[f32], answer: &[u32]) -> Result<(f64, bool)> {
        let Some((_, forced)) = answer.split_last() else { return Ok((0.0, false)) };
        let mut logits = vec![first.to_vec()];
        if !forced.is_empty() {
            let rows: Vec<usize> = (0..forced.len()).collect();
            let rest = read_tokens(self.model, cache, forced, &rows)?;
            logits.extend(rest.chunks_exact(rest.len() / forced.len()).map(<[f32]>::to_vec));
        }
        let nats = Distributions::of(&logits)?.surprise(answer);
        let best = logits.iter().map(|logits| best_token(logits)).collect::<Result<Vec<u32>, _>>()?;
        Ok((nats, best == answer))
    }

    fn captured(&self, number: usize, capture: KvCapture, prompt: &Prompt, prefix: &KvCache) -> Result<Captured> {
        let draws = Draws::new(self.options.seed, number as u64);
        blocks::capture_passages(
            self.generator,
            (self.questions, number),
            self.options,
            capture,
            (prompt, prefix),
            draws,
        )
    }

    fn is_end(&self, token: u32) -> bool {
        self.model.config().end_tokens.contains(&token)
    }

    /// The text of an answer, without its end.
    fn text(&self, tokens: &[u32]) -> Result<String> {
        let n = tokens.iter().position(|&token| self.is_end(token)).unwrap_or(tokens.len());
        let text = self.generator.model().tokenizer.decode(&tokens[..n]).map_err(of_model)?;
        Ok(text.trim().to_owned())
    }
}

/// A passage's text, as far as the most tokens reach.
fn cut(generator: &ChatGenerator, passage: &ContextPassage, most: Option<usize>) -> Result<String> {
    let Some(most) = most else { return Ok(passage.text.clone()) };
    let encoding = generator.model().tokenizer.encode(&passage.text, false).map_err(of_model)?;
    let end = match most {
        0 => 0,
        most => {
            encoding.spans.get(most - 1).filter(|_| encoding.ids.len() > most).map_or(passage.text.len(), |s| s.end)
        }
    };
    Ok(passage.text[..passage.text.floor_char_boundary(end)].to_owned())
}

/// None of the passages of a prompt has a block.
fn no_blocks(prompt: &Prompt) -> Captured {
    prompt.pieces.iter().filter(|piece| piece.passage.is_some()).map(|_| Vec::new()).collect()
}

/// A failure of the model, or of its keys and values.
fn of_model(error: impl Into<raglan_model::Error>) -> Error {
    raglan_generate::Error::Model(error.into()).into()
}

/// The last token of a prompt, as a slice to read.
fn last(tokens: &[u32]) -> Vec<u32> {
    tokens.last().copied().into_iter().collect()
}

#[cfg(test)]
mod tests;
