//! On a device: rotation in place, and cached keys and values put into pages, all layers in one launch.

use std::ops::Range;

use crate::device::cuda::{
    Argument, Buffer, CudaDevice, Kernel, KvPages, Launch, Mirrored, Module, PAGE_TOKENS, Real, check_len, count,
};
use crate::{Error, Result, RotaryEmbedding, RotaryPairs};

pub(crate) static MODULE: Module = Module {
    name: "rotary",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "rotate_f32", most_registers: 40 },
        Kernel { name: "rotate_bf16", most_registers: 40 },
        Kernel { name: "rotate_f16", most_registers: 40 },
        Kernel { name: "place_f32", most_registers: 80 },
        Kernel { name: "place_bf16", most_registers: 80 },
        Kernel { name: "place_f16", most_registers: 80 },
        Kernel { name: "copy_slots", most_registers: 40 },
    ],
};

/// What is not turned.
pub(crate) const NO_TURN: u32 = u32::MAX;

/// Cosines and sines of turns, on a device.
#[derive(Debug)]
pub struct RotaryTurns {
    table: Mirrored<f32>,
    n: usize,
    head_dim: usize,
    pairs: RotaryPairs,
}

impl RotaryTurns {
    /// The turns to the positions from 0 to `n_positions`, with the embedding's magnitude: turn `p` is that of
    /// position `p`.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`] when there is not so much memory.
    pub fn to_positions(device: &CudaDevice, embedding: &RotaryEmbedding, n_positions: usize) -> Result<Self> {
        Self::new(device, embedding, (0..n_positions).map(|position| position as f64), embedding.magnitude())
    }

    /// The turns to some positions, with the embedding's magnitude: turn `t` is that of `positions[t]`.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`] when there is not so much memory.
    pub fn at(device: &CudaDevice, embedding: &RotaryEmbedding, positions: &[u32]) -> Result<Self> {
        Self::new(device, embedding, positions.iter().map(|&position| f64::from(position)), embedding.magnitude())
    }

    /// The turns that move keys on by these numbers of positions, without the magnitude, which is in them already.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`] when there is not so much memory.
    pub fn by(device: &CudaDevice, embedding: &RotaryEmbedding, deltas: &[i64]) -> Result<Self> {
        Self::new(device, embedding, deltas.iter().map(|&delta| delta as f64), 1.0)
    }

    fn new(
        device: &CudaDevice,
        embedding: &RotaryEmbedding,
        positions: impl ExactSizeIterator<Item = f64>,
        magnitude: f64,
    ) -> Result<Self> {
        let n = positions.len();
        count("turns", n)?;
        let table = Mirrored::new(device, Self::table(embedding, positions, magnitude))?;
        Ok(Self { table, n, head_dim: embedding.head_dim, pairs: embedding.pairs })
    }

    fn table(embedding: &RotaryEmbedding, positions: impl ExactSizeIterator<Item = f64>, magnitude: f64) -> Vec<f32> {
        let mut turns = vec![0.0; positions.len() * embedding.head_dim];
        for (turn, position) in turns.chunks_exact_mut(embedding.head_dim).zip(positions) {
            embedding.fill(turn, position, magnitude);
        }
        turns
    }

    /// Makes these the turns to as many other positions, in the same place, so that recorded work goes by them.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the positions are not as many, or their heads not as large.
    pub fn set(&mut self, embedding: &RotaryEmbedding, positions: &[u32]) -> Result<()> {
        check_len("turns", positions.len(), self.n)?;
        check_len("components of turns", embedding.head_dim, self.head_dim)?;
        let positions = positions.iter().map(|&position| f64::from(position));
        self.table.set(0, &Self::table(embedding, positions, embedding.magnitude()))
    }

    pub(crate) fn argument(&self) -> Argument {
        self.table.there().argument()
    }

    pub(crate) fn neighbours(&self) -> Argument {
        Argument::U32(u32::from(self.pairs == RotaryPairs::Neighbours))
    }
}

