//! Real documents in the formats a user would index: what they say must be in the text.
//!
//! They are in `docs-mix` of the folder that the environment variable `RAGLAN_DATA` names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use raglan_core::ParsedDocument;
use raglan_ingest::{Isolation, Limits, ReaderPool, SkipReason, WalkOptions, check, walk};

#[test]
fn real_documents_say_what_they_say() {
    let Some(data) = std::env::var_os("RAGLAN_DATA") else {
        eprintln!("not run: RAGLAN_DATA does not name the folder of test data");
        return;
    };
    let found = walk(&PathBuf::from(data).join("docs-mix"), &WalkOptions::default()).unwrap();
    let pool = ReaderPool::new(Limits::default(), Isolation::InProcess, 1);
    let read: BTreeMap<String, Result<ParsedDocument, SkipReason>> =
        found.files.iter().map(|file| (file.name.clone(), pool.read(file).outcome)).collect();
    assert_eq!((read.len(), found.skipped.len()), (20, 0));
    for (name, document) in read.iter().filter_map(|(name, outcome)| Some((name, outcome.as_ref().ok()?))) {
        assert_eq!(check(document), Ok(()), "{name}");
        assert!(!document.text.is_empty(), "{name}");
    }
    let scanned: Vec<_> = read.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    assert_eq!(scanned.len(), 1);
    assert_eq!(scanned[0].0, "non_text_searchable.pdf");
    assert!(scanned[0].1.as_ref().unwrap_err().to_string().contains("scanned PDF"));
    for (name, words) in [
        ("basic_tables_two_sheets.xlsx", "col_a: 1.5 | col_b: test"),
        ("multiple_tables.xlsx", "col_c: 3 | col_d: true"),
        ("react_paper.pdf", "While large language models (LLMs) have demonstrated impressive performance"),
        ("react_paper.pdf", "we introduce ReAct, a novel prompt-based paradigm"),
        ("sample_pdf_1.pdf", "made the PDF specification available free of"),
        ("sample_pdf_2.pdf", "Ward Cunningham, the developer of the first wiki software, WikiWikiWeb, originally"),
        ("sample_docx_3.docx", "Healthcare | Predictive diagnostics | Improved patient outcomes"),
        ("sample_docx.docx", "This | Is | Just a\n2020 | Random | Table"),
        ("sample_pptx.pptx", "Title of First Slide\n\nThis is a bullet point\nThis is another bullet point"),
        ("what_is_haystack.html", "- Semantic search on a large collection of documents in any language\n"),
        ("sample_1.csv", "Jane Smith,37"),
    ] {
        assert!(read[name].as_ref().unwrap().text.contains(words), "{name}: {words}");
    }
    let page_of = |name: &str, words: &str| {
        let document = read[name].as_ref().unwrap();
        document.locate(&[document.text.find(words).unwrap()])[0].page
    };
    assert_eq!(page_of("sample_pdf_1.pdf", "Page 4 of Sample PDF"), Some(4));
    assert_eq!(page_of("sample_docx.docx", "Now we are in Page 2"), Some(2));
}
