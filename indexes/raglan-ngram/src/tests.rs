//! N-grams against plain loops over the chunks, on many seeds; constrained generation; hand-worked scores; damage.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use raglan_core::{ChunkId, ChunkSet};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use crate::*;

/// Chunks by id, those that are deleted, and how they lie in segments.
struct Corpus {
    chunks: BTreeMap<u32, Vec<u32>>,
    deleted: BTreeSet<u32>,
    segments: usize,
}

impl Corpus {
    fn random(seed: u64) -> (Self, ChaCha8Rng) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n_symbols = [2, 4, 20][seed as usize % 3];
        let n_chunks = rng.random_range(0..12);
        let mut chunks = BTreeMap::new();
        for _ in 0..n_chunks {
            let n = rng.random_range(0..25);
            let text = (0..n).map(|_| rng.random_range(0..n_symbols)).collect();
            chunks.insert(rng.random_range(0..100), text);
        }
        let deleted = chunks.keys().copied().filter(|_| rng.random_bool(0.2)).collect();
        (Self { chunks, deleted, segments: rng.random_range(1..4) }, rng)
    }

    fn of(chunks: &[&[u32]]) -> Self {
        let chunks = chunks.iter().enumerate().map(|(i, text)| (i as u32, text.to_vec())).collect();
        Self { chunks, deleted: BTreeSet::new(), segments: 1 }
    }

    fn index(&self) -> (NgramIndex, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut folders: Vec<PathBuf> = Vec::new();
        for segment in 0..self.segments {
            let own = |(i, _): &(usize, (&u32, &Vec<u32>))| i % self.segments == segment;
            let own = self.chunks.iter().enumerate().filter(own).map(|(_, chunk)| chunk);
            let (ids, texts): (Vec<ChunkId>, Vec<Vec<u32>>) =
                own.map(|(&id, text)| (ChunkId(id), text.clone())).unzip();
            let own = folder.path().join(segment.to_string());
            std::fs::create_dir(&own).unwrap();
            write_segment(&own, &ids, &texts).unwrap();
            folders.push(own);
        }
        let deleted: ChunkSet = self.deleted.iter().copied().map(ChunkId).collect();
        (NgramIndex::open(&folders, &deleted).unwrap(), folder)
    }

    fn live(&self) -> impl Iterator<Item = (u32, &Vec<u32>)> {
        self.chunks.iter().filter(|(id, _)| !self.deleted.contains(id)).map(|(&id, text)| (id, text))
    }

    /// Where an n-gram stands, by looking everywhere.
    fn places(&self, ngram: &[u32]) -> Vec<Place> {
        let of_chunk = |(id, text): (u32, &Vec<u32>)| {
            let starts = (0..text.len()).filter(|&start| text[start..].starts_with(ngram)).collect::<Vec<_>>();
            starts.into_iter().map(move |start| Place { chunk: ChunkId(id), start: start as u32 })
        };
        self.live().flat_map(of_chunk).collect()
    }
}

#[test]
fn counts_places_and_next_tokens_are_those_of_plain_loops() {
    for seed in 0..200 {
        let (corpus, mut rng) = Corpus::random(seed);
        let (index, _folder) = corpus.index();
        assert_eq!(index.n_tokens(), corpus.live().map(|(_, text)| text.len() as u64).sum::<u64>());
        assert_eq!(index.chunks(), corpus.live().map(|(id, _)| ChunkId(id)).collect::<Vec<_>>());
        for (&id, text) in &corpus.chunks {
            let expected = (!corpus.deleted.contains(&id)).then_some(&text[..]);
            assert_eq!(index.tokens(ChunkId(id)), expected);
        }
        for _ in 0..40 {
            let n = rng.random_range(0..5);
            let ngram: Vec<u32> = (0..n).map(|_| rng.random_range(0..21)).collect();
            let found = index.find(&ngram);
            let expected = corpus.places(&ngram);
            assert_eq!((found.n(), found.count()), (n, expected.len() as u64), "seed {seed} {ngram:?}");
            let mut places: Vec<Place> = index.places(&found).collect();
            places.sort_unstable();
            assert_eq!(places, expected);

            let next = index.next_tokens(&found);
            let behind: BTreeSet<u32> = expected
                .iter()
                .filter_map(|place| corpus.chunks[&place.chunk.0].get(place.start as usize + n).copied())
                .collect();
            assert_eq!(next.iter().map(|(token, _)| *token).collect::<Vec<_>>(), Vec::from_iter(behind));
            for (token, occurrences) in next {
                assert_eq!(occurrences, index.extended(&found, token));
                assert!(occurrences.count() > 0);
            }
        }
    }
}

