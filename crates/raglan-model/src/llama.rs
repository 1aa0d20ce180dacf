//! Decoder-only transformers of the Llama family from GGUF files: Llama 2 and 3, Mistral, SmolLM, Qwen 2 and 3.
//!
//! One forward serves all: any tokens at any positions, whose keys and values go to any slots of a [`KvCache`], and
//! which see what is in it. A token's result has the same bits whatever other tokens pass with it.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use raglan_kernels::{
    Activation, AttentionMask, AttentionShape, Output, QueryRows, RotaryEmbedding, RotaryPairs, RotaryScaling,
    attention_mass, causal_attention, rms_norm, rms_norm_in_place,
};
use rayon::prelude::*;

use crate::gguf::{GgufFile, Rows};
use crate::kv_cache::{KvCache, KvPrecision};
use crate::linear::{Linear, Stacked};
use crate::{Error, LlamaConfig, Products, Result};

/// How many tokens of a prompt go through the model at once: enough for full-speed products, few enough that an
/// interruption is heard soon.
const CHUNK: usize = 256;

/// A language model of the Llama family, ready to read tokens.
#[derive(Debug)]
pub struct LlamaModel {
    config: LlamaConfig,
    embedding: Rows,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    output: Linear,
    rotary: RotaryEmbedding,
    kv_precision: KvPrecision,
    pool: rayon::ThreadPool,
}

/// Tokens that pass through a model together.
#[derive(Clone, Copy, Debug)]
pub struct ForwardRows<'a> {
    /// The token of each row.
    pub tokens: &'a [u32],
    /// Where each token stands, which is what its rotation and its view of the keys go by.
    pub positions: &'a [u32],
    /// Where in the cache each token's keys and values go: over what is there, or, without a gap, behind it.
    pub slots: &'a [usize],
    /// The segment of each token, if there are any; see [`raglan_kernels::QueryRows`].
    pub segments: Option<&'a [u32]>,
    /// Which keys a token sees besides.
    pub mask: AttentionMask,
}

/// What a forward is to give back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Want<'a> {
    /// Rows whose logits are wanted.
    pub logits: &'a [usize],
    /// Rows whose last hidden state, before the final norm, is wanted.
    pub hidden: &'a [usize],
    /// Rows whose attention is wanted, summed, and the ranges of slots it is summed over.
    pub attention: Option<(&'a [usize], &'a [Range<usize>])>,
}

/// What a forward gave, in the order of what was wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forwarded {
    /// `[n, vocab_size]`
    pub logits: Vec<f32>,
    /// `[n, hidden_dim]`
    pub hidden: Vec<f32>,
    /// `[n_layers, n_heads, n_ranges]`: attention summed over the rows and over the keys of a range.
    pub attention: Vec<f32>,
}

/// A text in the course of being read and written: the keys and values of its tokens so far.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m LlamaModel,
    cache: KvCache,
}

impl LlamaModel {
    /// Loads a model from a GGUF file, to run on `threads` threads.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Malformed`] when the file is not sound, [`Error::Unsupported`] when it holds another
    /// kind of model.
    pub fn load_gguf(path: impl Into<PathBuf>, threads: usize, products: Products) -> Result<Self> {
        Self::from_gguf(&GgufFile::open(path)?, threads, products)
    }

