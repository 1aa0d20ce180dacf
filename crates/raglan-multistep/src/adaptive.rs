//! Whether to retrieve at all, and whether once more.

use std::collections::BTreeMap;

use raglan_core::{Budget, Query};
use raglan_model::{Prompt, Sampling, WritingRequest, Written};

use crate::single_step::{FROM_MEMORY, FROM_PASSAGES};
use crate::work::{Turn, Work};
use crate::{End, Error, Parts, Result, StepKind, Strategy, Trail};

/// Says that an attempt is not to be trusted, and passages are wanted.
///
/// Thresholds are of a model and of its quantisation: probabilities of small instruction-tuned models are badly calibrated,
/// so that those given here are starting points to be fitted on one's own questions.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// Always.
    Always,
    /// When the first token of the answer is less likely than this.
    FirstToken {
        /// A probability.
        least: f32,
    },
    /// When any token is less likely than this, as in FLARE (Jiang et al., 2023), which has 0.8.
    AnyToken {
        /// A probability.
        least: f32,
    },
    /// When the mean of `−ln p` over the answer's tokens is more than this.
    MeanLoss {
        /// Nats a token.
        most: f32,
    },
    /// When the model asks for it: by this token, if its vocabulary has it, as after the training of Adapt-LLM
    /// (Labruna et al., 2024), which has `<RET>`; else by the word RETRIEVE, which it is told of.
    Asked {
        /// The token.
        token: String,
    },
    /// When, asked whether it is sure of its answer, the model's log-odds of `Yes` against `No` are less than this: a
    /// training-free surrogate of R-Tuning (Zhang et al., 2024).
    Unsure {
        /// Nats.
        least: f32,
    },
    /// When the mean of `−ln p` a token, over answers that are drawn, is more than this: the predictive entropy, estimated
    /// with a length's share of each (Malinin & Gales, 2021).
    Entropy {
        /// How they are drawn.
        samples: Samples,
        /// Nats a token.
        most: f32,
    },
    /// When the commonest of answers that are drawn has a smaller share of them than this: self-consistency (Wang et al.,
    /// 2023). Answers are the same that have the same words.
    Disagreement {
        /// How they are drawn.
        samples: Samples,
        /// From 0 to 1.
        least: f32,
    },
}

/// How a trigger draws answers. One whose budget allows fewer than two of them does not fire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Samples {
    /// How many.
    pub n: usize,
    /// At which temperature.
    pub temperature: f32,
    /// Equal seeds draw equal answers.
    pub seed: u64,
}

impl Default for Samples {
    /// Five at 0.7.
    fn default() -> Self {
        Self { n: 5, temperature: 0.7, seed: 0 }
    }
}

/// The word by which a model without a token of its own asks for passages.
const WORD: &str = "RETRIEVE";
const OR_RETRIEVE: &str = "Reply with the answer alone, in a few words. If you do not know it, reply RETRIEVE.";
const SURE: &str = "Are you sure that the answer is right? Reply with Yes or No.";

/// Attempts an answer without passages; while the trigger says so, retrieves and attempts it again.
///
/// The first search is for the question, later ones for the question and the last attempt. Where they find nothing there is
/// no further attempt: it would be the first again.
#[derive(Clone)]
pub struct Adaptive {
    /// What it works with.
    pub parts: Parts,
    /// When to retrieve.
    pub trigger: Trigger,
    /// Passages that each search adds.
    pub k: usize,
    /// The most searches.
    pub max_rounds: usize,
}

impl Adaptive {
    /// With 2 searches at most of 5 passages.
    pub fn new(parts: Parts, trigger: Trigger) -> Self {
        Self { parts, trigger, k: 5, max_rounds: 2 }
    }

