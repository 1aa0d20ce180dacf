//! The kinds of file raglan reads.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A programming language whose structure raglan knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Language {
    C,
    Cpp,
    Go,
    Java,
    JavaScript,
    Python,
    Rust,
    Tsx,
    TypeScript,
}

/// The format of a document, as its reader recognised it.
///
/// It is written and read by its [`name`](Format::name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Format {
    PlainText,
    Markdown,
    ReStructuredText,
    Html,
    Pdf,
    Docx,
    Pptx,
    Xlsx,
    Csv,
    Tsv,
    Json,
    JsonLines,
    Epub,
    Eml,
    Msg,
    Code(Language),
}

const NAMES: &[(Format, &str)] = &[
    (Format::PlainText, "text"),
    (Format::Markdown, "markdown"),
    (Format::ReStructuredText, "rst"),
    (Format::Html, "html"),
    (Format::Pdf, "pdf"),
    (Format::Docx, "docx"),
    (Format::Pptx, "pptx"),
    (Format::Xlsx, "xlsx"),
    (Format::Csv, "csv"),
    (Format::Tsv, "tsv"),
    (Format::Json, "json"),
    (Format::JsonLines, "jsonl"),
    (Format::Epub, "epub"),
    (Format::Eml, "eml"),
    (Format::Msg, "msg"),
    (Format::Code(Language::C), "c"),
    (Format::Code(Language::Cpp), "cpp"),
    (Format::Code(Language::Go), "go"),
    (Format::Code(Language::Java), "java"),
    (Format::Code(Language::JavaScript), "javascript"),
    (Format::Code(Language::Python), "python"),
    (Format::Code(Language::Rust), "rust"),
    (Format::Code(Language::Tsx), "tsx"),
    (Format::Code(Language::TypeScript), "typescript"),
];

impl Format {
    /// Every format, in the order of the documentation.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|&(format, _)| format)
    }

    /// The short name, such as `pdf` or `rust`.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|&&(format, _)| format == self).expect("every format has a name").1
    }

    /// Whether the extracted text is the file's own characters, so that spans address the file itself.
    pub fn is_plain_text(self) -> bool {
        matches!(
            self,
            Self::PlainText
                | Self::Markdown
                | Self::ReStructuredText
                | Self::Csv
                | Self::Tsv
                | Self::Json
                | Self::JsonLines
                | Self::Code(_)
        )
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        NAMES.iter().find(|&&(_, known)| known == name).map(|&(format, _)| format).ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().map(|&(_, name)| name).collect();
            Error::Invalid { what: "format", problem: format!("`{name}` is none of {}", known.join(", ")) }
        })
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.name().to_owned()
    }
}

impl TryFrom<String> for Format {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_its_format() {
        for format in Format::all() {
            assert_eq!(format.name().parse::<Format>().unwrap(), format);
        }
        assert!("docm".parse::<Format>().is_err());
    }
}
