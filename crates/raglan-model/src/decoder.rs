//! Decoder-only transformers of the Llama family: Llama 2 and 3, Mistral, SmolLM, Qwen 2 and 3, Gemma 3.
//!
//! One forward serves all: tokens of any number of sequences at any positions, whose keys and values go to any slots of
//! their sequence's [`KvCache`], and which see what is in it. A token's result has the same bits whatever other tokens,
//! of its own sequence or of others, pass with it ([`Products::Candle`] aside, whose sums are in candle's order, and models
//! on a device, whose products are other ones for few rows than for many).

#[cfg(feature = "cuda")]
mod on_device;
mod session;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use raglan_kernels::{
    AttentionMask, AttentionShape, KvRun, Output, QueryRows, RotaryEmbedding, attention_mass, causal_attention,
    merge_attention, rms_norm, rms_norm_in_place,
};
use raglan_kv::{KvArena, KvCache, KvPrecision, KvShape, LayerRotary, ParallelContext};
use rayon::prelude::*;

use crate::decoder_config::Rope;
use crate::decoder_tensors::{DecoderTensors, LayerPart};
use crate::gguf::GgufFile;
use crate::key_selection::{KeySelection, LayerRows, QueryRecord, probe};
use crate::linear::{Linear, Stacked};
use crate::safetensors::SafetensorsFile;
use crate::weight_file::{Rows, WeightFile};
use crate::{DecoderConfig, Error, Products, Result};

#[cfg(feature = "cuda")]
pub use on_device::{DeviceSteps, StepRecording};
pub use session::Session;

/// What a device does not serve, as its refusal says it.
pub(crate) const PASSES: &str =
    "passes layer by layer, as attention to passages and the reuse of their keys and values are";

/// A language model of the Llama family, ready to read tokens.
#[derive(Debug)]
pub struct DecoderModel {
    /// The file of the weights.
    path: PathBuf,
    config: DecoderConfig,
    embedding: Rows,
    weights: Weights,
    norm: Vec<f32>,
    rotary: RotaryEmbedding,
    /// That of layers that see a window, where it is another one.
    local_rotary: Option<RotaryEmbedding>,
    kv_arena: KvArena,
    /// Which heads of keys look far, layer by layer, once that was asked.
    far_heads: OnceLock<Vec<Vec<bool>>>,
    products: Products,
    pool: rayon::ThreadPool,
}

/// What the hidden states are multiplied by, where that is done.
#[derive(Debug)]
enum Weights {
    Processor {
        layers: Vec<Layer>,
        output: Linear,
    },
    #[cfg(feature = "cuda")]
    Device(on_device::DeviceWeights),
}

/// Tokens of one sequence that pass through a model together.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardRows<'a> {
    /// The token of each row.
    pub tokens: &'a [u32],
    /// Where each token stands, which is what its rotation and its view of the keys go by.
    pub positions: &'a [u32],
    /// Where in the cache each token's keys and values go, none where another of them does: over what is there, or,
    /// without a gap, behind it.
    pub slots: &'a [usize],
    /// The segment of each token, if there are any; see [`raglan_kernels::QueryRows`].
    pub segments: Option<&'a [u32]>,
    /// Which keys a token sees besides.
    pub mask: AttentionMask,
    /// The slots that rows see, when not all see all. The rows of the views follow one another and are all there are.
    pub views: &'a [View<'a>],
}

/// Rows of a forward that see some slots of their cache only, as the branches of a tree of drafts do.
///
/// What a row gets has the bits that it would have if the cache held these slots alone.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The rows.
    pub rows: Range<usize>,
    /// The slots, each once, in the order in which attention numbers them.
    pub slots: &'a [Range<usize>],
}

/// One sequence's part in a forward.
#[derive(Debug)]
pub struct ForwardSequence<'a> {
    /// The tokens that are read.
    pub rows: ForwardRows<'a>,
    /// The keys and values of those read before; of these too, then.
    pub cache: &'a mut KvCache,
    /// What is to be given back.
    pub want: Want<'a>,
    /// Which keys the tokens attend to.
    pub attending: Attending<'a>,
}

