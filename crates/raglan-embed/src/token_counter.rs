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
        Ok(disjoint(self.0.spans(text).map_err(Error::from)?))
    }
}

/// Any tokenizer.
struct LibraryCounter(Tokenizer);

impl TokenCounter for LibraryCounter {
    fn token_spans(&self, text: &str) -> raglan_core::Result<Vec<Range<usize>>> {
        Ok(disjoint(self.0.encode(text, false).map_err(Error::from)?.spans))
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

#[cfg(test)]
mod tests {
    use super::disjoint;

    #[test]
    fn a_shared_character_belongs_to_its_first_token() {
        assert_eq!(disjoint(vec![0..3, 0..3, 0..3, 3..4]), [0..3, 3..3, 3..3, 3..4]);
    }
}
