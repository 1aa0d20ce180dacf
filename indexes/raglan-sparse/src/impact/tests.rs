//! Every way of searching against brute force, the approximate one against a recall, merging, and damaged files.

use std::path::{Path, PathBuf};

use raglan_core::{ChunkId, ChunkSet, Hit, Ranking, SparseVector, VectorIndex};
use raglan_segment_file::Error as FileError;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, ImpactConfig, ImpactIndex, ImpactSearch, write_impact_segment};

const EXACT: [ImpactSearch; 3] = [ImpactSearch::Exact, ImpactSearch::MaxScore, ImpactSearch::BlockMax];

type Chunk = (ChunkId, SparseVector);

/// Vectors around topics: a chunk has common terms, terms of its topic, and rare ones.
fn chunks(rng: &mut ChaCha8Rng, n: usize, first: u32, n_topics: u32) -> Vec<Chunk> {
    let mut id = first;
    let mut chunk = |_| {
        id += rng.random_range(1..4);
        (ChunkId(id), vector(rng, n_topics, 40))
    };
    (0..n).map(&mut chunk).collect()
}

fn vector(rng: &mut ChaCha8Rng, n_topics: u32, most: usize) -> SparseVector {
    let topic = rng.random_range(0..n_topics);
    let mut entries: Vec<(u32, f32)> = Vec::new();
    for _ in 0..rng.random_range(0..most) {
        let term = match rng.random_range(0..10) {
            0..3 => rng.random_range(0..20),
            3..8 => 100 + topic * 30 + rng.random_range(0..30),
            _ => rng.random_range(10_000..70_000),
        };
        // Few distinct weights, so many ties.
        entries.push((term, rng.random_range(1..9) as f32 / 4.0));
    }
    entries.sort_by_key(|entry| entry.0);
    entries.dedup_by_key(|entry| entry.0);
    SparseVector::new(entries).unwrap()
}

fn folder(root: &Path, name: &str) -> PathBuf {
    let folder = root.join(name);
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn write(folder: &Path, chunks: &[Chunk]) {
    let (ids, vectors): (Vec<_>, Vec<_>) = chunks.iter().cloned().unzip();
    write_impact_segment(folder, &ids, &vectors, &ImpactConfig::default()).unwrap();
}

fn open(folders: &[PathBuf], deleted: &ChunkSet) -> ImpactIndex {
    ImpactIndex::open(folders, deleted, &ImpactConfig::default()).unwrap()
}

/// The inner product over impacts; none when there is no common term.
fn brute_force_score(query: &SparseVector, chunk: &SparseVector) -> Option<f32> {
    let (mut sum, mut any) = (0.0, false);
    for (term, &weight) in query.terms().iter().zip(query.weights()) {
        let Ok(at) = chunk.terms().binary_search(term) else { continue };
        sum += f64::from(weight) * f64::from((chunk.weights()[at] / 4.0 * 255.0).round().min(255.0));
        any = true;
    }
    any.then_some((sum * (4.0 / 255.0)) as f32)
}

fn brute_force<'a>(chunks: impl IntoIterator<Item = &'a Chunk>, query: &SparseVector, k: usize) -> Ranking {
    let hits = chunks.into_iter().filter_map(|(id, chunk)| Some(Hit::new(*id, brute_force_score(query, chunk)?)));
    Ranking::best(hits.collect(), k).unwrap()
}

#[test]
fn every_exact_search_equals_brute_force() {
    for seed in 0..12 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let root = tempfile::tempdir().unwrap();
        let (mut folders, mut all) = (Vec::new(), Vec::new());
        for (i, n) in [900, 0, 300, 1, 65].into_iter().enumerate() {
            folders.push(folder(root.path(), &i.to_string()));
            let chunks = chunks(&mut rng, n, i as u32 * 10_000, 9);
            write(&folders[i], &chunks);
            all.extend(chunks);
        }
        let share = [0.0, 0.1, 0.9][seed as usize % 3];
        let deleted: ChunkSet = all.iter().map(|chunk| chunk.0).filter(|_| rng.random_bool(share)).collect();
        let filters: Vec<ChunkSet> = [0.5, 0.02, 0.0, 1.0]
            .map(|share| all.iter().map(|chunk| chunk.0).filter(|_| rng.random_bool(share)).collect())
            .to_vec();
        let mut queries: Vec<SparseVector> = (0..11).map(|_| vector(&mut rng, 9, 30)).collect();
        queries.push(SparseVector::default());
        queries.push(SparseVector::new(vec![(u32::MAX, 1.0), (0, 0.25), (9_999, 3.0)]).unwrap());
        let allowed: Vec<Option<&ChunkSet>> =
            (0..queries.len()).map(|q| if q % 3 == 0 { None } else { Some(&filters[q % 4]) }).collect();
        let live: Vec<&Chunk> = all.iter().filter(|chunk| !deleted.contains(chunk.0)).collect();
        for search in EXACT {
            let index = open(&folders, &deleted).with_search(search).unwrap();
            assert_eq!(index.n_chunks(), live.len() as u64);
            for k in [0, 1, 10, 300, usize::MAX] {
                for (q, got) in index.search(&queries, k, &allowed).unwrap().iter().enumerate() {
                    let among = live.iter().copied();
                    let among = among.filter(|chunk| allowed[q].is_none_or(|allowed| allowed.contains(chunk.0)));
                    assert_eq!(*got, brute_force(among, &queries[q], k), "seed {seed}, {search:?}, query {q}, k {k}");
                }
            }
        }
        check_lookups(&open(&folders, &deleted), &all, &deleted, &queries);
    }
}

