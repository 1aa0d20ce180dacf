//! Tables of delimited values: CSV and TSV.

use std::borrow::Cow;

use csv::{ReaderBuilder, StringRecord};
use raglan_core::{BlockKind, Format, MarkKind, ParsedDocument};

use super::Task;
use crate::SkipReason;
use crate::structure::{Structure, collapse};

/// How much of the names of columns is put above their rows.
const MAX_HEADER: usize = 200;

pub(super) fn read(format: Format, text: String, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut structure = Structure::default();
    let start = if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
    let delimiter = if format == Format::Tsv { b'\t' } else { delimiter(&text[start..]) };
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .from_reader(&text.as_bytes()[start..]);
    let mut record = StringRecord::new();
    let (mut row, mut from, mut header) = (0_u32, start, None);
    loop {
        let more = reader.read_record(&mut record).map_err(SkipReason::malformed)?;
        let to = start + usize::try_from(reader.position().byte()).unwrap_or(usize::MAX).min(text.len() - start);
        if !more {
            break;
        }
        row = row.saturating_add(1);
        if row % 4096 == 0 {
            task.check_time()?;
        }
        if row == 2
            && let Some(title) = header.take()
        {
            structure.mark(from, MarkKind::Heading { level: 1, title });
        }
        structure.mark(from, MarkKind::Row(row));
        structure.block(BlockKind::TableRow, from..to);
        if row == 1 {
            header = header_of(record.iter().map(Cow::Borrowed));
        }
        from = to;
    }
    Ok(structure.into_document(format, text, BlockKind::TableRow))
}

/// The delimiter that parts the first lines most evenly.
fn delimiter(text: &str) -> u8 {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(10).collect();
    let share = |delimiter: &u8| {
        let counts = lines.iter().map(|line| line.bytes().filter(|byte| byte == delimiter).count());
        (counts.clone().min().unwrap_or(0), counts.sum::<usize>())
    };
    // Of equal ones the last wins, and that is the comma.
    [b'|', b'\t', b';', b','].into_iter().max_by_key(share).unwrap_or(b',')
}

/// The names of the columns, if the first row looks like names: all of them words, and different.
pub(super) fn header_of<'a>(cells: impl Iterator<Item = Cow<'a, str>>) -> Option<String> {
    let names: Vec<String> = cells.map(|cell| collapse(&cell)).collect();
    let is_name = |name: &String| !name.is_empty() && name.parse::<f64>().is_err() && name.len() <= 60;
    let mut distinct = names.clone();
    distinct.sort();
    distinct.dedup();
    let title = names.join(" | ");
    (names.len() >= 2 && names.iter().all(is_name) && distinct.len() == names.len() && title.len() <= MAX_HEADER)
        .then_some(title)
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{headings, pieces, read_text};

    #[test]
    fn rows_are_blocks_even_across_lines() {
        let document = read_text("a.csv", "name,text\nx,\"two\nlines\"\n\ny;z,\"a \"\"b\"\"\"\n");
        assert_eq!(
            pieces(&document),
            [("TableRow", "name,text"), ("TableRow", "x,\"two\nlines\""), ("TableRow", "y;z,\"a \"\"b\"\"\"")]
        );
        assert_eq!(headings(&document), [(1, "name | text")]);
        assert_eq!(document.locate(&[12])[0].row, Some(2));
    }

    #[test]
    fn the_delimiter_is_found() {
        let document = read_text("a.csv", "a;b,c;d\n1;2,5;3\n");
        assert_eq!(headings(&document), [(1, "a | b,c | d")]);
    }
}
