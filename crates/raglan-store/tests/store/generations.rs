use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use raglan_core::{ChunkId, ChunkSet, ChunkStore, DocId};
use raglan_store::{Commit, Error, ModelStamp, Passport, Snapshot, Writer, merge_plan};

use crate::fixture::*;

#[track_caller]
fn check_texts(snapshot: &Snapshot, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect();
    assert_eq!(texts(snapshot), expected);
    assert_clean(snapshot);
    let reopened = Snapshot::open(snapshot.folder()).unwrap();
    assert_eq!(contents(&reopened).unwrap(), contents(snapshot).unwrap());
    assert_eq!(snapshot.live_chunks().unwrap().len(), snapshot.n_chunks());
    assert_eq!(snapshot.chunk_docs().unwrap().len(), snapshot.n_chunks());
}

#[test]
fn files_are_added_changed_moved_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    check_texts(writer.snapshot(), &[]);
    let snapshot = index(&mut writer, &[("a", "one\ntwo\n"), ("b", "three\n")]).unwrap();
    check_texts(&snapshot, &[("a", "one\ntwo\n"), ("b", "three\n")]);

    let snapshot = index(&mut writer, &[("a", "two and a half\n"), ("c", "four\nfive\nsix\n")]).unwrap();
    check_texts(&snapshot, &[("a", "two and a half\n"), ("b", "three\n"), ("c", "four\nfive\nsix\n")]);
    assert_eq!(snapshot.deleted().len(), 2);
    assert!(matches!(snapshot.chunks(&[ChunkId(0)]), Err(raglan_core::Error::Unknown { what: "chunk", id: 0 })));

    let mut ledger = snapshot.ledger().unwrap().clone();
    let found: Vec<String> = ledger.by_hash(&content_hash("three\n")).map(str::to_owned).collect();
    assert_eq!(found, ["b"]);
    assert!(ledger.rename("b", "moved/b", 1));
    ledger.insert_skipped(skipped("scan.pdf"));
    let before = snapshot.chunks_of(DocId(1)).unwrap();
    let commit = Commit { add: vec![], drop: vec![], delete: ChunkSet::new(), ledger };
    let snapshot = writer.commit(commit).unwrap();
    check_texts(&snapshot, &[("a", "two and a half\n"), ("moved/b", "three\n"), ("c", "four\nfive\nsix\n")]);
    assert_eq!(snapshot.chunks_of(DocId(1)).unwrap(), before);
    assert_eq!(snapshot.document(DocId(1)).unwrap().path, "moved/b");
    assert_eq!(
        Snapshot::open(folder.path()).unwrap().ledger().unwrap().skipped_at("scan.pdf"),
        Some(&skipped("scan.pdf"))
    );

    let snapshot = remove(&mut writer, "c").unwrap();
    check_texts(&snapshot, &[("a", "two and a half\n"), ("moved/b", "three\n")]);
    let snapshot = remove(&mut writer, "a").unwrap();
    check_texts(&snapshot, &[("moved/b", "three\n")]);
    // The second segment has no chunk left and is gone without a merge.
    assert_eq!(snapshot.segments().len(), 1);
    assert_eq!(writer.next_chunk_id(), ChunkId(7));
}

#[test]
fn chunks_come_in_the_order_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    index(&mut writer, &[("a", "0\n1\n2\n3\n")]).unwrap();
    let snapshot = index(&mut writer, &[("b", "4\n5\n")]).unwrap();
    for ids in [&[5, 0, 3, 3, 4, 5][..], &[], &[2]] {
        let ids: Vec<ChunkId> = ids.iter().copied().map(ChunkId).collect();
        let texts: Vec<String> = snapshot.chunks(&ids).unwrap().into_iter().map(|chunk| chunk.text).collect();
        assert_eq!(texts, ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>());
    }
    assert!(snapshot.chunks(&[ChunkId(1), ChunkId(6)]).is_err());
}

