//! Text that is too long for a chunk, cut where it hurts least.

use std::ops::Range;

use raglan_core::{Result, TokenCounter};
use unicode_segmentation::UnicodeSegmentation;

/// Where a text is cut first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seam {
    /// Between sentences: prose.
    Sentence,
    /// Between lines: code, tables.
    Line,
}

/// The sentences or lines of `text[span]`, trimmed, as spans of `text`.
pub(super) fn at_seams(text: &str, span: Range<usize>, seam: Seam) -> Vec<Range<usize>> {
    let part = &text[span.clone()];
    let pieces: Vec<(usize, &str)> = match seam {
        Seam::Sentence => part.split_sentence_bound_indices().collect(),
        Seam::Line => {
            let mut at = 0;
            let line = |line: &'_ str| {
                let start = at;
                at += line.len();
                start
            };
            let starts: Vec<usize> = part.split_inclusive('\n').map(line).collect();
            let ends = starts.iter().copied().skip(1).chain([part.len()]);
            starts.iter().copied().zip(ends).map(|(start, end)| (start, &part[start..end])).collect()
        }
    };
    pieces
        .into_iter()
        .filter_map(|(start, piece)| trimmed(text, span.start + start..span.start + start + piece.len()))
        .collect()
}

/// The span without white space at its ends, or nothing if it has nothing else.
pub(super) fn trimmed(text: &str, span: Range<usize>) -> Option<Range<usize>> {
    let part = &text[span.clone()];
    let start = span.start + (part.len() - part.trim_start().len());
    let end = span.start + part.trim_end().len();
    (start < end).then_some(start..end)
}

/// Cuts `text[span]` into pieces of at most `budget` tokens: between words, and within words that are too long.
///
/// Pieces are trimmed, in order, and cover everything but white space. Their own number of tokens may still differ
/// from what is counted here, by a tokenizer that looks across the cut.
pub(super) fn at_words(
    text: &str,
    span: Range<usize>,
    budget: usize,
    counter: &dyn TokenCounter,
) -> Result<Vec<Range<usize>>> {
    let tokens = counter.token_spans(&text[span.clone()])?;
    let mut pieces = Vec::new();
    let mut start = span.start;
    let mut first_token = 0;
    while start < span.end {
        let beyond = first_token + budget;
        let Some(limit) = tokens.get(beyond).map(|token| span.start + token.start) else {
            pieces.extend(within_word(text, start..span.end, budget));
            break;
        };
        // The last white space before the token that is too many, or that token itself in the middle of a word.
        let end = match text[start..limit].rfind(char::is_whitespace) {
            Some(at) if !text[start..start + at].trim().is_empty() => start + at,
            _ => limit.max(next_boundary(text, start + 1)),
        };
        pieces.extend(within_word(text, start..end, budget));
        start = end;
        first_token = tokens.partition_point(|token| span.start + token.start < start);
    }
    Ok(pieces)
}

/// A stretch that counts as few tokens may still be one endless word that the vocabulary does not know.
const BYTES_PER_TOKEN: usize = 64;

fn within_word(text: &str, span: Range<usize>, budget: usize) -> Vec<Range<usize>> {
    let most = budget * BYTES_PER_TOKEN;
    let mut pieces = Vec::new();
    let mut start = span.start;
    while span.end - start > most {
        let end = next_boundary(text, start + most);
        pieces.extend(trimmed(text, start..end));
        start = end;
    }
    pieces.extend(trimmed(text, start..span.end));
    pieces
}

/// Cuts `text[span]` in two at white space near the middle, or in the middle of a word.
pub(super) fn in_halves(text: &str, span: Range<usize>) -> [Option<Range<usize>>; 2] {
    let middle = next_boundary(text, span.start + (span.end - span.start) / 2);
    let cut = match text[span.start..middle].rfind(char::is_whitespace) {
        Some(at) if at * 4 > span.end - span.start => span.start + at,
        _ if middle < span.end => middle,
        _ => previous_boundary(text, span.end - 1),
    };
    [trimmed(text, span.start..cut), trimmed(text, cut..span.end)]
}

fn next_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

fn previous_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
