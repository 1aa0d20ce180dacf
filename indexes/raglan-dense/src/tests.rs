//! Exact search against plain loops, the graph against exact search, and damaged files.

use std::path::{Path, PathBuf};

use hnsw_rs::anndists::dist::DistL2;
use hnsw_rs::hnsw::Hnsw;
use raglan_core::{ChunkId, ChunkSet, DenseVector, Hit, Ranking, VectorIndex};
use raglan_segment_file::Error as FileError;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{DenseConfig, DenseIndex, Error, SearchMode, VectorStorage, write_segment};

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // Box and Muller.
    let (u, v): (f64, f64) = (rng.random_range(1e-12..1.0), rng.random());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// Unit vectors around `n_clusters` centres.
fn clustered(rng: &mut ChaCha8Rng, n: usize, dim: usize, n_clusters: usize) -> Vec<f32> {
    let centres: Vec<f32> = (0..n_clusters * dim).map(|_| normal(rng)).collect();
    let mut vectors = Vec::with_capacity(n * dim);
    for _ in 0..n {
        let centre = rng.random_range(0..n_clusters) * dim;
        vectors.extend((0..dim).map(|d| centres[centre + d] + 0.6 * normal(rng)));
    }
    raglan_kernels::l2_normalize(&mut vectors, dim).unwrap();
    vectors
}

fn queries(vectors: &[f32], dim: usize) -> Vec<DenseVector> {
    vectors.chunks_exact(dim).map(|row| DenseVector::new(row.to_vec()).unwrap()).collect()
}

fn ids(n: usize, first: u32, step: usize) -> Vec<ChunkId> {
    (first..).step_by(step).take(n).map(ChunkId).collect()
}

fn folder(root: &Path, name: &str) -> PathBuf {
    let folder = root.join(name);
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn brute_force(chunks: &[(ChunkId, &[f32])], query: &[f32], k: usize) -> Ranking {
    let hits = chunks.iter().map(|(id, row)| Hit::new(*id, raglan_kernels::inner_product(query, row).unwrap()));
    Ranking::best(hits.collect(), k).unwrap()
}

#[test]
fn exact_search_equals_brute_force_with_deletes_filters_and_ties() {
    for seed in 0..6 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let dim = [1, 3, 16, 33][seed as usize % 4];
        let root = tempfile::tempdir().unwrap();
        let mut folders = Vec::new();
        let mut all: Vec<(ChunkId, Vec<f32>)> = Vec::new();
        for (i, n) in [5000, 0, 700, 1].into_iter().enumerate() {
            // Few distinct components, so many ties.
            let vectors: Vec<f32> = (0..n * dim).map(|_| rng.random_range(-2..3) as f32).collect();
            let ids = ids(n, i as u32, 4 - seed as usize % 3 + 1).into_iter().map(|id| ChunkId(id.0 * 5 + i as u32));
            let ids: Vec<ChunkId> = ids.collect();
            folders.push(folder(root.path(), &i.to_string()));
            write_segment(&folders[i], &ids, &vectors, dim, &DenseConfig::default(), 1).unwrap();
            all.extend(ids.iter().copied().zip(vectors.chunks_exact(dim).map(<[f32]>::to_vec)));
        }
        let share = [0.0, 0.1, 0.9][seed as usize % 3];
        let deleted: ChunkSet = all.iter().map(|chunk| chunk.0).filter(|_| rng.random_bool(share)).collect();
        let index = DenseIndex::open(&folders, dim, &deleted, &DenseConfig::default()).unwrap();
        let live: Vec<_> = all.iter().filter(|chunk| !deleted.contains(chunk.0)).collect();
        assert_eq!(index.len(), live.len());
        let filters: Vec<ChunkSet> = [0.5, 0.02, 0.0, 1.0]
            .map(|share| all.iter().map(|chunk| chunk.0).filter(|_| rng.random_bool(share)).collect())
            .to_vec();
        let batch: Vec<Vec<f32>> =
            (0..11).map(|_| (0..dim).map(|_| rng.random_range(-2..3) as f32).collect()).collect();
        let allowed: Vec<Option<&ChunkSet>> =
            (0..11).map(|q| if q % 3 == 0 { None } else { Some(&filters[q % 4]) }).collect();
        let vectors: Vec<_> = batch.iter().map(|query| DenseVector::new(query.clone()).unwrap()).collect();
        for k in [0, 1, 10, 3000, 10_000] {
            let got = index.search(&vectors, k, &allowed).unwrap();
            for (q, got) in got.iter().enumerate() {
                let among: Vec<(ChunkId, &[f32])> = live
                    .iter()
                    .filter(|chunk| allowed[q].is_none_or(|allowed| allowed.contains(chunk.0)))
                    .map(|chunk| (chunk.0, chunk.1.as_slice()))
                    .collect();
                assert_eq!(*got, brute_force(&among, &batch[q], k), "seed {seed}, query {q}, k {k}");
            }
        }
        for (id, row) in &all {
            let expected = (!deleted.contains(*id)).then_some(row.as_slice());
            assert_eq!(index.vector(*id).as_deref(), expected);
        }
        assert_eq!(index.segment_vectors(0).0.len(), 5000);
        assert_eq!(index.vector(ChunkId(u32::MAX)), None);
    }
}

