//! Chunks of whole sentences.

use raglan_core::{ChunkSpan, Chunker, ParsedDocument, Result};

use super::Ceiling;
use super::pack::{Role, pack};
use super::split::Seam;

/// Packs whole sentences into chunks, whatever the document's structure.
pub struct SentenceChunker {
    ceiling: Ceiling,
}

impl SentenceChunker {
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

impl Chunker for SentenceChunker {
    fn chunk(&self, document: &ParsedDocument) -> Result<Vec<ChunkSpan>> {
        pack(document, &self.ceiling, [(super::content(document), Role::Body, Seam::Sentence)])
    }

    fn fingerprint(&self) -> String {
        self.ceiling.fingerprint("sentences/1")
    }
}
