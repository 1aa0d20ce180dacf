use std::path::PathBuf;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not a result of an evaluation.
    #[error("`{}` is no result file, as `raglan eval beir --out` writes them: {source}", path.display())]
    NoResult {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A result has no values of the metric that it is to be compared by.
    #[error("the result of `{recipe}` has no values of {metric} by query; it has {there}")]
    NoMetric {
        /// The recipe's name.
        recipe: String,
        /// The metric that was wanted.
        metric: String,
        /// The metrics there are.
        there: String,
    },
    /// A name is none of the metrics'.
    #[error(
        "no metric `{name}`; there are ndcg, ndcg@K, recall@K, p@K, map, map@K, mrr, mrr@K, rprec, success@K, r_cap@K and \
         hole@K, with K at least 1"
    )]
    UnknownMetric {
        /// The name that was given.
        name: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
