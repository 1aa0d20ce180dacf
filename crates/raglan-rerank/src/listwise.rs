//! All passages of a window in one prompt, put in order: by what the model writes (RankGPT; Sun et al. 2023), or by what
//! it would write first (FIRST; Gangi Reddy et al. 2024).

use std::sync::Arc;

use raglan_core::Meter;
use raglan_model::{ChatFrame, LanguageModel, Session};

use crate::prompt::{Labels, Wanted, encode, passage_room, read_prompts};
use crate::query_likelihood::QUESTION_TOKENS;
use crate::{Budget, Error, Judge, Judgement, Result, Task, Verdict};

/// Puts passages in order, a window after the other from the end of the list to its front, so that the best of a window
/// stand in the next one too.
#[derive(Debug)]
pub struct Listwise {
    model: Arc<LanguageModel>,
    frame: ChatFrame,
    labels: Labels,
    words: Words,
    reading: ListReading,
    window: usize,
    step: usize,
    max_passage_tokens: usize,
}

#[derive(Debug)]
struct Words {
    opening: Vec<u32>,
    passage: Vec<Vec<u32>>,
    question: Vec<u32>,
    request: Vec<u32>,
}

/// How the order is told from the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListReading {
    /// It writes all labels in order; those it leaves out or repeats keep the order they had.
    Generated,
    /// By how likely it begins with each label: one forward, and nothing is written.
    FirstToken,
}

/// The most passages in a window: there are as many letters.
const MOST: usize = 26;

impl Listwise {
    /// A judge with windows of `window` passages that move by `step`, and of which it reads up to `max_passage_tokens`
    /// each. The usual sizes are 20 and 10.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a window is not of 2 to 26 passages, or does not move by 1 up to its size;
    /// [`Error::Labels`].
    pub fn new(
        model: Arc<LanguageModel>,
        reading: ListReading,
        window: usize,
        step: usize,
        max_passage_tokens: usize,
    ) -> Result<Self> {
        if !(2..=MOST).contains(&window) {
            return Err(Error::Parameter { name: "window", problem: format!("is {window}, and must be 2 to {MOST}") });
        }
        if !(1..=window).contains(&step) {
            return Err(Error::Parameter { name: "step", problem: format!("is {step}, and must be 1 to {window}") });
        }
        let labels = Labels::of(&model, window)?;
        let passage = (0..window).map(|i| encode(&model, &format!("\n[{}] ", Labels::label(i))));
        Ok(Self {
            frame: ChatFrame::of_user(&model)?,
            words: Words {
                opening: encode(&model, "Passages, each behind a letter in brackets:\n")?,
                passage: passage.collect::<Result<_>>()?,
                question: encode(&model, "\n\nQuestion: ")?,
                request: encode(
                    &model,
                    "\n\nPut the passages in order of their relevance to the question, the most relevant first, as in \
                     [B] > [A]. Write nothing but the letters.",
                )?,
            },
            labels,
            reading,
            window,
            step,
            max_passage_tokens,
            model,
        })
    }

    fn prompt(&self, question: &[u32], passages: &[&[u32]]) -> Vec<u32> {
        let mut ids = [&*self.frame.before, &self.words.opening].concat();
        for (label, passage) in self.words.passage.iter().zip(passages) {
            ids.extend(label);
            ids.extend(*passage);
        }
        let Words { question: before, request, .. } = &self.words;
        [&*ids, before, question, request, &self.frame.after, &self.labels.bracket].concat()
    }

