//! Graphs of several segments against that of one, chunks that only an association finds, and damaged files.

use std::path::{Path, PathBuf};

use raglan_core::{ChunkId, ChunkSet, Hit};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::*;

const DIM: usize = 4;

/// What is extracted from chunks, by id.
type Corpus = Vec<(u32, Extraction)>;

fn random_corpus(rng: &mut ChaCha8Rng) -> Corpus {
    let n = rng.random_range(0..12);
    let mut id = 0;
    let chunk = |_| {
        id += rng.random_range(1..4);
        let names: Vec<String> =
            (0..rng.random_range(0..5)).map(|_| format!("entity {}", rng.random_range(0..8))).collect();
        let pairs: Vec<(usize, usize)> = (0..rng.random_range(0..4) * names.len().min(1))
            .map(|_| (rng.random_range(0..names.len()), rng.random_range(0..names.len())))
            .collect();
        let relations = pairs.iter().map(|&(a, b)| (&*names[a], &*names[b]));
        (id, Extraction::new(names.iter().map(String::as_str), relations))
    };
    (0..n).map(chunk).collect()
}

/// A vector that the name alone decides; names with numbers of one half are near to each other.
fn vector(name: &str) -> Vec<f32> {
    let number: u64 = name.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(9);
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let mut vector: Vec<f32> = (0..DIM).map(|_| rng.random_range(-0.3..0.3)).collect();
    vector[(number / 4) as usize % DIM] += 1.0;
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}

/// Writes the chunks as one segment beside others.
fn write(folder: &Path, chunks: &[&(u32, Extraction)], others: &[PathBuf]) {
    std::fs::create_dir(folder).unwrap();
    let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| ChunkId(*id)).collect();
    let draft = SegmentDraft::new(&ids, chunks.iter().map(|(_, said)| said.clone()).collect()).unwrap();
    let vectors = draft.names().iter().flat_map(|name| vector(name)).collect();
    draft.with_vectors(DIM, vectors, others, &SynonymConfig::default()).unwrap().write(folder).unwrap();
}

/// What a search sees of an index.
#[track_caller]
fn check_same(a: &GraphIndex, b: &GraphIndex, text: &str) {
    assert_eq!(a.chunks().collect::<Vec<_>>(), b.chunks().collect::<Vec<_>>(), "{text}");
    assert_eq!((a.n_entities(), a.graph().n_edges()), (b.n_entities(), b.graph().n_edges()), "{text}");
    let seeds: Vec<_> = (0..a.n_entities() as u32).step_by(2).map(|entity| (EntityId(entity), 1.0)).collect();
    let chunks: Vec<Hit> = a.chunks().enumerate().map(|(i, chunk)| Hit::new(chunk, i as f32)).collect();
    let ranked = |index: &GraphIndex| index.rank(&seeds, &chunks, &GraphSearch::default(), 10, None).unwrap();
    assert_eq!(ranked(a), ranked(b), "{text}");
    for name in ["entity 3", "entity 6"] {
        assert_eq!(a.nearest(&vector(name)).unwrap(), b.nearest(&vector(name)).unwrap(), "{text}");
        assert_eq!(a.entity(name), b.entity(name));
    }
}

#[test]
fn a_graph_does_not_depend_on_segments_deleted_chunks_or_merges() {
    for seed in 0..100 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let corpus = random_corpus(&mut rng);
        let deleted: ChunkSet = corpus.iter().map(|(id, _)| ChunkId(*id)).filter(|_| rng.random_bool(0.2)).collect();
        let folder = tempfile::tempdir().unwrap();
        let live: Vec<_> = corpus.iter().filter(|(id, _)| !deleted.contains(ChunkId(*id))).collect();
        let plain = folder.path().join("plain");
        write(&plain, &live, &[]);
        let expected = GraphIndex::open(&[plain], &ChunkSet::new()).unwrap();

        let mut segments: Vec<PathBuf> = Vec::new();
        for part in corpus.iter().collect::<Vec<_>>().chunks(5) {
            let own = folder.path().join(segments.len().to_string());
            write(&own, part, &segments);
            segments.push(own);
        }
        let index = GraphIndex::open(&segments, &deleted).unwrap();
        check_same(&index, &expected, &format!("seed {seed}"));
        if !segments.is_empty() {
            let merged = folder.path().join("merged");
            std::fs::create_dir(&merged).unwrap();
            merge_segments(&merged, &segments, &deleted).unwrap();
            check_same(&GraphIndex::open(&[merged], &ChunkSet::new()).unwrap(), &expected, &format!("seed {seed}"));
        }
    }
}