/// Which keys the tokens of a sequence attend to, of those that they see.
#[derive(Debug, Default)]
pub enum Attending<'a> {
    /// All.
    #[default]
    All,
    /// All, and what they ask is taken down.
    Observed(&'a mut QueryRecord),
    /// Those that are chosen.
    Selected(&'a mut KeySelection),
}

/// What a forward is to give back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Want<'a> {
    /// Rows whose logits are wanted.
    pub logits: &'a [usize],
    /// Rows whose last hidden state, before the final norm, is wanted.
    pub hidden: &'a [usize],
    /// Rows whose attention is wanted, summed, and the ranges of slots it is summed over. There are no views then.
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

impl DecoderModel {
    /// Loads a model from a GGUF file, or from a folder of a Hugging Face repository with `config.json` and
    /// safetensors, to run on `threads` threads.
    ///
    /// With [`Products::Stored`] and [`Products::Bf16`], keys and values are kept in half precision, otherwise in single.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Malformed`] when a file is not sound, [`Error::Unsupported`] when it holds another
    /// kind of model.
    pub fn load(path: impl AsRef<Path>, threads: usize, products: Products) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Self::from_gguf(&GgufFile::open(path)?, threads, products);
        }
        let config = DecoderConfig::from_folder(path)?;
        let file = SafetensorsFile::open(path)?;
        Self::from_tensors(&DecoderTensors::hugging_face(&file, config.is_gemma()), config, threads, products)
    }

    /// Loads a model from an open GGUF file, as [`load`](Self::load) does.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load).
    pub fn from_gguf(file: &GgufFile, threads: usize, products: Products) -> Result<Self> {
        Self::from_tensors(&DecoderTensors::gguf(file), DecoderConfig::from_gguf(file)?, threads, products)
    }

    fn from_tensors(
        tensors: &DecoderTensors<'_>,
        config: DecoderConfig,
        threads: usize,
        products: Products,
    ) -> Result<Self> {
        let pool = pool(threads, tensors.file)?;
        let (vocab_size, hidden_dim) = (config.vocab_size, config.hidden_dim);
        let (layers, output) = pool.install(|| {
            rayon::join(
                || {
                    let layers = (0..config.n_layers).into_par_iter();
                    layers.map(|i| Layer::load(tensors, &config, i, products)).collect::<Result<Vec<_>>>()
                },
                || {
                    let output = output_name(tensors, &config);
                    Linear::from_file(tensors.file, &[&output], None, vocab_size, hidden_dim, products)
                },
            )
        });
        let weights = Weights::Processor { layers: layers?, output: output? };
        let precision = match products {
            Products::Stored | Products::Bf16 => KvPrecision::F16,
            Products::F32 | Products::Int8 | Products::Candle => KvPrecision::F32,
        };
        let kv_arena = KvArena::new(kv_shape(&config), precision);
        Self::from_parts(tensors, config, products, weights, kv_arena, pool)
    }

    fn from_parts(
        tensors: &DecoderTensors<'_>,
        config: DecoderConfig,
        products: Products,
        weights: Weights,
        kv_arena: KvArena,
        pool: rayon::ThreadPool,
    ) -> Result<Self> {
        let file = tensors.file;
        let rotary = |rope: &Rope| {
            RotaryEmbedding::new(config.head_dim, rope.base, config.rope_pairs, &rope.scaling).map_err(|error| {
                Error::Malformed { path: file.path().to_owned(), problem: format!("the rotary embedding: {error}") }
            })
        };
        let (rotary, local_rotary) = (rotary(&config.rope)?, config.local_rope.as_ref().map(rotary).transpose()?);
        tensors.expect_layers(config.n_layers)?;
        Ok(Self {
            path: file.path().to_owned(),
            embedding: file.rows(&tensors.embedding(), [config.vocab_size, config.hidden_dim])?,
            weights,
            norm: tensors.final_norm(config.hidden_dim)?,
            rotary,
            local_rotary,
            kv_arena,
            far_heads: OnceLock::new(),
            config,
            products,
            pool,
        })
    }

    /// The file of the weights; of several, what lists them.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// What decides how rows turn, but for layers that see a window.
    pub(crate) fn rotation_mut(&mut self) -> (&mut DecoderConfig, &mut RotaryEmbedding) {
        (&mut self.config, &mut self.rotary)
    }

    /// How its products are computed.
    pub fn products(&self) -> Products {
        self.products
    }

    /// Whether the model is on a device. What a token gets there may differ in the last bits with what else passes.
    pub fn is_on_device(&self) -> bool {
        self.kv_arena.is_on_device()
    }

    /// Fails when the model is on a device, which does not serve what it is asked for.
    pub(crate) fn on_processor(&self, what: &'static str) -> Result<()> {
        self.weights.on_processor(what).map(|_| ())
    }

    /// Which heads of keys look far, layer by layer; found out by a probe of a thousand tokens the first time.
    pub(crate) fn far_heads(&self) -> Result<&[Vec<bool>]> {
        if let Some(heads) = self.far_heads.get() {
            return Ok(heads);
        }
        let heads = probe(self)?;
        Ok(self.far_heads.get_or_init(|| heads))
    }

    /// An empty cache for this model.
    pub fn cache(&self) -> KvCache {
        self.kv_arena.cache()
    }

    /// The shape of the keys and values.
    pub fn kv_shape(&self) -> KvShape {
        kv_shape(&self.config)
    }

    /// Where this model's caches have their pages from.
    pub fn kv_arena(&self) -> &KvArena {
        &self.kv_arena
    }

    /// Sends tokens of one or more sequences through the model; their keys and values are in the caches then.
    ///
    /// What a sequence gets does not depend on the others, to the bit (on a device with NVIDIA's library for products, but for
    /// the last bits). Together they take less time, since the weights
    /// are read once.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyPrompt`] for a sequence without tokens; [`Error::UnknownToken`]; [`Error::ContextOverflow`] for a
    /// position beyond the model's context; [`Error::Kv`] when the caches cannot grow; [`Error::Rows`] when
    /// positions, slots, segments or views do not fit the tokens, slots leave a gap or come twice, or a wanted row or
    /// range is not there; [`Error::NotOnDevice`] when keys are chosen, or queries taken down, on a device. All caches are
    /// as they were then; only a damaged model fails later, and a device, with [`Error::Kernel`].
    pub fn forward(&self, sequences: &mut [ForwardSequence<'_>]) -> Result<Vec<Forwarded>> {
        for sequence in &*sequences {
            self.check(sequence)?;
        }
        let pages = sequences.iter().map(|sequence| Ok(sequence.cache.reserve(sequence.rows.slots)?));
        let pages = pages.collect::<Result<Vec<_>>>()?;
        for (ForwardSequence { rows, cache, .. }, pages) in sequences.iter_mut().zip(pages) {
            cache.place(pages, rows.slots, rows.positions, rows.segments);
        }
        match &self.weights {
            Weights::Processor { layers, output } => {
                self.pool.install(|| self.forward_placed(layers, output, sequences))
            }
            #[cfg(feature = "cuda")]
            Weights::Device(weights) => weights.forward(self, sequences),
        }
    }

    pub(crate) fn check(&self, ForwardSequence { rows, cache, want, attending }: &ForwardSequence<'_>) -> Result<()> {
        let n_rows = rows.tokens.len();
        if n_rows == 0 {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = rows.tokens.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            return Err(Error::UnknownToken { id });
        }
        let is_endless = matches!(attending, Attending::Selected(selection) if selection.is_endless());
        let limit = if is_endless { usize::MAX } else { self.config.context_len };
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
        let mut slots = rows.slots.to_vec();
        slots.sort_unstable();
        if slots.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse("two tokens go to one slot");
        }
        let mut viewed = 0;
        for view in rows.views {
            if view.rows.start != viewed || view.rows.end < viewed {
                return refuse("the rows of views do not follow one another");
            }
            if view.slots.iter().any(|slots| slots.start > slots.end || slots.end > len) {
                return refuse("a view runs past the cache");
            }
            let mut seen: Vec<(usize, usize)> = view.slots.iter().map(|slots| (slots.start, slots.end)).collect();
            seen.retain(|(start, end)| start < end);
            seen.sort_unstable();
            if seen.windows(2).any(|pair| pair[0].1 > pair[1].0) {
                return refuse("a view has a slot twice");
            }
            viewed = view.rows.end;
        }
        if !rows.views.is_empty() && (viewed != n_rows || want.attention.is_some()) {
            return refuse("views are not of all rows, or attention over them is wanted");
        }
        let (summed, ranges) = want.attention.unwrap_or_default();
        if want.logits.iter().chain(want.hidden).chain(summed).any(|&row| row >= n_rows) {
            return refuse("a wanted row is not among the tokens");
        }
        if ranges.iter().any(|range| range.start > range.end || range.end > len) {
            return refuse("a range runs past the cache");
        }
        if !matches!(attending, Attending::All) {
            self.on_processor("attention to chosen keys")?;
        }
        if cache.parallel().is_some() {
            self.on_processor("passages that were read side by side")?;
        }
        if want.attention.is_some() {
            self.on_processor("attention summed over keys")?;
        }
        if cache.is_on_device() != self.kv_arena.is_on_device() {
            return refuse("the cache is of another model");
        }
        if let Attending::Selected(_) = attending {
            let is_plain = rows.views.is_empty() && rows.segments.is_none() && rows.mask == AttentionMask::default();
            if !is_plain || cache.parallel().is_some() || !rows_follow(rows, cache) {
                return refuse("keys are chosen for tokens behind the last alone, without views, segments and masks");
            }
        }
        Ok(())
    }

    fn forward_placed(
        &self,
        layers: &[Layer],
        output: &Linear,
        sequences: &mut [ForwardSequence<'_>],
    ) -> Result<Vec<Forwarded>> {
        let dim = self.config.hidden_dim;
        let n_rows = sequences.iter().map(|sequence| sequence.rows.tokens.len()).sum();
        let positions: Vec<u32> = sequences.iter().flat_map(|sequence| sequence.rows.positions).copied().collect();
        let mut hidden = self.embed(sequences.iter().flat_map(|sequence| sequence.rows.tokens).copied(), n_rows)?;
        let mut forwarded = vec![Forwarded::default(); sequences.len()];
        let mut scratch = Scratch::new(&self.config, n_rows);
        for (i, layer) in layers.iter().enumerate() {
            layer.forward(self, i, &mut hidden, &positions, sequences, &mut scratch)?;
            let mut first = 0;
            for (sequence, forwarded) in sequences.iter().zip(&mut forwarded) {
                if let Some(wanted) = sequence.want.attention {
                    let ForwardSequence { rows, cache, .. } = sequence;
                    forwarded.attention.extend(self.attention(i, rows, cache, first, &scratch, wanted)?);
                }
                first += sequence.rows.tokens.len();
            }
        }
        let mut wanted = Vec::new();
        let mut first = 0;
        for (ForwardSequence { rows, want, .. }, forwarded) in sequences.iter().zip(&mut forwarded) {
            let row = |row: &usize| &hidden[(first + row) * dim..(first + row + 1) * dim];
            forwarded.hidden = want.hidden.iter().flat_map(row).copied().collect();
            wanted.extend(want.logits.iter().flat_map(row).copied());
            first += rows.tokens.len();
        }
        self.hand_out(self.logits_by(output, wanted)?, sequences, &mut forwarded);
        Ok(forwarded)
    }

    /// Gives each sequence the logits that it wants, which are in order.
    fn hand_out(&self, logits: Vec<f32>, sequences: &[ForwardSequence<'_>], forwarded: &mut [Forwarded]) {
        if let [only] = forwarded {
            only.logits = logits;
            return;
        }
        let mut logits = &*logits;
        for (ForwardSequence { want, .. }, forwarded) in sequences.iter().zip(forwarded) {
            let (own, others) = logits.split_at(want.logits.len() * self.config.vocab_size);
            (forwarded.logits, logits) = (own.to_vec(), others);
        }
    }

    /// The first hidden states of `n` tokens.
    pub(crate) fn embed(&self, tokens: impl Iterator<Item = u32>, n: usize) -> Result<Vec<f32>> {
        let dim = self.config.hidden_dim;
        let mut hidden = vec![0.0; n * dim];
        for (hidden, token) in hidden.chunks_exact_mut(dim).zip(tokens) {
            self.embedding.read(token as usize, hidden)?;
        }
        if self.config.embedding_scale != 1.0 {
            hidden.iter_mut().for_each(|x| *x *= self.config.embedding_scale);
        }
        Ok(hidden)
    }

    /// Puts last hidden states, `[n, hidden_dim]` as [`Forwarded`] has them, through the final norm: what logits are
    /// products of.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] when the length is not whole rows.
    pub fn normalize(&self, hidden: &mut [f32]) -> Result<()> {
        Ok(rms_norm_in_place(hidden, &self.norm, self.config.rms_eps)?)
    }

    /// The logits of last hidden states, by the processor.
    pub(crate) fn logits_of(&self, hidden: Vec<f32>) -> Result<Vec<f32>> {
        self.logits_by(self.weights.on_processor(PASSES)?.1, hidden)
    }

    fn logits_by(&self, output: &Linear, mut hidden: Vec<f32>) -> Result<Vec<f32>> {
        self.normalize(&mut hidden)?;
        let mut logits = vec![0.0; hidden.len() / self.config.hidden_dim * self.config.vocab_size];
        output.apply(&hidden, Output::Replace, &mut logits)?;
        Ok(logits)
    }

    /// Works on the model's threads.
    pub(crate) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Takes rows through a layer, on the model's threads.
    pub(crate) fn pass_layer(
        &self,
        layer: usize,
        hidden: &mut [f32],
        positions: &[u32],
        sequences: &mut [ForwardSequence<'_>],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let layers = self.weights.on_processor(PASSES)?.0;
        self.pool.install(|| layers[layer].forward(self, layer, hidden, positions, sequences, scratch))
    }

    /// The attention of some rows of a sequence, whose rows begin at `first`, in the layer that was last computed,
    /// summed over ranges of slots.
    pub(crate) fn attention(
        &self,
        layer: usize,
        rows: &ForwardRows<'_>,
        cache: &KvCache,
        first: usize,
        scratch: &Scratch,
        (attending, ranges): (&[usize], &[Range<usize>]),
    ) -> Result<Vec<f32>> {
        let config = &self.config;
        let q_dim = config.n_heads * config.head_dim;
        let gather = |from: &[f32], width: usize| -> Vec<f32> {
            attending.iter().flat_map(|&row| &from[(first + row) * width..(first + row + 1) * width]).copied().collect()
        };
        let (queries, lse) = (gather(&scratch.queries, q_dim), gather(&scratch.lse, config.n_heads));
        let positions: Vec<u32> = attending.iter().map(|&row| rows.positions[row]).collect();
        let segments: Option<Vec<u32>> =
            rows.segments.map(|segments| attending.iter().map(|&row| segments[row]).collect());
        let queries = QueryRows { rows: &queries, positions: &positions, segments: segments.as_deref() };
        let mut mass = vec![0.0; config.n_heads * ranges.len()];
        let runs: Vec<KvRun<'_>> = cache.runs(layer, 0..cache.len()).collect();
        let mask = config.mask(layer, rows.mask);
        attention_mass(&config.attention_shape(), &queries, &runs, &mask, &lse, ranges, &mut mass)?;
        Ok(mass)
    }

    /// Lets each sequence's rows attend to its cache, each view by itself, all beside one another.
    ///
    /// `queries` and `mixed` are `[n_rows, n_heads · head_dim]`, `lse` is `[n_rows, n_heads]`, over all sequences.
    fn attend(
        &self,
        layer: usize,
        sequences: &mut [ForwardSequence<'_>],
        queries: &[f32],
        mixed: &mut [f32],
        lse: &mut [f32],
    ) -> Result<()> {
        let config = &self.config;
        let q_dim = config.n_heads * config.head_dim;
        let (mut queries, mut mixed, mut lse) = (queries, mixed, lse);
        let mut parts = Vec::with_capacity(sequences.len());
        for ForwardSequence { rows, cache, attending, .. } in sequences {
            let cache = &**cache;
            let n_rows = rows.tokens.len();
            match attending {
                Attending::Selected(selection) => {
                    if selection.chooses(layer) {
                        let (own_queries, own_mixed, own_lse);
                        (own_queries, queries) = queries.split_at(n_rows * q_dim);
                        (own_mixed, mixed) = mixed.split_at_mut(n_rows * q_dim);
                        (own_lse, lse) = lse.split_at_mut(n_rows * config.n_heads);
                        let rows = LayerRows {
                            layer,
                            queries: own_queries,
                            positions: rows.positions,
                            slots: rows.slots,
                            mixed: own_mixed,
                            lse: own_lse,
                        };
                        parts.push(Part::Selected { selection, cache, rows });
                        continue;
                    }
                    selection.count_all(rows.slots, config.n_kv_heads, config.windows[layer]);
                }
                Attending::Observed(record) => record.push(layer, &queries[..n_rows * q_dim], rows.positions),
                Attending::All => {}
            }
            let whole = 0..cache.len();
            let all = [View { rows: 0..n_rows, slots: std::slice::from_ref(&whole) }];
            for View { rows: viewing, slots } in if rows.views.is_empty() { &all } else { rows.views } {
                let runs: Vec<_> = slots.iter().flat_map(|slots| cache.runs(layer, slots.clone())).collect();
                let (own_queries, own_mixed, own_lse);
                (own_queries, queries) = queries.split_at(viewing.len() * q_dim);
                (own_mixed, mixed) = mixed.split_at_mut(viewing.len() * q_dim);
                (own_lse, lse) = lse.split_at_mut(viewing.len() * config.n_heads);
                let seen = QueryRows {
                    rows: own_queries,
                    positions: &rows.positions[viewing.clone()],
                    segments: rows.segments.map(|segments| &segments[viewing.clone()]),
                };
                let beside = cache.parallel().map(|parallel| {
                    let (inside, outside) = apart(slots, &parallel.slots);
                    let runs = |slots: &[Range<usize>]| -> Vec<_> {
                        slots.iter().flat_map(|slots| cache.runs(layer, slots.clone())).collect()
                    };
                    (parallel, runs(&inside), runs(&outside))
                });
                let mask = config.mask(layer, rows.mask);
                parts.push(Part::Seen { seen, runs, beside, mask, mixed: own_mixed, lse: own_lse });
            }
        }
        let shape = config.attention_shape();
        parts.into_par_iter().with_max_len(1).try_for_each(|part| {
            let (seen, runs, beside, mask, mixed, lse) = match part {
                Part::Selected { selection, cache, rows } => return selection.attend(self, cache, rows),
                Part::Seen { seen, runs, beside, mask, mixed, lse } => (seen, runs, beside, mask, mixed, lse),
            };
            let Some((parallel, inside, outside)) = beside else {
                return Ok(causal_attention(&shape, &seen, &runs, &mask, mixed, Some(lse))?);
            };
            causal_attention(&shape, &seen, &outside, &mask, mixed, Some(lse))?;
            let (mut context, mut context_lse) = (vec![0.0; mixed.len()], vec![0.0; lse.len()]);
            let cooled = AttentionShape { scale: shape.scale / parallel.temperature, ..shape };
            causal_attention(&cooled, &seen, &inside, &mask, &mut context, Some(&mut context_lse))?;
            context_lse.iter_mut().for_each(|lse| *lse *= parallel.scale * parallel.temperature);
            Ok(merge_attention(shape.head_dim, mixed, lse, &context, &context_lse)?)
        })
    }
}

impl Weights {
    /// Layers and output; on a device a refusal of what is asked for.
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, unused_variables, reason = "without devices"))]
    fn on_processor(&self, what: &'static str) -> Result<(&[Layer], &Linear)> {
        match self {
            Self::Processor { layers, output } => Ok((layers, output)),
            #[cfg(feature = "cuda")]
            Self::Device(_) => Err(Error::NotOnDevice { what }),
        }
    }
}

