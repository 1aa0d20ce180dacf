//! Searches that the model plans over what it has read so far: the multi-step protocol of FRAMES (Krishna et al., 2024).

use raglan_core::{Budget, Query};
use raglan_model::Prompt;

use crate::single_step::FROM_PASSAGES;
use crate::sources::Gathered;
use crate::work::{Turn, Work};
use crate::{End, Parts, Result, StepKind, Strategy, Trail};

/// For some steps the model reads what was found, and writes some queries, each of which adds its best documents that
/// are not there yet; then it answers.
#[derive(Clone)]
pub struct SearchPlan {
    /// What it works with; FRAMES counts documents.
    pub parts: Parts,
    /// Steps.
    pub steps: usize,
    /// Queries of a step.
    pub queries: usize,
    /// Documents, or passages, that each query finds.
    pub k: usize,
    /// What the model is told of planning.
    pub hints: Hints,
    /// Whether the question itself is looked for in the first step, beside the model's queries.
    pub search_question: bool,
}

/// What a model is told of planning searches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hints {
    /// Nothing but what to write.
    None,
    /// To think step by step, not to repeat itself, and not to stop early, with an example: what made steps worth their
    /// cost in FRAMES.
    #[default]
    Planning,
}

const PLAIN: &str = "Write search queries that would find what is needed to answer the question, one a line.";
const PLANNING: &str = "Think step by step: which facts are needed, which of them stand in the documents above, and which \
    are missing? Write search queries for what is missing, one a line. Do not repeat a query, and do not stop before \
    everything is found.\nExample: for \"Who is older, the author of Emma or the composer of Aida?\" write\n1. author of \
    Emma\n2. composer of Aida";

impl SearchPlan {
    /// With 5 steps of 5 queries that find 10 documents each, the largest setting of FRAMES, and hints.
    pub fn new(parts: Parts) -> Self {
        Self { parts, steps: 5, queries: 5, k: 10, hints: Hints::Planning, search_question: true }
    }
}

impl Strategy for SearchPlan {
    fn name(&self) -> String {
        format!("plan({}×{}×{})", self.steps, self.queries, self.k)
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        let mut work = Work::start(&self.parts, question, budget);
        let mut asked: Vec<String> = Vec::new();
        let mut end = End::Answered;
        for step in 0..self.steps {
            let request = self.request(&asked);
            // The number makes the list begin; a small model would greet first.
            let turn = Turn { question: &question.text, request: &request, reply: "1.", ..Turn::default() };
            let limit = self.parts.limits.step_tokens * self.queries.clamp(1, 4);
            let Some(filled) = work.fill_step(&turn, &work.all(), limit, 1)? else {
                end = End::Budget;
                break;
            };
            let written = work.write(&Prompt::new(&filled.user, "1."), limit, &["\n\n"])?;
            let mut queries: Vec<String> = Vec::new();
            if step == 0 && self.search_question {
                queries.push(question.text.clone());
            }
            let planned = listed(&written.text);
            let new = planned.into_iter().filter(|query| !asked.contains(query) && *query != question.text);
            queries.extend(new.take(self.queries));
            if queries.is_empty() {
                work.note(StepKind::Plan, written.text, queries, &Gathered::default());
                break; // It has nothing more to look for.
            }
            let gathered = work.gather(&queries, self.k, usize::MAX)?;
            asked.extend(queries.iter().cloned());
            work.note(StepKind::Plan, written.text, queries, &gathered);
        }
        if end == End::Budget && work.evidence.passages.is_empty() && self.search_question {
            work.search_question(self.k, usize::MAX)?;
        }
        let places = work.all();
        let turn = Turn { question: &question.text, request: FROM_PASSAGES, reply: "Answer:", ..Turn::default() };
        work.answer(&turn, &places, end, on_text)
    }
}

