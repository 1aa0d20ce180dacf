//! Chunkers: they cut parsed documents into passages.
