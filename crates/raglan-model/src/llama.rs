//! Decoder-only transformers of the Llama family from GGUF files: Llama 2 and 3, Mistral, SmolLM, Qwen 2 and 3.
//!
//! Weights are made `f32` at load. A prompt is multiplied by the `gemm` crate through candle: for a file in Q4_1 that
//! prefills some ten times faster than candle's own product with four-bit blocks, which has no SIMD form on x86. Single
//! tokens go through `raglan-kernels` on the model's own threads. Candle's eight-bit product would read a quarter of the
//! bytes, but its worker threads meet at a barrier after each product: as soon as a core is busy with something else,
//! a token takes ten times longer.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use candle_nn::{ops, rotary_emb};
use rayon::prelude::*;

use crate::gguf::GgufFile;
use crate::{Error, Result};

/// How many tokens of a prompt go through the model at once: enough for full-speed products, few enough that
/// attention scores stay small and an interruption is heard soon.
const CHUNK: usize = 256;

/// The shape of a model and the constants of its forward.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// The file's name for the family, such as `llama` or `qwen2`.
    pub architecture: String,
    /// Transformer layers.
    pub n_layers: usize,
    /// Length of a token's hidden state.
    pub hidden_dim: usize,
    /// Length of the feed-forward's inner state.
    pub ffn_dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Length of a head's query, key and value.
    pub head_dim: usize,
    /// Base of the rotary embedding's frequencies.
    pub rope_base: f64,
    /// Added to the mean square in RMS normalisation.
    pub rms_eps: f32,
    /// The most tokens the model was trained to read at once.
    pub context_len: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Tokens that end an answer.
    pub end_tokens: BTreeSet<u32>,
    /// The token that begins every text, for models that want one.
    pub bos: Option<u32>,
}

/// A language model of the Llama family, ready to read tokens.
#[derive(Debug)]
pub struct LlamaModel {
    config: LlamaConfig,
    layers: Vec<Layer>,
    ends: Ends,
    rope: Rope,
    pool: rayon::ThreadPool,
}

/// A text in the course of being read and written: the keys and values of its tokens so far.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m LlamaModel,
    cache: Vec<LayerCache>,
    n_past: usize,
}

impl LlamaModel {
    /// Loads a model from a GGUF file, to run on `threads` threads.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Malformed`] when the file is not sound, [`Error::Unsupported`] when it holds another
    /// kind of model.
    pub fn load_gguf(path: impl Into<PathBuf>, threads: usize) -> Result<Self> {
        Self::from_gguf(&GgufFile::open(path)?, threads)
    }

    /// Loads a model from an open GGUF file, to run on `threads` threads.
    ///
    /// # Errors
    ///
    /// As for [`load_gguf`](Self::load_gguf).
    pub fn from_gguf(file: &GgufFile, threads: usize) -> Result<Self> {
        let config = LlamaConfig::from_gguf(file)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("raglan-llm-{i}"))
            .build()
            .map_err(|e| Error::Io { path: file.path().to_owned(), source: std::io::Error::other(e) })?;
        let rope = Rope::from_gguf(file, &config)?;
        let (layers, ends) = pool.install(|| {
            let layer = |i| Layer::from_gguf(file, &config, i);
            rayon::join(
                || (0..config.n_layers).into_par_iter().map(layer).collect::<Result<Vec<_>>>(),
                || Ends::from_gguf(file, &config),
            )
        });
        Ok(Self { layers: layers?, ends: ends?, config, rope, pool })
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Begins a text.
    pub fn session(&self) -> Session<'_> {
        Session { model: self, cache: vec![LayerCache::default(); self.config.n_layers], n_past: 0 }
    }

    /// The hidden state of each of `tokens`, which follow `n_past` tokens whose keys and values are in `cache`.
    fn forward(&self, tokens: &[u32], cache: &mut [LayerCache], n_past: usize) -> Result<Tensor> {
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let mut hidden = self.ends.embedding.embedding(&ids)?;
        let step = Step {
            config: &self.config,
            rotation: self.rope.at(n_past, tokens.len())?,
            mask: causal_mask(tokens.len(), n_past)?,
            n_past,
        };
        for (layer, cache) in self.layers.iter().zip(cache) {
            hidden = layer.forward(&hidden, &step, cache)?;
        }
        Ok(hidden)
    }

    /// The logits of the token after the last row of `hidden`.
    fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
        let normed = ops::rms_norm(&last, &self.ends.norm, self.config.rms_eps)?;
        Ok(self.ends.output.forward(&normed)?.flatten_all()?.to_vec1()?)
    }
}

