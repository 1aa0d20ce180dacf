//! A retriever of your own beside BM25, in a pipeline that the compiler checks: `cargo run --example own_retriever`

use std::sync::Arc;

use raglan::core::{ChunkId, ChunkSet, Hit, Query, Ranking, Result, Retriever};
use raglan::pipeline::{Fusion, Stage, fuse, retrieve};
use raglan::sparse::{AnalyzerConfig, Bm25Index, Bm25SegmentWriter};

/// Finds chunks by how many three-letter sequences they share with the query: forgiving of typing errors.
struct Trigrams(Vec<String>);

impl Retriever for Trigrams {
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
        let rank = |query: &Query| {
            let shared = |text: &String| query.text.as_bytes().windows(3).filter(|t| has(text, t)).count() as f32;
            let hits = self.0.iter().zip(0..).map(|(text, id)| Hit::new(ChunkId(id), shared(text)));
            Ranking::best(hits.filter(|hit| hit.score > 0.0).collect(), k)
        };
        queries.iter().map(rank).collect()
    }
}

fn has(text: &str, bytes: &[u8]) -> bool {
    text.as_bytes().windows(bytes.len()).any(|window| window == bytes)
}

fn main() -> anyhow::Result<()> {
    let texts = ["the manifest names every file", "a reader sees one generation", "scores go by lower id"];
    let folder = tempfile::tempdir()?;
    let analyzer = AnalyzerConfig::default();
    let mut writer = Bm25SegmentWriter::create(folder.path(), &analyzer, 1)?;
    for (id, text) in (0..).zip(texts) {
        writer.add(ChunkId(id), text)?;
    }
    writer.finish()?;
    let bm25 = Arc::new(Bm25Index::open(&[folder.path().to_owned()], &ChunkSet::new(), &analyzer)?);

    let own = Trigrams(texts.map(str::to_owned).to_vec());
    let search = retrieve(bm25, 10).both(retrieve(Arc::new(own), 10)).then(fuse(Fusion::RECIPROCAL_RANK, 2));
    for ranked in search.run(vec![Query::new("manifset names"), Query::new("genaration")])? {
        println!("{} → {}", ranked.query.text, texts[ranked.ranking.ids()[0].0 as usize]);
    }
    Ok(())
}