fn recall(found: &[Ranking], exact: &[Ranking]) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for (found, exact) in found.iter().zip(exact) {
        all += exact.len();
        hits += exact.ids().iter().filter(|id| found.ids().contains(id)).count();
    }
    hits as f64 / all as f64
}

#[test]
fn the_graph_finds_nearly_what_the_scan_finds() {
    let (n, dim) = (6000, 160);
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut vectors = clustered(&mut rng, n + 100, dim, 60);
    let queries = queries(&vectors.split_off(n * dim), dim);
    let root = tempfile::tempdir().unwrap();
    let config = DenseConfig { graph_from: n, few: 100, ..DenseConfig::default() };
    write_segment(root.path(), &ids(n, 10, 3), &vectors, dim, &config, 2).unwrap();
    let deleted: ChunkSet = ids(n / 4, 10, 12).into_iter().collect();
    let half: ChunkSet = ids(n / 2, 13, 6).into_iter().collect();
    let few: ChunkSet = ids(50, 13, 300).into_iter().collect();
    for deleted in [&ChunkSet::new(), &deleted] {
        let open = |mode| DenseIndex::open(&[root.path().to_owned()], dim, deleted, &config).unwrap().with_mode(mode);
        let (exact, graph, auto) = (open(SearchMode::Exact), open(SearchMode::Graph), open(SearchMode::Auto));
        assert!(graph.has_graph(0));
        for allowed in [None, Some(&half), Some(&few)] {
            let allowed = vec![allowed; queries.len()];
            let expected = exact.search(&queries, 10, &allowed).unwrap();
            let found = graph.search(&queries, 10, &allowed).unwrap();
            assert_eq!(expected, auto.search(&queries, 10, &allowed).unwrap()); // A small segment.
            assert!(found.iter().zip(&expected).all(|(found, expected)| found.len() == expected.len()));
            let recall = recall(&found, &expected);
            assert!(recall >= 0.95, "recall {recall}");
            if allowed[0].is_some_and(|allowed| allowed.len() < 100) {
                assert_eq!(found, expected);
            }
        }
        // More than the graph is worth walking for.
        let all = auto.search(&queries[..2], n, &[None, None]).unwrap();
        assert_eq!(all, exact.search(&queries[..2], n, &[None, None]).unwrap());
        let all = graph.search(&queries[..2], n, &[None, None]).unwrap();
        assert_eq!(all, exact.search(&queries[..2], n, &[None, None]).unwrap());
    }
}

#[test]
fn the_graph_finds_as_much_as_that_of_hnsw_rs() {
    let (n, dim, ef) = (2000, 160, 24);
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut vectors = clustered(&mut rng, n + 100, dim, 50);
    let queries = queries(&vectors.split_off(n * dim), dim);
    let oracle = Hnsw::<f32, DistL2>::new(16, n, 16, 200, DistL2 {});
    for row in vectors.chunks_exact(dim).zip(0..) {
        oracle.insert_slice(row);
    }
    let of_oracle: Vec<Ranking> = queries
        .iter()
        .map(|query| {
            let near = oracle.search(query.as_slice(), 10, ef);
            Ranking::best(near.iter().map(|near| Hit::new(ChunkId(near.d_id as u32), -near.distance)).collect(), 10)
                .unwrap()
        })
        .collect();
    let root = tempfile::tempdir().unwrap();
    let config = DenseConfig { ef_search: ef, ..DenseConfig::default() };
    write_segment(root.path(), &ids(n, 0, 1), &vectors, dim, &config, 2).unwrap();
    let index = DenseIndex::open(&[root.path().to_owned()], dim, &ChunkSet::new(), &config).unwrap();
    let in_mode = |mode| index.clone().with_mode(mode).search(&queries, 10, &vec![None; queries.len()]).unwrap();
    let exact = in_mode(SearchMode::Exact);
    let (ours, theirs) = (recall(&in_mode(SearchMode::Graph), &exact), recall(&of_oracle, &exact));
    assert!(ours >= theirs - 0.02, "{ours} and {theirs}");
}

