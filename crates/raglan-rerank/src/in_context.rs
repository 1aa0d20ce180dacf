//! Where the question looks (in-context reranking; Chen et al. 2025): the attention that its tokens pay to each passage,
//! less what a question without content pays.

use std::ops::Range;
use std::sync::Arc;

use raglan_core::{ChunkId, Meter};
use raglan_kv::{BlockPrecision, ChunkCache, KvBlock, KvCache};
use raglan_model::{ChatFrame, LanguageModel};

use crate::kept::Kept;
use crate::prompt::{encode, passage_room};
use crate::query_likelihood::QUESTION_TOKENS;
use crate::{Budget, Error, Judge, Judgement, Result, Task, Verdict};

/// Scores all passages by two passes of a short question behind them; nothing is written.
///
/// With `A[t, u]` the attention of a question's token to a passage's token, in every head of the layers that count,
/// `s_u = Σ mean_t A[t, u]`, `d_u = s_u(question) − c · s_u("N/A")`, where `c` makes both totals equal; a passage's score is
/// the sum of the `d_u` that are above its mean less two deviations.
#[derive(Debug)]
pub struct InContext {
    model: Arc<LanguageModel>,
    frame: ChatFrame,
    words: Words,
    /// The layers that count; those behind them are not computed.
    layers: Range<usize>,
    is_calibrated: bool,
    max_passage_tokens: usize,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Words {
    opening: Vec<u32>,
    passage: Vec<u32>,
    request: Vec<u32>,
    no_question: Vec<u32>,
}

/// Passages that are read together.
struct Window<'a> {
    /// Their tokens, each behind what separates it from the one before.
    passages: Vec<Vec<u32>>,
    /// The chunks that they are, or none.
    chunks: &'a [ChunkId],
    /// What is kept of each; none where nothing is to be kept.
    blocks: Option<Vec<Option<KvBlock>>>,
}

impl Window<'_> {
    /// How many tokens of the passages are to be computed.
    fn n_missing(&self) -> usize {
        let is_kept = |i: usize| self.blocks.as_ref().is_some_and(|blocks| blocks[i].is_some());
        self.passages.iter().enumerate().filter(|(i, _)| !is_kept(*i)).map(|(_, passage)| passage.len()).sum()
    }
}

impl InContext {
    /// A judge that sums the attention of these layers (all of the model's, when none are named), and reads up to
    /// `max_passage_tokens` of each passage.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when there are no such layers.
    pub fn new(model: Arc<LanguageModel>, layers: Option<Range<usize>>, max_passage_tokens: usize) -> Result<Self> {
        let n_layers = model.transformer.config().n_layers;
        let layers = layers.unwrap_or(0..n_layers);
        if layers.is_empty() || layers.end > n_layers {
            let problem = format!("are {} to {}, and the model has {n_layers}", layers.start, layers.end);
            return Err(Error::Parameter { name: "layers", problem });
        }
        Ok(Self {
            frame: ChatFrame::of_user(&model)?,
            words: Words {
                opening: encode(&model, "Here are some paragraphs:")?,
                passage: encode(&model, "\n\n")?,
                request: encode(
                    &model,
                    "\n\nPlease answer the following question from the paragraphs above.\n\nQuestion: ",
                )?,
                no_question: encode(&model, "N/A")?,
            },
            layers,
            is_calibrated: true,
            max_passage_tokens,
            kept: None,
            model,
        })
    }

    /// The same judge, which reads each chunk once and keeps its keys and values: behind the prompt's beginning, without the
    /// other passages, so that they serve any question and any place. Its scores are other ones therefore. `weights` names
    /// the model's weights, such as the hash of their file.
    ///
    /// Passages that are no chunks are read with one another.
    #[must_use]
    pub fn keeping(self, blocks: Arc<ChunkCache>, weights: &str, precision: BlockPrecision) -> Self {
        Self { kept: Some(Kept::new(&self.model, blocks, weights, precision)), ..self }
    }

    /// The same judge without calibration: the question's attention as it is.
    #[must_use]
    pub fn uncalibrated(self) -> Self {
        Self { is_calibrated: false, ..self }
    }

