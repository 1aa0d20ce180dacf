//! How well and how fast answers come from long texts by policies that attend to a part of the keys.
//!
//! A prompt is read once, in full; then each policy writes an answer from a copy of the same keys and values, from the
//! prompt's last token on. So policies differ in nothing but the keys that they choose, and take turns text by text.

use std::borrow::Cow;
use std::time::Instant;

use raglan_datasets::LongContextItem;
use raglan_eval::answers;
use raglan_generate::LanguageModel;
use raglan_generate::reuse::best_token;
use raglan_kv::KvCache;
use raglan_model::{
    Attending, AttentionPolicy, ChatMessage, ChatRole, DecoderModel, ForwardRows, ForwardSequence, KeySelection,
    QueryRecord, Want,
};
use serde::Serialize;

use crate::Result;

/// Tokens of a prompt that are read at once.
pub(crate) const SLICE: usize = 256;
/// Tokens that are set aside for the beginning of an answer, which is given.
const ANSWER_START: usize = 64;
/// The fewest tokens that are written, so that there is something to time.
const FEWEST_STEPS: usize = 9;

/// Answers questions about long texts by several policies.
#[derive(Debug)]
pub struct LongContextEvaluator<'m> {
    model: &'m LanguageModel,
    policies: Vec<AttentionPolicy>,
    template_tokens: usize,
}

/// What a policy made of a question.
#[derive(Clone, Debug, Serialize)]
pub struct LongContextScore {
    /// The question.
    pub item: String,
    /// Its task.
    pub task: String,
    /// Where in the text the answer stands, from 0 to 1, if that is known.
    pub depth: Option<f32>,
    /// The length that was asked for, in tokens.
    pub length: usize,
    /// The policy.
    pub policy: String,
    /// The share of the references that the answer contains.
    pub score: f64,
    /// The best token F1 with a reference.
    pub f1: f64,
    /// Tokens of the prompt.
    pub n_prompt_tokens: usize,
    /// Of the keys that full attention would have read, the share that was.
    pub key_share: f64,
    /// Bytes of keys and values that may be asked for again, and of what keys are found by.
    pub kept_bytes: usize,
    /// Seconds to read the prompt.
    pub prefill_s: f64,
    /// Seconds to choose keys once, or to index them.
    pub begin_s: f64,
    /// Seconds a token, the median.
    pub token_s: f64,
    /// What was written, up to its end.
    pub answer: String,
}

/// A policy on a task at a length, over all questions.
#[derive(Clone, Debug, Serialize)]
pub struct LongContextRow {
    /// The task; `all` over several.
    pub task: String,
    /// The length that was asked for, in tokens.
    pub length: usize,
    /// The policy.
    pub policy: String,
    /// How many questions.
    pub n: usize,
    /// Mean share of the references that the answers contain.
    pub score: f64,
    /// Mean token F1.
    pub f1: f64,
    /// Mean share of the keys that were read.
    pub key_share: f64,
    /// Mean bytes that are kept.
    pub kept_bytes: f64,
    /// Tokens of prompts a second, over all, with what the policy does once.
    pub prefill_tokens_per_s: f64,
    /// Tokens of answers a second, the median over questions.
    pub decode_tokens_per_s: f64,
}

impl<'m> LongContextEvaluator<'m> {
    /// Prepares a model for some policies.
    ///
    /// # Errors
    ///
    /// Those of the model.
    pub fn new(model: &'m LanguageModel, policies: Vec<AttentionPolicy>) -> Result<Self> {
        let transformer = &model.transformer;
        for &policy in &policies {
            // What is found out once for a model is not to be timed.
            let record = QueryRecord::new(transformer.config());
            KeySelection::begin(transformer, policy, &transformer.cache(), &record).map_err(of_model)?;
        }
        let mut evaluator = Self { model, policies, template_tokens: 0 };
        evaluator.template_tokens = evaluator.prompt("", "")?.len();
        Ok(evaluator)
    }

