//! Word documents.

use std::collections::HashMap;

use raglan_core::{BlockKind, Format, MarkKind, ParsedDocument};

use super::Task;
use super::package::{Package, Xml, attribute, office_properties, walk};
use crate::SkipReason;
use crate::structure::{TextBuilder, collapse};

pub(super) fn read(bytes: &[u8], task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut package = Package::open(bytes, task.limits)?;
    let mut out = TextBuilder::new(task.limits);
    office_properties(&mut package, &mut out)?;
    let styles = heading_styles(&mut package)?;
    let name = if package.has("word/document.xml") { "word/document.xml" } else { "word/document2.xml" };
    let mut body = Body::new(&mut out, &styles, task);
    walk(&package.required(name)?, |node| body.node(node))?;
    body.end_paragraph()?;
    for notes in ["word/footnotes.xml", "word/endnotes.xml"] {
        if let Some(xml) = package.text(notes)? {
            let mut body = Body::new(&mut out, &styles, task);
            body.paged = false;
            walk(&xml, |node| body.node(node))?;
            body.end_paragraph()?;
        }
    }
    if out.is_empty() && package.has("word/media/") {
        return Err(SkipReason::NoText { what: "a document of nothing but images".to_owned() });
    }
    Ok(out.finish(Format::Docx))
}