    /// Loads a model from an open GGUF file, to run on `threads` threads.
    ///
    /// With [`Products::Stored`], keys and values are kept in half precision, otherwise in single.
    ///
    /// # Errors
    ///
    /// As for [`load_gguf`](Self::load_gguf).
    pub fn from_gguf(file: &GgufFile, threads: usize, products: Products) -> Result<Self> {
        let config = LlamaConfig::from_gguf(file)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("raglan-llm-{i}"))
            .build()
            .map_err(|e| Error::Io { path: file.path().to_owned(), source: std::io::Error::other(e) })?;
        let shape = [config.vocab_size, config.hidden_dim];
        let tied = !file.tensors().contains_key("output.weight");
        let output = if tied { "token_embd.weight" } else { "output.weight" };
        let (layers, output) = pool.install(|| {
            rayon::join(
                || {
                    let layers = (0..config.n_layers).into_par_iter();
                    layers.map(|i| Layer::from_gguf(file, &config, i, products)).collect::<Result<Vec<_>>>()
                },
                || Linear::from_gguf(file, &[output], None, shape[0], shape[1], products),
            )
        });
        Ok(Self {
            embedding: file.rows("token_embd.weight", shape)?,
            layers: layers?,
            norm: file.dequantize("output_norm.weight", &[config.hidden_dim])?,
            output: output?,
            rotary: rotary(file, &config)?,
            kv_precision: if products == Products::Stored { KvPrecision::F16 } else { KvPrecision::F32 },
            config,
            pool,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Begins a text.
    pub fn session(&self) -> Session<'_> {
        Session { model: self, cache: self.cache() }
    }

    /// An empty cache for this model.
    pub fn cache(&self) -> KvCache {
        KvCache::new(self.config.n_layers, self.config.n_kv_heads * self.config.head_dim, self.kv_precision)
    }

    /// Sends tokens through the model; their keys and values are in the cache then.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyPrompt`] without tokens; [`Error::UnknownToken`]; [`Error::ContextOverflow`] for a position beyond
    /// the model's context; [`Error::Rows`] when positions, slots or segments are not as many as tokens, slots leave a
    /// gap, or a wanted row or range is not there. The cache is as it was then.
    pub fn forward(&self, rows: &ForwardRows<'_>, cache: &mut KvCache, want: &Want<'_>) -> Result<Forwarded> {
        self.check(rows, cache, want)?;
        self.pool.install(|| self.forward_checked(rows, cache, want))
    }

    fn check(&self, rows: &ForwardRows<'_>, cache: &KvCache, want: &Want<'_>) -> Result<()> {
        let n_rows = rows.tokens.len();
        if n_rows == 0 {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = rows.tokens.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            return Err(Error::UnknownToken { id });
        }
        let limit = self.config.context_len;
        if let Some(&position) = rows.positions.iter().find(|&&position| position as usize >= limit) {
            return Err(Error::ContextOverflow { tokens: position as usize + 1, limit });
        }
        let refuse = |problem: &'static str| Err(Error::Rows { problem });
        if rows.positions.len() != n_rows || rows.slots.len() != n_rows {
            return refuse("positions and slots are not as many as tokens");
        }
        if rows.segments.is_some_and(|segments| segments.len() != n_rows) {
            return refuse("segments are not as many as tokens");
        }
        let mut len = cache.len();
        for &slot in rows.slots {
            if slot > len {
                return refuse("a slot leaves a gap behind those that are taken");
            }
            len = len.max(slot + 1);
        }
        let (attending, ranges) = want.attention.unwrap_or_default();
        if want.logits.iter().chain(want.hidden).chain(attending).any(|&row| row >= n_rows) {
            return refuse("a wanted row is not among the tokens");
        }
        if ranges.iter().any(|range| range.start > range.end || range.end > len) {
            return refuse("a range runs past the cache");
        }
        Ok(())
    }

    fn forward_checked(&self, rows: &ForwardRows<'_>, cache: &mut KvCache, want: &Want<'_>) -> Result<Forwarded> {
        let (dim, n_rows) = (self.config.hidden_dim, rows.tokens.len());
        let mut hidden = vec![0.0; n_rows * dim];
        for (hidden, &token) in hidden.chunks_exact_mut(dim).zip(rows.tokens) {
            self.embedding.read(token as usize, hidden)?;
        }
        cache.place(rows.slots, rows.positions, rows.segments);
        let mut forwarded = Forwarded::default();
        let mut scratch = Scratch::new(&self.config, n_rows);
        for (i, layer) in self.layers.iter().enumerate() {
            layer.forward(self, i, &mut hidden, rows, cache, &mut scratch)?;
            if let Some((attending, ranges)) = want.attention {
                forwarded.attention.extend(self.attention(i, rows, cache, &scratch, attending, ranges)?);
            }
        }
        for &row in want.hidden {
            forwarded.hidden.extend_from_slice(&hidden[row * dim..(row + 1) * dim]);
        }
        let mut wanted = Vec::with_capacity(want.logits.len() * dim);
        for &row in want.logits {
            wanted.extend_from_slice(&hidden[row * dim..(row + 1) * dim]);
        }
        rms_norm_in_place(&mut wanted, &self.norm, self.config.rms_eps)?;
        forwarded.logits = vec![0.0; want.logits.len() * self.config.vocab_size];
        self.output.apply(&wanted, Output::Replace, &mut forwarded.logits)?;
        Ok(forwarded)
    }

    /// The attention of some rows in the layer that was last computed, summed over ranges of slots.
    fn attention(
        &self,
        layer: usize,
        rows: &ForwardRows<'_>,
        cache: &KvCache,
        scratch: &Scratch,
        attending: &[usize],
        ranges: &[Range<usize>],
    ) -> Result<Vec<f32>> {
        let config = &self.config;
        let q_dim = config.n_heads * config.head_dim;
        let gather = |from: &[f32], width: usize| -> Vec<f32> {
            attending.iter().flat_map(|&row| &from[row * width..(row + 1) * width]).copied().collect()
        };
        let (queries, lse) = (gather(&scratch.queries, q_dim), gather(&scratch.lse, config.n_heads));
        let positions: Vec<u32> = attending.iter().map(|&row| rows.positions[row]).collect();
        let segments: Option<Vec<u32>> =
            rows.segments.map(|segments| attending.iter().map(|&row| segments[row]).collect());
        let queries = QueryRows { rows: &queries, positions: &positions, segments: segments.as_deref() };
        let mut mass = vec![0.0; config.n_heads * ranges.len()];
        attention_mass(&config.attention_shape(), &queries, &[cache.run(layer)], &rows.mask, &lse, ranges, &mut mass)?;
        Ok(mass)
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
        let config = &self.model.config;
        let (len, limit) = (self.cache.len() + tokens.len(), config.context_len);
        if len > limit {
            return Err(Error::ContextOverflow { tokens: len, limit });
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(Error::UnknownToken { id });
        }
        let mut n_read = 0;
        for chunk in tokens.chunks(CHUNK) {
            n_read += chunk.len();
            let is_last = n_read == tokens.len();
            let last = [chunk.len() - 1];
            let logits = self.append(chunk, if is_last { &last } else { &[] })?;
            if is_last {
                return Ok(logits);
            }
            if on_progress(n_read).is_break() {
                return Err(Error::Interrupted);
            }
        }
        Err(Error::EmptyPrompt)
    }

    /// Reads one token and returns the logits of the next.
    ///
    /// # Errors
    ///
    /// As for [`prefill`](Self::prefill).
    pub fn step(&mut self, token: u32) -> Result<Vec<f32>> {
        self.prefill(&[token])
    }

    /// Reads a few tokens at once and returns the logits after each of them, `[n_tokens, vocab_size]`: what
    /// [`step`](Self::step) would give for one after the other, to the bit.
    ///
    /// # Errors
    ///
    /// As for [`prefill`](Self::prefill).
    pub fn steps(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let all: Vec<usize> = (0..tokens.len()).collect();
        self.append(tokens, &all)
    }

    fn append(&mut self, tokens: &[u32], logits: &[usize]) -> Result<Vec<f32>> {
        let slots: Vec<usize> = (self.cache.len()..self.cache.len() + tokens.len()).collect();
        let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
        let mask = AttentionMask::default();
        let rows = ForwardRows { tokens, positions: &positions, slots: &slots, segments: None, mask };
        Ok(self.model.forward(&rows, &mut self.cache, &Want { logits, ..Want::default() })?.logits)
    }

    /// Number of tokens read.
    pub fn n_tokens(&self) -> usize {
        self.cache.len()
    }

    /// Forgets all but the first `n_tokens` tokens.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.cache.truncate(n_tokens);
    }
}

