//! Chunkers compared by what is retrieved with their chunks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use raglan_core::{Chunk, ChunkId, ChunkSet, Chunker, VectorIndex};
use raglan_dense::{DenseConfig, DenseIndex, write_segment};
use raglan_eval::chunking::{precision_omega, score};
use raglan_ingest::{Limits, read_bytes};
use serde::Serialize;

use crate::embedder::Embedder;
use crate::{Error, Result};

/// How well a chunker's chunks serve, as means over the questions.
#[derive(Clone, Debug, Serialize)]
pub struct ChunkingRow {
    /// The chunker's fingerprint.
    pub chunker: String,
    /// How many chunks it made of all documents.
    pub chunks: usize,
    /// Their mean length in tokens.
    pub mean_tokens: f64,
    /// How many questions were asked.
    pub questions: usize,
    /// Chunks retrieved for each.
    pub k: usize,
    /// Share of the reference passages that the retrieved chunks cover.
    pub recall: f64,
    /// Share of the retrieved chunks that is reference.
    pub precision: f64,
    /// Covered reference over retrieved chunks and uncovered reference.
    pub iou: f64,
    /// IoU if every chunk that touches a reference, and no other, were retrieved: the chunker's own ceiling.
    pub precision_omega: f64,
}

/// Cuts documents with marked reference passages, retrieves `k` chunks a question by exact search with the encoder, and
/// compares them with the references.
///
/// # Errors
///
/// When the collection cannot be read, or the encoder fails.
pub fn eval_chunking(
    path: &Path,
    chunker: &dyn Chunker,
    prefix_headings: bool,
    embedder: &Embedder,
    k: usize,
) -> Result<ChunkingRow> {
    let collection = raglan_datasets::chunking::read(path)?;
    let encoder = embedder.encoder()?;
    let mut spans: Vec<(String, Range<usize>)> = Vec::new();
    let mut vectors = Vec::new();
    let mut n_tokens = 0;
    for (name, text) in &collection.corpora {
        let file = format!("{name}.md");
        let document = read_bytes(&file, text.clone().into_bytes(), &Limits::default())
            .map_err(|reason| Error::Malformed { path: path.join(&file), problem: reason.to_string() })?;
        let chunks = chunker.chunk(&document)?;
        let texts: Vec<String> = chunks
            .iter()
            .map(|chunk| {
                let own = &document.text[chunk.span.clone()];
                if prefix_headings { Chunk::prefixed(&chunk.locator, own) } else { own.to_owned() }
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for vector in encoder.encode_passages(&texts)? {
            vectors.extend_from_slice(vector.as_slice());
        }
        n_tokens += chunks.iter().map(|chunk| chunk.n_tokens as usize).sum::<usize>();
        spans.extend(chunks.into_iter().map(|chunk| (name.clone(), chunk.span)));
    }
    let folder = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
    let ids: Vec<ChunkId> = (0..spans.len() as u32).map(ChunkId).collect();
    let dim = embedder.stamp().dim;
    write_segment(folder.path(), &ids, &vectors, dim, &DenseConfig::default(), 1)?;
    let index = DenseIndex::open(&[folder.path().to_owned()], dim, &ChunkSet::new(), &DenseConfig::default())?;

    let mut of_corpus: BTreeMap<&str, Vec<Range<usize>>> = BTreeMap::new();
    for (name, span) in &spans {
        of_corpus.entry(name).or_default().push(span.clone());
    }
    let questions: Vec<&str> = collection.questions.iter().map(|question| question.text.as_str()).collect();
    let rankings = index.search(&encoder.encode_queries(&questions)?, k, &vec![None; questions.len()])?;
    let n = questions.len().max(1) as f64;
    let mut row = ChunkingRow {
        chunker: chunker.fingerprint(),
        chunks: spans.len(),
        mean_tokens: n_tokens as f64 / spans.len().max(1) as f64,
        questions: questions.len(),
        k,
        recall: 0.0,
        precision: 0.0,
        iou: 0.0,
        precision_omega: 0.0,
    };
    for (question, ranking) in collection.questions.iter().zip(rankings) {
        // Chunks of other documents count as retrieved and cover nothing: they are placed beyond the document's end.
        let beyond = collection.corpora[&question.corpus].len();
        let retrieved: Vec<Range<usize>> = ranking
            .hits()
            .iter()
            .enumerate()
            .map(|(i, hit)| {
                let (name, span) = &spans[hit.chunk.0 as usize];
                let shift = if *name == question.corpus { 0 } else { (beyond + span.end) * (i + 1) };
                span.start + shift..span.end + shift
            })
            .collect();
        let found = score(&question.references, &retrieved);
        row.recall += found.recall / n;
        row.precision += found.precision / n;
        row.iou += found.iou / n;
        row.precision_omega += precision_omega(&question.references, &of_corpus[question.corpus.as_str()]) / n;
    }
    Ok(row)
}
