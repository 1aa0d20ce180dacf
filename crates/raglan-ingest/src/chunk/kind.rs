//! Chunkers by name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use raglan_core::{Chunker, Error, Result, TokenCounter};

use super::{Ceiling, FixedTokenChunker, SentenceChunker, StructureChunker};

/// A way to cut documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkerKind {
    /// By blocks and sections.
    Structure,
    /// By a fixed number of tokens.
    Tokens,
    /// By sentences.
    Sentences,
}

impl ChunkerKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Structure, Self::Tokens, Self::Sentences];

    /// The name, as it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Tokens => "tokens",
            Self::Sentences => "sentences",
        }
    }

    /// A chunker of this kind.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when `max_tokens` is below [`Ceiling::LEAST`] or the overlap more than half of it.
    pub fn build(
        self,
        max_tokens: usize,
        overlap_tokens: usize,
        prefix_headings: bool,
        counter: Arc<dyn TokenCounter>,
    ) -> Result<Box<dyn Chunker>> {
        let ceiling = Ceiling { max_tokens, overlap_tokens, prefix_headings, counter };
        Ok(match self {
            Self::Structure => Box::new(StructureChunker::new(ceiling)?),
            Self::Tokens => Box::new(FixedTokenChunker::new(ceiling)?),
            Self::Sentences => Box::new(SentenceChunker::new(ceiling)?),
        })
    }
}

impl fmt::Display for ChunkerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ChunkerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| Error::Invalid {
            what: "chunker",
            problem: format!("`{name}` is none of structure, tokens, sentences"),
        })
    }
}
