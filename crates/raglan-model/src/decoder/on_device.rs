//! Decoders on NVIDIA devices: the same forward over pages that are there.
//!
//! Hidden states are in single precision, keys and values in half. Embeddings are looked up by the processor, where a row
//! of any format is quickly read, and only logits that are wanted come back.

use std::ops::Range;
use std::path::Path;

use raglan_kernels::cuda::{
    Bf16, Buffer, CausalPlan, CudaDevice, DecodePlan, DeviceBlockMatrix, DeviceMatrix, EMPTY_SLOT, F16, KvPages,
    KvSource, PAGE_TOKENS, PagedKeys, Placement, RotaryTurns, SplitMatrix, add_bias, add_rms_norm, block_product,
    causal_attention, convert, decode_attention, gated_apart, matrix_product, place, rms_norm, rms_norm_in_place,
    rotate, split_product,
};
use raglan_kernels::{AttentionMask, BlockFormat, Output};
use raglan_kv::KvArena;
use rayon::prelude::*;

use super::{ForwardSequence, Forwarded, Weights, output_name, pool};
use crate::decoder_tensors::{DecoderTensors, LayerPart};
use crate::gguf::GgufFile;
use crate::safetensors::SafetensorsFile;
use crate::weight_file::WeightFile;
use crate::{DecoderConfig, DecoderModel, Error, Products, Result};

/// Sizes of heads that there are kernels for.
const HEAD_DIMS: [usize; 3] = [32, 64, 128];
/// Rows up to which blocks are multiplied as they are; with more they are widened first, which reads and writes them once
/// and leaves the rest to the matrix units.
const FEW_ROWS: usize = 8;
/// Rows of a text up to which they attend one by one, all keys shared out among blocks.
const FEW_QUERIES: usize = 8;
/// Rows of a head of keys that a step of decoding has at most.
const DECODE_ROWS: usize = 16;
/// How many texts as long as the model's context there are pages for, if half of the free memory has room for them.
const TEXTS: usize = 8;

/// The weights of a decoder on a device.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    device: CudaDevice,
    layers: Vec<Layer>,
    norm: Buffer<f32>,
    output: Linear,
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

/// `y = W x + b` for each row `x`.
#[derive(Debug)]
struct Linear {
    matrix: Matrix,
    bias: Option<Buffer<f32>>,
    n_in: usize,
}

#[derive(Debug)]
enum Matrix {
    Blocks(DeviceBlockMatrix),
    Bf16(DeviceMatrix),
    F32(SplitMatrix),
}

