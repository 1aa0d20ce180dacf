//! Pages of an encyclopedia, one after the other: from a dump in JSON lines, from MediaWiki's XML, or from a folder.
//!
//! A line is one of KILT's knowledge source, `{"wikipedia_id", "wikipedia_title", "text": [paragraph], …}`, or
//! `{"id" or "_id", "title", "text", "url"}` with the text in one piece or in paragraphs; further keys are ignored. In
//! KILT's paragraphs, `Section::::` begins a heading and `BULLET::::` an item. A folder holds a page a file, `.txt` or
//! `.md`, which is named like the page, with underscores for blanks. Files may be compressed, as `.gz` or `.zst`.
//!
//! A page of MediaWiki's that only leads to another comes as a [`Redirect`].
//!
//! However large a dump is, one page is in memory at a time.

use std::collections::VecDeque;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::wikitext::WikiPages;
use crate::{Error, Result, lines};

/// A page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Its name among the pages.
    pub id: String,
    /// Its title, empty when it has none.
    pub title: String,
    /// Its address, where it is known.
    pub url: Option<String>,
    /// Its text, in order; no part is blank.
    pub parts: Vec<PagePart>,
}

/// What a dump has under a name: a page, or what leads to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageEntry<P = Page> {
    /// A page.
    Page(P),
    /// A name that stands for a page of another name.
    Redirect(Redirect),
}

/// A name that stands for a page of another name, or for what leads on to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The name.
    pub from: PageName,
    /// What it leads to.
    pub to: PageName,
}

/// A name of a page, of the kind by which its dump refers to pages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PageName {
    /// A [`Page::id`], which is an address.
    Id(String),
    /// A [`Page::title`].
    Title(String),
}

/// A part of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PagePart {
    /// A heading, and its level, from 1 for the outermost below the page's title.
    Heading(u8, String),
    /// A paragraph.
    Paragraph(String),
    /// An item of a list.
    Item(String),
    /// A row of a table.
    Row(String),
}

impl Page {
    /// The page's text: its title and its parts, each on a line of its own.
    pub fn text(&self) -> String {
        let parts = self.parts.iter().map(PagePart::text);
        std::iter::once(self.title.as_str())
            .filter(|title| !title.is_empty())
            .chain(parts)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl PagePart {
    /// The part's text.
    pub fn text(&self) -> &str {
        match self {
            Self::Heading(_, text) | Self::Paragraph(text) | Self::Item(text) | Self::Row(text) => text,
        }
    }
}

/// The pages of a dump or a folder, as they come.
pub struct Pages(Source);

enum Source {
    Lines(LineReader),
    Wiki(WikiPages),
    Folder(VecDeque<PathBuf>),
}

struct LineReader {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    line: usize,
}

impl Pages {
    /// Opens a dump, by the name's end `.jsonl`, `.json` or `.xml`, each also with `.gz` or `.zst`; or a folder, whose
    /// pages come in the order of their files' names.
    ///
    /// # Errors
    ///
    /// When the file is missing or has another ending.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let io = |source| Error::Io { path: path.to_owned(), source };
            let mut files = Vec::new();
            for entry in std::fs::read_dir(path).map_err(io)? {
                let file = entry.map_err(io)?.path();
                if file.is_file() && plain_end(&file).is_some_and(|end| end == "txt" || end == "md") {
                    files.push(file);
                }
            }
            files.sort_unstable();
            return Ok(Self(Source::Folder(files.into())));
        }
        let end = plain_end(path);
        Ok(Self(match end.as_deref() {
            Some("jsonl" | "json") => {
                let (path, reader) = lines::open(path)?;
                Source::Lines(LineReader { path, reader, line: 0 })
            }
            Some("xml") => {
                let (path, reader) = lines::open(path)?;
                Source::Wiki(WikiPages::new(path, reader))
            }
            end => {
                let problem = match end {
                    Some("zim") => "pages of ZIM files are in HTML: they are read as `ZimPages`",
                    _ => "the form is told by the name's end: `.jsonl`, `.xml` or `.zim`; or name a folder of pages",
                };
                return Err(Error::Table { path: path.to_owned(), problem: problem.to_owned() });
            }
        }))
    }
}

impl Iterator for Pages {
    type Item = Result<PageEntry>;

    fn next(&mut self) -> Option<Result<PageEntry>> {
        let page = match &mut self.0 {
            Source::Lines(lines) => lines.next(),
            Source::Wiki(pages) => return pages.next(),
            Source::Folder(files) => Some(read_file(&files.pop_front()?)),
        };
        Some(page?.map(PageEntry::Page))
    }
}

/// The name's end before `.gz` and `.zst`, in lower case.
fn plain_end(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    plain.rsplit_once('.').map(|(_, end)| end.to_owned())
}

