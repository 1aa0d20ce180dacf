//! reStructuredText: titles by their adornment, literal blocks, lists, directives.

use std::ops::Range;

use raglan_core::{BlockKind, Format, MarkKind, ParsedDocument};

use super::Task;
use crate::SkipReason;
use crate::structure::{Structure, collapse, paragraphs, trimmed};

pub(super) fn read(text: String, _: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut structure = Structure::default();
    let lines = lines(&text);
    let line = |line_idx: usize| lines.get(line_idx).map_or("", |span| text[span.clone()].trim_end());
    // The adornments met so far, outermost first: character, and whether there is a line above too.
    let mut levels: Vec<(char, bool)> = Vec::new();
    let mut line_idx = 0;
    let mut body: Option<usize> = None;
    let flush = |body: &mut Option<usize>, to: usize, structure: &mut Structure| {
        if let Some(from) = body.take() {
            body_blocks(&text, from..to, structure);
        }
    };
    while line_idx < lines.len() {
        let title = section_title(line(line_idx), line(line_idx + 1), line(line_idx + 2));
        let blank_above = line_idx == 0 || line(line_idx - 1).is_empty() || line(line_idx - 1).starts_with("..");
        let Some(Title { adornment, over, words, n_lines }) = title.filter(|title| title.over || blank_above) else {
            body.get_or_insert(lines[line_idx].start);
            line_idx += 1;
            continue;
        };
        flush(&mut body, lines[line_idx].start, &mut structure);
        let known = levels.iter().position(|&level| level == (adornment, over));
        let level = known.unwrap_or_else(|| {
            levels.push((adornment, over));
            levels.len() - 1
        });
        let level = u8::try_from(level + 1).unwrap_or(u8::MAX);
        let words = collapse(words);
        structure.mark(lines[line_idx].start, MarkKind::Heading { level, title: words.clone() });
        structure.block(BlockKind::Heading(level), lines[line_idx].start..lines[line_idx + n_lines - 1].end);
        structure.title.get_or_insert(words);
        line_idx += n_lines;
    }
    flush(&mut body, text.len(), &mut structure);
    Ok(structure.into_document(Format::ReStructuredText, text, BlockKind::Paragraph))
}

fn lines(text: &str) -> Vec<Range<usize>> {
    let mut at = if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
    let body = &text[at..];
    let mut lines = Vec::new();
    for line in body.split_inclusive('\n') {
        lines.push(at..at + line.len());
        at += line.len();
    }
    lines
}

struct Title<'a> {
    adornment: char,
    over: bool,
    words: &'a str,
    n_lines: usize,
}

fn section_title<'a>(first: &'a str, second: &'a str, third: &str) -> Option<Title<'a>> {
    match (adornment(first), adornment(second), adornment(third)) {
        (Some(over), None, Some(under))
            if over == under && !second.is_empty() && first.len() >= second.trim().len() =>
        {
            Some(Title { adornment: under, over: true, words: second, n_lines: 3 })
        }
        (None, Some(under), _) if !first.is_empty() && !first.starts_with([' ', '\t']) => {
            let width = first.chars().count();
            let long_enough = second.len() >= width.min(4);
            long_enough.then_some(Title { adornment: under, over: false, words: first, n_lines: 2 })
        }
        _ => None,
    }
}

/// The character of which the whole line consists, if it is one that underlines titles.
fn adornment(line: &str) -> Option<char> {
    let first = line.chars().next().filter(char::is_ascii_punctuation)?;
    (line.len() >= 2 && line.chars().all(|character| character == first)).then_some(first)
}

/// Blocks of what stands between titles.
fn body_blocks(text: &str, span: Range<usize>, structure: &mut Structure) {
    let mut literal = false;
    let mut code: Option<Range<usize>> = None;
    paragraphs(text, span, |span| {
        let line_start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let indented = line_start < span.start;
        let paragraph = &text[span.clone()];
        if indented && literal {
            // All of a literal block is one block, whatever empty lines it has.
            let start = code.as_ref().map_or(span.start, |code| code.start);
            code = Some(start..span.end);
            return;
        }
        if let Some(code) = code.take() {
            structure.block(BlockKind::Code, code);
        }
        let directive = paragraph.trim_start().starts_with(".. ");
        literal = paragraph.ends_with("::")
            || [".. code", ".. literal", ".. highlight", ".. parsed-literal", ".. sourcecode"]
                .iter()
                .any(|name| paragraph.starts_with(name));
        if directive && paragraph.contains('\n') && literal {
            structure.block(BlockKind::Code, span);
        } else {
            items(text, span, structure);
        }
    });
    if let Some(code) = code {
        structure.block(BlockKind::Code, code);
    }
}

/// A paragraph, or the items of a list without empty lines between them.
fn items(text: &str, span: Range<usize>, structure: &mut Structure) {
    let mut at = span.start;
    let mut open: Option<usize> = None;
    for line in text[span.clone()].split_inclusive('\n') {
        if is_item(line) {
            let from = open.replace(at).unwrap_or(span.start);
            if from < at {
                let kind = if is_item(&text[from..at]) { BlockKind::ListItem } else { BlockKind::Paragraph };
                structure.block(kind, trimmed(text, from..at));
            }
        }
        at += line.len();
    }
    match open {
        Some(from) => structure.block(BlockKind::ListItem, from..span.end),
        None => structure.block(BlockKind::Paragraph, span),
    }
}

fn is_item(line: &str) -> bool {
    let line = line.trim_start();
    let bullet = line.starts_with("- ") || line.starts_with("* ") || line.starts_with("+ ") || line.starts_with("#. ");
    let number = line.trim_start_matches(|character: char| character.is_ascii_digit());
    bullet || (number.len() < line.len() && line.len() - number.len() <= 3 && number.starts_with(". "))
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{headings, pieces, read_text};

    #[test]
    fn titles_literals_and_lists_are_told_apart() {
        let document = read_text(
            "a.rst",
            "=====\nGuide\n=====\n\nWords of\nthe guide::\n\n    code one\n\n    code two\n\nUse\n---\n\n* first\n  goes on\n* second\n\nDeeper\n~~~~~~\n\nend\n",
        );
        assert_eq!(headings(&document), [(1, "Guide"), (2, "Use"), (3, "Deeper")]);
        assert_eq!(
            pieces(&document),
            [
                ("Heading(1)", "=====\nGuide\n====="),
                ("Paragraph", "Words of\nthe guide::"),
                ("Code", "code one\n\n    code two"),
                ("Heading(2)", "Use\n---"),
                ("ListItem", "* first\n  goes on"),
                ("ListItem", "* second"),
                ("Heading(3)", "Deeper\n~~~~~~"),
                ("Paragraph", "end"),
            ]
        );
        assert_eq!(document.title.as_deref(), Some("Guide"));
    }
}