#[test]
fn a_merge_keeps_ids_and_drops_what_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    for i in 0..9 {
        index(&mut writer, &[(&format!("f{i}"), &format!("first of {i}\nsecond of {i}\n")), ("again", "x\n")]).unwrap();
    }
    let before = writer.snapshot().clone();
    assert!(!before.deleted().is_empty());
    let plan = merge_plan(before.segments());
    assert_eq!(plan.len(), 1);
    let after = merge(&mut writer, &plan[0]).unwrap();
    assert_eq!((after.segments().len(), after.deleted().len()), (1, 0));
    assert_eq!((texts(&after), after.chunk_docs().unwrap()), (texts(&before), before.chunk_docs().unwrap()));
    assert_clean(&after);
    // The generation before still reads, and is still there for those who have it open.
    assert_eq!(before.segment_chunks(plan[0][0]).unwrap().len(), 3);
    assert!(before.segment_dir(plan[0][0], "bm25").unwrap().exists());
}

#[test]
fn equal_work_gives_equal_bytes() {
    let build = |folder: &Path| {
        let mut writer = Writer::open_or_create(folder, passport()).unwrap();
        index(&mut writer, &[("a", "one\ntwo\n"), ("b", &"a longer line of text\n".repeat(500))]).unwrap();
        index(&mut writer, &[("a", "two\n")]).unwrap();
        writer.snapshot().segments().to_vec()
    };
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    assert_eq!(build(folders[0].path()), build(folders[1].path()));
    let manifests = folders.each_ref().map(|folder| fs::read(folder.path().join("manifest.json")).unwrap());
    assert!(manifests[0] == manifests[1]);
}

#[test]
fn a_commit_that_contradicts_itself_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    index(&mut writer, &[("a", "one\ntwo\n")]).unwrap();
    let ledger = writer.snapshot().ledger().unwrap().clone();
    let before = fs::read(folder.path().join("manifest.json")).unwrap();
    let mut refuse = |first: u32, doc: u32, lines: &str, delete: &[u32], n_chunks: Option<u32>| {
        let mut ledger = ledger.clone();
        let add = vec![segment(&mut writer, &chunks(ChunkId(first), DocId(doc), lines)).unwrap()];
        if let Some(n_chunks) = n_chunks {
            ledger.insert_document(document(DocId(doc), "new", lines), n_chunks);
        }
        let delete = delete.iter().copied().map(ChunkId).collect();
        let refused = writer.commit(Commit { add, drop: vec![], delete, ledger });
        assert!(matches!(refused, Err(Error::Inconsistent { .. })), "{refused:?}");
    };
    refuse(1, 9, "x\n", &[], Some(1)); // The id is in use.
    refuse(2, 9, "x\n", &[], Some(2)); // The ledger counts too many.
    refuse(2, 9, "x\n", &[], None); // The ledger knows nothing of it.
    refuse(2, 9, "x\n", &[7], Some(1)); // What is deleted is not there.
    refuse(2, 9, "x\n", &[0], Some(1)); // The ledger still counts what is deleted.
    refuse(2, 9, "", &[], Some(0)); // A segment without chunks.
    let mut draft = writer.new_segment().unwrap();
    let mut long = chunks(ChunkId(2), DocId(9), "x\n");
    long[0].span.end += 1;
    assert!(matches!(draft.write_chunks(&long), Err(Error::Inconsistent { .. })));
    drop(draft);
    assert!(fs::read(folder.path().join("manifest.json")).unwrap() == before);
    assert_eq!(fs::read_dir(folder.path().join("segments")).unwrap().count(), 1);
    index(&mut writer, &[("new", "x\n")]).unwrap();
    check_texts(writer.snapshot(), &[("a", "one\ntwo\n"), ("new", "x\n")]);
}

