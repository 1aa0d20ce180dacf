//! Readers of evaluation collections: BEIR, TREC, chunk references.
