//! The tensors of a decoder, under whatever names its file has for them.

use crate::gguf::GgufFile;
use crate::safetensors::SafetensorsFile;
use crate::weight_file::WeightFile;
use crate::{Error, Result};

/// A part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerPart {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    AttentionOutput,
    PostAttentionNorm,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
    PostFeedForwardNorm,
}

/// A file with the weights of a decoder.
pub(crate) struct DecoderTensors<'f> {
    /// The file.
    pub file: &'f dyn WeightFile,
    names: Names,
}

enum Names {
    /// Those of llama.cpp.
    Gguf,
    /// Those of the transformers library; models that also see images have more before them.
    HuggingFace { trunk: &'static str, head: &'static str, is_gemma: bool },
}

impl<'f> DecoderTensors<'f> {
    /// Those of a GGUF file.
    pub fn gguf(file: &'f GgufFile) -> Self {
        Self { file, names: Names::Gguf }
    }

    /// Those of safetensors.
    pub fn hugging_face(file: &'f SafetensorsFile, is_gemma: bool) -> Self {
        const TRUNKS: [(&str, &str); 4] = [
            ("model", "lm_head"),
            ("language_model.model", "language_model.lm_head"),
            ("model.language_model", "lm_head"),
            ("language_model", "lm_head"),
        ];
        let is_trunk = |(trunk, _): &&(&str, &str)| file.contains(&format!("{trunk}.embed_tokens.weight"));
        let &(trunk, head) = TRUNKS.iter().find(is_trunk).unwrap_or(&TRUNKS[0]);
        Self { file, names: Names::HuggingFace { trunk, head, is_gemma } }
    }

    /// The name of a layer's part, without `.weight` or `.bias`.
    pub fn name(&self, layer: usize, part: LayerPart) -> String {
        match self.names {
            Names::Gguf => format!("blk.{layer}.{}", gguf_name(part)),
            Names::HuggingFace { trunk, is_gemma, .. } => {
                format!("{trunk}.layers.{layer}.{}", hugging_face_name(part, is_gemma))
            }
        }
    }

    /// Refuses a tensor of a layer beyond the first `n_layers`: without it the model would be another one.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`].
    pub fn expect_layers(&self, n_layers: usize) -> Result<()> {
        let prefix = match self.names {
            Names::Gguf => "blk.".to_owned(),
            Names::HuggingFace { trunk, .. } => format!("{trunk}.layers."),
        };
        let is_beyond = |name: &&str| {
            let layer = name.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
            layer.and_then(|layer| layer.parse::<usize>().ok()).is_some_and(|layer| layer >= n_layers)
        };
        match self.file.names().find(is_beyond) {
            None => Ok(()),
            Some(name) => Err(Error::Malformed {
                path: self.file.path().to_owned(),
                problem: format!("tensor `{name}` belongs to a layer that the model has not: it has {n_layers}"),
            }),
        }
    }

    /// The name of the embeddings of tokens.
    pub fn embedding(&self) -> String {
        match self.names {
            Names::Gguf => "token_embd.weight".to_owned(),
            Names::HuggingFace { trunk, .. } => format!("{trunk}.embed_tokens.weight"),
        }
    }

    /// The name of the map to logits, where that is not the embeddings.
    pub fn output(&self) -> String {
        match self.names {
            Names::Gguf => "output.weight".to_owned(),
            Names::HuggingFace { head, .. } => format!("{head}.weight"),
        }
    }

    /// The scale of a layer's norm, which is of `dim` numbers.
    pub fn norm(&self, layer: usize, part: LayerPart, dim: usize) -> Result<Vec<f32>> {
        self.scale(&self.name(layer, part), dim)
    }

    /// The scale of the norm behind the last layer.
    pub fn final_norm(&self, dim: usize) -> Result<Vec<f32>> {
        match self.names {
            Names::Gguf => self.scale("output_norm", dim),
            Names::HuggingFace { trunk, .. } => self.scale(&format!("{trunk}.norm"), dim),
        }
    }

    fn scale(&self, name: &str, dim: usize) -> Result<Vec<f32>> {
        let mut scale = self.file.numbers(&format!("{name}.weight"), &[dim])?;
        // Gemma multiplies by 1 + w; GGUF files hold the sum.
        if matches!(self.names, Names::HuggingFace { is_gemma: true, .. }) {
            scale.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(scale)
    }
}

fn gguf_name(part: LayerPart) -> &'static str {
    match part {
        LayerPart::AttentionNorm => "attn_norm",
        LayerPart::Query => "attn_q",
        LayerPart::Key => "attn_k",
        LayerPart::Value => "attn_v",
        LayerPart::QueryNorm => "attn_q_norm",
        LayerPart::KeyNorm => "attn_k_norm",
        LayerPart::AttentionOutput => "attn_output",
        LayerPart::PostAttentionNorm => "post_attention_norm",
        LayerPart::FeedForwardNorm => "ffn_norm",
        LayerPart::Gate => "ffn_gate",
        LayerPart::Up => "ffn_up",
        LayerPart::Down => "ffn_down",
        LayerPart::PostFeedForwardNorm => "post_ffw_norm",
    }
}

fn hugging_face_name(part: LayerPart, is_gemma: bool) -> &'static str {
    match part {
        LayerPart::AttentionNorm => "input_layernorm",
        LayerPart::Query => "self_attn.q_proj",
        LayerPart::Key => "self_attn.k_proj",
        LayerPart::Value => "self_attn.v_proj",
        LayerPart::QueryNorm => "self_attn.q_norm",
        LayerPart::KeyNorm => "self_attn.k_norm",
        LayerPart::AttentionOutput => "self_attn.o_proj",
        // All but Gemma name the norm before the feed-forward after what is before it.
        LayerPart::FeedForwardNorm if is_gemma => "pre_feedforward_layernorm",
        LayerPart::FeedForwardNorm | LayerPart::PostAttentionNorm => "post_attention_layernorm",
        LayerPart::Gate => "mlp.gate_proj",
        LayerPart::Up => "mlp.up_proj",
        LayerPart::Down => "mlp.down_proj",
        LayerPart::PostFeedForwardNorm => "post_feedforward_layernorm",
    }
}
