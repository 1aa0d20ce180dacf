//! Search against plain loops over the stored tokens, stored tokens against what was written, and damaged files.

use std::path::{Path, PathBuf};

use raglan_core::{ChunkId, ChunkSet, Hit, Ranking, TokenMatrix, VectorIndex};
use raglan_segment_file::Error as FileError;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, LateConfig, LateIndex, LateSegmentWriter, TokenStorage, merge_late_segments, write_late_segment};

const STORAGES: [TokenStorage; 3] = [TokenStorage::F16, TokenStorage::FourBit, TokenStorage::TwoBit];

/// Topics that tokens are near to, `[n, dim]`.
fn topics(rng: &mut ChaCha8Rng, n: usize, dim: usize) -> Vec<f32> {
    (0..n * dim).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A text of `n` tokens, each near to one of a few topics of its own.
fn text(rng: &mut ChaCha8Rng, topics: &[f32], dim: usize, n: usize) -> TokenMatrix {
    let own: Vec<usize> = (0..4).map(|_| rng.random_range(0..topics.len() / dim)).collect();
    let mut rows = Vec::with_capacity(n * dim);
    for _ in 0..n {
        let topic = own[rng.random_range(0..own.len())] * dim;
        rows.extend((0..dim).map(|d| topics[topic + d] + rng.random_range(-0.7..0.7)));
    }
    raglan_kernels::l2_normalize(&mut rows, dim).unwrap();
    TokenMatrix::new(dim, rows).unwrap()
}

fn texts(seed: u64, n: usize, dim: usize) -> Vec<TokenMatrix> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let topics = topics(&mut rng, 40, dim);
    (0..n).map(|i| text(&mut rng, &topics, dim, [7, 30, 1, 12, 0, 25][i % 6])).collect()
}

fn ids(n: usize, first: u32, step: usize) -> Vec<ChunkId> {
    (first..).step_by(step).take(n).map(ChunkId).collect()
}

fn folder(root: &Path, name: &str) -> PathBuf {
    let folder = root.join(name);
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn max_sim(query: &TokenMatrix, text: &TokenMatrix) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let best = |q: &[f32]| text.rows().map(|token| dot(q, token)).fold(f64::NEG_INFINITY, f64::max);
    if text.n_tokens() == 0 { 0.0 } else { query.rows().map(best).sum() }
}

#[test]
fn search_equals_plain_loops_over_the_stored_tokens_with_deletes_and_filters() {
    for (seed, storage) in (0..6).zip(STORAGES.into_iter().cycle()) {
        let dim = [1, 5, 48][seed as usize % 3];
        let root = tempfile::tempdir().unwrap();
        let config = LateConfig { storage, n_candidates: 10_000, ..LateConfig::default() };
        let (mut folders, mut all) = (Vec::new(), Vec::new());
        for (i, n) in [90, 0, 33, 1].into_iter().enumerate() {
            folders.push(folder(root.path(), &i.to_string()));
            let ids = ids(n, i as u32, 4);
            write_late_segment(&folders[i], &ids, &texts(seed * 9 + i as u64, n, dim), &config).unwrap();
            all.extend(ids);
        }
        all.sort_unstable();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut some = |share| -> ChunkSet { all.iter().copied().filter(|_| rng.random_bool(share)).collect() };
        let (deleted, filters) = (some([0.0, 0.3][seed as usize % 2]), [some(0.5), some(0.02), ChunkSet::new()]);
        let index = LateIndex::open(&folders, &deleted, &config).unwrap();
        let live: Vec<ChunkId> = all.iter().copied().filter(|id| !deleted.contains(*id)).collect();
        assert_eq!((index.len(), index.n_segments()), (live.len(), 4));
        let queries = texts(seed + 100, 6, dim);
        let allowed: Vec<Option<&ChunkSet>> =
            (0..6).map(|q| if q % 2 == 0 { None } else { Some(&filters[q / 2]) }).collect();
        for k in [0, 1, 10, 500] {
            let found = index.search(&queries, k, &allowed).unwrap();
            for (q, found) in found.iter().enumerate() {
                let among: Vec<ChunkId> =
                    live.iter().copied().filter(|id| allowed[q].is_none_or(|allowed| allowed.contains(*id))).collect();
                let scores = index.scores(&queries[q], &among).unwrap();
                for (id, score) in among.iter().zip(&scores) {
                    let want = max_sim(&queries[q], &index.tokens(*id).unwrap().unwrap());
                    assert!((f64::from(*score) - want).abs() <= 1e-4, "{storage:?}: {score} is not {want}");
                }
                let hits = among.iter().zip(scores).map(|(id, score)| Hit::new(*id, score));
                assert_eq!(*found, Ranking::best(hits.collect(), k).unwrap(), "seed {seed}, query {q}, k {k}");
            }
        }
        let gone = all.iter().find(|id| deleted.contains(**id));
        for id in gone.into_iter().chain(&[ChunkId(4_000_000)]) {
            assert!(matches!(index.scores(&queries[0], &[*id]), Err(Error::Unknown { .. })));
            assert_eq!(index.tokens(*id).unwrap(), None);
        }
    }
}

