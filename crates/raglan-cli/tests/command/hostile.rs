//! Whatever lies in a folder, every file is accounted for and the run comes to its end.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use zip::write::SimpleFileOptions;

fn raglan(folder: &Path, args: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_raglan"))
        .args(args)
        .args(["--json", "--quiet", "--offline"])
        .env("RAGLAN_EMBEDDER", "none")
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), value)
}

/// A DOCX whose only paragraph unpacks to `megabytes`.
fn bomb(path: &Path, megabytes: usize) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default();
    zip.start_file("[Content_Types].xml", options).unwrap();
    zip.write_all(b"<Types/>").unwrap();
    zip.start_file("word/document.xml", options).unwrap();
    zip.write_all(b"<w:document xmlns:w='w'><w:body><w:p><w:r><w:t>").unwrap();
    let block = vec![b'a'; 1 << 20];
    for _ in 0..megabytes {
        zip.write_all(&block).unwrap();
    }
    zip.write_all(b"</w:t></w:r></w:p></w:body></w:document>").unwrap();
    zip.finish().unwrap();
}

#[test]
fn a_hostile_folder_is_accounted_for() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let write = |name: &str, content: &[u8]| std::fs::write(folder.join(name), content).unwrap();
    write("plain.txt", b"A plain file about harbours.");
    write("new\nline.txt", b"A name with a line feed in it.");
    write("-rf *.txt", b"A name like a flag.");
    write("tr\u{e8}s \u{1f4da}.txt", "Un fichier fran\u{e7}ais.".as_bytes());
    std::fs::write(
        folder.join(std::ffi::OsStr::from_bytes(b"latin-\xe9.txt")),
        b"caf\xe9 au lait, d\xe9j\xe0 vu, na\xefve",
    )
    .unwrap();
    write(
        "utf16.txt",
        &"A wide file about lighthouses.".encode_utf16().flat_map(u16::to_le_bytes).fold(
            vec![0xff, 0xfe],
            |mut all, b| {
                all.push(b);
                all
            },
        ),
    );
    write("empty.txt", b"");
    write("blank.txt", b" \n\t\n ");
    write("noise.bin", &(0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>());
    write("lies.pdf", b"not a PDF at all, but a text about anchors");
    write("broken.pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\ntrailer << /Root 1 0 R");
    write("broken.docx", b"PK\x03\x04 and then nothing");
    write("deep.json", ["[".repeat(200_000), "]".repeat(200_000)].concat().as_bytes());
    write("deep.html", ["<div>".repeat(100_000), "deep down".to_owned()].concat().as_bytes());
    bomb(&folder.join("bomb.docx"), 1500);
    std::fs::File::create(folder.join("sparse.txt")).unwrap().set_len(8 << 30).unwrap();
    {
        let mut long = std::io::BufWriter::new(std::fs::File::create(folder.join("long.txt")).unwrap());
        for _ in 0..200 {
            long.write_all(&vec![b'x'; 1 << 20]).unwrap();
        }
    }
    std::fs::create_dir(folder.join("loop")).unwrap();
    std::os::unix::fs::symlink(folder, folder.join("loop/again")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("outside.txt")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("dangling.txt")).unwrap();
    let fifo = Command::new("mkfifo").arg(folder.join("pipe.txt")).status();
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket.txt")).unwrap();
    write("secret.txt", b"unreadable, unless the reader is root");
    std::fs::set_permissions(folder.join("secret.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();

    let (code, report) = raglan(folder, &["index", "."]);
    assert_eq!(code, 0, "{report}");
    let number = |key: &str| report[key].as_u64().unwrap();
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(number("found"), number("new") + skipped.len() as u64, "{report}");
    let is_skipped =
        |name: &str| skipped.iter().any(|s| s["path"] == name && !s["reason"].as_str().unwrap().is_empty());
    for name in [
        "empty.txt",
        "blank.txt",
        "noise.bin",
        "broken.pdf",
        "broken.docx",
        "bomb.docx",
        "sparse.txt",
        "long.txt",
        "outside.txt",
        "dangling.txt",
        "socket.txt",
    ] {
        assert!(is_skipped(name), "{name}: {report}");
    }
    assert!(fifo.is_err() || is_skipped("pipe.txt"), "{report}");

    let (_, found) = raglan(folder, &["search", "lighthouses"]);
    assert_eq!(found["results"][0]["path"], "utf16.txt");
    let (_, found) = raglan(folder, &["search", "na\u{ef}ve"]);
    assert_eq!(found["results"].as_array().unwrap().len(), 1, "{found}");
    let (code, report) = raglan(folder, &["verify"]);
    assert_eq!((code, &report["clean"]), (0, &Value::Bool(true)), "{report}");

    let (code, again) = raglan(folder, &["index", ".", "--strict"]);
    assert_eq!(code, 1, "skipped files fail a strict run");
    assert_eq!(again["unchanged"], number("new"));
    assert_eq!(again["skipped"], report_skipped(&raglan(folder, &["index", "."]).1));
}

fn report_skipped(report: &Value) -> Value {
    report["skipped"].clone()
}
