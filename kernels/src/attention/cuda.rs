//! Attention on a device, by the matrix units, over packed sequences and over pages of keys and values.
//!
//! What depends on positions alone (which tiles of rows visit which pages, and where a mask is needed) is found once,
//! on the processor, and serves all layers of a forward pass.

use super::{AttentionMask, AttentionShape};
use crate::device::cuda::{
    Argument, Bf16, Buffer, F16, Kernel, KvPages, Launch, Module, PAGE_TOKENS, PackedSequences, TILE_ROWS, check_len,
    count, optional,
};
use crate::{Error, Result};

pub(crate) static MODULE: Module = Module {
    name: "attention",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "bidirectional_32", most_registers: 255 },
        Kernel { name: "bidirectional_64", most_registers: 255 },
        Kernel { name: "bidirectional_128", most_registers: 255 },
        Kernel { name: "causal_32", most_registers: 255 },
        Kernel { name: "causal_64", most_registers: 255 },
        Kernel { name: "causal_128", most_registers: 255 },
        Kernel { name: "mass_32", most_registers: 128 },
        Kernel { name: "mass_64", most_registers: 128 },
        Kernel { name: "mass_128", most_registers: 255 },
        Kernel { name: "decode_32", most_registers: 128 },
        Kernel { name: "decode_64", most_registers: 128 },
        Kernel { name: "decode_128", most_registers: 168 },
        Kernel { name: "merge_splits", most_registers: 40 },
    ],
};

/// A slot of a page that has no token.
pub const EMPTY_SLOT: u32 = u32::MAX;

/// Rows of a decoding step that a sequence and a head of keys can have: one tile of the matrix units.
const DECODE_ROWS: usize = 16;

/// The kernel for heads of this size, and the threads of its blocks where a tile of rows is [`TILE_ROWS`] long.
fn by_head_dim(names: [&'static str; 3], dim: usize) -> Result<(&'static str, u32)> {
    match dim {
        32 => Ok((names[0], 128)),
        64 => Ok((names[1], 128)),
        128 => Ok((names[2], 256)),
        0 => Err(Error::ZeroDimension),
        found => Err(Error::Unsupported { what: "size of attention's heads", found }),
    }
}

/// The scale of scores in base 2.
fn scale_of(shape: &AttentionShape) -> Result<f32> {
    if shape.n_heads == 0 || shape.n_kv_heads == 0 {
        return Err(Error::ZeroDimension);
    }
    check_len("n_heads", shape.n_heads, shape.n_heads.next_multiple_of(shape.n_kv_heads))?;
    if !(shape.scale > 0.0 && shape.scale.is_finite()) {
        return Err(Error::NotPositive { what: "the scale of scores" });
    }
    Ok(shape.scale * std::f32::consts::LOG2_E)
}

/// Shared memory of a tile of rows and two tiles of 64 keys and values each.
fn shared_bytes(dim: usize) -> usize {
    (TILE_ROWS + 4 * PAGE_TOKENS) * dim * size_of::<u16>()
}

/// [`bidirectional_attention`](crate::bidirectional_attention) of bf16 rows, with sums in `f32`.
///
/// `qkv` is `[n_tokens, 3 · n_heads · head_dim]`, `out` is `[n_tokens, n_heads · head_dim]`.
///
/// # Errors
///
/// As [`bidirectional_attention`](crate::bidirectional_attention); [`Error::Unsupported`] when `head_dim` is not 32, 64
/// or 128; [`Error::NotPositive`] when the scale is not.
pub fn bidirectional_attention(
    shape: &AttentionShape,
    qkv: &Buffer<Bf16>,
    sequences: &PackedSequences,
    radius: Option<usize>,
    out: &mut Buffer<Bf16>,
) -> Result<()> {
    let names = ["bidirectional_32", "bidirectional_64", "bidirectional_128"];
    let (kernel, block) = by_head_dim(names, shape.head_dim)?;
    let scale = scale_of(shape)?;
    check_len("n_kv_heads", shape.n_kv_heads, shape.n_heads)?;
    let width = shape.n_heads * shape.head_dim;
    check_len("qkv", qkv.len(), sequences.n_tokens() * 3 * width)?;
    check_len("out", out.len(), sequences.n_tokens() * width)?;
    let launch = Launch {
        grid: [count("tiles", sequences.n_tiles())?, shape.n_heads as u32, 1],
        block,
        shared_bytes: shared_bytes(shape.head_dim),
    };
    let arguments = [
        qkv.argument(),
        sequences.tiles().argument(),
        Argument::U32(shape.n_heads as u32),
        Argument::F32(scale),
        Argument::U32(radius.map_or(u32::MAX, |radius| u32::try_from(radius).unwrap_or(u32::MAX))),
        out.argument(),
    ];
    // SAFETY: the arguments are the kernel's; the tiles are of sequences that together have the rows of both buffers.
    unsafe { qkv.device().launch(&MODULE, kernel, launch, &arguments) }
}

/// Keys and values of one sequence in pages.
#[derive(Clone, Copy, Debug)]
pub struct PagedKeys<'a> {
    /// The pages, in any order, shared with other sequences or not.
    pub pages: &'a [u32],
    /// Where each slot's token stands, [`PAGE_TOKENS`] a page, in any order; [`EMPTY_SLOT`] where there is none.
    pub positions: &'a [u32],
    /// The segment of each slot; 0, which every query sees, when there is none.
    pub segments: Option<&'a [u32]>,
    /// What is added to the scores of each slot, in nats; 0 when there is none.
    pub log_weights: Option<&'a [f32]>,
}