#[test]
fn candidates_by_centroids_hold_the_best() {
    let (n, dim) = (2400, 32);
    let root = tempfile::tempdir().unwrap();
    let config = LateConfig { n_candidates: 120, ..LateConfig::default() };
    let texts = texts(7, n + 40, dim);
    let (texts, queries) = texts.split_at(n);
    write_late_segment(root.path(), &ids(n, 3, 2), texts, &config).unwrap();
    let open = |config: &LateConfig| LateIndex::open(&[root.path().into()], &ChunkSet::new(), config).unwrap();
    let (staged, exact) = (open(&config), open(&LateConfig { n_candidates: 8 * n, ..config.clone() }));
    let allowed = vec![None; queries.len()];
    let (found, want) = (staged.search(queries, 10, &allowed).unwrap(), exact.search(queries, 10, &allowed).unwrap());
    let (mut hits, mut all) = (0, 0);
    for ((found, want), _) in found.iter().zip(&want).zip(queries).filter(|(_, query)| query.n_tokens() > 0) {
        assert_eq!(found.len(), 10);
        all += want.len();
        hits += want.ids().iter().filter(|id| found.ids().contains(id)).count();
    }
    assert!(hits as f64 >= 0.97 * all as f64, "{hits} of {all}");
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| staged.search(queries, 10, &allowed)).unwrap(), found, "{threads} threads");
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn stored_tokens_are_near_to_those_written() {
    let dim = 40;
    let texts = texts(11, 300, dim);
    for (storage, least) in STORAGES.into_iter().zip([0.999_5, 0.97, 0.85]) {
        let root = tempfile::tempdir().unwrap();
        let config = LateConfig { storage, ..LateConfig::default() };
        write_late_segment(root.path(), &ids(300, 0, 1), &texts, &config).unwrap();
        let deleted: ChunkSet = ids(10, 0, 7).into_iter().collect();
        let index = LateIndex::open(&[root.path().into()], &deleted, &config).unwrap();
        assert_eq!(index.n_tokens(), texts.iter().map(TokenMatrix::n_tokens).sum::<usize>());
        let read: Vec<(ChunkId, TokenMatrix)> = index.segment_tokens(0).map(Result::unwrap).collect();
        assert_eq!(read.len(), 290);
        for (id, stored) in &read {
            let written = &texts[id.0 as usize];
            assert_eq!(stored.n_tokens(), written.n_tokens());
            for (a, b) in stored.rows().zip(written.rows()) {
                assert!(cosine(a, b) >= least, "{storage:?}: {}", cosine(a, b));
                let product: f32 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                assert!((product - 1.0).abs() <= 2e-3, "{storage:?}: {product}");
            }
        }
        let largest = std::fs::metadata(root.path().join("tokens.bin")).unwrap().len();
        assert_eq!(largest, 64 + (index.n_tokens() * storage.token_bytes(dim)) as u64);
        assert!(!root.path().join("tokens.spill").exists());
    }
}

