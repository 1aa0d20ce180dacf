//! Texts to tokens, as an encoder reads them.

use std::path::Path;

use raglan_model::Tokenizer;

use crate::{Error, Result};

/// What an encoder does with passages that are longer than it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongPassages {
    /// Refuses them, as [`Error::TooLong`]: what is not read cannot be found.
    #[default]
    Refuse,
    /// Reads their beginning, as published figures on whole documents do.
    Cut,
}

/// A tokenizer that puts one token before and one after every text, and the number of tokens an encoder reads.
#[derive(Debug)]
pub(crate) struct TextReader {
    pub tokenizer: Tokenizer,
    /// What stands before and after every text.
    frame: [u32; 2],
}

impl TextReader {
    /// Reads `tokenizer.json` of a folder.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path)?;
        let frame = tokenizer.encode("", true)?.ids;
        let Ok(frame) = <[u32; 2]>::try_from(frame) else {
            return Err(Error::Unsupported {
                path,
                what: "it does not put one token before and one after a text".into(),
            });
        };
        Ok(Self { tokenizer, frame })
    }

    /// The tokens of queries; what goes beyond `max_tokens` is cut off with a warning.
    pub fn queries(&self, start: &Start, queries: &[&str], max_tokens: usize) -> Result<Vec<Vec<u32>>> {
        let mut texts = Vec::with_capacity(queries.len());
        for query in queries {
            let (ids, n_tokens) = self.ids(start, query, max_tokens)?;
            if n_tokens > ids.len() {
                tracing::warn!(tokens = n_tokens, limit = ids.len(), "the query is too long; its end is not read");
            }
            texts.push(ids);
        }
        Ok(texts)
    }

    /// The tokens of passages.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] for one of more than `max_tokens` that is not to be cut.
    pub fn passages(
        &self,
        start: &Start,
        passages: &[&str],
        max_tokens: usize,
        long: LongPassages,
    ) -> Result<Vec<Vec<u32>>> {
        let mut texts = Vec::with_capacity(passages.len());
        for (passage, text) in passages.iter().enumerate() {
            let (ids, tokens) = self.ids(start, text, max_tokens)?;
            if tokens > ids.len() && long == LongPassages::Refuse {
                return Err(Error::TooLong { passage, tokens, limit: max_tokens });
            }
            texts.push(ids);
        }
        Ok(texts)
    }

    /// A text's tokens with the special ones, and how many there would be if nothing were cut off.
    fn ids(&self, start: &Start, text: &str, max_tokens: usize) -> Result<(Vec<u32>, usize)> {
        let (marker, tokens) = match start {
            Start::Text(prefix) if !prefix.is_empty() => {
                (None, self.tokenizer.encode(&format!("{prefix}{text}"), false)?)
            }
            Start::Text(_) => (None, self.tokenizer.encode(text, false)?),
            Start::Token(marker) => (*marker, self.tokenizer.encode(text, false)?),
        };
        let n_special = self.frame.len() + usize::from(marker.is_some());
        let n_tokens = tokens.ids.len() + n_special;
        let mut ids = Vec::with_capacity(n_tokens.min(max_tokens));
        ids.push(self.frame[0]);
        ids.extend(marker);
        ids.extend(tokens.ids.into_iter().take(max_tokens.saturating_sub(n_special)));
        ids.push(self.frame[1]);
        Ok((ids, n_tokens))
    }
}

/// What stands at the start of a text, behind the token that the tokenizer puts there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// A text, which is read as one with it.
    Text(&'a str),
    /// A token, if there is one.
    Token(Option<u32>),
}