/// Which query rows see which slots: what [`causal_attention`] and [`attention_mass`] need beside numbers.
#[derive(Debug)]
pub struct CausalPlan {
    group: usize,
    n_tokens: usize,
    n_slots: usize,
    n_tiles: usize,
    pages_of_arena: usize,
    scale: f32,
    mask: AttentionMask,
    query_positions: Buffer<u32>,
    query_segments: Option<Buffer<u32>>,
    pages: Buffer<u32>,
    positions: Buffer<u32>,
    segments: Option<Buffer<u32>>,
    log_weights: Option<Buffer<f32>>,
    order: Buffer<u32>,
    starts: Buffer<u32>,
    visits: Buffer<u32>,
}

impl CausalPlan {
    /// A plan for query rows at `positions` (of `segments`, or seeing all of them) over the keys of one sequence in an
    /// arena.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit or `n_kv_heads` does not divide `n_heads`; [`Error::Row`] when a
    /// page is not in the arena or a query stands at [`EMPTY_SLOT`]; [`Error::NotPositive`] when the scale is not.
    pub fn new(
        arena: &KvPages,
        shape: &AttentionShape,
        positions: &[u32],
        segments: Option<&[u32]>,
        keys: &PagedKeys<'_>,
        mask: &AttentionMask,
    ) -> Result<Self> {
        let scale = scale_of(shape)?;
        by_head_dim(["", "", ""], shape.head_dim)?;
        let device = arena.keys.device();
        let group = shape.n_heads / shape.n_kv_heads;
        let n_slots = keys.pages.len() * PAGE_TOKENS;
        check_len("segments of queries", segments.map_or(positions.len(), <[u32]>::len), positions.len())?;
        check_len("positions of keys", keys.positions.len(), n_slots)?;
        check_len("segments of keys", keys.segments.map_or(n_slots, <[u32]>::len), n_slots)?;
        check_len("log_weights", keys.log_weights.map_or(n_slots, <[f32]>::len), n_slots)?;
        count("rows", positions.len().saturating_mul(group))?;
        check_pages(keys.pages, arena)?;
        check_queries(positions)?;
        let row_tiles: Vec<Bounds> = (0..positions.len() * group)
            .step_by(TILE_ROWS)
            .map(|row| {
                let tokens = row / group..(row + TILE_ROWS).div_ceil(group).min(positions.len());
                Bounds::of(&positions[tokens.clone()], segments.map_or(&[u32::MAX], |segments| &segments[tokens]))
            })
            .collect();
        let pages: Vec<Option<Bounds>> = (0..keys.pages.len())
            .map(|page| {
                let slots = page * PAGE_TOKENS..(page + 1) * PAGE_TOKENS;
                Bounds::of_page(&keys.positions[slots.clone()], keys.segments.map_or(&[0], |all| &all[slots]))
            })
            .collect();
        let Visits { starts, visits, order } = Visits::new(&row_tiles, &pages, mask, keys.log_weights.is_some());
        // The kernel adds weights to scores that are not scaled yet.
        let log_weights =
            keys.log_weights.map(|weights| weights.iter().map(|weight| weight / shape.scale).collect::<Vec<_>>());
        Ok(Self {
            group,
            n_tokens: positions.len(),
            n_slots,
            n_tiles: row_tiles.len(),
            pages_of_arena: arena.n_pages(),
            scale,
            mask: *mask,
            query_positions: device.upload(positions)?,
            query_segments: segments.map(|segments| device.upload(segments)).transpose()?,
            pages: device.upload(keys.pages)?,
            positions: device.upload(keys.positions)?,
            segments: keys.segments.map(|segments| device.upload(segments)).transpose()?,
            log_weights: log_weights.map(|weights| device.upload(&weights)).transpose()?,
            order: device.upload(&order)?,
            starts: device.upload(&starts)?,
            visits: device.upload(&visits)?,
        })
    }

    /// How many slots the sequence's pages have.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// Checks what does not depend on positions, and gives the layer's place in the arena and the number of query heads.
    fn check(&self, queries: &Buffer<F16>, arena: &KvPages, layer: usize) -> Result<(usize, usize)> {
        let n_heads = self.group * arena.n_kv_heads();
        check_len("queries", queries.len(), self.n_tokens * n_heads * arena.head_dim())?;
        check_len("pages of the arena", arena.n_pages(), self.pages_of_arena)?;
        if layer >= arena.n_layers() {
            return Err(Error::Row { row: layer, n_rows: arena.n_layers() });
        }
        Ok((layer * arena.layer_len(), n_heads))
    }

    fn window(&self) -> [Argument; 2] {
        [Argument::U32(self.mask.window.unwrap_or(u32::MAX)), Argument::U32(self.mask.sinks)]
    }
}

fn check_pages(pages: &[u32], arena: &KvPages) -> Result<()> {
    match pages.iter().find(|&&page| page as usize >= arena.n_pages()) {
        Some(&page) => Err(Error::Row { row: page as usize, n_rows: arena.n_pages() }),
        None => Ok(()),
    }
}

fn check_queries(positions: &[u32]) -> Result<()> {
    match positions.contains(&EMPTY_SLOT) {
        true => Err(Error::Row { row: EMPTY_SLOT as usize, n_rows: EMPTY_SLOT as usize }),
        false => Ok(()),
    }
}

