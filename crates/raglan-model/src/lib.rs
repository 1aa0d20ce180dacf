//! Models: where their files come from, how they read text, and their forward.
//!
//! A model is a few files that must be exactly the right bytes, a tokenizer, and a transformer. The [`registry`] pins
//! and fetches the files. A [`Tokenizer`] comes from a `tokenizer.json` or from a GGUF file's metadata. [`EncoderModel`]
//! turns texts into hidden states; [`DecoderModel`] reads a prompt and goes on, token by token, in a [`Session`]; a
//! [`ChatTemplate`] writes a conversation as the model was trained on it. A [`LanguageModel`] is all three; a [`ChatModel`]
//! asks it for texts. All files are read as hostile input.
//!
//! ```
//! use raglan_model::{ChatMessage, ChatRole, ChatTemplate};
//!
//! let template = ChatTemplate::new("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", "", "")?;
//! assert_eq!(template.render(&[ChatMessage::new(ChatRole::User, "Hi")])?, "<user>Hi");
//! # Ok::<(), raglan_model::Error>(())
//! ```
//!
//! ```no_run
//! use raglan_model::{GgufFile, DecoderModel, Products, Tokenizer};
//!
//! let file = GgufFile::open("SmolLM2-135M-Instruct.Q4_1.gguf")?;
//! let (tokenizer, model) = (Tokenizer::from_gguf(&file)?, DecoderModel::from_gguf(&file, 2, Products::Stored)?);
//! let mut session = model.session();
//! let logits = session.prefill(&tokenizer.encode("The capital of France is", true)?.ids)?;
//! assert_eq!(logits.len(), model.config().vocab_size);
//! # Ok::<(), raglan_model::Error>(())
//! ```
#![forbid(unsafe_code)]

mod attention_policy;
mod chat_frame;
mod chat_template;
mod context_extension;
mod decoder;
mod decoder_config;
mod decoder_tensors;
mod encoder;
mod encoder_config;
mod error;
mod gguf;
mod heads;
mod hugging_face_config;
mod json_file;
mod key_selection;
mod language_model;
mod layer_pass;
mod linear;
mod passage_blocks;
pub mod registry;
mod safetensors;
mod sampler;
mod text_model;
mod tokenizer;
mod weight_file;
mod word_piece;

pub use attention_policy::{AttentionPolicy, KeyBudget};
pub use chat_frame::ChatFrame;
pub use chat_template::{ChatMessage, ChatRole, ChatTemplate};
pub use context_extension::ContextExtension;
pub use decoder::{Attending, DecoderModel, ForwardRows, ForwardSequence, Forwarded, Session, View, Want};
#[cfg(feature = "cuda")]
pub use decoder::{DeviceSteps, StepRecording};
pub use decoder_config::{DecoderConfig, Rope};
#[cfg(feature = "cuda")]
pub use encoder::{DeviceEncoder, DeviceHiddenStates};
pub use encoder::{EncoderModel, HiddenStates, Positions};
pub use encoder_config::{Activation, EncoderFamily, EncoderModelConfig, RotaryLayers};
pub use error::{Error, Result};
pub use gguf::{GgufFile, GgufTensor, GgufValue};
pub use heads::{ClassificationHead, MaskedLanguageHead, TermWeights, TokenProjection};
#[cfg(feature = "cuda")]
pub use heads::{DeviceMaskedLanguageHead, DeviceTokenProjection};
pub use key_selection::{KeySelection, KeyTraffic, QueryRecord};
pub use language_model::LanguageModel;
pub use layer_pass::LayerPass;
pub use linear::Products;
pub use passage_blocks::{capture, model_hash};
/// Devices that [`DeviceEncoder`] and [`DecoderModel::load_on_device`] run on.
#[cfg(feature = "cuda")]
pub use raglan_kernels::cuda;
pub use safetensors::{SafetensorsFile, SafetensorsTensor, SafetensorsType};
pub use sampler::{Sampler, Sampling};
pub use text_model::{ChatModel, Prompt, TextModel, TextWriter, Weighed, WritingRequest, Written, WrittenToken};
pub use tokenizer::{DecodeStream, EncodedPair, Encoding, Tokenizer};
pub use word_piece::WordPieceCounter;
