//! Pages of MediaWiki's XML export, their text freed of markup.

use std::io::BufRead;
use std::path::PathBuf;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use crate::pages::{Page, PageEntry, PageName, PagePart, Redirect};
use crate::{Error, Result};

/// A page's text is not read beyond this; the longest pages of encyclopedias have a tenth of it.
const MOST_BYTES: usize = 64 << 20;

/// The pages and redirects of an export's main namespace, as they come.
pub(crate) struct WikiPages {
    path: PathBuf,
    reader: Reader<Box<dyn BufRead + Send>>,
    is_over: bool,
}

impl WikiPages {
    pub(crate) fn new(path: PathBuf, reader: Box<dyn BufRead + Send>) -> Self {
        Self { path, reader: Reader::from_reader(reader), is_over: false }
    }

    /// The next page of any kind; within, what it counts as, if it does.
    fn page(&mut self) -> Result<Option<Option<PageEntry>>, String> {
        let mut page = Page::default();
        let mut text = String::new();
        let (mut is_main, mut is_in_page) = (true, false);
        let mut redirect: Option<String> = None;
        let mut open: Vec<String> = Vec::new();
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let event = self.reader.read_event_into(&mut buffer).map_err(|error| error.to_string())?;
            let mut add = |piece: &str| {
                // The first id of a page is its own, the next is its revision's.
                let within = |names: &[&str]| open.iter().rev().zip(names).all(|(a, b)| a == b);
                match open.last().map(String::as_str) {
                    _ if !is_in_page => {}
                    Some("title") if within(&["title", "page"]) => page.title.push_str(piece),
                    Some("id") if within(&["id", "page"]) => page.id.push_str(piece),
                    Some("ns") => is_main = piece.trim() == "0",
                    Some("text") => text.push_str(piece),
                    _ => {}
                }
            };
            match event {
                Event::Start(element) => {
                    let name = element.local_name().as_ref().to_owned();
                    is_in_page |= name == "page";
                    if name == "redirect" {
                        redirect = Some(title_of(&element)?);
                    }
                    open.push(name);
                }
                Event::Empty(element) if element.local_name().as_ref() == "redirect" => {
                    redirect = Some(title_of(&element)?);
                }
                Event::Text(piece) => add(&piece),
                Event::CData(piece) => add(&piece),
                Event::GeneralRef(name) => {
                    let escaped = format!("&{};", &*name);
                    match quick_xml::escape::unescape(&escaped) {
                        Ok(character) => add(&character),
                        Err(_) => add(&escaped),
                    }
                }
                Event::End(element) => {
                    open.pop();
                    if element.local_name().as_ref() == "page" {
                        page.title = page.title.trim().to_owned();
                        page.id = page.id.trim().to_owned();
                        return Ok(Some(match redirect {
                            _ if !is_main || page.id.is_empty() => None,
                            Some(to) => {
                                let (from, to) = (PageName::Title(page.title), PageName::Title(to));
                                Some(PageEntry::Redirect(Redirect { from, to }))
                            }
                            None => {
                                page.parts = parts(&text);
                                Some(PageEntry::Page(page))
                            }
                        }));
                    }
                }
                Event::Eof if is_in_page => return Err("the file ends inside of a page".to_owned()),
                Event::Eof => return Ok(None),
                _ => {}
            }
            if text.len() > MOST_BYTES {
                return Err(format!("the text of `{}` is longer than {MOST_BYTES} bytes", page.title.trim()));
            }
        }
    }
}

impl Iterator for WikiPages {
    type Item = Result<PageEntry>;

    fn next(&mut self) -> Option<Result<PageEntry>> {
        while !self.is_over {
            match self.page() {
                Ok(Some(Some(entry))) => return Some(Ok(entry)),
                Ok(Some(None)) => {}
                Ok(None) => self.is_over = true,
                Err(problem) => {
                    self.is_over = true;
                    let problem = format!("byte {}: {problem}", self.reader.buffer_position());
                    return Some(Err(Error::Table { path: self.path.clone(), problem }));
                }
            }
        }
        None
    }
}

/// The title of the page that a redirect names; empty where it names none, as in exports of before 2010.
fn title_of(redirect: &BytesStart<'_>) -> Result<String, String> {
    let title = redirect.try_get_attribute("title").map_err(|error| error.to_string())?;
    let title = title.map(|title| title.normalized_value(XmlVersion::Implicit1_0).map(|title| title.trim().to_owned()));
    Ok(title.transpose().map_err(|error| error.to_string())?.unwrap_or_default())
}

