use raglan_core::{Generator, Retriever};
use raglan_pipeline::{Stage, generate, retrieve};

fn answer(bm25: &dyn Retriever, model: &dyn Generator) {
    retrieve(bm25, 10).then(generate(model));
}

fn main() {}