#[test]
fn near_entities_are_synonyms() {
    let folder = tempfile::tempdir().unwrap();
    let chunks: Corpus = (0..8).map(|i| (i, Extraction::new([&*format!("entity {i}")], []))).collect();
    let own = folder.path().join("0");
    write(&own, &chunks.iter().collect::<Vec<_>>(), &[]);
    let index = GraphIndex::open(&[own], &ChunkSet::new()).unwrap();
    let mut expected = 0;
    for i in 0..8u32 {
        let (a, cosine) = (vector(&format!("entity {i}")), |b: &[f32], a: &[f32]| -> f32 {
            a.iter().zip(b).map(|(x, y)| x * y).sum()
        });
        expected += (i + 1..8).filter(|j| cosine(&vector(&format!("entity {j}")), &a) >= 0.8).count();
    }
    assert!(expected > 0);
    // And each entity has one chunk.
    assert_eq!(index.graph().n_edges(), 8 + expected);
}

/// A question about what one chunk says of something that another is about: the second is not like the question.
#[test]
fn an_association_finds_what_is_not_like_the_question() {
    let texts = [
        "The Collegian is a paper that students of Houston Baptist University publish.",
        "Houston Baptist University opened in Texas with a few hundred students.",
        "A Paper is founded when somebody pays for it.",
        "The founding of Institutes is told by the Chronicle.",
        "Who owned the Tribune is not known to the Institute.",
        "The Gazette was founded by an institute in Ohio.",
        "When the Herald was founded, nobody read it.",
        "Owners of papers founded the Guild.",
    ];
    let ids: Vec<ChunkId> = (0..texts.len() as u32).map(ChunkId).collect();
    let folder = tempfile::tempdir().unwrap();
    let said = RuleExtractor.extract(&texts).unwrap();
    SegmentDraft::new(&ids, said).unwrap().write(folder.path()).unwrap();
    let index = GraphIndex::open(&[folder.path().to_path_buf()], &ChunkSet::new()).unwrap();

    let question = "When was the institute that owned The Collegian founded?";
    let cosines = [0.7, 0.1, 0.5, 0.6, 0.65, 0.55, 0.6, 0.4];
    let dense: Vec<Hit> = ids.iter().zip(cosines).map(|(&id, cosine)| Hit::new(id, cosine)).collect();
    let seeds: Vec<_> = index.entities_in(question).into_iter().map(|entity| (entity, 1.0)).collect();
    let recall_at_5 = |ranking: &raglan_core::Ranking| ranking.ids()[..5].iter().filter(|id| id.0 < 2).count();

    let by_vectors = index.rank(&[], &dense, &GraphSearch::default(), 10, None).unwrap();
    assert_eq!(by_vectors.hits()[0], dense[0]);
    assert_eq!(recall_at_5(&by_vectors), 1);
    let by_graph = index.rank(&seeds, &dense, &GraphSearch::default(), 10, None).unwrap();
    assert_eq!(recall_at_5(&by_graph), 2, "{by_graph:?}");

    let allowed: ChunkSet = [ChunkId(1), ChunkId(4)].into_iter().collect();
    let some = index.rank(&seeds, &dense, &GraphSearch::default(), 10, Some(&allowed)).unwrap();
    // The second is like the question, so that the walk begins there too.
    assert_eq!(some.ids(), [ChunkId(4), ChunkId(1)]);
    assert_eq!(index.rank(&[], &dense, &GraphSearch::default(), 1, Some(&allowed)).unwrap().ids(), [ChunkId(4)]);
}

