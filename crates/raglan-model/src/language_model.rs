//! A model with its tokenizer and its chat template: all that one GGUF file or one folder holds.

use std::path::Path;

use crate::{ChatTemplate, DecoderModel, GgufFile, Products, Result, Tokenizer};

/// An instruction-tuned language model, ready to converse.
#[derive(Debug)]
pub struct LanguageModel {
    /// The transformer.
    pub transformer: DecoderModel,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How a conversation is written for it.
    pub template: ChatTemplate,
    /// The name that the file gives the model.
    pub name: String,
}

impl LanguageModel {
    /// Loads a model from a GGUF file, or from a folder of a Hugging Face repository with `config.json`, safetensors
    /// and `tokenizer.json`, to run on `threads` threads with one kind of products.
    ///
    /// # Errors
    ///
    /// What [`DecoderModel::load`], [`Tokenizer`] and [`ChatTemplate`] give when a file is not sound or holds a model of another kind.
    pub fn load(path: impl AsRef<Path>, threads: usize, products: Products) -> Result<Self> {
        Self::load_by(
            path.as_ref(),
            |folder| DecoderModel::load(folder, threads, products),
            |file| DecoderModel::from_gguf(file, threads, products),
        )
    }

    /// Loads a model as [`load`](Self::load) does, whose transformer is on a device.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load), and for [`DecoderModel::load_on_device`].
    #[cfg(feature = "cuda")]
    pub fn load_on_device(
        path: impl AsRef<Path>,
        device: &raglan_kernels::cuda::CudaDevice,
        threads: usize,
        products: Products,
    ) -> Result<Self> {
        Self::load_by(
            path.as_ref(),
            |folder| DecoderModel::load_on_device(folder, device, threads, products),
            |file| DecoderModel::gguf_to_device(file, device, threads, products),
        )
    }

    fn load_by(
        path: &Path,
        of_folder: impl FnOnce(&Path) -> Result<DecoderModel>,
        of_gguf: impl FnOnce(&GgufFile) -> Result<DecoderModel>,
    ) -> Result<Self> {
        if path.is_dir() {
            let (transformer, tokenizer) =
                beside(|| Tokenizer::from_file(path.join("tokenizer.json")), || of_folder(path));
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let template = ChatTemplate::from_folder(path)?;
            return Ok(Self { transformer: transformer?, tokenizer: tokenizer?, template, name });
        }
        let file = GgufFile::open(path)?;
        let (transformer, tokenizer) = beside(|| Tokenizer::from_gguf(&file), || of_gguf(&file));
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = file.text("general.name")?.map_or_else(stem, str::to_owned);
        Ok(Self { transformer: transformer?, tokenizer: tokenizer?, template: ChatTemplate::from_gguf(&file)?, name })
    }
}

impl LanguageModel {
    /// The first `max_tokens` tokens of a text that somebody else wrote, without the marks of chat templates.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`](crate::Error::Tokenizer).
    pub fn encode_text(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>> {
        // No token is longer than this many bytes for long; what is cut off is not worth its time.
        let mut end = text.len().min(max_tokens.saturating_mul(32));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut ids = self.tokenizer.encode(&self.tokenizer.defuse(&text[..end]), false)?.ids;
        ids.truncate(max_tokens);
        Ok(ids)
    }
}

/// Runs both loads: the tokenizer takes one core a while; the weights meanwhile use the others.
fn beside<T: Send, W>(tokenizer: impl FnOnce() -> T + Send, weights: impl FnOnce() -> W) -> (W, T) {
    std::thread::scope(|scope| {
        let tokenizer = scope.spawn(tokenizer);
        let weights = weights();
        (weights, tokenizer.join().expect("reading a tokenizer does not panic"))
    })
}
