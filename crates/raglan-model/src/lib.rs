//! Models: registry and download, tokenizers, weights, transformer forward.
