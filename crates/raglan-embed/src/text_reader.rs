//! Texts to tokens, as an encoder reads them.

use std::path::Path;

use raglan_model::Tokenizer;

use crate::workers::Workers;
use crate::{Error, LongInputs, Result};

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

    /// The tokens of queries; what goes beyond those that are read of one text is cut off with a warning.
    pub fn queries(
        &self,
        start: &Start,
        queries: &[&str],
        max_tokens: usize,
        long: LongInputs,
    ) -> Result<Vec<Vec<u32>>> {
        let mut texts = Vec::with_capacity(queries.len());
        for query in queries {
            let (ids, n_tokens) = self.ids(start, query, long.limit(max_tokens))?;
            if n_tokens > ids.len() {
                tracing::warn!(tokens = n_tokens, limit = ids.len(), "the query is too long; its end is not read");
            }
            texts.push(ids);
        }
        Ok(texts)
    }

    /// The tokens of passages, on all threads: beside the forward of a fast machine, one would be waited for.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] for one of more than are read of one text that is not to be cut.
    pub fn passages(
        &self,
        workers: &Workers,
        start: &Start,
        passages: &[&str],
        max_tokens: usize,
        long: LongInputs,
    ) -> Result<Vec<Vec<u32>>> {
        let limit = long.limit(max_tokens);
        workers.read(passages, |passage, text| {
            let (ids, tokens) = self.ids(start, text, limit)?;
            if tokens > ids.len() && long != LongInputs::Cut {
                return Err(Error::TooLong { passage, tokens, limit });
            }
            Ok(ids)
        })
    }

    /// A text's tokens in windows of at most `max_tokens`, the special ones and those of the prefix included, which
    /// every window has. A window begins with the last `overlap` of the tokens of the one before it, or fewer if that
    /// would be more than half of the window.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] when the prefix fills a window.
    pub fn windows(&self, prefix: &str, text: &str, max_tokens: usize, overlap: usize) -> Result<Windows> {
        let tokens = self.tokenizer.encode(&format!("{prefix}{text}"), false)?;
        // A token that holds the end of the prefix and the beginning of the text is the text's.
        let n_prefix = tokens.spans.iter().take_while(|span| span.end <= prefix.len() && !prefix.is_empty()).count();
        let (before, own) = tokens.ids.split_at(n_prefix);
        let n_before = n_prefix + 1;
        let size = max_tokens.saturating_sub(n_before + 1);
        if size == 0 {
            return Err(Error::NoRoom { before: n_before, limit: max_tokens });
        }
        let overlap = overlap.min(size / 2);
        let n_windows = own.len().saturating_sub(size).div_ceil(size - overlap) + 1;
        let windows = (0..n_windows).map(|window| {
            let start = window * (size - overlap);
            let own = &own[start..(start + size).min(own.len())];
            [&self.frame[..1], before, own, &self.frame[1..]].concat()
        });
        let mut first = 0;
        let starts = tokens.spans[n_prefix..].iter().map(|span| {
            // Some tokenizers give a word the space before it.
            let [start, end] = [span.start, span.end].map(|byte| byte.saturating_sub(prefix.len()));
            let n_spaces = text.get(start..end).map_or(0, |token| token.len() - token.trim_start().len());
            first = first.max(start + n_spaces);
            first
        });
        Ok(Windows { texts: windows.collect(), n_before, overlap, starts: starts.collect() })
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

/// A text in windows of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Each window's tokens, of which the last is a special one.
    pub texts: Vec<Vec<u32>>,
    /// How many tokens that are not the text's stand before those that are, in every window.
    pub n_before: usize,
    /// How many of the text's tokens a window begins with that are also the last of the window before.
    pub overlap: usize,
    /// Where the first character of each of the text's tokens lies in it, in bytes; not decreasing.
    pub starts: Vec<usize>,
}

/// What stands at the start of a text, behind the token that the tokenizer puts there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// A text, which is read as one with it.
    Text(&'a str),
    /// A token, if there is one.
    Token(Option<u32>),
}
