//! Walking folders: what is found, under which name, and what is not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use raglan_ingest::{WalkOptions, walk};
use tempfile::TempDir;

/// A folder of these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// Names of the files found, and names and reasons of those skipped.
#[track_caller]
fn check(root: &Path, options: &WalkOptions, files: &[&str], skipped: &[(&str, &str)]) {
    let found = walk(root, options).unwrap();
    assert_eq!(found.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), files);
    let reasons: Vec<_> = found.skipped.iter().map(|file| (file.name.clone(), file.reason.to_string())).collect();
    let reasons: Vec<_> = reasons.iter().map(|(name, reason)| (name.as_str(), reason.as_str())).collect();
    assert_eq!(reasons, skipped);
    for file in &found.files {
        assert_eq!(file.size, fs::metadata(&file.path).unwrap().len());
    }
}

#[test]
fn ignored_hidden_and_index_files_are_not_found() {
    let folder = folder(&[
        (".gitignore", "*.log\n/build\n"),
        ("a.md", ""),
        ("b.log", ""),
        ("build/c.md", ""),
        ("sub/.ignore", "d.md\n"),
        ("sub/d.md", ""),
        ("sub/e.md", ""),
        (".hidden/f.md", ""),
        (".raglan/g.md", ""),
    ]);
    check(folder.path(), &WalkOptions::default(), &["a.md", "sub/e.md"], &[]);
    let all = WalkOptions { respect_ignore_files: false, ..WalkOptions::default() };
    check(folder.path(), &all, &["a.md", "b.log", "build/c.md", "sub/d.md", "sub/e.md"], &[]);
    let hidden = WalkOptions { hidden: true, ..WalkOptions::default() };
    check(folder.path(), &hidden, &[".gitignore", ".hidden/f.md", "a.md", "sub/.ignore", "sub/e.md"], &[]);
}

#[test]
fn patterns_include_and_exclude() {
    let folder = folder(&[("a.md", ""), ("b.txt", ""), ("x/c.md", ""), ("x/y/d.md", "")]);
    let patterns = |include: &[&str], exclude: &[&str]| WalkOptions {
        include: include.iter().map(ToString::to_string).collect(),
        exclude: exclude.iter().map(ToString::to_string).collect(),
        ..WalkOptions::default()
    };
    check(folder.path(), &patterns(&["*.md"], &[]), &["a.md", "x/c.md", "x/y/d.md"], &[]);
    check(folder.path(), &patterns(&["*.md"], &["x/y"]), &["a.md", "x/c.md"], &[]);
    check(folder.path(), &patterns(&["x/"], &[]), &["x/c.md", "x/y/d.md"], &[]);
    check(folder.path(), &patterns(&[], &["/*.md"]), &["b.txt", "x/c.md", "x/y/d.md"], &[]);
    assert!(walk(folder.path(), &patterns(&["[z-a]"], &[])).is_err());
    let elsewhere = WalkOptions { exclude_paths: vec![folder.path().join("x")], ..WalkOptions::default() };
    check(folder.path(), &elsewhere, &["a.md", "b.txt"], &[]);
}

#[test]
fn links_are_followed_inside_only_and_once() {
    let outside = folder(&[("secret.md", "")]);
    let folder = folder(&[("a.md", ""), ("sub/b.md", ""), (".store/c.md", "")]);
    let root = folder.path();
    symlink(root, root.join("sub/loop")).unwrap();
    symlink("self", root.join("self")).unwrap();
    symlink("a.md", root.join("alias.md")).unwrap();
    symlink(outside.path().join("secret.md"), root.join("file-out")).unwrap();
    symlink(outside.path(), root.join("folder-out")).unwrap();
    symlink("nowhere", root.join("broken")).unwrap();
    symlink(".store", root.join("current")).unwrap();
    symlink(".store", root.join("later")).unwrap();
    check(
        root,
        &WalkOptions::default(),
        &["a.md", "current/c.md", "sub/b.md"],
        &[
            ("alias.md", "link to what is read anyway"),
            ("broken", "broken link"),
            ("file-out", "link out of the folder"),
            ("folder-out", "link out of the folder"),
            ("later", "link to what is read anyway"),
            ("self", "broken link"),
            ("sub/loop", "link to what is read anyway"),
        ],
    );
}

#[test]
fn sockets_and_fifos_are_reported() {
    let folder = folder(&[("a.md", "")]);
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("fifo"), fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let skipped = [("fifo", "not a file but a FIFO"), ("socket", "not a file but a socket")];
    check(folder.path(), &WalkOptions::default(), &["a.md"], &skipped);
}

#[test]
fn a_file_is_its_own_folder_and_nothing_is_an_error() {
    let folder = folder(&[("a.md", "")]);
    check(&folder.path().join("a.md"), &WalkOptions::default(), &["a.md"], &[]);
    let error = walk(&folder.path().join("none"), &WalkOptions::default()).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}
