//! The analyzer as a tokenizer of tantivy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

use super::pieces::{Cutter, Piece, PieceKind};
use super::words::Words;
use super::{AnalyzerConfig, StemLanguage};

/// A term longer than this is left out: a line of base64, say.
const MAX_TERM: usize = 128;

/// Cuts texts into terms; reuses its memory from text to text.
pub struct TextTokenizer {
    config: AnalyzerConfig,
    cutter: Cutter,
    words: Words,
    pieces: Vec<Piece>,
    /// How many terms the last text had that was read to its end.
    n_terms: Arc<AtomicU32>,
}

impl TextTokenizer {
    pub fn new(config: &AnalyzerConfig) -> Self {
        Self::counting(config, Arc::default())
    }

    /// A tokenizer that writes the number of a text's terms to `n_terms` at the end of each text.
    pub fn counting(config: &AnalyzerConfig, n_terms: Arc<AtomicU32>) -> Self {
        Self {
            config: config.clone(),
            cutter: Cutter {
                split_identifiers: config.split_identifiers,
                apostrophes: matches!(config.language, StemLanguage::English | StemLanguage::None),
            },
            words: Words::new(config),
            pieces: Vec::new(),
            n_terms,
        }
    }
}

impl Clone for TextTokenizer {
    /// A tokenizer of the same kind that remembers nothing yet.
    fn clone(&self) -> Self {
        Self::counting(&self.config, Arc::clone(&self.n_terms))
    }
}

impl Tokenizer for TextTokenizer {
    type TokenStream<'a> = TermStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> TermStream<'a> {
        self.pieces.clear();
        TermStream { tokenizer: self, text, at: 0, next_piece: 0, n_words: 0, n_terms: 0, token: Token::default() }
    }
}

/// The terms of a text.
pub struct TermStream<'a> {
    tokenizer: &'a mut TextTokenizer,
    text: &'a str,
    /// What has been cut.
    at: usize,
    /// The next of the pieces that are cut but have not become terms.
    next_piece: usize,
    n_words: usize,
    n_terms: u32,
    token: Token,
}

impl TokenStream for TermStream<'_> {
    fn advance(&mut self) -> bool {
        let TextTokenizer { cutter, words, pieces, n_terms, .. } = &mut *self.tokenizer;
        loop {
            while let Some(piece) = pieces.get(self.next_piece) {
                self.next_piece += 1;
                let text = &self.text[piece.span.clone()];
                let term = &mut self.token.text;
                let kept = match piece.kind {
                    PieceKind::AsciiWord => words.ascii_word(text, term),
                    PieceKind::Word => text.len() <= MAX_TERM && words.word(text, term),
                    PieceKind::Verbatim => words.verbatim(text, term),
                };
                if kept && term.len() <= MAX_TERM {
                    self.token.offset_from = piece.span.start;
                    self.token.offset_to = piece.span.end;
                    self.token.position = piece.position;
                    self.n_terms += 1;
                    return true;
                }
            }
            pieces.clear();
            self.next_piece = 0;
            match cutter.next_run(self.text, self.at, &mut self.n_words, pieces) {
                Some(end) => self.at = end,
                None => {
                    self.at = self.text.len();
                    n_terms.store(self.n_terms, Ordering::Relaxed);
                    return false;
                }
            }
        }
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}