/// [`causal_attention`](crate::causal_attention) from half-float query rows, `[n_rows, n_heads · head_dim]`, over one
/// layer's pages, with sums in `f32`.
///
/// `out` is as `queries`; `lse` is `[n_rows, n_heads]`, in nats. A row that sees no key has an output of 0 and −∞.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit the plan; [`Error::Row`] when there is no such layer.
pub fn causal_attention(
    plan: &CausalPlan,
    queries: &Buffer<F16>,
    arena: &KvPages,
    layer: usize,
    out: &mut Buffer<F16>,
    lse: Option<&mut Buffer<f32>>,
) -> Result<()> {
    let (at, n_heads) = plan.check(queries, arena, layer)?;
    check_len("out", out.len(), queries.len())?;
    let lse = lse.as_deref();
    check_len("lse", lse.map_or(plan.n_tokens * n_heads, Buffer::len), plan.n_tokens * n_heads)?;
    let (kernel, block) = by_head_dim(["causal_32", "causal_64", "causal_128"], arena.head_dim())?;
    // A block a tile of rows and head of keys; tiles with most keys first.
    let launch = Launch {
        grid: [count("tiles", plan.n_tiles)?, arena.n_kv_heads() as u32, 1],
        block,
        shared_bytes: shared_bytes(arena.head_dim()),
    };
    let [window, sinks] = plan.window();
    let arguments = [
        queries.argument(),
        plan.query_positions.argument(),
        optional(plan.query_segments.as_ref()),
        Argument::U32(plan.n_tokens as u32),
        arena.keys.argument_at(at),
        arena.values.argument_at(at),
        plan.pages.argument(),
        plan.positions.argument(),
        optional(plan.segments.as_ref()),
        optional(plan.log_weights.as_ref()),
        plan.order.argument(),
        plan.starts.argument(),
        plan.visits.argument(),
        Argument::U32(arena.n_kv_heads() as u32),
        Argument::U32(plan.group as u32),
        Argument::F32(plan.scale),
        window,
        sinks,
        out.argument(),
        optional(lse),
    ];
    // SAFETY: the arguments are the kernel's; pages, layer, rows and visits were checked against the buffers.
    unsafe { queries.device().launch(&MODULE, kernel, launch, &arguments) }
}

/// Measures how much attention each slot receives: `mass[h, s] = Σ_r exp(score[r, h, s] − lse[r, h])`.
///
/// `lse` is what [`causal_attention`] gave for the same rows and plan; `mass` is `[n_heads, n_slots]`. Sums over ranges
/// of slots are those of [`attention_mass`](crate::attention_mass).
///
/// # Errors
///
/// As [`causal_attention`].
pub fn attention_mass(
    plan: &CausalPlan,
    queries: &Buffer<F16>,
    arena: &KvPages,
    layer: usize,
    lse: &Buffer<f32>,
    mass: &mut Buffer<f32>,
) -> Result<()> {
    let (at, n_heads) = plan.check(queries, arena, layer)?;
    check_len("lse", lse.len(), plan.n_tokens * n_heads)?;
    check_len("mass", mass.len(), n_heads * plan.n_slots)?;
    if plan.n_tokens == 0 {
        return mass.fill(0);
    }
    let (kernel, _) = by_head_dim(["mass_32", "mass_64", "mass_128"], arena.head_dim())?;
    // A block a page and query head: it holds the keys, and rows pass by, so that no two blocks add to one number.
    let launch = Launch {
        grid: [count("pages", plan.n_slots / PAGE_TOKENS)?, n_heads as u32, 1],
        block: 128,
        shared_bytes: PAGE_TOKENS * arena.head_dim() * size_of::<F16>(),
    };
    let [window, sinks] = plan.window();
    let arguments = [
        queries.argument(),
        plan.query_positions.argument(),
        optional(plan.query_segments.as_ref()),
        Argument::U32(plan.n_tokens as u32),
        arena.keys.argument_at(at),
        plan.pages.argument(),
        plan.positions.argument(),
        optional(plan.segments.as_ref()),
        optional(plan.log_weights.as_ref()),
        Argument::U32(arena.n_kv_heads() as u32),
        Argument::U32(plan.group as u32),
        Argument::F32(plan.scale),
        window,
        sinks,
        lse.argument(),
        mass.argument(),
    ];
    // SAFETY: the arguments are the kernel's; there is a block for each page and head, for which `mass` has 64 numbers.
    unsafe { queries.device().launch(&MODULE, kernel, launch, &arguments) }
}

/// The least and the greatest of some positions and segments.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bounds {
    positions: (u32, u32),
    segments: (u32, u32),
    /// Whether some slot is empty.
    holes: bool,
}

impl Bounds {
    fn of(positions: &[u32], segments: &[u32]) -> Self {
        let bounds = |numbers: &mut dyn Iterator<Item = u32>| {
            numbers.fold((u32::MAX, 0), |(low, high), number| (low.min(number), high.max(number)))
        };
        Self {
            positions: bounds(&mut positions.iter().copied().filter(|&position| position != EMPTY_SLOT)),
            segments: bounds(&mut segments.iter().copied()),
            holes: positions.contains(&EMPTY_SLOT),
        }
    }

    /// Those of a page, if it has a token. Segments of empty slots count too, which makes a mask of what needs none.
    fn of_page(positions: &[u32], segments: &[u32]) -> Option<Self> {
        positions.iter().any(|&position| position != EMPTY_SLOT).then(|| Self::of(positions, segments))
    }

