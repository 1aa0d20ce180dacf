//! One chunk's keys and values, which any sequence may take over.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};
use std::str::FromStr;
use std::sync::Arc;

use half::bf16;
use half::slice::HalfFloatSliceExt;
use raglan_kernels::{KvSlice, RotaryEmbedding, from_f16, to_f16};
use rayon::prelude::*;

use crate::block_file::{BlockFile, HEADER};
use crate::cache::LayerPages;
#[cfg(feature = "cuda")]
use crate::device_blocks::HalvesPlace;
use crate::{Error, KV_PAGE, KvCache, KvPrecision, Result};

/// Parts of a layer begin at multiples of this many bytes.
const ALIGNMENT: usize = 64;

/// The shape of a model's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvShape {
    /// Layers.
    pub n_layers: usize,
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Numbers of a token's keys in a layer, and as many of its values.
    pub fn dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

impl fmt::Display for KvShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_layers, n_kv_heads, head_dim } = self;
        write!(f, "{n_layers} layers of {n_kv_heads} heads of {head_dim} numbers")
    }
}

/// How a block's keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockPrecision {
    /// In single precision.
    F32,
    /// In half precision.
    #[default]
    F16,
    /// In the half precision of eight bits of mantissa.
    Bf16,
    /// In bytes: keys, turned back to position 0, with a scale for each component over all tokens; values with a scale
    /// for each token (Liu et al. 2024, KIVI: that is how outliers lie).
    Int8,
}

impl fmt::Display for BlockPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for BlockPrecision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::F32, Self::F16, Self::Bf16, Self::Int8];
        all.into_iter()
            .find(|precision| precision.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of f32, f16, bf16 and int8"))
    }
}

/// How keys are rotated, layer by layer.
pub trait LayerRotary: Sync {
    /// The rotation of a layer's keys.
    fn rotary(&self, layer: usize) -> &RotaryEmbedding;
}

/// The keys and values of consecutive tokens in all layers, apart from any sequence.
///
/// Keys are kept as they were computed, with the position of the first token, and are moved from there each time, so
/// that no error adds up; at that position a cache gets them back bit for bit (but for [`BlockPrecision::Int8`] and a
/// cache that is more exact than the block).
///
/// Clones share the numbers.
#[derive(Clone, Debug)]
pub struct KvBlock {
    header: BlockHeader,
    key: BlockKey,
    statistics: Arc<BlockStatistics>,
    layers: Layers,
}

/// What a block's bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockHeader {
    pub shape: KvShape,
    pub precision: BlockPrecision,
    pub start: u32,
    pub n_tokens: usize,
}

/// Where a block's bytes are, layer by layer.
#[derive(Clone, Debug)]
pub(crate) enum Layers {
    Memory(Arc<[Words]>),
    File(Arc<BlockFile>),
}

/// Sixteen bytes, so that numbers of any kind are aligned.
pub(crate) type Words = u128;

/// A hash of token ids, the first sixteen bytes of their BLAKE3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokensHash(pub [u8; 16]);

impl TokensHash {
    /// The hash of some tokens.
    pub fn of(tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        tokens.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
        Self::first(&hasher)
    }

    /// The hash of a text, such as one that names a model and all that its keys and values depend on.
    pub fn of_text(text: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(text.as_bytes());
        Self::first(&hasher)
    }

    fn first(hasher: &blake3::Hasher) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(hash)
    }
}

/// A hash as it is written.
pub(crate) fn parse_hash(text: &str) -> Option<TokensHash> {
    let mut hash = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(TokensHash(hash))
}

impl fmt::Display for TokensHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a block's keys and values depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// Its tokens.
    pub tokens: TokensHash,
    /// All tokens that stood before them.
    pub behind: TokensHash,
    /// The model: its weights, their products and the rotation.
    pub model: TokensHash,
}

/// What was seen of a block's attention when it was computed (Agarwal et al. 2025, Cache-Craft).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockStatistics {
    /// For each token the share of its attention that went to other chunks, the mean over heads, summed over layers.
    pub seen: Vec<f32>,
    /// The chunks that stood before it, in order, and the attention that its tokens paid to each, summed over them and
    /// over layers, the mean over heads.
    pub neighbours: Vec<(TokensHash, f32)>,
    /// `ā`: attention to other chunks for each pair of tokens, the mean over layers.
    pub outside: f32,
    /// `b̄`: attention to itself for each pair of tokens, the mean over layers.
    pub inside: f32,
}

