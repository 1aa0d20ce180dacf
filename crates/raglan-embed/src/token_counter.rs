//! Counting tokens as a model does.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use raglan_core::TokenCounter;
use raglan_model::{Tokenizer, WordPieceCounter};

use crate::{Error, Result};

/// Counts tokens as the model in `dir` does: by its `tokenizer.json`, special tokens left out.
///
/// Of the tokens that share one character, the first has its range and the others are empty ones behind it.
/// BERT's tokenizer has a fast way of its own here; any other is run as it is.
///
/// # Errors
///
/// [`Error::Model`] when that file cannot be read or is not a tokenizer.
pub fn token_counter(dir: &Path) -> Result<Arc<dyn TokenCounter>> {
    let path = dir.join("tokenizer.json");
    Ok(match WordPieceCounter::from_file(&path)? {
        Some(counter) => Arc::new(FastCounter(counter)),
        None => token_counter_of(Tokenizer::from_file(&path)?),
    })
}

/// Counts tokens as a tokenizer does that is loaded already, such as that of a GGUF file.
pub fn token_counter_of(tokenizer: Tokenizer) -> Arc<dyn TokenCounter> {
    Arc::new(LibraryCounter(tokenizer))
}

/// BERT's tokenizer.
struct FastCounter(WordPieceCounter);

impl TokenCounter for FastCounter {
    fn token_spans(&self, text: &str) -> raglan_core::Result<Vec<Range<usize>>> {
        Ok(divided(text, disjoint(self.0.spans(text).map_err(Error::from)?)))
    }
}

/// Any tokenizer.
struct LibraryCounter(Tokenizer);

impl TokenCounter for LibraryCounter {
    fn token_spans(&self, text: &str) -> raglan_core::Result<Vec<Range<usize>>> {
        Ok(divided(text, disjoint(self.0.encode(text, false).map_err(Error::from)?.spans)))
    }
}

/// Takes from each range what the ones before it hold.
fn disjoint(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut free = 0;
    for span in &mut spans {
        span.start = span.start.max(free);
        span.end = span.end.max(span.start);
        free = span.end;
    }
    spans
}

/// Bytes of the longest token that counts as one: no word of a vocabulary is as long.
const LONGEST: usize = 32;
/// Bytes of a token, about, where a model has no word for a text.
const PIECE: usize = 4;

/// Cuts what is longer than any word into pieces: a model may take a line of digits, or a sentence without spaces, for one
/// unknown word, and who reads the passage afterwards takes it for thousands of tokens.
fn divided(text: &str, spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    if spans.iter().all(|span| span.len() <= LONGEST) {
        return spans;
    }
    let mut all = Vec::with_capacity(spans.len());
    for span in spans {
        let mut start = span.start;
        if span.len() > LONGEST {
            while span.end - start > PIECE {
                let end = text.ceil_char_boundary(start + PIECE);
                all.push(start..end);
                start = end;
            }
        }
        all.push(start..span.end);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, disjoint, divided};

    #[test]
    fn an_unknown_word_counts_by_its_length() {
        let text = format!("a {} Ã{}", "f".repeat(101), "ก".repeat(40));
        let spans = divided(&text, vec![0..1, 2..103, 104..text.len()]);
        assert!(spans.len() > 40 && spans.iter().all(|span| span.len() <= 6 && text.get(span.clone()).is_some()));
        let pieces: String = spans.iter().map(|span| &text[span.clone()]).collect();
        assert_eq!(pieces, text.replace(' ', ""));
        let short = vec![0..1, 2..2 + LONGEST];
        assert_eq!(divided(&text, short.clone()), short);
    }

    #[test]
    fn a_shared_character_belongs_to_its_first_token() {
        assert_eq!(disjoint(vec![0..3, 0..3, 0..3, 3..4]), [0..3, 3..3, 3..3, 3..4]);
    }
}
