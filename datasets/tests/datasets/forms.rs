//! One collection in the forms in which files travel, and the published ones in full.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use raglan_datasets::{Error, Run, beir};
use tempfile::TempDir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/beir")
}

/// Copies the fixture with its corpus as `form` makes it, under another ending.
fn copy(ending: &str, form: impl Fn(&[u8]) -> Vec<u8>) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("qrels")).unwrap();
    for file in ["queries.jsonl", "qrels/test.tsv"] {
        fs::copy(fixture().join(file), folder.path().join(file)).unwrap();
    }
    let corpus = fs::read(fixture().join("corpus.jsonl")).unwrap();
    fs::write(folder.path().join(format!("corpus.jsonl{ending}")), form(&corpus)).unwrap();
    folder
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// `cat a.gz b.gz` is one text, and so with zstd; a reader that stops after the first part loses documents silently.
#[test]
fn archives_of_several_parts_read_whole() {
    let plain = beir::read(&fixture(), "test").unwrap();
    let parts = |pack: fn(&[u8]) -> Vec<u8>| move |bytes: &[u8]| [pack(&bytes[..100]), pack(&bytes[100..])].concat();
    for folder in [copy(".gz", parts(gzip)), copy(".zst", parts(zstd))] {
        assert_eq!(beir::read(folder.path(), "test").unwrap(), plain);
    }
}

#[test]
fn half_an_archive_is_an_error() {
    let half = |pack: fn(&[u8]) -> Vec<u8>| move |bytes: &[u8]| pack(bytes)[..pack(bytes).len() / 2].to_vec();
    for folder in [copy(".gz", half(gzip)), copy(".zst", half(zstd))] {
        let error = beir::read(folder.path(), "test").unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(folder.path())), "{error}");
    }
}

#[test]
fn windows_lines_and_a_byte_order_mark_change_nothing() {
    let plain = beir::read(&fixture(), "test").unwrap();
    let windows = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).unwrap();
        format!("\u{feff}{}\r\n", text.replace('\n', "\r\n")).into_bytes()
    };
    assert_eq!(beir::read(copy("", windows).path(), "test").unwrap(), plain);
}

#[test]
#[should_panic(expected = "NaN")]
fn a_score_that_is_no_number_has_no_rank() {
    Run::default().insert("q", "a", f32::NAN);
}

#[test]
fn published_collections_have_the_counts_that_their_makers_state() {
    let Some(data) = std::env::var_os("RAGLAN_DATA").map(PathBuf::from) else {
        eprintln!("did not run: RAGLAN_DATA does not name the folder of evaluation data");
        return;
    };
    for (name, n_documents, n_queries, n_judged) in [
        ("beir/scifact", 5183, 1109, 300),
        ("classic/cranfield", 1400, 225, 225),
        ("classic/cisi", 1460, 112, 76),
        ("other/limit-small", 46, 1000, 1000),
    ] {
        let collection = beir::read(&data.join(name), "test").unwrap();
        let found = (collection.documents.len(), collection.queries.len(), collection.qrels.n_queries());
        assert_eq!(found, (n_documents, n_queries, n_judged), "{name}");
    }
    for (name, n_judged, n_grades) in
        [("trec-covid", 50, 66_334), ("trec-dl-2019-passage", 43, 9260), ("quora", 10_000, 15_675)]
    {
        let qrels = beir::read_qrels(&data.join("beir-topics-qrels").join(name), "test").unwrap();
        let found = (qrels.n_queries(), qrels.iter().map(|(_, grades)| grades.len()).sum::<usize>());
        assert_eq!(found, (n_judged, n_grades), "{name}");
    }
}