/// Where the parts of a layer lie in bytes, one after the other.
struct Layout {
    key_scales: Range<usize>,
    value_scales: Range<usize>,
    keys: Range<usize>,
    values: Range<usize>,
    /// Bytes of a layer.
    len: usize,
}

impl BlockPrecision {
    /// Bytes of a block of so many tokens in a file, at most; what was seen of its attention may add some.
    pub fn file_bytes(self, n_tokens: usize, shape: KvShape) -> u64 {
        let layers = self.layout(n_tokens, shape.dim()).len as u64 * shape.n_layers as u64;
        layers + (HEADER + 4 * n_tokens + size_of::<u64>() * (shape.n_layers + 1)).next_multiple_of(ALIGNMENT) as u64
    }

    /// Bytes of a layer, if they can be counted.
    pub(crate) fn layer_bytes(self, n_tokens: usize, dim: usize) -> Option<usize> {
        // Four bytes a number and a scale each are the most; with padding of the four parts.
        n_tokens.checked_mul(dim)?.checked_mul(2 * size_of::<f32>())?.checked_add(4 * (dim + n_tokens + ALIGNMENT))?;
        Some(self.layout(n_tokens, dim).len)
    }

    fn layout(self, n_tokens: usize, dim: usize) -> Layout {
        let (number, scales) = match self {
            Self::F32 => (size_of::<f32>(), false),
            Self::F16 | Self::Bf16 => (size_of::<u16>(), false),
            Self::Int8 => (size_of::<i8>(), true),
        };
        let mut at = 0;
        let mut part = |len: usize| {
            let start = at;
            at = (start + len).next_multiple_of(ALIGNMENT);
            start..start + len
        };
        let key_scales = part(if scales { dim * size_of::<f32>() } else { 0 });
        let value_scales = part(if scales { n_tokens * size_of::<f32>() } else { 0 });
        let (keys, values) = (part(n_tokens * dim * number), part(n_tokens * dim * number));
        Layout { key_scales, value_scales, keys, values, len: at }
    }
}

impl KvBlock {
    /// Takes the keys and values of some slots out of a cache.
    ///
    /// # Errors
    ///
    /// [`Error::Slots`] when the slots are not there or their positions do not follow one another;
    /// [`Error::Shape`] when the cache is of another shape; [`Error::Kernel`] when it is on a device that
    /// does not answer.
    pub fn from_cache(
        cache: &KvCache,
        slots: Range<usize>,
        shape: KvShape,
        precision: BlockPrecision,
        rotaries: &dyn LayerRotary,
    ) -> Result<Self> {
        cache.check_shape(&shape)?;
        let Some(positions) = cache.positions().get(slots.clone()) else {
            return Err(Error::Slots { problem: "a block's slots are not there" });
        };
        if positions.windows(2).any(|pair| pair[1] != pair[0] + 1) {
            return Err(Error::Slots { problem: "a block's positions do not follow one another" });
        }
        let (n_tokens, dim) = (slots.len(), shape.dim());
        let layout = precision.layout(n_tokens, dim);
        let n_words = layout.len / size_of::<Words>();
        let mut layers = vec![0; shape.n_layers * n_words];
        layers.par_chunks_mut(n_words.max(1)).enumerate().try_for_each(|(layer, words)| {
            let bytes = bytemuck::cast_slice_mut(words);
            let (mut keys, mut values) = (Vec::with_capacity(n_tokens * dim), Vec::with_capacity(n_tokens * dim));
            let rotary = rotaries.rotary(layer);
            #[cfg(feature = "cuda")]
            if cache.is_on_device() {
                cache.download(layer, slots.clone(), [&mut keys, &mut values])?;
                return store(precision, &layout, bytes, shape, &mut keys, &values, positions, rotary);
            }
            for run in cache.runs(layer, slots.clone()) {
                widen(run.keys, &mut keys)?;
                widen(run.values, &mut values)?;
            }
            store(precision, &layout, bytes, shape, &mut keys, &values, positions, rotary)
        })?;
        let start = positions.first().copied().unwrap_or(0);
        let header = BlockHeader { shape, precision, start, n_tokens };
        Ok(Self::new(header, BlockKey::default(), BlockStatistics::default(), Layers::Memory(layers.into())))
    }