/// Heading levels by the ids of paragraph styles; the title's is 1.
fn heading_styles(package: &mut Package<'_>) -> Result<HashMap<String, u8>, SkipReason> {
    let mut levels = HashMap::new();
    let Some(xml) = package.text("word/styles.xml")? else { return Ok(levels) };
    let mut id = String::new();
    walk(&xml, |node| {
        match node {
            Xml::Open("style", element) => id = attribute(element, "styleId").unwrap_or_default(),
            Xml::Open("name", element) => {
                let name = attribute(element, "val").unwrap_or_default().to_lowercase();
                let level = match name.strip_prefix("heading ") {
                    Some(level) => level.trim().parse().ok(),
                    None => (name == "title").then_some(1),
                };
                if let Some(level @ 1..=9) = level {
                    levels.insert(id.clone(), level);
                }
            }
            Xml::Open("outlineLvl", element) => {
                if let Some(level @ 0..=8) = attribute(element, "val").and_then(|level| level.parse::<u8>().ok()) {
                    levels.entry(id.clone()).or_insert(level + 1);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(levels)
}

struct Body<'a, 'b> {
    out: &'a mut TextBuilder,
    styles: &'a HashMap<String, u8>,
    task: &'a Task<'b>,
    /// Whether page breaks count.
    paged: bool,
    page: u32,
    n_nodes: usize,
    paragraph: String,
    /// Offsets in the paragraph at which pages begin.
    pages_within: Vec<(usize, u32)>,
    heading: Option<u8>,
    is_item: bool,
    /// How deep in elements whose text is not the document's.
    n_skipped: usize,
    in_text: bool,
    /// One entry an open table: the cells of its row.
    rows: Vec<Vec<String>>,
}

impl<'a, 'b> Body<'a, 'b> {
    fn new(out: &'a mut TextBuilder, styles: &'a HashMap<String, u8>, task: &'a Task<'b>) -> Self {
        Self {
            out,
            styles,
            task,
            paged: true,
            page: 0,
            n_nodes: 0,
            paragraph: String::new(),
            pages_within: Vec::new(),
            heading: None,
            is_item: false,
            n_skipped: 0,
            in_text: false,
            rows: Vec::new(),
        }
    }

    fn node(&mut self, node: Xml<'_>) -> Result<(), SkipReason> {
        self.n_nodes += 1;
        if self.n_nodes.is_multiple_of(4096) {
            self.task.check_time()?;
        }
        match node {
            // What Word writes twice, for itself and for others; what was deleted; the code of a field.
            Xml::Open("Fallback" | "del" | "instrText" | "moveFrom", _) => self.n_skipped += 1,
            Xml::Close("Fallback" | "del" | "instrText" | "moveFrom") => {
                self.n_skipped = self.n_skipped.saturating_sub(1);
            }
            _ if self.n_skipped > 0 => {}
            Xml::Open("p", _) => {
                // A paragraph within a paragraph is that of a text box.
                self.end_paragraph()?;
                if self.paged && self.page == 0 {
                    self.break_page()?;
                }
            }
            Xml::Open("pStyle", element) => {
                self.heading = attribute(element, "val").and_then(|id| self.styles.get(&id).copied());
            }
            Xml::Open("outlineLvl", element) if self.heading.is_none() => {
                let level = attribute(element, "val").and_then(|level| level.parse::<u8>().ok());
                self.heading = level.filter(|&level| level < 9).map(|level| level + 1);
            }
            Xml::Open("numPr", _) => self.is_item = true,
            Xml::Open("t", _) => self.in_text = true,
            Xml::Close("t") => self.in_text = false,
            Xml::Text(text) if self.in_text => self.paragraph.push_str(text),
            Xml::Open("tab", element) if attribute(element, "pos").is_none() => self.paragraph.push('\t'),
            Xml::Open("noBreakHyphen", _) => self.paragraph.push('-'),
            Xml::Open("br", element) => match attribute(element, "type").as_deref() {
                Some("page") => self.break_page()?,
                _ => self.paragraph.push('\n'),
            },
            Xml::Open("cr", _) => self.paragraph.push('\n'),
            Xml::Open("lastRenderedPageBreak", _) if self.has_just_turned() => {}
            Xml::Open("lastRenderedPageBreak", _) => self.break_page()?,
            Xml::Close("p") => self.end_paragraph()?,
            Xml::Open("tbl", _) => {
                self.end_paragraph()?;
                self.rows.push(Vec::new());
            }
            Xml::Close("tbl") => {
                self.rows.pop();
            }
            Xml::Open("tc", _) => {
                if let Some(row) = self.rows.last_mut() {
                    row.push(String::new());
                }
            }
            Xml::Close("tr") => {
                let cells = self.rows.last_mut().map(std::mem::take).unwrap_or_default();
                match self.rows.len() {
                    0 | 1 => self.out.row(&cells)?,
                    // A table within a cell is text of that cell.
                    depth => {
                        if let Some(cell) = self.rows[depth - 2].last_mut() {
                            push_words(cell, &cells.join(" "));
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the page was broken just now, so that the rendered break repeats that.
    fn has_just_turned(&self) -> bool {
        let within = self.pages_within.last().map(|&(at, _)| at);
        let here = self.paragraph.trim_end().len();
        if self.paragraph.trim().is_empty() && within.is_none() {
            self.out.has_pending_page()
        } else {
            within.is_some_and(|at| at >= here)
        }
    }

    fn break_page(&mut self) -> Result<(), SkipReason> {
        if !self.paged {
            return Ok(());
        }
        self.page += 1;
        if self.page > self.task.limits.pages {
            return Err(SkipReason::too_large("number of pages", u64::from(self.task.limits.pages)));
        }
        if self.paragraph.trim().is_empty() || !self.rows.is_empty() {
            self.out.mark(MarkKind::Page(self.page));
        } else {
            self.pages_within.push((self.paragraph.len(), self.page));
        }
        Ok(())
    }

    fn end_paragraph(&mut self) -> Result<(), SkipReason> {
        if let Some(cell) = self.rows.last_mut().and_then(|row| row.last_mut()) {
            push_words(cell, &collapse(&self.paragraph));
            self.paragraph.clear();
        } else {
            self.write_paragraph()?;
        }
        (self.heading, self.is_item) = (None, false);
        Ok(())
    }

    fn write_paragraph(&mut self) -> Result<(), SkipReason> {
        let text = std::mem::take(&mut self.paragraph);
        let pages = std::mem::take(&mut self.pages_within).into_iter();
        let pages = pages.map(|(at, page)| (at, MarkKind::Page(page)));
        match self.heading {
            Some(level) => {
                self.out.heading(level, &text)?;
                pages.for_each(|(_, page)| self.out.mark(page));
                Ok(())
            }
            None if self.is_item && !text.trim().is_empty() => {
                let bullet = "- ";
                let pages = pages.map(|(at, page)| (at + bullet.len(), page));
                self.out.block_with_marks(BlockKind::ListItem, &format!("{bullet}{}", text.trim_end()), pages)
            }
            None => self.out.block_with_marks(BlockKind::Paragraph, &text, pages),
        }
    }
}

fn push_words(cell: &mut String, words: &str) {
    if !cell.is_empty() && !words.is_empty() {
        cell.push(' ');
    }
    cell.push_str(words);
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{headings, pieces, read_bytes, zip};

    #[test]
    fn paragraphs_headings_lists_tables_and_pages() {
        let document = "<w:document xmlns:w='w'><w:body>\
            <w:p><w:pPr><w:pStyle w:val='H'/></w:pPr><w:r><w:t>Top &amp; more</w:t></w:r></w:p>\
            <w:p><w:r><w:t>One</w:t></w:r><w:r><w:tab/><w:t xml:space='preserve'> two</w:t></w:r></w:p>\
            <w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>item</w:t></w:r></w:p>\
            <w:p><w:r><w:br w:type='page'/></w:r></w:p>\
            <w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc>\
            <w:tc><w:p/></w:tc><w:tc><w:p><w:r><w:t>c</w:t></w:r></w:p></w:tc></w:tr></w:tbl>\
            <w:p><w:del><w:r><w:t>gone</w:t></w:r></w:del><w:r><w:t>end</w:t></w:r></w:p></w:body></w:document>";
        let styles = "<w:styles><w:style w:styleId='H'><w:name w:val='heading 2'/></w:style></w:styles>";
        let core = "<c xmlns:dc='d'><dc:title>T</dc:title><dc:creator>A</dc:creator></c>";
        let bytes = zip(&[("word/document.xml", document), ("word/styles.xml", styles), ("docProps/core.xml", core)]);
        let document = read_bytes("a.docx", &bytes);
        assert_eq!(
            pieces(&document),
            [
                ("Heading(2)", "Top & more"),
                ("Paragraph", "One\t two"),
                ("ListItem", "- item"),
                ("TableRow", "a b |  | c"),
                ("Paragraph", "end"),
            ]
        );
        assert_eq!(headings(&document), [(2, "Top & more")]);
        assert_eq!((document.title.as_deref(), document.metadata["author"].as_str()), (Some("T"), "A"));
        let pages = document.locate(&[0, document.text.len()]);
        assert_eq!((pages[0].page, pages[1].page), (Some(1), Some(2)));
    }
}
