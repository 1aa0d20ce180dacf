//! The ledger: what the index knows of each source file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use raglan_core::{ContentHash, DocId, Document};
use serde::{Deserialize, Serialize};

/// All source files of an index: those whose chunks it holds, and those that were skipped.
///
/// A path is there once, as a document or as skipped. Ids of documents are distinct.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    documents: BTreeMap<String, LedgerEntry>,
    skipped: BTreeMap<String, Skipped>,
    by_hash: HashMap<ContentHash, BTreeSet<String>>,
    by_id: HashMap<DocId, String>,
}

/// A document with the number of its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The document.
    pub document: Arc<Document>,
    /// How many chunks the index holds of it.
    pub n_chunks: u32,
}

/// A source file that was not indexed, remembered so that it is not read again until it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Path relative to the indexed folder with `/` between its parts.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Last modification, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Why it was skipped, as the reader wrote it down.
    pub reason: String,
    /// Version of the reader that gave up, such as `pdf/1`; a newer one may do better.
    pub reader_version: String,
}

impl Ledger {
    /// A ledger without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// The documents in order of path.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = &Document> {
        self.documents.values().map(|entry| &*entry.document)
    }

    /// The documents with the numbers of their chunks, in order of path.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &LedgerEntry> {
        self.documents.values()
    }

    /// The skipped files in order of path.
    pub fn skipped(&self) -> impl ExactSizeIterator<Item = &Skipped> {
        self.skipped.values()
    }

    /// The document at a path.
    pub fn by_path(&self, path: &str) -> Option<&LedgerEntry> {
        self.documents.get(path)
    }

    /// The document with an id.
    pub fn by_id(&self, id: DocId) -> Option<&LedgerEntry> {
        self.documents.get(self.by_id.get(&id)?)
    }

    /// The paths, in order, of the documents whose source has this content.
    pub fn by_hash(&self, hash: &ContentHash) -> impl Iterator<Item = &str> {
        self.by_hash.get(hash).into_iter().flatten().map(String::as_str)
    }

    /// What is remembered of a skipped file.
    pub fn skipped_at(&self, path: &str) -> Option<&Skipped> {
        self.skipped.get(path)
    }

    /// How many files are remembered.
    pub fn len(&self) -> usize {
        self.documents.len() + self.skipped.len()
    }

    /// Whether no file is remembered.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.skipped.is_empty()
    }

    /// Records a document with its number of chunks, in place of whatever was known of its path.
    ///
    /// A document of the same id at another path is forgotten: it is this one, moved.
    pub fn insert_document(&mut self, document: Document, n_chunks: u32) {
        self.remove(&document.path);
        if let Some(elsewhere) = self.by_id.get(&document.id).cloned() {
            self.remove(&elsewhere);
        }
        let path = document.path.clone();
        self.by_hash.entry(document.hash).or_default().insert(path.clone());
        self.by_id.insert(document.id, path.clone());
        self.documents.insert(path, LedgerEntry { document: Arc::new(document), n_chunks });
    }

    /// Records a skipped file, in place of whatever was known of its path.
    pub fn insert_skipped(&mut self, skipped: Skipped) {
        self.remove(&skipped.path);
        self.skipped.insert(skipped.path.clone(), skipped);
    }

    /// Forgets a path; gives back the document that was there.
    pub fn remove(&mut self, path: &str) -> Option<LedgerEntry> {
        self.skipped.remove(path);
        let entry = self.documents.remove(path)?;
        self.by_id.remove(&entry.document.id);
        if let Some(paths) = self.by_hash.get_mut(&entry.document.hash) {
            paths.remove(path);
            if paths.is_empty() {
                self.by_hash.remove(&entry.document.hash);
            }
        }
        Some(entry)
    }

    /// Records that the document at `from` is now at `to`: it keeps its id and its chunks.
    ///
    /// Whatever was known of `to` is forgotten. Says whether there was a document at `from`.
    pub fn rename(&mut self, from: &str, to: &str, mtime_ns: i64) -> bool {
        let Some(LedgerEntry { document, n_chunks }) = self.remove(from) else { return false };
        let document = Document { path: to.to_owned(), mtime_ns, ..Arc::unwrap_or_clone(document) };
        self.insert_document(document, n_chunks);
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use raglan_core::Format;

    use super::*;

    pub(crate) fn document(id: u32, path: &str, content: &str) -> Document {
        Document {
            id: DocId(id),
            path: path.into(),
            hash: ContentHash(*blake3::hash(content.as_bytes()).as_bytes()),
            size: content.len() as u64,
            mtime_ns: 1_700_000_000_000_000_000 + i64::from(id),
            format: Format::Markdown,
            reader: "markdown/1".into(),
            encoding: Some("utf-8".into()),
            title: None,
            metadata: BTreeMap::new(),
        }
    }

    pub(crate) fn skipped(path: &str) -> Skipped {
        Skipped { path: path.into(), size: 9, mtime_ns: -1, reason: "no text".into(), reader_version: "pdf/1".into() }
    }

    fn paths(ledger: &Ledger, content: &str) -> Vec<String> {
        let hash = ContentHash(*blake3::hash(content.as_bytes()).as_bytes());
        ledger.by_hash(&hash).map(str::to_owned).collect()
    }

    #[test]
    fn equal_content_is_found_at_all_its_paths() {
        let mut ledger = Ledger::new();
        ledger.insert_document(document(1, "b.md", "same"), 1);
        ledger.insert_document(document(2, "a.md", "same"), 1);
        ledger.insert_document(document(3, "c.md", "other"), 1);
        assert_eq!(paths(&ledger, "same"), ["a.md", "b.md"]);
        ledger.remove("a.md");
        assert_eq!(paths(&ledger, "same"), ["b.md"]);
        ledger.insert_document(document(4, "b.md", "changed"), 1);
        assert!(paths(&ledger, "same").is_empty());
        assert!(ledger.by_id(DocId(1)).is_none());
    }

    #[test]
    fn a_moved_document_keeps_id_and_chunks() {
        let mut ledger = Ledger::new();
        ledger.insert_document(document(1, "old.md", "text"), 7);
        ledger.insert_skipped(skipped("new.md"));
        assert!(ledger.rename("old.md", "new.md", 5));
        assert!(!ledger.rename("old.md", "new.md", 5));
        let entry = ledger.by_path("new.md").unwrap();
        assert_eq!((entry.document.id, entry.document.mtime_ns, entry.n_chunks), (DocId(1), 5, 7));
        assert_eq!((ledger.len(), paths(&ledger, "text")), (1, vec!["new.md".into()]));
    }

    #[test]
    fn a_path_is_a_document_or_skipped() {
        let mut ledger = Ledger::new();
        ledger.insert_document(document(1, "a", "x"), 1);
        ledger.insert_skipped(skipped("a"));
        assert!(ledger.by_path("a").is_none() && ledger.skipped_at("a").is_some());
        ledger.insert_document(document(2, "a", "x"), 1);
        assert!(ledger.by_path("a").is_some() && ledger.skipped_at("a").is_none());
        assert_eq!(ledger.len(), 1);
    }
}
