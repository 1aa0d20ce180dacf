//! The shape of an encoder, as its `config.json` gives it.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// A family of bidirectional transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EncoderFamily {
    /// BERT, and what differs from it in its weights alone: MiniLM, BGE, E5, GTE, Snowflake's Arctic.
    Bert,
    /// RoBERTa and XLM-RoBERTa, and with them multilingual E5 and BGE-M3: BERT whose positions begin behind that of
    /// the padding, and whose heads are named otherwise.
    Roberta,
    /// DistilBERT: BERT without segments, under other names.
    DistilBert,
    /// `ModernBERT` (Warner et al. 2024): norms before the maps, rotated heads, gated middles, and attention within a
    /// window in most layers.
    ModernBert,
}

/// The shape of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderModelConfig {
    /// The family.
    pub family: EncoderFamily,
    /// How many tokens the vocabulary has.
    pub vocab_size: usize,
    /// The length of a token's vector.
    pub hidden_size: usize,
    /// How many layers there are.
    pub num_hidden_layers: usize,
    /// How many heads a layer's attention has; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// The width of the feed-forward part.
    pub intermediate_size: usize,
    /// The feed-forward part's nonlinearity.
    pub hidden_act: Activation,
    /// How many positions there are.
    pub max_position_embeddings: usize,
    /// The position of a sequence's first token.
    pub first_position: usize,
    /// How many segment embeddings there are; 0 in families that have none.
    pub type_vocab_size: usize,
    /// Keeps the layer norm's divisor from zero.
    pub layer_norm_eps: f64,
    /// How the layers attend, of those families whose positions are rotations.
    pub rotary: Option<RotaryLayers>,
    /// Whether a classification head reads the mean of all tokens instead of the first.
    pub classifier_reads_mean: bool,
}

/// Rotations and windows of an encoder's layers.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryLayers {
    /// Whether each layer's attention reaches only [`local_radius`](Self::local_radius) tokens far.
    pub local: Vec<bool>,
    /// How many tokens before and after itself a token sees in a local layer.
    pub local_radius: usize,
    /// The base of the rotations in local layers.
    pub local_theta: f64,
    /// The base of the rotations in the others.
    pub global_theta: f64,
}

/// A nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · Φ(x)`, with the normal distribution's Φ.
    Gelu,
    /// The same through `tanh`.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    /// `max(x, 0)`.
    Relu,
}

impl From<Activation> for raglan_kernels::Activation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Gelu => Self::Gelu,
            Activation::GeluNew => Self::GeluTanh,
            Activation::Relu => Self::Relu,
        }
    }
}

/// No model of these families comes near it; products of two such numbers do not overflow.
const SIZE_LIMIT: usize = 1 << 24;

