//! Chunks that follow the document's structure.

use raglan_core::{BlockKind, ChunkSpan, Chunker, ParsedDocument, Result};

use super::Ceiling;
use super::pack::{Role, pack};
use super::split::Seam;

/// Packs whole blocks — paragraphs, list items, rows, definitions — into chunks.
///
/// A heading or a definition begins a chunk unless the open one is less than a third full, so that small sections share
/// a chunk and others do not. A heading stays with what follows it. A block that is too long is cut between sentences
/// (code at empty lines, then lines; table rows at lines), then words, then tokens.
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
        let pieces = document.blocks.iter().map(|block| {
            let (role, seam) = match block.kind {
                BlockKind::Heading(_) => (Role::Heading, Seam::Sentence),
                BlockKind::Paragraph | BlockKind::ListItem => (Role::Body, Seam::Sentence),
                BlockKind::TableRow => (Role::Body, Seam::Line),
                BlockKind::Code => (Role::Body, Seam::EmptyLine),
                BlockKind::Definition => (Role::Opening, Seam::EmptyLine),
            };
            (block.span.clone(), role, seam)
        });
        pack(document, &self.ceiling, pieces)
    }

    fn fingerprint(&self) -> String {
        self.ceiling.fingerprint("structure/1")
    }
}