    /// What rows within these bounds see of such a page.
    fn sees(&self, page: &Self, mask: &AttentionMask) -> Sight {
        let (first, last) = self.positions;
        let (least, greatest) = page.positions;
        let window = mask.window.unwrap_or(u32::MAX);
        let one = |(low, high): (u32, u32)| (low == high).then_some(low);
        let all_segments = one(self.segments) == Some(u32::MAX) || page.segments == (0, 0);
        let out_of_window = first.saturating_sub(greatest) >= window && least >= mask.sinks;
        let other_segment = !all_segments
            && matches!((one(self.segments), one(page.segments)), (Some(own), Some(other)) if own != other && other != 0);
        let in_window = mask.window.is_none() || last.saturating_sub(least) < window || greatest < mask.sinks;
        let same_segment = matches!((one(self.segments), one(page.segments)), (Some(own), Some(other)) if own == other);
        if least > last || out_of_window || other_segment {
            Sight::Nothing
        } else if !page.holes && greatest <= first && in_window && (all_segments || same_segment) {
            Sight::All
        } else {
            Sight::Some
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Nothing,
    Some,
    All,
}

/// Which pages each tile of rows visits.
#[derive(Debug, PartialEq, Eq)]
struct Visits {
    /// Where each tile's visits begin, and where the last one's end.
    starts: Vec<u32>,
    /// Twice the number of a page, plus one where a mask is needed.
    visits: Vec<u32>,
    /// The tiles, those with most visits first.
    order: Vec<u32>,
}

impl Visits {
    fn new(tiles: &[Bounds], pages: &[Option<Bounds>], mask: &AttentionMask, weighted: bool) -> Self {
        let (mut starts, mut visits) = (vec![0], Vec::new());
        for tile in tiles {
            for (number, page) in pages.iter().enumerate() {
                match page.as_ref().map_or(Sight::Nothing, |page| tile.sees(page, mask)) {
                    Sight::Nothing => {}
                    Sight::All if !weighted => visits.push(2 * number as u32),
                    Sight::All | Sight::Some => visits.push(2 * number as u32 + 1),
                }
            }
            starts.push(visits.len() as u32);
        }
        let mut order: Vec<u32> = (0..tiles.len() as u32).collect();
        order.sort_by_key(|&tile| std::cmp::Reverse(starts[tile as usize + 1] - starts[tile as usize]));
        Self { starts, visits, order }
    }
}

/// A step of decoding for several sequences, each with pages of its own and as many query rows.
#[derive(Debug)]
pub struct DecodePlan {
    n_sequences: usize,
    n_queries: usize,
    group: usize,
    n_splits: usize,
    most_pages: usize,
    pages_of_arena: usize,
    scale: f32,
    mask: AttentionMask,
    query_positions: Buffer<u32>,
    pages: Buffer<u32>,
    n_pages: Buffer<u32>,
    positions: Buffer<u32>,
    part_out: Buffer<f32>,
    part_lse: Buffer<f32>,
}

impl DecodePlan {
    /// A plan for `n_queries` rows a sequence, at `positions`, `[n_sequences, n_queries]`, over each one's keys.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit, or keys have segments or weights; [`Error::Unsupported`] when the
    /// rows of a head of keys, `n_queries · n_heads / n_kv_heads`, are more than 16; [`Error::Row`] when a page is not in
    /// the arena; [`Error::NotPositive`] when the scale is not.
    pub fn new(
        arena: &KvPages,
        shape: &AttentionShape,
        n_queries: usize,
        positions: &[u32],
        keys: &[PagedKeys<'_>],
        mask: &AttentionMask,
    ) -> Result<Self> {
        let scale = scale_of(shape)?;
        let device = arena.keys.device();
        let group = shape.n_heads / shape.n_kv_heads;
        let n_rows = n_queries * group;
        if n_rows > DECODE_ROWS {
            return Err(Error::Unsupported { what: "number of rows of a decoding step", found: n_rows });
        }
        check_len("positions of queries", positions.len(), keys.len() * n_queries)?;
        check_queries(positions)?;
        let most_pages = keys.iter().map(|keys| keys.pages.len()).max().unwrap_or(0);
        let mut pages = vec![0; keys.len() * most_pages];
        let mut slots = vec![EMPTY_SLOT; keys.len() * most_pages * PAGE_TOKENS];
        for (i, keys) in keys.iter().enumerate() {
            check_pages(keys.pages, arena)?;
            check_len("positions of keys", keys.positions.len(), keys.pages.len() * PAGE_TOKENS)?;
            check_len("segments of keys", keys.segments.map_or(0, <[u32]>::len), 0)?;
            check_len("log_weights", keys.log_weights.map_or(0, <[f32]>::len), 0)?;
            pages[i * most_pages..][..keys.pages.len()].copy_from_slice(keys.pages);
            slots[i * most_pages * PAGE_TOKENS..][..keys.positions.len()].copy_from_slice(keys.positions);
        }
        let counts: Vec<u32> = keys.iter().map(|keys| keys.pages.len() as u32).collect();
        let n_blocks = keys.len() * arena.n_kv_heads();
        let n_splits = n_splits(n_blocks, most_pages, device.limits().n_multiprocessors as usize);
        let n_parts = n_blocks * n_splits * DECODE_ROWS;
        Ok(Self {
            n_sequences: keys.len(),
            n_queries,
            group,
            n_splits,
            most_pages,
            pages_of_arena: arena.n_pages(),
            scale,
            mask: *mask,
            query_positions: device.upload(positions)?,
            pages: device.upload(&pages)?,
            n_pages: device.upload(&counts)?,
            positions: device.upload(&slots)?,
            part_out: device.filled(0, n_parts * arena.head_dim())?,
            part_lse: device.filled(0, n_parts)?,
        })
    }
}

/// Blocks that share the keys of a sequence and head: enough for two on each multiprocessor, but each with a page at
/// least.
fn n_splits(n_blocks: usize, most_pages: usize, n_multiprocessors: usize) -> usize {
    (2 * n_multiprocessors).div_ceil(n_blocks.max(1)).clamp(1, most_pages.max(1))
}

/// Attends from the rows of a decoding step, `[n_sequences · n_queries, n_heads · head_dim]`, each over its sequence's
/// keys in one layer's pages.
///
/// As [`causal_attention`], but the keys are shared out among blocks, so that few rows keep a device busy. The grid
/// depends on the plan alone, so that the launches can be recorded.
///
/// # Errors
///
/// As [`causal_attention`].
pub fn decode_attention(
    plan: &mut DecodePlan,
    queries: &Buffer<F16>,
    arena: &KvPages,
    layer: usize,
    out: &mut Buffer<F16>,
    lse: Option<&mut Buffer<f32>>,
) -> Result<()> {
    let (dim, n_kv_heads) = (arena.head_dim(), arena.n_kv_heads());
    let n_rows = plan.n_sequences * plan.n_queries * plan.group * n_kv_heads;
    check_len("queries", queries.len(), n_rows * dim)?;
    check_len("out", out.len(), n_rows * dim)?;
    let lse = lse.as_deref();
    check_len("lse", lse.map_or(n_rows, Buffer::len), n_rows)?;
    check_len("pages of the arena", arena.n_pages(), plan.pages_of_arena)?;
    let n_parts = plan.n_sequences * n_kv_heads * plan.n_splits * DECODE_ROWS;
    check_len("parts of the plan", plan.part_out.len(), n_parts * dim)?;
    if layer >= arena.n_layers() {
        return Err(Error::Row { row: layer, n_rows: arena.n_layers() });
    }
    let (kernel, _) = by_head_dim(["decode_32", "decode_64", "decode_128"], dim)?;
    let at = layer * arena.layer_len();
    let launch = Launch {
        grid: [plan.n_splits as u32, n_kv_heads as u32, count("sequences", plan.n_sequences)?],
        block: 128,
        shared_bytes: 4 * 4 * 32 * dim * size_of::<F16>(), // Each warp has two tiles of 32 keys, and of values.
    };
    let arguments = [
        queries.argument(),
        plan.query_positions.argument(),
        Argument::U32(plan.n_queries as u32),
        arena.keys.argument_at(at),
        arena.values.argument_at(at),
        plan.pages.argument(),
        plan.n_pages.argument(),
        Argument::U32(plan.most_pages as u32),
        plan.positions.argument(),
        Argument::U32(n_kv_heads as u32),
        Argument::U32(plan.group as u32),
        Argument::F32(plan.scale),
        Argument::U32(plan.mask.window.unwrap_or(u32::MAX)),
        Argument::U32(plan.mask.sinks),
        plan.part_out.argument(),
        plan.part_lse.argument(),
    ];
    if n_rows == 0 {
        return Ok(());
    }
    // SAFETY: the arguments are the kernel's; pages, layer and rows were checked, and the plan has a part for each block.
    unsafe { queries.device().launch(&MODULE, kernel, launch, &arguments) }?;
    let launch = Launch { grid: [count("rows", n_rows.div_ceil(4))?, 1, 1], block: 128, shared_bytes: 0 };
    let arguments = [
        plan.part_out.argument(),
        plan.part_lse.argument(),
        Argument::U32(plan.n_splits as u32),
        Argument::U32(plan.n_queries as u32),
        Argument::U32(n_kv_heads as u32),
        Argument::U32(plan.group as u32),
        Argument::U32(dim as u32),
        Argument::U32(n_rows as u32),
        out.argument(),
        optional(lse),
    ];
    // SAFETY: the arguments are the kernel's; a warp below `n_rows` reads its row's parts and writes its row.
    unsafe { queries.device().launch(&MODULE, "merge_splits", launch, &arguments) }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::{KvRun, KvSlice, QueryRows, cpu};
    use super::*;
    use crate::device::cuda::emulation::for_each_device;
    use crate::device::cuda::{CudaDevice, Real};

    fn random<T: Real>(rng: &mut ChaCha8Rng, n: usize) -> Vec<T> {
        (0..n).map(|_| T::from_f32(rng.random_range(-2.0..2.0))).collect()
    }

    fn widened<T: Real>(numbers: &[T]) -> Vec<f32> {
        numbers.iter().map(|x| x.to_f32()).collect()
    }

    /// Shares are rounded to the type of the values, and so is the result.
    #[track_caller]
    fn check<T: Real>(got: &[T], want: &[f64], tolerance: f64, what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let got = f64::from(got.to_f32());
            assert!(got == *want || (got - want).abs() <= tolerance, "{what}, {i}: {got} is not {want}");
        }
    }

    fn check_bidirectional(device: &CudaDevice, n_heads: usize, dim: usize, ends: &[usize], radius: Option<usize>) {
        let mut rng = ChaCha8Rng::seed_from_u64((dim + ends.len()) as u64);
        let shape = AttentionShape { n_heads, n_kv_heads: n_heads, head_dim: dim, scale: 1.0 / (dim as f32).sqrt() };
        let n = ends.last().copied().unwrap_or(0);
        let qkv = random::<Bf16>(&mut rng, n * 3 * n_heads * dim);
        let mut want = vec![f32::NAN; n * n_heads * dim];
        crate::bidirectional_attention(&shape, &widened(&qkv), ends, radius, &mut want).unwrap();
        let mut got = device.filled::<Bf16>(0xff, want.len()).unwrap();
        let sequences = PackedSequences::new(device, ends).unwrap();
        bidirectional_attention(&shape, &device.upload(&qkv).unwrap(), &sequences, radius, &mut got).unwrap();
        let want: Vec<f64> = want.into_iter().map(f64::from).collect();
        check(&got.download().unwrap(), &want, 0.02, &format!("heads of {dim}, radius {radius:?}"));
    }

    #[test]
    fn a_device_attends_both_ways_as_the_processor_does() {
        for_each_device(|device| {
            check_bidirectional(device, 2, 32, &[], None);
            check_bidirectional(device, 3, 32, &[1, 1, 18, 90], None);
            check_bidirectional(device, 1, 64, &[5, 205], None);
            check_bidirectional(device, 1, 64, &[150, 151], Some(20));
            check_bidirectional(device, 1, 128, &[70], None);
            check_bidirectional(device, 1, 32, &[300], Some(0));
        });
    }

    /// A sequence whose tokens lie in pages with holes, in an arena with pages of others.
    struct Paged {
        pages: Vec<u32>,
        positions: Vec<u32>,
        segments: Option<Vec<u32>>,
        log_weights: Option<Vec<f32>>,
        /// Slots that have a token, in order.
        filled: Vec<usize>,
    }

    impl Paged {
        fn new(rng: &mut ChaCha8Rng, pages: &[u32], n_positions: u32, segments: bool, weights: bool) -> Self {
            let n = pages.len() * PAGE_TOKENS;
            let positions: Vec<u32> = (0..n)
                .map(|_| if rng.random_range(0..5) == 0 { EMPTY_SLOT } else { rng.random_range(0..n_positions) })
                .collect();
            let filled = (0..n).filter(|&slot| positions[slot] != EMPTY_SLOT).collect();
            let segments = segments.then(|| (0..n).map(|slot| slot as u32 / 48 % 3).collect());
            let log_weights = weights.then(|| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect());
            Self { pages: pages.to_vec(), positions, segments, log_weights, filled }
        }

        fn keys(&self) -> PagedKeys<'_> {
            PagedKeys {
                pages: &self.pages,
                positions: &self.positions,
                segments: self.segments.as_deref(),
                log_weights: self.log_weights.as_deref(),
            }
        }

        /// What the filled slots hold, as a run.
        fn with_run<R>(&self, arena: &Arena, layer: usize, then: impl FnOnce(&KvRun) -> R) -> R {
            let rows = |all: &[F16]| -> Vec<u16> {
                let mut rows = Vec::new();
                for &slot in &self.filled {
                    for head in 0..arena.n_kv_heads {
                        let page = layer * arena.n_pages + self.pages[slot / 64] as usize;
                        let at = ((page * arena.n_kv_heads + head) * 64 + slot % 64) * arena.dim;
                        rows.extend(all[at..at + arena.dim].iter().map(|x| x.0));
                    }
                }
                rows
            };
            let of = |all: &[u32]| -> Vec<u32> { self.filled.iter().map(|&slot| all[slot]).collect() };
            let (keys, values, positions) = (rows(&arena.keys), rows(&arena.values), of(&self.positions));
            let segments = self.segments.as_deref().map(of);
            let weights: Option<Vec<f32>> =
                self.log_weights.as_ref().map(|all| self.filled.iter().map(|&slot| all[slot]).collect());
            then(&KvRun {
                keys: KvSlice::F16(&keys),
                values: KvSlice::F16(&values),
                positions: &positions,
                segments: segments.as_deref(),
                log_weights: weights.as_deref(),
            })
        }
    }

    struct Arena {
        pages: KvPages,
        keys: Vec<F16>,
        values: Vec<F16>,
        n_pages: usize,
        n_kv_heads: usize,
        dim: usize,
    }

    fn arena(device: &CudaDevice, rng: &mut ChaCha8Rng, n_pages: usize, n_kv_heads: usize, dim: usize) -> Arena {
        let mut pages = KvPages::new(device, 2, n_pages, n_kv_heads, dim).unwrap();
        let n = 2 * pages.layer_len();
        let (keys, values) = (random(rng, n), random(rng, n));
        pages.keys.write(0, &keys).unwrap();
        pages.values.write(0, &values).unwrap();
        Arena { pages, keys, values, n_pages, n_kv_heads, dim }
    }

    #[derive(Clone, Copy)]
    struct Case {
        dim: usize,
        n_kv_heads: usize,
        group: usize,
        n_tokens: usize,
        mask: AttentionMask,
        segments: bool,
        weights: bool,
    }

    fn check_causal(device: &CudaDevice, case: Case, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let Case { dim, n_kv_heads, group, n_tokens, mask, .. } = case;
        let n_heads = n_kv_heads * group;
        let shape = AttentionShape { n_heads, n_kv_heads, head_dim: dim, scale: 1.0 / (dim as f32).sqrt() };
        let arena = arena(device, &mut rng, 5, n_kv_heads, dim);
        let sequence = Paged::new(&mut rng, &[4, 0, 2], 200, case.segments, case.weights);
        let mut positions: Vec<u32> = (0..n_tokens).map(|_| rng.random_range(0..220)).collect();
        positions.sort_unstable();
        if let Some(first) = positions.first_mut() {
            *first = 0;
        }
        let segments: Option<Vec<u32>> =
            case.segments.then(|| (0..n_tokens).map(|t| [1, 2, u32::MAX][t % 3]).collect());
        let rows = random::<F16>(&mut rng, n_tokens * n_heads * dim);
        let wide = widened(&rows);
        let queries = QueryRows { rows: &wide, positions: &positions, segments: segments.as_deref() };
        let keys = sequence.keys();
        let plan = CausalPlan::new(&arena.pages, &shape, &positions, segments.as_deref(), &keys, &mask).unwrap();
        let rows = device.upload(&rows).unwrap();
        let mut out = device.filled::<F16>(0xff, rows.len()).unwrap();
        let mut lse = device.filled::<f32>(0xff, n_tokens * n_heads).unwrap();
        let mut mass = device.filled::<f32>(0xff, n_heads * plan.n_slots()).unwrap();
        for layer in 0..2 {
            causal_attention(&plan, &rows, &arena.pages, layer, &mut out, Some(&mut lse)).unwrap();
            attention_mass(&plan, &rows, &arena.pages, layer, &lse, &mut mass).unwrap();
            sequence.with_run(&arena, layer, |run| {
                let what = format!("heads of {dim}, layer {layer}, seed {seed}");
                let runs = [*run];
                let (want, want_lse) = cpu::attention(&shape, &queries, &runs, &mask);
                check(&out.download().unwrap(), &want, 4e-3, &what);
                check(&lse.download().unwrap(), &want_lse, 1e-3, &format!("lse, {what}"));
                let ranges: Vec<Range<usize>> = (0..sequence.filled.len()).map(|key| key..key + 1).collect();
                let scores = cpu::scores(&shape, &queries, &runs, &mask);
                let of_filled = cpu::mass(&shape, &scores, &want_lse, &ranges);
                let mut want = vec![0.0; n_heads * plan.n_slots()];
                for head in 0..n_heads {
                    for (key, &slot) in sequence.filled.iter().enumerate() {
                        want[head * plan.n_slots() + slot] = of_filled[head * ranges.len() + key];
                    }
                }
                check(&mass.download().unwrap(), &want, 2e-3, &format!("mass, {what}"));
            });
        }
    }

    const PLAIN: Case = Case {
        dim: 64,
        n_kv_heads: 2,
        group: 3,
        n_tokens: 45,
        mask: AttentionMask { window: None, sinks: 0 },
        segments: false,
        weights: false,
    };

    #[test]
    fn a_device_attends_from_any_rows_as_the_reference_does() {
        for_each_device(|device| {
            check_causal(device, PLAIN, 1);
            check_causal(device, Case { dim: 32, n_kv_heads: 1, group: 1, n_tokens: 140, segments: true, ..PLAIN }, 2);
            check_causal(device, Case { dim: 128, n_kv_heads: 1, group: 2, n_tokens: 3, weights: true, ..PLAIN }, 3);
            let mask = AttentionMask { window: Some(30), sinks: 4 };
            check_causal(device, Case { mask, group: 1, n_kv_heads: 1, segments: true, weights: true, ..PLAIN }, 4);
            check_causal(device, Case { n_tokens: 0, ..PLAIN }, 5);
        });
    }

    fn check_decode(device: &CudaDevice, dim: usize, n_kv_heads: usize, group: usize, n_queries: usize, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n_heads = n_kv_heads * group;
        let shape = AttentionShape { n_heads, n_kv_heads, head_dim: dim, scale: 1.0 / (dim as f32).sqrt() };
        let mask = AttentionMask { window: (seed % 2 == 1).then_some(50), sinks: 3 };
        let arena = arena(device, &mut rng, 9, n_kv_heads, dim);
        let pages: [&[u32]; 3] = [&[3], &[], &[8, 1, 0, 2, 7, 5]];
        let sequences = pages.map(|pages| Paged::new(&mut rng, pages, 100, false, false));
        let positions: Vec<u32> = (0..3 * n_queries).map(|_| rng.random_range(0..120)).collect();
        let rows = random::<F16>(&mut rng, positions.len() * n_heads * dim);
        let keys: Vec<PagedKeys> = sequences.iter().map(Paged::keys).collect();
        let mut plan = DecodePlan::new(&arena.pages, &shape, n_queries, &positions, &keys, &mask).unwrap();
        let queries = device.upload(&rows).unwrap();
        let mut out = device.filled::<F16>(0xff, rows.len()).unwrap();
        let mut lse = device.filled::<f32>(0xff, positions.len() * n_heads).unwrap();
        decode_attention(&mut plan, &queries, &arena.pages, 1, &mut out, Some(&mut lse)).unwrap();
        let (out, lse) = (out.download().unwrap(), lse.download().unwrap());
        for (i, sequence) in sequences.iter().enumerate() {
            let of = i * n_queries..(i + 1) * n_queries;
            let cells = of.start * n_heads..of.end * n_heads;
            let wide = widened(&rows[cells.start * dim..cells.end * dim]);
            let queries = QueryRows { rows: &wide, positions: &positions[of], segments: None };
            let (want, want_lse) = sequence.with_run(&arena, 1, |run| cpu::attention(&shape, &queries, &[*run], &mask));
            let what = format!("sequence {i}, heads of {dim}, {} splits", plan.n_splits);
            check(&out[cells.start * dim..cells.end * dim], &want, 4e-3, &what);
            check(&lse[cells], &want_lse, 1e-3, &what);
        }
    }

    #[test]
    fn a_device_decodes_as_the_reference_does() {
        for_each_device(|device| {
            check_decode(device, 64, 1, 3, 1, 1);
            check_decode(device, 32, 2, 4, 4, 2);
            check_decode(device, 128, 1, 1, 2, 3);
        });
    }

    #[test]
    fn what_kernels_do_not_serve_is_refused() {
        for_each_device(|device| {
            let shape = AttentionShape { n_heads: 4, n_kv_heads: 1, head_dim: 64, scale: 0.125 };
            let pages = KvPages::new(device, 1, 2, 1, 64).unwrap();
            let positions = vec![0; 64];
            let keys =
                |pages: &'static [u32]| PagedKeys { pages, positions: &positions, segments: None, log_weights: None };
            let mask = AttentionMask::default();
            let plan = |page, scale: f32, at: u32| {
                CausalPlan::new(&pages, &AttentionShape { scale, ..shape }, &[at], None, &keys(page), &mask)
            };
            assert!(plan(&[1], 0.125, 0).is_ok());
            assert!(matches!(plan(&[2], 0.125, 0), Err(Error::Row { row: 2, n_rows: 2 })));
            assert!(matches!(plan(&[1], 0.0, 0), Err(Error::NotPositive { .. })));
            assert!(matches!(plan(&[1], 0.125, EMPTY_SLOT), Err(Error::Row { .. })));
            assert!(plan(&[0, 1], 0.125, 0).is_err(), "positions of one page");
            let decode = |n_queries| {
                DecodePlan::new(&pages, &shape, n_queries, &vec![0; n_queries], &[keys(&[0])], &mask).map(|_| ())
            };
            assert_eq!(decode(4), Ok(()));
            assert!(matches!(decode(5), Err(Error::Unsupported { found: 20, .. })));
            let plan = plan(&[1], 0.125, 0).unwrap();
            let (rows, mut out) = (device.filled::<F16>(0, 256).unwrap(), device.filled::<F16>(0, 256).unwrap());
            let refused = causal_attention(&plan, &rows, &pages, 1, &mut out, None);
            assert_eq!(refused, Err(Error::Row { row: 1, n_rows: 1 }));
        });
    }

    /// Every pair of a row and a slot that the mask allows is visited, and where no mask is applied all are allowed.
    #[test]
    fn visits_miss_no_key_that_is_seen() {
        for seed in 0..200 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let n_keys = rng.random_range(1..5) * PAGE_TOKENS;
            let ordered = rng.random_range(0..2) == 0;
            let positions: Vec<u32> = (0..n_keys as u32)
                .map(|slot| match (ordered, rng.random_range(0..300)) {
                    (_, 0) => EMPTY_SLOT,
                    (true, _) => slot,
                    (false, position) => position,
                })
                .collect();
            let segments: Vec<u32> = (0..n_keys).map(|slot| (slot / 70 % 3) as u32).collect();
            let rows: Vec<u32> = (0..rng.random_range(1..300)).map(|row| row + seed as u32).collect();
            let row_segments: Vec<u32> =
                (0..rows.len()).map(|row| [1, 2, u32::MAX][(row / 140 + seed as usize) % 3]).collect();
            let mask = AttentionMask {
                window: (rng.random_range(0..2) == 0).then(|| rng.random_range(1..200)),
                sinks: rng.random_range(0..5),
            };
            let tiles: Vec<Bounds> = rows
                .chunks(TILE_ROWS)
                .zip(row_segments.chunks(TILE_ROWS))
                .map(|(positions, segments)| Bounds::of(positions, segments))
                .collect();
            let pages: Vec<Option<Bounds>> = positions
                .chunks(PAGE_TOKENS)
                .zip(segments.chunks(PAGE_TOKENS))
                .map(|(positions, segments)| Bounds::of_page(positions, segments))
                .collect();
            let weighted = seed % 5 == 0;
            let Visits { starts, visits, mut order } = Visits::new(&tiles, &pages, &mask, weighted);
            for (row, (&position, &segment)) in rows.iter().zip(&row_segments).enumerate() {
                let tile = row / TILE_ROWS;
                let visits = &visits[starts[tile] as usize..starts[tile + 1] as usize];
                assert!(visits.is_sorted());
                for (slot, (&key, &key_segment)) in positions.iter().zip(&segments).enumerate() {
                    let seen = key != EMPTY_SLOT
                        && key <= position
                        && (mask.window.is_none_or(|window| position - key < window) || key < mask.sinks)
                        && (key_segment == 0 || key_segment == segment || segment == u32::MAX);
                    match visits.iter().find(|&&visit| visit as usize / 2 == slot / PAGE_TOKENS) {
                        None => assert!(!seen, "seed {seed}, row {row}, slot {slot}"),
                        Some(visit) => {
                            assert!(seen && !weighted || visit % 2 == 1, "seed {seed}, row {row}, slot {slot}");
                        }
                    }
                }
            }
            let lengths: Vec<u32> = order.iter().map(|&t| starts[t as usize + 1] - starts[t as usize]).collect();
            assert!(lengths.is_sorted_by(|a, b| a >= b));
            order.sort_unstable();
            assert!(order.into_iter().eq(0..tiles.len() as u32));
        }
    }

    #[test]
    fn pages_before_all_rows_are_visited_without_a_mask() {
        let rows = Bounds::of(&[128, 200], &[u32::MAX]);
        let page = |positions: Range<u32>| Bounds::of_page(&positions.collect::<Vec<_>>(), &[0]);
        let pages = [page(0..64), page(64..128), page(128..192), page(256..320), None];
        let visits = Visits::new(&[rows], &pages, &AttentionMask::default(), false);
        assert_eq!(visits, Visits { starts: vec![0, 3], visits: vec![0, 2, 5], order: vec![0] });
    }

    #[test]
    fn splits_fill_the_device_and_have_a_page_at_least() {
        assert_eq!(n_splits(1, 1000, 132), 264);
        assert_eq!(n_splits(8, 1000, 132), 33);
        assert_eq!(n_splits(8, 3, 132), 3);
        assert_eq!(n_splits(1000, 1000, 132), 1);
        assert_eq!(n_splits(0, 0, 132), 1);
    }
}