/// Texts handed over in pieces, with some taken back, beside other segments.
fn write_in_pieces(folder: &Path, ids: &[ChunkId], texts: &[TokenMatrix], config: &LateConfig, others: &[PathBuf]) {
    let mut writer = LateSegmentWriter::create(folder, config).unwrap();
    for piece in texts.chunks(7) {
        let before = writer.n_texts();
        writer.add(piece).unwrap();
        writer.truncate(before + 1).unwrap();
        writer.add(&piece[1..]).unwrap();
    }
    assert_eq!(writer.n_texts(), texts.len());
    writer.finish(ids, others).unwrap();
}

#[test]
fn texts_may_come_in_pieces_and_be_taken_back() {
    let root = tempfile::tempdir().unwrap();
    let texts = texts(19, 200, 16);
    let (whole, pieces) = (folder(root.path(), "whole"), folder(root.path(), "pieces"));
    let config = LateConfig::default();
    write_late_segment(&whole, &ids(200, 0, 1), &texts, &config).unwrap();
    write_in_pieces(&pieces, &ids(200, 0, 1), &texts, &config, &[]);
    for name in ["late.bin", "tokens.bin"] {
        assert!(std::fs::read(whole.join(name)).unwrap() == std::fs::read(pieces.join(name)).unwrap(), "{name}");
    }
}

/// What waits is on the disk but for what a buffer holds, so that memory does not grow with it; how much of it is learned
/// from is bounded too (see the tests of `centroids`).
#[test]
fn vectors_wait_on_the_disk() {
    const BUFFER: u64 = 1 << 20;
    let root = tempfile::tempdir().unwrap();
    let texts = texts(37, 120, 64);
    let mut writer = LateSegmentWriter::create(root.path(), &LateConfig::default()).unwrap();
    for _ in 0..20 {
        writer.add(&texts).unwrap();
    }
    let on_disk = std::fs::metadata(root.path().join("tokens.spill")).unwrap().len();
    assert!(writer.n_bytes() > 3 * BUFFER, "{} bytes are enough to see it", writer.n_bytes());
    assert!(on_disk <= writer.n_bytes() && on_disk + BUFFER >= writer.n_bytes(), "{on_disk} of {}", writer.n_bytes());
}

/// The first segment's centroids serve the second, so a merge copies bytes; a third, of other texts, is coded anew; and
/// what is merged is found as before.
#[test]
fn merging_copies_what_has_the_same_codebook() {
    let dim = 24;
    for storage in STORAGES {
        let root = tempfile::tempdir().unwrap();
        let config = LateConfig { storage, n_candidates: 10_000, ..LateConfig::default() };
        let all = texts(23, 900, dim);
        let [first, second, other, merged, again] = ["0", "1", "2", "3", "4"].map(|name| folder(root.path(), name));
        write_late_segment(&first, &ids(600, 0, 2), &all[..600], &config).unwrap();
        write_in_pieces(&second, &ids(250, 1, 2), &all[600..850], &config, std::slice::from_ref(&first));
        write_late_segment(&other, &ids(50, 2000, 1), &all[850..], &config).unwrap();
        let folders = [first, second, other];
        let before = LateIndex::open(&folders, &ChunkSet::new(), &config).unwrap();
        let deleted: ChunkSet = ids(40, 0, 11).into_iter().collect();
        merge_late_segments(&merged, &folders, &deleted, &config).unwrap();
        let after = LateIndex::open(std::slice::from_ref(&merged), &ChunkSet::new(), &config).unwrap();
        let n_deleted = before.len() - after.len();
        assert!(n_deleted > 0 && n_deleted <= 40);
        for (id, tokens) in after.segment_tokens(0).map(Result::unwrap) {
            let stored = before.tokens(id).unwrap().unwrap();
            if id.0 < 2000 {
                assert_eq!(tokens, stored, "{storage:?}: the bytes of chunk {} are copied", id.0);
            }
            assert!(tokens.rows().zip(stored.rows()).all(|(a, b)| cosine(a, b) >= 0.85), "{storage:?}");
        }
        assert!(after.segment_tokens(0).all(|chunk| !deleted.contains(chunk.unwrap().0)));
        // By itself, a segment is copied byte for byte.
        merge_late_segments(&again, std::slice::from_ref(&merged), &ChunkSet::new(), &config).unwrap();
        for name in ["late.bin", "tokens.bin"] {
            assert!(std::fs::read(merged.join(name)).unwrap() == std::fs::read(again.join(name)).unwrap(), "{name}");
        }
        let twice = merge_late_segments(&folder(root.path(), "5"), &[merged, again], &ChunkSet::new(), &config);
        assert!(matches!(twice, Err(Error::Vectors { .. })));
    }
}

