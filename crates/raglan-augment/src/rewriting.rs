//! Other texts to search with for a question.

use std::sync::Mutex;

use raglan_core::{Budget, Cost, Meter, QueryRewriter, SharedBudget};
use raglan_model::{Prompt, Sampling, TextWriter, WritingRequest};

use crate::words::{first_words, normalized};
use crate::{Error, Result};

/// Words of a question that are shown to the model.
const QUESTION_WORDS: usize = 128;

/// What a model writes for a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Rewriting {
    /// Keywords, separated by commas, in one text with the question (query expansion as in Li et al. 2025, "Enhancing
    /// RAG: a study of best practices": four examples, at most 25 tokens).
    Keywords,
    /// Passages as they might answer the question (HyDE; Gao et al. 2022), so many of them.
    HypotheticalDocument {
        /// How many passages. The paper takes 8.
        n: usize,
        /// The most tokens of a passage.
        max_tokens: usize,
        /// 0 writes the likeliest passage, and all are the same then. The paper takes 0.7.
        temperature: f32,
    },
    /// The same question in other words, so many of them, drawn at this temperature.
    Paraphrases {
        /// How many.
        n: usize,
        /// 0 writes the likeliest words, and all are the same then.
        temperature: f32,
    },
    /// The simpler questions that the question asks at once, at most so many.
    Decomposition {
        /// How many at most.
        n: usize,
    },
}

/// A [`QueryRewriter`] that asks a language model.
#[derive(Debug)]
pub struct ModelRewriter<W> {
    writer: W,
    rewriting: Rewriting,
    seed: u64,
    budget: Budget,
    spent: Mutex<Cost>,
}

impl<W: TextWriter> ModelRewriter<W> {
    /// A rewriter that may spend a budget on each question, and an equal part of what is left of the
    /// [current one](SharedBudget::current). Equal seeds draw equal texts.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when `n` or `max_tokens` is 0, or a temperature is negative or not a number.
    pub fn new(writer: W, rewriting: Rewriting, seed: u64, budget: Budget) -> Result<Self> {
        let (n, max_tokens, temperature) = match rewriting {
            Rewriting::Keywords => (1, 1, 0.0),
            Rewriting::HypotheticalDocument { n, max_tokens, temperature } => (n, max_tokens, temperature),
            Rewriting::Paraphrases { n, temperature } => (n, 1, temperature),
            Rewriting::Decomposition { n } => (n, 1, 0.0),
        };
        let refused = |name, problem: &str| Err(Error::Parameter { name, problem: problem.to_owned() });
        if n == 0 {
            return refused("n", "must be at least 1");
        }
        if max_tokens == 0 {
            return refused("max_tokens", "must be at least 1");
        }
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return refused("temperature", "must be 0 or above");
        }
        Ok(Self { writer, rewriting, seed, budget, spent: Mutex::default() })
    }

    /// What all questions so far have cost.
    pub fn spent(&self) -> Cost {
        *self.spent.lock().expect("no thread panics while it adds")
    }

    fn request(&self, question: &str) -> WritingRequest {
        let question = first_words(question, QUESTION_WORDS);
        let sampled = |temperature| Sampling { temperature, seed: self.seed, ..Sampling::default() };
        match self.rewriting {
            Rewriting::Keywords => {
                let prompt =
                    Prompt { reply: "Keywords:".to_owned(), ..with_examples(FOR_KEYWORDS, &KEYWORDS, question) };
                WritingRequest::line(prompt, 25)
            }
            Rewriting::HypotheticalDocument { n, max_tokens, temperature } => WritingRequest {
                n,
                stop: vec!["\n\n".to_owned()],
                sampling: sampled(temperature),
                ..WritingRequest::line(
                    format!("Write a passage of an encyclopedia that answers the question.\n\nQuestion: {question}"),
                    max_tokens,
                )
            },
            Rewriting::Paraphrases { n, temperature } => WritingRequest {
                n,
                sampling: sampled(temperature),
                ..WritingRequest::line(with_examples(FOR_PARAPHRASES, &PARAPHRASES, question), 48)
            },
            Rewriting::Decomposition { .. } => WritingRequest {
                stop: vec!["\n\n".to_owned()],
                ..WritingRequest::line(with_examples(FOR_DECOMPOSITION, &DECOMPOSITIONS, question), 96)
            },
        }
    }

    /// The texts in what was written: none twice, and none that says nothing.
    fn texts(&self, question: &str, written: Vec<String>) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        match self.rewriting {
            Rewriting::Keywords => {
                let mut keywords: Vec<String> = Vec::new();
                for keyword in written.iter().flat_map(|line| line.split([',', ';'])) {
                    let is_new = |seen: &String| normalized(seen) != normalized(keyword);
                    if !normalized(keyword).is_empty() && keywords.iter().all(is_new) {
                        keywords.push(keyword.trim().trim_end_matches('.').to_owned());
                    }
                }
                if !keywords.is_empty() {
                    texts.push(format!("{question} {}", keywords.join(" ")));
                }
            }
            Rewriting::HypotheticalDocument { .. } | Rewriting::Paraphrases { .. } => texts = written,
            Rewriting::Decomposition { n } => {
                let lines = written.iter().flat_map(|text| text.lines()).map(without_number);
                texts.extend(lines.filter(|line| line.ends_with('?')).take(n).map(str::to_owned));
            }
        }
        let mut seen = vec![normalized(question)];
        texts.retain(|text| {
            let text = normalized(text);
            let is_new = !text.is_empty() && !seen.contains(&text);
            seen.push(text);
            is_new
        });
        texts
    }
}