impl DecoderModel {
    /// Loads a model as [`load`](Self::load) does, to a device; `threads` only read the files.
    ///
    /// [`Products::Stored`] multiplies by blocks and bf16 as the file has them, and in single precision by all else. Keys
    /// and values are kept in half precision; there is room for those of eight texts as long as the model's context, or for
    /// what half of the memory holds that is free behind the weights.
    ///
    /// [`forward`](Self::forward) gives what it gives on the processor, within the rounding of these numbers; a token's
    /// result may differ in its last bits with what else passes. What it does not serve is refused with
    /// [`Error::NotOnDevice`]: keys that are chosen, queries that are taken down, attention that is summed, passages read side
    /// by side, and passes layer by layer.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load); [`Error::Unsupported`] for heads of other sizes than 32, 64 and 128, and for
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
            let what = format!("heads of {} numbers on a CUDA device (can be 32, 64, 128)", config.head_dim);
            return Err(unsupported(what));
        }
        let pool = pool(threads, tensors.file)?;
        let weights = pool.install(|| DeviceWeights::load(device, tensors, &config, products))?;
        let pages =
            KvPages::new(device, config.n_layers, n_pages(device, &config)?, config.n_kv_heads, config.head_dim)?;
        Self::from_parts(tensors, config, products, Weights::Device(weights), KvArena::on_device(pages), pool)
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
        })
    }

    /// [`DecoderModel::forward`] of sequences whose slots were placed.
    pub fn forward(&self, model: &DecoderModel, sequences: &[ForwardSequence<'_>]) -> Result<Vec<Forwarded>> {
        let (config, device) = (&model.config, &self.device);
        let mut pages = model.kv_arena.device_pages().expect("a model on a device has its arena there");
        let rows = || sequences.iter().map(|sequence| &sequence.rows);
        let n_rows = rows().map(|rows| rows.tokens.len()).sum();
        let positions: Vec<u32> = rows().flat_map(|rows| rows.positions).copied().collect();
        let mut hidden = device.upload(&model.embed(rows().flat_map(|rows| rows.tokens).copied(), n_rows)?)?;
        let turns = RotaryTurns::at(device, &model.rotary, &positions)?;
        let local_turns = model.local_rotary.as_ref().map(|local| RotaryTurns::at(device, local, &positions));
        let local_turns = local_turns.transpose()?;
        // The turn of each row is its own.
        let turn_of = device.upload(&(0..n_rows as u32).collect::<Vec<_>>())?;
        let placement = {
            let slots: Vec<u32> = sequences.iter().flat_map(slots_in_arena).collect();
            let turn_of: Vec<Option<u32>> = (0..n_rows as u32).map(Some).collect();
            Placement::new(device, &slots, &turn_of, pages.n_pages())?
        };
        let mut attention = Attention::new(config, sequences, &pages)?;
        let mut room = Room::new(device, config, n_rows)?;
        let first_norm = self.layers.first().map_or(&self.norm, |layer| &layer.attention_norm);
        rms_norm(&hidden, first_norm, config.rms_eps, &mut room.normed)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let turns = local_turns.as_ref().filter(|_| config.windows[i].is_some()).unwrap_or(&turns);
            layer.project(config, &turn_of, turns, &mut room)?;
            let source = KvSource {
                keys: &room.key,
                values: &room.value,
                key_start: 0,
                value_start: 0,
                token_stride: config.n_kv_heads * config.head_dim,
                layer_stride: 0,
            };
            place(&source, &placement, turns, &mut pages, i..i + 1)?;
            let mixed = attention.attend(config, i, &convert(&room.query)?, &pages)?;
            let next_norm = self.layers.get(i + 1).map_or(&self.norm, |layer| &layer.attention_norm);
            layer.finish(config, &convert(&mixed)?, &mut hidden, next_norm, &mut room)?;
        }
        self.wanted(model, sequences, &hidden, &room.normed)
    }

    /// What sequences want of the last hidden states, and of these behind the final norm.
    fn wanted(
        &self,
        model: &DecoderModel,
        sequences: &[ForwardSequence<'_>],
        hidden: &Buffer<f32>,
        normed: &Buffer<f32>,
    ) -> Result<Vec<Forwarded>> {
        let (dim, vocab_size) = (model.config.hidden_dim, model.config.vocab_size);
        let mut forwarded = vec![Forwarded::default(); sequences.len()];
        let (mut wanted, mut first) = (Vec::new(), 0);
        for (sequence, forwarded) in sequences.iter().zip(&mut forwarded) {
            if !sequence.want.hidden.is_empty() {
                let rows: Vec<usize> = sequence.want.hidden.iter().map(|row| first + row).collect();
                forwarded.hidden = self.gather(hidden, &rows, dim)?.download()?;
            }
            wanted.extend(sequence.want.logits.iter().map(|row| first + row));
            first += sequence.rows.tokens.len();
        }
        if !wanted.is_empty() {
            let mut logits = self.device.filled(0, wanted.len() * vocab_size)?;
            self.output.apply(&self.gather(normed, &wanted, dim)?, &mut logits)?;
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

/// Room that the layers share, `[n_rows, …]`.
struct Room {
    normed: Buffer<f32>,
    query: Buffer<f32>,
    key: Buffer<f32>,
    value: Buffer<f32>,
    /// What a part of a layer adds to the hidden state.
    added: Buffer<f32>,
    gate: Buffer<f32>,
    up: Buffer<f32>,
    inner: Buffer<f32>,
}

impl Room {
    fn new(device: &CudaDevice, config: &DecoderConfig, n_rows: usize) -> Result<Self> {
        let room = |width: usize| device.filled(0, n_rows * width);
        let (q_dim, kv_dim) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        Ok(Self {
            normed: room(config.hidden_dim)?,
            query: room(q_dim)?,
            key: room(kv_dim)?,
            value: room(kv_dim)?,
            added: room(config.hidden_dim)?,
            gate: room(config.ffn_dim)?,
            up: room(config.ffn_dim)?,
            inner: room(config.ffn_dim)?,
        })
    }
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
    ) -> Result<()> {
        self.query.apply(&room.normed, &mut room.query)?;
        self.key.apply(&room.normed, &mut room.key)?;
        self.value.apply(&room.normed, &mut room.value)?;
        if let Some((query_norm, key_norm)) = &self.query_key_norm {
            rms_norm_in_place(&mut room.query, query_norm, config.rms_eps)?;
            rms_norm_in_place(&mut room.key, key_norm, config.rms_eps)?;
        }
        let width = config.n_heads * config.head_dim;
        Ok(rotate(&mut room.query, width, 0, config.n_heads, turn_of, turns)?)
    }

    /// Adds what attention gave, and the feed-forward, to the hidden states; their next norm is in `room.normed` then.
    fn finish(
        &self,
        config: &DecoderConfig,
        mixed: &Buffer<f32>,
        hidden: &mut Buffer<f32>,
        next_norm: &Buffer<f32>,
        room: &mut Room,
    ) -> Result<()> {
        let Room { normed, added, gate, up, inner, .. } = room;
        self.attention_output.apply(mixed, added)?;
        if let Some(norm) = &self.post_attention_norm {
            rms_norm_in_place(added, norm, config.rms_eps)?;
        }
        add_rms_norm(hidden, added, &self.ffn_norm, config.rms_eps, normed)?;
        self.gate.apply(normed, gate)?;
        self.up.apply(normed, up)?;
        gated_apart(gate, up, config.activation, inner)?;
        self.down.apply(inner, added)?;
        if let Some(norm) = &self.post_ffn_norm {
            rms_norm_in_place(added, norm, config.rms_eps)?;
        }
        Ok(add_rms_norm(hidden, added, next_norm, config.rms_eps, normed)?)
    }
}

impl Linear {
    /// The map of a tensor with `n_out` outputs.
    fn load(
        device: &CudaDevice,
        file: &dyn WeightFile,
        (tensor, bias): (&str, Option<Vec<f32>>),
        (n_out, n_in): (usize, usize),
        products: Products,
    ) -> Result<Self> {
        let shape = [n_out, n_in];
        let matrix = match (products, file.format(tensor)) {
            (Products::Bf16, _) | (Products::Stored, Some(BlockFormat::Bf16)) => {
                Matrix::Bf16(DeviceMatrix::new(device, &file.numbers(tensor, &shape)?, n_in, n_out, None)?)
            }
            (Products::Stored, Some(format)) if !matches!(format, BlockFormat::F32 | BlockFormat::F16) => {
                let bytes = file.bytes(tensor, &shape)?;
                Matrix::Blocks(DeviceBlockMatrix::new(device, format, &bytes, n_in, n_out)?)
            }
            _ => Matrix::F32(SplitMatrix::new(device, &file.numbers(tensor, &shape)?, n_in, n_out)?),
        };
        Ok(Self { matrix, bias: bias.map(|bias| device.upload(&bias)).transpose()?, n_in })
    }

    fn apply(&self, rows: &Buffer<f32>, out: &mut Buffer<f32>) -> Result<()> {
        let by_units = |weights: &DeviceMatrix, out: &mut Buffer<f32>| {
            matrix_product(&convert::<f32, Bf16>(rows)?, weights, Output::Replace, out)
        };
        match &self.matrix {
            Matrix::Blocks(weights) if rows.len() <= FEW_ROWS * self.n_in => block_product(rows, weights, out)?,
            Matrix::Blocks(weights) => by_units(&weights.dequantize()?, out)?,
            Matrix::Bf16(weights) => by_units(weights, out)?,
            Matrix::F32(weights) => split_product(rows, weights, out)?,
        }
        if let Some(bias) = &self.bias {
            add_bias(out, bias)?;
        }
        Ok(())
    }
}

/// Where a sequence's rows go in the arena.
fn slots_in_arena(sequence: &ForwardSequence<'_>) -> Vec<u32> {
    let pages = sequence.cache.pages_on_device().expect("the caches of a forward were checked");
    let slot = |slot: &usize| pages[slot / PAGE_TOKENS] * PAGE_TOKENS as u32 + (slot % PAGE_TOKENS) as u32;
    sequence.rows.slots.iter().map(slot).collect()
}

/// Which rows see which pages, by what their layers see at most.
struct Attention {
    of_windows: Vec<(Option<u32>, Vec<Group>)>,
}

/// Rows that attend in one launch.
struct Group {
    rows: Range<usize>,
    plan: Plan,
}

enum Plan {
    Few(DecodePlan),
    Many(CausalPlan),
}

/// Rows of one text that see the same keys.
struct Seeing<'a> {
    rows: Range<usize>,
    positions: &'a [u32],
    segments: Option<&'a [u32]>,
    mask: AttentionMask,
    pages: Vec<u32>,
    key_positions: Vec<u32>,
    key_segments: Option<Vec<u32>>,
}

impl Seeing<'_> {
    fn keys(&self) -> PagedKeys<'_> {
        PagedKeys {
            pages: &self.pages,
            positions: &self.key_positions,
            segments: self.key_segments.as_deref(),
            log_weights: None,
            turns: None,
        }
    }

    fn are_few(&self, config: &DecoderConfig) -> bool {
        let no_segments = self.segments.is_none() && self.key_segments.is_none();
        self.rows.len() <= FEW_QUERIES && config.n_heads / config.n_kv_heads <= DECODE_ROWS && no_segments
    }
}