/// Log-probabilities that depend on the last two tokens of a prefix, in no sensible way.
struct Scripted {
    n_symbols: usize,
    seed: u64,
    asked: BTreeSet<Vec<u32>>,
}

impl NextTokens for Scripted {
    fn log_probabilities(&mut self, prefixes: &[&[u32]]) -> raglan_core::Result<Vec<Vec<f32>>> {
        let mut said = Vec::new();
        for prefix in prefixes {
            let known = prefix.is_empty() || self.asked.contains(&prefix[..prefix.len() - 1]);
            assert!(known, "{prefix:?} goes on from one of a call before");
            self.asked.insert(prefix.to_vec());
            said.push(self.row(prefix));
        }
        Ok(said)
    }
}

impl Scripted {
    fn row(&self, prefix: &[u32]) -> Vec<f32> {
        let tail = prefix.iter().rev().take(2).fold(self.seed, |sum, &token| sum * 31 + u64::from(token) + 1);
        let mut rng = ChaCha8Rng::seed_from_u64(tail);
        let logits: Vec<f32> = (0..self.n_symbols).map(|_| rng.random_range(-3.0..3.0)).collect();
        let total = logits.iter().map(|x| x.exp()).sum::<f32>().ln();
        logits.into_iter().map(|x| x - total).collect()
    }
}

#[test]
fn all_that_is_generated_stands_in_the_corpus() {
    for seed in 0..60 {
        let (corpus, _) = Corpus::random(seed);
        let (index, _folder) = corpus.index();
        let mut model = Scripted { n_symbols: 20, seed, asked: BTreeSet::new() };
        let search = BeamSearch { beams: 4, max_tokens: 5 };
        let generated = index.generate(&mut model, &search, &|token| token != 1).unwrap();
        for key in &generated.keys {
            assert!(!corpus.places(&key.tokens).is_empty(), "seed {seed} {key:?}");
            assert_ne!(key.tokens[0], 1);
            let expected: f64 =
                (0..key.tokens.len()).map(|n| f64::from(model.row(&key.tokens[..n])[key.tokens[n] as usize])).sum();
            assert!((key.log_probability - expected).abs() <= 1e-9);
        }
        let distinct: BTreeSet<&Vec<u32>> = generated.keys.iter().map(|key| &key.tokens).collect();
        assert_eq!(distinct.len(), generated.keys.len());

        // As many beams as there are n-grams find them all.
        let all = index.generate(&mut model, &BeamSearch { beams: 10_000, max_tokens: 3 }, &|_| true).unwrap();
        let mut expected = BTreeSet::new();
        for (_, text) in corpus.live() {
            expected.extend((1..=3).flat_map(|n| text.windows(n)).map(<[u32]>::to_vec));
        }
        let found: BTreeSet<Vec<u32>> = all.keys.iter().map(|key| key.tokens.clone()).collect();
        assert_eq!(found, expected);

        // And each is as likely as when it is asked for.
        let wanted: Vec<Vec<u32>> = found.into_iter().chain([vec![500], vec![]]).collect();
        let scored = index.scored_by(&mut model, &wanted).unwrap();
        let mut keys = all.keys;
        keys.sort_by(|a, b| a.tokens.cmp(&b.tokens));
        assert_eq!(scored.len(), keys.len());
        for (one, other) in scored.iter().zip(&keys) {
            assert_eq!(one.tokens, other.tokens);
            assert!((one.log_probability - other.log_probability).abs() <= 1e-12);
        }
    }
}

