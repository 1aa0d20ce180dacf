//! Workbooks: each row below its columns' names.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::io::Cursor;

use calamine::{Data, Reader, Sheets, Xls, Xlsx, XlsxError, open_workbook_auto_from_rs};
use raglan_core::{BlockKind, Format, MarkKind, ParsedDocument};

use super::Task;
use super::delimited::header_of;
use super::package::{Package, office_properties};
use crate::SkipReason;
use crate::structure::{TextBuilder, collapse};

pub(super) fn read(bytes: &[u8], task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut out = TextBuilder::new(task.limits);
    let mut workbook = if bytes.starts_with(b"PK") {
        let mut package = Package::open(bytes, task.limits)?;
        package.measure(task)?;
        office_properties(&mut Package::open(bytes, task.limits)?, &mut out)?;
        match Xlsx::new(Cursor::new(bytes)) {
            Ok(workbook) => Sheets::Xlsx(workbook),
            Err(XlsxError::Password) => return Err(SkipReason::Encrypted),
            Err(error) if package.has("xl/workbook.xml") => return Err(SkipReason::malformed(error)),
            Err(_) => open_workbook_auto_from_rs(Cursor::new(bytes)).map_err(SkipReason::malformed)?,
        }
    } else {
        Sheets::Xls(Xls::new(Cursor::new(bytes)).map_err(SkipReason::malformed)?)
    };
    let names = workbook.sheet_names();
    if names.len() > task.limits.pages as usize {
        return Err(SkipReason::too_large("number of sheets", u64::from(task.limits.pages)));
    }
    for name in names {
        task.check_time()?;
        let cells = match &mut workbook {
            Sheets::Xlsx(workbook) => streamed_cells(workbook, &name, task)?,
            // A sheet of charts has no cells.
            other => other.worksheet_range(&name).map(|range| dense_cells(&range)).unwrap_or_default(),
        };
        out.mark(MarkKind::SectionEnd { level: 1 });
        out.mark(MarkKind::Sheet(name));
        write_sheet(&cells, &mut out)?;
    }
    Ok(out.finish(Format::Xlsx))
}

/// A filled cell: row and column from 0, and what it shows.
type Cell = (u32, u32, String);

/// The cells of a sheet as they are stored: a cell in the last row and column costs no table of empty ones.
fn streamed_cells(workbook: &mut Xlsx<Cursor<&[u8]>>, name: &str, task: &Task<'_>) -> Result<Vec<Cell>, SkipReason> {
    let Ok(mut reader) = workbook.worksheet_cells_reader(name) else { return Ok(Vec::new()) };
    let mut cells = Vec::new();
    while let Some(cell) = reader.next_cell().map_err(SkipReason::malformed)? {
        let (row, column) = cell.get_position();
        let text = cell_text(&Data::from(cell.get_value().clone()));
        if !text.is_empty() {
            cells.push((row, column, text));
        }
        if cells.len() % 4096 == 0 {
            task.check_time()?;
        }
    }
    cells.sort_by_key(|&(row, column, _)| (row, column));
    Ok(cells)
}

fn dense_cells(range: &calamine::Range<Data>) -> Vec<Cell> {
    let (first_row, first_column) = range.start().unwrap_or_default();
    let filled = range.used_cells().map(|(row, column, cell)| {
        let position = |first: u32, offset: usize| first.saturating_add(u32::try_from(offset).unwrap_or(u32::MAX));
        (position(first_row, row), position(first_column, column), cell_text(cell))
    });
    filled.filter(|(_, _, text)| !text.is_empty()).collect()
}

/// Tables are what empty rows part, and what empty columns part if each part has a row of names.
fn write_sheet(cells: &[Cell], out: &mut TextBuilder) -> Result<(), SkipReason> {
    for region in cells.chunk_by(|a, b| b.0 <= a.0.saturating_add(1)) {
        let columns: BTreeSet<u32> = region.iter().map(|&(_, column, _)| column).collect();
        let columns: Vec<u32> = columns.into_iter().collect();
        let groups: Vec<&[u32]> = columns.chunk_by(|a, b| b - a == 1).collect();
        // A form with cells here and there is one table.
        if (2..=16).contains(&groups.len()) {
            let of_group = |group: &&[u32]| -> Vec<Cell> {
                let columns = group[0]..=group[group.len() - 1];
                region.iter().filter(|(_, column, _)| columns.contains(column)).cloned().collect()
            };
            let tables: Vec<Vec<Cell>> = groups.iter().map(of_group).collect();
            if tables.iter().all(|table| table.chunk_by(|a, b| a.0 == b.0).next().is_some_and(are_names)) {
                tables.iter().try_for_each(|table| write_table(table, out))?;
                continue;
            }
        }
        write_table(region, out)?;
    }
    Ok(())
}

