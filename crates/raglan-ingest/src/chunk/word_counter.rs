//! Tokens without a model.

use std::ops::Range;

use raglan_core::{Result, TokenCounter};

/// The most bytes of a piece of a word: longer words count several times, as they would with a subword vocabulary.
const PIECE: usize = 8;

/// Counts words, punctuation marks, ideographs, and pieces of long words: for indexes without an encoder.
///
/// One pass, and what a text counts does not depend on the white space around it.
#[derive(Clone, Copy, Debug, Default)]
pub struct WordCounter;

impl TokenCounter for WordCounter {
    fn token_spans(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let mut spans = Vec::with_capacity(text.len() / 5);
        each_token(text, |span| spans.push(span));
        Ok(spans)
    }

    fn count(&self, text: &str) -> Result<usize> {
        let mut n_tokens = 0;
        each_token(text, |_| n_tokens += 1);
        Ok(n_tokens)
    }
}

/// What a character does to the word it stands in or behind.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// Ends it and is no token.
    Space,
    /// Belongs to it.
    Letter,
    /// Ends it and is a token by itself.
    Alone,
}

fn each_token(text: &str, mut take: impl FnMut(Range<usize>)) {
    let mut word: Option<Range<usize>> = None;
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        let (role, len) = if byte.is_ascii() {
            (ascii_role(byte), 1)
        } else {
            let character = text[at..].chars().next().expect("`at` is the start of a character");
            (role(character), character.len_utf8())
        };
        let end = at + len;
        match (&mut word, role) {
            (Some(open), Role::Letter) if end - open.start <= PIECE => open.end = end,
            (open, role) => {
                if let Some(ended) = open.take() {
                    take(ended);
                }
                match role {
                    Role::Letter => word = Some(at..end),
                    Role::Alone => take(at..end),
                    Role::Space => {}
                }
            }
        }
        at = end;
    }
    if let Some(ended) = word {
        take(ended);
    }
}

fn ascii_role(byte: u8) -> Role {
    match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => Role::Letter,
        b' ' | b'\t'..=b'\r' => Role::Space,
        _ => Role::Alone,
    }
}

fn role(character: char) -> Role {
    match character {
        // Ideographs, kana and hangul: about one token each in any vocabulary.
        '\u{2E80}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7AF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}'
            if !character.is_whitespace() =>
        {
            Role::Alone
        }
        // Combining accents.
        '\u{300}'..='\u{36F}' => Role::Letter,
        _ if character.is_alphanumeric() => Role::Letter,
        _ if character.is_whitespace() => Role::Space,
        _ => Role::Alone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_marks_and_ideographs_count() {
        let tokens = |text: &'static str| -> Vec<&str> {
            WordCounter.token_spans(text).unwrap().into_iter().map(|span| &text[span]).collect()
        };
        assert_eq!(tokens("  one, two\n"), ["one", ",", "two"]);
        assert_eq!(tokens("incomprehensible"), ["incompre", "hensible"]);
        assert_eq!(tokens("ééééé"), ["éééé", "é"]); // two bytes each
        assert_eq!(tokens("cafe\u{301} 漢字\u{3000}…"), ["cafe\u{301}", "漢", "字", "…"]);
        assert_eq!(tokens(" \u{3000}\t"), [""; 0]);
    }

    #[test]
    fn a_count_is_the_number_of_spans() {
        let text = "Two words, 漢字 and incomprehensible ééééé.";
        assert_eq!(WordCounter.count(text).unwrap(), WordCounter.token_spans(text).unwrap().len());
    }
}