fn check_lookups(index: &ImpactIndex, all: &[Chunk], deleted: &ChunkSet, queries: &[SparseVector]) {
    let ids: Vec<ChunkId> = all.iter().rev().map(|chunk| chunk.0).chain([ChunkId(u32::MAX)]).collect();
    for query in queries {
        for (i, score) in index.scores(query, &ids).unwrap().into_iter().enumerate() {
            let expected = (i < all.len() && !deleted.contains(ids[i]))
                .then(|| brute_force_score(query, &all[all.len() - 1 - i].1).unwrap_or(0.0));
            assert_eq!(score, expected);
        }
    }
    for term in [0, 1, 100, 101, 9_999, 20_000] {
        let has = |chunk: &&Chunk| !deleted.contains(chunk.0) && chunk.1.terms().contains(&term);
        assert_eq!(index.document_frequency(term), all.iter().filter(has).count() as u64);
    }
    let mut terms = [0, 0];
    for (id, vector) in all {
        let got = index.vector(*id);
        assert_eq!(got.is_none(), deleted.contains(*id));
        if let Some(got) = got {
            assert_eq!(got.terms(), vector.terms());
            terms[0] += 1;
        }
    }
    assert_eq!(terms[0], index.n_chunks());
}

#[test]
fn more_terms_than_sixteen_bits_and_arbitrary_weights() {
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let vector = |rng: &mut ChaCha8Rng, n: usize| {
        let mut terms: Vec<u32> = (0..n).map(|_| rng.random_range(0..150_000)).collect();
        terms.sort_unstable();
        terms.dedup();
        SparseVector::new(terms.into_iter().map(|term| (term, rng.random_range(0.1..5.0))).collect()).unwrap()
    };
    let chunks: Vec<Chunk> = (0..700).map(|id| (ChunkId(id), vector(&mut rng, 400))).collect();
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &chunks);
    let index = open(&[root.path().to_owned()], &ChunkSet::new());
    let above = chunks.iter().flat_map(|chunk| chunk.1.weights()).filter(|&&weight| weight > 4.0);
    assert_eq!(index.n_clamped(), above.count() as u64);
    for _ in 0..20 {
        let query = vector(&mut rng, 40);
        let got = &index.search(std::slice::from_ref(&query), 50, &[None]).unwrap()[0];
        let expected = brute_force(&chunks, &query, 50);
        assert_eq!(got.len(), expected.len());
        // Scores that are equal but for rounding may have changed places.
        for (got, expected) in got.hits().iter().zip(expected.hits()) {
            assert!((got.score - expected.score).abs() <= 1e-5 * expected.score, "{got:?} {expected:?}");
            let own = brute_force_score(&query, &chunks[got.chunk.0 as usize].1).unwrap();
            assert!((got.score - own).abs() <= 1e-5 * own);
        }
    }
}