/// What attends by itself in a layer.
enum Part<'a> {
    /// The rows of a sequence, to keys that are chosen.
    Selected { selection: &'a mut KeySelection, cache: &'a KvCache, rows: LayerRows<'a> },
    /// The rows of a view, to all that they see; where some of that is weighed apart, that and the rest.
    Seen {
        seen: QueryRows<'a>,
        runs: Vec<KvRun<'a>>,
        beside: Option<(&'a ParallelContext, Vec<KvRun<'a>>, Vec<KvRun<'a>>)>,
        mask: AttentionMask,
        mixed: &'a mut [f32],
        lse: &'a mut [f32],
    },
}

/// Threads for what the processor does.
fn pool(threads: usize, file: &dyn WeightFile) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|i| format!("raglan-llm-{i}"))
        .build()
        .map_err(|e| Error::Io { path: file.path().to_owned(), source: std::io::Error::other(e) })
}

/// The tensor that hidden states are multiplied with for logits.
fn output_name(tensors: &DecoderTensors<'_>, config: &DecoderConfig) -> String {
    if config.tied_embeddings { tensors.embedding() } else { tensors.output() }
}

/// Whether each token stands right behind the one before it, and the first behind the cache.
fn rows_follow(rows: &ForwardRows<'_>, cache: &KvCache) -> bool {
    rows.slots.iter().copied().eq(cache.len()..cache.len() + rows.slots.len())
        && rows.positions.iter().copied().eq((cache.next_position()..).take(rows.positions.len()))
}

