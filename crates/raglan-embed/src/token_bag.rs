//! The distinct tokens of a text, for queries that need no model.

use std::path::Path;

use crate::Result;
use crate::text_reader::TextReader;

/// Gives the distinct tokens of texts by a model's tokenizer: all that an inference-free query is made of.
#[derive(Debug)]
pub struct TokenBag {
    reader: TextReader,
}

impl TokenBag {
    /// Reads `tokenizer.json` of a folder.
    ///
    /// # Errors
    ///
    /// [`Error::Model`](crate::Error::Model) when it is missing or damaged;
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a tokenizer that does not put one token before and one
    /// after each text.
    pub fn load(dir: &Path) -> Result<Self> {
        Ok(Self { reader: TextReader::load(dir)? })
    }

    /// The distinct tokens of a text, increasing, without special ones.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.reader.tokenizer.encode(text, false)?.ids;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
