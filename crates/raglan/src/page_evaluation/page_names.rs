//! Pages by the names that collections know them by.

use std::collections::HashMap;

use raglan_core::DocId;
use raglan_datasets::pages::title_of_name;
use raglan_store::Snapshot;

use super::questions::NamedPage;
use crate::Result;

/// The documents of an index by path, and by title: the document's own, that of its address, or that of its file's name.
///
/// Titles are compared in lower case; of documents with one title, the first by path counts.
#[derive(Debug, Default)]
pub(super) struct PageNames {
    by_path: HashMap<String, DocId>,
    by_title: HashMap<String, DocId>,
    paths: HashMap<DocId, String>,
}

impl PageNames {
    pub fn of(snapshot: &Snapshot) -> Result<Self> {
        let mut names = Self::default();
        // The ledger gives documents in the order of their paths.
        for document in snapshot.ledger()?.documents() {
            let file = document.path.rsplit('/').next().unwrap_or_default();
            let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
            let address = document.metadata.get("url").map(|url| title_of_name(url));
            for title in document.title.clone().into_iter().chain(address).chain([title_of_name(stem)]) {
                names.by_title.entry(title.to_lowercase()).or_insert(document.id);
            }
            names.by_path.insert(document.path.clone(), document.id);
            names.paths.insert(document.id, document.path.clone());
        }
        Ok(names)
    }

    /// The document that a page is, if it is in the index.
    pub fn find(&self, page: &NamedPage) -> Option<DocId> {
        let of_title = |title: &str| self.by_title.get(&title.to_lowercase()).copied().filter(|_| !title.is_empty());
        let by_title = || of_title(&page.title).or_else(|| of_title(&title_of_name(&page.id)));
        self.by_path.get(&page.id).copied().or_else(by_title)
    }

    /// The name by which results call a page: its path in the index, else the collection's id.
    pub fn name(&self, page: &NamedPage) -> String {
        self.find(page).and_then(|doc| self.paths.get(&doc)).unwrap_or(&page.id).clone()
    }

    /// The path of a document.
    pub fn path(&self, doc: DocId) -> Option<&str> {
        self.paths.get(&doc).map(String::as_str)
    }

    /// Whether there is a document of this path.
    pub fn has(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }
}
