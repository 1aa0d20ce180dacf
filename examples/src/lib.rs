//! Literate programs on the library, in `examples/`; each is one file of less than forty lines.
//!
//! - `index_and_search`: index a folder and search it.
//! - `custom_prompt`: answer with a prompt of your own.
//! - `own_retriever`: a retriever of your own in a pipeline.
#![forbid(unsafe_code)]