    /// Passages to be read together; `chunks` are those that the passages are, or none.
    fn window<'a>(&self, passages: &[Vec<u32>], chunks: &'a [ChunkId]) -> Window<'a> {
        let passages: Vec<Vec<u32>> = passages.iter().map(|passage| [&*self.words.passage, passage].concat()).collect();
        let kept = self.kept.as_ref().filter(|_| chunks.len() == passages.len());
        let blocks = kept.map(|kept| kept.find(&self.opening(), &passages, chunks));
        Window { passages, chunks, blocks }
    }

    /// The tokens that each question has behind the passages.
    fn tails(&self, question: &[u32]) -> Vec<Vec<u32>> {
        let no_question = self.is_calibrated.then_some(&*self.words.no_question);
        let questions = std::iter::once(question).chain(no_question);
        questions.map(|question| [&*self.words.request, question, &self.frame.after].concat()).collect()
    }

    /// The score of each passage of a window.
    fn scores(&self, tails: &[Vec<u32>], window: Window<'_>, meter: &mut Meter) -> Result<Vec<f32>> {
        let Window { passages, chunks, blocks } = window;
        let mut cache = match (&self.kept, blocks) {
            (Some(kept), Some(blocks)) => self.taken_over(kept, &passages, chunks, blocks, meter)?,
            _ => self.read(&passages, meter)?,
        };
        let n_read = cache.len();
        let mut end = n_read - passages.iter().map(Vec::len).sum::<usize>();
        let spans = passages.iter().map(|passage| {
            let start = end + self.words.passage.len();
            end += passage.len();
            start..end
        });
        let spans: Vec<Range<usize>> = spans.collect();
        let each: Vec<Range<usize>> = spans.iter().cloned().flatten().map(|slot| slot..slot + 1).collect();
        let mut attention = Vec::with_capacity(tails.len());
        for tail in tails {
            attention.push(self.model.transformer.append_attending(&mut cache, tail, self.layers.clone(), &each)?);
            cache.truncate(n_read);
            meter.count(1, tail.len(), 0);
        }
        let lengths: Vec<usize> = spans.iter().map(ExactSizeIterator::len).collect();
        Ok(attention_scores(&attention[0], attention.get(1).map(|sums| &**sums), &lengths))
    }

    /// What the prompt begins with, passages one behind the other, read as one text.
    fn read(&self, passages: &[Vec<u32>], meter: &mut Meter) -> Result<KvCache> {
        let prefix = [self.opening(), passages.concat()].concat();
        let mut cache = self.model.transformer.cache();
        // In pieces of which each is a full-speed product and no more memory than needed.
        for piece in prefix.chunks(PIECE) {
            self.model.transformer.append_attending(&mut cache, piece, self.layers.clone(), &[])?;
        }
        meter.count(1, prefix.len(), 0);
        Ok(cache)
    }

    /// What stands before the passages.
    fn opening(&self) -> Vec<u32> {
        [&*self.frame.before, &self.words.opening].concat()
    }

    /// The same of the blocks that were found of each passage; those that are missing are read now, and kept.
    fn taken_over(
        &self,
        kept: &Kept,
        passages: &[Vec<u32>],
        chunks: &[ChunkId],
        found: Vec<Option<KvBlock>>,
        meter: &mut Meter,
    ) -> Result<KvCache> {
        let transformer = &self.model.transformer;
        let opening = self.opening();
        let mut cache = transformer.cache();
        transformer.append_attending(&mut cache, &opening, 0..transformer.config().n_layers, &[])?;
        meter.count(1, opening.len(), 0);
        let blocks = kept.complete(&self.model, (&cache, &opening), passages, chunks, found, meter)?;
        for (block, &chunk) in blocks.iter().zip(chunks) {
            if !kept.append(&self.model, &mut cache, block, chunk)? {
                let found = kept.find(&opening, passages, chunks);
                return self.taken_over(kept, passages, chunks, found, meter);
            }
        }
        kept.flush()?;
        Ok(cache)
    }
}