/// The parts of a page in wikitext: headings, paragraphs, items, and tables row by row. Templates, references, comments
/// and files are left out; links are their words.
pub(crate) fn parts(wikitext: &str) -> Vec<PagePart> {
    let text = without(wikitext, "<!--", "-->");
    let text = without_references(&text);
    let text = without_nested(&text, "{{", "}}");
    let text = links(&text);
    let text = text.replace("'''", "").replace("''", "");
    let mut parts = Vec::new();
    let mut row: Vec<String> = Vec::new();
    let flush = |row: &mut Vec<String>, parts: &mut Vec<PagePart>| {
        if !row.is_empty() {
            parts.push(PagePart::Row(std::mem::take(row).join(" | ")));
        }
    };
    let mut in_table = false;
    for line in text.lines() {
        let line = tags(line);
        let line = line.trim();
        if line.starts_with("{|") {
            in_table = true;
        } else if in_table && (line.starts_with("|}") || line.starts_with("|-")) {
            flush(&mut row, &mut parts);
            in_table = !line.starts_with("|}");
        } else if let Some(cells) = line.strip_prefix(['|', '!']).filter(|_| in_table) {
            let is_caption = cells.starts_with('+');
            let cells = cells.trim_start_matches('+').replace("!!", "||");
            let cells = cells.split("||").map(|cell| {
                // `style="…" | text`
                cell.rsplit_once('|').map_or(cell, |(_, text)| text).trim().to_owned()
            });
            let cells = cells.filter(|cell| !cell.is_empty());
            if is_caption {
                parts.extend(cells.map(PagePart::Paragraph));
            } else {
                row.extend(cells);
            }
        } else if let Some((level, title)) = heading(line) {
            parts.push(PagePart::Heading(level, title.to_owned()));
        } else {
            let item = line.trim_start_matches(['*', '#', ':', ';']).trim();
            let is_item = item.len() < line.len();
            match (item, is_item) {
                ("", _) => {}
                (item, true) => parts.push(PagePart::Item(item.to_owned())),
                (line, false) => parts.push(PagePart::Paragraph(line.to_owned())),
            }
        }
    }
    flush(&mut row, &mut parts);
    parts
}

/// `== Title ==` is of level 1, as the page's title is above it.
fn heading(line: &str) -> Option<(u8, &str)> {
    let marks = line.len() - line.trim_start_matches('=').len();
    let closing = line.len() - line.trim_end_matches('=').len();
    let title = line.trim_matches('=').trim();
    ((2..=6).contains(&marks) && closing == marks && !title.is_empty()).then(|| (marks as u8 - 1, title))
}

/// The text without what stands between two marks; an open mark at the end opens nothing.
fn without(text: &str, open: &str, close: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(open) {
        let Some((_, after)) = behind.split_once(close) else { break };
        kept.push_str(before);
        rest = after;
    }
    kept + rest
}

/// The text without references, `<ref …>…</ref>` and `<ref …/>`.
fn without_references(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("<ref") {
        kept.push_str(before);
        // `<references/>` is a tag like others.
        let is_reference = behind.starts_with(['>', ' ', '/']);
        let Some((tag, after)) = behind.split_once('>').filter(|_| is_reference) else {
            kept.push_str("<ref");
            rest = behind;
            continue;
        };
        rest = if tag.ends_with('/') { after } else { after.split_once("</ref>").map_or(after, |(_, after)| after) };
    }
    kept + rest
}

/// The text without what stands between marks that may be nested.
fn without_nested(text: &str, open: &str, close: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(open) {
            depth += 1;
            at += open.len();
        } else if depth > 0 && rest.starts_with(close) {
            depth -= 1;
            at += close.len();
        } else {
            let next = rest.chars().next().expect("there is a rest");
            if depth == 0 {
                kept.push(next);
            }
            at += next.len_utf8();
        }
    }
    kept
}

/// `[[page|words]]` and `[https://… words]` become words; files and categories go.
fn links(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = rest.find('[') {
        kept.push_str(&rest[..found]);
        rest = &rest[found..];
        if let Some(inside) = rest.strip_prefix("[[") {
            let Some(end) = closing(inside) else {
                kept.push_str("[[");
                rest = inside;
                continue;
            };
            let link = &inside[..end];
            rest = &inside[end + 2..];
            let is_left_out = ["File:", "Image:", "Category:"].iter().any(|kind| link.trim_start().starts_with(kind));
            if !is_left_out {
                let words = link.rsplit_once('|').map_or(link, |(_, words)| words);
                kept.push_str(words);
            }
        } else {
            let inside = &rest[1..];
            let is_address = inside.starts_with("http://") || inside.starts_with("https://");
            match inside.split_once(']').filter(|(link, _)| is_address && !link.contains('\n')) {
                Some((link, after)) => {
                    kept.push_str(link.split_once(' ').map_or("", |(_, words)| words));
                    rest = after;
                }
                None => {
                    kept.push('[');
                    rest = inside;
                }
            }
        }
    }
    kept + rest
}