impl Session<'_> {
    /// Reads tokens and returns the logits of the one that would follow.
    ///
    /// # Errors
    ///
    /// [`Error::ContextOverflow`] when the text would become longer than the model's context; it is left as it was.
    /// [`Error::EmptyPrompt`] when there are no tokens.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.prefill_with(tokens, &mut |_| ControlFlow::Continue(()))
    }

    /// Like [`prefill`](Self::prefill), and calls `on_progress` with the number of tokens read after each few hundred.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when `on_progress` breaks; the tokens read so far are then part of the text.
    pub fn prefill_with(
        &mut self,
        tokens: &[u32],
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<f32>> {
        let model = self.model;
        let (len, limit) = (self.n_past + tokens.len(), model.config.context_len);
        if len > limit {
            return Err(Error::ContextOverflow { tokens: len, limit });
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= model.config.vocab_size) {
            return Err(Error::UnknownToken { id });
        }
        let mut hidden = None;
        let mut n_read = 0;
        for chunk in tokens.chunks(CHUNK) {
            hidden = Some(model.pool.install(|| model.forward(chunk, &mut self.cache, self.n_past))?);
            self.n_past += chunk.len();
            n_read += chunk.len();
            if n_read < tokens.len() && on_progress(n_read).is_break() {
                return Err(Error::Interrupted);
            }
        }
        let hidden = hidden.ok_or(Error::EmptyPrompt)?;
        model.pool.install(|| model.logits(&hidden))
    }

    /// Reads one token and returns the logits of the next.
    ///
    /// # Errors
    ///
    /// As for [`prefill`](Self::prefill).
    pub fn step(&mut self, token: u32) -> Result<Vec<f32>> {
        self.prefill(&[token])
    }

    /// Number of tokens read.
    pub fn n_tokens(&self) -> usize {
        self.n_past
    }

    /// Forgets all but the first `n_tokens` tokens.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.n_past = self.n_past.min(n_tokens);
    }
}

impl LlamaConfig {
    /// Reads the shape from a file's metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for another family of models; [`Error::Malformed`] when an entry is missing or absurd.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let architecture = file.required("general.architecture", file.text("general.architecture"))?.to_owned();
        let unsupported = |what: String| Error::Unsupported { path: file.path().to_owned(), what };
        if !matches!(architecture.as_str(), "llama" | "qwen2" | "qwen3") {
            return Err(unsupported(format!("architecture `{architecture}` (can read llama, qwen2, qwen3)")));
        }
        let optional = |name: &str| {
            let key = format!("{architecture}.{name}");
            Ok::<_, Error>(file.u32(&key)?.map(|n| n as usize))
        };
        let number = |name: &str| {
            let value = optional(name)?.filter(|&n| n > 0 && n <= 1 << 24);
            value.ok_or_else(|| file.malformed(format!("metadata lacks a sound `{architecture}.{name}`")))
        };
        if optional("expert_count")?.is_some_and(|n| n > 0) {
            return Err(unsupported("a mixture of experts".to_owned()));
        }
        let (hidden_dim, n_heads) = (number("embedding_length")?, number("attention.head_count")?);
        let n_kv_heads = optional("attention.head_count_kv")?.unwrap_or(n_heads);
        let head_dim = optional("attention.key_length")?.unwrap_or(hidden_dim / n_heads);
        let rope_dim = optional("rope.dimension_count")?.unwrap_or(head_dim);
        let value_dim = optional("attention.value_length")?.unwrap_or(head_dim);
        if n_kv_heads == 0 || n_heads % n_kv_heads != 0 || head_dim == 0 || head_dim % 2 != 0 {
            return Err(file.malformed(format!("{n_heads} heads of {head_dim} cannot share {n_kv_heads} keys")));
        }
        if rope_dim != head_dim || value_dim != head_dim {
            return Err(unsupported("rotation or values of a part of a head".to_owned()));
        }
        let rms_eps = format!("{architecture}.attention.layer_norm_rms_epsilon");
        let rope_base = format!("{architecture}.rope.freq_base");
        let Some(embedding) = file.tensors().get("token_embd.weight").filter(|tensor| tensor.shape.len() == 2) else {
            return Err(file.malformed("there is no sound tensor `token_embd.weight`"));
        };
        let vocab_size = embedding.shape[0];
        Ok(Self {
            n_layers: number("block_count")?,
            ffn_dim: number("feed_forward_length")?,
            context_len: number("context_length")?,
            rms_eps: file.required(&rms_eps, file.f64(&rms_eps))? as f32,
            rope_base: file.f64(&rope_base)?.unwrap_or(10_000.0),
            end_tokens: end_tokens(file)?,
            bos: file.u32("tokenizer.ggml.bos_token_id")?,
            architecture,
            hidden_dim,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size,
        })
    }
}