#[test]
fn approximate_search_finds_nearly_the_same_with_exact_scores() {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    let chunks = chunks(&mut rng, 8000, 0, 100);
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &chunks);
    let exact = open(&[root.path().to_owned()], &ChunkSet::new());
    let queries: Vec<SparseVector> = (0..200).map(|_| vector(&mut rng, 100, 30)).collect();
    let none = vec![None; queries.len()];
    let expected = exact.search(&queries, 10, &none).unwrap();
    let approximate = |query_cut, heap_factor| {
        let index = open(&[root.path().to_owned()], &ChunkSet::new());
        index.with_search(ImpactSearch::Approximate { query_cut, heap_factor }).unwrap()
    };
    assert_eq!(approximate(usize::MAX, 0.9).search(&queries, 10, &none).unwrap(), expected);
    let found = approximate(8, 0.8).search(&queries, 10, &none).unwrap();
    let (mut n_found, mut n_expected) = (0, 0);
    for ((found, expected), query) in found.iter().zip(&expected).zip(&queries) {
        n_expected += expected.len();
        // A chunk as good as the last is as good an answer.
        let last = expected.hits().last().map_or(0.0, |hit| hit.score);
        n_found += found.hits().iter().filter(|hit| hit.score >= last).count();
        let scores = exact.scores(query, &found.ids()).unwrap();
        assert!(found.hits().iter().zip(scores).all(|(hit, score)| Some(hit.score) == score));
    }
    let recall = n_found as f64 / n_expected as f64;
    assert!(recall >= 0.95, "recall {recall}");
}

#[test]
fn a_merged_segment_is_that_of_the_live_vectors() {
    let mut rng = ChaCha8Rng::seed_from_u64(22);
    let root = tempfile::tempdir().unwrap();
    let folders = [folder(root.path(), "a"), folder(root.path(), "b")];
    let mut all = chunks(&mut rng, 500, 0, 5);
    write(&folders[0], &all);
    let second = chunks(&mut rng, 300, 5000, 5);
    write(&folders[1], &second);
    all.extend(second);
    let deleted: ChunkSet = all.iter().map(|chunk| chunk.0).filter(|_| rng.random_bool(0.3)).collect();
    let index = open(&folders, &deleted);
    all.retain(|chunk| !deleted.contains(chunk.0));
    let back: Vec<Chunk> = all.iter().map(|chunk| (chunk.0, index.vector(chunk.0).unwrap())).collect();
    let [merged, direct, again] = ["m", "d", "v"].map(|name| folder(root.path(), name));
    index.write_merged(&merged).unwrap();
    write(&direct, &all);
    write(&again, &back);
    let [merged, direct, again] =
        [merged, direct, again].map(|folder| std::fs::read(folder.join("impacts-0.bin")).unwrap());
    assert!(merged == direct && again == direct);
}

