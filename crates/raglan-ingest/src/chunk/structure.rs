//! Chunks that follow the document's structure.

use raglan_core::{BlockKind, ChunkSpan, Chunker, ParsedDocument, Result};

use super::Ceiling;
use super::pack::{Prefixes, Unit, pack};
use super::split::Seam;

/// Packs whole blocks — paragraphs, list items, rows, definitions — into chunks.
///
/// A heading begins a chunk unless the open one is less than a third full, so that small sections share a chunk and
/// others do not. A heading is never the end of a chunk. A block that is too long is cut between sentences (lines, for
/// code and tables), then words, then within a word.
pub struct StructureChunker {
    ceiling: Ceiling,
}

impl StructureChunker {
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

impl Chunker for StructureChunker {
    fn chunk(&self, document: &ParsedDocument) -> Result<Vec<ChunkSpan>> {
        let prefixes = Prefixes::new(document, &self.ceiling)?;
        let units = document.blocks.iter().filter_map(|block| {
            let n_prefix = prefixes.at(block.span.start);
            let span = super::split::trimmed(&document.text, block.span.clone())?;
            let seam = match block.kind {
                BlockKind::Heading(_) | BlockKind::Paragraph | BlockKind::ListItem => Seam::Sentence,
                BlockKind::TableRow | BlockKind::Code | BlockKind::Definition => Seam::Line,
            };
            let n_tokens = self.ceiling.counter.count(&document.text[span.clone()]);
            let is_heading = matches!(block.kind, BlockKind::Heading(_));
            Some(n_tokens.map(|n_tokens| Unit { is_heading, ..Unit::new(span, n_tokens, n_prefix, seam) }))
        });
        pack(document, &self.ceiling, units)
    }

    fn fingerprint(&self) -> String {
        self.ceiling.fingerprint("structure/1")
    }
}
