//! A model with its tokenizer and its chat template: all that one GGUF file holds.

use std::path::Path;

use raglan_model::{ChatTemplate, GgufFile, LlamaModel, Products, Tokenizer};

use crate::Result;

/// An instruction-tuned language model, ready to converse.
#[derive(Debug)]
pub struct LanguageModel {
    /// The transformer.
    pub transformer: LlamaModel,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How a conversation is written for it.
    pub template: ChatTemplate,
    /// The name that the file gives the model.
    pub name: String,
}

impl LanguageModel {
    /// Loads a GGUF file of a Llama-family model, to run on `threads` threads with one kind of products.
    ///
    /// # Errors
    ///
    /// [`Error::Model`](crate::Error::Model) when the file is not sound or holds a model of another kind.
    pub fn load(gguf: impl AsRef<Path>, threads: usize, products: Products) -> Result<Self> {
        let gguf = gguf.as_ref();
        let file = GgufFile::open(gguf)?;
        // The tokenizer takes one core a while; the weights meanwhile use the others.
        let (transformer, tokenizer) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| Tokenizer::from_gguf(&file));
            let transformer = LlamaModel::from_gguf(&file, threads, products);
            (transformer, tokenizer.join().expect("reading a tokenizer does not panic"))
        });
        let stem = || gguf.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = file.text("general.name")?.map_or_else(stem, str::to_owned);
        Ok(Self { transformer: transformer?, tokenizer: tokenizer?, template: ChatTemplate::from_gguf(&file)?, name })
    }
}
