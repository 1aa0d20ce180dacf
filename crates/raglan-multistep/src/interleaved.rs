//! Retrieval interleaved with a chain of thought: IRCoT (Trivedi et al., 2023).

use raglan_core::{Budget, Query};
use raglan_model::Prompt;

use crate::single_step::FROM_PASSAGES;
use crate::work::{Turn, Work, first_sentence};
use crate::{Demonstration, End, Parts, Result, StepKind, Strategy, Trail};

const REQUEST: &str = "Answer the question from the documents above. Think step by step, one short sentence a step, and end \
    with \"So the answer is\" and the answer.";

/// What a thought that has the answer contains.
const ANSWER_IS: &str = "answer is";

/// Searches for the question, then for each sentence that the model thinks over what was found, until a sentence has the
/// answer; then a reader answers from the passages alone, without the thoughts.
#[derive(Clone)]
pub struct Interleaved {
    /// What it works with.
    pub parts: Parts,
    /// Passages that the question and each thought find.
    pub k: usize,
    /// The most passages in all.
    pub most_passages: usize,
    /// The most thoughts.
    pub max_steps: usize,
    /// Demonstrations.
    pub demonstrations: Vec<Demonstration>,
}

impl Interleaved {
    /// With at most 15 passages and 8 thoughts, as in the paper, which takes `k` from 2, 4, 6 and 8.
    pub fn new(parts: Parts, k: usize) -> Self {
        Self { parts, k, most_passages: 15, max_steps: 8, demonstrations: Vec::new() }
    }
}

impl Strategy for Interleaved {
    fn name(&self) -> String {
        format!("ircot({}×{})", self.max_steps, self.k)
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        let mut work = Work::start(&self.parts, question, budget);
        work.search_question(self.k, self.most_passages)?;
        let mut thoughts = String::new();
        let mut end = End::Steps;
        for _ in 0..self.max_steps {
            let turn = Turn {
                demonstrations: &self.demonstrations,
                question: &question.text,
                request: REQUEST,
                reply: &thoughts,
                ..Turn::default()
            };
            let limit = self.parts.limits.step_tokens;
            let Some(filled) = work.fill_step(&turn, &work.all(), limit, 1)? else {
                end = End::Budget;
                break;
            };
            let written = work.write(&Prompt::new(&filled.user, &thoughts), limit, &["\n"])?;
            let thought = first_sentence(written.text.trim()).0.to_owned();
            if thought.is_empty() || thoughts.contains(&thought) {
                // It has nothing new to say.
                work.note(StepKind::Sentence, thought, Vec::new(), &Default::default());
                end = End::Answered;
                break;
            }
            if !thoughts.is_empty() {
                thoughts.push(' ');
            }
            thoughts.push_str(&thought);
            let is_last = thought.to_lowercase().contains(ANSWER_IS);
            let queries = if is_last { Vec::new() } else { vec![thought.clone()] };
            let gathered = work.gather(&queries, self.k, self.most_passages)?;
            work.note(StepKind::Sentence, thought, queries, &gathered);
            if is_last {
                end = End::Answered;
                break;
            }
        }
        let turn = Turn {
            demonstrations: &self.demonstrations,
            question: &question.text,
            request: FROM_PASSAGES,
            reply: "Answer:",
            ..Turn::default()
        };
        let places = work.all();
        work.answer(&turn, &places, end, on_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unit;
    use crate::scripted::{Scripted, answered, page, parts};

    #[test]
    fn each_thought_is_searched_for_until_one_has_the_answer() {
        let list = [
            page("play", "Hamlet is by Shakespeare"),
            page("bard", "Shakespeare came from Stratford"),
            page("river", "Stratford lies on the Avon"),
        ];
        let script: &[(&[&str], &str)] = &[
            (&["@Answer:", "Avon"], " Avon"),
            (&["came from Stratford."], " So the answer is Avon. More."),
            (&["Hamlet was written by Shakespeare.", "Shakespeare came"], " He came from Stratford. It lies"),
            (&["@"], "Hamlet was written by Shakespeare. He"),
        ];
        let strategy = Interleaved::new(parts(Scripted::new(script), &list, Unit::Passages), 1);
        let trail = answered(&strategy, &"On which river was Hamlet's author born?".into(), &Budget::default());
        assert_eq!(trail.documents(), ["play"]); // Each thought finds the play again.
        let strategy = Interleaved { k: 2, ..strategy };
        let trail = answered(&strategy, &"On which river was Hamlet's author born?".into(), &Budget::default());
        assert_eq!((trail.answer.as_str(), trail.end), ("Avon", End::Answered));
        let texts: Vec<&str> = trail.steps.iter().map(|step| step.text.as_str()).collect();
        assert_eq!(
            texts[1..4],
            ["Hamlet was written by Shakespeare.", "He came from Stratford.", "So the answer is Avon."]
        );
        assert_eq!(trail.documents().len(), 3);
        assert!(trail.steps[3].queries.is_empty());
        let few = Interleaved { most_passages: 2, ..strategy };
        assert_eq!(answered(&few, &"Hamlet on the Avon?".into(), &Budget::default()).evidence.len(), 2);
    }

    #[test]
    fn a_thought_that_comes_again_ends_the_thinking() {
        let list = [page("play", "Hamlet is by Shakespeare")];
        let script: &[(&[&str], &str)] = &[(&["@Answer:"], " x"), (&["@"], "Again and again. ")];
        let strategy = Interleaved::new(parts(Scripted::new(script), &list, Unit::Passages), 4);
        let trail = answered(&strategy, &"Hamlet?".into(), &Budget::default());
        assert_eq!((trail.answer.as_str(), trail.cost.calls, trail.end), ("x", 3, End::Answered));
    }
}