    /// Tokens of a text.
    ///
    /// # Errors
    ///
    /// When the model's vocabulary has no token for a part of it.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.model.tokenizer.encode(text, false).map_err(of_model)?.ids.len())
    }

    /// How many tokens a text and its question may have, when they, an answer and all that stands around them are to have
    /// `length`.
    pub fn room(&self, length: usize, answer_tokens: usize) -> usize {
        length.saturating_sub(self.template_tokens + answer_tokens + ANSWER_START)
    }

    /// The answers of all policies to a question within `length` tokens; a longer text loses its middle.
    ///
    /// # Errors
    ///
    /// Those of the model; [`Interrupted`](raglan_generate::Error::Interrupted) when `go_on` says so, which is asked
    /// before each slice of a prompt and each token.
    pub fn evaluate(
        &self,
        item: &LongContextItem,
        length: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<LongContextScore>> {
        let model = &self.model.transformer;
        let text = self.cut(&item.text, &item.question, self.room(length, item.answer_tokens))?;
        let user = if item.question.is_empty() { text.into_owned() } else { format!("{text}\n\n{}", item.question) };
        let tokens = self.prompt(&user, &item.answer_start)?;
        let limit = model.config().context_len;
        if tokens.len() + item.answer_tokens > limit {
            let tokens = tokens.len() + item.answer_tokens;
            return Err(of_model(raglan_model::Error::ContextOverflow { tokens, limit }));
        }
        let (last, before) = tokens.split_last().expect("a template writes at least one token");
        let (mut cache, mut record) = (model.cache(), QueryRecord::new(model.config()));
        let begin = Instant::now();
        for slice in before.chunks(SLICE) {
            check(go_on)?;
            read(model, &mut cache, slice, &[], Attending::Observed(&mut record))?;
        }
        let prefill_s = begin.elapsed().as_secs_f64();
        let score = |&policy: &AttentionPolicy| {
            let mut cache = cache.clone();
            let begin = Instant::now();
            let mut selection = KeySelection::begin(model, policy, &cache, &record).map_err(of_model)?;
            let begin_s = begin.elapsed().as_secs_f64();
            let (written, token_s) = self.write(&mut cache, &mut selection, *last, item, go_on)?;
            let answer = written.trim().to_owned();
            Ok(LongContextScore {
                item: item.id.clone(),
                task: item.task.clone(),
                depth: item.depth,
                length,
                policy: policy.to_string(),
                score: item.score(&answer),
                f1: answers::best(&answer, &item.references, answers::token_f1),
                n_prompt_tokens: tokens.len(),
                key_share: selection.traffic().share(),
                kept_bytes: selection.n_bytes_kept(model, &cache),
                prefill_s,
                begin_s,
                token_s,
                answer,
            })
        };
        self.policies.iter().map(score).collect()
    }

    /// Writes greedily until the answer ends or has all that it is to contain, and gives it with the median of the seconds
    /// a token.
    fn write(
        &self,
        cache: &mut KvCache,
        selection: &mut KeySelection,
        last: u32,
        item: &LongContextItem,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(String, f64)> {
        let model = &self.model.transformer;
        let (mut next, mut ids, mut seconds) = (last, Vec::new(), Vec::new());
        let (mut answer, mut is_ended) = (String::new(), false);
        for step in 0..item.answer_tokens.max(FEWEST_STEPS) {
            check(go_on)?;
            let begin = Instant::now();
            let logits = read(model, cache, &[next], &[0], Attending::Selected(selection))?;
            if step > 0 {
                seconds.push(begin.elapsed().as_secs_f64()); // The first step also copies a page.
            }
            next = best_token(&logits).map_err(|error| error.of_weights(model.path()))?;
            is_ended |= model.config().end_tokens.contains(&next) || step >= item.answer_tokens;
            if !is_ended {
                ids.push(next);
                answer = self.model.tokenizer.decode(&ids).map_err(of_model)?;
            }
            if (is_ended || item.score(&answer) == 1.0) && step + 1 >= FEWEST_STEPS {
                break;
            }
        }
        Ok((answer, median(seconds)))
    }

    /// The tokens of a conversation in which the user's turn is followed by the beginning of the answer.
    fn prompt(&self, user: &str, answer_start: &str) -> Result<Vec<u32>> {
        let (tokenizer, template) = (&self.model.tokenizer, &self.model.template);
        let message = ChatMessage::new(ChatRole::User, tokenizer.defuse(user));
        let text = template.render(&[message]).map_err(of_model)? + answer_start;
        Ok(tokenizer.encode_prompt(&text).map_err(of_model)?.ids)
    }

    /// A text without its middle, as far as it has more tokens than there is room for beside the question.
    fn cut<'t>(&self, text: &'t str, question: &str, room: usize) -> Result<Cow<'t, str>> {
        let room = room.saturating_sub(self.count(question)? + 1);
        let spans = self.model.tokenizer.encode(text, false).map_err(of_model)?.spans;
        if spans.len() <= room {
            return Ok(text.into());
        }
        let half = room / 2;
        let first = &text[..text.floor_char_boundary(spans[half].start)];
        let second = &text[text.ceil_char_boundary(spans[spans.len() - (room - half)].start)..];
        Ok(format!("{first}{second}").into())
    }
}

