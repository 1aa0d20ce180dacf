//! Where sentences begin and end.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Abbreviations after which a sentence goes on, without their last full stop, in lower case.
#[rustfmt::skip]
const ABBREVIATIONS: [&str; 24] = [
    "dr", "mr", "mrs", "ms", "prof", "st", "no", "vs", "etc", "e.g", "i.e", "cf", "fig", "sec", "eq", "vol", "inc",
    "ltd", "co", "jr", "sr", "al", "approx", "u.s",
];

/// Where the sentences of a text lie, in bytes, without the white space around them: one behind the other.
///
/// Sentences end as Unicode Annex 29 says, and at line ends, but not after common abbreviations, initials and the
/// numbers of a list.
pub fn sentence_spans(text: &str) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut start_of_line = 0;
    for line in text.split_inclusive('\n') {
        let first = spans.len();
        for (start, piece) in line.split_sentence_bound_indices() {
            let (start, end) = (start_of_line + start, start_of_line + start + piece.len());
            match spans[first..].last_mut() {
                Some(last) if !ends_sentence(text[last.clone()].trim_end()) => last.end = end,
                _ => spans.push(start..end),
            }
        }
        start_of_line += line.len();
    }
    let trimmed = spans.into_iter().map(|span| {
        let sentence = &text[span.clone()];
        span.end - sentence.trim_start().len()..span.start + sentence.trim_end().len()
    });
    trimmed.filter(|span| span.start < span.end).collect()
}

/// Whether a piece that Unicode takes for a sentence is one.
fn ends_sentence(piece: &str) -> bool {
    let Some(body) = piece.strip_suffix('.') else { return true };
    let word = body.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    let list_number = word == body && word.chars().all(|c| c.is_ascii_digit());
    !(initial || list_number || ABBREVIATIONS.contains(&word.to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found: Vec<&str> = sentence_spans(text).into_iter().map(|span| &text[span]).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn sentences_end_at_stops_and_lines_but_not_after_abbreviations() {
        check("One, e.g. this. Two?  Three\nFour ", &["One, e.g. this.", "Two?", "Three", "Four"]);
        check("Dr. A. Turing wrote it.\n\n1. A list.", &["Dr. A. Turing wrote it.", "1. A list."]);
        check(" \n ", &[]);
        check("", &[]);
    }
}
