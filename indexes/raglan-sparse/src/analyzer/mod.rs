//! From text to terms.

mod config;
mod pieces;
#[cfg(test)]
mod tests;
mod tokenizer;
mod words;

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;

use tantivy::tokenizer::{TokenStream, Tokenizer};

pub use config::{AnalyzerConfig, StemLanguage};
pub(crate) use tokenizer::TextTokenizer;

/// A term of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The term, as it stands in the index.
    pub text: String,
    /// The bytes of the text that it was made from.
    pub span: Range<usize>,
    /// Its number among the words of the text; an identifier has the number of its first part.
    pub position: usize,
}

/// Turns texts into terms, the same way when they are indexed, searched and highlighted.
///
/// Words are runs of letters and digits of any script, lower-cased, without diacritics on Latin letters, stop words
/// left out, stemmed. An identifier — `std::fs::File`, `getUserName`, `max_doc`, `config.toml` — is kept whole and
/// split into its words too; `C++` and `C#` are words. Scripts without spaces become pairs of neighbouring characters.
///
/// ```
/// use raglan_sparse::{Analyzer, AnalyzerConfig};
///
/// let analyzer = Analyzer::new(&AnalyzerConfig::default());
/// let terms = |text: &str| analyzer.tokens(text).into_iter().map(|token| token.text).collect::<Vec<_>>();
/// assert_eq!(terms("The user's caches"), ["user", "cach"]);
/// assert_eq!(terms("std::fs::File in C++"), ["std::fs::file", "std", "fs", "file", "c++"]);
/// ```
pub struct Analyzer {
    config: AnalyzerConfig,
    /// Tokenizers that are not in use; each remembers the stems of words it has seen.
    idle: Mutex<Vec<TextTokenizer>>,
}

impl Analyzer {
    /// An analyzer with these parameters.
    pub fn new(config: &AnalyzerConfig) -> Self {
        Self { config: config.clone(), idle: Mutex::default() }
    }

    /// The parameters.
    pub fn config(&self) -> &AnalyzerConfig {
        &self.config
    }

    /// The terms of a text, in the order of their words.
    pub fn tokens(&self, text: &str) -> Vec<Token> {
        let idle = self.idle.lock().expect("nothing panics while it is held").pop();
        let mut tokenizer = idle.unwrap_or_else(|| TextTokenizer::new(&self.config));
        let mut tokens = Vec::new();
        tokenizer.token_stream(text).process(&mut |token| {
            tokens.push(Token {
                text: token.text.clone(),
                span: token.offset_from..token.offset_to,
                position: token.position,
            });
        });
        self.idle.lock().expect("nothing panics while it is held").push(tokenizer);
        tokens
    }
}

impl fmt::Debug for Analyzer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Analyzer").field(&self.config).finish()
    }
}