/// Every token that ends a turn: those the file names, and control tokens known by their text, because many files
/// name only one of two.
fn end_tokens(file: &GgufFile) -> Result<BTreeSet<u32>> {
    const KNOWN: [&str; 7] =
        ["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "</s>", "<end_of_turn>"];
    const CONTROL: i64 = 3; // The token type of special tokens.
    let mut ends = BTreeSet::new();
    for key in ["eos", "eot", "eom"] {
        ends.extend(file.u32(&format!("tokenizer.ggml.{key}_token_id"))?);
    }
    let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let control = tokens.iter().zip(types).enumerate().filter(|(_, (_, kind))| **kind == CONTROL);
    ends.extend(control.filter(|(_, (text, _))| KNOWN.contains(&text.as_str())).map(|(id, _)| id as u32));
    Ok(ends)
}

/// What stands before and after the layers.
#[derive(Debug)]
struct Ends {
    embedding: Tensor,
    norm: Tensor,
    output: Linear,
}

impl Ends {
    fn from_gguf(file: &GgufFile, config: &LlamaConfig) -> Result<Self> {
        let shape = [config.vocab_size, config.hidden_dim];
        let embedding = file.dequantize("token_embd.weight", &shape)?;
        let tied = !file.tensors().contains_key("output.weight");
        let output = if tied { embedding.clone() } else { file.dequantize("output.weight", &shape)? };
        let norm = file.dequantize("output_norm.weight", &[config.hidden_dim])?;
        Ok(Self { embedding, norm, output: Linear { weight: output, bias: None } })
    }
}

/// `y = x · Wᵀ + b`.
#[derive(Debug)]
struct Linear {
    /// `[n_out, n_in]`.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Several linear maps of one input as one: fewer, larger products.
    fn stacked(parts: Vec<(Tensor, Option<Tensor>)>) -> Result<Self> {
        let (weights, biases): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let biases: Option<Vec<_>> = biases.into_iter().collect();
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Self { weight: Tensor::cat(&weights, 0)?, bias })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = if x.dim(0)? == 1 { self.single_row(x)? } else { x.matmul(&self.weight.t()?)? };
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// The product for one row, which is bound by memory: each thread reads its share of the weights once.
    fn single_row(&self, x: &Tensor) -> Result<Tensor> {
        const SHARE: usize = 1 << 16; // Weights in one piece of work: long against the cost of handing it out.
        let (n_out, n_in) = self.weight.dims2()?;
        let x: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let (storage, layout) = self.weight.storage_and_layout();
        let (Storage::Cpu(CpuStorage::F32(weights)), Some((start, end))) = (&*storage, layout.contiguous_offsets())
        else {
            unreachable!("weights are made contiguous `f32` on the CPU at load");
        };
        let n_rows = (SHARE / n_in).max(1);
        let mut y = vec![0.0; n_out];
        y.par_chunks_mut(n_rows)
            .zip(weights[start..end].par_chunks(n_rows * n_in))
            .try_for_each(|(y, rows)| raglan_kernels::inner_products(&x, rows, n_in, y))?;
        Ok(Tensor::from_vec(y, (1, n_out), &Device::Cpu)?)
    }
}

/// What all layers share when some tokens go through.
struct Step<'a> {
    config: &'a LlamaConfig,
    /// Cosines and sines, `[n_tokens, head_dim / 2]` each, and which coordinates turn together.
    rotation: Rotation,
    /// What is added to the scores: 0 where a token may look, −∞ where it may not; `None` when it may look everywhere.
    mask: Option<Tensor>,
    n_past: usize,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    qkv: Linear,
    query_key_norm: Option<(Tensor, Tensor)>,
    attention_output: Linear,
    ffn_norm: Tensor,
    gate_up: Linear,
    down: Linear,
}

