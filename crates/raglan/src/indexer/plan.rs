//! What an update has to do: the folder compared with the ledger.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use raglan_core::{ContentHash, Document};
use raglan_ingest::{FoundFile, Walk};
use raglan_store::{Ledger, LedgerEntry};

use super::SkippedFile;

/// Name and version of every reader. A file that was skipped is read again once this changes.
pub(super) static READERS: LazyLock<String> =
    LazyLock::new(|| raglan_ingest::reader_versions().into_values().collect::<Vec<_>>().join(" "));

/// The work of an update.
pub(super) struct Plan {
    /// Files whose size, time or reader differ from what the ledger has, in order of name.
    pub(super) to_read: Vec<FoundFile>,
    /// How many files are as the ledger has them.
    pub(super) unchanged: usize,
    /// What the walk skipped, and what was skipped before and has not changed since.
    pub(super) skipped: Vec<SkippedFile>,
    found: HashSet<String>,
}

/// Documents of the ledger whose files are no longer there.
pub(super) struct Gone {
    by_hash: HashMap<ContentHash, BTreeSet<String>>,
    paths: BTreeSet<String>,
}

impl Plan {
    pub(super) fn new(walk: Walk, ledger: &Ledger) -> Self {
        let readers: HashSet<String> = raglan_ingest::reader_versions().into_values().collect();
        let found = walk.files.iter().map(|file| file.name.clone()).collect();
        let skipped = walk.skipped.into_iter().map(|s| SkippedFile { path: s.name, reason: s.reason.to_string() });
        let mut plan = Self { to_read: Vec::new(), unchanged: 0, skipped: skipped.collect(), found };
        for file in walk.files {
            if let Some(entry) = ledger.by_path(&file.name) {
                let document = &entry.document;
                let same = (document.size, document.mtime_ns) == (file.size, file.mtime_ns);
                if same && readers.contains(&document.reader) {
                    plan.unchanged += 1;
                    continue;
                }
            } else if let Some(skipped) = ledger.skipped_at(&file.name)
                && (skipped.size, skipped.mtime_ns) == (file.size, file.mtime_ns)
                && skipped.reader_version == *READERS
            {
                plan.skipped.push(SkippedFile { path: file.name, reason: skipped.reason.clone() });
                continue;
            }
            plan.to_read.push(file);
        }
        plan
    }

    /// The documents of the ledger that the walk did not find.
    pub(super) fn gone(&self, ledger: &Ledger) -> Gone {
        let mut gone = Gone { by_hash: HashMap::new(), paths: BTreeSet::new() };
        for document in ledger.documents().filter(|document| !self.found.contains(&document.path)) {
            gone.by_hash.entry(document.hash).or_default().insert(document.path.clone());
            gone.paths.insert(document.path.clone());
        }
        gone
    }

    /// Drops what the ledger remembers of skipped files that are no longer there.
    pub(super) fn forget_skipped(&self, ledger: &mut Ledger) {
        let forgotten: Vec<String> =
            ledger.skipped().filter(|s| !self.found.contains(&s.path)).map(|s| s.path.clone()).collect();
        for path in forgotten {
            ledger.remove(&path);
        }
    }
}

impl Gone {
    /// Takes out a document with the same content as read by the same reader: its file was moved.
    pub(super) fn take_same(&mut self, ledger: &Ledger, hash: ContentHash, reader: &str) -> Option<LedgerEntry> {
        let paths = self.by_hash.get_mut(&hash)?;
        let is_same = |path: &&String| ledger.by_path(path).is_some_and(|entry| entry.document.reader == reader);
        let path = paths.iter().find(is_same)?.clone();
        paths.remove(&path);
        self.paths.remove(&path);
        ledger.by_path(&path).cloned()
    }

    /// The documents that were not moved.
    pub(super) fn rest(&self, ledger: &Ledger) -> Vec<Document> {
        self.paths.iter().filter_map(|path| Some((*ledger.by_path(path)?.document).clone())).collect()
    }
}
