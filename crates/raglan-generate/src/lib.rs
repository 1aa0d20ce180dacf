//! Prompts, decoding, answers and citations.
