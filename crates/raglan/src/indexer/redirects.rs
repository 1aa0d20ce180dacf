//! Names that lead to pages, kept with the pages that they lead to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use raglan_core::Document;
use raglan_datasets::pages::title_of_name;
use raglan_datasets::{PageName, Redirect};
use raglan_store::{Ledger, LedgerEntry};

/// The key of a document's metadata under which the titles stand that lead to it.
const REDIRECTS: &str = "redirects";

/// No title has a line's end.
const BETWEEN: char = '\n';

/// How many redirects are followed from one to the next; encyclopedias mean to have one.
const MOST_STEPS: usize = 16;

/// The titles that lead to a document, besides its own.
pub(crate) fn redirects_to(document: &Document) -> impl Iterator<Item = &str> {
    document.metadata.get(REDIRECTS).into_iter().flat_map(|titles| titles.split(BETWEEN))
}

/// The redirects of a dump.
#[derive(Debug, Default)]
pub(super) struct Redirects(HashMap<PageName, PageName>);

impl Redirects {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn insert(&mut self, redirect: Redirect) {
        self.0.insert(redirect.from, redirect.to);
    }

    /// Notes each redirect with the document that it leads to, by way of others if need be. Redirects that lead to no
    /// document or in a circle are left out, and so are those whose name a document has.
    pub fn note_in(&self, ledger: &mut Ledger) {
        let mut of_titles: HashMap<&str, &LedgerEntry> = HashMap::new();
        for entry in ledger.entries() {
            if let Some(title) = &entry.document.title {
                of_titles.entry(title).or_insert(entry);
            }
        }
        let find = |name: &PageName| match name {
            PageName::Id(id) => ledger.by_path(id),
            PageName::Title(title) => of_titles.get(title.as_str()).copied(),
        };
        let mut found: BTreeMap<&str, (&LedgerEntry, BTreeSet<String>)> = BTreeMap::new();
        for (from, first) in self.0.iter().filter(|(from, _)| find(from).is_none()) {
            let mut steps = std::iter::successors(Some(first), |name| self.0.get(name)).take(MOST_STEPS);
            let Some(entry) = steps.find_map(find) else { continue };
            let titles = || redirects_to(&entry.document).map(str::to_owned).collect();
            let (_, titles) = found.entry(&entry.document.path).or_insert_with(|| (entry, titles()));
            titles.insert(match from {
                PageName::Id(address) => title_of_name(address),
                PageName::Title(title) => title.clone(),
            });
        }
        let noted = found.into_values().map(|(entry, titles)| {
            let mut document = Document::clone(&entry.document);
            let titles = titles.into_iter().collect::<Vec<_>>().join(&BETWEEN.to_string());
            document.metadata.insert(REDIRECTS.to_owned(), titles);
            (document, entry.n_chunks)
        });
        for (document, n_chunks) in noted.collect::<Vec<_>>() {
            ledger.insert_document(document, n_chunks);
        }
    }
}

#[cfg(test)]
mod tests {
    use raglan_core::{ContentHash, DocId, Format};

    use super::*;

    /// Pages by id and title.
    fn ledger(pages: &[(&str, &str)]) -> Ledger {
        let mut ledger = Ledger::new();
        for (id, (path, title)) in (0..).zip(pages) {
            let document = Document {
                id: DocId(id),
                path: (*path).to_owned(),
                hash: ContentHash([id as u8; 32]),
                size: 1,
                mtime_ns: 0,
                format: Format::PlainText,
                reader: "page/1".to_owned(),
                encoding: None,
                title: Some((*title).to_owned()),
                metadata: BTreeMap::new(),
            };
            ledger.insert_document(document, 1);
        }
        ledger
    }

    fn note(ledger: &mut Ledger, redirects: &[(&str, &str)], name: fn(String) -> PageName) {
        let mut all = Redirects::default();
        for (from, to) in redirects {
            all.insert(Redirect { from: name((*from).to_owned()), to: name((*to).to_owned()) });
        }
        all.note_in(ledger);
    }

    #[track_caller]
    fn check(ledger: &Ledger, path: &str, titles: &[&str]) {
        assert_eq!(redirects_to(&ledger.by_path(path).unwrap().document).collect::<Vec<_>>(), titles);
    }

    #[test]
    fn titles_lead_through_others_to_a_page_and_never_in_circles() {
        let mut pages = ledger(&[("1", "Ada"), ("2", "1"), ("3", "Bob")]);
        let redirects = [
            ("Countess", "Ada"),
            ("Old", "Older"),
            ("Older", "Countess"),
            ("Lost", "Nothing"),
            ("Round", "About"),
            ("About", "Round"),
            ("Self", "Self"),
            ("One", "1"),   // A title, and not the page of that id.
            ("Bob", "Ada"), // There is a page of this name.
        ];
        note(&mut pages, &redirects, PageName::Title);
        check(&pages, "1", &["Countess", "Old", "Older"]);
        check(&pages, "2", &["One"]);
        check(&pages, "3", &[]);
        // What another run has is added, and once.
        note(&mut pages, &[("Lovelace", "Ada"), ("Old", "Ada")], PageName::Title);
        check(&pages, "1", &["Countess", "Lovelace", "Old", "Older"]);
    }

    #[test]
    fn addresses_stand_for_titles() {
        let mut pages = ledger(&[("Jane_Austen", "Jane Austen"), ("Aida", "Jane_Austen")]);
        note(&mut pages, &[("Miss_Austen", "Jane_Austen")], PageName::Id);
        check(&pages, "Jane_Austen", &["Miss Austen"]);
        check(&pages, "Aida", &[]);
    }

    #[test]
    fn a_long_chain_is_followed_for_some_steps() {
        let names: Vec<String> = (0..=MOST_STEPS + 1).map(|step| step.to_string()).collect();
        let mut pages = ledger(&[("page", "0")]);
        let chain: Vec<(&str, &str)> = names.windows(2).map(|pair| (&*pair[1], &*pair[0])).collect();
        note(&mut pages, &chain, PageName::Title);
        assert_eq!(redirects_to(&pages.by_path("page").unwrap().document).count(), MOST_STEPS);
    }
}
