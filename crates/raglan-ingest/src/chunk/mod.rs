//! Documents cut into chunks.
//!
//! Every chunker keeps to a ceiling in tokens of the encoder that will read the chunk, counted on the chunk's own text
//! (below the line of its headings, where those are embedded too), so that nothing is ever silently cut off.
//! [`StructureChunker`] follows the document: blocks stay whole where they fit, sections begin chunks unless they are
//! small. [`SentenceChunker`] and [`FixedTokenChunker`] look at the text alone.
//!
//! ```
//! use raglan_core::Chunker;
//! use raglan_ingest::chunk::{ChunkerKind, WordCounter};
//! use raglan_ingest::{Limits, read_bytes};
//!
//! let text = "One idea.\n\nAnother idea, in other words.";
//! let document = read_bytes("note.txt", text.into(), &Limits::default())?;
//! let chunker = ChunkerKind::Structure.build(16, 0, true, std::sync::Arc::new(WordCounter))?;
//! let chunks = chunker.chunk(&document)?;
//! assert_eq!(&document.text[chunks[0].span.clone()], text);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod fixed_tokens;
mod kind;
mod pack;
mod prefix;
mod sentence;
mod sentences;
mod split;
mod structure;
#[cfg(test)]
mod tests;
mod word_counter;

pub use fixed_tokens::FixedTokenChunker;
pub use kind::ChunkerKind;
pub use sentences::SentenceChunker;
pub use structure::StructureChunker;
pub use word_counter::WordCounter;

use std::sync::Arc;

use raglan_core::{Error, Result, TokenCounter};

/// What every chunker is told.
#[derive(Clone)]
pub struct Ceiling {
    /// The most tokens of a chunk, its heading prefix included where that is embedded.
    pub max_tokens: usize,
    /// About how many tokens a chunk repeats from the one before, in whole sentences or words; 0 for none.
    pub overlap_tokens: usize,
    /// Whether a chunk is embedded below the line of its headings, which then counts too.
    pub prefix_headings: bool,
    /// Counts tokens as the encoder does.
    pub counter: Arc<dyn TokenCounter>,
}

impl Ceiling {
    /// The least ceiling: one character may be several tokens, and a chunk of less says nothing.
    pub const LEAST: usize = 16;

    fn check(&self) -> Result<()> {
        if self.max_tokens < Self::LEAST {
            let problem = format!("{} tokens are too few; the least is {}", self.max_tokens, Self::LEAST);
            return Err(Error::Invalid { what: "chunk size", problem });
        }
        if self.overlap_tokens * 2 > self.max_tokens {
            let problem = format!("{} tokens are more than half of {}", self.overlap_tokens, self.max_tokens);
            return Err(Error::Invalid { what: "chunk overlap", problem });
        }
        Ok(())
    }

    fn fingerprint(&self, name: &str) -> String {
        let Self { max_tokens, overlap_tokens, prefix_headings, .. } = self;
        format!("{name} max_tokens={max_tokens} overlap={overlap_tokens} prefix_headings={prefix_headings}")
    }
}

/// What of a document's text is content: everything from its first block to its last, which leaves a byte order mark out.
fn content(document: &raglan_core::ParsedDocument) -> std::ops::Range<usize> {
    match (document.blocks.first(), document.blocks.last()) {
        (Some(first), Some(last)) => first.span.start..last.span.end,
        _ => 0..0,
    }
}
