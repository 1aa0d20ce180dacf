//! Building a document's text with its blocks and marks, and checking what was built.

use std::collections::BTreeMap;
use std::ops::Range;

use raglan_core::{Block, BlockKind, Format, Mark, MarkKind, ParsedDocument};

use crate::{Limits, SkipReason};

/// What a reader finds beside the text.
#[derive(Debug, Default)]
pub(crate) struct Structure {
    pub title: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub blocks: Vec<Block>,
    pub marks: Vec<Mark>,
}

impl Structure {
    pub fn block(&mut self, kind: BlockKind, span: Range<usize>) {
        self.blocks.push(Block { kind, span });
    }

    pub fn mark(&mut self, at: usize, kind: MarkKind) {
        self.marks.push(Mark { at, kind });
    }

    /// Records what the document says of itself, unless it says nothing.
    pub fn say(&mut self, key: &str, value: &str) {
        let value = collapse(value);
        if !value.is_empty() {
            self.metadata.insert(key.to_owned(), value);
        }
    }

    /// The document: `text` with this structure, made whole.
    pub fn into_document(mut self, format: Format, text: String, rest: BlockKind) -> ParsedDocument {
        complete(&text, &mut self.blocks, rest);
        self.marks.retain(|mark| mark.at <= text.len());
        self.marks.sort_by_key(|mark| mark.at);
        let title = self.title.map(|title| collapse(&title)).filter(|title| !title.is_empty());
        ParsedDocument {
            format,
            reader: crate::read::reader_version(format),
            encoding: None,
            text,
            title,
            metadata: self.metadata,
            blocks: self.blocks,
            marks: self.marks,
        }
    }
}

/// White space runs become single spaces; none at the ends.
pub(crate) fn collapse(text: &str) -> String {
    let mut collapsed = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !collapsed.is_empty() {
            collapsed.push(' ');
        }
        collapsed.push_str(word);
    }
    collapsed
}

/// Writes a document whose text is not the file's own.
pub(crate) struct TextBuilder {
    pub text: String,
    pub structure: Structure,
    limit: usize,
    pending: Vec<MarkKind>,
    last: Option<BlockKind>,
    last_start: usize,
}

/// Adds text with its ligatures spelled out, so that their words are found.
fn push_spelled_out(to: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(|character| ('\u{FB00}'..='\u{FB06}').contains(&character)) {
        to.push_str(&rest[..at]);
        let mut behind = rest[at..].chars();
        to.push_str(match behind.next() {
            Some('\u{FB00}') => "ff",
            Some('\u{FB01}') => "fi",
            Some('\u{FB02}') => "fl",
            Some('\u{FB03}') => "ffi",
            Some('\u{FB04}') => "ffl",
            _ => "st",
        });
        rest = behind.as_str();
    }
    to.push_str(rest);
}

impl TextBuilder {
    pub fn new(limits: &Limits) -> Self {
        Self {
            text: String::new(),
            structure: Structure::default(),
            limit: usize::try_from(limits.text_bytes).unwrap_or(usize::MAX),
            pending: Vec::new(),
            last: None,
            last_start: 0,
        }
    }

    /// Puts a mark where the next block will begin.
    pub fn mark(&mut self, kind: MarkKind) {
        self.pending.push(kind);
    }

    /// Adds a block; rows and list items follow each other line by line, all else after an empty line.
    ///
    /// A text of nothing but white space is no block.
    pub fn block(&mut self, kind: BlockKind, text: &str) -> Result<(), SkipReason> {
        let text = if kind == BlockKind::Code { text.trim_matches('\n').trim_end() } else { text.trim() };
        if text.trim().is_empty() {
            return Ok(());
        }
        if self.text.len() + text.len() + 2 > self.limit || self.structure.marks.len() > self.limit {
            return Err(SkipReason::too_large("extracted text", self.limit as u64));
        }
        let joined = matches!(kind, BlockKind::ListItem | BlockKind::TableRow) && self.last == Some(kind);
        match self.last {
            None => {}
            Some(_) if joined => self.text.push('\n'),
            Some(_) => self.text.push_str("\n\n"),
        }
        let start = self.text.len();
        self.last_start = start;
        for kind in self.pending.drain(..) {
            self.structure.marks.push(Mark { at: start, kind });
        }
        push_spelled_out(&mut self.text, text);
        let indent = text.len() - text.trim_start().len();
        self.structure.block(kind, start + indent..self.text.len());
        self.last = Some(kind);
        Ok(())
    }

