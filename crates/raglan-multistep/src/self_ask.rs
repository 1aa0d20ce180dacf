//! Questions that must be answered first: IterDRAG (Yue et al., 2024) in the grammar of Self-Ask (Press et al., 2023).

use raglan_core::{Budget, Query};
use raglan_model::Prompt;

use crate::work::{Turn, Work};
use crate::{Demonstration, End, Parts, Result, StepKind, Strategy, Trail};

const FOLLOW_UP: &str = "Follow up:";
const INTERMEDIATE: &str = "Intermediate answer:";
const FINAL: &str = "So the final answer is:";

const REQUEST: &str = "Answer the question from the documents above. Where it cannot be answered at once, ask a simpler \
    question first. Every line begins with \"Follow up:\", \"Intermediate answer:\" or \"So the final answer is:\".";

/// Lets the model choose, step by step, between a follow-up question and the final answer. A follow-up question is searched
/// for, and what it finds is read with all that was found before.
///
/// The grammar is forced, not hoped for: each line begins with one of the prefixes, the likelier of two by its first
/// tokens, so that a small model keeps to it as well.
#[derive(Clone)]
pub struct SelfAsk {
    /// What it works with.
    pub parts: Parts,
    /// Passages that the question and each follow-up question find.
    pub k: usize,
    /// The most follow-up questions.
    pub max_steps: usize,
    /// How many follow-up questions are asked before the model may choose to end.
    pub min_steps: usize,
    /// Demonstrations with chains.
    pub demonstrations: Vec<Demonstration>,
}

impl SelfAsk {
    /// With at most 5 follow-up questions, as in the paper, none of them required, and no demonstrations.
    pub fn new(parts: Parts, k: usize) -> Self {
        Self { parts, k, max_steps: 5, min_steps: 0, demonstrations: Vec::new() }
    }
}

impl Strategy for SelfAsk {
    fn name(&self) -> String {
        format!("self-ask({}×{})", self.max_steps, self.k)
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        let mut work = Work::start(&self.parts, question, budget);
        work.search_question(self.k, usize::MAX)?;
        let mut transcript = String::new();
        let mut asked: Vec<String> = vec![question.text.clone()];
        let mut end = End::Steps;
        for step in 0..self.max_steps {
            let places = work.all();
            let limit = self.parts.limits.step_tokens;
            let Some(filled) = work.fill_step(&self.turn(question, &transcript), &places, limit, 3)? else {
                end = End::Budget;
                break;
            };
            let user = filled.user;
            if step >= self.min_steps {
                let weighed = work.weigh(&Prompt::new(&user, &transcript), &[FOLLOW_UP, FINAL])?;
                if weighed.best() == 1 {
                    end = End::Answered;
                    break;
                }
            }
            let reply = format!("{transcript}{FOLLOW_UP}");
            let follow_up = work.write(&Prompt::new(&user, &reply), limit, &["\n"])?.text.trim().to_owned();
            if follow_up.is_empty() || asked.contains(&follow_up) {
                // There is nothing more that it would ask.
                work.note(StepKind::FollowUp, format!("{FOLLOW_UP} {follow_up}"), Vec::new(), &Default::default());
                end = End::Answered;
                break;
            }
            asked.push(follow_up.clone());
            let gathered = work.gather(std::slice::from_ref(&follow_up), self.k, usize::MAX)?;
            let reply = format!("{transcript}{FOLLOW_UP} {follow_up}\n{INTERMEDIATE}");
            let filled = match work.found_nothing() {
                true => None, // An answer from nothing would stand among what is known.
                false => work.fill_step(&self.turn(question, &reply), &work.all(), limit, 1)?,
            };
            let answer = match filled {
                Some(filled) => {
                    let written = work.write(&Prompt::new(&filled.user, &reply), limit, &["\n"])?;
                    written.text.trim().to_owned()
                }
                None => String::new(),
            };
            transcript = format!("{reply} {answer}\n");
            let text = match answer.is_empty() {
                true => format!("{FOLLOW_UP} {follow_up}"),
                false => format!("{FOLLOW_UP} {follow_up}\n{INTERMEDIATE} {answer}"),
            };
            work.note(StepKind::FollowUp, text, vec![follow_up], &gathered);
        }
        let reply = format!("{transcript}{FINAL}");
        let places = work.all();
        work.answer(&self.turn(question, &reply), &places, end, on_text)
    }
}

