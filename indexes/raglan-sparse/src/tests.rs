//! The index against a plain scorer over the same terms.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raglan_core::{ChunkId, ChunkSet, Hit, Query, Ranking, Retriever};
use raglan_segment_file::Error as FileError;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use crate::{Analyzer, AnalyzerConfig, Bm25Index, Bm25Parameters, Bm25SegmentWriter, Error, StemLanguage};

fn write(folder: &Path, chunks: &[(u32, String)], threads: usize) {
    let mut writer = Bm25SegmentWriter::create(folder, &AnalyzerConfig::default(), threads).unwrap();
    for (id, text) in chunks {
        writer.add(ChunkId(*id), text).unwrap();
    }
    writer.finish().unwrap();
}

/// One folder for each of the segments.
fn index(segments: &[Vec<(u32, String)>], deleted: &ChunkSet, threads: usize) -> (TempDir, Bm25Index) {
    let root = tempfile::tempdir().unwrap();
    let mut folders = Vec::new();
    for (i, chunks) in segments.iter().enumerate() {
        let folder = root.path().join(i.to_string());
        std::fs::create_dir(&folder).unwrap();
        write(&folder, chunks, threads);
        folders.push(folder);
    }
    let index = Bm25Index::open(&folders, deleted, &AnalyzerConfig::default()).unwrap();
    (root, index)
}

fn set(ids: impl IntoIterator<Item = u32>) -> ChunkSet {
    ids.into_iter().map(ChunkId).collect()
}

/// The formula, by plain loops over the live chunks and in `f64`.
fn brute_force(chunks: &[(u32, String)], query: &Query, parameters: Bm25Parameters) -> Vec<(u32, f64)> {
    let analyzer = Analyzer::new(&AnalyzerConfig::default());
    let (k1, b) = (f64::from(parameters.k1()), f64::from(parameters.b()));
    let terms = |text: &str| analyzer.tokens(text).into_iter().map(|token| token.text).collect::<Vec<_>>();
    let docs: Vec<(u32, Vec<String>)> = chunks.iter().map(|(id, text)| (*id, terms(text))).collect();
    let n = docs.len() as f64;
    let avgdl = docs.iter().map(|(_, terms)| terms.len()).sum::<usize>() as f64 / n;
    let mut scores: HashMap<u32, f64> = HashMap::new();
    for term in terms(&query.text) {
        let df = docs.iter().filter(|(_, terms)| terms.contains(&term)).count() as f64;
        for (id, terms) in &docs {
            let tf = terms.iter().filter(|other| **other == term).count() as f64;
            if tf > 0.0 && query.allowed.as_ref().is_none_or(|allowed| allowed.contains(ChunkId(*id))) {
                let norm = k1 * (1.0 - b + b * terms.len() as f64 / avgdl);
                *scores.entry(*id).or_default() += (1.0 + (n - df + 0.5) / (df + 0.5)).ln() * tf / (tf + norm);
            }
        }
    }
    let mut scores: Vec<(u32, f64)> = scores.into_iter().collect();
    // Chunks with equal terms get equal sums here, as the additions are the same.
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scores
}

/// Ids agree, but for neighbours whose scores are equal within rounding; scores agree.
#[track_caller]
fn check_equal(got: &Ranking, expected: &[(u32, f64)], k: usize) {
    assert_eq!(got.len(), expected.len().min(k));
    for (i, (hit, (id, score))) in got.hits().iter().zip(expected).enumerate() {
        assert!((f64::from(hit.score) - score).abs() <= 1e-5 * score, "rank {i}: {} is not {score}", hit.score);
        let twin = expected.iter().find(|(id, _)| *id == hit.chunk.0).expect("a chunk that matches");
        assert!(hit.chunk.0 == *id || (twin.1 - score).abs() <= 1e-6 * score, "rank {i}: {} is not {id}", hit.chunk.0);
    }
    for pair in got.hits().windows(2) {
        assert!(pair[0].cmp_best_first(&pair[1]).is_lt());
    }
}

/// Texts over a small vocabulary with a long tail; many are equal.
fn corpus(rng: &mut ChaCha8Rng, ids: impl IntoIterator<Item = u32>) -> Vec<(u32, String)> {
    ids.into_iter()
        .map(|id| {
            let n = rng.random_range(0..6);
            let words = (0..n).map(|_| format!("w{}", (rng.random::<f64>().powi(3) * 60.0) as u32));
            (id, words.collect::<Vec<_>>().join(" "))
        })
        .collect()
}

