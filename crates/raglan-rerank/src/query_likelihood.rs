//! How likely a passage makes the question (query likelihood; Sachan et al. 2022).

use std::sync::Arc;

use raglan_core::Meter;
use raglan_kernels::log_softmax_at;
use raglan_model::{ChatFrame, LanguageModel};

use crate::prompt::{Wanted, encode, passage_room, read_prompts};
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
            model,
        })
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
            let prompts = task.passages.iter().map(|passage| {
                let passage = self.model.encode_text(passage, room)?;
                let parts = [&*self.frame.before, &self.before, &passage, &self.request, &self.frame.after];
                let mut ids = parts.concat();
                let first = ids.len() - 1;
                // The last token of the question need not be read.
                ids.extend(&question[..question.len() - 1]);
                Ok(Wanted { rows: first..ids.len(), ids })
            });
            let prompts = prompts.collect::<Result<Vec<_>>>()?;
            let vocabulary = self.model.transformer.config().vocab_size;
            read_prompts(&self.model, &prompts, &mut meter, |i, logits| {
                let mut sum = 0.0;
                for (logits, &token) in logits.chunks_exact(vocabulary).zip(&question) {
                    let mut log_probability = [0.0];
                    log_softmax_at(logits, &[token], &mut log_probability)?;
                    sum += f64::from(log_probability[0]);
                }
                scores[i] = Some((sum / question.len() as f64) as f32);
                Ok(())
            })?;
            Ok(Judgement::new(Verdict::Scores(scores), &meter))
        };
        tasks.iter().map(judge).collect()
    }
}