    /// Whether an attempt asks for passages; unless it is asked, the answer stands.
    fn fires(&self, work: &mut Work<'_>, question: &str, prompt: &Prompt, written: &Written) -> Result<bool> {
        let probabilities = || written.tokens.iter().map(|token| token.log_probability.exp());
        Ok(match &self.trigger {
            Trigger::Always => true,
            _ if written.text.trim().is_empty() && written.tokens.is_empty() => true,
            Trigger::FirstToken { least } => probabilities().next().is_none_or(|p| p < *least),
            Trigger::AnyToken { least } => probabilities().any(|p| p < *least),
            Trigger::MeanLoss { most } => -written.mean_log_probability() > *most,
            Trigger::Asked { token } if work.model.has_token(token) => {
                written.tokens.first().is_some_and(|first| first.text.trim() == token)
            }
            Trigger::Asked { .. } => written.text.trim_start().starts_with(WORD),
            Trigger::Unsure { least } => {
                let user = format!("Question: {question}\nAnswer: {}\n{SURE}", written.text.trim());
                work.weigh(&Prompt::new(&user, ""), &["Yes", "No"])?.margin() < f64::from(*least)
            }
            Trigger::Entropy { samples, most } => {
                let drawn = self.draw(work, prompt, samples)?;
                let loss: f32 = drawn.iter().map(|answer| -answer.mean_log_probability()).sum();
                drawn.len() > 1 && loss / drawn.len() as f32 > *most
            }
            Trigger::Disagreement { samples, least } => {
                let drawn = self.draw(work, prompt, samples)?;
                let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                for answer in &drawn {
                    *counts.entry(normalized(&answer.text)).or_default() += 1;
                }
                let commonest = counts.into_values().max().unwrap_or(0);
                drawn.len() > 1 && (commonest as f32) < *least * drawn.len() as f32
            }
        })
    }

    /// Answers to the same prompt, as many as the budget allows.
    fn draw(&self, work: &mut Work<'_>, prompt: &Prompt, samples: &Samples) -> Result<Vec<Written>> {
        let Samples { n, temperature, seed } = *samples;
        let request = WritingRequest {
            n,
            sampling: Sampling { temperature, seed, ..Sampling::default() },
            ..WritingRequest::line(prompt.clone(), self.parts.limits.answer_tokens)
        };
        Ok(work.model.write(&[request], &mut work.meter)?.into_iter().flatten().collect())
    }
}

/// An answer's words, by which it is the same as another.
fn normalized(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.filter(|word| !["a", "an", "the"].contains(word)).collect::<Vec<_>>().join(" ")
}

impl Strategy for Adaptive {
    fn name(&self) -> String {
        let trigger = match &self.trigger {
            Trigger::Always => "always".to_owned(),
            Trigger::FirstToken { least } => format!("first-token<{least}"),
            Trigger::AnyToken { least } => format!("any-token<{least}"),
            Trigger::MeanLoss { most } => format!("mean-loss>{most}"),
            Trigger::Asked { token } => format!("asked {token}"),
            Trigger::Unsure { least } => format!("unsure<{least}"),
            Trigger::Entropy { samples, most } => format!("entropy of {}>{most}", samples.n),
            Trigger::Disagreement { samples, least } => format!("agreement of {}<{least}", samples.n),
        };
        format!("adaptive({trigger},{}×{})", self.max_rounds, self.k)
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        let mut work = Work::start(&self.parts, question, budget);
        let is_told = matches!(&self.trigger, Trigger::Asked { token } if !work.model.has_token(token));
        let mut last: Option<(String, Vec<usize>)> = None;
        for round in 0..=self.max_rounds {
            let queries = match (&last, round) {
                (_, 0) => Vec::new(),
                (Some((attempt, _)), 2..) if !attempt.is_empty() => vec![format!("{} {attempt}", question.text)],
                _ => vec![question.text.clone()],
            };
            let gathered = work.gather(&queries, self.k, usize::MAX)?;
            if work.found_nothing() {
                work.note(StepKind::Search, String::new(), queries, &gathered);
                continue;
            }
            let places = work.all();
            let request = match (places.is_empty(), is_told) {
                (true, true) => OR_RETRIEVE,
                (true, false) => FROM_MEMORY,
                (false, _) => FROM_PASSAGES,
            };
            let turn = Turn { question: &question.text, request, reply: "Answer:", ..Turn::default() };
            let limit = self.parts.limits.answer_tokens;
            let Some(filled) = work.fill(&turn, &places, limit)? else {
                let (answer, shown) = last.unwrap_or_default();
                on_text(&answer);
                return Ok(work.finish(answer, shown, End::Budget));
            };
            let prompt = Prompt::new(&filled.user, turn.reply);
            let written = work.write(&prompt, limit, &["\n"])?;
            let fires = self.fires(&mut work, &question.text, &prompt, &written)?;
            let is_request = fires && matches!(self.trigger, Trigger::Asked { .. });
            let text = written.text.trim().to_owned();
            work.note(StepKind::Attempt, text.clone(), queries, &gathered);
            // What asks for passages is no answer, unless there is nothing more to ask for.
            let answer = if is_request { String::new() } else { text };
            if !fires {
                on_text(&answer);
                return Ok(work.finish(answer, filled.shown, End::Answered));
            }
            last = Some((answer, filled.shown));
        }
        if work.found_nothing() {
            return Ok(work.refuse(End::Steps, on_text));
        }
        let (answer, shown) = last.unwrap_or_default();
        on_text(&answer);
        Ok(work.finish(answer, shown, End::Steps))
    }
}