#[test]
fn garbage_is_what_neither_of_two_generations_names() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    for i in 0..3 {
        index(&mut writer, &[(&format!("f{i}"), "line\n")]).unwrap();
    }
    let old = writer.snapshot().clone();
    let ids: Vec<_> = old.segments().iter().map(|segment| segment.id).collect();
    merge(&mut writer, &ids).unwrap();
    let draft = segment(&mut writer, &chunks(ChunkId(50), DocId(50), "being written\n")).unwrap();
    writer.gc().unwrap();
    assert_eq!(contents(&old).unwrap().chunks.len(), 3);
    assert_eq!(writer.gc().unwrap(), Default::default());

    index(&mut writer, &[("f3", "line\n")]).unwrap();
    assert!(writer.gc().unwrap().files_removed >= 3 * 5);
    assert!(draft.part_dir("bm25").unwrap().join("postings").exists());
    drop(draft);
    check_texts(writer.snapshot(), &[("f0", "line\n"), ("f1", "line\n"), ("f2", "line\n"), ("f3", "line\n")]);
    // What was open stays readable; what was not is said to be superseded.
    assert_eq!(old.segment_chunks(ids[0]).unwrap().len(), 1);
    let by_path = Snapshot::clone(&old).segment_dir(ids[1], "bm25");
    assert!(by_path.is_ok(), "checked before, and checked once a snapshot");

    let names: BTreeSet<String> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // The merge left the ledger as it was, and nothing was ever deleted: unchanged files are not written again.
    let expected =
        ["ledger-4.parquet", "ledger-6.parquet", "manifest.json", "segments", "tombstones-1.bin", "writer.lock"];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn a_part_that_newer_generations_removed_is_superseded() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    index(&mut writer, &[("a", "line\n")]).unwrap();
    let old = Snapshot::open(folder.path()).unwrap();
    index(&mut writer, &[("a", "changed\n")]).unwrap();
    index(&mut writer, &[("a", "changed again\n")]).unwrap();
    writer.gc().unwrap();
    let part = old.segment_dir(old.segments()[0].id, "bm25");
    assert!(matches!(part, Err(Error::Superseded { generation: 2, current: 4, .. })), "{part:?}");
    assert_eq!(texts(&old), [("a".to_owned(), "line\n".to_owned())].into());
}

#[test]
fn leftovers_of_a_dead_writer_are_removed_and_other_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    drop(Writer::open_or_create(folder.path(), passport()).unwrap());
    fs::create_dir_all(path("segments/00000004/bm25/deep")).unwrap();
    let leftovers = ["segments/00000004/bm25/deep/x", "ledger-7.parquet", "tombstones-7.bin", "manifest.json.tmp"];
    let others = ["notes.txt", "ledger-x.parquet", "ledger-07.parquet", "segments/readme"];
    for name in leftovers.iter().chain(&others) {
        fs::write(path(name), "bytes").unwrap();
    }
    drop(Writer::open_or_create(folder.path(), passport()).unwrap());
    assert!(leftovers.iter().all(|name| !path(name).exists()) && !path("segments/00000004").exists());
    assert!(others.iter().all(|name| path(name).exists()));
}

#[test]
fn no_index_is_made_among_other_files_or_found_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Snapshot::open(folder.path()), Err(Error::NotAnIndex { .. })));
    assert!(matches!(Snapshot::open(&folder.path().join("absent")), Err(Error::NotAnIndex { .. })));
    assert!(matches!(raglan_store::verify(folder.path()), Err(Error::NotAnIndex { .. })));
    fs::write(folder.path().join("thesis.docx"), "years of work").unwrap();
    let refused = Writer::open_or_create(folder.path(), passport()).err();
    assert!(matches!(&refused, Some(Error::NotEmpty { found, .. }) if found == "thesis.docx"), "{refused:?}");
    assert!(matches!(Writer::rebuild(folder.path(), passport()).err(), Some(Error::NotEmpty { .. })));
}

fn with_model(weights: &str) -> Passport {
    let embedder = ModelStamp {
        name: "minilm".into(),
        weights_sha256: weights.into(),
        tokenizer_sha256: "t".into(),
        pooling: "mean".into(),
        normalized: true,
        query_prefix: String::new(),
        passage_prefix: String::new(),
        max_tokens: 256,
        dim: 384,
        dtype: "f32".into(),
        parameters: Default::default(),
    };
    Passport { embedder: Some(embedder), ..passport() }
}

