//! The part of a chunk that shows why it was found.

use std::collections::HashSet;
use std::ops::Range;

use raglan_sparse::Analyzer;
use serde::Serialize;

/// A piece of a chunk's text with the words of the query in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snippet {
    /// The piece.
    pub text: String,
    /// Byte ranges of `text` that hold words of the query, in order and disjoint.
    pub highlights: Vec<Range<usize>>,
    /// Whether text of the chunk comes before the piece.
    pub cut_before: bool,
    /// Whether text of the chunk comes after the piece.
    pub cut_after: bool,
}

/// The piece of `text` of at most about `length` bytes that holds the most different words of `query`.
///
/// Words are compared as the analyzer reduces them, so that `indexes` marks `indexing`. Without a common word the
/// piece is the beginning of the text. Pieces begin and end at words.
pub fn snippet(analyzer: &Analyzer, query: &str, text: &str, length: usize) -> Snippet {
    let wanted: HashSet<String> = analyzer.tokens(query).into_iter().map(|token| token.text).collect();
    let mut found: Vec<(Range<usize>, String)> = analyzer
        .tokens(text)
        .into_iter()
        .filter(|token| wanted.contains(&token.text))
        .map(|token| (token.span, token.text))
        .collect();
    found.sort_by_key(|(span, _)| (span.start, span.end));

    // The window that starts a little before some match and holds the most different words.
    let mut best = (0, 0..0);
    for (i, (first, _)) in found.iter().enumerate() {
        let inside = found[i..].iter().take_while(|(span, _)| span.end <= first.start + length * 3 / 4);
        let words: HashSet<&str> = inside.map(|(_, word)| word.as_str()).collect();
        if words.len() > best.0 {
            best = (words.len(), first.clone());
        }
    }
    let lead = if best.0 == 0 { 0 } else { length / 4 };
    let mut start = boundary(text, best.1.start.saturating_sub(lead));
    if start > 0 {
        start += text[start..best.1.start].find(char::is_whitespace).map_or(0, |i| i + 1);
    }
    let mut end = boundary(text, (start + length).min(text.len()));
    if end < text.len() {
        end = text[start..end].rfind(char::is_whitespace).map_or(end, |i| start + i).max(best.1.end.min(text.len()));
    }
    let piece = &text[start..end];
    let start = start + (piece.len() - piece.trim_start().len());
    let piece = piece.trim();

    let mut highlights: Vec<Range<usize>> = Vec::new();
    for (span, _) in found.iter().filter(|(span, _)| span.start >= start && span.end <= start + piece.len()) {
        let span = span.start - start..span.end - start;
        match highlights.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            _ => highlights.push(span),
        }
    }
    Snippet {
        text: piece.to_owned(),
        highlights,
        cut_before: !text[..start].trim().is_empty(),
        cut_after: !text[start + piece.len()..].trim().is_empty(),
    }
}

fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use raglan_sparse::AnalyzerConfig;

    #[track_caller]
    fn check(query: &str, text: &str, length: usize, marked: &[&str]) -> Snippet {
        let found = snippet(&Analyzer::new(&AnalyzerConfig::default()), query, text, length);
        let words: Vec<_> = found.highlights.iter().map(|span| &found.text[span.clone()]).collect();
        assert_eq!(words, marked, "{found:?}");
        found
    }

    #[test]
    fn inflected_words_are_marked() {
        check("index caches", "Caching is not indexing; a cache has entries.", 200, &["Caching", "indexing", "cache"]);
    }

    #[test]
    fn the_window_moves_to_the_words() {
        let text = format!("{} the needle lies here {}", "hay ".repeat(100), "straw ".repeat(100));
        let found = check("needle", &text, 60, &["needle"]);
        assert!(found.cut_before && found.cut_after && found.text.len() <= 60, "{found:?}");
    }

    #[test]
    fn without_a_common_word_the_beginning_is_shown() {
        let found = check("zebra", "äöü one two three", 8, &[]);
        assert_eq!((found.text.as_str(), found.cut_before, found.cut_after), ("äöü", false, true));
    }
}
