//! Chunks of a fixed number of tokens.

use raglan_core::{ChunkSpan, Chunker, ParsedDocument, Result};

use super::Ceiling;
use super::pack::{Role, pack};
use super::split::Seam;

/// Packs as many tokens as the ceiling allows into each chunk, whatever the document's structure, without cutting
/// words that fit into a chunk.
pub struct FixedTokenChunker {
    ceiling: Ceiling,
}

impl FixedTokenChunker {
    /// A chunker with this ceiling.
    ///
    /// # Errors
    ///
    /// [`raglan_core::Error::Invalid`] when the ceiling is too low or the overlap too long.
    pub fn new(ceiling: Ceiling) -> Result<Self> {
        ceiling.check()?;
        Ok(Self { ceiling })
    }
}

impl Chunker for FixedTokenChunker {
    fn chunk(&self, document: &ParsedDocument) -> Result<Vec<ChunkSpan>> {
        pack(document, &self.ceiling, [(super::content(document), Role::Body, Seam::Word)])
    }

    fn fingerprint(&self) -> String {
        self.ceiling.fingerprint("tokens/1")
    }
}