/// Turns the heads from column `first` of each row of `rows`, `[n, stride]`: row `t` by turn `turn_of[t]`.
///
/// As [`RotaryEmbedding::rotate`]; a row whose turn is not among `turns` becomes NaN.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit or the heads do not fit into `stride`.
pub fn rotate<T: Real>(
    rows: &mut Buffer<T>,
    stride: usize,
    first: usize,
    n_heads: usize,
    turn_of: &Buffer<u32>,
    turns: &RotaryTurns,
) -> Result<()> {
    let kernel = match T::SUFFIX {
        "f32" => "rotate_f32",
        "bf16" => "rotate_bf16",
        _ => "rotate_f16",
    };
    let end = first + n_heads * turns.head_dim;
    if end > stride {
        return Err(Error::Shape { what: "stride", expected: end, found: stride });
    }
    check_len("rows", rows.len(), turn_of.len() * stride)?;
    let n = turn_of.len() * n_heads * turns.head_dim / 2;
    let launch = Launch { grid: [count("pairs", n.div_ceil(256))?, 1, 1], block: 256, shared_bytes: 0 };
    let arguments = [
        rows.argument_at(first),
        Argument::U32(count("stride", stride)?),
        Argument::U32(n_heads as u32),
        Argument::U32(turns.head_dim as u32),
        turns.neighbours(),
        turn_of.argument(),
        turns.table.there().argument(),
        Argument::U32(turns.n as u32),
        Argument::U64(n as u64),
    ];
    // SAFETY: the arguments are the kernel's; each thread below `n` has a pair of heads that lie within a row, and the
    // kernel does not read turns that are not there.
    unsafe { rows.device().launch(&MODULE, kernel, launch, &arguments) }
}

/// Where tokens go in pages, and by which turn: checked once, for all layers.
#[derive(Debug)]
pub struct Placement {
    slots: Mirrored<u32>,
    turn_of: Buffer<u32>,
    n_slots: usize,
}

impl Placement {
    /// Token `t` goes into slot `slots[t]` of an arena of `n_pages` pages, which is number
    /// `page · PAGE_TOKENS + row`, and is turned by turn `turn_of[t]`, or keeps its bits.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the lengths differ; [`Error::Row`] when a slot is in no page.
    pub fn new(device: &CudaDevice, slots: &[u32], turn_of: &[Option<u32>], n_pages: usize) -> Result<Self> {
        check_len("turn_of", turn_of.len(), slots.len())?;
        let n_slots = n_pages * PAGE_TOKENS;
        check_slots(slots, n_slots)?;
        let turns: Vec<u32> = turn_of.iter().map(|turn| turn.unwrap_or(NO_TURN)).collect();
        Ok(Self { slots: Mirrored::new(device, slots.to_vec())?, turn_of: device.upload(&turns)?, n_slots })
    }

    /// Sends as many tokens to other slots; where that is written stays the same, so that recorded work goes by it.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the slots are not as many; [`Error::Row`] when a slot is in no page.
    pub fn set(&mut self, slots: &[u32]) -> Result<()> {
        check_len("slots", slots.len(), self.len())?;
        check_slots(slots, self.n_slots)?;
        self.slots.set(0, slots)
    }

    /// How many tokens are placed.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn check_slots(slots: &[u32], n_slots: usize) -> Result<()> {
    match slots.iter().find(|&&slot| slot as usize >= n_slots) {
        Some(&slot) => Err(Error::Row { row: slot as usize, n_rows: n_slots }),
        None => Ok(()),
    }
}

/// Keys and values of tokens, of one layer or of several.
#[derive(Debug)]
pub struct KvSource<'a, T> {
    /// Keys: token `t` of the `l`-th layer begins at `key_start + l · layer_stride + t · token_stride`.
    pub keys: &'a Buffer<T>,
    /// Values, in the same way from `value_start`; it may be the same buffer.
    pub values: &'a Buffer<T>,
    /// Where the first key begins.
    pub key_start: usize,
    /// Where the first value begins.
    pub value_start: usize,
    /// From a token to the next.
    pub token_stride: usize,
    /// From a layer to the next.
    pub layer_stride: usize,
}

/// Puts keys and values into the pages of `layers`, and turns the keys on the way: what a forward pass does with a
/// layer's new keys, and what the reading of a cached chunk does with all layers in one launch.
///
/// Keys are turned in `f32` and rounded once; without a turn, half floats keep every bit. It is the stream of the pages
/// that does it, whichever the source's.
///
/// # Errors
///
/// [`Error::Shape`] when a length or the arena does not fit; [`Error::Row`] when there is no such layer.
pub fn place<T: Real>(
    source: &KvSource<'_, T>,
    placement: &Placement,
    turns: &RotaryTurns,
    pages: &mut KvPages,
    layers: Range<usize>,
) -> Result<()> {
    place_some(source, placement, 0..placement.len(), turns, pages, layers)
}