    /// The places of a window's passages in their new order, or none when the budget does not allow to ask.
    fn order(&self, question: &[u32], passages: &[&[u32]], meter: &mut Meter) -> Result<Option<Vec<usize>>> {
        let prompt = self.prompt(question, passages);
        let letters = &self.labels.letters[..passages.len()];
        match self.reading {
            ListReading::FirstToken => {
                let mut order = None;
                read_prompts(&self.model, &[Wanted::next(prompt)], meter, |_, logits| {
                    let mut by_logit: Vec<usize> = (0..letters.len()).collect();
                    let logit = |i: usize| logits[letters[i] as usize];
                    by_logit.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)));
                    order = Some(by_logit);
                    Ok(())
                })?;
                Ok(order)
            }
            ListReading::Generated => {
                if !meter.allows(prompt.len()) {
                    return Ok(None);
                }
                let written = self.write(&prompt, passages.len(), meter)?;
                Ok(Some(order_of(&format!("[{written}"), passages.len())))
            }
        }
    }

    /// What the model writes: at most as many tokens as all labels with their brackets and signs take.
    fn write(&self, prompt: &[u32], n_passages: usize, meter: &mut Meter) -> Result<String> {
        let mut session: Session<'_> = self.model.transformer.session();
        let mut logits = session.prefill(prompt)?;
        meter.count(1, prompt.len(), 0);
        let most = (6 * n_passages).min(self.model.transformer.config().context_len - prompt.len());
        let mut written = Vec::new();
        while written.len() < most && meter.allows(1) {
            let best = raglan_kernels::top_k(&logits, 1)?[0].1;
            if self.model.transformer.config().end_tokens.contains(&best) {
                break;
            }
            written.push(best);
            meter.count(0, 0, 1);
            if written.len() < most {
                logits = session.step(best)?;
            }
        }
        Ok(self.model.tokenizer.decode(&written)?)
    }
}

/// The passages that a text names by their letters in brackets, each where it comes first; what it does not name follows.
fn order_of(text: &str, n_passages: usize) -> Vec<usize> {
    let mut order = Vec::with_capacity(n_passages);
    for after in text.split('[').skip(1) {
        let mut chars = after.trim_start().chars();
        if let (Some(letter @ 'A'..='Z'), Some(']')) = (chars.next(), chars.find(|c| !c.is_whitespace())) {
            let i = (letter as u8 - b'A') as usize;
            if i < n_passages && !order.contains(&i) {
                order.push(i);
            }
        }
    }
    let rest: Vec<usize> = (0..n_passages).filter(|i| !order.contains(i)).collect();
    order.extend(rest);
    order
}

impl Judge for Listwise {
    fn name(&self) -> String {
        let method = match self.reading {
            ListReading::Generated => "listwise",
            ListReading::FirstToken => "first",
        };
        format!("{method}({}/{})", self.window, self.step)
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        let judge = |task: &Task<'_>| {
            let mut meter = Meter::start(budget);
            let question = self.model.encode_text(task.question, QUESTION_TOKENS)?;
            let n = task.passages.len();
            let window = self.window.min(n);
            let labels: usize = self.words.passage[..window].iter().map(Vec::len).sum();
            let written = 6 * window;
            let rest = self.prompt(&question, &[]).len() + labels + written;
            let room = passage_room(&self.model, rest, window, self.max_passage_tokens)?;
            let passages = task.passages.iter().map(|passage| Ok(self.model.encode_text(passage, room)?));
            let passages = passages.collect::<Result<Vec<_>>>()?;
            let mut order: Vec<usize> = (0..n).collect();
            let mut end = n;
            while end > 1 {
                let start = end.saturating_sub(window);
                let shown: Vec<&[u32]> = order[start..end].iter().map(|&i| &*passages[i]).collect();
                let Some(new) = self.order(&question, &shown, &mut meter)? else { break };
                let before = order[start..end].to_vec();
                for (place, from) in order[start..end].iter_mut().zip(new) {
                    *place = before[from];
                }
                // The last window is as large as the others.
                end = if start == 0 { 0 } else { (end - self.step).max(window) };
            }
            Ok(Judgement::new(Verdict::Order(order), &meter))
        };
        tasks.iter().map(judge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_written_every_passage_has_one_place() {
        assert_eq!(order_of("[B] > [A] > [C]", 3), [1, 0, 2]);
        assert_eq!(order_of("[C] > [C] > [Z] [AB] [ A ]", 4), [2, 0, 1, 3]);
        assert_eq!(order_of("", 2), [0, 1]);
        assert_eq!(order_of("[[B", 2), [0, 1]);
        assert_eq!(order_of("I think [1] > [2]", 2), [0, 1]);
    }
}