/// The rows of all sequences, in order, those of each view by themselves.
fn seeing<'a>(sequences: &'a [ForwardSequence<'_>]) -> Vec<Seeing<'a>> {
    let mut seeing = Vec::new();
    let mut first = 0;
    for ForwardSequence { rows, cache, .. } in sequences {
        let pages = cache.pages_on_device().expect("the caches of a forward were checked");
        let n_slots = pages.len() * PAGE_TOKENS;
        let padded = |numbers: &[u32], with: u32| {
            let mut numbers = numbers.to_vec();
            numbers.resize(n_slots, with);
            numbers
        };
        let mut push = |range: Range<usize>, key_positions: Vec<u32>| {
            seeing.push(Seeing {
                rows: first + range.start..first + range.end,
                positions: &rows.positions[range.clone()],
                segments: rows.segments.map(|segments| &segments[range]),
                mask: rows.mask,
                pages: pages.clone(),
                key_positions,
                key_segments: cache.segments().map(|segments| padded(segments, 0)),
            });
        };
        if rows.views.is_empty() {
            push(0..rows.tokens.len(), padded(cache.positions(), EMPTY_SLOT));
        }
        for view in rows.views.iter().filter(|view| !view.rows.is_empty()) {
            let mut seen = vec![EMPTY_SLOT; n_slots];
            for slots in view.slots {
                seen[slots.clone()].copy_from_slice(&cache.positions()[slots.clone()]);
            }
            push(view.rows.clone(), seen);
        }
        first += rows.tokens.len();
    }
    seeing
}

impl Attention {
    fn new(config: &DecoderConfig, sequences: &[ForwardSequence<'_>], pages: &KvPages) -> Result<Self> {
        let seeing = seeing(sequences);
        let mut of_windows = Vec::new();
        for (layer, &window) in config.windows.iter().enumerate() {
            if !of_windows.iter().any(|(other, _)| *other == window) {
                of_windows.push((window, groups(config, layer, &seeing, pages)?));
            }
        }
        Ok(Self { of_windows })
    }

    /// What rows get in a layer, `[n_rows, n_heads · head_dim]` as `queries`.
    fn attend(
        &mut self,
        config: &DecoderConfig,
        layer: usize,
        queries: &Buffer<F16>,
        pages: &KvPages,
    ) -> Result<Buffer<F16>> {
        let groups = self.of_windows.iter_mut().find(|(window, _)| *window == config.windows[layer]);
        let (_, groups) = groups.expect("each layer's window has its plans");
        let device = queries.device();
        let mut mixed = device.filled(0, queries.len())?;
        if let [only] = &mut **groups {
            only.plan.attend(queries, pages, layer, &mut mixed)?;
            return Ok(mixed);
        }
        let width = config.n_heads * config.head_dim;
        for Group { rows, plan } in groups {
            let (mut own, mut got) = (device.filled(0, rows.len() * width)?, device.filled(0, rows.len() * width)?);
            own.copy_range(0, queries, rows.start * width..rows.end * width)?;
            plan.attend(&own, pages, layer, &mut got)?;
            mixed.copy_range(rows.start * width, &got, 0..rows.len() * width)?;
        }
        Ok(mixed)
    }
}

/// The plans of all rows for layers that see as much as `layer`; few rows that follow one another, under one mask, share one.
fn groups(config: &DecoderConfig, layer: usize, seeing: &[Seeing<'_>], pages: &KvPages) -> Result<Vec<Group>> {
    let shape = config.attention_shape();
    let mut groups = Vec::new();
    let together = |a: &Seeing<'_>, b: &Seeing<'_>| a.are_few(config) && b.are_few(config) && a.mask == b.mask;
    for together in seeing.chunk_by(together) {
        let (first, last) = (&together[0], &together[together.len() - 1]);
        let mask = config.mask(layer, first.mask);
        let plan = if first.are_few(config) {
            let positions: Vec<u32> = together.iter().flat_map(|seeing| seeing.positions).copied().collect();
            // Each row is a text of its own to the kernel, with what it sees.
            let keys = together.iter().flat_map(|seeing| seeing.rows.clone().map(|_| seeing.keys()));
            Plan::Few(DecodePlan::new(pages, &shape, 1, &positions, &keys.collect::<Vec<_>>(), &mask)?)
        } else {
            Plan::Many(CausalPlan::new(pages, &shape, first.positions, first.segments, &first.keys(), &mask)?)
        };
        groups.push(Group { rows: first.rows.start..last.rows.end, plan });
    }
    Ok(groups)
}

impl Plan {
    fn attend(&mut self, queries: &Buffer<F16>, pages: &KvPages, layer: usize, out: &mut Buffer<F16>) -> Result<()> {
        match self {
            Self::Few(plan) => decode_attention(plan, queries, pages, layer, out, None)?,
            Self::Many(plan) => causal_attention(plan, queries, pages, layer, out, None)?,
        }
        Ok(())
    }
}