impl EncoderModelConfig {
    /// Reads a model's `config.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is not such a file or its numbers do not
    /// fit each other, [`Error::Unsupported`] when it describes another family, or a member that differs from what is
    /// run here.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        let json: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        let unsupported = |what: String| Error::Unsupported { path: path.to_owned(), what };
        let family = match json.get("model_type").and_then(Value::as_str).unwrap_or("none given") {
            "bert" => EncoderFamily::Bert,
            "roberta" | "xlm-roberta" => EncoderFamily::Roberta,
            "distilbert" => EncoderFamily::DistilBert,
            "modernbert" => EncoderFamily::ModernBert,
            other => {
                let can = "can run bert, roberta, xlm-roberta, distilbert and modernbert";
                return Err(unsupported(format!("model type `{other}` ({can})")));
            }
        };
        if let Some(kind) = json.get("position_embedding_type").and_then(Value::as_str)
            && kind != "absolute"
        {
            return Err(unsupported(format!("position embeddings `{kind}`")));
        }
        let config = Self::from_json(family, &Json(&json)).map_err(malformed)?;
        config.check().map_err(malformed)?;
        Ok(config)
    }

    fn from_json(family: EncoderFamily, json: &Json) -> Result<Self, String> {
        let distil = family == EncoderFamily::DistilBert;
        let name = |usual, distils| if distil { distils } else { usual };
        let hidden_act = match family {
            EncoderFamily::DistilBert => "activation",
            EncoderFamily::ModernBert => "hidden_activation",
            _ => "hidden_act",
        };
        let num_hidden_layers = json.size(name("num_hidden_layers", "n_layers"))?;
        let rotary = (family == EncoderFamily::ModernBert).then(|| json.rotary(num_hidden_layers)).transpose()?;
        let epsilons: &[&str] = match family {
            EncoderFamily::DistilBert => &[],
            EncoderFamily::ModernBert => &["norm_eps", "layer_norm_eps"],
            _ => &["layer_norm_eps"],
        };
        let usual_epsilon = if rotary.is_some() { 1e-5 } else { 1e-12 };
        Ok(Self {
            family,
            vocab_size: json.size("vocab_size")?,
            hidden_size: json.size(name("hidden_size", "dim"))?,
            num_hidden_layers,
            num_attention_heads: json.size(name("num_attention_heads", "n_heads"))?,
            intermediate_size: json.size(name("intermediate_size", "hidden_dim"))?,
            hidden_act: json.or(hidden_act, Activation::Gelu)?,
            max_position_embeddings: json.size("max_position_embeddings")?,
            first_position: match family {
                EncoderFamily::Roberta => json.or("pad_token_id", 1_usize)?.saturating_add(1),
                _ => 0,
            },
            type_vocab_size: match family {
                EncoderFamily::Bert | EncoderFamily::Roberta => json.or("type_vocab_size", 2)?,
                EncoderFamily::DistilBert | EncoderFamily::ModernBert => 0,
            },
            layer_norm_eps: match epsilons.iter().find(|name| json.0.contains_key(**name)) {
                Some(name) => json.or(name, usual_epsilon)?,
                None => usual_epsilon,
            },
            rotary,
            classifier_reads_mean: json.or("classifier_pooling", String::new())? == "mean",
        })
    }

    /// The longest sequence that has positions.
    pub fn max_tokens(&self) -> usize {
        self.max_position_embeddings - self.first_position
    }

    /// The length of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Whether the numbers fit each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut sizes = vec![
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if matches!(self.family, EncoderFamily::Bert | EncoderFamily::Roberta) {
            sizes.push(("type_vocab_size", self.type_vocab_size));
        }
        for (name, size) in sizes {
            if size == 0 || size > SIZE_LIMIT {
                return Err(format!("{name} is {size}"));
            }
        }
        if self.num_hidden_layers > MAX_LAYERS {
            return Err(format!("num_hidden_layers is {}", self.num_hidden_layers));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(format!("{} heads do not divide {} dimensions", self.num_attention_heads, self.hidden_size));
        }
        if self.first_position >= self.max_position_embeddings {
            return Err(format!("of {} positions none is for text", self.max_position_embeddings));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return Err(format!("the layer norm's epsilon is {}", self.layer_norm_eps));
        }
        if let Some(rotary) = &self.rotary {
            if !self.head_dim().is_multiple_of(2) {
                return Err(format!("heads of {} dimensions cannot be rotated", self.head_dim()));
            }
            if rotary.local.len() != self.num_hidden_layers {
                return Err(format!("{} kinds of {} layers", rotary.local.len(), self.num_hidden_layers));
            }
        }
        Ok(())
    }
}

/// Ten times what the deepest of these families have.
const MAX_LAYERS: usize = 1 << 9;

/// The entries of a `config.json`.
struct Json<'a>(&'a Map<String, Value>);

impl Json<'_> {
    fn size(&self, name: &str) -> Result<usize, String> {
        match self.0.get(name) {
            Some(value) => usize::deserialize(value).map_err(|e| format!("{name}: {e}")),
            None => Err(format!("missing field `{name}`")),
        }
    }

    /// An entry, or what it is when it is not there or `null`.
    fn or<'de, T: Deserialize<'de>>(&'de self, name: &str, usual: T) -> Result<T, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(usual),
            Some(value) => T::deserialize(value).map_err(|e| format!("{name}: {e}")),
        }
    }

    /// `ModernBERT`'s layers, as configurations have described them before and since version 5 of transformers.
    fn rotary(&self, n_layers: usize) -> Result<RotaryLayers, String> {
        let window = self.or("local_attention", 128_usize)?;
        let every = self.or("global_attn_every_n_layers", 3_usize)?;
        if every == 0 || n_layers > MAX_LAYERS {
            return Err(format!("global attention every {every} of {n_layers} layers"));
        }
        let local = match self.or("layer_types", Vec::<String>::new())? {
            kinds if kinds.is_empty() => (0..n_layers).map(|layer| layer % every != 0).collect(),
            kinds => kinds
                .iter()
                .map(|kind| match &**kind {
                    "sliding_attention" => Ok(true),
                    "full_attention" => Ok(false),
                    other => Err(format!("layer_types: `{other}`")),
                })
                .collect::<Result<_, _>>()?,
        };
        let theta = |before: &str, since: &str, usual: f64| {
            let rope = self.0.get("rope_parameters").and_then(|rope| rope.get(since)?.get("rope_theta")?.as_f64());
            let theta = self.or(before, rope.unwrap_or(usual))?;
            if theta.is_finite() && theta > 0.0 { Ok(theta) } else { Err(format!("a rotation's base is {theta}")) }
        };
        Ok(RotaryLayers {
            local,
            local_radius: window / 2,
            local_theta: theta("local_rope_theta", "sliding_attention", 1e4)?,
            global_theta: theta("global_rope_theta", "full_attention", 1.6e5)?,
        })
    }
}