    pub(crate) fn new(header: BlockHeader, key: BlockKey, statistics: BlockStatistics, layers: Layers) -> Self {
        Self { header, key, statistics: Arc::new(statistics), layers }
    }

    /// The same block with what it depends on, and what was seen when it was computed.
    pub fn described(self, key: BlockKey, statistics: BlockStatistics) -> Self {
        Self { key, statistics: Arc::new(statistics), ..self }
    }

    pub(crate) fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// What the numbers depend on.
    pub fn key(&self) -> &BlockKey {
        &self.key
    }

    /// What was seen when they were computed.
    pub fn statistics(&self) -> &BlockStatistics {
        &self.statistics
    }

    /// The shape of the model's keys and values.
    pub fn shape(&self) -> KvShape {
        self.header.shape
    }

    /// How the numbers are kept.
    pub fn precision(&self) -> BlockPrecision {
        self.header.precision
    }

    /// The position at which the first token was computed.
    pub fn start(&self) -> u32 {
        self.header.start
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.header.n_tokens
    }

    /// Bytes of the keys and values.
    pub fn n_bytes(&self) -> usize {
        self.header.shape.n_layers * self.layer_words() * size_of::<Words>()
    }

    /// Whether the keys and values are in memory.
    pub fn is_resident(&self) -> bool {
        matches!(self.layers, Layers::Memory(_))
    }

    fn layer_words(&self) -> usize {
        self.header.precision.layout(self.header.n_tokens, self.header.shape.dim()).len / size_of::<Words>()
    }

