//! Passages that tests make up.

use std::sync::Arc;

use raglan_core::{Chunk, ChunkId, ContentHash, Context, DocId, Document, Format, Locator, Passage};

/// A passage of a document, with as many tokens as it has words; better the lower its id, and behind those with lower
/// ones in its document.
pub(crate) fn passage(id: u32, doc: u32, text: &str) -> Passage {
    let start = id as usize * 1000;
    Passage {
        chunk: Chunk {
            id: ChunkId(id),
            doc: DocId(doc),
            span: start..start + text.len(),
            text: text.to_owned(),
            locator: Locator::default(),
            n_tokens: text.split_whitespace().count() as u32,
        },
        document: Arc::new(Document {
            id: DocId(doc),
            path: format!("{doc}.txt"),
            hash: ContentHash([0; 32]),
            size: 0,
            mtime_ns: 0,
            format: Format::PlainText,
            reader: "text/1".to_owned(),
            encoding: None,
            title: None,
            metadata: Default::default(),
        }),
        score: 1.0 / (1.0 + id as f32),
    }
}

/// The chunks of a context's passages, in order.
pub(crate) fn ids(context: &Context) -> Vec<u32> {
    context.passages.iter().map(|passage| passage.chunk.id.0).collect()
}