#[test]
fn every_vector_finds_itself_even_among_copies() {
    let (n, dim) = (1500, 12);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut vectors = clustered(&mut rng, n, dim, 5);
    let (first, rest) = vectors.split_at_mut(dim);
    for copy in rest.chunks_exact_mut(dim).step_by(4) {
        copy.copy_from_slice(first);
    }
    let root = tempfile::tempdir().unwrap();
    let config = DenseConfig { graph_from: 1, ..DenseConfig::default() };
    write_segment(root.path(), &ids(n, 0, 1), &vectors, dim, &config, 4).unwrap();
    let index = DenseIndex::open(&[root.path().to_owned()], dim, &ChunkSet::new(), &config).unwrap();
    let index = index.with_mode(SearchMode::Graph);
    let rankings = index.search(&queries(&vectors, dim), 1, &vec![None; n]).unwrap();
    let n_found = rankings
        .iter()
        .zip(vectors.chunks_exact(dim))
        .filter(|(ranking, row)| *index.vector(ranking.ids()[0]).unwrap() == **row);
    let n_found = n_found.count();
    assert!(n_found as f64 >= 0.998 * n as f64, "{n_found}");
}

#[test]
fn any_number_of_threads_gives_equal_bytes() {
    let vectors = clustered(&mut ChaCha8Rng::seed_from_u64(10), 700, 8, 5);
    let config = DenseConfig { graph_from: 1, ..DenseConfig::default() };
    let root = tempfile::tempdir().unwrap();
    let written = [1, 2, 4, 1].map(|threads| {
        let folder = tempfile::tempdir_in(root.path()).unwrap();
        write_segment(folder.path(), &ids(700, 0, 1), &vectors, 8, &config, threads).unwrap();
        ["vectors.bin", "int8.bin", "bits.bin", "graph.bin"]
            .map(|file| std::fs::read(folder.path().join(file)).unwrap())
    });
    assert!(written.iter().all(|files| *files == written[0]));
}

#[test]
fn scans_of_codes_find_nearly_what_the_exact_scan_finds() {
    let (n, dim) = (5000, 96);
    let mut rng = ChaCha8Rng::seed_from_u64(13);
    let mut vectors = clustered(&mut rng, n + 50, dim, 40);
    let queries = queries(&vectors.split_off(n * dim), dim);
    let root = tempfile::tempdir().unwrap();
    let deleted: ChunkSet = ids(n / 4, 1, 8).into_iter().collect();
    let most: ChunkSet = ids(n, 0, 1).into_iter().collect();
    for full in [VectorStorage::F32, VectorStorage::F16] {
        let storage = vec![full, VectorStorage::Int8, VectorStorage::OneBit];
        let config = DenseConfig { storage, rescore: 20, ..DenseConfig::default() };
        let folder = folder(root.path(), &format!("{full:?}"));
        write_segment(&folder, &ids(n, 0, 2), &vectors, dim, &config, 2).unwrap();
        for (deleted, allowed) in [(&ChunkSet::new(), None), (&deleted, None), (&deleted, Some(&most))] {
            let index = DenseIndex::open(std::slice::from_ref(&folder), dim, deleted, &config).unwrap();
            let search = |mode, queries: &[DenseVector]| {
                index.clone().with_mode(mode).search(queries, 10, &vec![allowed; queries.len()]).unwrap()
            };
            let exact = search(SearchMode::Exact, &queries);
            for (mode, least) in [(SearchMode::Int8, 0.999), (SearchMode::OneBit, 0.99)] {
                let found = search(mode, &queries);
                let recall = recall(&found, &exact);
                assert!(recall >= least, "{full:?} {mode:?}: {recall}");
                let alone: Vec<Ranking> =
                    queries.iter().map(|query| search(mode, std::slice::from_ref(query)).swap_remove(0)).collect();
                assert_eq!(found, alone);
            }
        }
    }
}