/// Forward-looking retrieval: FLARE (Jiang et al., 2023), which looks for the next sentence before it is written.
///
/// A tentative sentence with an unlikely token is searched for, without its least likely tokens, and written anew over
/// what that finds; a sentence that the model is sure of stands. The question itself is searched for first; as long as
/// nothing was found, sentences are searched for however sure the model is.
#[derive(Clone)]
pub struct Flare {
    /// What it works with; `limits.step_tokens` is the length of a sentence, `limits.answer_tokens` of all.
    pub parts: Parts,
    /// Passages that are read for a sentence.
    pub k: usize,
    /// A sentence with a token of less than this probability is searched for; at most 1, where all are.
    pub theta: f32,
    /// Tokens of less than this probability are left out of the query.
    pub beta: f32,
    /// The most sentences.
    pub max_sentences: usize,
}

impl Flare {
    /// With `k` 2, θ 0.8, β 0.4 and sentences of 64 tokens, as the authors have it for 2WikiMultihopQA.
    pub fn new(parts: Parts) -> Self {
        Self { parts, k: 2, theta: 0.8, beta: 0.4, max_sentences: 8 }
    }
}

const IN_SENTENCES: &str = "Answer the question from the documents above in short sentences.";

impl Strategy for Flare {
    fn name(&self) -> String {
        format!("flare({},θ={},β={})", self.k, self.theta, self.beta)
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        for (name, value) in [("theta", self.theta), ("beta", self.beta)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Parameter { name, problem: format!("{value} is no probability") });
            }
        }
        let mut work = Work::start(&self.parts, question, budget);
        let mut places = work.search_question(self.k, usize::MAX)?.all;
        let (mut answer, mut shown, mut end) = (String::new(), Vec::new(), End::Steps);
        let mut n_left = self.parts.limits.answer_tokens;
        for _ in 0..self.max_sentences {
            let limit = self.parts.limits.step_tokens.min(n_left);
            if limit == 0 {
                break;
            }
            let Some((mut sentence, mut written, mut in_prompt, mut is_last)) =
                self.sentence(&mut work, question, &answer, &places, limit)?
            else {
                end = End::Budget;
                break;
            };
            let (mut queries, mut n_written) = (Vec::new(), written.len());
            let mut gathered = Default::default();
            if work.found_nothing() || written.iter().any(|(_, probability)| *probability < self.theta) {
                written.retain(|(_, probability)| *probability >= self.beta);
                let masked = written.iter().map(|(text, _)| text.as_str()).collect::<String>();
                let masked = masked.trim();
                let query = if masked.is_empty() { question.text.clone() } else { masked.to_owned() };
                gathered = work.gather(std::slice::from_ref(&query), self.k, usize::MAX)?;
                queries.push(query);
                if !gathered.all.is_empty() {
                    places.clone_from(&gathered.all);
                    let Some(again) = self.sentence(&mut work, question, &answer, &places, limit)? else {
                        end = End::Budget;
                        break;
                    };
                    (sentence, written, in_prompt, is_last) = again;
                    n_written = written.len();
                }
            }
            work.note(StepKind::Sentence, sentence.clone(), queries, &gathered);
            if work.found_nothing() {
                return Ok(work.refuse(End::Answered, on_text));
            }
            let is_repeated = !sentence.is_empty() && answer.contains(&sentence);
            if sentence.is_empty() || is_repeated {
                end = End::Answered;
                break;
            }
            let told = answer.len();
            if !answer.is_empty() {
                answer.push(' ');
            }
            answer.push_str(&sentence);
            on_text(&answer[told..]);
            shown.extend(in_prompt);
            n_left = n_left.saturating_sub(n_written);
            if is_last {
                end = End::Answered;
                break;
            }
        }
        let mut seen = std::collections::HashSet::new();
        shown.retain(|place| seen.insert(*place));
        Ok(work.finish(answer, shown, end))
    }
}

