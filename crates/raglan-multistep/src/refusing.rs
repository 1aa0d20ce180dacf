//! Refusal when the evidence is missing.

use std::collections::HashSet;
use std::sync::Arc;

use raglan_core::{Budget, Meter, Query};
use raglan_model::{Prompt, TextModel};

use crate::work::{REFUSAL, passage_text};
use crate::{Error, Result, Step, StepKind, Strategy, Trail};

/// Answers as another strategy does, where the passages that it read bear the answer out; else refuses.
#[derive(Clone)]
pub struct Refusing<S> {
    /// What answers.
    pub strategy: S,
    /// What is asked of the evidence.
    pub check: EvidenceCheck,
    /// What is said instead of an answer.
    pub refusal: String,
}

/// What is asked of the evidence.
#[derive(Clone)]
pub enum EvidenceCheck {
    /// Of the answer's words that are not the question's, at least this share stands in the passages that were read. An
    /// answer of the question's words alone, or of none, is borne out by any passage.
    Words {
        /// From 0 to 1.
        least: f32,
    },
    /// A model's log-odds of `Yes` against `No` are at least this, when it is asked whether the passages that were read
    /// answer the question.
    Model {
        /// What is asked.
        model: Arc<dyn TextModel>,
        /// Nats.
        least: f32,
    },
}

/// Words that any text has.
const COMMON: [&str; 24] = [
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "he", "in", "is", "it", "its", "of", "on", "or", "she",
    "that", "the", "they", "to", "was", "were",
];

impl<S: Strategy> Refusing<S> {
    /// With half of the words.
    pub fn new(strategy: S) -> Self {
        Self { strategy, check: EvidenceCheck::Words { least: 0.5 }, refusal: REFUSAL.to_owned() }
    }
}

impl<S: Strategy> Strategy for Refusing<S> {
    fn name(&self) -> String {
        let check = match self.check {
            EvidenceCheck::Words { least } => format!("words≥{least}"),
            EvidenceCheck::Model { least, .. } => format!("model≥{least}"),
        };
        format!("refusing({},{check})", self.strategy.name())
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        let mut trail = self.strategy.answer(question, budget)?;
        if trail.refused {
            trail.answer.clone_from(&self.refusal);
        }
        if trail.refused || trail.answer.is_empty() {
            on_text(&trail.answer);
            return Ok(trail);
        }
        let meter = Meter::start(budget);
        let texts: Vec<String> = trail.shown.iter().map(|&i| passage_text(&trail.evidence[i])).collect();
        let (is_borne_out, cost) = match &self.check {
            _ if texts.is_empty() => (false, meter.cost()),
            EvidenceCheck::Words { least } => (support(&question.text, &trail.answer, &texts) >= *least, meter.cost()),
            EvidenceCheck::Model { model, least } => ask(&**model, question, &texts, *least, meter)?,
        };
        trail.cost += cost;
        let text = if is_borne_out { "borne out" } else { "not borne out" };
        trail.steps.push(Step { kind: StepKind::Check, text: text.to_owned(), cost, ..Step::default() });
        if !is_borne_out {
            trail.answer.clone_from(&self.refusal);
            trail.refused = true;
        }
        on_text(&trail.answer); // Only now is it known to stand.
        Ok(trail)
    }
}

/// The share of the answer's words, without common ones and those of the question, that the passages have; 1 when there
/// are no such words.
fn support(question: &str, answer: &str, passages: &[String]) -> f32 {
    let question = words(question);
    let wanted: HashSet<String> =
        words(answer).into_iter().filter(|word| !question.contains(word) && !COMMON.contains(&&**word)).collect();
    if wanted.is_empty() {
        return 1.0;
    }
    let there: HashSet<String> = passages.iter().flat_map(|passage| words(passage)).collect();
    wanted.intersection(&there).count() as f32 / wanted.len() as f32
}

fn words(text: &str) -> HashSet<String> {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn ask(
    model: &dyn TextModel,
    question: &Query,
    texts: &[String],
    least: f32,
    mut meter: Meter,
) -> Result<(bool, raglan_core::Cost)> {
    let request = format!("Question: {}\nDo the documents answer the question? Reply with Yes or No.", question.text);
    let limit = model.context_len();
    let needed = model.count_prompt(&Prompt::new(&request, ""))? + 2;
    if needed > limit {
        return Err(Error::NoRoom { needed, limit });
    }
    let mut room = limit - needed;
    let mut user = String::new();
    for text in texts {
        let n = model.count(text)? + 2;
        if n <= room {
            room -= n;
            user.push_str(text);
            user.push_str("\n\n");
        }
    }
    user.push_str(&request);
    let weighed = model.weigh(&Prompt::new(&user, ""), &["Yes", "No"], &mut meter)?;
    Ok((weighed.margin() >= f64::from(least), meter.cost()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Scripted, page, parts};
    use crate::{SingleStep, Unit};

    const SCRIPT: &[(&[&str], &str)] = &[
        (&["Do the documents answer", "What height"], "No"),
        (&["Do the documents answer"], "Yes"),
        (&["What height"], " 330 metres"),
        (&["opened"], " In 1889"),
    ];

    fn answered(question: &str, check: Option<EvidenceCheck>, k: usize) -> Trail {
        let list = [page("history", "The tower opened in 1889")];
        let mut strategy = Refusing::new(SingleStep::new(parts(Scripted::new(SCRIPT), &list, Unit::Passages), k));
        strategy.check = check.unwrap_or(strategy.check);
        crate::scripted::answered(&strategy, &question.into(), &Budget::default())
    }

    #[test]
    fn an_answer_that_no_passage_bears_out_is_refused() {
        let model = || EvidenceCheck::Model { model: Arc::new(Scripted::new(SCRIPT)), least: 0.0 };
        for check in [None, Some(model())] {
            let right = answered("When was the tower opened?", check.clone(), 1);
            assert_eq!((right.refused, right.answer.as_str()), (false, "In 1889"));
            let wrong = answered("What height has the tower?", check, 1);
            assert_eq!((wrong.refused, wrong.answer.as_str()), (true, "The documents do not say."));
            assert_eq!(wrong.steps.last().unwrap().kind, StepKind::Check);
        }
        let closed = answered("When was the tower opened?", None, 0);
        assert!(closed.refused, "nothing was read");
    }

    #[test]
    fn words_of_the_question_bear_nothing_out() {
        let passages = ["Ada met Bob in Rome".to_owned()];
        let check = |answer: &str, expected: f32| {
            let got = support("Where did Ada meet?", answer, &passages);
            assert!((got - expected).abs() <= 1e-6, "{answer}: {got}");
        };
        check("In Rome", 1.0);
        check("Ada was in Oslo", 0.0);
        check("Bob, in Oslo", 0.5);
        check("Ada", 1.0);
    }
}
