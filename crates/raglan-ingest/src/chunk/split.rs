//! Text that is too long for a chunk, cut where it hurts least.

use std::ops::Range;

use super::sentence::sentences;

/// Where a text is cut first; what has no such seam is cut at the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seam {
    /// Between groups of lines: code.
    EmptyLine,
    /// Between lines: tables.
    Line,
    /// Between sentences: prose.
    Sentence,
    /// Between words.
    Word,
    /// Between tokens.
    Token,
}

impl Seam {
    /// The next finer seam.
    pub(super) fn finer(self) -> Option<Self> {
        match self {
            Self::EmptyLine => Some(Self::Line),
            Self::Line => Some(Self::Sentence),
            Self::Sentence => Some(Self::Word),
            Self::Word => Some(Self::Token),
            Self::Token => None,
        }
    }

    /// The parts of `text[span]`, trimmed and in order; `tokens` are those of that part of the text.
    pub(super) fn parts(self, text: &str, span: Range<usize>, tokens: &[Range<usize>]) -> Vec<Range<usize>> {
        let part = &text[span.clone()];
        match self {
            Self::EmptyLine => {
                let mut groups: Vec<Range<usize>> = Vec::new();
                let mut goes_on = false;
                for line in spans(span.start, part.split_inclusive('\n')) {
                    match (trimmed(text, line), groups.last_mut()) {
                        (Some(line), Some(group)) if goes_on => group.end = line.end,
                        (Some(line), _) => {
                            groups.push(line);
                            goes_on = true;
                        }
                        (None, _) => goes_on = false,
                    }
                }
                groups
            }
            Self::Line => {
                spans(span.start, part.split_inclusive('\n')).filter_map(|line| trimmed(text, line)).collect()
            }
            Self::Sentence => {
                spans(span.start, sentences(part).into_iter()).filter_map(|sentence| trimmed(text, sentence)).collect()
            }
            Self::Word => spans(span.start, part.split_inclusive(char::is_whitespace))
                .filter_map(|word| trimmed(text, word))
                .collect(),
            Self::Token => between_tokens(text, span, tokens),
        }
    }
}

/// Where consecutive pieces of a text lie, the first at `at`.
fn spans<'a>(mut at: usize, pieces: impl Iterator<Item = &'a str>) -> impl Iterator<Item = Range<usize>> {
    pieces.map(move |piece| {
        let start = at;
        at += piece.len();
        start..at
    })
}

/// A token that is longer than this stands for a word that the vocabulary does not know.
pub(super) const BYTES_PER_TOKEN: usize = 64;

/// One part a token, with what lies between it and the next; long tokens are cut again.
fn between_tokens(text: &str, span: Range<usize>, tokens: &[Range<usize>]) -> Vec<Range<usize>> {
    let starts = tokens.iter().skip(1).map(|token| span.start + token.start);
    let mut parts = Vec::with_capacity(tokens.len());
    let mut start = span.start;
    for end in starts.chain([span.end]) {
        while end - start > BYTES_PER_TOKEN {
            let cut = boundary_before(text, start + BYTES_PER_TOKEN);
            parts.extend(trimmed(text, start..cut));
            start = cut;
        }
        parts.extend(trimmed(text, start..end));
        start = end;
    }
    if parts.len() < 2 && span.len() > 1 {
        // The counter sees one token: halves, if there are two characters.
        let cut = boundary_before(text, span.start + span.len().div_ceil(2));
        let cut = if cut > span.start { cut } else { boundary_after(text, span.start + 1) };
        parts = [span.start..cut, cut..span.end].into_iter().filter_map(|half| trimmed(text, half)).collect();
    }
    parts
}

/// The span without white space at its ends, or nothing if it has nothing else.
pub(super) fn trimmed(text: &str, span: Range<usize>) -> Option<Range<usize>> {
    let part = &text[span.clone()];
    let start = span.start + (part.len() - part.trim_start().len());
    let end = span.start + part.trim_end().len();
    (start < end).then_some(start..end)
}

/// The last character boundary at or before `at`.
pub(super) fn boundary_before(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn boundary_after(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}
