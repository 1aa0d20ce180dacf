//! Passages as retrieval would hand them over.

use std::collections::BTreeMap;
use std::sync::Arc;

use raglan_core::{Chunk, ChunkId, ContentHash, DocId, Document, Format, Locator, Passage};

/// A passage of the document `notes/{i}.md`, which is its whole text.
pub fn passage(i: usize, text: &str) -> Passage {
    Passage {
        chunk: Chunk {
            id: ChunkId(10 + i as u32),
            doc: DocId(i as u32),
            span: 0..text.len(),
            text: text.to_owned(),
            locator: Locator::default(),
            n_tokens: 0,
        },
        document: Arc::new(Document {
            id: DocId(i as u32),
            path: format!("notes/{i}.md"),
            hash: ContentHash([0; 32]),
            size: 0,
            mtime_ns: 0,
            format: Format::Markdown,
            reader: "markdown/1".to_owned(),
            encoding: None,
            title: None,
            metadata: BTreeMap::new(),
        }),
        score: 0.5,
    }
}