impl Layer {
    fn from_gguf(file: &GgufFile, config: &LlamaConfig, i: usize) -> Result<Self> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let LlamaConfig { hidden_dim, ffn_dim, n_heads, n_kv_heads, head_dim, .. } = *config;
        let (q_dim, kv_dim) = (n_heads * head_dim, n_kv_heads * head_dim);
        let vector = |part: &str, len: usize| {
            let name = name(part);
            file.tensors().contains_key(&name).then(|| file.dequantize(&name, &[len])).transpose()
        };
        let matrix = |part: &str, n_out: usize, n_in: usize| {
            let weight = file.dequantize(&name(&format!("{part}.weight")), &[n_out, n_in])?;
            Ok::<_, Error>((weight, vector(&format!("{part}.bias"), n_out)?))
        };
        let norm = |part: &str| file.dequantize(&name(part), &[hidden_dim]);
        let query_norm = vector("attn_q_norm.weight", head_dim)?;
        let key_norm = vector("attn_k_norm.weight", head_dim)?;
        let (output, output_bias) = matrix("attn_output", hidden_dim, q_dim)?;
        let (down, down_bias) = matrix("ffn_down", hidden_dim, ffn_dim)?;
        Ok(Self {
            attention_norm: norm("attn_norm.weight")?,
            qkv: Linear::stacked(vec![
                matrix("attn_q", q_dim, hidden_dim)?,
                matrix("attn_k", kv_dim, hidden_dim)?,
                matrix("attn_v", kv_dim, hidden_dim)?,
            ])?,
            query_key_norm: query_norm.zip(key_norm),
            attention_output: Linear { weight: output, bias: output_bias },
            ffn_norm: norm("ffn_norm.weight")?,
            gate_up: Linear::stacked(vec![
                matrix("ffn_gate", ffn_dim, hidden_dim)?,
                matrix("ffn_up", ffn_dim, hidden_dim)?,
            ])?,
            down: Linear { weight: down, bias: down_bias },
        })
    }

    fn forward(&self, x: &Tensor, step: &Step<'_>, cache: &mut LayerCache) -> Result<Tensor> {
        let eps = step.config.rms_eps;
        let attention = self.attention(&ops::rms_norm(x, &self.attention_norm, eps)?, step, cache)?;
        let x = (x + attention)?;
        let inner = ops::swiglu(&self.gate_up.forward(&ops::rms_norm(&x, &self.ffn_norm, eps)?)?)?;
        Ok((x + self.down.forward(&inner)?)?)
    }

    /// Grouped-query attention: the `n_heads / n_kv_heads` query heads that share a key head are rows of one product.
    fn attention(&self, x: &Tensor, step: &Step<'_>, cache: &mut LayerCache) -> Result<Tensor> {
        let &LlamaConfig { n_heads, n_kv_heads, head_dim, rms_eps, .. } = step.config;
        let n_tokens = x.dim(0)?;
        let qkv = self.qkv.forward(x)?.reshape((n_tokens, n_heads + 2 * n_kv_heads, head_dim))?;
        let heads = |first: usize, n: usize| qkv.narrow(1, first, n)?.transpose(0, 1)?.contiguous();
        let (mut q, mut k) = (heads(0, n_heads)?, heads(n_heads, n_kv_heads)?);
        if let Some((query_norm, key_norm)) = &self.query_key_norm {
            q = ops::rms_norm(&q, query_norm, rms_eps)?;
            k = ops::rms_norm(&k, key_norm, rms_eps)?;
        }
        let (q, k) = (step.rotation.apply(&q)?, step.rotation.apply(&k)?);
        let v = heads(n_heads + n_kv_heads, n_kv_heads)?;
        let (k, v) = cache.append(&k, &v, step.n_past)?;
        let n_keys = step.n_past + n_tokens;
        let grouped = (n_kv_heads, n_heads / n_kv_heads * n_tokens, head_dim);
        let q = (q * (head_dim as f64).powf(-0.5))?.reshape(grouped)?;
        let mut scores = q.matmul(&k.t()?)?;
        if let Some(mask) = &step.mask {
            scores = scores.reshape((n_heads, n_tokens, n_keys))?.broadcast_add(mask)?;
        }
        let weights = ops::softmax_last_dim(&scores)?.reshape((grouped.0, grouped.1, n_keys))?;
        let mixed = weights.matmul(&v)?.reshape((n_heads, n_tokens, head_dim))?;
        self.attention_output.forward(&mixed.transpose(0, 1)?.reshape((n_tokens, n_heads * head_dim))?)
    }
}

