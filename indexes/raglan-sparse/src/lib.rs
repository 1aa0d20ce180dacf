//! Sparse retrieval: BM25 on tantivy.