    /// The bytes of a layer, from the file if they are there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Damaged`] when they are in a file and cannot be read.
    pub fn layer(&self, layer: usize) -> Result<LayerBytes<'_>> {
        let n_words = self.layer_words();
        Ok(match &self.layers {
            Layers::Memory(words) => LayerBytes(Cow::Borrowed(&words[layer * n_words..(layer + 1) * n_words])),
            Layers::File(file) => LayerBytes(Cow::Owned(file.read_layer(layer, n_words)?)),
        })
    }

    /// The block with its keys and values in memory.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Damaged`] when they are in a file and cannot be read.
    pub fn resident(&self) -> Result<Self> {
        let Layers::File(file) = &self.layers else { return Ok(self.clone()) };
        let n_words = self.layer_words();
        let mut words = Vec::with_capacity(self.header.shape.n_layers * n_words);
        for layer in 0..self.header.shape.n_layers {
            words.extend_from_slice(&file.read_layer(layer, n_words)?);
        }
        Ok(Self { layers: Layers::Memory(words.into()), ..self.clone() })
    }

    /// Keys and values of some layers as half floats, keys where they were computed; of the layers' bytes, if they were
    /// read already, else of the block in memory.
    #[cfg(feature = "cuda")]
    pub(crate) fn halves<'a>(
        &'a self,
        layers: Range<usize>,
        bytes: Option<&'a LayerBytes<'_>>,
        rotaries: &dyn LayerRotary,
    ) -> Result<Halves<'a>> {
        let BlockHeader { shape, precision, start, n_tokens } = self.header;
        let layout = precision.layout(n_tokens, shape.dim());
        let n_words = self.layer_words();
        let bytes: &[u8] = match (bytes, &self.layers) {
            (Some(bytes), _) => bytes,
            (None, Layers::Memory(words)) => bytemuck::cast_slice(&words[layers.start * n_words..layers.end * n_words]),
            (None, Layers::File(_)) => unreachable!("blocks are read before they go to a device"),
        };
        let width = size_of::<u16>();
        if precision == BlockPrecision::F16 {
            return Ok(Halves {
                numbers: Cow::Borrowed(bytemuck::cast_slice(bytes)),
                place: HalvesPlace {
                    keys: layout.keys.start / width,
                    values: layout.values.start / width,
                    layer_stride: layout.len / width,
                },
            });
        }
        let half = n_tokens * shape.dim();
        let mut numbers = vec![0; layers.len() * 2 * half];
        let parts = numbers.par_chunks_mut((2 * half).max(1)).zip(bytes.par_chunks(layout.len.max(1))).zip(layers);
        parts.try_for_each(|((numbers, bytes), layer)| {
            self.load(bytes, start, rotaries.rotary(layer), &mut LayerPages::of(shape, numbers))
        })?;
        let place = HalvesPlace { keys: 0, values: half, layer_stride: 2 * half };
        Ok(Halves { numbers: Cow::Owned(numbers), place })
    }

    /// Writes a layer's keys, moved to the position `first`, and its values.
    fn load(&self, bytes: &[u8], first: u32, rotary: &RotaryEmbedding, to: &mut LayerPages<'_>) -> Result<()> {
        let BlockHeader { shape, precision, start, n_tokens } = self.header;
        let dim = shape.dim();
        let layout = precision.layout(n_tokens, dim);
        let (keys, values) = (&bytes[layout.keys.clone()], &bytes[layout.values.clone()]);
        let delta = i64::from(first) - i64::from(start);
        if precision == BlockPrecision::F16 && to.precision() == KvPrecision::F16 {
            to.copy_values(bytemuck::cast_slice(values));
            if delta == 0 {
                to.copy_keys(bytemuck::cast_slice(keys));
                return Ok(());
            }
        }
        // A page at a time, so that the numbers stay in the cache.
        let mut room = Vec::new();
        let mut positions = Vec::new();
        for from in (0..n_tokens).step_by(KV_PAGE) {
            let tokens = from..(from + KV_PAGE).min(n_tokens);
            let numbers = tokens.start * dim..tokens.end * dim;
            room.resize(numbers.len(), 0.0);
            match precision {
                BlockPrecision::F32 => room.copy_from_slice(&bytemuck::cast_slice(keys)[numbers.clone()]),
                BlockPrecision::F16 => from_f16(&bytemuck::cast_slice(keys)[numbers.clone()], &mut room)?,
                BlockPrecision::Bf16 => from_bf16(&bytemuck::cast_slice(keys)[numbers.clone()], &mut room),
                BlockPrecision::Int8 => {
                    let scales: &[f32] = bytemuck::cast_slice(&bytes[layout.key_scales.clone()]);
                    let codes: &[i8] = &bytemuck::cast_slice(keys)[numbers.clone()];
                    for (row, codes) in room.chunks_exact_mut(dim).zip(codes.chunks_exact(dim)) {
                        for ((to, &code), scale) in row.iter_mut().zip(codes).zip(scales) {
                            *to = f32::from(code) * scale;
                        }
                    }
                }
            }
            if precision == BlockPrecision::Int8 {
                positions.clear();
                positions.extend((first + tokens.start as u32)..(first + tokens.end as u32));
                rotary.rotate(&mut room, dim, shape.n_kv_heads, &positions)?;
            } else {
                rotary.shift(&mut room, shape.n_kv_heads, delta)?;
            }
            to.write_keys(tokens.start, &room);
            match precision {
                BlockPrecision::F32 => to.write_values(tokens.start, &bytemuck::cast_slice(values)[numbers]),
                BlockPrecision::F16 if to.precision() == KvPrecision::F16 => {}
                BlockPrecision::F16 => {
                    from_f16(&bytemuck::cast_slice(values)[numbers], &mut room)?;
                    to.write_values(tokens.start, &room);
                }
                BlockPrecision::Bf16 => {
                    from_bf16(&bytemuck::cast_slice(values)[numbers], &mut room);
                    to.write_values(tokens.start, &room);
                }
                BlockPrecision::Int8 => {
                    let scales: &[f32] = bytemuck::cast_slice(&bytes[layout.value_scales.clone()]);
                    let codes: &[i8] = &bytemuck::cast_slice(values)[numbers];
                    for ((row, codes), scale) in
                        room.chunks_exact_mut(dim).zip(codes.chunks_exact(dim)).zip(&scales[tokens.clone()])
                    {
                        row.iter_mut().zip(codes).for_each(|(to, &code)| *to = f32::from(code) * scale);
                    }
                    to.write_values(tokens.start, &room);
                }
            }
        }
        Ok(())
    }
}

/// Keys and values of consecutive layers as half floats.
#[cfg(feature = "cuda")]
pub(crate) struct Halves<'a> {
    pub numbers: Cow<'a, [u16]>,
    pub place: HalvesPlace,
}

/// A layer of a block in bytes.
pub struct LayerBytes<'a>(Cow<'a, [Words]>);

