//! Pages of an encyclopedia, in whatever form they are kept.

use std::path::Path;

use raglan_core::BlockKind;
use raglan_datasets::pages::title_of_name;
use raglan_datasets::{Page, PageEntry, PagePart, Pages, ZimPage, ZimPages};
use raglan_ingest::{Limits, read_bytes};

use crate::Result;

/// Opens a dump or a folder of pages as [`Pages::open`] does, or a ZIM file, whose name ends with `.zim`.
///
/// A page of a ZIM file is called by its address there. Where its HTML cannot be read, it comes without parts.
///
/// # Errors
///
/// When there is no such file, or its beginning is damaged.
pub fn open_pages(path: &Path) -> Result<Box<dyn Iterator<Item = raglan_datasets::Result<PageEntry>> + Send>> {
    let is_zim = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("zim"));
    if path.is_dir() || !is_zim {
        return Ok(Box::new(Pages::open(path)?));
    }
    Ok(Box::new(ZimPages::open(path)?.map(|entry| {
        Ok(match entry? {
            PageEntry::Page(page) => PageEntry::Page(of_html(page)),
            PageEntry::Redirect(redirect) => PageEntry::Redirect(redirect),
        })
    })))
}

fn of_html(ZimPage { path, title, html }: ZimPage) -> Page {
    let title = if title == path { title_of_name(&path) } else { title };
    // Whatever it is, it is not to be taken for another format.
    let html = [b"<!DOCTYPE html>", &*html].concat();
    let mut parts = Vec::new();
    if let Ok(document) = read_bytes("page.html", html, &Limits::default()) {
        let blocks = document.blocks.iter().map(|block| (block.kind, document.text[block.span.clone()].trim()));
        parts.extend(blocks.filter(|(_, text)| !text.is_empty()).map(|(kind, text)| match kind {
            // The outermost is the title's.
            BlockKind::Heading(level) => PagePart::Heading(level.saturating_sub(1).max(1), text.to_owned()),
            BlockKind::ListItem => PagePart::Item(text.strip_prefix("- ").unwrap_or(text).to_owned()),
            BlockKind::TableRow => PagePart::Row(text.to_owned()),
            BlockKind::Paragraph | BlockKind::Code | BlockKind::Definition => PagePart::Paragraph(text.to_owned()),
        }));
    }
    // A page that begins with its title has it once.
    if parts.first().is_some_and(|part: &PagePart| part.text() == title) {
        parts.remove(0);
    }
    Page { id: path, title, url: None, parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(html: &str) -> Vec<PagePart> {
        let page = ZimPage { path: "Ada".to_owned(), title: "Ada".to_owned(), html: html.as_bytes().to_vec() };
        of_html(page).parts
    }

    #[test]
    fn html_becomes_the_parts_of_a_page() {
        let html = "<html><head><title>Ada</title></head><body><h1>Ada</h1><p>Ada was <b>born</b>.</p><h2>Life</h2>\
                    <ul><li>1815, in London</li></ul><h3>Youth</h3><table><tr><td>a</td><td>b</td></tr></table>\
                    <script>alert()</script></body></html>";
        let [born, life, london, youth, row] = &page(html)[..] else { panic!("{:?}", page(html)) };
        assert_eq!(*born, PagePart::Paragraph("Ada was born.".to_owned()));
        assert_eq!(*life, PagePart::Heading(1, "Life".to_owned()));
        assert_eq!(*london, PagePart::Item("1815, in London".to_owned()));
        assert_eq!(*youth, PagePart::Heading(2, "Youth".to_owned()));
        assert!(matches!(row, PagePart::Row(row) if row.contains('a') && row.contains('b')), "{row:?}");
        assert_eq!(page("%PDF-1.7 is only text here"), [PagePart::Paragraph("%PDF-1.7 is only text here".to_owned())]);
        assert_eq!(page(""), []);
    }

    #[test]
    fn a_page_without_a_title_has_that_of_its_address() {
        let html = b"<h1>Emma (novel)</h1><p>A novel.".to_vec();
        let untitled = ZimPage { path: "Emma_(novel)".to_owned(), title: "Emma_(novel)".to_owned(), html };
        let page = of_html(untitled);
        assert_eq!((page.id.as_str(), page.title.as_str()), ("Emma_(novel)", "Emma (novel)"));
        assert_eq!(page.parts, [PagePart::Paragraph("A novel.".to_owned())]);
    }
}
