//! JSON and JSON lines: values become blocks, keys the headings above them.

use raglan_core::{BlockKind, Format, MarkKind, ParsedDocument};

use super::Task;
use crate::SkipReason;
use crate::structure::Structure;

/// A value up to this many bytes is one block; a larger one is parted into its members.
const BLOCK: usize = 1024;

/// Sections are told apart to this depth.
const MAX_LEVEL: usize = 32;

struct Open {
    start: usize,
    /// Where the blocks and marks of its members begin.
    n_blocks: usize,
    n_marks: usize,
    /// The section that the value is the body of.
    level: u8,
}

pub(super) fn read(text: String, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut structure = Structure::default();
    let bytes = text.as_bytes();
    let mut open: Vec<Open> = Vec::new();
    let max_depth = task.limits.depth as usize;
    // Where the member that is being read began, at its key if it has one.
    let mut member: Option<usize> = None;
    let mut key: Option<&str> = None;
    let mut string: Option<&str> = None;
    let mut too_deep = 0_usize;
    let mut at = if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = string_end(bytes, at);
                member.get_or_insert(at);
                string = text.get(at..end);
                if open.len() == 1 && key == Some("\"title\"") && structure.title.is_none() {
                    structure.title = string.and_then(|quoted| serde_json::from_str(quoted).ok());
                }
                at = end;
                continue;
            }
            b':' => key = string.take(),
            b'{' | b'[' => {
                let start = *member.get_or_insert(at);
                if open.len() >= max_depth {
                    too_deep += 1;
                } else {
                    let level = u8::try_from(open.len().clamp(1, MAX_LEVEL)).expect("it is at most 32");
                    open.push(Open { start, n_blocks: structure.blocks.len(), n_marks: structure.marks.len(), level });
                    let title = key.take().and_then(|quoted| serde_json::from_str::<String>(quoted).ok());
                    if let Some(title) = title.filter(|title| !title.trim().is_empty() && open.len() <= MAX_LEVEL) {
                        structure.mark(start, MarkKind::Heading { level, title });
                    }
                    member = None;
                }
                string = None;
            }
            b'}' | b']' => {
                if too_deep > 0 {
                    too_deep -= 1;
                } else {
                    end_member(&mut structure, &mut member, at);
                    if let Some(Open { start, n_blocks, n_marks, level }) = open.pop() {
                        if at + 1 - start <= BLOCK {
                            structure.blocks.truncate(n_blocks);
                            // Its own heading stays, those of its members go.
                            let own = structure.marks.get(n_marks).is_some_and(|mark| mark.at == start);
                            structure.marks.truncate(n_marks + usize::from(own));
                            structure.block(BlockKind::Code, start..at + 1);
                        }
                        if structure.marks.get(n_marks).is_some_and(|mark| mark.at == start) {
                            structure.mark(at + 1, MarkKind::SectionEnd { level });
                        }
                    }
                    member = None;
                }
                (key, string) = (None, None);
            }
            b',' => {
                if too_deep == 0 {
                    end_member(&mut structure, &mut member, at);
                }
                (key, string) = (None, None);
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => {
                member.get_or_insert(at);
            }
        }
        at += 1;
        if at % (1 << 16) == 0 {
            task.check_time()?;
        }
    }
    Ok(structure.into_document(Format::Json, text, BlockKind::Code))
}

/// A member that is no container, or one whose container is not parted, becomes a block.
fn end_member(structure: &mut Structure, member: &mut Option<usize>, end: usize) {
    if let Some(start) = member.take() {
        structure.block(BlockKind::Code, start..end);
    }
}

/// One past the closing quote of the string that opens at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() {
        match bytes[end] {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// One block and row a line.
pub(super) fn read_lines(text: String, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut structure = Structure::default();
    let mut at = 0;
    for (line_idx, line) in text.split_inclusive('\n').enumerate() {
        if line_idx % 4096 == 0 {
            task.check_time()?;
        }
        if !line.trim().is_empty() {
            structure.mark(at, MarkKind::Row(u32::try_from(line_idx + 1).unwrap_or(u32::MAX)));
            structure.block(BlockKind::TableRow, at..at + line.len());
        }
        at += line.len();
    }
    Ok(structure.into_document(Format::JsonLines, text, BlockKind::TableRow))
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{pieces, read_text};

    #[test]
    fn large_values_are_parted_and_small_ones_kept_whole() {
        let long = "x".repeat(1100);
        let text = format!(r#"{{"title": "T \"q\"", "a": {{"b": [1, {{"c": 2}}], "long": "{long}"}}, "d": [3]}}"#);
        let document = read_text("a.json", &text);
        assert_eq!(document.title.as_deref(), Some("T \"q\""));
        let found: Vec<_> = pieces(&document).into_iter().map(|(_, piece)| piece.to_owned()).collect();
        assert_eq!(found[1], r#""a": {"b": [1, {"c": 2}],"#);
        let at = text.find(r#"{"c""#).unwrap();
        assert_eq!(document.locate(&[at, text.len() - 3])[0].headings, ["a", "b"]);
        assert_eq!(document.locate(&[text.len() - 3])[0].headings, ["d"]);
    }

    #[test]
    fn hostile_nesting_is_flat() {
        for text in
            ["[".repeat(300_000), "{\"a\":".repeat(100_000), format!("{}{}", "[".repeat(5000), "]".repeat(6000))]
        {
            read_text("a.json", &text);
        }
    }

    #[test]
    fn lines_are_rows() {
        let document = read_text("a.jsonl", "{\"a\": 1}\n\n{\"a\": 2}\n");
        assert_eq!(pieces(&document), [("TableRow", "{\"a\": 1}"), ("TableRow", "{\"a\": 2}")]);
        assert_eq!(document.locate(&[10])[0].row, Some(3));
    }
}