impl Deref for LayerBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl KvCache {
    /// Takes a block over behind what is there, its first token at `position`. Its tokens have no segment.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the block is of another shape; [`Error::ArenaSpent`] when the cache cannot grow, and the
    /// cache is as it was then; [`Error::Io`] and [`Error::Damaged`] when the block's file cannot be read.
    pub fn append(&mut self, block: &KvBlock, position: u32, rotaries: &dyn LayerRotary) -> Result<()> {
        let slots = self.leave_for(block, position)?;
        if self.is_on_device() {
            return self.load(&[(block.clone(), slots)], rotaries);
        }
        let layers = self.layer_pages(slots);
        layers.into_par_iter().enumerate().try_for_each(|(layer, mut pages)| {
            block.load(&block.layer(layer)?, position, rotaries.rotary(layer), &mut pages)
        })
    }

    /// Leaves room for a block behind what is there, its first token at `position`; gives its slots, which
    /// [`load`](Self::load) fills, or [`load_layer`](Self::load_layer) layer by layer.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the block is of another shape; [`Error::ArenaSpent`] when the cache cannot grow. The cache
    /// is as it was then.
    pub fn leave_for(&mut self, block: &KvBlock, position: u32) -> Result<Range<usize>> {
        self.check_shape(&block.shape())?;
        let first = self.len();
        self.leave(block.n_tokens(), position)?;
        Ok(first..self.len())
    }

    /// Takes over blocks into the slots that were left for each.
    ///
    /// On a device this returns when they are on their way: one is uploaded while the one before is turned to its place,
    /// another is read from its file meanwhile, and what the device is asked for later waits for them. Blocks of which a
    /// key says what they depend on stay there, as far as the arena's budget for blocks lets them, and need not be uploaded
    /// the next time.
    ///
    /// # Errors
    ///
    /// As [`load_layer`](Self::load_layer); [`Error::Io`] and [`Error::Damaged`] when a block's file cannot be read.
    pub fn load(&mut self, blocks: &[(KvBlock, Range<usize>)], rotaries: &dyn LayerRotary) -> Result<()> {
        let n_layers = blocks.first().map_or(0, |(block, _)| block.shape().n_layers);
        #[cfg(feature = "cuda")]
        if self.is_on_device() {
            return self.load_on_device(blocks, n_layers, rotaries);
        }
        (0..n_layers).try_for_each(|layer| {
            let bytes = blocks.iter().map(|(block, _)| block.layer(layer)).collect::<Result<Vec<_>>>()?;
            let blocks = blocks.iter().zip(&bytes).map(|((block, slots), bytes)| (block, bytes, slots.clone()));
            self.load_layer(layer, &blocks.collect::<Vec<_>>(), rotaries)
        })
    }