#[test]
fn a_model_that_says_no_numbers_is_refused() {
    struct Broken(Vec<Vec<f32>>);
    impl NextTokens for Broken {
        fn log_probabilities(&mut self, _: &[&[u32]]) -> raglan_core::Result<Vec<Vec<f32>>> {
            Ok(self.0.clone())
        }
    }
    let (index, _folder) = Corpus::of(&[&[0, 1]]).index();
    let check = |said| index.generate(&mut Broken(said), &BeamSearch::default(), &|_| true);
    assert!(matches!(check(vec![]), Err(raglan_core::Error::Shape { .. })));
    assert!(matches!(check(vec![vec![f32::NAN; 2]]), Err(raglan_core::Error::NotFinite { .. })));
    assert!(check(vec![vec![f32::NEG_INFINITY; 2]]).unwrap().keys.is_empty());
}

#[test]
fn weights_and_scores_are_those_worked_out_by_hand() {
    let scoring = SealScoring::default();
    // p = 1/2 has log-odds 0; (5 + 5) / (105 + 5) = 1/11 has ln(1/10).
    let ten = 10f64.ln();
    assert!((scoring.weight(0.5f64.ln(), 5, 105) - ten * ten).abs() <= 1e-9);
    assert!(scoring.weight((1.0f64 / 20.0).ln(), 5, 105).abs() <= 1e-12);
    assert!(scoring.weight(0.0, 5, 105).is_finite());

    // Chunk 0 has both keys apart, chunk 1 only as an overlap, chunk 2 the lighter alone.
    let corpus = Corpus::of(&[&[1, 2, 9, 2, 3], &[1, 2, 3], &[2, 3, 2, 3], &[9, 9, 8]]);
    let (index, _folder) = corpus.index();
    let half = 0.5f64.ln();
    let key = |tokens: &[u32], p: f64| Key { tokens: tokens.to_vec(), log_probability: p };
    let keys = [key(&[1, 2], half), key(&[2, 3], half), key(&[7], half), key(&[1, 2], 2.0 * half)];
    // (2 + 5) / (15 + 5) = 7/20 and (4 + 5) / 20 = 9/20: log-odds ln(7/13) and ln(9/11).
    let (heavy, light) = ((13f64 / 7.0).ln().powi(2), (11f64 / 9.0).ln().powi(2));
    let ranking = index.rank(&keys, &[], &scoring, 10, None).unwrap();
    // In chunk 0, one of two tokens of the lighter is new: .2 + .8 / 2.
    let expected = [(0, heavy + 0.6 * light), (1, heavy), (2, light)];
    assert_eq!(ranking.len(), 3);
    for (hit, (chunk, score)) in ranking.hits().iter().zip(expected) {
        assert_eq!(hit.chunk, ChunkId(chunk));
        assert!((f64::from(hit.score) - score).abs() <= 1e-6, "{hit:?} {score}");
    }

    // Token 9, three times among 15: (3 + 5) / 20 has log-odds ln(8/12). It counts where no n-gram had it.
    let nine = (12f64 / 8.0).ln().powi(2);
    let with = index.rank(&keys, &[(9, half)], &scoring, 10, None).unwrap();
    assert!((f64::from(with.hits()[0].score) - (heavy + 0.6 * light + nine)).abs() <= 1e-6);
    assert!((f64::from(with.hits()[1].score) - heavy).abs() <= 1e-6);

    let allowed: ChunkSet = [ChunkId(2), ChunkId(3)].into_iter().collect();
    assert_eq!(index.rank(&keys, &[], &scoring, 10, Some(&allowed)).unwrap().ids(), [ChunkId(2)]);
    // Frequent n-grams find chunks only when too few are found.
    let few = SealScoring { max_hits: 2, ..scoring };
    assert_eq!(index.rank(&keys, &[], &few, 2, None).unwrap().ids(), [ChunkId(0), ChunkId(1)]);
    assert_eq!(index.rank(&keys, &[], &few, 3, None).unwrap(), ranking);
    let wrong = SealScoring { repetition: f64::NAN, ..scoring };
    assert!(matches!(index.rank(&keys, &[], &wrong, 1, None), Err(Error::Parameter { .. })));
}

