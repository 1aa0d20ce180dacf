//! The readers on small collections, and on what is wrong with larger ones.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use raglan_datasets::{Error, Qrels, Run, beir, chunking};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A folder with one file.
fn folder_with(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
    fs::write(&path, content).expect("a file");
    (folder, path)
}

#[track_caller]
fn is_malformed<T: std::fmt::Debug>(result: raglan_datasets::Result<T>, in_file: &str, at_line: usize, says: &str) {
    match result {
        Err(Error::Malformed { path, line, problem }) => {
            assert!(path.ends_with(in_file), "{}", path.display());
            assert_eq!(line, at_line);
            assert!(problem.contains(says), "{problem}");
        }
        other => panic!("expected `{says}` in line {at_line}, found {other:?}"),
    }
}

#[test]
fn a_beir_folder() {
    let collection = beir::read(&fixtures().join("beir"), "test").unwrap();
    let documents: Vec<_> =
        collection.documents.iter().map(|document| (document.id.as_str(), document.title.as_str())).collect();
    assert_eq!(documents, [("cache", "Caches"), ("evict", "Eviction"), ("3", ""), ("page", "")]);
    assert_eq!(collection.documents[2].text, "Der Schlüssel einer Seite ist ihre Nummer.");
    let queries: Vec<_> = collection.queries.iter().map(|query| query.id.as_str()).collect();
    assert_eq!(queries, ["q1", "q2", "q3"]);
    let grades: Vec<_> =
        collection.qrels.grades("q1").unwrap().iter().map(|(id, &grade)| (id.as_str(), grade)).collect();
    assert_eq!(grades, [("cache", 1), ("evict", 2), ("page", 0)]);
    assert_eq!(collection.qrels.n_queries(), 2);
    assert_eq!(collection.qrels.grades("q3"), None);
}

#[test]
fn compressed_files_read_as_plain_ones() {
    let plain = beir::read(&fixtures().join("beir"), "test").unwrap();
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("qrels")).unwrap();
    for (name, form) in [("corpus.jsonl", "gz"), ("queries.jsonl", "zst"), ("qrels/test.tsv", "gz")] {
        let bytes = fs::read(fixtures().join("beir").join(name)).unwrap();
        let to = fs::File::create(folder.path().join(format!("{name}.{form}"))).unwrap();
        if form == "gz" {
            let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
            encoder.write_all(&bytes).unwrap();
            encoder.finish().unwrap();
        } else {
            zstd::stream::copy_encode(&bytes[..], to, 0).unwrap();
        }
    }
    assert_eq!(beir::read(folder.path(), "test").unwrap(), plain);
}

#[test]
fn a_split_that_is_not_there_is_named() {
    let error = beir::read(&fixtures().join("beir"), "dev").unwrap_err();
    assert!(matches!(&error, Error::Missing { path, .. } if path.ends_with("qrels/dev.tsv")), "{error}");
    assert!(error.to_string().ends_with("; the splits there are: test"), "{error}");
}

