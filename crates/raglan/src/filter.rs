//! Which documents a question is about.

use std::path::Path;
use std::str::FromStr;

use raglan_core::{ChunkSet, Document, Format};
use raglan_ingest::PathPatterns;
use raglan_store::Snapshot;

use crate::Result;

/// A condition on documents; a document must meet every part that is given.
///
/// ```
/// use raglan::Filter;
///
/// let filter = Filter { paths: vec!["manual/**".into()], formats: vec!["pdf".parse()?], ..Filter::default() };
/// assert!(!filter.is_everything());
/// # Ok::<(), raglan::core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Patterns over paths, one of which must match, as [`PathPatterns`] reads them. None: any path.
    pub paths: Vec<String>,
    /// Formats, one of which must be the document's. None: any format.
    pub formats: Vec<Format>,
    /// Earliest last modification.
    pub modified_from: Option<jiff::Timestamp>,
    /// Latest last modification, exclusive.
    pub modified_before: Option<jiff::Timestamp>,
    /// Metadata the document must have: a key, and the value it must hold, compared without regard to case.
    pub metadata: Vec<MetadataCondition>,
}

/// A metadata key and the value that it must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataCondition {
    /// The key, such as `author`.
    pub key: String,
    /// The value, compared without regard to case.
    pub value: String,
}

impl FromStr for MetadataCondition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self { key: key.trim().to_owned(), value: value.trim().to_owned() })
            }
            _ => Err(format!("`{text}` is not of the form KEY=VALUE")),
        }
    }
}

impl Filter {
    /// Whether every document meets the condition.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// The live chunks of the documents that meet the condition, or `None` when all do.
    ///
    /// # Errors
    ///
    /// [`raglan_ingest::Error::Pattern`] when a path pattern is malformed.
    pub fn allowed(&self, snapshot: &Snapshot) -> Result<Option<ChunkSet>> {
        if self.is_everything() {
            return Ok(None);
        }
        let paths = PathPatterns::new(&self.paths)?;
        let documents: std::collections::HashSet<_> = snapshot
            .ledger()?
            .documents()
            .filter(|document| self.matches(document, paths.as_ref()))
            .map(|document| document.id)
            .collect();
        let chunks = snapshot.chunk_docs()?;
        Ok(Some(chunks.iter().filter(|(_, doc)| documents.contains(doc)).map(|&(id, _)| id).collect()))
    }

    fn matches(&self, document: &Document, paths: Option<&PathPatterns>) -> bool {
        let nanoseconds = i128::from(document.mtime_ns);
        paths.is_none_or(|set| set.match_file(Path::new(&document.path)))
            && (self.formats.is_empty() || self.formats.contains(&document.format))
            && self.modified_from.is_none_or(|from| nanoseconds >= from.as_nanosecond())
            && self.modified_before.is_none_or(|before| nanoseconds < before.as_nanosecond())
            && self.metadata.iter().all(|condition| {
                let value = document.metadata.iter().find(|(key, _)| key.eq_ignore_ascii_case(&condition.key));
                value.is_some_and(|(_, value)| value.to_lowercase() == condition.value.to_lowercase())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raglan_core::{ContentHash, DocId};

    fn document(path: &str, format: Format, author: &str) -> Document {
        Document {
            id: DocId(0),
            path: path.into(),
            hash: ContentHash([0; 32]),
            size: 1,
            mtime_ns: 1_700_000_000_000_000_000,
            format,
            reader: "text/1".into(),
            encoding: None,
            title: None,
            metadata: [("Author".to_owned(), author.to_owned())].into(),
        }
    }

    #[track_caller]
    fn check(filter: &Filter, document: &Document, expected: bool) {
        assert_eq!(filter.matches(document, PathPatterns::new(&filter.paths).unwrap().as_ref()), expected);
    }

    #[test]
    fn every_part_must_hold() {
        let doc = document("manual/en/a.md", Format::Markdown, "Ada");
        let by_path = |pattern: &str| Filter { paths: vec![pattern.into()], ..Filter::default() };
        check(&by_path("manual/**"), &doc, true);
        check(&by_path("manual/*.md"), &doc, false);
        check(&by_path("*.md"), &doc, true);
        check(&by_path("en/*"), &doc, false);
        let author =
            |name: &str| Filter { metadata: vec![format!("author={name}").parse().unwrap()], ..Filter::default() };
        check(&author("ada"), &doc, true);
        check(&author("Bob"), &doc, false);
        check(&Filter { formats: vec![Format::Pdf], ..Filter::default() }, &doc, false);
        let from: jiff::Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        check(&Filter { modified_from: Some(from), ..Filter::default() }, &doc, false);
        check(&Filter { modified_before: Some(from), ..Filter::default() }, &doc, true);
    }
}
