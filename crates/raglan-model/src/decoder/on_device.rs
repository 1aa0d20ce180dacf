//! Decoders on NVIDIA devices: the same forward over pages that are there.
//!
//! Hidden states are in single precision, keys and values in half. Embeddings are looked up by the processor, where a row
//! of any format is quickly read, and only logits that are wanted come back.

mod attention;
mod linear;
mod pass;
mod steps;

use std::path::Path;
use std::sync::Mutex;

use raglan_kernels::Result as KernelResult;
use raglan_kernels::cuda::{
    Buffer, CudaDevice, F16, HEAD_DIMS, KvPages, PAGE_TOKENS, RotaryTurns, add_rms_norm, gated_apart,
    rms_norm_in_place, rotate,
};
use raglan_kv::KvArena;
use rayon::prelude::*;

use attention::{Attention, seeing};
use linear::{Input, Linear};
use pass::{Pass, Room, Rows};
use steps::Steps;
pub use steps::{DeviceSteps, StepRecording};

use super::{ForwardSequence, Forwarded, Weights, output_name, pool};
use crate::decoder_tensors::{DecoderTensors, LayerPart};
use crate::gguf::GgufFile;
use crate::safetensors::SafetensorsFile;
use crate::{DecoderConfig, DecoderModel, Error, Products, Result};

/// How many texts as long as the model's context there are pages for, if half of the free memory has room for them.
const TEXTS: usize = 8;

/// The weights of a decoder on a device.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    /// A stream of the model's own, so that nobody else's work comes into what is recorded.
    device: CudaDevice,
    layers: Vec<Layer>,
    norm: Buffer<f32>,
    output: Linear,
    steps: Mutex<Steps>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Buffer<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    query_key_norm: Option<(Buffer<f32>, Buffer<f32>)>,
    attention_output: Linear,
    post_attention_norm: Option<Buffer<f32>>,
    ffn_norm: Buffer<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
    post_ffn_norm: Option<Buffer<f32>>,
}

impl DecoderModel {
    /// Loads a model as [`load`](Self::load) does, to a device; `threads` only read the files.
    ///
    /// It has a stream of its own there, so that others' work goes on beside its own. Steps of decoding are recorded when
    /// they come a second time, and replayed from then on; [`device_steps`](Self::device_steps) says how far.
    ///
    /// [`Products::Stored`] multiplies by blocks, bf16 and f16 as the file has them, and in single precision by all else. Keys
    /// and values are kept in half precision; there is room for those of eight texts as long as the model's context, or for
    /// what half of the memory holds that is free behind the weights. Half of the rest is for blocks that stay there
    /// ([`KvArena::set_block_budget`]), and what is left for passes.
    ///
    /// [`forward`](Self::forward) gives what it gives on the processor, within the rounding of these numbers; a token's
    /// result may differ in its last bits with what else passes. What it does not serve is refused with
    /// [`Error::NotOnDevice`]: keys that are chosen, queries that are taken down, attention that is summed, passages read side
    /// by side, and passes layer by layer.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load); [`Error::Unsupported`] for heads of other sizes than [`HEAD_DIMS`], and for
    /// [`Products::Int8`] and [`Products::Candle`]; [`Error::Kernel`] when the device has not so much memory.
    pub fn load_on_device(
        path: impl AsRef<Path>,
        device: &CudaDevice,
        threads: usize,
        products: Products,
    ) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            let config = DecoderConfig::from_folder(path)?;
            let file = SafetensorsFile::open(path)?;
            let tensors = DecoderTensors::hugging_face(&file, config.is_gemma());
            return Self::to_device(&tensors, config, device, threads, products);
        }
        let file = GgufFile::open(path)?;
        Self::gguf_to_device(&file, device, threads, products)
    }

    /// Loads a model from an open GGUF file, as [`load_on_device`](Self::load_on_device) does.
    ///
    /// # Errors
    ///
    /// As for [`load_on_device`](Self::load_on_device).
    pub fn gguf_to_device(file: &GgufFile, device: &CudaDevice, threads: usize, products: Products) -> Result<Self> {
        Self::to_device(&DecoderTensors::gguf(file), DecoderConfig::from_gguf(file)?, device, threads, products)
    }

    fn to_device(
        tensors: &DecoderTensors<'_>,
        config: DecoderConfig,
        device: &CudaDevice,
        threads: usize,
        products: Products,
    ) -> Result<Self> {
        let unsupported = |what: String| Error::Unsupported { path: tensors.file.path().to_owned(), what };
        if matches!(products, Products::Int8 | Products::Candle) {
            return Err(unsupported(format!("a language model with products `{}` on a CUDA device", products.name())));
        }
        if !HEAD_DIMS.contains(&config.head_dim) {
            let what = format!("heads of {} numbers on a CUDA device (can be {HEAD_DIMS:?})", config.head_dim);
            return Err(unsupported(what));
        }
        let pool = pool(threads, tensors.file)?;
        let device = &device.another_stream()?;
        let weights = pool.install(|| DeviceWeights::load(device, tensors, &config, products))?;
        let pages =
            KvPages::new(device, config.n_layers, n_pages(device, &config)?, config.n_kv_heads, config.head_dim)?;
        let arena = KvArena::on_device(pages);
        arena.set_block_budget(device.free_bytes()? / 2);
        Self::from_parts(tensors, config, products, Weights::Device(weights), arena, pool)
    }
}

