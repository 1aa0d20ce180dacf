//! Which crate may depend on which, and which may be unsafe: the shape that ARCHITECTURE.md describes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The arrows: a crate, and the crates of ours that it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("raglan-core", &[]),
    ("raglan-kernels", &[]),
    ("raglan-onnx", &[]),
    ("raglan-segment-file", &[]),
    ("raglan-ingest", &["raglan-core"]),
    ("raglan-datasets", &["raglan-core"]),
    ("raglan-pipeline", &["raglan-core"]),
    ("raglan-store", &["raglan-core"]),
    ("raglan-sparse", &["raglan-core", "raglan-kernels", "raglan-segment-file"]),
    ("raglan-dense", &["raglan-core", "raglan-kernels", "raglan-segment-file"]),
    ("raglan-late", &["raglan-core", "raglan-kernels", "raglan-segment-file"]),
    ("raglan-ngram", &["raglan-core", "raglan-segment-file"]),
    ("raglan-graph", &["raglan-core", "raglan-kernels", "raglan-segment-file"]),
    ("raglan-kv", &["raglan-core", "raglan-kernels"]),
    ("raglan-model", &["raglan-core", "raglan-kernels", "raglan-kv"]),
    ("raglan-embed", &["raglan-core", "raglan-model", "raglan-onnx"]),
    ("raglan-generate", &["raglan-core", "raglan-kv", "raglan-model"]),
    ("raglan-multistep", &["raglan-core", "raglan-model"]),
    ("raglan-rerank", &["raglan-core", "raglan-kernels", "raglan-kv", "raglan-model", "raglan-onnx"]),
    ("raglan-augment", &["raglan-core", "raglan-kernels", "raglan-kv", "raglan-model"]),
    ("raglan-eval", &["raglan-core", "raglan-datasets"]),
    (
        "raglan",
        &[
            "raglan-augment",
            "raglan-core",
            "raglan-datasets",
            "raglan-dense",
            "raglan-embed",
            "raglan-eval",
            "raglan-generate",
            "raglan-graph",
            "raglan-ingest",
            "raglan-kernels",
            "raglan-kv",
            "raglan-late",
            "raglan-model",
            "raglan-multistep",
            "raglan-ngram",
            "raglan-onnx",
            "raglan-pipeline",
            "raglan-rerank",
            "raglan-sparse",
            "raglan-store",
        ],
    ),
    ("raglan-cli", &["raglan"]),
    ("raglan-bench", &["raglan"]),
    ("raglan-tests", &["raglan"]),
    ("raglan-examples", &["raglan"]),
];

/// How many crates the longest way from the command to the floor may pass, both ends counted.
const DEPTH: usize = 6;

/// The top-level folders, each the home of its noun.
const FOLDERS: [&str; 7] = ["crates", "datasets", "examples", "indexes", "kernels", "pipelines", "tests"];

/// The crates that may be unsafe: for SIMD and devices, and for memory maps.
const UNSAFE: [&str; 2] = ["raglan-kernels", "raglan-segment-file"];

/// The members as their manifests stand; nothing is resolved, so nothing is fetched.
fn metadata() -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo knows its workspace")
}

/// The crates of ours that the package depends on when it is built for use.
fn ours(package: &Package) -> BTreeSet<&str> {
    let is_ours = |name: &&str| *name == "raglan" || name.starts_with("raglan-");
    let normal = package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
    normal.map(|dependency| dependency.name.as_str()).filter(is_ours).collect()
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let metadata = metadata();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let members: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let listed: BTreeSet<&str> = arrows.keys().copied().collect();
    assert_eq!(members, listed, "the table of arrows lists the members of the workspace");
    for package in &metadata.packages {
        let allowed: BTreeSet<&str> = arrows[package.name.as_str()].iter().copied().collect();
        let found = ours(package);
        let wrong: Vec<_> = found.difference(&allowed).collect();
        assert!(wrong.is_empty(), "{} depends on {wrong:?}, against the arrows", package.name);
    }
}

#[test]
fn the_floor_is_at_most_six_crates_down() {
    fn depth<'a>(name: &'a str, graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, path: &mut Vec<&'a str>) -> usize {
        assert!(!path.contains(&name), "a circle of dependencies: {path:?} → {name}");
        path.push(name);
        let deepest = graph[name].iter().map(|below| depth(below, graph, path)).max().unwrap_or(0);
        path.pop();
        deepest + 1
    }

    let metadata = metadata();
    let graph: BTreeMap<&str, BTreeSet<&str>> =
        metadata.packages.iter().map(|package| (package.name.as_str(), ours(package))).collect();
    for name in graph.keys() {
        let depth = depth(name, &graph, &mut Vec::new());
        assert!(depth <= DEPTH, "{name} is {depth} crates above the floor");
    }
    assert!(depth("raglan-cli", &graph, &mut Vec::new()) >= 3, "the command stands on the façade and its parts");
}

#[test]
fn every_top_level_folder_holds_code() {
    let metadata = metadata();
    for folder in FOLDERS {
        let home = metadata.workspace_root.join(folder);
        let mut lines = 0;
        let targets = metadata.packages.iter().filter(|package| package.manifest_path.starts_with(&home));
        for target in targets.flat_map(|package| &package.targets) {
            let text = std::fs::read_to_string(&target.src_path).expect("a target has a source");
            let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
            lines += text.lines().filter(is_code).count();
        }
        assert!(lines >= 2, "`{folder}/` holds no code");
    }
}

#[test]
fn crates_forbid_unsafe_code_unless_they_are_listed() {
    for package in &metadata().packages {
        let may_be_unsafe = UNSAFE.contains(&package.name.as_str());
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            let text = std::fs::read_to_string(&target.src_path).expect("a target has a source");
            let forbids = text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]");
            assert!(forbids || may_be_unsafe, "`{}` lacks `#![forbid(unsafe_code)]`", target.src_path);
            assert!(!(forbids && may_be_unsafe), "`{}` need not be on the list", package.name);
        }
    }
}

#[test]
fn the_lock_file_is_tracked_and_no_build_output_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let listed = Command::new("git").arg("-C").arg(&root).args(["ls-files"]).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        println!("not run: this is no git checkout");
        return;
    };
    let files = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    assert!(files.lines().any(|file| file == "Cargo.lock"));
    assert!(!files.lines().any(|file| file.starts_with("target/") || file.ends_with(".orig")));
}
