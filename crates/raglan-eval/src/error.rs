/// What can go wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
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
pub type Result<T> = std::result::Result<T, Error>;
