//! Questions.

use std::sync::Arc;

use crate::ChunkSet;

/// A question, and the chunks among which its answer may be sought.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What is asked.
    pub text: String,
    /// The chunks that may be returned; all of them when there is no set.
    pub allowed: Option<Arc<ChunkSet>>,
}

impl Query {
    /// A question over all chunks.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), allowed: None }
    }

    /// The same question over some chunks only.
    pub fn among(self, allowed: Arc<ChunkSet>) -> Self {
        Self { allowed: Some(allowed), ..self }
    }
}

impl From<&str> for Query {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}
