//! Dense retrieval: exact scan and HNSW.