#[test]
fn rankings_do_not_depend_on_segments_or_deleted_chunks() {
    for seed in 0..60 {
        let (corpus, mut rng) = Corpus::random(seed);
        let question: Vec<u32> = (0..rng.random_range(0..8)).map(|_| rng.random_range(0..6)).collect();
        let keys = question_ngrams(&question, 3, &|_| true);
        let scoring = SealScoring { max_hits: 3, fully_scored: 4, ..SealScoring::default() };
        let live = corpus.live().map(|(id, text)| (id, text.clone())).collect();
        let plain = Corpus { chunks: live, deleted: BTreeSet::new(), segments: 1 };
        let rankings = [corpus, plain].map(|corpus| {
            let (index, _folder) = corpus.index();
            index.rank(&keys, &[(2, -1.0), (3, -1.5)], &scoring, 5, None).unwrap()
        });
        assert_eq!(rankings[0], rankings[1], "seed {seed}");
    }
}

#[test]
fn a_question_has_its_own_ngrams() {
    let keys = question_ngrams(&[4, 5, 4, 5], 2, &|token| token != 5);
    let expected = [(vec![4], 2.0 / 5.0), (vec![4, 5], 2.0 / 5.0)];
    assert_eq!(keys.len(), 2);
    for (key, (tokens, p)) in keys.iter().zip(expected) {
        assert_eq!(key.tokens, tokens);
        assert!((key.log_probability.exp() - p).abs() <= 1e-12);
    }
    assert!(question_ngrams(&[], 3, &|_| true).is_empty());
}

#[test]
fn quotations_are_the_longest_runs() {
    let (index, _folder) = Corpus::of(&[&[1, 2, 3, 4], &[3, 4, 5, 6, 7], &[3, 4, 5]]).index();
    let quotations = |text: &[u32], min| {
        let place = |q: &Quotation| (q.tokens.clone(), q.place.chunk.0, q.place.start, q.count);
        index.quotations(text, min).iter().map(place).collect::<Vec<_>>()
    };
    // 3 4 5 6 7 is longer than 1 2 3 4, of which 1 2 is left.
    assert_eq!(quotations(&[9, 1, 2, 3, 4, 5, 6, 7], 2), [(1..3, 0, 0, 1), (3..8, 1, 0, 1)]);
    assert_eq!(quotations(&[9, 1, 2, 3, 4, 5, 6, 7], 3), [(3..8, 1, 0, 1)]);
    assert_eq!(quotations(&[3, 4, 5], 1), [(0..3, 1, 0, 2)]);
    assert_eq!(quotations(&[4, 3], 0), [(0..1, 0, 3, 3), (1..2, 0, 2, 3)]);
    assert_eq!(quotations(&[], 1), []);
    assert_eq!(quotations(&[8, 8], 1), []);
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ids = [ChunkId(1), ChunkId(1)];
    assert!(matches!(write_segment(folder.path(), &ids, &[vec![], vec![]]), Err(Error::Order { .. })));
    assert!(matches!(write_segment(folder.path(), &ids[..1], &[]), Err(Error::Tokens { .. })));
    assert!(matches!(write_segment(folder.path(), &ids[..1], &[vec![u32::MAX]]), Err(Error::Tokens { .. })));
}

/// Damage is noticed when a segment is opened, wherever it is.
#[test]
fn damaged_files_are_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    write_segment(folder.path(), &[ChunkId(1), ChunkId(5)], &[vec![1, 2, 1], vec![2, 2]]).unwrap();
    let path = folder.path().join("ngrams.bin");
    let bytes = std::fs::read(&path).unwrap();
    let open = || NgramIndex::open(&[folder.path().to_path_buf()], &ChunkSet::new()).map(drop);
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
            let deleted: ChunkSet = [ChunkId(1)].into_iter().collect();
            for deleted in [ChunkSet::new(), deleted] {
                if let Ok(index) = NgramIndex::open(&[folder.path().to_path_buf()], &deleted) {
                    index.quotations(&[1, 2, 2, 1, 2], 1);
                    let next = index.next_tokens(&index.empty());
                    next.iter().for_each(|(_, found)| assert!(index.places(found).count() <= 5));
                    let keys = question_ngrams(&[1, 2, 1], 3, &|_| true);
                    index.rank(&keys, &[], &SealScoring::default(), 3, None).unwrap();
                }
            }
        }
    }
}
