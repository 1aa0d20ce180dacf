use raglan_core::{ChunkStore, Retriever};
use raglan_pipeline::{Ranked, Stage, read, retrieve, select};

fn search(bm25: &dyn Retriever, store: &dyn ChunkStore) {
    retrieve(bm25, 10).branch(|found: &Ranked| found.ranking.is_empty(), select(3), read(store));
}

fn main() {}