fn kv_shape(&DecoderConfig { n_layers, n_kv_heads, head_dim, .. }: &DecoderConfig) -> KvShape {
    KvShape { n_layers, n_kv_heads, head_dim }
}

/// The parts of ranges of slots that lie in a range, and those that do not.
fn apart(slots: &[Range<usize>], within: &Range<usize>) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for slots in slots {
        let (start, end) = (within.start.clamp(slots.start, slots.end), within.end.clamp(slots.start, slots.end));
        inside.push(start..end);
        outside.extend([slots.start..start, end.max(start)..slots.end]);
    }
    for parts in [&mut inside, &mut outside] {
        parts.retain(|part| part.start < part.end);
    }
    (inside, outside)
}

impl LayerRotary for DecoderModel {
    fn rotary(&self, layer: usize) -> &RotaryEmbedding {
        self.local_rotary.as_ref().filter(|_| self.config.windows[layer].is_some()).unwrap_or(&self.rotary)
    }
}

impl DecoderConfig {
    pub(crate) fn attention_shape(&self) -> AttentionShape {
        let &Self { n_heads, n_kv_heads, head_dim, attention_scale, .. } = self;
        AttentionShape { n_heads, n_kv_heads, head_dim, scale: attention_scale }
    }

    /// What a layer sees under the mask of a forward: its own window where that is the narrower one.
    pub(crate) fn mask(&self, layer: usize, mask: AttentionMask) -> AttentionMask {
        match (self.windows[layer], mask.window) {
            (Some(own), Some(given)) if own > given => mask,
            (Some(own), _) => AttentionMask { window: Some(own), sinks: 0 },
            (None, _) => mask,
        }
    }
}