#[derive(Deserialize)]
struct Line {
    #[serde(alias = "wikipedia_id", alias = "_id")]
    id: Option<lines::Id>,
    #[serde(alias = "wikipedia_title")]
    title: Option<String>,
    text: Text,
    url: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`text` is a text or a list of paragraphs")]
enum Text {
    Whole(String),
    Paragraphs(Vec<String>),
}

impl LineReader {
    fn next(&mut self) -> Option<Result<Page>> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(_) => self.line += 1,
                Err(source) => return Some(Err(Error::Io { path: self.path.clone(), source })),
            }
            let malformed = |problem| Error::Malformed { path: self.path.clone(), line: self.line, problem };
            let text = match std::str::from_utf8(&bytes) {
                Ok(text) => text.trim_start_matches('\u{feff}').trim(),
                Err(error) => return Some(Err(malformed(error.to_string()))),
            };
            if !text.is_empty() {
                return Some(page_of_line(text, self.line).map_err(malformed));
            }
        }
    }
}

fn page_of_line(line: &str, number: usize) -> Result<Page, String> {
    let form = r#"{"id", "title", "text"}"#;
    // KILT's lines have `_id` and `wikipedia_id`, which are the same: one of the two may be taken.
    let mut value: serde_json::Map<String, serde_json::Value> = lines::json(line, form)?;
    if value.contains_key("wikipedia_id") {
        value.remove("_id");
    }
    let line = serde_json::from_value(value.into()).map_err(|error| format!("{error}; a line is `{form}`"));
    let line: Line = line?;
    let title = line.title.unwrap_or_default().trim().to_owned();
    let id = match line.id {
        Some(id) => id.into_text(),
        None if !title.is_empty() => title.clone(),
        None => return Err(format!("page {number} has neither an id nor a title")),
    };
    let mut parts = Vec::new();
    match line.text {
        Text::Whole(text) => plain_parts(&text, &mut parts),
        Text::Paragraphs(paragraphs) => {
            for (i, paragraph) in paragraphs.iter().enumerate() {
                match paragraph.trim() {
                    text if i == 0 && text == title => {} // KILT's first paragraph is the title.
                    text => push_paragraph(text, &mut parts),
                }
            }
        }
    }
    Ok(Page { id, title, url: line.url, parts })
}

/// A paragraph of KILT's knowledge source.
fn push_paragraph(text: &str, parts: &mut Vec<PagePart>) {
    if let Some(section) = text.strip_prefix("Section::::") {
        let section = section.trim().trim_end_matches('.');
        let (level, title) = match section.rsplit_once(':') {
            Some((outer, title)) => (2 + outer.matches(':').count() as u8, title),
            None => (1, section),
        };
        if !title.is_empty() {
            parts.push(PagePart::Heading(level.min(6), title.to_owned()));
        }
    } else if let Some(item) = text.strip_prefix("BULLET::::") {
        let item = item.trim().trim_start_matches('-').trim_start();
        if !item.is_empty() {
            parts.push(PagePart::Item(item.to_owned()));
        }
    } else if !text.is_empty() {
        parts.push(PagePart::Paragraph(text.to_owned()));
    }
}

/// The parts of plain text: paragraphs between empty lines; lines that begin with `#` are headings, those with `- ` or
/// `* ` items, those with `|` rows.
fn plain_parts(text: &str, parts: &mut Vec<PagePart>) {
    let mut paragraph = String::new();
    for line in text.lines().chain([""]) {
        let line = line.trim();
        let marks = line.chars().take_while(|c| *c == '#').count();
        let special = if (1..=6).contains(&marks) && line[marks..].starts_with(' ') {
            Some(PagePart::Heading(marks as u8, line[marks..].trim().to_owned()))
        } else if let Some(item) = line.strip_prefix("- ").or_else(|| line.strip_prefix("* ")) {
            Some(PagePart::Item(item.trim().to_owned()))
        } else if line.starts_with('|') {
            Some(PagePart::Row(line.to_owned()))
        } else {
            None
        };
        if (line.is_empty() || special.is_some()) && !paragraph.is_empty() {
            parts.push(PagePart::Paragraph(std::mem::take(&mut paragraph)));
        }
        match special {
            Some(part) if !part.text().is_empty() => parts.push(part),
            Some(_) => {}
            None if line.is_empty() => {}
            None => {
                if !paragraph.is_empty() {
                    paragraph.push('\n');
                }
                paragraph.push_str(line);
            }
        }
    }
}