/// Pages for whole texts, as far as half of the free memory goes.
fn n_pages(device: &CudaDevice, config: &DecoderConfig) -> Result<usize> {
    let page_bytes = 2 * config.n_layers * config.n_kv_heads * PAGE_TOKENS * config.head_dim * size_of::<F16>();
    let wanted = config.context_len.div_ceil(PAGE_TOKENS).saturating_mul(TEXTS);
    Ok(wanted.min(device.free_bytes()? / 2 / page_bytes).max(1))
}

impl DeviceWeights {
    fn load(
        device: &CudaDevice,
        tensors: &DecoderTensors<'_>,
        config: &DecoderConfig,
        products: Products,
    ) -> Result<Self> {
        let layers = (0..config.n_layers).into_par_iter().map(|i| Layer::load(device, tensors, config, i, products));
        let output = output_name(tensors, config);
        let shape = (config.vocab_size, config.hidden_dim);
        Ok(Self {
            device: device.clone(),
            layers: layers.collect::<Result<_>>()?,
            norm: device.upload(&tensors.final_norm(config.hidden_dim)?)?,
            output: Linear::load(device, tensors.file, (&output, None), shape, products)?,
            steps: Mutex::default(),
        })
    }

    /// [`DecoderModel::forward`] of sequences whose slots were placed.
    pub fn forward(&self, model: &DecoderModel, sequences: &[ForwardSequence<'_>]) -> Result<Vec<Forwarded>> {
        let config = &model.config;
        let mut pages = model.kv_arena.device_pages().expect("a model on a device has its arena there");
        let rows = Rows::of(model, sequences)?;
        let seeing = seeing(sequences);
        if let Some(shape) = self.shape_of_step(config, sequences, &rows, &seeing) {
            return self.step(model, sequences, &rows, &seeing, shape, &mut pages);
        }
        let attention = Attention::new(config, &seeing, &pages)?;
        let mut pass = Pass::new(model, &self.device, &rows, attention, pages.n_pages())?;
        pass.run(self, config, &mut pages)?;
        self.wanted(model, sequences, &pass, None)
    }

    /// Whether some weights are blocks, which are multiplied as they are, or widened.
    fn has_blocks(&self) -> bool {
        let of_layer = |layer: &Layer| {
            let Layer { query, key, value, attention_output, gate, up, down, .. } = layer;
            [query, key, value, attention_output, gate, up, down].into_iter().any(Linear::has_blocks)
        };
        self.output.has_blocks() || self.layers.iter().any(of_layer)
    }

    /// What sequences want of the last hidden states; and logits, unless those of all rows are there.
    fn wanted(
        &self,
        model: &DecoderModel,
        sequences: &[ForwardSequence<'_>],
        pass: &Pass,
        of_all: Option<&Buffer<f32>>,
    ) -> Result<Vec<Forwarded>> {
        let (dim, vocab_size) = (model.config.hidden_dim, model.config.vocab_size);
        let mut forwarded = vec![Forwarded::default(); sequences.len()];
        for (sequence, (forwarded, first)) in sequences.iter().zip(forwarded.iter_mut().zip(first_rows(sequences))) {
            if !sequence.want.hidden.is_empty() {
                let rows: Vec<usize> = sequence.want.hidden.iter().map(|row| first + row).collect();
                forwarded.hidden = self.gather(&pass.hidden, &rows, dim)?.download()?;
            }
        }
        let wanted = wanted_logits(sequences);
        if let Some(logits) = of_all {
            model.hand_out(logits.download()?, sequences, &mut forwarded);
        } else if !wanted.is_empty() {
            let mut logits = self.device.filled(0, wanted.len() * vocab_size)?;
            self.output.apply(&Input::new(&self.gather(pass.normed(), &wanted, dim)?), &mut logits)?;
            model.hand_out(logits.download()?, sequences, &mut forwarded);
        }
        Ok(forwarded)
    }

    fn gather(&self, from: &Buffer<f32>, rows: &[usize], dim: usize) -> Result<Buffer<f32>> {
        let mut gathered = self.device.filled(0, rows.len() * dim)?;
        for (to, row) in rows.iter().enumerate() {
            gathered.copy_range(to * dim, from, row * dim..(row + 1) * dim)?;
        }
        Ok(gathered)
    }
}

/// The number of each sequence's first row.
fn first_rows<'a>(sequences: &'a [ForwardSequence<'_>]) -> impl Iterator<Item = usize> + 'a {
    sequences.iter().scan(0, |next, sequence| {
        let first = *next;
        *next += sequence.rows.tokens.len();
        Some(first)
    })
}

/// The numbers of the rows whose logits are wanted.
fn wanted_logits(sequences: &[ForwardSequence<'_>]) -> Vec<usize> {
    let rows = sequences.iter().zip(first_rows(sequences));
    rows.flat_map(|(sequence, first)| sequence.want.logits.iter().map(move |row| first + row)).collect()
}

impl Layer {
    fn load(
        device: &CudaDevice,
        tensors: &DecoderTensors<'_>,
        config: &DecoderConfig,
        i: usize,
        products: Products,
    ) -> Result<Self> {
        let DecoderConfig { hidden_dim, ffn_dim, n_heads, n_kv_heads, head_dim, .. } = *config;
        let (q_dim, kv_dim) = (n_heads * head_dim, n_kv_heads * head_dim);
        let file = tensors.file;
        let linear = |part: LayerPart, n_out: usize, n_in: usize| {
            let name = tensors.name(i, part);
            let bias = format!("{name}.bias");
            let bias = file.contains(&bias).then(|| file.numbers(&bias, &[n_out])).transpose()?;
            Linear::load(device, file, (&format!("{name}.weight"), bias), (n_out, n_in), products)
        };
        let norm = |part: LayerPart, dim: usize| Ok::<_, Error>(device.upload(&tensors.norm(i, part, dim)?)?);
        let gemma_norm = |part: LayerPart| config.is_gemma().then(|| norm(part, hidden_dim)).transpose();
        let head_norms =
            || Ok::<_, Error>((norm(LayerPart::QueryNorm, head_dim)?, norm(LayerPart::KeyNorm, head_dim)?));
        Ok(Self {
            attention_norm: norm(LayerPart::AttentionNorm, hidden_dim)?,
            query: linear(LayerPart::Query, q_dim, hidden_dim)?,
            key: linear(LayerPart::Key, kv_dim, hidden_dim)?,
            value: linear(LayerPart::Value, kv_dim, hidden_dim)?,
            query_key_norm: config.normalizes_heads().then(head_norms).transpose()?,
            attention_output: linear(LayerPart::AttentionOutput, hidden_dim, q_dim)?,
            post_attention_norm: gemma_norm(LayerPart::PostAttentionNorm)?,
            ffn_norm: norm(LayerPart::FeedForwardNorm, hidden_dim)?,
            gate: linear(LayerPart::Gate, ffn_dim, hidden_dim)?,
            up: linear(LayerPart::Up, ffn_dim, hidden_dim)?,
            down: linear(LayerPart::Down, hidden_dim, ffn_dim)?,
            post_ffn_norm: gemma_norm(LayerPart::PostFeedForwardNorm)?,
        })
    }

    /// Queries, which are turned, and keys and values, which are not, of normed rows.
    fn project(
        &self,
        config: &DecoderConfig,
        turn_of: &Buffer<u32>,
        turns: &RotaryTurns,
        room: &mut Room,
    ) -> KernelResult<()> {
        let Room { normed, query, key, value, .. } = room;
        let normed = Input::new(normed);
        self.query.apply(&normed, query)?;
        self.key.apply(&normed, key)?;
        self.value.apply(&normed, value)?;
        if let Some((query_norm, key_norm)) = &self.query_key_norm {
            rms_norm_in_place(query, query_norm, config.rms_eps)?;
            rms_norm_in_place(key, key_norm, config.rms_eps)?;
        }
        let width = config.n_heads * config.head_dim;
        rotate(query, width, 0, config.n_heads, turn_of, turns)
    }

    /// Adds what attention gave, and the feed-forward, to the hidden states; their next norm is in `room.normed` then.
    fn finish(
        &self,
        config: &DecoderConfig,
        mixed: &Buffer<f32>,
        hidden: &mut Buffer<f32>,
        next_norm: &Buffer<f32>,
        room: &mut Room,
    ) -> KernelResult<()> {
        let Room { normed, added, gate, up, inner, .. } = room;
        self.attention_output.apply(&Input::new(mixed), added)?;
        if let Some(norm) = &self.post_attention_norm {
            rms_norm_in_place(added, norm, config.rms_eps)?;
        }
        add_rms_norm(hidden, added, &self.ffn_norm, config.rms_eps, normed)?;
        let widened = Input::new(normed);
        self.gate.apply(&widened, gate)?;
        self.up.apply(&widened, up)?;
        gated_apart(gate, up, config.activation, inner)?;
        self.down.apply(&Input::new(inner), added)?;
        if let Some(norm) = &self.post_ffn_norm {
            rms_norm_in_place(added, norm, config.rms_eps)?;
        }
        add_rms_norm(hidden, added, next_norm, config.rms_eps, normed)
    }
}
