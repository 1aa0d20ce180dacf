use std::time::Instant;

use raglan_core::{Chunk, ChunkId, ChunkSet, ChunkStore, DocId, Locator};
use raglan_store::{Commit, Snapshot, Writer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fixture::*;

/// Random reads equal the chunks that were written; `RAGLAN_BENCH_CHUNKS=100000` also says what they cost.
#[test]
fn any_rows_of_a_large_table_read_back() {
    let n_chunks: u32 = std::env::var("RAGLAN_BENCH_CHUNKS").map_or(40_000, |n| n.parse().expect("a number"));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let words: Vec<String> = (0..4000).map(|_| format!("{:x}", rng.random_range(0..1_000_000u64))).collect();
    let chunk = |id: u32, rng: &mut ChaCha8Rng| {
        let n_words = rng.random_range(1..200);
        let text: Vec<&str> = (0..n_words).map(|_| words[rng.random_range(0..words.len())].as_str()).collect();
        let text = text.join(" ");
        Chunk {
            id: ChunkId(id * 3),
            doc: DocId(id / 100),
            span: 10..10 + text.len(),
            text,
            locator: Locator {
                page: Some(id % 7),
                headings: vec![format!("Section {}", id / 9)],
                ..Locator::default()
            },
            n_tokens: n_words,
        }
    };
    let written: Vec<Chunk> = (0..n_chunks).map(|id| chunk(id, &mut rng)).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open_or_create(folder.path(), passport()).unwrap();
    let mut ledger = writer.snapshot().ledger().unwrap().clone();
    for doc in 0..n_chunks.div_ceil(100) {
        ledger.insert_document(document(DocId(doc), &format!("f{doc}"), ""), (n_chunks - doc * 100).min(100));
    }
    let began = Instant::now();
    let mut draft = writer.new_segment().unwrap();
    draft.write_chunks(&written).unwrap();
    let commit = Commit { add: vec![draft], drop: vec![], delete: ChunkSet::new(), ledger };
    let usage = writer.commit(commit).unwrap().disk_usage();
    let text_bytes: usize = written.iter().map(|chunk| chunk.text.len()).sum();
    println!("{n_chunks} chunks, {text_bytes} bytes of text, written in {:?}: {usage:?}", began.elapsed());

    let began = Instant::now();
    let snapshot = Snapshot::open(folder.path()).unwrap();
    println!("open: {:?}", began.elapsed());
    let mut costs = Vec::new();
    for n in [1, 10, 10, 10, 10, 10, 10, 10, 10, 10, 100, 100, 1000] {
        let rows: Vec<usize> = (0..n).map(|_| rng.random_range(0..written.len())).collect();
        let ids: Vec<ChunkId> = rows.iter().map(|&row| written[row].id).collect();
        let began = Instant::now();
        let read = snapshot.chunks(&ids).unwrap();
        costs.push((n, began.elapsed()));
        assert!(read.iter().zip(rows).all(|(read, row)| *read == written[row]));
    }
    println!("random reads, the first with the columns of ids: {costs:?}");
    let began = Instant::now();
    assert!(snapshot.segment_chunks(snapshot.segments()[0].id).unwrap() == written);
    println!("all: {:?}", began.elapsed());
    let began = Instant::now();
    assert_clean(&snapshot);
    println!("verify: {:?}", began.elapsed());
}