/// Whether a row holds names of columns.
fn are_names(row: &[Cell]) -> bool {
    header_of(row.iter().map(|(_, _, text)| Cow::Borrowed(text.as_str()))).is_some()
}

fn write_table(cells: &[Cell], out: &mut TextBuilder) -> Result<(), SkipReason> {
    let mut names: HashMap<u32, &str> = HashMap::new();
    for (row_idx, row) in cells.chunk_by(|a, b| a.0 == b.0).enumerate() {
        let told = |(_, column, text): &Cell| match names.get(column) {
            Some(name) => format!("{name}: {text}"),
            None => text.clone(),
        };
        let texts: Vec<String> = row.iter().map(told).collect();
        out.mark(MarkKind::Row(row[0].0.saturating_add(1)));
        out.block(BlockKind::TableRow, &texts.join(" | "))?;
        if row_idx == 0 && are_names(row) {
            names = row.iter().map(|(_, column, name)| (*column, name.as_str())).collect();
        }
    }
    Ok(())
}

fn cell_text(cell: &Data) -> String {
    match cell {
        Data::String(text) => collapse(text),
        Data::DateTime(time) if time.is_datetime() => {
            let (year, month, day, hour, minute, second, _) = time.to_ymd_hms_milli();
            let date = format!("{year:04}-{month:02}-{day:02}");
            match (time.as_f64() < 1.0, hour, minute, second) {
                (true, ..) => format!("{hour:02}:{minute:02}:{second:02}"),
                (false, 0, 0, 0) => date,
                _ => format!("{date} {hour:02}:{minute:02}:{second:02}"),
            }
        }
        Data::Error(_) | Data::Empty => String::new(),
        _ => cell.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{pieces, read_bytes, zip};

    #[test]
    fn rows_are_told_with_the_names_of_their_columns() {
        let workbook = "<workbook xmlns='http://schemas.openxmlformats.org/spreadsheetml/2006/main' \
            xmlns:r='http://schemas.openxmlformats.org/officeDocument/2006/relationships'><sheets>\
            <sheet name='Stock' sheetId='1' r:id='r1'/></sheets></workbook>";
        let relationships = "<Relationships xmlns='http://schemas.openxmlformats.org/package/2006/relationships'>\
            <Relationship Id='r1' Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet' \
            Target='worksheets/sheet1.xml'/></Relationships>";
        let text = |at: &str, text: &str| format!("<c r='{at}' t='inlineStr'><is><t>{text}</t></is></c>");
        let sheet = format!(
            "<worksheet xmlns='http://schemas.openxmlformats.org/spreadsheetml/2006/main'><sheetData>\
             <row r='2'>{}{}</row><row r='3'>{}<c r='C3'><v>2.5</v></c></row>\
             <row r='1048576'>{}</row></sheetData></worksheet>",
            text("B2", "Item"),
            text("C2", "Price"),
            text("B3", "tea"),
            text("XFD1048576", "far away")
        );
        let document = read_bytes(
            "a.xlsx",
            &zip(&[
                (
                    "[Content_Types].xml",
                    "<Types xmlns='http://schemas.openxmlformats.org/package/2006/content-types'/>",
                ),
                (
                    "_rels/.rels",
                    &relationships
                        .replace("/worksheet'", "/officeDocument'")
                        .replace("worksheets/sheet1", "xl/workbook"),
                ),
                ("xl/workbook.xml", workbook),
                ("xl/_rels/workbook.xml.rels", relationships),
                ("xl/worksheets/sheet1.xml", &sheet),
            ]),
        );
        assert_eq!(
            pieces(&document),
            [("TableRow", "Item | Price"), ("TableRow", "Item: tea | Price: 2.5"), ("TableRow", "far away")]
        );
        let place = &document.locate(&[document.blocks[1].span.start])[0];
        assert_eq!((place.sheet.as_deref(), place.row), (Some("Stock"), Some(3)));
    }
}