    /// Adds a block within which other things begin: each at an offset of `text`, in order.
    pub fn block_with_marks(
        &mut self,
        kind: BlockKind,
        text: &str,
        within: impl IntoIterator<Item = (usize, MarkKind)>,
    ) -> Result<(), SkipReason> {
        let before = self.text.len();
        self.block(kind, text)?;
        let is_written = self.text.len() > before;
        let indent = text.len() - text.trim_start().len();
        for (offset, kind) in within {
            if is_written {
                // Ligatures that were spelled out may have moved what is behind them; a mark stays on a character.
                let at = boundary(&self.text, self.last_start + offset.saturating_sub(indent));
                self.structure.mark(at, kind);
            } else {
                self.pending.push(kind);
            }
        }
        Ok(())
    }

    /// A row of a table, its cells parted by bars; empty cells at its end are dropped.
    pub fn row(&mut self, cells: &[String]) -> Result<(), SkipReason> {
        let n_cells = cells.iter().rposition(|cell| !cell.is_empty()).map_or(0, |last| last + 1);
        self.block(BlockKind::TableRow, &cells[..n_cells].join(" | "))
    }

    /// A heading: block and mark in one; its words are the title of the section.
    pub fn heading(&mut self, level: u8, title: &str) -> Result<(), SkipReason> {
        let title = collapse(title);
        if !title.is_empty() {
            self.mark(MarkKind::Heading { level, title: title.clone() });
            self.block(BlockKind::Heading(level), &title)?;
        }
        Ok(())
    }

    /// Whether a page begins with the next block.
    pub fn has_pending_page(&self) -> bool {
        self.pending.iter().any(|kind| matches!(kind, MarkKind::Page(_)))
    }

    /// Whether no text has been written.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn finish(mut self, format: Format) -> ParsedDocument {
        let end = self.text.len();
        for kind in self.pending.drain(..) {
            self.structure.marks.push(Mark { at: end, kind });
        }
        self.structure.into_document(format, self.text, BlockKind::Paragraph)
    }
}

/// Makes blocks keep their promise: disjoint, in order, trimmed, together covering all but white space.
///
/// What no block covers is given to the neighbour on its line, and otherwise becomes blocks of kind `rest`, one for
/// each run of lines that are not empty.
pub(crate) fn complete(text: &str, blocks: &mut Vec<Block>, rest: BlockKind) {
    blocks.sort_by_key(|block| (block.span.start, block.span.end));
    let mut whole: Vec<Block> = Vec::with_capacity(blocks.len() + 1);
    let mut covered = body_start(text);
    for block in blocks.drain(..) {
        let end = boundary(text, block.span.end);
        let mut span = trimmed(text, boundary(text, block.span.start).max(covered)..end.max(covered));
        if span.is_empty() {
            continue;
        }
        fill(text, covered..span.start, &mut whole, rest, Some(&mut span));
        covered = span.end;
        whole.push(Block { kind: block.kind, span });
    }
    fill(text, covered..text.len(), &mut whole, rest, None);
    *blocks = whole;
}

/// Where the text begins: behind a byte order mark.
fn body_start(text: &str) -> usize {
    if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 }
}

fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The span without white space at its ends.
pub(crate) fn trimmed(text: &str, span: Range<usize>) -> Range<usize> {
    let piece = &text[span.clone()];
    let start = span.start + (piece.len() - piece.trim_start().len());
    let end = span.start + piece.trim_end().len();
    start..end.max(start)
}

