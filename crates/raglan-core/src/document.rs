//! Documents: what a reader makes of a file, and what the index remembers of it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{Format, Locator};

/// Identifies a document within an index; never used again after its document is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DocId(pub u32);

/// BLAKE3 of some bytes: equal hashes mean equal content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for ContentHash {
    type Error = crate::Error;

    fn try_from(hex: String) -> Result<Self, crate::Error> {
        let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let mut hash = [0; 32];
        match digits {
            Some(digits) if digits.len() == 64 => {
                for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = pair[0] << 4 | pair[1];
                }
                Ok(Self(hash))
            }
            _ => Err(crate::Error::Invalid {
                what: "content hash",
                problem: format!("`{hex}` is not 64 hexadecimal digits"),
            }),
        }
    }
}

/// What the index remembers of a source file beside its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The document's id.
    pub id: DocId,
    /// Path relative to the indexed folder with `/` between its parts, or an external id.
    pub path: String,
    /// Hash of the source file's bytes.
    pub hash: ContentHash,
    /// Size of the source file in bytes.
    pub size: u64,
    /// Last modification of the source file, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Format, as the reader recognised it.
    pub format: Format,
    /// Name and version of the reader, such as `markdown/1`.
    pub reader: String,
    /// Character encoding of the source, for formats that have one, by its WHATWG label.
    pub encoding: Option<String>,
    /// Title, if the document has one.
    pub title: Option<String>,
    /// What else the document says of itself: author, date, language, …
    pub metadata: BTreeMap<String, String>,
}

/// What the bytes of a span are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanOf {
    /// The file: its own bytes are the text.
    File,
    /// The text that the reader extracted from the file, in UTF-8.
    Text,
}

impl SpanOf {
    /// A span for people, such as `bytes 3–9` or `text bytes 3–9`.
    pub fn told(self, span: Range<usize>) -> String {
        let of = match self {
            Self::File => "bytes",
            Self::Text => "text bytes",
        };
        format!("{of} {}–{}", span.start, span.end)
    }
}

impl Document {
    /// What spans of this document's chunks are counted in.
    pub fn span_of(&self) -> SpanOf {
        let utf_8 = self.encoding.as_deref().is_none_or(|encoding| encoding == "UTF-8");
        if self.format.is_plain_text() && utf_8 { SpanOf::File } else { SpanOf::Text }
    }
}

/// The text of a document and its structure: what a reader gives and a chunker takes.
///
/// `blocks` are disjoint, in order, lie within `text` on character boundaries, and together cover all of it but
/// white space. `marks` are in order of `at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParsedDocument {
    /// Format that was read.
    pub format: Format,
    /// Name and version of the reader, such as `markdown/1`.
    pub reader: String,
    /// Character encoding of the source, for formats that have one, by its WHATWG label.
    pub encoding: Option<String>,
    /// The text. For plain-text formats in UTF-8 it is the file, byte for byte.
    pub text: String,
    /// Title, if the document has one.
    pub title: Option<String>,
    /// What else the document says of itself.
    pub metadata: BTreeMap<String, String>,
    /// Units that a chunker keeps whole where it can.
    pub blocks: Vec<Block>,
    /// Where pages, sheets, headings and so on begin.
    pub marks: Vec<Mark>,
}

/// A unit of a document's text: a paragraph, a list item, a row, a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// What it is.
    pub kind: BlockKind,
    /// Where it lies in the text, in bytes.
    pub span: Range<usize>,
}

/// What a [`Block`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockKind {
    /// A heading of the given level, 1 being the outermost; it belongs with what follows it.
    Heading(u8),
    /// A paragraph of prose.
    Paragraph,
    /// An item of a list.
    ListItem,
    /// A row of a table.
    TableRow,
    /// Preformatted text or a piece of source code that is not a definition.
    Code,
    /// A definition in source code: a function, a type, a method.
    Definition,
}

/// The beginning of something that locates text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where it begins in the text, in bytes.
    pub at: usize,
    /// What begins.
    pub kind: MarkKind,
}

/// What begins at a [`Mark`]. Numbers count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MarkKind {
    /// A page.
    Page(u32),
    /// A slide.
    Slide(u32),
    /// A sheet of a workbook; rows and headings start anew.
    Sheet(String),
    /// A row of a table.
    Row(u32),
    /// A section under a heading, or the body of a definition. It ends at the next heading of its level or above.
    Heading {
        /// 1 is the outermost.
        level: u8,
        /// The heading's words, or the definition's name.
        title: String,
    },
    /// The end of all sections of this level and deeper, such as the closing of a function's body.
    SectionEnd {
        /// The outermost level that ends.
        level: u8,
    },
}

impl ParsedDocument {
    /// The locators of the given byte offsets, which must not decrease.
    ///
    /// Lines are counted for plain-text formats only. The cost is one pass over the text and the marks.
    pub fn locate(&self, offsets: &[usize]) -> Vec<Locator> {
        let mut here = Locator::default();
        let mut levels: Vec<u8> = Vec::new();
        let mut marks = self.marks.iter().peekable();
        let (mut line, mut counted_to) = (1, 0);
        let mut locators = Vec::with_capacity(offsets.len());
        for &offset in offsets {
            while let Some(mark) = marks.next_if(|mark| mark.at <= offset) {
                match &mark.kind {
                    MarkKind::Page(n) => here.page = Some(*n),
                    MarkKind::Slide(n) => here.slide = Some(*n),
                    MarkKind::Row(n) => here.row = Some(*n),
                    MarkKind::Sheet(name) => {
                        here.sheet = Some(name.clone());
                        here.row = None;
                        here.headings.clear();
                        levels.clear();
                    }
                    MarkKind::Heading { level, title } => {
                        close(&mut here.headings, &mut levels, *level);
                        here.headings.push(title.clone());
                        levels.push(*level);
                    }
                    MarkKind::SectionEnd { level } => close(&mut here.headings, &mut levels, *level),
                }
            }
            if self.format.is_plain_text() {
                let end = offset.min(self.text.len());
                line += self.text.as_bytes()[counted_to..end].iter().filter(|&&byte| byte == b'\n').count() as u32;
                counted_to = end;
                here.line = Some(line);
            }
            locators.push(here.clone());
        }
        locators
    }
}

/// Leaves the sections of `level` and deeper.
fn close(headings: &mut Vec<String>, levels: &mut Vec<u8>, level: u8) {
    while levels.last().is_some_and(|&open| open >= level) {
        levels.pop();
        headings.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_knows_line_and_open_headings() {
        let heading = |at, level, title: &str| Mark { at, kind: MarkKind::Heading { level, title: title.into() } };
        let doc = ParsedDocument {
            format: Format::Markdown,
            reader: "markdown/1".into(),
            encoding: None,
            text: "# A\ntext\n## B\nmore\n# C\nend\n".into(),
            title: None,
            metadata: BTreeMap::new(),
            blocks: vec![],
            marks: vec![heading(0, 1, "A"), heading(9, 2, "B"), heading(19, 1, "C")],
        };
        let found = doc.locate(&[4, 14, 23]);
        let paths: Vec<_> = found.iter().map(|l| (l.line.unwrap(), l.headings.join("/"))).collect();
        assert_eq!(paths, [(2, "A".into()), (4, "A/B".into()), (6, "C".to_string())]);
    }

    #[test]
    fn a_hash_reads_back_from_its_digits() {
        let hash = ContentHash(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(ContentHash::try_from(hash.to_string()).unwrap(), hash);
        assert!(ContentHash::try_from("00".to_owned()).is_err());
    }
}
