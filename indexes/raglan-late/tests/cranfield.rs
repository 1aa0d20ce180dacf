//! What compression costs on real texts: Cranfield (Cleverdon 1967) by the hidden states of MiniLM.
//!
//! Reads `$RAGLAN_DATA/classic/cranfield` and `$RAGLAN_CACHE/all-minilm-l6-v2`; says so and does nothing when either
//! variable is not set. It takes the first 250 documents, or as many as `RAGLAN_DOCUMENTS` says.

use std::path::PathBuf;

use raglan_core::{ChunkId, ChunkSet, Encoder, Hit, Ranking, TokenMatrix, VectorIndex};
use raglan_datasets::{Run, beir};
use raglan_embed::{TokenEncoder, TokenEncoderConfig, token_counter};
use raglan_eval::{Metric, evaluate};
use raglan_kernels::{PackedMatrix, max_sim};
use raglan_late::{LateConfig, LateIndex, TokenStorage, write_late_segment};
use rayon::prelude::*;

#[test]
fn compressed_tokens_rank_as_exact_ones_do() {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(root), Some(cache)) = (folder("RAGLAN_DATA"), folder("RAGLAN_CACHE")) else {
        eprintln!("not run: RAGLAN_DATA and RAGLAN_CACHE do not name the folders of evaluation data and models");
        return;
    };
    let collection = beir::read(&root.join("classic/cranfield"), "test").unwrap();
    let model = cache.join("all-minilm-l6-v2");
    let config = TokenEncoderConfig::for_sentence_model(&model).unwrap();
    let (room, counter) = (config.passage_tokens - 2, token_counter(&model).unwrap());
    let encoder = TokenEncoder::load(&model, config, 2).unwrap();
    let n = std::env::var("RAGLAN_DOCUMENTS").map_or(250, |n| n.parse().expect("RAGLAN_DOCUMENTS is a number"));
    let (names, texts): (Vec<String>, Vec<String>) =
        collection.documents.into_iter().take(n).map(|d| (d.id, d.title + " " + &d.text)).unzip();
    let mut cut = Vec::new();
    for text in &texts {
        let spans = counter.token_spans(text).unwrap();
        cut.push(if spans.len() <= room { text.as_str() } else { &text[..spans[room - 1].end] });
    }
    let documents = encoder.encode_passages(&cut).unwrap();
    let judged = collection.queries.into_iter().filter(|query| collection.qrels.contains_query(&query.id));
    let (queries, texts): (Vec<String>, Vec<String>) = judged.map(|query| (query.id, query.text)).unzip();
    let vectors = encoder.encode_queries(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();

    let exact: Vec<Ranking> = vectors.par_iter().map(|query| exact_search(query, &documents)).collect();
    let ndcg = |rankings: &[Ranking]| {
        let mut run = Run::default();
        for (query, ranking) in queries.iter().zip(rankings) {
            ranking.hits().iter().for_each(|hit| run.insert(query, &names[hit.chunk.0 as usize], hit.score));
        }
        evaluate(&run, &collection.qrels, Metric::Ndcg { k: Some(10) }).mean
    };
    let want = ndcg(&exact);
    for (storage, least) in [(TokenStorage::F16, 0.99), (TokenStorage::FourBit, 0.99), (TokenStorage::TwoBit, 0.92)] {
        let segment = tempfile::tempdir().unwrap();
        let config = LateConfig { storage, ..LateConfig::default() };
        let ids: Vec<ChunkId> = (0..documents.len() as u32).map(ChunkId).collect();
        write_late_segment(segment.path(), &ids, &documents, &config).unwrap();
        let index = LateIndex::open(&[segment.path().to_owned()], &ChunkSet::new(), &config).unwrap();
        let found = index.search(&vectors, 10, &vec![None; vectors.len()]).unwrap();
        let (mut hits, mut all) = (0, 0);
        for (found, exact) in found.iter().zip(&exact) {
            all += exact.len();
            hits += exact.ids().iter().filter(|id| found.ids().contains(id)).count();
        }
        let (got, recall) = (ndcg(&found), hits as f64 / all as f64);
        eprintln!("{storage:?}: nDCG@10 {got:.4}, exact {want:.4}, recall of the exact ten {recall:.4}");
        assert!((got - want).abs() <= 0.005, "{storage:?}: nDCG@10 {got}, exact {want}");
        assert!(recall >= least, "{storage:?}: recall {recall}");
    }
}

/// The best ten of all documents.
fn exact_search(query: &TokenMatrix, documents: &[TokenMatrix]) -> Ranking {
    let query = PackedMatrix::new(query.as_slice(), query.n_tokens(), query.dim()).unwrap();
    let hits = documents.iter().enumerate().map(|(chunk, document)| {
        let mut score = [0.0];
        max_sim(&query, document.as_slice(), &[document.n_tokens()], &mut score).unwrap();
        Hit::new(ChunkId(chunk as u32), score[0])
    });
    Ranking::best(hits.collect(), 10).unwrap()
}
