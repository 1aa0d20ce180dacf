//! One search, one reading: DRAG (Yue et al., 2024), which without demonstrations is plain retrieval-augmented generation,
//! and without passages asks the model alone.

use raglan_core::{Budget, Query};

use crate::work::{Turn, Work};
use crate::{Demonstration, End, Parts, Result, Strategy, Trail};

/// Reads `m` demonstrations and the best `k` passages, the best of them last, and answers.
#[derive(Clone)]
pub struct SingleStep {
    /// What it works with.
    pub parts: Parts,
    /// Passages.
    pub k: usize,
    /// Demonstrations, in the order in which they stand.
    pub demonstrations: Vec<Demonstration>,
}

/// Asks for an answer from passages.
pub(crate) const FROM_PASSAGES: &str =
    "Answer the question from the documents above. Reply with the answer alone, in a few words.";
/// Asks for an answer without passages.
pub(crate) const FROM_MEMORY: &str = "Reply with the answer alone, in a few words.";

impl SingleStep {
    /// Without demonstrations.
    pub fn new(parts: Parts, k: usize) -> Self {
        Self { parts, k, demonstrations: Vec::new() }
    }
}

impl Strategy for SingleStep {
    fn name(&self) -> String {
        match (self.k, self.demonstrations.len()) {
            (0, 0) => "closed-book".to_owned(),
            (k, 0) => format!("single({k})"),
            (k, m) => format!("drag({k},{m})"),
        }
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        let mut work = Work::start(&self.parts, question, budget);
        if self.k > 0 {
            work.search_question(self.k, self.k)?;
        }
        let places = work.all();
        let turn = Turn {
            demonstrations: &self.demonstrations,
            question: &question.text,
            request: if self.k == 0 { FROM_MEMORY } else { FROM_PASSAGES },
            reply: "Answer:",
            best_last: true,
            ..Turn::default()
        };
        work.answer(&turn, &places, End::Answered, on_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Scripted, answered, page, parts};
    use crate::{StepKind, Unit};

    #[test]
    fn demonstrations_come_first_and_the_best_passage_last() {
        let list = [page("a", "tower built 1889"), page("b", "the tower"), page("c", "a cat")];
        let model = std::sync::Arc::new(Scripted::new(&[(&["Document [1]"], " 1889\nQuestion: more")]));
        let mut parts = parts(Scripted::new(&[]), &list, Unit::Passages);
        parts.model = model.clone();
        let demonstration =
            Demonstration { question: "Q?".to_owned(), answer: "A".to_owned(), ..Demonstration::default() };
        let strategy = SingleStep { demonstrations: vec![demonstration], ..SingleStep::new(parts, 2) };
        assert_eq!(strategy.name(), "drag(2,1)");
        let trail = answered(&strategy, &"When was the tower built?".into(), &Budget::default());
        assert_eq!((trail.answer.as_str(), trail.end), ("1889", End::Answered));
        assert_eq!(trail.documents(), ["a", "b"]);
        assert_eq!(trail.shown_documents(), ["b", "a"]);
        let user = &model.prompts.lock().unwrap()[0].0;
        let places =
            ["Question: Q?\nAnswer: A", "Document [1]\nthe tower", "Document [2]\ntower built", "Question: When"];
        let places: Vec<usize> = places.iter().map(|part| user.find(part).unwrap()).collect();
        assert!(places.is_sorted(), "{user}");
        let kinds: Vec<StepKind> = trail.steps.iter().map(|step| step.kind).collect();
        assert_eq!(kinds, [StepKind::Search, StepKind::Answer]);
        assert_eq!(trail.cost.calls, 1);
        assert_eq!(trail.steps[1].cost.tokens_read, trail.cost.tokens_read);
    }

    #[test]
    fn without_passages_the_model_is_asked_alone() {
        let parts = parts(Scripted::new(&[(&["in a few words"], " Paris")]), &[], Unit::Passages);
        let trail = SingleStep::new(parts.clone(), 0).answer(&"Capital?".into(), &Budget::default()).unwrap();
        assert_eq!((trail.answer.as_str(), trail.steps.len()), ("Paris", 1));
        let trail = SingleStep::new(parts.clone(), 0)
            .answer(&"Capital?".into(), &Budget { tokens: Some(9), time: None })
            .unwrap();
        assert_eq!((trail.answer.as_str(), trail.end, trail.cost.calls), ("", End::Budget, 0));
        let late = Budget { tokens: None, time: Some(std::time::Duration::ZERO) };
        let trail = SingleStep::new(parts, 0).answer(&"Capital?".into(), &late).unwrap();
        assert_eq!((trail.answer.as_str(), trail.end, trail.cost.calls), ("", End::Budget, 0));
    }
}
