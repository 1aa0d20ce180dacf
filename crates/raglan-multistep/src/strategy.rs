//! What every way of answering in steps is asked, and what it tells of its work.

use raglan_core::{Budget, ChunkId, Cost, Passage, Query};
use serde::Serialize;

use crate::Result;

/// A way to answer a question by searching and reading, in one step or several.
pub trait Strategy: Send + Sync {
    /// A short name with the parameters that matter, such as `self-ask(5×4)`.
    fn name(&self) -> String;

    /// Answers a question within a budget; only chunks that the question allows are read.
    ///
    /// The budget is looked at before each step, so that what is left reads the last prompt; a trail ends without an answer
    /// when not even the question fits into what is left. When time is up, the answer is still given from what was found.
    ///
    /// When all that was searched for found nothing, the trail is a refusal: the model is not asked for an answer that no
    /// passage could bear out.
    ///
    /// # Errors
    ///
    /// When a part fails. What the model writes never is an error.
    fn answer(&self, question: &Query, budget: &Budget) -> Result<Trail> {
        self.answer_streaming(question, budget, &mut |_| {})
    }

    /// As [`answer`](Self::answer); `on_text` is called with each piece of the answer that stands, as it is made.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail>;
}

impl<S: Strategy + ?Sized> Strategy for std::sync::Arc<S> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        (**self).answer_streaming(question, budget, on_text)
    }
}

/// How a question was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Trail {
    /// The answer; empty when the budget did not allow one.
    pub answer: String,
    /// Whether the answer is a refusal.
    pub refused: bool,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// What was found, in the order in which it came; no chunk comes twice.
    pub evidence: Vec<Passage>,
    /// Places in `evidence` of what stood in the prompt of the answer, in the order in which it stood there.
    pub shown: Vec<usize>,
    /// What it cost.
    pub cost: Cost,
    /// Why it ended.
    pub end: End,
}

/// Why a trail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The strategy was through, or the model had its answer.
    Answered,
    /// The most steps were taken, and the answer was asked for.
    Steps,
    /// The budget allowed no further step.
    Budget,
}

/// One step: what the model wrote, what was looked for with it, and what that found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Step {
    /// What was done.
    pub kind: StepKind,
    /// What the model wrote in it.
    pub text: String,
    /// What was looked for.
    pub queries: Vec<String>,
    /// Chunks that were found and were not there before, in order.
    pub found: Vec<ChunkId>,
    /// The documents of those chunks that were not there before, by path, in order.
    pub documents: Vec<String>,
    /// What the step cost.
    pub cost: Cost,
}

/// What is done in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Looking for the question itself.
    #[default]
    Search,
    /// A question that must be answered first, and its answer.
    FollowUp,
    /// A sentence of a chain of thought, or of the answer.
    Sentence,
    /// Queries that the model planned.
    Plan,
    /// An attempt to answer, that the model was or was not sure of.
    Attempt,
    /// The answer from what was found.
    Answer,
    /// A look at whether the evidence bears the answer out.
    Check,
    /// What is to be remembered of the question.
    Thought,
}

impl Trail {
    /// The distinct documents of the evidence, by path, in the order in which they came.
    pub fn documents(&self) -> Vec<&str> {
        distinct(self.evidence.iter())
    }

    /// The distinct documents of what stood in the prompt of the answer, by path, in that order.
    pub fn shown_documents(&self) -> Vec<&str> {
        distinct(self.shown.iter().map(|&i| &self.evidence[i]))
    }
}

fn distinct<'a>(passages: impl Iterator<Item = &'a Passage>) -> Vec<&'a str> {
    let mut paths: Vec<&str> = Vec::new();
    for passage in passages {
        let path = passage.document.path.as_str();
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::scripted::{Scripted, answered, page, parts};
    use crate::work::REFUSAL;
    use crate::{Adaptive, Flare, Interleaved, Parts, Refusing, SearchPlan, SelfAsk, SingleStep, Trigger, Unit};

    /// Steps for each strategy, and an answer for whoever asks for one.
    const SCRIPT: &[(&[&str], &str)] = &[
        (&["Follow up:$"], " Which stripes?"),
        (&["@$", "Follow up:"], "Follow up:"),
        (&["1.$"], " zebra stripes"),
        (&["@Answer:"], " Black~0.6 ones"),
        (&["@$"], "They may be black."),
    ];

    fn parts_of(text: &str) -> (Parts, Arc<Scripted>) {
        let model = Arc::new(Scripted::new(SCRIPT));
        let parts = parts(Scripted::new(&[]), &[page("animals", text)], Unit::Passages);
        (Parts { model: model.clone(), ..parts }, model)
    }

    #[test]
    fn where_nothing_is_found_no_answer_is_asked_for() {
        // With the calls that a strategy makes on the way.
        type Named = (fn(Parts) -> Box<dyn Strategy>, usize);
        let strategies: [Named; 8] = [
            (|parts| Box::new(SingleStep::new(parts, 2)), 0),
            (|parts| Box::new(Refusing::new(SingleStep::new(parts, 2))), 0),
            // Choice and follow-up question, twice, and then the same question again.
            (|parts| Box::new(SelfAsk::new(parts, 2)), 4),
            (|parts| Box::new(Interleaved::new(parts, 2)), 2),
            (|parts| Box::new(SearchPlan { k: 2, ..SearchPlan::new(parts) }), 2),
            (|parts| Box::new(Adaptive::new(parts, Trigger::FirstToken { least: 0.9 })), 1),
            (|parts| Box::new(Adaptive::new(parts, Trigger::Always)), 1),
            (|parts| Box::new(Flare { theta: 0.5, ..Flare::new(parts) }), 1),
        ];
        let question = "What has a zebra?".into();
        for (strategy, n_calls) in strategies {
            let (parts, model) = parts_of("Cats sleep");
            let strategy = strategy(parts);
            let trail = answered(&*strategy, &question, &Budget::default());
            assert_eq!((trail.answer.as_str(), trail.refused), (REFUSAL, true), "{}", strategy.name());
            assert_eq!(model.n_calls(), n_calls, "{}: {:#?}", strategy.name(), trail.steps);
            assert!(trail.steps.iter().any(|step| !step.queries.is_empty()), "{}", strategy.name());
        }
    }

    #[test]
    fn what_is_not_to_be_searched_for_is_answered_from_memory() {
        let (parts, _) = parts_of("Cats sleep");
        let question = "What has a zebra?".into();
        let sure = Adaptive::new(parts.clone(), Trigger::FirstToken { least: 0.5 });
        let unasked = Adaptive { max_rounds: 0, ..Adaptive::new(parts.clone(), Trigger::Always) };
        for strategy in [&SingleStep::new(parts, 0) as &dyn Strategy, &sure, &unasked] {
            let trail = answered(strategy, &question, &Budget::default());
            assert_eq!((trail.answer.as_str(), trail.refused), ("Black ones", false), "{}", strategy.name());
        }
    }

    #[test]
    fn what_an_attempt_finds_is_read() {
        let (parts, _) = parts_of("Black cats sleep");
        let unsure = Adaptive::new(parts.clone(), Trigger::FirstToken { least: 0.9 });
        let flare = Flare { theta: 0.5, ..Flare::new(parts) };
        for strategy in [&unsure as &dyn Strategy, &flare] {
            let trail = answered(strategy, &"What has a zebra?".into(), &Budget::default());
            assert!(!trail.refused && trail.shown_documents() == ["animals"], "{}: {trail:#?}", strategy.name());
        }
    }
}
