//! How likely a passage makes the question (query likelihood; Sachan et al. 2022).

use std::sync::Arc;

use raglan_core::{ChunkId, Meter};
use raglan_kernels::log_softmax_at;
use raglan_kv::{BlockPrecision, ChunkCache};
use raglan_model::{ChatFrame, LanguageModel};

use crate::kept::Kept;
use crate::prompt::{Wanted, batch_from, encode, passage_room, read_prompts};
use crate::{Budget, Judge, Judgement, Result, Task, Verdict};

/// Scores a passage by the mean log-probability of the question's tokens as the answer to a request for a question about
/// the passage. It needs no model that follows instructions.
#[derive(Debug)]
pub struct QueryLikelihood {
    model: Arc<LanguageModel>,
    frame: ChatFrame,
    before: Vec<u32>,
    request: Vec<u32>,
    max_passage_tokens: usize,
    kept: Option<Kept>,
}

/// Tokens of a question that are read at most.
pub(crate) const QUESTION_TOKENS: usize = 256;

impl QueryLikelihood {
    /// A judge that reads up to `max_passage_tokens` of each passage.
    ///
    /// # Errors
    ///
    /// What the tokenizer gives.
    pub fn new(model: Arc<LanguageModel>, max_passage_tokens: usize) -> Result<Self> {
        Ok(Self {
            frame: ChatFrame::of_user(&model)?,
            before: encode(&model, "Passage:\n")?,
            request: encode(&model, "\n\nWrite the question that this passage answers.")?,
            max_passage_tokens,
            kept: None,
            model,
        })
    }

    /// The same judge, which reads each chunk once and keeps its keys and values: a passage stands before its question, so
    /// scores are the same, to the bit where blocks have the precision of the model's cache. `weights` names the model's
    /// weights, such as the hash of their file.
    ///
    /// Passages that are no chunks are read each time.
    #[must_use]
    pub fn keeping(self, blocks: Arc<ChunkCache>, weights: &str, precision: BlockPrecision) -> Self {
        Self { kept: Some(Kept::new(&self.model, blocks, weights, precision)), ..self }
    }

    /// Reads prompts that end in a question, each from where its first logits are wanted, and scores the question.
    fn read(&self, prompts: &[Wanted], question: &[u32], meter: &mut Meter, scores: &mut [Option<f32>]) -> Result<()> {
        let vocabulary = self.model.transformer.config().vocab_size;
        read_prompts(&self.model, prompts, meter, |i, logits| {
            let mut sum = 0.0;
            for (logits, &token) in logits.chunks_exact(vocabulary).zip(question) {
                let mut log_probability = [0.0];
                log_softmax_at(logits, &[token], &mut log_probability)?;
                sum += f64::from(log_probability[0]);
            }
            scores[i] = Some((sum / question.len() as f64) as f32);
            Ok(())
        })
    }

    /// Scores passages, of which what is kept need not be read.
    fn read_behind(
        &self,
        kept: &Kept,
        (passages, chunks): (&[Vec<u32>], &[ChunkId]),
        question: &[u32],
        meter: &mut Meter,
        scores: &mut [Option<f32>],
    ) -> Result<()> {
        let transformer = &self.model.transformer;
        let opening = [&*self.frame.before, &self.before].concat();
        let tail = [&*self.request, &self.frame.after, &question[..question.len() - 1]].concat();
        let rows = tail.len() - question.len()..tail.len();
        if !meter.allows(opening.len()) {
            return Ok(());
        }
        let mut base = transformer.cache();
        transformer.append_attending(&mut base, &opening, 0..transformer.config().n_layers, &[])?;
        meter.count(1, opening.len(), 0);
        let mut found = kept.find(&opening, passages, chunks);
        let mut first = 0;
        while first < passages.len() {
            let n_tokens = |i: usize| tail.len() + if found[i].is_none() { passages[i].len() } else { 0 };
            let Some((end, _)) = batch_from(first, passages.len(), meter, n_tokens) else { break };
            let (passages, chunks) = (&passages[first..end], &chunks[first..end]);
            let mut prompts = Vec::with_capacity(passages.len());
            while prompts.len() < passages.len() {
                let here = first + prompts.len()..end;
                let rest = (&passages[prompts.len()..], &chunks[prompts.len()..]);
                let there = found[here.clone()].to_vec();
                let blocks = kept.complete(&self.model, (&base, &opening), rest.0, rest.1, there, meter)?;
                found[here].iter_mut().zip(&blocks).for_each(|(found, block)| *found = Some(block.clone()));
                for (block, &chunk) in blocks.iter().zip(rest.1) {
                    let mut cache = base.clone();
                    if !kept.append(&self.model, &mut cache, block, chunk)? {
                        found[first + prompts.len()] = None;
                        break;
                    }
                    prompts.push(Wanted { behind: Some(cache), ids: tail.clone(), rows: rows.clone() });
                }
            }
            self.read(&prompts, question, meter, &mut scores[first..end])?;
            first = end;
        }
        kept.flush()
    }
}

impl Judge for QueryLikelihood {
    fn name(&self) -> String {
        "query-likelihood".to_owned()
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        let judge = |task: &Task<'_>| {
            let mut meter = Meter::start(budget);
            let question = self.model.encode_text(task.question, QUESTION_TOKENS)?;
            let mut scores = vec![None; task.passages.len()];
            if question.is_empty() {
                return Ok(Judgement::new(Verdict::Scores(scores), &meter));
            }
            let rest = self.frame.len() + self.before.len() + self.request.len() + question.len();
            let room = passage_room(&self.model, rest, 1, self.max_passage_tokens)?;
            let passages = task.passages.iter().map(|passage| Ok(self.model.encode_text(passage, room)?));
            let passages = passages.collect::<Result<Vec<_>>>()?;
            if let Some(kept) = self.kept.as_ref().filter(|_| task.chunks.len() == passages.len()) {
                self.read_behind(kept, (&passages, task.chunks), &question, &mut meter, &mut scores)?;
            } else {
                let prompt = |passage: &Vec<u32>| {
                    let parts = [&*self.frame.before, &self.before, passage, &self.request, &self.frame.after];
                    let mut ids = parts.concat();
                    let first = ids.len() - 1;
                    // The last token of the question need not be read.
                    ids.extend(&question[..question.len() - 1]);
                    Wanted { behind: None, rows: first..ids.len(), ids }
                };
                let prompts: Vec<Wanted> = passages.iter().map(prompt).collect();
                self.read(&prompts, &question, &mut meter, &mut scores)?;
            }
            Ok(Judgement::new(Verdict::Scores(scores), &meter))
        };
        tasks.iter().map(judge).collect()
    }
}