fn read_file(path: &Path) -> Result<Page> {
    let text = lines::whole(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    let id = plain.rsplit_once('.').map_or(plain, |(stem, _)| stem).to_owned();
    let title = title_of_name(&id);
    let mut parts = Vec::new();
    plain_parts(text.trim_start_matches('\u{feff}'), &mut parts);
    // A page that begins with its title has it once.
    if parts.first().is_some_and(|part| part.text() == title) {
        parts.remove(0);
    }
    Ok(Page { id, title, url: None, parts })
}

/// The title that a page's address or file name stands for: without what comes before the last `/` of an address's
/// path, without a fragment, with blanks for underscores, and characters for what is escaped with `%`.
pub fn title_of_name(name: &str) -> String {
    let name = match name.split_once("/wiki/") {
        Some((_, page)) => page,
        None if name.contains("://") => name.rsplit('/').next().unwrap_or(name),
        None => name,
    };
    let name = name.split(['#', '?']).next().unwrap_or_default();
    let mut bytes = Vec::with_capacity(name.len());
    let raw = name.as_bytes();
    let mut at = 0;
    while at < raw.len() {
        let escaped = (raw[at] == b'%').then(|| raw.get(at + 1..at + 3)).flatten();
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                at += 3;
            }
            None => {
                bytes.push(if raw[at] == b'_' { b' ' } else { raw[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pages(path: &Path) -> Vec<Page> {
        let page = |entry| match entry {
            Ok(PageEntry::Page(page)) => page,
            other => panic!("{other:?}"),
        };
        Pages::open(path).unwrap().map(page).collect()
    }

    #[test]
    fn the_knowledge_source_of_kilt_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source.jsonl");
        let lines = [
            r#"{"_id": "12", "wikipedia_id": "12", "wikipedia_title": "Ada", "text": ["Ada\n", "Ada was born.\n", "Section::::Life.\n", "Section::::Life:Youth.\n", "BULLET::::- 1815, in London\n", " "], "categories": "x", "history": {"url": "u"}}"#,
            "",
            r#"{"id": 7, "title": "Plain", "text": "One\nparagraph.\n\n# Part\n- item\n| a | b |\nlast", "url": "https://e.org/wiki/Plain"}"#,
            r#"{"title": "Nameless", "text": []}"#,
        ];
        fs::write(&path, lines.join("\n")).unwrap();
        let found = pages(&path);
        let heading = |level, text: &str| PagePart::Heading(level, text.to_owned());
        let paragraph = |text: &str| PagePart::Paragraph(text.to_owned());
        let item = |text: &str| PagePart::Item(text.to_owned());
        assert_eq!((found[0].id.as_str(), found[0].title.as_str()), ("12", "Ada"));
        let life = [paragraph("Ada was born."), heading(1, "Life"), heading(2, "Youth"), item("1815, in London")];
        assert_eq!(found[0].parts, life);
        assert_eq!(found[0].text(), "Ada\nAda was born.\nLife\nYouth\n1815, in London");
        assert_eq!((found[1].id.as_str(), found[1].url.as_deref()), ("7", Some("https://e.org/wiki/Plain")));
        let row = PagePart::Row("| a | b |".to_owned());
        let plain = [paragraph("One\nparagraph."), heading(1, "Part"), item("item"), row, paragraph("last")];
        assert_eq!(found[1].parts, plain);
        assert_eq!((found[2].id.as_str(), found[2].parts.len()), ("Nameless", 0));
    }

    #[test]
    fn what_is_no_page_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source.jsonl");
        let good = r#"{"id": "a", "title": "A", "text": "x"}"#;
        for bad in [r#"{"text": "x"}"#, r#"{"id": "b"}"#, "[]", "{", r#"{"id": "a", "text": {"a": 1}}"#] {
            fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
            let found: Vec<_> = Pages::open(&path).unwrap().collect();
            assert!(found[0].is_ok());
            assert!(found[1].as_ref().unwrap_err().to_string().contains("line 2"), "{bad}");
        }
        assert!(Pages::open(&folder.path().join("dump.zim")).is_err());
        assert!(Pages::open(&folder.path().join("none.jsonl")).is_err());
    }

    #[test]
    fn a_folder_has_a_page_a_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("James_A._Garfield.txt"), "James A. Garfield\n\nHe was president.\n").unwrap();
        fs::write(folder.path().join("A%26B.md"), "# History\ntext").unwrap();
        fs::write(folder.path().join("notes.csv"), "no page").unwrap();
        let found = pages(folder.path());
        let titles: Vec<_> =
            found.iter().map(|page| (page.id.as_str(), page.title.as_str(), page.parts.len())).collect();
        assert_eq!(titles, [("A%26B", "A&B", 2), ("James_A._Garfield", "James A. Garfield", 1)]);
    }

    #[test]
    fn addresses_stand_for_titles() {
        let check = |name: &str, title: &str| assert_eq!(title_of_name(name), title);
        check("https://en.wikipedia.org/wiki/Charlotte_Bront%C3%AB#Life", "Charlotte Brontë");
        check("https://en.wikipedia.org/wiki/AC/DC?x=1", "AC/DC");
        check("https://e.org/a/Some_Page", "Some Page");
        check("100%_sure", "100% sure");
        check("%", "%");
        check("", "");
    }
}
