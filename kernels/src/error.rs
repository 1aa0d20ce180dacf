//! What a kernel refuses.

/// The result of a kernel.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An argument that a kernel cannot work with, or a device that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice is not as long as the others require.
    #[error("{what}: expected length {expected}, found {found}")]
    Shape {
        /// The slice.
        what: &'static str,
        /// The length it should have.
        expected: usize,
        /// The length it has.
        found: usize,
    },
    /// Vectors without components.
    #[error("the dimension is zero")]
    ZeroDimension,
    /// A number that must be positive and finite.
    #[error("{what} must be positive and finite")]
    NotPositive {
        /// The number, or the difference.
        what: &'static str,
    },
    /// A row that is not there.
    #[error("row {row} of {n_rows}")]
    Row {
        /// The row that was asked for.
        row: usize,
        /// How many there are.
        n_rows: usize,
    },
    /// A score that has no place in an order.
    #[error("the score at index {index} is not a number")]
    NotANumber {
        /// Where it is.
        index: usize,
    },
    /// The graphics driver answered with an error.
    #[error("the CUDA driver: {problem}")]
    Cuda {
        /// What it said.
        problem: String,
    },
}