#[test]
fn malformed_beir_lines_are_named() {
    let document = br#"{"_id": "a", "text": "one"}"#;
    let (folder, _) = folder_with("corpus.jsonl", &[&document[..], b"\n\n", document].concat());
    is_malformed(beir::read_documents(folder.path()), "corpus.jsonl", 3, "id `a` occurs twice");

    let (folder, _) = folder_with("queries.jsonl", b"{\"_id\": \"a\", \"text\": \"one\"}\n{\"_id\": \"b\"}\n");
    is_malformed(
        beir::read_queries(folder.path()),
        "queries.jsonl",
        2,
        r#"missing field `text`; a line is `{"_id", "text"}`"#,
    );

    let form = r#"a line is `{"_id", "title", "text"}`"#;
    for (line, problem) in [
        (r#"{"_id": "b", "text": ["c"]}"#, "column 21: invalid type: sequence, expected a string; "),
        (r#"{"_id": true, "text": "c"}"#, "an id is a text or a whole number; "),
        (r#"{"_id": "b", "text": "c"#, "EOF while parsing a string; "),
        (r#"["b", "", "c"]"#, "it is no object of JSON; "),
        ("b\tc", "it is no object of JSON; "),
    ] {
        let (folder, _) = folder_with("corpus.jsonl", &[&document[..], b"\n", line.as_bytes()].concat());
        is_malformed(beir::read_documents(folder.path()), "corpus.jsonl", 2, &format!("{problem}{form}"));
    }

    let (folder, _) = folder_with("corpus.jsonl", b"{\"_id\": \"a\", \"text\": \"\xff\"}\n");
    is_malformed(beir::read_documents(folder.path()), "corpus.jsonl", 1, "utf-8");

    let (folder, _) = folder_with("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq\td\n");
    is_malformed(beir::read_qrels(folder.path(), "test"), "test.tsv", 2, "expected 3 fields, found 2");

    let (folder, _) = folder_with("qrels/test.tsv", b"q\td\t1\nq\td\t1\nq\td\t2\n");
    is_malformed(beir::read_qrels(folder.path(), "test"), "test.tsv", 3, "grade 2 for query `q`, and 1 further up");
}

#[test]
fn a_damaged_archive_is_an_error() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(br#"{"_id": "a", "text": "one"}"#).unwrap();
    let mut bytes = encoder.finish().unwrap();
    bytes.truncate(bytes.len() - 6);
    let (folder, path) = folder_with("corpus.jsonl.gz", &bytes);
    let error = beir::read_documents(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error}");
}

#[test]
fn trec_judgements_and_beirs_agree() {
    let trec = Qrels::read_trec(&fixtures().join("trec/small.qrels")).unwrap();
    assert_eq!(trec, beir::read_qrels(&fixtures().join("beir"), "test").unwrap());
}

#[test]
fn judgements_read_back_as_written() {
    let qrels = Qrels::read_trec(&fixtures().join("trec/small.qrels")).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("copy.qrels");
    qrels.write_trec(&path).unwrap();
    assert_eq!(Qrels::read_trec(&path).unwrap(), qrels);
}

#[test]
fn a_run_goes_by_its_scores() {
    let run = Run::read_trec(&fixtures().join("trec/small.run")).unwrap();
    assert_eq!(run.queries().collect::<Vec<_>>(), ["q1", "q2"]);
    // Equal scores go by descending id; ranks and the order of lines mean nothing.
    assert!(run.ranking("q1").iter().eq([("evict", 10.0), ("page", 0.25), ("cache", 0.25)]));
    assert!(run.ranking("q9").is_empty());
}

#[test]
fn a_run_reads_back_as_written_to_the_last_bit() {
    let mut run = Run::default();
    for (i, score) in [0.1, 1.0 / 3.0, f32::MIN_POSITIVE, f32::MAX, -2.5e-7, -0.0, 16_777_217.0].into_iter().enumerate()
    {
        run.insert("q", &format!("d{i}"), score);
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.run");
    run.write_trec(&path, "test").unwrap();
    assert_eq!(Run::read_trec(&path).unwrap(), run);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("q Q0 d3 1 340282"), "{text}");
}

#[test]
fn malformed_trec_lines_are_named() {
    let (_folder, path) = folder_with("a.run", b"q Q0 d 1 0.5 tag\nq Q0 e 2 0.5\n");
    is_malformed(Run::read_trec(&path), "a.run", 2, "expected 6 fields, found 5");
    let (_folder, path) = folder_with("a.run", b"q Q0 d 1 nan tag\n");
    is_malformed(Run::read_trec(&path), "a.run", 1, "`nan` is not a number");
    let (_folder, path) = folder_with("a.run", b"q Q0 d 1 2 tag\nq Q0 d 2 1 tag\n");
    is_malformed(Run::read_trec(&path), "a.run", 2, "document `d` twice");
    let (_folder, path) = folder_with("a.qrels", b"q 0 d 1.5\n");
    is_malformed(Qrels::read_trec(&path), "a.qrels", 1, "`1.5` is not an integer");
}

#[test]
fn ids_that_trec_cannot_express_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.run");
    let mut run = Run::default();
    run.insert("q", "two words", 1.0);
    assert!(matches!(run.write_trec(&path, "tag"), Err(Error::Id { id, .. }) if id == "two words"));
    assert!(matches!(Run::default().write_trec(&path, ""), Err(Error::Id { .. })));
    assert!(!path.exists());
}

#[test]
fn references_are_bytes_of_the_document() {
    let collection = chunking::read(&fixtures().join("chunking")).unwrap();
    let text = &collection.corpora["ofen"];
    let quoted: Vec<Vec<&str>> = collection
        .questions
        .iter()
        .map(|question| question.references.iter().map(|span| &text[span.clone()]).collect())
        .collect();
    assert_eq!(quoted, [vec!["Größere Öfen wärmen mehr."], vec!["Holz ist billig.", "Strom kostet mehr."]]);
}

#[test]
fn references_that_miss_their_quote_are_named() {
    let (folder, _) = folder_with("corpora/a.txt", "äbc".as_bytes());
    let question = |corpus: &str, quote: &str, end: usize| {
        let line = format!(
            r#"{{"corpus_id": "{corpus}", "question": "?", "references": [{{"content": "{quote}", "start_index": 1, "end_index": {end}}}]}}"#
        );
        fs::write(folder.path().join("questions.jsonl"), line).unwrap();
        chunking::read(folder.path())
    };
    let found = question("a", "bc", 3).unwrap();
    assert!(found.questions[0].references.iter().eq([&(2..4)]));
    is_malformed(question("a", "äb", 3), "questions.jsonl", 1, "another text at 1..3");
    is_malformed(question("a", "bc", 4), "questions.jsonl", 1, "another text at 1..4");
    is_malformed(question("b", "bc", 3), "questions.jsonl", 1, "no document `b`");
}

/// The real collection, whose 790 references must all be where it says.
#[test]
fn the_published_references_are_where_they_say() {
    let Some(folder) = std::env::var_os("RAGLAN_DATA") else {
        eprintln!("did not run: RAGLAN_DATA does not name the folder of evaluation data");
        return;
    };
    let collection = chunking::read(&Path::new(&folder).join("chunking")).unwrap();
    assert_eq!((collection.corpora.len(), collection.questions.len()), (5, 472));
    assert_eq!(collection.questions.iter().map(|question| question.references.len()).sum::<usize>(), 790);
}
