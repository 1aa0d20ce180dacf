//! Rows at any positions over the pages of one sequence.

use std::collections::HashMap;

use super::visits::{Bounds, Visits};
use super::{MODULE, by_head_dim, by_tiles, check_pages, check_queries, scale_of, shared_bytes};
use crate::attention::{AttentionMask, AttentionShape};
use crate::device::cuda::{
    Argument, Buffer, CudaDevice, F16, KvPages, Launch, PAGE_TOKENS, TILE_ROWS, check_len, count, optional,
};
use crate::rotary::cuda::{NO_TURN, RotaryTurns};
use crate::{Error, Result, RotaryEmbedding};

/// Keys and values of one sequence in pages.
#[derive(Clone, Copy, Debug)]
pub struct PagedKeys<'a> {
    /// The pages, in any order, shared with other sequences or not.
    pub pages: &'a [u32],
    /// Where each slot's token stands, [`PAGE_TOKENS`] a page, in any order; [`EMPTY_SLOT`](super::EMPTY_SLOT) where there
    /// is none.
    pub positions: &'a [u32],
    /// The segment of each slot; 0, which every query sees, when there is none.
    pub segments: Option<&'a [u32]>,
    /// What is added to the scores of each slot, in nats; 0 when there is none.
    pub log_weights: Option<&'a [f32]>,
    /// How far the keys of each page are moved on as they are read; they stand where they were computed when there is
    /// none.
    pub turns: Option<PageTurns<'a>>,
}

/// How far the keys of pages are moved on, so that sequences can share them in which they stand at different places.
#[derive(Clone, Copy, Debug)]
pub struct PageTurns<'a> {
    /// What turned the keys when they were computed.
    pub embedding: &'a RotaryEmbedding,
    /// By how many positions, one a page.
    pub by: &'a [i64],
}

/// What queries are turned by for each page: the opposite of what its keys are moved on by, which gives the same scores,
/// and of which there is less.
#[derive(Debug)]
pub(super) struct QueryTurns {
    of_pages: Buffer<u32>,
    turns: RotaryTurns,
}

impl QueryTurns {
    /// Those of some pages, `None` where there is none, in heads of `head_dim`.
    pub fn new(
        device: &CudaDevice,
        embedding: &RotaryEmbedding,
        by: impl Iterator<Item = i64>,
        head_dim: usize,
    ) -> Result<Self> {
        check_len("components of turns", 2 * embedding.frequencies().len(), head_dim)?;
        if head_dim > 128 {
            return Err(Error::Unsupported {
                what: "size of attention's heads, with keys that are turned",
                found: head_dim,
            });
        }
        let mut deltas: Vec<i64> = Vec::new();
        let mut numbers = HashMap::new();
        let mut number_of = |by: i64| match by {
            0 => NO_TURN,
            _ => *numbers.entry(by).or_insert_with(|| {
                deltas.push(-by);
                deltas.len() as u32 - 1
            }),
        };
        let of_pages: Vec<u32> = by.map(&mut number_of).collect();
        Ok(Self { of_pages: device.upload(&of_pages)?, turns: RotaryTurns::by(device, embedding, &deltas)? })
    }

    /// The kernels' arguments.
    pub fn arguments(turns: Option<&Self>) -> [Argument; 3] {
        match turns {
            Some(Self { of_pages, turns }) => [of_pages.argument(), turns.argument(), turns.neighbours()],
            None => [Argument::Address(0), Argument::Address(0), Argument::U32(0)],
        }
    }
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
    turns: Option<QueryTurns>,
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
    /// page is not in the arena or a query stands at [`EMPTY_SLOT`](super::EMPTY_SLOT); [`Error::NotPositive`] when the
    /// scale is not; [`Error::Unsupported`] when pages are turned and heads are longer than 128.
    pub fn new(
        arena: &KvPages,
        shape: &AttentionShape,
        positions: &[u32],
        segments: Option<&[u32]>,
        keys: &PagedKeys<'_>,
        mask: &AttentionMask,
    ) -> Result<Self> {
        let scale = scale_of(shape)?;
        by_head_dim([""; 4], shape.head_dim)?;
        let device = arena.keys.device();
        let group = shape.n_heads / shape.n_kv_heads;
        let n_slots = keys.pages.len() * PAGE_TOKENS;
        check_len("segments of queries", segments.map_or(positions.len(), <[u32]>::len), positions.len())?;
        check_len("positions of keys", keys.positions.len(), n_slots)?;
        check_len("segments of keys", keys.segments.map_or(n_slots, <[u32]>::len), n_slots)?;
        check_len("log_weights", keys.log_weights.map_or(n_slots, <[f32]>::len), n_slots)?;
        check_len("turns of pages", keys.turns.map_or(keys.pages.len(), |turns| turns.by.len()), keys.pages.len())?;
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
            turns: keys
                .turns
                .map(|PageTurns { embedding, by }| {
                    QueryTurns::new(device, embedding, by.iter().copied(), shape.head_dim)
                })
                .transpose()?,
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
    let names = ["causal_32", "causal_64", "causal_128", "causal_256"];
    let of_hopper = ["hopper_causal_32", "hopper_causal_64", "hopper_causal_128"];
    let (module, kernel, block) = by_tiles(queries.device(), names, of_hopper, arena.head_dim())?;
    // A block a tile of rows and head of keys; tiles with most keys first.
    let launch = Launch {
        grid: [count("tiles", plan.n_tiles)?, arena.n_kv_heads() as u32, 1],
        block,
        shared_bytes: shared_bytes(arena.head_dim()),
    };
    let [window, sinks] = plan.window();
    let [turn_of, turns, neighbours] = QueryTurns::arguments(plan.turns.as_ref());
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
        turn_of,
        turns,
        neighbours,
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
    unsafe { queries.device().launch(module, kernel, launch, &arguments) }
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
    let kernel = by_head_dim(["mass_32", "mass_64", "mass_128", "mass_256"], arena.head_dim())?;
    // A block a page and query head: it holds the keys, and rows pass by, so that no two blocks add to one number.
    let launch = Launch {
        grid: [count("pages", plan.n_slots / PAGE_TOKENS)?, n_heads as u32, 1],
        block: 128,
        shared_bytes: PAGE_TOKENS * arena.head_dim() * size_of::<F16>(),
    };
    let [window, sinks] = plan.window();
    let [turn_of, turns, neighbours] = QueryTurns::arguments(plan.turns.as_ref());
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
        turn_of,
        turns,
        neighbours,
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
