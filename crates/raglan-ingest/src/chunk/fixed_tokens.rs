//! Chunks of a fixed number of tokens.

use raglan_core::{ChunkSpan, Chunker, ParsedDocument, Result};

use super::Ceiling;
use super::pack::{Prefixes, Unit, pack};
use super::split::{Seam, trimmed};

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
        let text = &document.text;
        let content = super::content(document);
        let tokens = self.ceiling.counter.token_spans(&text[content.clone()])?;
        // A word is everything up to the next white space, with the tokens that begin in it.
        let mut words = Vec::new();
        let mut token = 0;
        let base = content.start;
        let mut at = base;
        for piece in text[content].split_inclusive(char::is_whitespace) {
            let end = at + piece.len();
            let first = token;
            token += tokens[token..].iter().take_while(|span| base + span.start < end).count();
            if let Some(span) = trimmed(text, at..end) {
                words.push((span, token - first));
            }
            at = end;
        }
        let prefixes = Prefixes::new(document, &self.ceiling)?;
        let units = words.into_iter().map(|(span, n_tokens)| {
            let n_prefix = prefixes.at(span.start);
            Ok(Unit::new(span, n_tokens, n_prefix, Seam::Sentence))
        });
        pack(document, &self.ceiling, units)
    }

    fn fingerprint(&self) -> String {
        self.ceiling.fingerprint("tokens/1")
    }
}