#[test]
fn equals_brute_force_over_segments_deletes_and_filters() {
    for seed in 0..12 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut ids: Vec<u32> = (0..900).filter(|_| rng.random_bool(0.8)).collect();
        let second = ids.split_off(ids.len() / 3);
        let (even, odd): (Vec<u32>, Vec<u32>) = second.into_iter().partition(|id| id % 2 == 0);
        let segments = [corpus(&mut rng, ids), corpus(&mut rng, even), corpus(&mut rng, odd)];
        let deleted = if seed % 3 == 0 { ChunkSet::new() } else { set((0..900).filter(|_| rng.random_bool(0.2))) };
        let (_root, index) = index(&segments, &deleted, 1 + seed as usize % 3);
        let parameters = match seed % 4 {
            0 => Bm25Parameters::new(0.9, 0.4).unwrap(),
            1 => Bm25Parameters::new(2.5, 1.0).unwrap(),
            _ => Bm25Parameters::default(),
        };
        let index = index.with_parameters(parameters);
        let live: Vec<_> = segments.concat().into_iter().filter(|(id, _)| !deleted.contains(ChunkId(*id))).collect();
        assert_eq!(index.n_chunks(), live.len() as u64);
        for share in [None, Some(0.5), Some(0.01), Some(0.0)] {
            for text in ["w0", "w0 w1 w1", "w59 w3 w17 unknown", "w0 w1 w2 w3 w4 w5 w6 w7 w8"] {
                let allowed = share.map(|share| Arc::new(set((0..1000).filter(|_| rng.random_bool(share)))));
                let query = Query { text: text.to_owned(), allowed };
                let expected = brute_force(&live, &query, parameters);
                for k in [1, 7, 100, 2000] {
                    check_equal(&index.search(std::slice::from_ref(&query), k).unwrap()[0], &expected, k);
                }
            }
        }
    }
}

#[test]
fn lists_that_are_not_read_to_their_end_change_no_bit() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    // A word's rank decides how many chunks have it: from all to a few.
    let texts: Vec<(u32, String)> = (0..30_000)
        .map(|id| {
            let words = (1..=400_u32).filter(|&rank| rng.random_bool(1.0 / f64::from(rank)));
            let words = words.flat_map(|rank| vec![format!("w{rank}"); 1 + (id as usize * 7 + rank as usize) % 3]);
            (id, words.collect::<Vec<_>>().join(" "))
        })
        .collect();
    let deleted = set((0..30_000).filter(|id| id % 11 == 0));
    let (_root, index) = index(&[texts], &deleted, 2);
    let all = Some(Arc::new(set(0..30_000)));
    for text in ["w1 w2 w397", "w300 w2 w1 w3", "w150 w200 w399 w1", "w90 w91 w1 w2 w4", "w2 w3", "w399 unknown w1"] {
        for k in [1, 10, 50] {
            let pruned = index.search(&[text.into()], k).unwrap();
            let whole = index.search(&[Query { text: text.to_owned(), allowed: all.clone() }], k).unwrap();
            assert_eq!(pruned, whole, "{text}, {k}");
        }
    }
}

#[test]
fn ties_at_the_cut_go_by_lower_id_across_segments() {
    let same = |ids: Vec<u32>| ids.into_iter().map(|id| (id, "cache page".to_owned())).collect::<Vec<_>>();
    let segments =
        [same((0..500).filter(|id| id % 3 == 0).collect()), same((0..500).filter(|id| id % 3 > 0).collect())];
    let (_root, index) = index(&segments, &set([2, 5]), 2);
    let ranking = &index.search(&["cache".into()], 9).unwrap()[0];
    assert_eq!(ranking.ids(), [0, 1, 3, 4, 6, 7, 8, 9, 10].map(ChunkId));
}

#[test]
fn segments_threads_and_deleted_chunks_change_no_score() {
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    let filler = "lorem ipsum dolor ".repeat(40_000); // Enough for several batches.
    let mut all = corpus(&mut rng, 0..400);
    for i in [50, 150, 250, 350] {
        all[i].1 = filler.clone();
    }
    let deleted = set([3, 50, 199, 398]);
    let live: Vec<_> = all.iter().filter(|(id, _)| !deleted.contains(ChunkId(*id))).cloned().collect();
    let queries: Vec<Query> = (0..30).map(|i| Query::new(format!("w{i} w{} lorem", i / 2))).collect();
    let (_root, fresh) = index(&[live], &ChunkSet::new(), 1);
    let expected = fresh.search(&queries, 50).unwrap();
    for (n_segments, threads) in [(1, 1), (1, 4), (3, 2), (7, 3)] {
        let segments: Vec<_> = all.chunks(all.len().div_ceil(n_segments)).map(<[_]>::to_vec).collect();
        let (_root, index) = index(&segments, &deleted, threads);
        assert_eq!(index.search(&queries, 50).unwrap(), expected, "{n_segments} segments, {threads} threads");
    }
}