#[test]
fn another_model_is_refused_until_the_index_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), with_model("aa")).unwrap();
    index(&mut writer, &[("a", "old\n")]).unwrap();
    drop(writer);
    let refused = Writer::open_or_create(folder.path(), with_model("bb")).err();
    assert!(matches!(refused, Some(Error::PassportMismatch { .. })), "{refused:?}");

    let mut writer = Writer::rebuild(folder.path(), with_model("bb")).unwrap();
    assert_eq!((writer.snapshot().n_chunks(), writer.snapshot().ledger().unwrap().len()), (0, 0));
    let old = Snapshot::open(folder.path()).unwrap();
    check_texts(&old, &[("a", "old\n")]);
    let new = index(&mut writer, &[("a", "new\n")]).unwrap();
    assert_eq!(new.passport(), &with_model("bb"));
    check_texts(&new, &[("a", "new\n")]);
    assert_eq!(texts(&old), [("a".to_owned(), "old\n".to_owned())].into());
    assert!(new.segments()[0].id > old.segments()[0].id && new.generation() > old.generation());
    index(&mut writer, &[("b", "new\n")]).unwrap();
    writer.gc().unwrap();
    check_texts(writer.snapshot(), &[("a", "new\n"), ("b", "new\n")]);
    drop(writer);
    Writer::open_or_create(folder.path(), with_model("bb")).unwrap();
}

#[test]
fn an_index_without_chunks_is_bound_to_no_model() {
    let folder = tempfile::tempdir().unwrap();
    drop(Writer::open_or_create(folder.path(), with_model("aa")).unwrap());
    let mut writer = Writer::open_or_create(folder.path(), with_model("bb")).unwrap();
    assert!(writer.passport_is_new());
    index(&mut writer, &[("a", "text\n")]).unwrap();
    drop(writer);
    assert_eq!(Snapshot::open(folder.path()).unwrap().passport(), &with_model("bb"));
    let refused = Writer::open_or_create(folder.path(), with_model("aa")).err();
    assert!(matches!(refused, Some(Error::PassportMismatch { .. })), "{refused:?}");
}

#[test]
fn a_damaged_index_can_be_rebuilt_but_not_extended() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    index(&mut writer, &[("a", "old\n")]).unwrap();
    drop(writer);
    let manifest = folder.path().join("manifest.json");
    fs::write(&manifest, "raglan-index 1 gone\n").unwrap();
    assert!(matches!(Writer::open_or_create(folder.path(), passport()).err(), Some(Error::Damaged { .. })));
    assert!(folder.path().join("segments/00000000/chunks.parquet").exists());
    let mut writer = Writer::rebuild(folder.path(), passport()).unwrap();
    index(&mut writer, &[("b", "new\n")]).unwrap();
    assert_eq!(writer.gc().unwrap().files_removed, 5 + 3); // A segment; two ledgers and one set of tombstones.
    check_texts(writer.snapshot(), &[("b", "new\n")]);
}

#[test]
fn reader_versions_follow_the_last_writer() {
    let folder = tempfile::tempdir().unwrap();
    drop(Writer::open_or_create(folder.path(), passport()).unwrap());
    let newer = Passport { readers: [("text".to_owned(), "2".to_owned())].into(), ..passport() };
    let mut writer = Writer::open_or_create(folder.path(), newer.clone()).unwrap();
    assert_eq!(Snapshot::open(folder.path()).unwrap().passport(), &passport());
    index(&mut writer, &[("a", "x\n")]).unwrap();
    assert_eq!(Snapshot::open(folder.path()).unwrap().passport(), &newer);
}

#[test]
fn disk_usage_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    let snapshot = index(&mut writer, &[("a", "one\ntwo\n")]).unwrap();
    writer.gc().unwrap();
    let usage = snapshot.disk_usage();
    assert_eq!(usage["bm25"], 6); // "one" and "two".
    assert_eq!(usage["dense"], 12);
    let parts: Vec<&str> = usage.keys().map(String::as_str).collect();
    assert_eq!(parts, ["bm25", "chunks", "dense", "ledger", "manifest", "tombstones"]);
    let report = snapshot.verify();
    assert_eq!(report.bytes + usage["manifest"], usage.values().sum::<u64>());
    assert_eq!((report.files_checked, report.chunks_checked), (8, 2));
}