    /// Takes over a layer of some blocks, whose bytes are given, into the slots that were left for each.
    ///
    /// # Errors
    ///
    /// [`Error::Slots`] when there are not as many slots as tokens, or slots of two blocks are not in order;
    /// [`Error::Kernel`] when the cache is on a device that does not take them.
    pub fn load_layer(
        &mut self,
        layer: usize,
        blocks: &[(&KvBlock, &LayerBytes<'_>, Range<usize>)],
        rotaries: &dyn LayerRotary,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.is_on_device() {
            let slots = blocks.iter().map(|(block, _, slots)| (*block, slots));
            let mut uploading = self.upload(slots, layer..layer + 1, rotaries)?;
            return blocks.iter().try_for_each(|(block, bytes, _)| {
                let halves = block.halves(layer..layer + 1, Some(bytes), rotaries)?;
                let tokens = uploading.next_tokens();
                uploading.put(&halves, tokens)
            });
        }
        let first = self.check_slots(blocks.iter().map(|(block, _, slots)| (*block, slots)))?;
        let ranges: Vec<Range<usize>> = blocks.iter().map(|(.., slots)| slots.clone()).collect();
        let pages = self.pages_of_layer(layer, &ranges);
        blocks.par_iter().zip(pages).zip(first).try_for_each(|(((block, bytes, _), mut pages), first)| {
            block.load(bytes, first, rotaries.rotary(layer), &mut pages)
        })
    }

    /// Where the first token of each block goes, whose slots are there and in order.
    pub(crate) fn check_slots<'b>(
        &self,
        blocks: impl Iterator<Item = (&'b KvBlock, &'b Range<usize>)>,
    ) -> Result<Vec<u32>> {
        let mut end = 0;
        let first = blocks.map(|(block, slots)| {
            if slots.start < end || slots.len() != block.n_tokens() || slots.end > self.len() {
                return Err(Error::Slots { problem: "blocks do not fit the slots that were left for them" });
            }
            end = slots.end;
            Ok(self.positions().get(slots.start).copied().unwrap_or(0))
        });
        first.collect()
    }
}

#[expect(clippy::too_many_arguments, reason = "what a layer is made of")]
fn store(
    precision: BlockPrecision,
    layout: &Layout,
    bytes: &mut [u8],
    shape: KvShape,
    keys: &mut [f32],
    values: &[f32],
    positions: &[u32],
    rotary: &RotaryEmbedding,
) -> Result<()> {
    let dim = shape.dim();
    let part = |bytes: &mut [u8], of: &Range<usize>, numbers: &[f32]| -> Result<()> {
        match precision {
            BlockPrecision::F32 => bytemuck::cast_slice_mut(&mut bytes[of.clone()]).copy_from_slice(numbers),
            BlockPrecision::F16 => to_f16(numbers, bytemuck::cast_slice_mut(&mut bytes[of.clone()]))?,
            BlockPrecision::Bf16 => {
                let to: &mut [bf16] = bytemuck::cast_slice_mut(&mut bytes[of.clone()]);
                to.convert_from_f32_slice(numbers);
            }
            BlockPrecision::Int8 => unreachable!("bytes have scales"),
        }
        Ok(())
    };
    if precision != BlockPrecision::Int8 {
        part(bytes, &layout.keys, keys)?;
        return part(bytes, &layout.values, values);
    }
    for (row, &position) in keys.chunks_exact_mut(dim).zip(positions) {
        rotary.shift(row, shape.n_kv_heads, -i64::from(position))?;
    }
    // Rotating puts the magnitude in again.
    let unscaled = 1.0 / rotary.magnitude() as f32;
    let mut largest = vec![0.0f32; dim];
    for row in keys.chunks_exact(dim) {
        largest.iter_mut().zip(row).for_each(|(largest, x)| *largest = largest.max((x * unscaled).abs()));
    }
    let (key_scales, rest) = bytes.split_at_mut(layout.value_scales.start);
    let key_scales: &mut [f32] = bytemuck::cast_slice_mut(&mut key_scales[layout.key_scales.clone()]);
    key_scales.iter_mut().zip(&largest).for_each(|(scale, largest)| *scale = largest / 127.0);
    let (value_scales, rest) = rest.split_at_mut(layout.keys.start - layout.value_scales.start);
    let value_scales: &mut [f32] = bytemuck::cast_slice_mut(&mut value_scales[..layout.value_scales.len()]);
    let (key_codes, value_codes) = rest.split_at_mut(layout.values.start - layout.keys.start);
    let key_codes: &mut [i8] = bytemuck::cast_slice_mut(&mut key_codes[..layout.keys.len()]);
    let value_codes: &mut [i8] = bytemuck::cast_slice_mut(&mut value_codes[..layout.values.len()]);
    let code = |x: f32, scale: f32| if scale > 0.0 { (x / scale).round() as i8 } else { 0 };
    for (codes, row) in key_codes.chunks_exact_mut(dim).zip(keys.chunks_exact(dim)) {
        for ((to, x), &scale) in codes.iter_mut().zip(row).zip(&*key_scales) {
            *to = code(x * unscaled, scale);
        }
    }
    for ((codes, row), scale) in value_codes.chunks_exact_mut(dim).zip(values.chunks_exact(dim)).zip(value_scales) {
        *scale = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0;
        codes.iter_mut().zip(row).for_each(|(to, &x)| *to = code(x, *scale));
    }
    Ok(())
}

/// Appends numbers in single precision.
fn widen(from: KvSlice<'_>, to: &mut Vec<f32>) -> Result<()> {
    match from {
        KvSlice::F32(numbers) => to.extend_from_slice(numbers),
        KvSlice::F16(bits) => {
            let first = to.len();
            to.resize(first + bits.len(), 0.0);
            from_f16(bits, &mut to[first..])?;
        }
    }
    Ok(())
}

fn from_bf16(from: &[u16], to: &mut [f32]) {
    let from: &[bf16] = bytemuck::cast_slice(from);
    from.convert_to_f32_slice(to);
}
