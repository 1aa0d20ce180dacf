//! What can go wrong in generation.

use std::path::Path;

/// The result of this crate's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to make an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be loaded or run.
    #[error(transparent)]
    Model(#[from] raglan_model::Error),
    /// An option is outside of its domain.
    #[error("{option}: {problem}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The prompt template is not sound, or lacks what a prompt needs.
    #[error("prompt template: {problem}")]
    Template {
        /// What is wrong with it.
        problem: String,
    },
    /// Question and instructions, or those and any one passage, are too long.
    #[error(
        "a prompt of {tokens} tokens does not leave {answer} for the answer within {limit}: {}",
        room_advice(tokens + answer, *limit, *context_len)
    )]
    NoRoom {
        /// Tokens of the shortest prompt there is.
        tokens: usize,
        /// Tokens set aside for the answer.
        answer: usize,
        /// Tokens that prompt and answer may have together.
        limit: usize,
        /// Tokens that the model can read and write in all.
        context_len: usize,
    },
    /// The work was given up because its caller asked for that.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The same error, which names the file of a model's weights where they are to blame.
    #[must_use]
    pub fn of_weights(self, file: &Path) -> Self {
        match self {
            Self::Model(error) => Self::Model(error.of_weights(file)),
            error => error,
        }
    }
}

/// What makes room for so many tokens.
fn room_advice(needed: usize, limit: usize, context_len: usize) -> String {
    let shorten = "shorten the question or the passages";
    if needed <= context_len {
        format!("{shorten}, or raise `context_tokens` to {needed}")
    } else if limit < context_len {
        format!(
            "{shorten}, or lower `max_tokens`; the model has no room for {needed} either, its context is {context_len}"
        )
    } else {
        format!(
            "{shorten}, lower `max_tokens`, have the context extended (the setting `rope-scaling`, such as yarn=2), or \
             take a model with a longer one"
        )
    }
}

impl From<Error> for raglan_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Interrupted | Error::Model(raglan_model::Error::Interrupted) => Self::Interrupted,
            e => Self::part("generate", e),
        }
    }
}