/// [`place`] for some tokens of the placement only, of which the source has the keys and values, and no others.
///
/// # Errors
///
/// As [`place`]; [`Error::Row`] when there are no such tokens.
pub fn place_some<T: Real>(
    source: &KvSource<'_, T>,
    placement: &Placement,
    tokens: Range<usize>,
    turns: &RotaryTurns,
    pages: &mut KvPages,
    layers: Range<usize>,
) -> Result<()> {
    let kernel = match T::SUFFIX {
        "f32" => "place_f32",
        "bf16" => "place_bf16",
        _ => "place_f16",
    };
    let (dim, n_kv_heads, n) = (pages.head_dim(), pages.n_kv_heads(), tokens.len());
    if tokens.end > placement.len() {
        return Err(Error::Row { row: tokens.end, n_rows: placement.len() });
    }
    if layers.end > pages.n_layers() {
        return Err(Error::Row { row: layers.end, n_rows: pages.n_layers() });
    }
    check_len("slots of the arena", pages.n_pages() * PAGE_TOKENS, placement.n_slots)?;
    check_len("components of turns", turns.head_dim, dim)?;
    if n == 0 || layers.is_empty() {
        return Ok(());
    }
    for (what, numbers) in [
        ("stride of tokens", source.token_stride),
        ("stride of layers", source.layer_stride),
        ("start of keys", source.key_start),
        ("start of values", source.value_start),
    ] {
        check_len(what, numbers, numbers.next_multiple_of(8))?; // Loads are of eight numbers, aligned.
    }
    let last = (layers.len() - 1) * source.layer_stride + (n - 1) * source.token_stride + n_kv_heads * dim;
    for (what, found, expected) in [
        ("keys", source.keys.len(), source.key_start + last),
        ("values", source.values.len(), source.value_start + last),
    ] {
        if found < expected {
            return Err(Error::Shape { what, expected, found });
        }
    }
    // Every thread moves 32 numbers, so that loads and stores are of 16 bytes; layers are the grid's second dimension.
    let threads = n * n_kv_heads * (dim / 16);
    let launch = Launch {
        grid: [count("tokens", threads.div_ceil(256))?, count("layers", layers.len())?, 1],
        block: 256,
        shared_bytes: 0,
    };
    let layer_len = pages.layer_len();
    let arguments = [
        source.keys.argument_at(source.key_start),
        source.values.argument_at(source.value_start),
        Argument::U32(count("stride of tokens", source.token_stride)?),
        Argument::U64(source.layer_stride as u64),
        Argument::U32(n_kv_heads as u32),
        Argument::U32(dim as u32),
        turns.neighbours(),
        placement.slots.there().argument_at(tokens.start),
        placement.turn_of.argument_at(tokens.start),
        turns.table.there().argument(),
        Argument::U32(turns.n as u32),
        Argument::U64(layer_len as u64),
        pages.keys.argument_at(layers.start * layer_len),
        pages.values.argument_at(layers.start * layer_len),
        Argument::U64(threads as u64),
    ];
    // SAFETY: the arguments are the kernel's; slots are in the arena, layers are too, the last token's last layer is in
    // both sources, and the kernel does not read turns that are not there.
    unsafe { pages.keys.device().launch(&MODULE, kernel, launch, &arguments) }
}

/// Copies slots over others in all layers, one pair `(from, to)` after the other, in one launch.
///
/// # Errors
///
/// [`Error::Row`] when a slot is in no page.
pub fn copy_slots(pages: &mut KvPages, pairs: &[(u32, u32)]) -> Result<()> {
    let n_slots = pages.n_pages() * PAGE_TOKENS;
    if let Some(&slot) = pairs.iter().flat_map(|(from, to)| [from, to]).find(|&&slot| slot as usize >= n_slots) {
        return Err(Error::Row { row: slot as usize, n_rows: n_slots });
    }
    let device = pages.keys.device();
    let flat: Vec<u32> = pairs.iter().flat_map(|&(from, to)| [from, to]).collect();
    let flat = device.upload(&flat)?;
    let (dim, n_kv_heads) = (pages.head_dim(), pages.n_kv_heads());
    let threads = if pairs.is_empty() { 0 } else { pages.n_layers() * n_kv_heads * (dim / 8) };
    let launch = Launch { grid: [count("heads", threads.div_ceil(256))?, 1, 1], block: 256, shared_bytes: 0 };
    let arguments = [
        flat.argument(),
        Argument::U32(count("slots to copy", pairs.len())?),
        Argument::U32(n_kv_heads as u32),
        Argument::U32(dim as u32),
        Argument::U64(pages.layer_len() as u64),
        pages.keys.argument(),
        pages.values.argument(),
        Argument::U64(threads as u64),
    ];
    // SAFETY: the arguments are the kernel's; slots are in the arena, and each thread below `threads` has eight numbers of
    // a head in each of them.
    unsafe { device.launch(&MODULE, "copy_slots", launch, &arguments) }
}
