//! Whether a passage answers the question, as one word.

use std::sync::Arc;

use raglan_core::Meter;
use raglan_model::{ChatFrame, LanguageModel};

use crate::prompt::{Wanted, encode, passage_room, read_prompts};
use crate::query_likelihood::QUESTION_TOKENS;
use crate::{Budget, Error, Judge, Judgement, Result, Task, Verdict};

/// Scores a passage by the model's readiness to say yes rather than no when asked whether it answers the question:
/// `logit(Yes) − logit(No)`, whose logistic function is the probability among the two.
#[derive(Debug)]
pub struct YesNo {
    model: Arc<LanguageModel>,
    frame: ChatFrame,
    before: Vec<u32>,
    between: Vec<u32>,
    request: Vec<u32>,
    /// The first tokens of yes and no.
    words: [u32; 2],
    max_passage_tokens: usize,
}

impl YesNo {
    /// A judge that reads up to `max_passage_tokens` of each passage.
    ///
    /// # Errors
    ///
    /// [`Error::Labels`] when yes and no begin with the same token.
    pub fn new(model: Arc<LanguageModel>, max_passage_tokens: usize) -> Result<Self> {
        let first = |word: &str| {
            let ids = encode(&model, word)?;
            ids.first().copied().ok_or_else(|| Error::Labels { label: word.to_owned() })
        };
        let words = [first("Yes")?, first("No")?];
        if words[0] == words[1] {
            return Err(Error::Labels { label: "No".to_owned() });
        }
        Ok(Self {
            frame: ChatFrame::of_user(&model)?,
            before: encode(&model, "Passage:\n")?,
            between: encode(&model, "\n\nQuestion: ")?,
            request: encode(&model, "\n\nDoes the passage answer the question? Reply with Yes or No.")?,
            words,
            max_passage_tokens,
            model,
        })
    }
}

impl Judge for YesNo {
    fn name(&self) -> String {
        "yes-no".to_owned()
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        let judge = |task: &Task<'_>| {
            let mut meter = Meter::start(budget);
            let question = self.model.encode_text(task.question, QUESTION_TOKENS)?;
            let rest = self.frame.len() + self.before.len() + self.between.len() + self.request.len() + question.len();
            let room = passage_room(&self.model, rest, 1, self.max_passage_tokens)?;
            let prompts = task.passages.iter().map(|passage| {
                let passage = self.model.encode_text(passage, room)?;
                let Self { before, between, request, frame, .. } = self;
                let parts = [&*frame.before, before, &passage, between, &question, request, &frame.after];
                Ok(Wanted::next(parts.concat()))
            });
            let prompts = prompts.collect::<Result<Vec<_>>>()?;
            let mut scores = vec![None; prompts.len()];
            read_prompts(&self.model, &prompts, &mut meter, |i, logits| {
                let [yes, no] = self.words.map(|word| logits[word as usize]);
                scores[i] = Some(yes - no);
                Ok(())
            })?;
            Ok(Judgement::new(Verdict::Scores(scores), &meter))
        };
        tasks.iter().map(judge).collect()
    }
}
