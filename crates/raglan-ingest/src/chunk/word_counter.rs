//! Tokens without a model.

use std::ops::Range;

use raglan_core::{Result, TokenCounter};
use unicode_segmentation::UnicodeSegmentation;

/// The most bytes of a piece of a word: longer words count several times, as they would with a subword vocabulary.
const PIECE: usize = 8;

/// Counts words, punctuation marks, and pieces of long words: for indexes without an encoder.
#[derive(Clone, Copy, Debug, Default)]
pub struct WordCounter;

impl TokenCounter for WordCounter {
    fn token_spans(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let mut spans = Vec::with_capacity(text.len() / 5);
        for (start, word) in text.split_word_bound_indices() {
            if word.starts_with(char::is_whitespace) {
                continue;
            }
            let mut at = start;
            while start + word.len() - at > PIECE {
                let mut end = at + PIECE;
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                spans.push(at..end);
                at = end;
            }
            spans.push(at..start + word.len());
        }
        Ok(spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_count_several_times() {
        let count = |text: &str| WordCounter.count(text).unwrap();
        assert_eq!(count(""), 0);
        assert_eq!(count("  one, two\n"), 3);
        assert_eq!(count("incomprehensible"), 2); // 16 bytes in pieces of 8
        assert_eq!(count("ééééé"), 2); // 10 bytes: 8 and 2
    }
}