/// A segment that has sixteen times the tokens gets a codebook of its own, and so does one of other texts.
#[test]
fn a_codebook_is_left_when_it_is_outgrown_or_does_not_fit() {
    let dim = 16;
    let root = tempfile::tempdir().unwrap();
    let config = LateConfig::default();
    let [small, large, foreign] = ["0", "1", "2"].map(|name| folder(root.path(), name));
    let all = texts(29, 2_000, dim);
    write_late_segment(&small, &ids(20, 0, 1), &all[..20], &config).unwrap();
    let codebook = |folder: &Path| {
        let segment = crate::segment::Segment::open(folder, &ChunkSet::new()).unwrap();
        (segment.codebook().key, segment.codebook().n_centroids())
    };
    write_in_pieces(&large, &ids(2_000, 0, 1), &all, &config, std::slice::from_ref(&small));
    assert_ne!(codebook(&small).0, codebook(&large).0);
    assert!(codebook(&large).1 > 4 * codebook(&small).1);
    write_in_pieces(&foreign, &ids(2_000, 0, 1), &texts(31, 2_000, dim), &config, std::slice::from_ref(&large));
    assert_ne!(codebook(&foreign).0, codebook(&large).0);
    let (merged, alone) = (folder(root.path(), "3"), folder(root.path(), "4"));
    merge_late_segments(&merged, &[small], &ChunkSet::new(), &config).unwrap();
    write_in_pieces(&alone, &ids(2_000, 0, 1), &all, &config, &[merged, large.clone()]);
    assert_eq!(codebook(&alone).0, codebook(&large).0);
}

#[test]
fn a_segment_has_the_same_bytes_on_any_number_of_threads() {
    let texts = texts(13, 400, 24);
    let write = |threads, config: &LateConfig| {
        let root = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write_late_segment(root.path(), &ids(400, 0, 1), &texts, config)).unwrap();
        ["late.bin", "tokens.bin"].map(|name| std::fs::read(root.path().join(name)).unwrap())
    };
    let pooled = LateConfig { pool_factor: 2, storage: TokenStorage::TwoBit, ..LateConfig::default() };
    for config in [LateConfig::default(), pooled] {
        let one = write(1, &config);
        assert!(one == write(2, &config) && one == write(4, &config));
        assert!(one != write(1, &LateConfig { seed: 1, ..config }));
    }
}