/// The scores of passages by the attention that a question pays to each of their tokens, as many as `lengths` says, one
/// passage after another; `of_nothing` is what a question without content pays to the same tokens.
///
/// # Panics
///
/// When there are fewer tokens than the lengths say.
pub fn attention_scores(of_question: &[f32], of_nothing: Option<&[f32]>, lengths: &[usize]) -> Vec<f32> {
    let mut differences = of_question.to_vec();
    if let Some(of_nothing) = of_nothing {
        // The tokens of a longer question also look at one another: what is left for passages is less, and most so
        // for those that anyway get most. Equal totals leave where it goes.
        let total = |sums: &[f32]| sums.iter().sum::<f32>();
        let scale = total(of_question) / total(of_nothing).max(f32::MIN_POSITIVE);
        differences.iter_mut().zip(of_nothing).for_each(|(d, c)| *d -= c * scale);
    }
    let mut rest = &*differences;
    let scores = lengths.iter().map(|&length| {
        let of_passage;
        (of_passage, rest) = rest.split_at(length);
        score(of_passage)
    });
    scores.collect()
}

/// Tokens of a prefix that pass together.
const PIECE: usize = 512;

/// The sum of what is not far below the mean.
fn score(differences: &[f32]) -> f32 {
    let n = differences.len() as f32;
    let mean = differences.iter().sum::<f32>() / n;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f32>() / (n - 1.0);
    // A single token has no deviation, and counts.
    let least = if variance.is_finite() { mean - 2.0 * variance.sqrt() } else { f32::NEG_INFINITY };
    differences.iter().filter(|&&d| d > least || variance == 0.0).sum()
}

impl Judge for InContext {
    fn name(&self) -> String {
        let calibration = if self.is_calibrated { "" } else { ", uncalibrated" };
        format!("in-context(layers {}–{}{calibration})", self.layers.start, self.layers.end - 1)
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        let judge = |task: &Task<'_>| {
            let mut meter = Meter::start(budget);
            let question = self.model.encode_text(task.question, QUESTION_TOKENS)?;
            let tail = self.words.request.len() + question.len().max(self.words.no_question.len());
            let rest = self.frame.len() + self.words.opening.len() + tail;
            let separator = self.words.passage.len();
            let room = passage_room(&self.model, rest + separator, 1, self.max_passage_tokens)?;
            let passages = task.passages.iter().map(|passage| Ok(self.model.encode_text(passage, room)?));
            let passages = passages.collect::<Result<Vec<_>>>()?;
            let tails = self.tails(&question);
            let mut scores = vec![None; passages.len()];
            // All at once if they fit; what does not is left to windows of its own, whose scores are of the same scale.
            let limit = self.model.transformer.config().context_len;
            let mut first = 0;
            while first < passages.len() {
                let (mut end, mut n_tokens) = (first, rest);
                while end < passages.len() && n_tokens + separator + passages[end].len() <= limit {
                    n_tokens += separator + passages[end].len();
                    end += 1;
                }
                if end == first {
                    return Err(Error::NoRoom { needed: n_tokens + separator + passages[first].len(), limit });
                }
                let chunks = task.chunks.get(first..end).unwrap_or_default();
                let window = self.window(&passages[first..end], chunks);
                let n_computed = self.opening().len() + window.n_missing() + tails.concat().len();
                if !meter.allows(n_computed) {
                    break;
                }
                let found = self.scores(&tails, window, &mut meter)?;
                scores[first..end].iter_mut().zip(found).for_each(|(score, new)| *score = Some(new));
                first = end;
            }
            Ok(Judgement::new(Verdict::Scores(scores), &meter))
        };
        tasks.iter().map(judge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_far_below_the_mean_do_not_count() {
        let mut differences = vec![1.0; 20];
        differences.push(-9.0);
        assert!((score(&differences) - 20.0).abs() <= 1e-5);
        assert!((score(&[2.0, 2.0]) - 4.0).abs() <= 1e-6);
        assert!((score(&[3.0]) - 3.0).abs() <= 1e-6);
        assert_eq!(score(&[]), 0.0);
    }
}