#[test]
fn queries_without_terms_find_nothing() {
    let (_root, index) = index(&[vec![(0, "the cache".to_owned())]], &ChunkSet::new(), 1);
    for text in ["", "the and of", "?!", "absent", "\"cache\" AND -x OR ("] {
        let found = index.search(&[text.into()], 5).unwrap()[0].len();
        assert_eq!(found, usize::from(text.contains("cache")), "{text}");
    }
    assert!(index.search(&["cache".into()], 0).unwrap()[0].is_empty());
    assert!(index.search(&[], 5).unwrap().is_empty());
}

#[test]
fn an_index_may_be_empty() {
    let (_root, index) = index(&[vec![], vec![(4, String::new())]], &set([9]), 2);
    assert_eq!(index.n_chunks(), 1);
    assert!(index.search(&["cache".into()], 5).unwrap()[0].is_empty());
    let none = Bm25Index::open(&[], &ChunkSet::new(), &AnalyzerConfig::default()).unwrap();
    assert!(none.search(&["cache".into()], 5).unwrap()[0].is_empty());
}

#[test]
fn an_explanation_adds_up_to_the_score() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (_root, index) = index(&[corpus(&mut rng, 0..200), corpus(&mut rng, 200..300)], &set([7]), 2);
    let text = "w0 w1 w1 w2 w40 absent";
    let ranking = &index.search(&[text.into()], 1000).unwrap()[0];
    assert!(ranking.len() > 20);
    for &Hit { chunk, score } in ranking.hits() {
        let explanation = index.explain(text, chunk).unwrap().unwrap();
        assert_eq!(explanation.score.to_bits(), score.to_bits());
        assert_eq!(explanation.terms.iter().map(|term| term.contribution).sum::<f32>(), score);
        assert_eq!(explanation.terms.iter().map(|term| term.count).sum::<u32>(), 6);
    }
    assert_eq!(index.explain(text, ChunkId(7)).unwrap(), None);
    assert_eq!(index.explain(text, ChunkId(300)).unwrap(), None);
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (PathBuf::from(path.file_name().unwrap()), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn equal_chunks_give_equal_files_and_readers_change_none() {
    let chunks = corpus(&mut ChaCha8Rng::seed_from_u64(1), 0..300);
    let (root, _index) = index(&[chunks.clone(), chunks], &ChunkSet::new(), 2);
    let (first, second) = (root.path().join("0"), root.path().join("1"));
    let before = files(&first);
    assert!(before == files(&second));
    let index = Bm25Index::open(std::slice::from_ref(&first), &set([1]), &AnalyzerConfig::default()).unwrap();
    index.search(&["w0".into()], 5).unwrap();
    assert!(before == files(&first));
    assert!(before.iter().all(|(name, _)| !name.to_string_lossy().starts_with('.')));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let (root, _index) = index(&[vec![(1, "cache".to_owned())]], &ChunkSet::new(), 1);
    let folder = root.path().join("0");
    let open = |config: &AnalyzerConfig| Bm25Index::open(std::slice::from_ref(&folder), &ChunkSet::new(), config);
    let german = AnalyzerConfig { language: StemLanguage::German, ..AnalyzerConfig::default() };
    assert!(matches!(open(&german), Err(Error::Analyzer { .. })));
    let header = folder.join("bm25.json");
    let text = std::fs::read_to_string(&header).unwrap();
    std::fs::write(&header, text.replace("\"version\":1", "\"version\":9")).unwrap();
    assert!(matches!(open(&AnalyzerConfig::default()), Err(Error::File(FileError::Version { found: 9, .. }))));
    std::fs::write(&header, &text[..text.len() / 2]).unwrap();
    assert!(matches!(open(&AnalyzerConfig::default()), Err(Error::File(FileError::Damaged { .. }))));
    std::fs::write(&header, &text).unwrap();
    std::fs::write(folder.join("bm25.docs"), [0; 12]).unwrap();
    assert!(matches!(open(&AnalyzerConfig::default()), Err(Error::File(FileError::Damaged { .. }))));
    std::fs::remove_file(folder.join("000.term")).unwrap();
    assert!(open(&AnalyzerConfig::default()).is_err());
    assert!(matches!(
        Bm25Index::open(&[root.path().join("none")], &ChunkSet::new(), &german),
        Err(Error::File(FileError::Io { .. }))
    ));
}

#[test]
fn ids_must_increase() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Bm25SegmentWriter::create(folder.path(), &AnalyzerConfig::default(), 1).unwrap();
    writer.add(ChunkId(5), "a").unwrap();
    assert!(matches!(writer.add(ChunkId(5), "b"), Err(Error::Order { chunk: 5, last: 5 })));
    assert!(Bm25SegmentWriter::create(&folder.path().join("none"), &AnalyzerConfig::default(), 1).is_err());
}