/// Room that the layers share.
#[derive(Debug)]
pub(crate) struct Scratch {
    normed: Vec<f32>,
    qkv: Vec<f32>,
    /// Rotated, of the layer that was last computed: `[n_rows, n_heads · head_dim]`.
    pub queries: Vec<f32>,
    mixed: Vec<f32>,
    /// Of the same: `[n_rows, n_heads]`.
    pub lse: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
}

impl Scratch {
    pub fn new(config: &DecoderConfig, n_rows: usize) -> Self {
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

    /// Makes this the room of some rows only, and keeps their queries and sums.
    pub fn retain(&mut self, config: &DecoderConfig, rows: &[usize]) {
        let (queries, lse) = (std::mem::take(&mut self.queries), std::mem::take(&mut self.lse));
        *self = Self::new(config, rows.len());
        let q_dim = config.n_heads * config.head_dim;
        for (i, &row) in rows.iter().enumerate() {
            self.queries[i * q_dim..(i + 1) * q_dim].copy_from_slice(&queries[row * q_dim..(row + 1) * q_dim]);
            let heads = config.n_heads;
            self.lse[i * heads..(i + 1) * heads].copy_from_slice(&lse[row * heads..(row + 1) * heads]);
        }
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    qkv: Stacked,
    query_key_norm: Option<(Vec<f32>, Vec<f32>)>,
    attention_output: Linear,
    /// A norm of what attention adds to the hidden state; Gemma has it.
    post_attention_norm: Option<Vec<f32>>,
    ffn_norm: Vec<f32>,
    gate_up: Stacked,
    down: Linear,
    /// A norm of what the feed-forward adds.
    post_ffn_norm: Option<Vec<f32>>,
}

impl Layer {
    fn load(tensors: &DecoderTensors<'_>, config: &DecoderConfig, i: usize, products: Products) -> Result<Self> {
        let DecoderConfig { hidden_dim, ffn_dim, n_heads, n_kv_heads, head_dim, .. } = *config;
        let (q_dim, kv_dim) = (n_heads * head_dim, n_kv_heads * head_dim);
        let file = tensors.file;
        let stacked = |parts: &[(LayerPart, usize)]| {
            let parts: Vec<_> = parts.iter().map(|&(part, n_out)| (tensors.name(i, part), n_out)).collect();
            Stacked::from_file(file, &parts, hidden_dim, products)
        };
        let linear = |part: LayerPart, n_out: usize, n_in: usize| {
            let name = tensors.name(i, part);
            let bias = format!("{name}.bias");
            let bias = file.contains(&bias).then(|| file.numbers(&bias, &[n_out])).transpose()?;
            Linear::from_file(file, &[&format!("{name}.weight")], bias, n_out, n_in, products)
        };
        let norm = |part: LayerPart| tensors.norm(i, part, hidden_dim);
        let gemma_norm = |part: LayerPart| config.is_gemma().then(|| norm(part)).transpose();
        let head_norm = |part: LayerPart| tensors.norm(i, part, head_dim);
        let head_norms = || Ok::<_, Error>((head_norm(LayerPart::QueryNorm)?, head_norm(LayerPart::KeyNorm)?));
        Ok(Self {
            attention_norm: norm(LayerPart::AttentionNorm)?,
            qkv: stacked(&[(LayerPart::Query, q_dim), (LayerPart::Key, kv_dim), (LayerPart::Value, kv_dim)])?,
            query_key_norm: config.normalizes_heads().then(head_norms).transpose()?,
            attention_output: linear(LayerPart::AttentionOutput, hidden_dim, q_dim)?,
            post_attention_norm: gemma_norm(LayerPart::PostAttentionNorm)?,
            ffn_norm: norm(LayerPart::FeedForwardNorm)?,
            gate_up: stacked(&[(LayerPart::Gate, ffn_dim), (LayerPart::Up, ffn_dim)])?,
            down: linear(LayerPart::Down, hidden_dim, ffn_dim)?,
            post_ffn_norm: gemma_norm(LayerPart::PostFeedForwardNorm)?,
        })
    }

    fn forward(
        &self,
        model: &DecoderModel,
        layer: usize,
        hidden: &mut [f32],
        positions: &[u32],
        sequences: &mut [ForwardSequence<'_>],
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
        model.rotary(layer).rotate(qkv, qkv_dim, config.n_heads + config.n_kv_heads, positions)?;
        let mut computed = qkv.chunks_exact(qkv_dim).zip(queries.chunks_exact_mut(q_dim));
        for ForwardSequence { rows, cache, .. } in &mut *sequences {
            for (&slot, (row, query)) in rows.slots.iter().zip(&mut computed) {
                query.copy_from_slice(&row[..q_dim]);
                cache.write(layer, slot, &row[q_dim..q_dim + kv_dim], &row[q_dim + kv_dim..]);
            }
        }
        model.attend(layer, sequences, queries, mixed, lse)?;
        add(&self.attention_output, mixed, self.post_attention_norm.as_deref(), config.rms_eps, normed, hidden)?;

        rms_norm(hidden, &self.ffn_norm, config.rms_eps, normed)?;
        self.gate_up.apply_gated(normed, config.activation, gate_up, inner)?;
        add(&self.down, inner, self.post_ffn_norm.as_deref(), config.rms_eps, normed, hidden)
    }
}

/// Adds a map of `input` to the hidden state, normalised where there is a norm; `room` is as long as `hidden`.
fn add(
    map: &Linear,
    input: &[f32],
    norm: Option<&[f32]>,
    rms_eps: f32,
    room: &mut [f32],
    hidden: &mut [f32],
) -> Result<()> {
    let Some(norm) = norm else { return map.apply(input, Output::Add, hidden) };
    map.apply(input, Output::Replace, room)?;
    rms_norm_in_place(room, norm, rms_eps)?;
    hidden.iter_mut().zip(room).for_each(|(hidden, added)| *hidden += *added);
    Ok(())
}
