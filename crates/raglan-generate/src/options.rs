//! How answers are made.

use raglan_model::{AttentionPolicy, Sampling};

use crate::{Drafts, Error, Result};

/// What an answer says when there is no passage to answer from.
pub const REFUSAL: &str = "Nothing in the indexed documents answers this question.";

/// The standing instruction that the model is given.
pub const SYSTEM_PROMPT: &str = "You answer questions using only the given passages. Be brief and exact.";

/// The most tokens of prompt and answer together when the options do not say.
pub const CONTEXT_TOKENS: usize = 2048;

/// How answers are made. The default decodes greedily.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens of an answer. An answer also ends when it has said the same three times in a row.
    pub max_tokens: usize,
    /// The most tokens of prompt and answer together; [`CONTEXT_TOKENS`], or the model's context where that is
    /// shorter, if `None`.
    pub context_tokens: Option<usize>,
    /// The standing instruction; none is given when it is empty.
    pub system_prompt: String,
    /// A template of the user's turn in the Jinja language, given `question` and `passages`, each of which has
    /// `number`, `path`, `title`, `locator`, `heading` and `text`; [`DEFAULT_TEMPLATE`](crate::DEFAULT_TEMPLATE) if
    /// `None`.
    pub template: Option<String>,
    /// What the answer says when there are no passages.
    pub refusal: String,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Whether tokens are guessed; answers are the same, and most often come sooner.
    pub drafts: Drafts,
    /// Which of a prompt's keys an answer attends to.
    pub attention: AttentionPolicy,
    /// How many answers are written at once, when there are several questions; each is the same alone.
    pub at_once: usize,
    /// Texts at which an answer ends, besides the model's own end; they are not part of it.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            context_tokens: None,
            system_prompt: SYSTEM_PROMPT.to_owned(),
            template: None,
            refusal: REFUSAL.to_owned(),
            sampling: Sampling::default(),
            drafts: Drafts::default(),
            attention: AttentionPolicy::Full,
            at_once: 8, // More than that share the cost of reading the weights, but each comes later.
            stop: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// Checks each option's domain.
    pub(crate) fn check(&self) -> Result<()> {
        let Sampling { repetition_penalty, temperature, top_p, min_p, .. } = self.sampling;
        let unit = 0.0..=1.0;
        let checks = [
            ("max_tokens", self.max_tokens > 0, "must be at least 1"),
            ("at_once", self.at_once > 0, "must be at least 1"),
            (
                "context_tokens",
                self.context_tokens.unwrap_or(CONTEXT_TOKENS) > self.max_tokens,
                "must be more than max_tokens",
            ),
            ("repetition_penalty", repetition_penalty.is_finite() && repetition_penalty > 0.0, "must be above 0"),
            ("temperature", temperature.is_finite() && temperature >= 0.0, "must be 0 or above"),
            ("top_p", unit.contains(&top_p) && top_p > 0.0, "must be above 0 and at most 1"),
            ("min_p", unit.contains(&min_p), "must lie between 0 and 1"),
            ("stop", !self.stop.iter().any(String::is_empty), "must not contain an empty text"),
            ("refusal", !self.refusal.is_empty(), "must not be empty"),
        ];
        match checks.into_iter().find(|(_, sound, _)| !sound) {
            Some((option, _, problem)) => Err(Error::Option { option, problem: problem.to_owned() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(option: &str, change: fn(&mut GenerateOptions)) {
        let mut options = GenerateOptions::default();
        options.check().unwrap();
        change(&mut options);
        assert!(options.check().unwrap_err().to_string().starts_with(option));
    }

    #[test]
    fn options_outside_of_their_domain_are_refused_by_name() {
        check_refused("max_tokens", |options| options.max_tokens = 0);
        check_refused("context_tokens", |options| options.context_tokens = Some(options.max_tokens));
        check_refused("at_once", |options| options.at_once = 0);
        check_refused("temperature", |options| options.sampling.temperature = f32::NAN);
        check_refused("top_p", |options| options.sampling.top_p = 0.0);
        check_refused("min_p", |options| options.sampling.min_p = 1.5);
        check_refused("repetition_penalty", |options| options.sampling.repetition_penalty = 0.0);
        check_refused("stop", |options| options.stop.push(String::new()));
    }
}
