//! Chunks: the unit that is indexed, retrieved and cached.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{DocId, Locator};

/// Identifies a chunk within an index; never used again after its chunk is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkId(pub u32);

/// A passage of a document: the unit that is indexed, retrieved and cached.
///
/// Invariant: `text` is the document's extracted text at `span`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The chunk's id.
    pub id: ChunkId,
    /// The document it is from.
    pub doc: DocId,
    /// Where the text lies in the document's extracted text, in bytes.
    pub span: Range<usize>,
    /// The text.
    pub text: String,
    /// Where the text begins, in a reader's terms.
    pub locator: Locator,
    /// Length in tokens of the chunker's counter, with the heading prefix if that is embedded too.
    pub n_tokens: u32,
}

/// A chunk as the chunker cuts it, before it has an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Where the chunk lies in the document's extracted text, in bytes.
    pub span: Range<usize>,
    /// Where it begins, in a reader's terms.
    pub locator: Locator,
    /// Length in tokens, with the heading prefix if that is embedded too.
    pub n_tokens: u32,
}

impl Chunk {
    /// The text as an encoder should see it: below its headings when `prefix_headings`, else by itself.
    pub fn embedded_text(&self, prefix_headings: bool) -> String {
        if prefix_headings { Self::prefixed(&self.locator, &self.text) } else { self.text.clone() }
    }

    /// The text below the line of its headings, `Outer › Inner`; by itself when there are none.
    pub fn prefixed(locator: &Locator, text: &str) -> String {
        if locator.headings.is_empty() {
            text.to_owned()
        } else {
            format!("{}\n{text}", locator.headings.join(" › "))
        }
    }
}