/// Where the `]]` stands that closes a link, behind those of links within it.
fn closing(inside: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    loop {
        let open = inside[at..].find("[[").map(|found| at + found);
        let close = inside[at..].find("]]").map(|found| at + found)?;
        match open.filter(|open| *open < close) {
            Some(open) => {
                depth += 1;
                at = open + 2;
            }
            None if depth == 0 => return Some(close),
            None => {
                depth -= 1;
                at = close + 2;
            }
        }
    }
}

/// A line without tags; what is between them stays.
fn tags(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once('<') {
        kept.push_str(before);
        let is_tag = behind.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
        match behind.split_once('>').filter(|_| is_tag) {
            Some((tag, after)) => {
                if tag.starts_with("br") {
                    kept.push(' ');
                }
                rest = after;
            }
            None => {
                kept.push('<');
                rest = behind;
            }
        }
    }
    (kept + rest).replace("&nbsp;", " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;

    #[test]
    fn markup_becomes_parts() {
        let text = "{{Infobox|a={{b}}}}'''Ada''' was [[London|born in [[x]] London]] &nbsp;<ref name=\"a\">no</ref>in 1815.<ref b/>\n\
            [[File:Ada.jpg|thumb|[[Ada]] at work]]\n== Life ==\n* First [https://e.org item]\n=== Youth ===\n\
            {| class=\"wikitable\"\n|+ Heights\n! Name !! Feet\n|-\n| style=\"x\" | Tower || 330\n|}\n<!-- gone -->a < b<br/>c";
        let expected = [
            PagePart::Paragraph("Ada was London  in 1815.".to_owned()),
            PagePart::Heading(1, "Life".to_owned()),
            PagePart::Item("First item".to_owned()),
            PagePart::Heading(2, "Youth".to_owned()),
            PagePart::Paragraph("Heights".to_owned()),
            PagePart::Row("Name | Feet".to_owned()),
            PagePart::Row("Tower | 330".to_owned()),
            PagePart::Paragraph("a < b c".to_owned()),
        ];
        let found = parts(text);
        assert_eq!(found[1..], expected[1..]);
        assert!(found[0].text().starts_with("Ada was") && found[0].text().ends_with("in 1815."), "{:?}", found[0]);
    }

    #[test]
    fn open_marks_end_nowhere_and_harm_nothing() {
        for text in ["[[open", "[http://x", "<ref>open", "{{open", "<!-- open", "'''", "| a", "<ref", "<", "{|\n| a"] {
            let _ = parts(text);
        }
        assert_eq!(parts("[[open"), [PagePart::Paragraph("[[open".to_owned())]);
    }

    #[test]
    fn exports_are_read_page_by_page() {
        let xml = "<mediawiki><siteinfo><sitename>x</sitename></siteinfo>\
            <page><title>Ada &amp; Bob</title><ns>0</ns><id>5</id><revision><id>99</id><text>They &lt;b&gt;met&lt;/b&gt;.</text></revision></page>\
            <page><title>Old</title><ns>0</ns><id>6</id><redirect title=\"Ada &amp; Bob\"/><revision><text>#REDIRECT</text></revision></page>\
            <page><title>Older</title><ns>0</ns><id>9</id><redirect title=\"Old\"></redirect></page>\
            <page><title>Talk:Old</title><ns>1</ns><id>10</id><redirect title=\"Ada\"/></page>\
            <page><title>Talk:Ada</title><ns>1</ns><id>7</id><revision><text>talk</text></revision></page>\
            <page><title>Last</title><ns>0</ns><id>8</id><revision><text/></revision></page></mediawiki>";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.xml");
        std::fs::write(&path, xml).unwrap();
        let found: Vec<PageEntry> = Pages::open(&path).unwrap().map(Result::unwrap).collect();
        let [PageEntry::Page(ada), old, older, PageEntry::Page(last)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((ada.id.as_str(), ada.title.as_str()), ("5", "Ada & Bob"));
        assert_eq!(ada.parts, [PagePart::Paragraph("They met.".to_owned())]);
        let redirect = |from: &str, to: &str| {
            let [from, to] = [from, to].map(|title| PageName::Title(title.to_owned()));
            PageEntry::Redirect(Redirect { from, to })
        };
        assert_eq!([old, older], [&redirect("Old", "Ada & Bob"), &redirect("Older", "Old")]);
        assert_eq!((last.title.as_str(), last.parts.len()), ("Last", 0));
        for end in 0..xml.len() {
            std::fs::write(&path, &xml[..end]).unwrap();
            let _: Vec<_> = Pages::open(&path).unwrap().collect(); // Errors, and no panic and no endless loop.
        }
    }
}