/// The means over questions, in the order in which tasks, lengths and policies first came; behind several tasks of a
/// length those over all of them.
pub fn long_context_rows(scores: &[LongContextScore]) -> Vec<LongContextRow> {
    let mut rows: Vec<LongContextRow> = Vec::new();
    let mut lengths: Vec<usize> = scores.iter().map(|score| score.length).collect();
    lengths.dedup();
    for length in lengths {
        let of_length: Vec<&LongContextScore> = scores.iter().filter(|score| score.length == length).collect();
        if rows.iter().any(|row| row.length == length) {
            continue;
        }
        let mut tasks: Vec<&str> = Vec::new();
        let mut policies: Vec<&str> = Vec::new();
        for score in &of_length {
            for (name, names) in [(&score.task, &mut tasks), (&score.policy, &mut policies)] {
                if !names.contains(&&**name) {
                    names.push(name);
                }
            }
        }
        let several = (tasks.len() > 1).then_some("all");
        for task in tasks.into_iter().chain(several) {
            for policy in &policies {
                let chosen = of_length.iter().filter(|score| score.policy == **policy);
                let chosen: Vec<_> = chosen.filter(|score| task == "all" || score.task == task).copied().collect();
                if !chosen.is_empty() {
                    rows.push(row(task, &chosen));
                }
            }
        }
    }
    rows
}

/// The means of some scores, of which there is one.
fn row(task: &str, scores: &[&LongContextScore]) -> LongContextRow {
    let n = scores.len();
    let mean = |of: fn(&LongContextScore) -> f64| scores.iter().map(|score| of(score)).sum::<f64>() / n as f64;
    let rates = scores.iter().map(|score| 1.0 / score.token_s.max(1e-9)).collect();
    LongContextRow {
        task: task.to_owned(),
        length: scores[0].length,
        policy: scores[0].policy.clone(),
        n,
        score: mean(|score| score.score),
        f1: mean(|score| score.f1),
        key_share: mean(|score| score.key_share),
        kept_bytes: mean(|score| score.kept_bytes as f64),
        prefill_tokens_per_s: mean(|score| score.n_prompt_tokens as f64)
            / mean(|score| score.prefill_s + score.begin_s).max(1e-9),
        decode_tokens_per_s: median(rates),
    }
}

pub(crate) fn read(
    model: &DecoderModel,
    cache: &mut KvCache,
    tokens: &[u32],
    logits: &[usize],
    attending: Attending<'_>,
) -> Result<Vec<f32>> {
    let (first, next) = (cache.len(), cache.next_position());
    let slots: Vec<usize> = (first..first + tokens.len()).collect();
    let positions: Vec<u32> = (next..).take(tokens.len()).collect();
    let rows = ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
    let sequence = ForwardSequence { rows, cache, want: Want { logits, ..Want::default() }, attending };
    let forwarded = model.forward(&mut [sequence]).map_err(of_model)?;
    Ok(forwarded.into_iter().flat_map(|sequence| sequence.logits).collect())
}

pub(crate) fn check(go_on: &dyn Fn() -> bool) -> Result<()> {
    if go_on() { Ok(()) } else { Err(raglan_generate::Error::Interrupted.into()) }
}

pub(crate) fn of_model(error: raglan_model::Error) -> crate::Error {
    raglan_generate::Error::Model(error).into()
}

/// The middle of numbers; 0 where there are none.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(task: &str, length: usize, policy: &str, score: f64) -> LongContextScore {
        LongContextScore {
            item: "1".to_owned(),
            task: task.to_owned(),
            depth: None,
            length,
            policy: policy.to_owned(),
            score,
            f1: 0.0,
            n_prompt_tokens: 100,
            key_share: 0.5,
            kept_bytes: 10,
            prefill_s: 1.0,
            begin_s: 1.0,
            token_s: 0.1,
            answer: String::new(),
        }
    }

    #[test]
    fn rows_are_means_over_questions_and_over_tasks() {
        let mut scores = vec![score("a", 10, "full", 1.0), score("a", 10, "quest=16", 0.0)];
        scores.extend([score("a", 10, "full", 0.0), score("a", 10, "quest=16", 0.0)]);
        assert_eq!(long_context_rows(&scores).len(), 2);
        scores.extend([score("b", 10, "full", 1.0), score("b", 20, "full", 0.25)]);
        let rows = long_context_rows(&scores);
        let found: Vec<_> = rows.iter().map(|row| (&*row.task, row.length, &*row.policy, row.n, row.score)).collect();
        let expected = [
            ("a", 10, "full", 2, 0.5),
            ("a", 10, "quest=16", 2, 0.0),
            ("b", 10, "full", 1, 1.0),
            ("all", 10, "full", 3, 2.0 / 3.0),
            ("all", 10, "quest=16", 2, 0.0),
            ("b", 20, "full", 1, 0.25),
        ];
        assert_eq!(found, expected);
        assert!((rows[0].prefill_tokens_per_s - 50.0).abs() <= 1e-9); // 100 tokens in 1 + 1 seconds
        assert!((rows[0].decode_tokens_per_s - 10.0).abs() <= 1e-9);
    }
}
