//! Files that mean harm: each costs itself, and memory and time stay bounded.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use raglan_core::ParsedDocument;
use raglan_ingest::{FoundFile, Isolation, Limits, ReaderPool, SkipReason, WalkOptions, check, walk};

/// The worker of the other tests' pools: this test program, run with this one test.
#[test]
#[ignore = "a helper process, not a test"]
fn serves_as_worker() {
    if std::env::args().any(|arg| arg == "hostile::serves_as_worker") {
        raglan_ingest::worker_main();
    }
}

fn pool(limits: Limits) -> ReaderPool {
    let args = ["--ignored", "--exact", "--nocapture", "hostile::serves_as_worker"].map(str::to_owned).to_vec();
    ReaderPool::new(limits, Isolation::Worker { program: std::env::current_exe().unwrap(), args }, 2)
}

fn file(path: &Path) -> FoundFile {
    let size = fs::metadata(path).unwrap().len();
    FoundFile { path: path.to_owned(), name: path.file_name().unwrap().to_str().unwrap().to_owned(), size, mtime_ns: 0 }
}

fn read(pool: &ReaderPool, name: &str, content: &[u8]) -> Result<ParsedDocument, SkipReason> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    pool.read(&file(&path)).outcome
}

/// A Word document whose body, of `n` megabytes, packs to almost nothing.
fn zip_bomb(n: usize) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("word/document.xml", zip::write::SimpleFileOptions::default()).unwrap();
    let megabyte = vec![b'a'; 1 << 20];
    writer.write_all(b"<w:document><w:body><w:p><w:r><w:t>").unwrap();
    (0..n).for_each(|_| writer.write_all(&megabyte).unwrap());
    writer.finish().unwrap().into_inner()
}

#[test]
fn a_worker_reads_as_this_process_does() {
    let (apart, here) = (pool(Limits::default()), ReaderPool::new(Limits::default(), Isolation::InProcess, 1));
    for (name, content) in [
        ("a.html", &b"<!doctype html><title>T</title><h1>H</h1><p>caf\xE9"[..]),
        ("a.eml", b"From: a@b.c\nSubject: S\nDate: x\n\nbody\n"),
        ("a.md", b"# H\n\ntext\n"),
        ("a.pdf", b"%PDF-1.4 broken"),
    ] {
        assert_eq!(read(&apart, name, content), read(&here, name, content), "{name}");
    }
}

#[test]
fn a_zip_bomb_is_stopped_while_it_unpacks() {
    let limits = Limits { text_bytes: 4 << 20, ..Limits::default() };
    let reason = read(&pool(limits), "bomb.docx", &zip_bomb(40)).unwrap_err();
    assert_eq!(reason, SkipReason::TooLarge { what: "unpacked content".into(), limit: 32 << 20 });
    // What unpacks to less is still more text than allowed.
    let reason = read(&pool(limits), "bomb.docx", &zip_bomb(16)).unwrap_err();
    assert_eq!(reason, SkipReason::TooLarge { what: "extracted text".into(), limit: 4 << 20 });
}

#[test]
fn memory_and_time_cost_one_file_and_not_the_next() {
    let page = |n: usize| format!("<!doctype html>{}", "<p>a<b>b</b>".repeat(n)).into_bytes();
    let small = Limits { memory_bytes: 0, ..Limits::default() };
    let narrow = pool(small);
    let outcome = read(&narrow, "large.html", &page(3_000_000));
    assert_eq!(outcome, Err(SkipReason::OutOfMemory { limit: 0 }));
    assert!(read(&narrow, "small.html", &page(3)).is_ok());

    let hasty = pool(Limits { time: Duration::from_millis(50), ..Limits::default() });
    let started = Instant::now();
    let outcome = read(&hasty, "large.html", &page(3_000_000));
    assert!(matches!(outcome, Err(SkipReason::TimedOut { .. })), "{outcome:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_worker_that_is_none_is_a_reason() {
    let missing = Isolation::Worker { program: PathBuf::from("/nonexistent/worker"), args: vec![] };
    let reason = read(&ReaderPool::new(Limits::default(), missing, 1), "a.html", b"<html>").unwrap_err();
    assert!(reason.to_string().contains("/nonexistent/worker"), "{reason}");
    let mute = Isolation::Worker { program: PathBuf::from("/bin/true"), args: vec![] };
    let reason = read(&ReaderPool::new(Limits::default(), mute, 1), "a.html", b"<html>").unwrap_err();
    assert!(matches!(reason, SkipReason::Crashed { .. }), "{reason}");
}

#[test]
fn a_hostile_folder_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let put = |name: &[u8], content: &[u8]| fs::write(root.join(OsStr::from_bytes(name)), content).unwrap();
    put(b"caf\xE9.txt", b"caf\xE9");
    put(b"new\nline.md", b"# x");
    put(b"-rf", b"words");
    put(b"zeros.txt", &[0; 5000]);
    put(b"deep.json", "[".repeat(1 << 20).as_bytes());
    put(b"deep.html", format!("<!doctype html>{}x", "<div>".repeat(3000)).as_bytes());
    put(b"bomb.docx", &zip_bomb(600));
    put(b"cut.docx", &zip_bomb(1)[..700]);
    put(b"line.txt", &vec![b'x'; 70 << 20]);
    put(b"empty.pdf", b"");
    File::create(root.join("sparse.bin")).unwrap().set_len(1 << 40).unwrap();
    std::os::unix::fs::symlink(root, root.join("loop")).unwrap();

    let found = walk(root, &WalkOptions::default()).unwrap();
    assert_eq!(found.files.len() + found.skipped.len(), 12);
    let pool = pool(Limits::default());
    let outcomes: Vec<(String, String)> = found
        .files
        .iter()
        .map(|file| {
            let words = match pool.read(file).outcome {
                Ok(document) => {
                    assert_eq!(check(&document), Ok(()));
                    format!("{} {}", document.reader, document.encoding.unwrap_or_default())
                }
                Err(reason) => reason.kind().to_owned(),
            };
            (file.name.clone(), words)
        })
        .collect();
    let expected = [
        ("-rf", "text/1 UTF-8"),
        ("bomb.docx", "too_large"),
        ("caf\\xE9.txt", "text/1 windows-1252"),
        ("cut.docx", "malformed"),
        ("deep.html", "html/1 UTF-8"),
        ("deep.json", "json/1 UTF-8"),
        ("empty.pdf", "text/1 UTF-8"),
        ("line.txt", "too_large"),
        ("new\nline.md", "markdown/1 UTF-8"),
        ("sparse.bin", "too_large"),
        ("zeros.txt", "unknown_format"),
    ];
    let outcomes: Vec<_> = outcomes.iter().map(|(name, words)| (name.as_str(), words.as_str())).collect();
    assert_eq!(outcomes, expected);
}