/// A sentence, its tokens with their probabilities, what stood in the prompt, and whether the reply ends with it.
type Sentence = (String, Vec<(String, f32)>, Vec<usize>, bool);

impl Flare {
    fn sentence(
        &self,
        work: &mut Work<'_>,
        question: &Query,
        answer: &str,
        places: &[usize],
        limit: usize,
    ) -> Result<Option<Sentence>> {
        let reply = format!("Answer: {answer}");
        let turn = Turn { question: &question.text, request: IN_SENTENCES, reply: reply.trim_end(), ..Turn::default() };
        let Some(filled) = work.fill(&turn, places, limit)? else { return Ok(None) };
        let written = work.write(&Prompt::new(&filled.user, turn.reply), limit, &["\n"])?;
        let (sentence, is_whole) = crate::work::first_sentence(written.text.trim());
        // Tokens of the sentence alone; special ones have no place in the text and none in a query.
        let from = written.text.len() - written.text.trim_start().len();
        let end = from + sentence.len();
        let mut at = 0;
        let mut tokens = Vec::new();
        for token in &written.tokens {
            if at < end && written.text[at..].starts_with(token.text.as_str()) {
                tokens.push((token.text.clone(), token.log_probability.exp()));
                at += token.text.len();
            }
        }
        let is_last = written.text.trim().len() == sentence.len() && (written.ended || !is_whole);
        Ok(Some((sentence.to_owned(), tokens, filled.shown, is_last)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Unit;
    use crate::scripted::{Scripted, answered, page, parts};

    const SCRIPT: &[(&[&str], &str)] = &[
        (&["Are you sure", "Answer: 1889"], "Yes"),
        (&["Are you sure"], "No"),
        (&["opened 1889"], " 1889~0.9"),
        (&["tower"], " 1901~0.3 or 1902~0.9| 1902~0.5| 1902~0.5"),
        (&["RETRIEVE"], " RETRIEVE"),
    ];

    fn library() -> Vec<(String, String)> {
        vec![page("history", "The tower opened 1889"), page("cats", "Cats sleep")]
    }

    #[track_caller]
    fn check(trigger: Trigger, answer: &str, n_searches: usize) {
        let strategy = Adaptive::new(parts(Scripted::new(SCRIPT), &library(), Unit::Passages), trigger);
        let trail = answered(&strategy, &"When was the tower built?".into(), &Budget::default());
        let searches = trail.steps.iter().filter(|step| !step.queries.is_empty()).count();
        assert_eq!((trail.answer.as_str(), searches), (answer, n_searches), "{}", strategy.name());
    }

    #[test]
    fn an_attempt_that_is_trusted_retrieves_nothing() {
        check(Trigger::FirstToken { least: 0.2 }, "1901 or 1902", 0);
        check(Trigger::AnyToken { least: 0.2 }, "1901 or 1902", 0);
        check(Trigger::MeanLoss { most: 0.45 }, "1901 or 1902", 0); // (−ln .3 − ln 1 − ln .9) / 3 = .436
    }

    #[test]
    fn an_attempt_that_is_not_trusted_retrieves() {
        check(Trigger::FirstToken { least: 0.8 }, "1889", 1);
        check(Trigger::AnyToken { least: 0.8 }, "1889", 1);
        check(Trigger::MeanLoss { most: 0.43 }, "1889", 1);
        check(Trigger::Unsure { least: 0.0 }, "1889", 1);
    }

    #[test]
    fn drawn_answers_tell_how_sure_the_model_is() {
        let samples = Samples { n: 3, ..Samples::default() };
        check(Trigger::Disagreement { samples, least: 0.6 }, "1901 or 1902", 0);
        check(Trigger::Disagreement { samples, least: 0.7 }, "1889", 1);
        // (−ln .3 − ln 1 − ln .9) / 3 = .436, and twice −ln .5 = .693: .608 on average.
        check(Trigger::Entropy { samples, most: 0.61 }, "1901 or 1902", 0);
        check(Trigger::Entropy { samples, most: 0.60 }, "1889", 1);
        assert_eq!(normalized("The  Tower, of 1889!"), "tower of 1889");
    }

    #[test]
    fn what_stays_unsure_retrieves_again_until_the_rounds_are_through() {
        check(Trigger::Always, "1889", 2);
        check(Trigger::FirstToken { least: 0.95 }, "1889", 2);
    }

    #[test]
    fn a_model_may_ask_by_word_or_by_a_token_of_its_own() {
        let answered = |model: Scripted| {
            let mut parts = parts(Scripted::new(&[]), &library(), Unit::Passages);
            let model = Arc::new(model);
            parts.model = model.clone();
            let strategy = Adaptive::new(parts, Trigger::Asked { token: "<RET>".to_owned() });
            let trail = answered(&strategy, &"When was it, the tower?".into(), &Budget::default());
            let is_told = model.prompts.lock().unwrap()[0].0.contains("RETRIEVE");
            (trail.answer, trail.steps.len(), is_told)
        };
        let by_word = Scripted::new(&[(&["opened 1889"], " 1889"), (&["RETRIEVE"], " RETRIEVE")]);
        assert_eq!(answered(by_word), ("1889".to_owned(), 2, true));
        let mut by_token = Scripted::new(&[(&["opened 1889"], " 1889"), (&[], "<RET>")]);
        by_token.special.push("<RET>");
        assert_eq!(answered(by_token), ("1889".to_owned(), 2, false));
        let knows = Scripted::new(&[(&[], " 1889")]);
        assert_eq!(answered(knows), ("1889".to_owned(), 1, true));
    }

    #[test]
    fn an_unlikely_sentence_is_searched_for_and_written_anew() {
        let list = [page("tower", "The tower is tall"), page("metal", "It has iron beams from Pompey")];
        let script: &[(&[&str], &str)] = &[
            (&["iron beams", "It is tall."], " Its iron came from Pompey."),
            (&["It is tall."], " The iron~0.9 beams~0.7 are Belgian~0.1 ."),
            (&["@Answer:"], " It is tall. Then"),
        ];
        let strategy = Flare::new(parts(Scripted::new(script), &list, Unit::Passages));
        let trail = answered(&strategy, &"How is the tower?".into(), &Budget::default());
        assert_eq!(trail.answer, "It is tall. Its iron came from Pompey.");
        assert_eq!(trail.steps[2].queries, ["The iron beams are ."]);
        assert_eq!(trail.documents(), ["tower", "metal"]);
        assert_eq!(trail.end, End::Answered);
        let never = Flare { theta: 0.0, ..strategy.clone() };
        let trail = answered(&never, &"How is the tower?".into(), &Budget::default());
        assert_eq!(trail.documents(), ["tower"]);
        let mut short = strategy.clone();
        short.parts.limits.answer_tokens = 5;
        let trail = answered(&short, &"How is the tower?".into(), &Budget::default());
        assert_eq!(trail.answer, "It is tall. The iron");
        let wrong = Flare { theta: f32::NAN, ..strategy };
        assert!(matches!(wrong.answer(&"?".into(), &Budget::default()), Err(Error::Parameter { name: "theta", .. })));
    }
}