#[test]
fn half_precision_halves_the_file_and_keeps_the_vectors() {
    let vectors = clustered(&mut ChaCha8Rng::seed_from_u64(14), 64, 32, 3);
    let root = tempfile::tempdir().unwrap();
    let config = DenseConfig { storage: vec![VectorStorage::F16], ..DenseConfig::default() };
    write_segment(root.path(), &ids(64, 0, 1), &vectors, 32, &config, 1).unwrap();
    assert_eq!(std::fs::metadata(root.path().join("vectors.bin")).unwrap().len(), 64 + 64 * 4 + 64 * 32 * 2);
    let index = DenseIndex::open(&[root.path().to_owned()], 32, &ChunkSet::new(), &config).unwrap();
    for (got, want) in index.segment_vectors(0).1.iter().zip(&vectors) {
        assert!((got - want).abs() <= want.abs() * 2f32.powi(-11) + 1e-7);
    }
    // Without codes, their modes scan exactly.
    let query = queries(&vectors[32..64], 32);
    for mode in [SearchMode::Exact, SearchMode::Int8, SearchMode::OneBit, SearchMode::Graph] {
        let found = index.clone().with_mode(mode).search(&query, 1, &[None]).unwrap();
        assert_eq!(found[0].ids(), [ChunkId(1)], "{mode:?}");
    }
    let too_great = write_segment(&folder(root.path(), "b"), &ids(1, 0, 1), &[1e6], 1, &config, 1);
    assert!(matches!(too_great, Err(Error::Vectors { .. })));
}

#[test]
fn an_index_tells_how_much_it_finds() {
    let (n, dim) = (2000, 24);
    let mut rng = ChaCha8Rng::seed_from_u64(16);
    let vectors = clustered(&mut rng, n, dim, 30);
    let root = tempfile::tempdir().unwrap();
    let config = DenseConfig { graph_from: 1, ..DenseConfig::default() };
    let folders = [folder(root.path(), "a"), folder(root.path(), "b")];
    let half = n / 2 * dim;
    write_segment(&folders[0], &ids(n / 2, 0, 1), &vectors[..half], dim, &config, 2).unwrap();
    write_segment(&folders[1], &ids(n / 2, n as u32, 1), &vectors[half..], dim, &config, 2).unwrap();
    let deleted: ChunkSet = ids(100, 0, 1).into_iter().collect();
    let index = DenseIndex::open(&folders, dim, &deleted, &config).unwrap().with_mode(SearchMode::Graph);
    let recall = index.self_recall(500, 10, 1).unwrap();
    assert_eq!(recall, index.self_recall(500, 10, 1).unwrap());
    assert_eq!(recall.n_queries, 500);
    assert!(recall.recall >= 0.98, "{recall:?}");
    assert_eq!(recall.not_found, []);
    let narrow = index.clone().with_ef(1).self_recall(500, 10, 1).unwrap();
    assert!(narrow.recall < recall.recall, "{narrow:?}");
    let exact = index.clone().with_mode(SearchMode::Exact).self_recall(usize::MAX, 3, 1).unwrap();
    assert_eq!(exact, crate::SelfRecall { n_queries: n - 100, recall: 1.0, not_found: Vec::new() });
    let empty = DenseIndex::open(&[], dim, &deleted, &config).unwrap().self_recall(5, 10, 1).unwrap();
    assert_eq!((empty.n_queries, empty.recall), (0, 1.0));
}

#[test]
fn every_vector_can_be_reached() {
    // Far clusters, and many copies: what pruning cuts off.
    let (n, dim) = (3000, 16);
    let mut rng = ChaCha8Rng::seed_from_u64(15);
    let mut vectors = clustered(&mut rng, n, dim, 300);
    vectors.copy_within(..dim * 400, dim * 1000);
    let copy = vectors[..dim].to_vec();
    for row in vectors.chunks_exact_mut(dim).skip(2000).take(500) {
        row.copy_from_slice(&copy);
    }
    let root = tempfile::tempdir().unwrap();
    let config = DenseConfig { graph_from: 1, m: 4, ef_construction: 20, ..DenseConfig::default() };
    write_segment(root.path(), &ids(n, 0, 1), &vectors, dim, &config, 2).unwrap();
    let graph = crate::graph::GraphFile::open(root.path(), n, dim).unwrap();
    let links = graph.links();
    let mut reached = vec![false; n];
    let mut stack = vec![links.entries[0]];
    while let Some(row) = stack.pop() {
        if !std::mem::replace(&mut reached[row as usize], true) {
            stack.extend(links.of(row));
            stack.extend(links.with_copies(row).skip(1));
        }
    }
    assert_eq!(reached.iter().filter(|&&reached| !reached).count(), 0);
}