#[test]
fn every_impact_survives_being_a_weight() {
    for ceiling in [4.0, 1.0, 3.3, 0.017, 250.0] {
        let config = ImpactConfig { ceiling, ..ImpactConfig::default() };
        let root = tempfile::tempdir().unwrap();
        let entries = (1..256).map(|impact| (impact, (f64::from(impact) * config.step()) as f32)).collect();
        write_impact_segment(root.path(), &[ChunkId(0)], &[SparseVector::new(entries).unwrap()], &config).unwrap();
        let index = ImpactIndex::open(&[root.path().to_owned()], &ChunkSet::new(), &config).unwrap();
        let mut queries = Vec::new();
        for impact in 1..256 {
            queries.push(SparseVector::new(vec![(impact, 1.0)]).unwrap());
        }
        let rankings = index.search(&queries, 1, &[None; 255]).unwrap();
        for (ranking, impact) in rankings.iter().zip(1..256) {
            assert_eq!(ranking.hits()[0].score, (f64::from(impact) * config.step()) as f32);
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_the_bytes() {
    let chunks = chunks(&mut ChaCha8Rng::seed_from_u64(23), 9000, 0, 50);
    let root = tempfile::tempdir().unwrap();
    let bytes = [1, 2, 4].map(|threads| {
        let folder = folder(root.path(), &threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write(&folder, &chunks));
        std::fs::read(folder.join("impacts-0.bin")).unwrap()
    });
    assert!(bytes[0] == bytes[1] && bytes[0] == bytes[2]);
}

#[test]
fn a_token_weighs_as_much_as_it_is_rare() {
    let root = tempfile::tempdir().unwrap();
    // Term 1 is in 3 of 4 chunks, term 2 in one, and chunk 3 is deleted.
    let vector = |terms: &[u32]| SparseVector::new(terms.iter().map(|&term| (term, 1.0)).collect()).unwrap();
    let chunks = [
        (ChunkId(0), vector(&[1])),
        (ChunkId(1), vector(&[1, 2])),
        (ChunkId(2), vector(&[])),
        (ChunkId(3), vector(&[1, 5])),
    ];
    write(root.path(), &chunks);
    let index = open(&[root.path().to_owned()], &[ChunkId(3)].into_iter().collect());
    let query = index.inference_free_query(&[2, 1, 2, 5]);
    assert_eq!(query.terms(), [1, 2, 5]);
    let expected = [
        (1.0_f64 + 1.5 / 2.5).ln(), // N = 3, n = 2
        (1.0_f64 + 2.5 / 1.5).ln(), // n = 1
        (1.0_f64 + 2.5 / 1.5).ln(), // n = 0 clipped at the rarest term's
    ];
    for (got, want) in query.weights().iter().zip(expected) {
        assert!((f64::from(*got) - want).abs() <= 1e-6, "{got} {want}");
    }
    let unseen = open(&[], &ChunkSet::new()).inference_free_query(&[7]);
    assert!((f64::from(unseen.weights()[0]) - 2_f64.ln()).abs() <= 1e-6); // N = 0: ln(1 + ½ / ½)
    assert_eq!(index.inference_free_query(&[]), SparseVector::default());
}

#[test]
fn damaged_files_are_refused_and_never_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(24);
    let root = tempfile::tempdir().unwrap();
    let chunks = chunks(&mut rng, 400, 0, 3);
    write(root.path(), &chunks);
    let deleted: ChunkSet = [chunks[7].0].into_iter().collect();
    let queries: Vec<SparseVector> = (0..4).map(|_| vector(&mut rng, 3, 30)).collect();
    let search = || -> crate::Result<Vec<Ranking>> {
        let mut found = Vec::new();
        for way in EXACT {
            let index = ImpactIndex::open(&[root.path().to_owned()], &deleted, &ImpactConfig::default())?;
            let index = index.with_search(way)?;
            index.inference_free_query(&[1, 2]);
            index.vector(chunks[3].0);
            index.scores(&queries[0], &[chunks[3].0])?;
            let problem = |e: raglan_core::Error| Error::Vectors { problem: e.to_string() };
            found.extend(index.search(&queries, 5, &[None; 4]).map_err(problem)?);
        }
        Ok(found)
    };
    let before = search().unwrap();
    let path = root.path().join("impacts-0.bin");
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(197) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(search().is_err(), "cut to {length}");
    }
    for _ in 0..1500 {
        let mut flipped = whole.clone();
        // Headers more often than their share.
        let range = if rng.random_bool(0.2) { 64 } else { whole.len() };
        for _ in 0..rng.random_range(1..6) {
            flipped[rng.random_range(0..range)] ^= 1 << rng.random_range(0..8);
        }
        std::fs::write(&path, &flipped).unwrap();
        let _ = search(); // A flipped impact cannot be told; it must only not panic.
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(search().unwrap(), before);
    let mut other = whole.clone();
    other[8] = 7;
    std::fs::write(&path, &other).unwrap();
    assert!(matches!(search(), Err(Error::File(FileError::Version { expected: 1, found: 7, .. }))));
}

#[test]
fn what_does_not_fit_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let config = ImpactConfig::default();
    let one = SparseVector::new(vec![(1, 1.0)]).unwrap();
    let negative = SparseVector::new(vec![(1, -1.0)]).unwrap();
    let write = |ids: &[u32], vectors: &[SparseVector]| {
        let ids: Vec<ChunkId> = ids.iter().copied().map(ChunkId).collect();
        write_impact_segment(root.path(), &ids, vectors, &config)
    };
    assert!(matches!(write(&[0], &[]), Err(Error::Vectors { .. })));
    assert!(matches!(write(&[1, 1], &[one.clone(), one.clone()]), Err(Error::Vectors { .. })));
    assert!(matches!(write(&[1], std::slice::from_ref(&negative)), Err(Error::Vectors { .. })));
    write(&[1], std::slice::from_ref(&one)).unwrap();
    assert!(matches!(write(&[1], std::slice::from_ref(&one)), Err(Error::File(FileError::Io { .. }))));
    let folders = [root.path().to_owned()];
    let other = ImpactConfig { ceiling: 3.0, ..config.clone() };
    assert!(matches!(ImpactIndex::open(&folders, &ChunkSet::new(), &other), Err(Error::Ceiling { .. })));
    let bad = ImpactConfig { ceiling: f32::NAN, ..config.clone() };
    assert!(matches!(ImpactIndex::open(&[], &ChunkSet::new(), &bad), Err(Error::Config { .. })));
    let index = open(&folders, &ChunkSet::new());
    assert!(index.search(std::slice::from_ref(&negative), 1, &[None]).is_err());
    assert!(index.search(std::slice::from_ref(&one), 1, &[]).is_err());
    assert!(index.scores(&negative, &[]).is_err());
    let cut = ImpactSearch::Approximate { query_cut: 0, heap_factor: 1.0 };
    assert!(matches!(index.with_search(cut), Err(Error::Config { .. })));
}
