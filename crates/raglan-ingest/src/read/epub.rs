//! Electronic books: the chapters of the spine, each read as a page of HTML.

use std::collections::HashMap;

use raglan_core::{Format, MarkKind, ParsedDocument};

use super::Task;
use super::html;
use super::package::{Package, Xml, attribute, dublin_core, resolve, walk};
use crate::SkipReason;
use crate::structure::TextBuilder;

pub(super) fn read(bytes: &[u8], task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut package = Package::open(bytes, task.limits)?;
    let mut out = TextBuilder::new(task.limits);
    let mut root = None;
    walk(&package.required("META-INF/container.xml")?, |node| {
        if let Xml::Open("rootfile", element) = node {
            root = root.take().or_else(|| attribute(element, "full-path"));
        }
        Ok(())
    })?;
    let root = root.ok_or_else(|| SkipReason::malformed("the container names no book"))?;
    let opf = package.required(&root)?;
    dublin_core(&opf, &mut out)?;
    let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut manifest: HashMap<String, String> = HashMap::new();
    let mut spine = Vec::new();
    walk(&opf, |node| {
        match node {
            Xml::Open("item", element) => {
                let kind = attribute(element, "media-type").unwrap_or_default();
                if kind.contains("html") {
                    let href = attribute(element, "href").unwrap_or_default();
                    manifest.insert(attribute(element, "id").unwrap_or_default(), resolve(folder, &unescape(&href)));
                }
            }
            Xml::Open("itemref", element) => spine.extend(attribute(element, "idref")),
            _ => {}
        }
        Ok(())
    })?;
    if spine.len() > task.limits.pages as usize {
        return Err(SkipReason::too_large("number of chapters", u64::from(task.limits.pages)));
    }
    let (title, metadata) = (out.structure.title.clone(), out.structure.metadata.clone());
    for chapter in spine.iter().filter_map(|id| manifest.get(id)) {
        task.check_time()?;
        if let Some(xml) = package.text(chapter)? {
            out.mark(MarkKind::SectionEnd { level: 1 });
            html::write(&xml, &mut out, task)?;
        }
    }
    // What the book says of itself counts, and not what its chapters say of themselves.
    if title.is_some() {
        out.structure.title = title;
    }
    out.structure.metadata = metadata;
    if out.is_empty() {
        return Err(SkipReason::NoText { what: "a book of nothing but images".to_owned() });
    }
    Ok(out.finish(Format::Epub))
}

/// A path of a URL without its percent escapes and fragment.
fn unescape(href: &str) -> String {
    let path = href.split('#').next().unwrap_or(href).as_bytes();
    let mut bytes = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let escaped = path.get(at + 1..at + 3).filter(|_| path[at] == b'%');
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(path[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{headings, read_bytes, zip};

    #[test]
    fn chapters_come_in_the_order_of_the_spine() {
        let container = "<container><rootfiles><rootfile full-path='OPS/b.opf'/></rootfiles></container>";
        let opf = "<package xmlns:dc='d'><metadata><dc:title>Book</dc:title><dc:creator>Ann</dc:creator></metadata>\
            <manifest><item id='a' href='two%20b.xhtml' media-type='application/xhtml+xml'/>\
            <item id='b' href='one.xhtml' media-type='application/xhtml+xml'/></manifest>\
            <spine><itemref idref='b'/><itemref idref='a'/></spine></package>";
        let chapter =
            |title: &str| format!("<html><head><title>x</title></head><body><h1>{title}</h1><p>p</p></body></html>");
        let document = read_bytes(
            "a.epub",
            &zip(&[
                ("META-INF/container.xml", container),
                ("OPS/b.opf", opf),
                ("OPS/one.xhtml", &chapter("One")),
                ("OPS/two b.xhtml", &chapter("Two")),
            ]),
        );
        assert_eq!(headings(&document), [(1, "One"), (1, "Two")]);
        assert_eq!((document.title.as_deref(), document.metadata["author"].as_str()), (Some("Book"), "Ann"));
        assert_eq!(document.text, "One\n\np\n\nTwo\n\np");
    }
}