#[test]
fn collections_may_be_as_small_as_they_like() {
    let config = LateConfig::default();
    let none = LateIndex::open(&[], &ChunkSet::new(), &config).unwrap();
    let query = TokenMatrix::new(2, vec![0.6, 0.8]).unwrap();
    assert!(none.is_empty() && none.search(std::slice::from_ref(&query), 5, &[None]).unwrap()[0].is_empty());
    let root = tempfile::tempdir().unwrap();
    let texts = [TokenMatrix::new(2, vec![]).unwrap(), query.clone()];
    write_late_segment(root.path(), &ids(2, 8, 1), &texts, &config).unwrap();
    let index = LateIndex::open(&[root.path().into()], &ChunkSet::new(), &config).unwrap();
    let found = index.search(&[query.clone(), texts[0].clone()], 5, &[None, None]).unwrap();
    assert_eq!(found[0].ids(), [ChunkId(9), ChunkId(8)]);
    assert!((found[0].hits()[0].score - 1.0).abs() <= 1e-3 && found[0].hits()[1].score == 0.0);
    assert_eq!(found[1].ids(), [ChunkId(8), ChunkId(9)]); // No vector asks for anything.
    let other = TokenMatrix::new(3, vec![1.0, 0.0, 0.0]).unwrap();
    assert!(matches!(index.scores(&other, &[]), Err(Error::Dimension { .. })));
}

#[test]
fn vectors_that_cannot_be_held_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let matrix = |dim, rows| TokenMatrix::new(dim, rows).unwrap();
    let write = |ids: &[u32], texts: &[TokenMatrix], config: &LateConfig| {
        let ids: Vec<ChunkId> = ids.iter().copied().map(ChunkId).collect();
        write_late_segment(root.path(), &ids, texts, config)
    };
    let (one, config) = (matrix(1, vec![1.0]), LateConfig::default());
    assert!(matches!(write(&[1], &[], &config), Err(Error::Vectors { .. })));
    assert!(matches!(write(&[1, 1], &[one.clone(), one.clone()], &config), Err(Error::Vectors { .. })));
    assert!(matches!(write(&[1], &[matrix(1, vec![1.1])], &config), Err(Error::Vectors { .. })));
    assert!(matches!(write(&[1, 2], &[one.clone(), matrix(2, vec![])], &config), Err(Error::Dimension { .. })));
    let none = LateConfig { pool_factor: 0, ..config };
    assert!(matches!(write(&[1], &[one], &none), Err(Error::Config { .. })));
}

/// A damaged segment is refused when it is opened or read, and nothing panics.
#[test]
fn damaged_files_are_typed_errors() {
    let root = tempfile::tempdir().unwrap();
    let (sound, broken) = (folder(root.path(), "sound"), folder(root.path(), "broken"));
    let config = LateConfig::default();
    write_late_segment(&sound, &ids(30, 0, 1), &texts(17, 30, 8), &config).unwrap();
    let files = ["late.bin", "tokens.bin"].map(|name| (name, std::fs::read(sound.join(name)).unwrap()));
    let use_all = || {
        let index = LateIndex::open(std::slice::from_ref(&broken), &ChunkSet::new(), &config)?;
        index.segment_tokens(0).collect::<Result<Vec<_>, Error>>()
    };
    for (changed, bytes) in &files {
        for (name, bytes) in &files {
            std::fs::write(broken.join(name), bytes).unwrap();
        }
        use_all().unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(broken.join(changed), bytes).unwrap();
            match use_all() {
                Err(Error::File(FileError::Damaged { path, .. } | FileError::Version { path, .. })) => {
                    assert!(path.ends_with(changed));
                }
                other => panic!("{changed}: {other:?}"),
            }
        };
        for len in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            refused(&bytes[..len]);
        }
        for at in (0..bytes.len()).step_by(31).filter(|&at| *changed == "late.bin" || !(12..64).contains(&at)) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            refused(&bytes);
        }
        refused(&[bytes.as_slice(), &[0]].concat());
        std::fs::remove_file(broken.join(changed)).unwrap();
        assert!(matches!(use_all(), Err(Error::File(FileError::Io { .. }))));
    }
}