/// A line without the number or the sign that lists begin with.
fn without_number(line: &str) -> &str {
    line.trim().trim_start_matches(|c: char| c.is_ascii_digit() || "-*•.):".contains(c)).trim()
}

const FOR_KEYWORDS: &str = "Write the keywords to search for.\n\nQuestion: ";
const FOR_PARAPHRASES: &str = "Ask the same in other words.\n\nQuestion: ";
const FOR_DECOMPOSITION: &str = "Which simpler questions must be answered first? Write one on each line.\n\nQuestion: ";

/// What is asked of a question, behind what is asked and written of examples.
fn with_examples(ask: &str, examples: &[(&str, &str)], question: &str) -> Prompt {
    let turn = |(question, answer): &(&str, &str)| (format!("{ask}{question}"), (*answer).to_owned());
    Prompt { examples: examples.iter().map(turn).collect(), ..format!("{ask}{question}").into() }
}

impl<W: TextWriter> QueryRewriter for ModelRewriter<W> {
    fn rewrite(&self, questions: &[&str]) -> raglan_core::Result<Vec<Vec<String>>> {
        let rewrite = |question: &&str| {
            if normalized(question).is_empty() {
                return Ok(Vec::new());
            }
            let mut meter = Meter::start(&self.budget.within_shared(questions.len()));
            let written = self.writer.write(&[self.request(question)], &mut meter)?;
            SharedBudget::current().spend(meter.cost());
            *self.spent.lock().expect("no thread panics while it adds") += meter.cost();
            let written = written.into_iter().flatten().map(|written| written.text.trim().to_owned()).collect();
            Ok(self.texts(question, written))
        };
        questions.iter().map(rewrite).collect()
    }
}

const KEYWORDS: [(&str, &str); 4] = [
    ("Why do leaves change colour in autumn?", "Keywords: chlorophyll, pigments, leaf senescence, autumn leaves"),
    ("Who painted the ceiling of the Sistine Chapel?", "Keywords: Michelangelo, frescoes, Vatican, Renaissance art"),
    ("How can a program find its memory leaks?", "Keywords: heap profiler, allocation tracking, leak detection"),
    ("Does coffee raise blood pressure?", "Keywords: caffeine, hypertension, cardiovascular effects"),
];

const PARAPHRASES: [(&str, &str); 2] = [
    ("Why do leaves change colour in autumn?", "What makes foliage turn red and yellow before winter?"),
    ("Does coffee raise blood pressure?", "What is the effect of caffeine on hypertension?"),
];

const DECOMPOSITIONS: [(&str, &str); 2] = [
    (
        "In which country was the director of the film Alien born?",
        "Who directed the film Alien?\nWhere was that director born?",
    ),
    (
        "Which is taller, the Eiffel Tower or the Chrysler Building?",
        "How tall is the Eiffel Tower?\nHow tall is the Chrysler Building?",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::Scripted;

    #[track_caller]
    fn check(rewriting: Rewriting, written: &[&str], expected: &[&str]) {
        let rewriter = ModelRewriter::new(Scripted::new(written), rewriting, 0, Budget::default()).unwrap();
        assert_eq!(rewriter.rewrite(&["why is the cache slow"]).unwrap(), [expected]);
    }

    #[test]
    fn keywords_stand_behind_the_question_each_once() {
        check(
            Rewriting::Keywords,
            &["eviction, latency, Eviction, , miss rate."],
            &["why is the cache slow eviction latency miss rate"],
        );
        check(Rewriting::Keywords, &[" , "], &[]);
        check(Rewriting::Keywords, &[], &[]);
    }

    #[test]
    fn texts_that_repeat_or_say_nothing_are_dropped() {
        let n = Rewriting::Paraphrases { n: 4, temperature: 0.7 };
        check(
            n,
            &["Why is the cache slow?", "What slows caching?", "what slows caching", "..."],
            &["What slows caching?"],
        );
        let hyde = Rewriting::HypotheticalDocument { n: 2, max_tokens: 9, temperature: 0.7 };
        check(hyde, &["A cache is slow when it misses.", ""], &["A cache is slow when it misses."]);
    }

    #[test]
    fn a_question_is_taken_apart_line_by_line() {
        let few = Rewriting::Decomposition { n: 2 };
        check(
            few,
            &["1. What is a cache?\n- not a question\n* Why is it slow?\nWho asks?"],
            &["What is a cache?", "Why is it slow?"],
        );
    }

    #[test]
    fn nothing_is_asked_for_nothing_or_beyond_the_budget() {
        let none = Budget { tokens: Some(0), time: None };
        let rewriter = ModelRewriter::new(Scripted::new(&["words"]), Rewriting::Keywords, 0, none).unwrap();
        assert_eq!(rewriter.rewrite(&["why", " ?"]).unwrap(), [Vec::<String>::new(), Vec::new()]);
        let rewriter =
            ModelRewriter::new(Scripted::new(&["words"]), Rewriting::Keywords, 0, Budget::default()).unwrap();
        assert_eq!(rewriter.rewrite(&["", "why"]).unwrap(), [vec![], vec!["why words".to_owned()]]);
        assert_eq!(rewriter.spent().calls, 1);
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let refused = |rewriting| {
            let error = ModelRewriter::new(Scripted::new(&[]), rewriting, 0, Budget::default()).err().unwrap();
            assert!(matches!(error, Error::Parameter { .. }), "{error}");
        };
        refused(Rewriting::Decomposition { n: 0 });
        refused(Rewriting::Paraphrases { n: 2, temperature: f32::NAN });
        refused(Rewriting::HypotheticalDocument { n: 1, max_tokens: 0, temperature: 0.0 });
    }
}