fn fill(text: &str, gap: Range<usize>, whole: &mut Vec<Block>, rest: BlockKind, next: Option<&mut Range<usize>>) {
    let mut gap = gap;
    if text[gap.clone()].trim().is_empty() {
        return;
    }
    // The end of the line on which the block before ends.
    if let Some(before) = whole.last_mut().filter(|before| before.span.end == gap.start) {
        let between = &text[gap.clone()];
        let shared = if next.is_none() || between.contains('\n') {
            between.find('\n').unwrap_or(between.len())
        } else {
            // Both are on this line: what touches the one before, such as a comma, is its own.
            between.find(char::is_whitespace).unwrap_or(0)
        };
        before.span.end = trimmed(text, before.span.start..gap.start + shared).end;
        gap.start += shared;
    }
    // The beginning of the line on which the block after begins.
    if let Some(next) = next {
        let line_start = text[gap.clone()].rfind('\n').map_or(gap.start, |at| gap.start + at + 1);
        next.start = trimmed(text, line_start.max(gap.start)..next.end).start;
        gap.end = line_start;
    }
    paragraphs(text, gap, |span| match whole.last_mut() {
        // Closing brackets and rules say nothing by themselves.
        Some(before) if !text[span.clone()].contains(char::is_alphanumeric) => before.span.end = span.end,
        _ => whole.push(Block { kind: rest, span }),
    });
}

/// Calls `each` with every run of lines that are not empty, trimmed.
pub(crate) fn paragraphs(text: &str, span: Range<usize>, mut each: impl FnMut(Range<usize>)) {
    let mut at = span.start;
    let mut open: Option<usize> = None;
    for line in text[span.clone()].split_inclusive('\n') {
        let blank = line.trim().is_empty();
        match (open, blank) {
            (None, false) => open = Some(at),
            (Some(start), true) => {
                each(trimmed(text, start..at));
                open = None;
            }
            _ => {}
        }
        at += line.len();
    }
    if let Some(start) = open {
        each(trimmed(text, start..span.end));
    }
}

/// Checks what a [`ParsedDocument`] promises of its blocks and marks; the error says which promise is broken where.
pub fn check(document: &ParsedDocument) -> Result<(), String> {
    let text = &document.text;
    let mut covered = body_start(text);
    let is_blank = |span: Range<usize>| text.get(span).is_some_and(|between| between.trim().is_empty());
    for (block_idx, Block { span, .. }) in document.blocks.iter().enumerate() {
        if span.start >= span.end || text.get(span.clone()).is_none() {
            return Err(format!("block {block_idx} at {span:?} is not a span of the text"));
        }
        if span.start < covered {
            return Err(format!("block {block_idx} at {span:?} overlaps what ends at {covered}"));
        }
        if !is_blank(covered..span.start) {
            return Err(format!("text at {covered}..{} is in no block", span.start));
        }
        covered = span.end;
    }
    if !is_blank(covered..text.len()) {
        return Err(format!("text from {covered} on is in no block"));
    }
    let mut last = 0;
    for (mark_idx, mark) in document.marks.iter().enumerate() {
        if mark.at < last || !text.is_char_boundary(mark.at) {
            return Err(format!("mark {mark_idx} at {} is out of order or not on a character", mark.at));
        }
        last = mark.at;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_complete(text: &str, blocks: &[(usize, usize)], expected: &[&str]) {
        let mut blocks: Vec<_> =
            blocks.iter().map(|&(start, end)| Block { kind: BlockKind::Code, span: start..end }).collect();
        complete(text, &mut blocks, BlockKind::Paragraph);
        let found: Vec<_> = blocks.iter().map(|block| &text[block.span.clone()]).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn gaps_go_to_their_line_or_become_paragraphs() {
        check_complete("> quote\n", &[(2, 7)], &["> quote"]);
        check_complete("a\n\nb\nc\n\n  d", &[], &["a", "b\nc", "d"]);
        check_complete("one (two)", &[(5, 8)], &["one (two)"]);
        check_complete("head\nx\n\ntail", &[(0, 4)], &["head", "x", "tail"]);
        check_complete("\u{FEFF}a b", &[], &["a b"]);
        check_complete("aa bb", &[(0, 4), (2, 5)], &["aa b", "b"]);
    }

    proptest! {
        #[test]
        fn any_spans_are_made_whole(text in "[a ß\n>]{0,40}", spans in prop::collection::vec((0..50_usize, 0..50_usize), 0..6)) {
            let mut structure = Structure::default();
            for (a, b) in spans {
                structure.block(BlockKind::Code, a.min(b)..a.max(b));
            }
            let document = structure.into_document(Format::PlainText, text, BlockKind::Paragraph);
            prop_assert_eq!(check(&document), Ok(()));
        }
    }
}