#[test]
fn an_entity_that_few_chunks_name_weighs_more() {
    let chunks: Corpus = vec![
        (0, Extraction::new(["rare"], [])),
        (1, Extraction::new(["often"], [])),
        (2, Extraction::new(["often"], [])),
        (3, Extraction::new([], [])),
    ];
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| ChunkId(*id)).collect();
    let said = chunks.into_iter().map(|(_, said)| said).collect();
    SegmentDraft::new(&ids, said).unwrap().write(folder.path()).unwrap();
    let index = GraphIndex::open(&[folder.path().to_path_buf()], &ChunkSet::new()).unwrap();
    assert_eq!(index.nearest(&[1.0]).unwrap(), None);
    let seeds: Vec<_> = index.entities_in("OFTEN, and rare things").into_iter().map(|entity| (entity, 1.0)).collect();
    assert_eq!(seeds.len(), 2);
    let ranking = index.rank(&seeds, &[], &GraphSearch::default(), 10, None).unwrap();
    assert_eq!(ranking.ids(), [ChunkId(0), ChunkId(1), ChunkId(2)]);
    // 2/3 of the walks begin at the rare one, and as many end at its chunk as at it, but for those that begin again.
    assert!((ranking.hits()[0].score / ranking.hits()[1].score - 4.0).abs() <= 1e-4);
    let wrong = [(EntityId(0), f32::NAN)];
    assert!(matches!(index.rank(&wrong, &[], &GraphSearch::default(), 1, None), Err(Error::Invalid { .. })));
    let wrong = [Hit::new(ChunkId(0), f32::INFINITY)];
    assert!(matches!(index.rank(&seeds, &wrong, &GraphSearch::default(), 1, None), Err(Error::Invalid { .. })));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let said = || vec![Extraction::new(["someone"], []), Extraction::default()];
    let ids = [ChunkId(1), ChunkId(1)];
    assert!(matches!(SegmentDraft::new(&ids, said()), Err(Error::Order { .. })));
    assert!(matches!(SegmentDraft::new(&ids[..1], said()), Err(Error::Invalid { .. })));
    for vectors in [vec![1.0; 3], vec![1.0, f32::NAN]] {
        let draft = SegmentDraft::new(&[ChunkId(1), ChunkId(2)], said()).unwrap();
        let with = draft.with_vectors(2, vectors, &[], &SynonymConfig::default());
        assert!(matches!(with, Err(Error::Invalid { .. })));
    }
}

/// Damage is noticed when a segment is opened, wherever it is.
#[test]
fn damaged_files_are_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("0");
    let chunks: Corpus = vec![
        (3, Extraction::new([], [("entity 1", "entity 2"), ("entity 2", "entity 7")])),
        (8, Extraction::new(["entity 1"], [])),
    ];
    write(&own, &chunks.iter().collect::<Vec<_>>(), &[]);
    let path = own.join("graph.bin");
    let bytes = std::fs::read(&path).unwrap();
    let open = || GraphIndex::open(std::slice::from_ref(&own), &ChunkSet::new());
    open().unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(matches!(open(), Err(Error::File(_))), "{len} bytes");
    }
    for bit in (0..bytes.len() * 8).step_by(5) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        assert!(matches!(open(), Err(Error::File(_))), "bit {bit}");
    }
    // Numbers that make no sense under a right checksum are refused or do no harm.
    for byte in (12..56).chain(64..bytes.len()) {
        for value in [0, 2, 255] {
            let mut forged = bytes.clone();
            forged[byte] = value;
            let all_else = [&forged[..56], &forged[64..]].concat();
            let checksum = xxhash_rust::xxh3::xxh3_64(&all_else);
            forged[56..64].copy_from_slice(&checksum.to_le_bytes());
            std::fs::write(&path, &forged).unwrap();
            if let Ok(index) = open() {
                let seeds: Vec<_> = (0..index.n_entities() as u32).map(|entity| (EntityId(entity), 1.0)).collect();
                index.rank(&seeds, &[], &GraphSearch::default(), 10, None).unwrap();
                index.nearest(&vec![0.5; index.dim()]).unwrap();
            }
        }
    }
}
