//! Which rows attend to which pages.

use std::ops::Range;

use raglan_kernels::cuda::{
    Buffer, CausalPlan, DecodePlan, EMPTY_SLOT, F16, KvPages, PAGE_TOKENS, PagedKeys, causal_attention,
    decode_attention,
};
use raglan_kernels::{AttentionMask, Result as KernelResult};

use crate::decoder::ForwardSequence;
use crate::{DecoderConfig, Result};

/// Rows of a text up to which they attend one by one, all keys shared out among blocks.
const FEW_QUERIES: usize = 8;
/// Rows of a head of keys that a step of decoding has at most.
const DECODE_ROWS: usize = 16;
/// Which rows see which pages, by what their layers see at most.
#[derive(Debug)]
pub(super) struct Attention {
    of_windows: Vec<(Option<u32>, Vec<Group>)>,
}

/// Rows that attend in one launch.
#[derive(Debug)]
struct Group {
    rows: Range<usize>,
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    Few(DecodePlan),
    Many(CausalPlan),
}

/// Rows of one text that see the same keys.
pub(super) struct Seeing<'a> {
    rows: Range<usize>,
    positions: &'a [u32],
    segments: Option<&'a [u32]>,
    pub mask: AttentionMask,
    pub pages: Vec<u32>,
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

    /// Whether they attend one by one.
    pub fn are_few(&self, config: &DecoderConfig) -> bool {
        let no_segments = self.segments.is_none() && self.key_segments.is_none();
        self.rows.len() <= FEW_QUERIES && config.n_heads / config.n_kv_heads <= DECODE_ROWS && no_segments
    }
}

/// The rows of all sequences, in order, those of each view by themselves.
pub(super) fn seeing<'a>(sequences: &'a [ForwardSequence<'_>]) -> Vec<Seeing<'a>> {
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
    pub fn new(config: &DecoderConfig, seeing: &[Seeing<'_>], pages: &KvPages) -> Result<Self> {
        Self::of_windows(config, |layer| groups(config, layer, seeing, pages))
    }

    /// For `n_rows` rows that attend one by one, under one mask, each in up to `n_pages` pages. They see nothing until that
    /// is [`set`](Self::set).
    pub fn one_by_one(
        config: &DecoderConfig,
        n_rows: usize,
        n_pages: usize,
        mask: AttentionMask,
        pages: &KvPages,
    ) -> Result<Self> {
        Self::of_windows(config, |layer| {
            let (shape, mask) = (config.attention_shape(), config.mask(layer, mask));
            let plan = DecodePlan::with_room(pages, &shape, 1, n_rows, n_pages, &mask)?;
            Ok(vec![Group { rows: 0..n_rows, plan: Plan::Few(plan) }])
        })
    }

    fn of_windows(config: &DecoderConfig, mut groups: impl FnMut(usize) -> Result<Vec<Group>>) -> Result<Self> {
        let mut of_windows: Vec<(Option<u32>, Vec<Group>)> = Vec::new();
        for (layer, &window) in config.windows.iter().enumerate() {
            if !of_windows.iter().any(|(other, _)| *other == window) {
                of_windows.push((window, groups(layer)?));
            }
        }
        Ok(Self { of_windows })
    }

    /// Lets as many rows [one by one](Self::one_by_one) see other keys.
    pub fn set(&mut self, seeing: &[Seeing<'_>], pages: &KvPages) -> Result<()> {
        let (positions, keys) = one_by_one(seeing);
        for Group { plan, .. } in self.of_windows.iter_mut().flat_map(|(_, groups)| groups) {
            if let Plan::Few(plan) = plan {
                plan.set(pages, &positions, &keys)?;
            }
        }
        Ok(())
    }

    /// What rows get in a layer into `mixed`, `[n_rows, n_heads · head_dim]` as `queries`.
    pub fn attend(
        &mut self,
        config: &DecoderConfig,
        layer: usize,
        queries: &Buffer<F16>,
        pages: &KvPages,
        mixed: &mut Buffer<F16>,
    ) -> KernelResult<()> {
        let groups = self.of_windows.iter_mut().find(|(window, _)| *window == config.windows[layer]);
        let (_, groups) = groups.expect("each layer's window has its plans");
        if let [only] = &mut **groups {
            return only.plan.attend(queries, pages, layer, mixed);
        }
        let device = queries.device();
        let width = config.n_heads * config.head_dim;
        for Group { rows, plan } in groups {
            let (mut own, mut got) = (device.filled(0, rows.len() * width)?, device.filled(0, rows.len() * width)?);
            own.copy_range(0, queries, rows.start * width..rows.end * width)?;
            plan.attend(&own, pages, layer, &mut got)?;
            mixed.copy_range(rows.start * width, &got, 0..rows.len() * width)?;
        }
        Ok(())
    }
}

/// Where rows stand and what each sees: to the kernel for few rows each is a text of its own.
fn one_by_one<'a>(seeing: &'a [Seeing<'_>]) -> (Vec<u32>, Vec<PagedKeys<'a>>) {
    let positions = seeing.iter().flat_map(|seeing| seeing.positions).copied().collect();
    (positions, seeing.iter().flat_map(|seeing| seeing.rows.clone().map(|_| seeing.keys())).collect())
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
            let (positions, keys) = one_by_one(together);
            Plan::Few(DecodePlan::new(pages, &shape, 1, &positions, &keys, &mask)?)
        } else {
            Plan::Many(CausalPlan::new(pages, &shape, first.positions, first.segments, &first.keys(), &mask)?)
        };
        groups.push(Group { rows: first.rows.start..last.rows.end, plan });
    }
    Ok(groups)
}

impl Plan {
    fn attend(
        &mut self,
        queries: &Buffer<F16>,
        pages: &KvPages,
        layer: usize,
        out: &mut Buffer<F16>,
    ) -> KernelResult<()> {
        match self {
            Self::Few(plan) => decode_attention(plan, queries, pages, layer, out, None),
            Self::Many(plan) => causal_attention(plan, queries, pages, layer, out, None),
        }
    }
}