impl SelfAsk {
    fn turn<'a>(&'a self, question: &'a Query, reply: &'a str) -> Turn<'a> {
        Turn {
            demonstrations: &self.demonstrations,
            question: &question.text,
            request: REQUEST,
            reply,
            ..Turn::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raglan_model::registry::ModelCache;
    use raglan_model::{ChatModel, LanguageModel, Products};

    use super::*;
    use crate::scripted::{Scripted, answered, page, parts, sources};
    use crate::{Limits, SingleStep, Unit};

    fn library() -> Vec<(String, String)> {
        vec![
            page("polonius", "Hamlet stabbed Polonius through a curtain"),
            page("play", "The play Hamlet was written by Shakespeare"),
            page("bard", "Shakespeare was born in Stratford"),
            page("other", "Bread is baked in ovens"),
        ]
    }

    fn strategy(script: &[(&'static [&'static str], &'static str)]) -> (SelfAsk, Arc<Scripted>) {
        let model = Arc::new(Scripted::new(script));
        let mut parts = parts(Scripted::new(&[]), &library(), Unit::Passages);
        parts.model = model.clone();
        (SelfAsk::new(parts, 1), model)
    }

    const SCRIPT: &[(&[&str], &str)] = &[
        (&["born?\nIntermediate answer: Stratford", "final answer is:$"], " Stratford\nand so on"),
        (&["born?\nIntermediate answer: Stratford"], "So the final answer is:"),
        (&["Shakespeare was born", "born?\nIntermediate answer:$"], " Stratford\nFollow up: forever"),
        (&["Intermediate answer: Shakespeare\nFollow up:$"], " Where was Shakespeare born?\nX"),
        (&["Intermediate answer: Shakespeare"], "Follow up:"),
        (&["written by Shakespeare", "wrote it?\nIntermediate answer:$"], " Shakespeare\n"),
        (&["@Follow up:$"], " Who wrote it?\nIntermediate answer: invented"),
        (&["@$"], "Follow up:"),
    ];

    #[test]
    fn follow_up_questions_find_what_the_question_does_not() {
        let (strategy, model) = strategy(SCRIPT);
        let trail = answered(&strategy, &"Where was who wrote the play Hamlet born?".into(), &Budget::default());
        assert_eq!((trail.answer.as_str(), trail.end), ("Stratford", End::Answered));
        let documents: Vec<Vec<String>> = trail.steps.iter().map(|step| step.documents.clone()).collect();
        assert_eq!(documents, [vec!["play".to_owned()], vec![], vec!["bard".to_owned()], vec![]]);
        let queries: Vec<&str> = trail.steps.iter().flat_map(|step| &step.queries).map(String::as_str).collect();
        assert_eq!(queries[1..], ["Who wrote it?", "Where was Shakespeare born?"]);
        // Two calls to write a step, one before it to choose, and the last two.
        assert_eq!((trail.cost.calls, model.n_calls()), (8, 8));
        let read: usize = trail.steps.iter().map(|step| step.cost.tokens_read).sum();
        assert_eq!(read, trail.cost.tokens_read);
        assert!(trail.cost.tokens_written > 0);
    }

    #[test]
    fn the_last_answer_comes_in_pieces_without_white_space_around_it() {
        let script: &[(&[&str], &str)] =
            &[(&["So the final answer is:$"], "  Stratford  upon Avon \n x"), (&["@$"], "So the final answer is:")];
        let (strategy, _) = strategy(script);
        let mut pieces: Vec<String> = Vec::new();
        let mut tell = |piece: &str| pieces.push(piece.to_owned());
        let trail = strategy.answer_streaming(&"Hamlet?".into(), &Budget::default(), &mut tell).unwrap();
        assert_eq!((trail.answer.as_str(), pieces.concat()), ("Stratford upon Avon", trail.answer.clone()));
        assert_eq!(pieces, ["Stratford", " upon", " Avon"]);
    }

    #[test]
    fn a_question_that_comes_again_ends_the_asking() {
        let (strategy, _) = strategy(&[
            (&["answer is:$"], " x"),
            (&["Follow up:$"], " Same?"),
            (&["\n$"], "Follow up:"),
            (&["@$"], "Follow up:"),
        ]);
        let trail = answered(&strategy, &"Hamlet?".into(), &Budget::default());
        let follow_ups = trail.steps.iter().filter(|step| step.kind == StepKind::FollowUp);
        let told: Vec<(&str, usize)> = follow_ups.map(|step| (step.text.as_str(), step.queries.len())).collect();
        assert_eq!(told, [("Follow up: Same?", 1), ("Follow up: Same?", 0)]);
        assert_eq!(trail.answer, "x");
    }

    #[test]
    fn steps_and_tokens_are_kept_within_their_bounds() {
        let script: &[(&[&str], &str)] = &[
            (&["So the final answer is:$"], " done"),
            (&["Q2?\nIntermediate answer:$"], " A"),
            (&["Q1?\nIntermediate answer: A\nFollow up:$"], " Q2?"),
            (&["Q1?\nIntermediate answer:$"], " A"),
            (&["@Follow up:$"], " Q1?"),
        ];
        let (strategy, _) = strategy(script);
        let mut strategy = SelfAsk { max_steps: 2, min_steps: 2, ..strategy };
        (strategy.parts.limits.step_tokens, strategy.parts.limits.answer_tokens) = (4, 4);
        let trail = answered(&strategy, &"Hamlet?".into(), &Budget::default());
        assert_eq!((trail.end, trail.answer.as_str(), trail.steps.len()), (End::Steps, "done", 4));
        let tight = Budget { tokens: Some(trail.cost.tokens() / 2), time: None };
        let cut = answered(&strategy, &"Hamlet?".into(), &tight);
        assert_eq!((cut.end, cut.answer.as_str()), (End::Budget, "done"));
        assert!(cut.steps.len() < trail.steps.len() && cut.cost.tokens() <= trail.cost.tokens() / 2);
        let late = Budget { tokens: None, time: Some(std::time::Duration::ZERO) };
        let late = answered(&strategy, &"Hamlet?".into(), &late);
        assert_eq!((late.end, late.answer.as_str(), late.cost.calls), (End::Budget, "", 0));
    }

    #[test]
    fn the_default_model_keeps_to_the_grammar_and_answers() {
        let folder = match ModelCache::new(None, true).and_then(|cache| cache.path("smollm2-135m-instruct")) {
            Ok(folder) => folder,
            Err(error) => {
                assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{error}");
                return eprintln!("skipped, for want of the model: {error}");
            }
        };
        let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
        let model = ChatModel::new(Arc::new(LanguageModel::load(path, 2, Products::Stored).unwrap()));
        let list = [
            page("light", "The lighthouse at Skerry was lit on 4 October 1906. It was built by Ada Moss."),
            page("moss", "Ada Moss was an engineer. She was born in Leith."),
            page("puffins", "Puffins nest on the northern cliffs from April to August."),
        ];
        let limits = Limits { answer_tokens: 24, step_tokens: 24, ..Limits::default() };
        let parts = Parts { model: Arc::new(model), sources: sources(&list, Unit::Passages), limits };
        let strategy = SelfAsk { max_steps: 1, min_steps: 1, ..SelfAsk::new(parts.clone(), 1) };
        let question = "When was the lighthouse at Skerry lit?".into();
        let mut pieces = 0;
        let trail = strategy.answer_streaming(&question, &Budget::default(), &mut |_| pieces += 1).unwrap();
        assert!(pieces > 1, "{trail:#?}");
        assert!(trail.steps[1].text.starts_with("Follow up: "), "{trail:#?}");
        assert!(trail.answer.contains("1906"), "{trail:#?}");
        let single = SingleStep::new(parts, 1).answer(&question, &Budget::default()).unwrap();
        assert!(single.answer.contains("1906"), "{single:#?}");
    }
}
