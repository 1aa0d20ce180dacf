//! Metrics of retrieval and chunking.