impl LlamaConfig {
    fn attention_shape(&self) -> AttentionShape {
        let &Self { n_heads, n_kv_heads, head_dim, .. } = self;
        AttentionShape { n_heads, n_kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
    }
}

/// The model's rotation: GGUF's `llama` files hold queries and keys permuted so that neighbours turn together.
fn rotary(file: &GgufFile, config: &LlamaConfig) -> Result<RotaryEmbedding> {
    let pairs = if config.architecture == "llama" { RotaryPairs::Neighbours } else { RotaryPairs::Halves };
    // Llama 3.1 slows its low frequencies; the file holds the divisors.
    let scaling = if file.tensors().contains_key("rope_freqs.weight") {
        let divisors = file.dequantize("rope_freqs.weight", &[config.head_dim / 2])?;
        RotaryScaling::Divisors(divisors.into_iter().map(f64::from).collect())
    } else {
        RotaryScaling::None
    };
    RotaryEmbedding::new(config.head_dim, config.rope_base, pairs, &scaling)
        .map_err(|error| file.malformed(format!("the rotary embedding: {error}")))
}

/// Room that the layers share.
struct Scratch {
    normed: Vec<f32>,
    qkv: Vec<f32>,
    queries: Vec<f32>,
    mixed: Vec<f32>,
    lse: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
}

impl Scratch {
    fn new(config: &LlamaConfig, n_rows: usize) -> Self {
        let room = |width: usize| vec![0.0; n_rows * width];
        let q_dim = config.n_heads * config.head_dim;
        Self {
            normed: room(config.hidden_dim),
            qkv: room(q_dim + 2 * config.n_kv_heads * config.head_dim),
            queries: room(q_dim),
            mixed: room(q_dim),
            lse: room(config.n_heads),
            gate_up: room(2 * config.ffn_dim),
            inner: room(config.ffn_dim),
        }
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    qkv: Stacked,
    query_key_norm: Option<(Vec<f32>, Vec<f32>)>,
    attention_output: Linear,
    ffn_norm: Vec<f32>,
    gate_up: Stacked,
    down: Linear,
}

impl Layer {
    fn from_gguf(file: &GgufFile, config: &LlamaConfig, i: usize, products: Products) -> Result<Self> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let LlamaConfig { hidden_dim, ffn_dim, n_heads, n_kv_heads, head_dim, .. } = *config;
        let (q_dim, kv_dim) = (n_heads * head_dim, n_kv_heads * head_dim);
        let vector = |part: &str, len: usize| {
            let name = name(part);
            file.tensors().contains_key(&name).then(|| file.dequantize(&name, &[len])).transpose()
        };
        let stacked = |parts: &[(&str, usize)]| {
            let parts: Vec<_> = parts.iter().map(|(part, n_out)| (name(part), *n_out)).collect();
            Stacked::from_gguf(file, &parts, hidden_dim, products)
        };
        let linear = |part: &str, n_out: usize, n_in: usize| {
            let bias = vector(&format!("{part}.bias"), n_out)?;
            Linear::from_gguf(file, &[&name(&format!("{part}.weight"))], bias, n_out, n_in, products)
        };
        let norm = |part: &str| file.dequantize(&name(part), &[hidden_dim]);
        let query_norm = vector("attn_q_norm.weight", head_dim)?;
        let key_norm = vector("attn_k_norm.weight", head_dim)?;
        Ok(Self {
            attention_norm: norm("attn_norm.weight")?,
            qkv: stacked(&[("attn_q", q_dim), ("attn_k", kv_dim), ("attn_v", kv_dim)])?,
            query_key_norm: query_norm.zip(key_norm),
            attention_output: linear("attn_output", hidden_dim, q_dim)?,
            ffn_norm: norm("ffn_norm.weight")?,
            gate_up: stacked(&[("ffn_gate", ffn_dim), ("ffn_up", ffn_dim)])?,
            down: linear("ffn_down", hidden_dim, ffn_dim)?,
        })
    }