#[test]
fn damaged_files_are_refused_and_never_panic() {
    let vectors = clustered(&mut ChaCha8Rng::seed_from_u64(11), 200, 6, 3);
    let config = DenseConfig { graph_from: 1, m: 4, ..DenseConfig::default() };
    let root = tempfile::tempdir().unwrap();
    write_segment(root.path(), &ids(200, 0, 1), &vectors, 6, &config, 1).unwrap();
    let query = queries(&vectors[..6], 6);
    let search = || {
        let index = DenseIndex::open(&[root.path().to_owned()], 6, &ChunkSet::new(), &config)?;
        let in_mode = |mode| {
            let found = index.clone().with_mode(mode).search(&query, 3, &[None]);
            found.map_err(|e| Error::Config { problem: e.to_string() })
        };
        in_mode(SearchMode::Int8)?;
        in_mode(SearchMode::OneBit)?;
        in_mode(SearchMode::Graph)
    };
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    for name in ["vectors.bin", "int8.bin", "bits.bin", "graph.bin"] {
        let path = root.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(97) {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(search().is_err(), "{name} cut to {length}");
        }
        for _ in 0..300 {
            let mut flipped = whole.clone();
            // Headers more often than their share.
            let range = if rng.random_bool(0.5) { 64 } else { whole.len() };
            flipped[rng.random_range(0..range)] ^= 1 << rng.random_range(0..8);
            std::fs::write(&path, &flipped).unwrap();
            let _ = search(); // A flipped neighbour or component cannot be told; it must only not panic or loop.
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(search().unwrap()[0].ids()[0], ChunkId(0));
    }
    std::fs::write(root.path().join("vectors.bin"), b"RAGLANVC\x07\0\0\0").unwrap();
    assert!(matches!(search(), Err(Error::File(FileError::Version { expected: 2, found: 7, .. }))));
}

#[test]
fn what_does_not_fit_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let config = DenseConfig::default();
    let write = |name: &str, ids: &[u32], vectors: &[f32]| {
        let ids: Vec<ChunkId> = ids.iter().copied().map(ChunkId).collect();
        write_segment(&folder(root.path(), name), &ids, vectors, 2, &config, 1)
    };
    assert!(matches!(write("a", &[0], &[1.0]), Err(Error::Vectors { .. })));
    assert!(matches!(write("b", &[1, 1], &[1.0; 4]), Err(Error::Vectors { .. })));
    assert!(matches!(write("c", &[1], &[1.0, f32::NAN]), Err(Error::Vectors { .. })));
    assert!(matches!(write("d", &[1], &[f32::INFINITY, 0.0]), Err(Error::Vectors { .. })));
    write("e", &[1], &[1.0, 0.0]).unwrap();
    assert!(matches!(
        write_segment(&root.path().join("e"), &[], &[], 2, &config, 1),
        Err(Error::File(FileError::Io { .. }))
    ));
    let open = |dim| DenseIndex::open(&[root.path().join("e")], dim, &ChunkSet::new(), &config);
    assert!(matches!(open(3), Err(Error::Dimension { expected: 3, found: 2, .. })));
    assert!(matches!(open(0), Err(Error::Config { .. })));
    let index = open(2).unwrap();
    let query = |components: &[f32]| [DenseVector::new(components.to_vec()).unwrap()];
    assert!(index.search(&query(&[1.0; 3]), 1, &[None]).is_err());
    assert!(index.search(&query(&[1.0; 2]), 1, &[]).is_err());
    assert!(index.search(&query(&[f32::MAX; 2]), 1, &[None]).is_ok());
    for bad in [
        DenseConfig { m: 1, ..DenseConfig::default() },
        DenseConfig { rescore: 0, ..DenseConfig::default() },
        DenseConfig { storage: vec![VectorStorage::Int8], ..DenseConfig::default() },
        DenseConfig { storage: vec![VectorStorage::F32, VectorStorage::F16], ..DenseConfig::default() },
        DenseConfig { storage: vec![VectorStorage::F32, VectorStorage::F32], ..DenseConfig::default() },
    ] {
        assert!(matches!(DenseIndex::open(&[], 2, &ChunkSet::new(), &bad), Err(Error::Config { .. })));
    }
}

#[test]
fn vectors_that_are_not_of_unit_length_get_no_graph() {
    let root = tempfile::tempdir().unwrap();
    let config = DenseConfig { graph_from: 1, ..DenseConfig::default() };
    write_segment(root.path(), &ids(2, 0, 1), &[3.0, 0.0, 0.0, 1.0], 2, &config, 1).unwrap();
    let index = DenseIndex::open(&[root.path().to_owned()], 2, &ChunkSet::new(), &config).unwrap();
    assert!(!index.has_graph(0));
    let query = DenseVector::new(vec![0.5, 1.0]).unwrap();
    let ranking = &index.with_mode(SearchMode::Graph).search(&[query], 2, &[None]).unwrap()[0];
    assert_eq!(ranking.ids(), [ChunkId(0), ChunkId(1)]); // 1.5 and 1.0
}