impl SearchPlan {
    fn request(&self, asked: &[String]) -> String {
        let mut request = match self.hints {
            Hints::None => PLAIN,
            Hints::Planning => PLANNING,
        }
        .to_owned();
        if !asked.is_empty() {
            request.push_str("\nQueries so far: ");
            request.push_str(&asked.join("; "));
        }
        request.push_str(&format!("\nWrite at most {} queries.", self.queries));
        request
    }
}

/// The lines of a list without their numbers, dashes and quotes, no line twice.
fn listed(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = line.trim().trim_start_matches(['-', '*', '•']).trim_start();
        let unnumbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let line = match unnumbered.strip_prefix(['.', ')', ':']) {
            Some(rest) if unnumbered.len() < line.len() && rest.trim_start().len() < rest.len().max(1) => rest,
            _ => line,
        };
        let line = line.trim().trim_matches(['"', '“', '”', '`']).trim();
        if line.chars().any(char::is_alphanumeric) && !lines.iter().any(|other| other == line) {
            lines.push(line.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unit;
    use crate::scripted::{Scripted, answered, page, parts};

    #[test]
    fn lists_are_read_however_they_are_marked() {
        let text =
            " capital of France\n2. \"river of Paris\"\n- a\n* 1984 film\n3) \n1.5 million people\ncapital of France";
        let expected = ["capital of France", "river of Paris", "a", "1984 film", "1.5 million people"];
        assert_eq!(listed(text), expected);
        assert!(listed("").is_empty());
    }

    fn strategy() -> SearchPlan {
        let list = [
            page("emma", "Emma is a novel by Austen"),
            page("austen", "Austen was born in 1775"),
            page("aida", "Aida is an opera by Verdi"),
            page("verdi", "Verdi was born in 1813"),
            page("bread", "Bread was baked"),
        ];
        let script: &[(&[&str], &str)] = &[
            (&["@Answer:", "1775", "1813"], " Austen\nbecause"),
            (&["@Answer:"], " unknown"),
            (
                &["Queries so far", "novel by Austen", "opera by Verdi"],
                " Austen 1775\n2. Verdi 1813\n3. novel Emma\n4. more",
            ),
            (&["@1."], " novel Emma\n2. opera Aida\n\nThen"),
        ];
        let parts = parts(Scripted::new(script), &list, Unit::Documents);
        SearchPlan { steps: 2, queries: 2, k: 1, search_question: false, ..SearchPlan::new(parts) }
    }

    #[test]
    fn what_was_read_plans_what_is_looked_for_next() {
        let question = Query::new("Who is older, the author of Emma or the composer of Aida?");
        let trail = strategy().answer(&question, &Budget::default()).unwrap();
        assert_eq!(trail.answer, "Austen");
        let documents: Vec<_> = trail.steps.iter().map(|step| step.documents.join(" ")).collect();
        assert_eq!(documents, ["emma aida", "austen verdi", ""]);
        let one = SearchPlan { steps: 1, ..strategy() };
        assert_eq!(answered(&one, &question, &Budget::default()).answer, "unknown");
        assert_eq!(one.name(), "plan(1×2×1)");
    }

    #[test]
    fn queries_are_not_repeated_and_steps_end_with_them() {
        let many = SearchPlan { steps: 9, ..strategy() };
        let trail = answered(&many, &"Which novel and which opera?".into(), &Budget::default());
        let queries: Vec<&str> = trail.steps.iter().flat_map(|step| &step.queries).map(String::as_str).collect();
        assert_eq!(queries, ["novel Emma", "opera Aida", "Austen 1775", "Verdi 1813", "more"]);
        assert_eq!(trail.steps.len(), 5); // The fourth plan has nothing new.
        let poor = Budget { tokens: Some(60), time: None };
        let trail = SearchPlan { search_question: true, ..many }.answer(&"Which opera?".into(), &poor).unwrap();
        assert_eq!((trail.end, trail.documents().first()), (End::Budget, Some(&"aida")));
    }
}
