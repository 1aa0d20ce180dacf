//! What can go wrong in a role.

use std::sync::Arc;

/// The result of a role's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure that crosses from one part of raglan to another.
///
/// Each crate has an error type of its own; at a role's boundary it is carried in [`Error::Part`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two lengths that must agree do not.
    #[error("{what}: expected length {expected}, found {found}")]
    Shape {
        /// What was being measured.
        what: &'static str,
        /// The length that was needed.
        expected: usize,
        /// The length that came.
        found: usize,
    },
    /// A score or weight is not a number where one is needed.
    #[error("{what} is not a finite number")]
    NotFinite {
        /// What was being read.
        what: &'static str,
    },
    /// An identifier that nothing answers to.
    #[error("no {what} with id {id}")]
    Unknown {
        /// The kind of thing that was asked for.
        what: &'static str,
        /// The id.
        id: u64,
    },
    /// A value outside of its domain.
    #[error("{what}: {problem}")]
    Invalid {
        /// What was given.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An error of one of raglan's parts.
    #[error("{part}: {source}")]
    Part {
        /// The part's name, such as `embed` or `store`.
        part: &'static str,
        /// The part's own error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The budget of the work is spent; see [`SharedBudget`](crate::SharedBudget).
    #[error("the budget of tokens or time is spent")]
    BudgetSpent,
    /// The work was given up because its caller asked for that.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Wraps the error of the part called `part`.
    pub fn part(part: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Part { part, source: Arc::new(source) }
    }
}
