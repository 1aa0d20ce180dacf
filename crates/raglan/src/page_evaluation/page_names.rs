//! Pages by the names that collections know them by.

use std::collections::HashMap;

use raglan_core::{DocId, Document};
use raglan_datasets::pages::title_of_name;
use raglan_store::Snapshot;

use super::questions::NamedPage;
use crate::Result;
use crate::indexer::redirects_to;

/// The documents of an index by path, and by title: the document's own, else that of its address, of a redirect to it, or of
/// its file's name.
///
/// Titles are compared in lower case; of documents with one title of a kind, the first by path counts.
#[derive(Debug, Default)]
pub(super) struct PageNames {
    by_path: HashMap<String, DocId>,
    by_title: HashMap<String, DocId>,
    paths: HashMap<DocId, String>,
}

impl PageNames {
    pub fn of(snapshot: &Snapshot) -> Result<Self> {
        let mut names = Self::default();
        let ledger = snapshot.ledger()?;
        let kinds: [fn(&Document) -> Vec<String>; 4] = [
            |document| document.title.clone().into_iter().collect(),
            |document| document.metadata.get("url").map(|url| title_of_name(url)).into_iter().collect(),
            |document| redirects_to(document).map(str::to_owned).collect(),
            |document| {
                let file = document.path.rsplit('/').next().unwrap_or_default();
                vec![title_of_name(file.rsplit_once('.').map_or(file, |(stem, _)| stem))]
            },
        ];
        for titles in kinds {
            // The ledger gives documents in the order of their paths.
            for document in ledger.documents() {
                for title in titles(document) {
                    names.by_title.entry(title.to_lowercase()).or_insert(document.id);
                }
            }
        }
        for document in ledger.documents() {
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

    /// The names by which results call pages: the path in the index, else the collection's id. Pages of one document count
    /// once.
    pub fn names(&self, pages: &[NamedPage]) -> Vec<String> {
        let mut names: Vec<String> = Vec::with_capacity(pages.len());
        for page in pages {
            let name = self.find(page).and_then(|doc| self.path(doc)).unwrap_or(&page.id);
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
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