    fn forward(
        &self,
        model: &LlamaModel,
        layer: usize,
        hidden: &mut [f32],
        rows: &ForwardRows<'_>,
        cache: &mut KvCache,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let config = &model.config;
        let Scratch { normed, qkv, queries, mixed, lse, gate_up, inner } = scratch;
        let (q_dim, kv_dim) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let qkv_dim = q_dim + 2 * kv_dim;
        rms_norm(hidden, &self.attention_norm, config.rms_eps, normed)?;
        self.qkv.apply(normed, qkv)?;
        if let Some((query_norm, key_norm)) = &self.query_key_norm {
            for row in qkv.chunks_exact_mut(qkv_dim) {
                rms_norm_in_place(&mut row[..q_dim], query_norm, config.rms_eps)?;
                rms_norm_in_place(&mut row[q_dim..q_dim + kv_dim], key_norm, config.rms_eps)?;
            }
        }
        model.rotary.rotate(qkv, qkv_dim, config.n_heads + config.n_kv_heads, rows.positions)?;
        for ((row, query), &slot) in qkv.chunks_exact(qkv_dim).zip(queries.chunks_exact_mut(q_dim)).zip(rows.slots) {
            query.copy_from_slice(&row[..q_dim]);
            cache.write(layer, slot, &row[q_dim..q_dim + kv_dim], &row[q_dim + kv_dim..]);
        }
        let seen = QueryRows { rows: queries, positions: rows.positions, segments: rows.segments };
        causal_attention(&config.attention_shape(), &seen, &[cache.run(layer)], &rows.mask, mixed, Some(lse))?;
        self.attention_output.apply(mixed, Output::Add, hidden)?;

        rms_norm(hidden, &self.ffn_norm, config.rms_eps, normed)?;
        self.gate_up.apply_gated(normed, Activation::Silu, gate_up, inner)?;
        self.down.apply(inner, Output::Add, hidden)
    }
}
