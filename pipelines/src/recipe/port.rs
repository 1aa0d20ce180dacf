//! What flows between stages.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What flows between stages; all of it is one item a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Port {
    /// Questions, `Vec<Query>`.
    Query,
    /// Several queries for each question, `Vec<Vec<Query>>`.
    Queries,
    /// Ranked chunks, `Vec<Ranked>`.
    Ranking,
    /// Questions with passages, `Vec<Context>`.
    Context,
    /// Answers, `Vec<Result<Answer>>`.
    Answer,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Query => "Query",
            Self::Queries => "Queries",
            Self::Ranking => "Ranking",
            Self::Context => "Context",
            Self::Answer => "Answer",
        })
    }
}