/// Additive mask `[n_tokens, n_past + n_tokens]` under which no token sees a later one.
fn causal_mask(n_tokens: usize, n_past: usize) -> Result<Option<Tensor>> {
    if n_tokens == 1 {
        return Ok(None);
    }
    let n_keys = n_past + n_tokens;
    let visible = |i: usize, j: usize| if j <= n_past + i { 0.0 } else { f32::NEG_INFINITY };
    let mask: Vec<f32> = (0..n_tokens).flat_map(|i| (0..n_keys).map(move |j| visible(i, j))).collect();
    Ok(Some(Tensor::from_vec(mask, (n_tokens, n_keys), &Device::Cpu)?))
}

/// Keys and values of one layer, `[n_kv_heads, capacity, head_dim]` each.
#[derive(Clone, Debug, Default)]
struct LayerCache {
    key_value: Option<(Tensor, Tensor)>,
}

impl LayerCache {
    /// Writes keys and values after the first `n_past` and returns all of them.
    fn append(&mut self, k: &Tensor, v: &Tensor, n_past: usize) -> Result<(Tensor, Tensor)> {
        let (n_kv_heads, n_tokens, head_dim) = k.dims3()?;
        let len = n_past + n_tokens;
        let (keys, values) = match self.key_value.take() {
            Some((keys, values)) if keys.dim(1)? >= len => (keys, values),
            smaller => {
                let capacity = len.next_multiple_of(CHUNK).max(n_past + n_past / 2);
                let grown = |old: Option<&Tensor>| {
                    let new = Tensor::zeros((n_kv_heads, capacity, head_dim), DType::F32, &Device::Cpu)?;
                    if let Some(old) = old {
                        new.slice_set(&old.narrow(1, 0, n_past)?.contiguous()?, 1, 0)?;
                    }
                    Ok::<_, Error>(new)
                };
                let (keys, values) = smaller.as_ref().map(|(k, v)| (k, v)).unzip();
                (grown(keys)?, grown(values)?)
            }
        };
        keys.slice_set(k, 1, n_past)?;
        values.slice_set(&v.contiguous()?, 1, n_past)?;
        let all = (keys.narrow(1, 0, len)?, values.narrow(1, 0, len)?);
        self.key_value = Some((keys, values));
        Ok(all)
    }
}

/// Rotary position embedding: the pair of coordinates `i` at position `p` turns by `p · base^(−2i / head_dim)`.
#[derive(Debug)]
struct Rope {
    frequencies: Vec<f64>,
    pairs: Pairs,
}

/// Which coordinates of a head turn together.
#[derive(Clone, Copy, Debug)]
enum Pairs {
    /// `2i` with `2i + 1`: the order of GGUF's `llama` files, whose converter permutes queries and keys to it.
    Neighbours,
    /// `i` with `i + head_dim / 2`.
    Halves,
}

/// The rotation of a run of tokens.
struct Rotation {
    cos: Tensor,
    sin: Tensor,
    pairs: Pairs,
}

impl Rope {
    fn from_gguf(file: &GgufFile, config: &LlamaConfig) -> Result<Self> {
        let half = config.head_dim / 2;
        let frequency = |i: usize| config.rope_base.powf(-(i as f64) / half as f64);
        let mut frequencies: Vec<f64> = (0..half).map(frequency).collect();
        // Llama 3.1 slows its low frequencies; the file holds the divisors.
        if file.tensors().contains_key("rope_freqs.weight") {
            let divisors = file.dequantize("rope_freqs.weight", &[half])?.to_vec1::<f32>()?;
            frequencies.iter_mut().zip(divisors).for_each(|(frequency, divisor)| *frequency /= f64::from(divisor));
        }
        let pairs = if config.architecture == "llama" { Pairs::Neighbours } else { Pairs::Halves };
        Ok(Self { frequencies, pairs })
    }

    fn at(&self, first: usize, n_tokens: usize) -> Result<Rotation> {
        let angles = (first..first + n_tokens).flat_map(|p| self.frequencies.iter().map(move |f| p as f64 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        let table = |values| Tensor::from_vec(values, (n_tokens, self.frequencies.len()), &Device::Cpu);
        Ok(Rotation { cos: table(cos)?, sin: table(sin)?, pairs: self.pairs })
    }
}

impl Rotation {
    /// Turns heads of shape `[n_heads, n_tokens, head_dim]`.
    fn apply(&self, heads: &Tensor) -> Result<Tensor> {
        let batch = heads.unsqueeze(0)?;
        let turned = match self.pairs {
            Pairs::Neighbours => rotary_emb::rope_i(&batch, &self.cos, &self.sin)?,
            Pairs::Halves => rotary_emb::rope(&batch, &self.cos, &self.sin)?,
        };
        Ok(turned.squeeze(0)?)
    }
}
