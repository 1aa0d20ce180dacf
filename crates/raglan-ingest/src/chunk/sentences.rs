//! Chunks of whole sentences.

use raglan_core::{ChunkSpan, Chunker, ParsedDocument, Result};

use super::Ceiling;
use super::pack::{Prefixes, Unit, pack};
use super::split::{Seam, at_seams};

/// Packs sentences (Unicode Standard Annex 29) into chunks, whatever the document's structure.
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
        let spans = at_seams(&document.text, super::content(document), Seam::Sentence);
        let prefixes = Prefixes::new(document, &self.ceiling)?;
        let units = spans.into_iter().map(|span| {
            let n_tokens = self.ceiling.counter.count(&document.text[span.clone()])?;
            let n_prefix = prefixes.at(span.start);
            Ok(Unit::new(span, n_tokens, n_prefix, Seam::Sentence))
        });
        pack(document, &self.ceiling, units)
    }

    fn fingerprint(&self) -> String {
        self.ceiling.fingerprint("sentences/1")
    }
}
