//! Few rows over many keys, which blocks share.

use super::causal::{PagedKeys, QueryTurns};
use super::{EMPTY_SLOT, MODULE, by_head_dim, check_pages, check_queries, scale_of};
use crate::attention::{AttentionMask, AttentionShape};
use crate::device::cuda::{Argument, Buffer, F16, KvPages, Launch, Mirrored, PAGE_TOKENS, check_len, count, optional};
use crate::{Error, Result};

/// Rows of a decoding step that a sequence and a head of keys can have: one tile of the matrix units.
const DECODE_ROWS: usize = 16;

/// A step of decoding for several sequences, each with pages of its own and as many query rows.
#[derive(Debug)]
pub struct DecodePlan {
    n_sequences: usize,
    n_queries: usize,
    group: usize,
    pub(super) n_splits: usize,
    most_pages: usize,
    pages_of_arena: usize,
    scale: f32,
    mask: AttentionMask,
    query_positions: Mirrored<u32>,
    pages: Mirrored<u32>,
    n_pages: Mirrored<u32>,
    positions: Mirrored<u32>,
    turns: Option<QueryTurns>,
    part_out: Buffer<f32>,
    part_lse: Buffer<f32>,
}

impl DecodePlan {
    /// A plan for `n_queries` rows a sequence, at `positions`, `[n_sequences, n_queries]`, over each one's keys.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit, or keys have segments or weights; [`Error::Unsupported`] when the
    /// rows of a head of keys, `n_queries · n_heads / n_kv_heads`, are more than 16, or pages are turned and heads are
    /// longer than 128; [`Error::Row`] when a page is not in
    /// the arena; [`Error::NotPositive`] when the scale is not.
    pub fn new(
        arena: &KvPages,
        shape: &AttentionShape,
        n_queries: usize,
        positions: &[u32],
        keys: &[PagedKeys<'_>],
        mask: &AttentionMask,
    ) -> Result<Self> {
        let most_pages = keys.iter().map(|keys| keys.pages.len()).max().unwrap_or(0);
        let mut plan = Self::with_room(arena, shape, n_queries, keys.len(), most_pages, mask)?;
        plan.put(arena, positions, keys)?;
        let embedding = keys.iter().find_map(|keys| keys.turns).map(|turns| turns.embedding);
        let turns = embedding.map(|embedding| {
            let by = |page: usize| {
                let keys: &PagedKeys<'_> = &keys[page / most_pages];
                keys.turns.and_then(|turns| turns.by.get(page % most_pages).copied()).unwrap_or(0)
            };
            QueryTurns::new(arena.keys.device(), embedding, (0..keys.len() * most_pages).map(by), shape.head_dim)
        });
        plan.turns = turns.transpose()?;
        Ok(plan)
    }

    /// A plan for up to `most_pages` pages a sequence, which sees no key until it is [`set`](Self::set).
    ///
    /// Its launches depend on these numbers alone: once recorded they serve whatever is set.
    ///
    /// # Errors
    ///
    /// As [`DecodePlan::new`].
    pub fn with_room(
        arena: &KvPages,
        shape: &AttentionShape,
        n_queries: usize,
        n_sequences: usize,
        most_pages: usize,
        mask: &AttentionMask,
    ) -> Result<Self> {
        let scale = scale_of(shape)?;
        let device = arena.keys.device();
        let group = shape.n_heads / shape.n_kv_heads;
        let n_rows = n_queries * group;
        if n_rows > DECODE_ROWS {
            return Err(Error::Unsupported { what: "number of rows of a decoding step", found: n_rows });
        }
        let n_blocks = n_sequences * arena.n_kv_heads();
        let n_splits = n_splits(n_blocks, most_pages, device.limits().n_multiprocessors as usize);
        let n_parts = n_blocks * n_splits * DECODE_ROWS;
        let n_slots = n_sequences * most_pages * PAGE_TOKENS;
        Ok(Self {
            n_sequences,
            n_queries,
            group,
            n_splits,
            most_pages,
            pages_of_arena: arena.n_pages(),
            scale,
            mask: *mask,
            query_positions: Mirrored::new(device, vec![0; n_sequences * n_queries])?,
            pages: Mirrored::new(device, vec![0; n_sequences * most_pages])?,
            n_pages: Mirrored::new(device, vec![0; n_sequences])?,
            positions: Mirrored::new(device, vec![EMPTY_SLOT; n_slots])?,
            turns: None,
            part_out: device.filled(0, n_parts * arena.head_dim())?,
            part_lse: device.filled(0, n_parts)?,
        })
    }

    /// Lets the rows be at `positions`, `[n_sequences, n_queries]`, and see these keys, as many sequences' as before. Only
    /// what changed is uploaded.
    ///
    /// # Errors
    ///
    /// As [`DecodePlan::new`]; [`Error::Shape`] when a sequence has more pages than there is room for, or pages are turned.
    /// The plan is as it was then.
    pub fn set(&mut self, arena: &KvPages, positions: &[u32], keys: &[PagedKeys<'_>]) -> Result<()> {
        let is_turned = self.turns.is_some() || keys.iter().any(|keys| keys.turns.is_some());
        check_len("turns of pages", usize::from(is_turned), 0)?;
        self.put(arena, positions, keys)
    }

    fn put(&mut self, arena: &KvPages, positions: &[u32], keys: &[PagedKeys<'_>]) -> Result<()> {
        check_len("sequences", keys.len(), self.n_sequences)?;
        check_len("positions of queries", positions.len(), self.query_positions.len())?;
        check_queries(positions)?;
        check_len("pages of the arena", arena.n_pages(), self.pages_of_arena)?;
        for keys in keys {
            check_pages(keys.pages, arena)?;
            check_len("pages of keys", keys.pages.len().max(self.most_pages), self.most_pages)?;
            check_len("positions of keys", keys.positions.len(), keys.pages.len() * PAGE_TOKENS)?;
            check_len("segments of keys", keys.segments.map_or(0, <[u32]>::len), 0)?;
            check_len("log_weights", keys.log_weights.map_or(0, <[f32]>::len), 0)?;
            check_len("turns of pages", keys.turns.map_or(keys.pages.len(), |turns| turns.by.len()), keys.pages.len())?;
        }
        for (i, keys) in keys.iter().enumerate() {
            self.pages.set(i * self.most_pages, keys.pages)?;
            self.positions.set(i * self.most_pages * PAGE_TOKENS, keys.positions)?;
        }
        let counts: Vec<u32> = keys.iter().map(|keys| keys.pages.len() as u32).collect();
        self.n_pages.set(0, &counts)?;
        self.query_positions.set(0, positions)
    }
}

/// Blocks that share the keys of a sequence and head: enough for two on each multiprocessor, but each with a page at
/// least.
pub(super) fn n_splits(n_blocks: usize, most_pages: usize, n_multiprocessors: usize) -> usize {
    (2 * n_multiprocessors).div_ceil(n_blocks.max(1)).clamp(1, most_pages.max(1))
}

/// Attends from the rows of a decoding step, `[n_sequences · n_queries, n_heads · head_dim]`, each over its sequence's
/// keys in one layer's pages.
///
/// As [`causal_attention`](super::causal_attention), but the keys are shared out among blocks, so that few rows keep a
/// device busy. The grid depends on the plan alone, so that the launches can be recorded.
///
/// # Errors
///
/// As [`causal_attention`](super::causal_attention).
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
    let kernel = by_head_dim(["decode_32", "decode_64", "decode_128", "decode_256"], dim)?;
    let at = layer * arena.layer_len();
    let [turn_of, turns, neighbours] = QueryTurns::arguments(plan.turns.as_ref());
    // As the kernel has them.
    let (n_warps, n_keys) = (if dim > 128 { 2 } else { 4 }, if dim > 64 { 16 } else { 32 });
    let launch = Launch {
        grid: [plan.n_splits as u32, n_kv_heads as u32, count("sequences", plan.n_sequences)?],
        block: 32 * n_warps as u32,
        // Each warp has two tiles of keys and two of values.
        shared_bytes: (n_warps * 4 * n_keys + DECODE_ROWS) * dim * size_of::<F16>(),
    };
    let arguments = [
        queries.argument(),
        plan.query_positions.there().argument(),
        Argument::U32(plan.n_queries as u32),
        arena.keys.argument_at(at),
        arena.values.argument_at(at),
        plan.pages.there().argument(),
        plan.n_pages.there().argument(),
        Argument::U32(plan.most_pages as u32),
        plan.positions.there().argument(),
        turn_of,
        turns,
        neighbours,
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
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::device::cuda::{CudaDevice, Real};

    #[test]
    fn a_plan_that_is_set_again_sees_what_a_fresh_one_sees() {
        let shape = AttentionShape { n_heads: 4, n_kv_heads: 2, head_dim: 32, scale: 0.2 };
        let mask = AttentionMask { window: Some(90), sinks: 2 };
        if let Some(device) = &CudaDevice::to_test() {
            let mut rng = ChaCha8Rng::seed_from_u64(5);
            let mut random =
                |n: usize| -> Vec<F16> { (0..n).map(|_| F16::from_f32(rng.random_range(-1.0..1.0))).collect() };
            let mut arena = KvPages::new(device, 1, 6, 2, 32).unwrap();
            let numbers = random(arena.keys.len());
            arena.keys.write(0, &numbers).unwrap();
            let numbers = random(arena.values.len());
            arena.values.write(0, &numbers).unwrap();
            let queries = device.upload(&random(2 * 4 * 32)).unwrap();
            let slots: Vec<u32> =
                (0..4 * PAGE_TOKENS as u32).map(|slot| if slot < 200 { slot } else { EMPTY_SLOT }).collect();
            let keys = |pages: &'static [u32], first: usize| PagedKeys {
                pages,
                positions: &slots[first..first + pages.len() * PAGE_TOKENS],
                segments: None,
                log_weights: None,
                turns: None,
            };
            let attend = |plan: &mut DecodePlan| {
                let mut out = device.filled::<F16>(0xff, queries.len()).unwrap();
                decode_attention(plan, &queries, &arena, 0, &mut out, None).unwrap();
                out.download().unwrap()
            };
            let plan = || DecodePlan::with_room(&arena, &shape, 1, 2, 4, &mask).unwrap();
            let mut again = plan();
            assert!(attend(&mut again).iter().all(|x| x.to_f32() == 0.0), "nothing is seen yet");
            for (positions, keys) in [
                ([180, 63], [keys(&[5, 0, 2], 0), keys(&[1], 0)]),
                ([70, 199], [keys(&[3], 64), keys(&[4, 1, 0, 2], 0)]),
                ([70, 199], [keys(&[], 0), keys(&[4, 1, 0, 5], 0)]),
            ] {
                let mut fresh = plan();
                for plan in [&mut again, &mut fresh] {
                    plan.set(&arena, &positions, &keys).unwrap();
                }
                assert_eq!(attend(&mut again), attend(&mut fresh));
            }
            let before = attend(&mut again);
            let five = [0; 5 * PAGE_TOKENS];
            let too_many =
                PagedKeys { pages: &[0, 1, 2, 3, 4], positions: &five, segments: None, log_weights: None, turns: None };
            assert!(again.set(&arena, &[0, 0], &[too_many, keys(&[], 0)]).is_err(), "no room");
            assert!(again.set(&arena, &[0], &[keys(&[0], 0)]).is_err(), "fewer texts");
            assert!(again.set(&arena, &[0, 0], &[keys(&[1], 0), keys(&[6], 0)]).is_err(), "no such page");
            assert_eq!(attend(&mut again), before);
        }
    }
}
