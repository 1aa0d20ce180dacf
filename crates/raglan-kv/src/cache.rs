//! Keys and values of the tokens that models have read, in pages that sequences share.
//!
//! A [`KvCache`] is one sequence: a list of pages of [`KV_PAGE`] tokens. A clone shares them; whoever writes to a shared
//! page first gets a copy of it. Pages come from a [`KvArena`], which has a budget and takes back what nobody holds.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "cuda")]
use raglan_kernels::cuda::{KvPages, PAGE_TOKENS, Real, copy_slots};
use raglan_kernels::{KvRun, KvSlice, to_f16};

#[cfg(feature = "cuda")]
use crate::upload::Uploads;
use crate::{Error, KvShape, Result};

/// Tokens of a page: half a block of the attention's keys, so that a text wastes little and a shared page is soon copied.
pub const KV_PAGE: usize = 64;
#[cfg(feature = "cuda")]
const _: () = assert!(KV_PAGE == PAGE_TOKENS);

/// How exactly keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvPrecision {
    /// In single precision.
    F32,
    /// In half precision.
    F16,
}

/// Where the pages of all sequences of one model come from.
///
/// Clones are handles of one arena.
#[derive(Clone)]
pub struct KvArena(Arc<Arena>);

struct Arena {
    shape: KvShape,
    /// Numbers of a token's keys in a layer, and as many of its values.
    dim: usize,
    precision: KvPrecision,
    /// In bytes.
    budget: AtomicUsize,
    pool: Mutex<Pool>,
    /// Where the numbers are, if that is a device.
    #[cfg(feature = "cuda")]
    device: Option<DevicePages>,
}

/// An arena on a device. Its pages are all in the pool.
#[cfg(feature = "cuda")]
pub(crate) struct DevicePages {
    pages: Mutex<KvPages>,
    n_pages: usize,
    /// Whoever holds it may take the pages, but not the other way round.
    uploads: Mutex<Uploads>,
}

#[cfg(feature = "cuda")]
impl DevicePages {
    pub(crate) fn pages(&self) -> MutexGuard<'_, KvPages> {
        // What a panic leaves half written no cache reads: it names what was written.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn uploads(&self) -> MutexGuard<'_, Uploads> {
        // Only whole blocks are listed.
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Pool {
    free: Vec<Numbers>,
    n_taken: usize,
}

/// `[n_layers, 2, KV_PAGE, dim]`: a layer's keys lie together, and its values.
#[derive(Clone)]
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<u16>),
    /// The number of a page on a device.
    #[cfg(feature = "cuda")]
    Device(u32),
}

/// What the processor must not reach: a model on a device refuses what would.
#[cfg(feature = "cuda")]
const ELSEWHERE: &str = "the processor does not read pages that are on a device";

/// Room for [`KV_PAGE`] tokens, which goes back to its arena in the end.
struct Page {
    numbers: Numbers,
    arena: KvArena,
}

/// Pages that were taken for slots that will be written.
pub struct ReservedPages(Vec<(usize, Page)>);

/// The keys and values of one sequence, all layers, a slot for each token.
///
/// A clone costs a few bytes a token: keys and values are shared until one of the two writes over them. Tokens that
/// are forgotten give their pages back.
///
/// Invariant: there are as many pages as positions need, and as many segments as positions, if any.
#[derive(Clone)]
pub struct KvCache {
    arena: KvArena,
    pages: Vec<Arc<Page>>,
    positions: Vec<u32>,
    /// Segments of the tokens, once one was given.
    segments: Option<Vec<u32>>,
    parallel: Option<ParallelContext>,
}

/// Slots of texts that were read side by side, at the same positions, and how attention to them is weighed (Yang et
/// al. 2025, APE): scores are divided by the temperature `T`, and the weight of these slots against the others becomes
/// `(Σ exp(score / T))^(scale · T)`.
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelContext {
    /// The slots, in order.
    pub slots: Range<usize>,
    /// Divides scores.
    pub temperature: f32,
    /// With the temperature, the exponent of the weight.
    pub scale: f32,
}

impl KvArena {
    /// Room for the keys and values of models of this shape.
    pub fn new(shape: KvShape, precision: KvPrecision) -> Self {
        let budget = AtomicUsize::new(usize::MAX);
        Self(Arc::new(Arena {
            shape,
            dim: shape.dim(),
            precision,
            budget,
            pool: Mutex::default(),
            #[cfg(feature = "cuda")]
            device: None,
        }))
    }

    /// Room on a device, in half precision: that of `pages`, of which nothing is taken yet.
    #[cfg(feature = "cuda")]
    pub fn on_device(pages: KvPages) -> Self {
        let shape = KvShape { n_layers: pages.n_layers(), n_kv_heads: pages.n_kv_heads(), head_dim: pages.head_dim() };
        let n_pages = pages.n_pages();
        // The lowest goes first.
        let free = (0..n_pages as u32).rev().map(Numbers::Device).collect();
        let arena = Self(Arc::new(Arena {
            shape,
            dim: shape.dim(),
            precision: KvPrecision::F16,
            budget: AtomicUsize::new(0),
            pool: Mutex::new(Pool { free, n_taken: 0 }),
            device: Some(DevicePages { pages: Mutex::new(pages), n_pages, uploads: Mutex::default() }),
        }));
        arena.set_budget(n_pages * arena.page_bytes());
        arena
    }

    /// Whether its caches are on a device.
    pub fn is_on_device(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.0.device.is_some();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// The pages on the device, if they are there. No cache of this arena can grow, or be cut and grow, meanwhile.
    #[cfg(feature = "cuda")]
    pub fn device_pages(&self) -> Option<MutexGuard<'_, KvPages>> {
        self.on_its_device().map(DevicePages::pages)
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn on_its_device(&self) -> Option<&DevicePages> {
        self.0.device.as_ref()
    }

    /// An empty cache, whose pages will come from here.
    pub fn cache(&self) -> KvCache {
        KvCache { arena: self.clone(), pages: Vec::new(), positions: Vec::new(), segments: None, parallel: None }
    }

    /// How exactly its caches keep numbers.
    pub fn precision(&self) -> KvPrecision {
        self.0.precision
    }

    /// Bytes that pages may take in all; there is no limit until one is set.
    pub fn budget(&self) -> usize {
        self.0.budget.load(Ordering::Relaxed)
    }

    /// Sets what pages may take in all. What is taken already stays so.
    pub fn set_budget(&self, n_bytes: usize) {
        self.0.budget.store(n_bytes, Ordering::Relaxed);
        let mut pool = self.pool();
        if !self.is_on_device() {
            let n_free = self.n_pages().saturating_sub(pool.n_taken);
            pool.free.truncate(n_free);
        }
    }

    /// Bytes of the pages that caches hold; a shared one counts once.
    pub fn n_bytes_taken(&self) -> usize {
        self.pool().n_taken * self.page_bytes()
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        let size = match self.0.precision {
            KvPrecision::F32 => size_of::<f32>(),
            KvPrecision::F16 => size_of::<u16>(),
        };
        self.page_len() * size
    }

    /// Sets what blocks may take on a device, where they stay as they were computed beside the pages that they are turned
    /// into: nothing until that is set. Without a device there is nothing to set.
    #[cfg(feature = "cuda")]
    pub fn set_block_budget(&self, n_bytes: usize) {
        if let Some(device) = self.on_its_device() {
            device.uploads().blocks.set_budget(n_bytes);
        }
    }

    /// What was set so.
    #[cfg(feature = "cuda")]
    pub fn block_budget(&self) -> usize {
        self.on_its_device().map_or(0, |device| device.uploads().blocks.budget())
    }

    /// Bytes of the blocks that stay on a device.
    #[cfg(feature = "cuda")]
    pub fn n_block_bytes(&self) -> usize {
        self.on_its_device().map_or(0, |device| device.uploads().blocks.n_bytes())
    }

    /// How many more pages there are.
    pub fn n_pages_left(&self) -> usize {
        self.n_pages().saturating_sub(self.pool().n_taken)
    }

    /// How many pages the budget is good for.
    fn n_pages(&self) -> usize {
        let n_pages = self.budget() / self.page_bytes().max(1);
        #[cfg(feature = "cuda")]
        let n_pages = self.0.device.as_ref().map_or(n_pages, |device| n_pages.min(device.n_pages));
        n_pages
    }

    fn page_len(&self) -> usize {
        self.0.shape.n_layers * 2 * KV_PAGE * self.0.dim
    }

    /// Where a layer's keys begin in a page; its values follow them.
    fn layer_start(&self, layer: usize) -> usize {
        layer * 2 * KV_PAGE * self.0.dim
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // No panic can leave a list and a count half changed.
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes pages, all or none.
    fn take(&self, n_pages: usize) -> Result<Vec<Page>> {
        let mut pool = self.pool();
        let left = self.n_pages().saturating_sub(pool.n_taken);
        if n_pages > left {
            let bytes = self.page_bytes();
            return Err(Error::ArenaSpent { needed: n_pages * bytes, left: left * bytes, budget: self.budget() });
        }
        pool.n_taken += n_pages;
        let n_kept = pool.free.len().saturating_sub(n_pages);
        let recycled = pool.free.split_off(n_kept);
        drop(pool);
        let fresh = std::iter::repeat_with(|| match self.0.precision {
            KvPrecision::F32 => Numbers::F32(vec![0.0; self.page_len()]),
            KvPrecision::F16 => Numbers::F16(vec![0; self.page_len()]),
        });
        let numbers = recycled.into_iter().chain(fresh).take(n_pages);
        Ok(numbers.map(|numbers| Page { numbers, arena: self.clone() }).collect())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let numbers = std::mem::replace(&mut self.numbers, Numbers::F32(Vec::new()));
        let n_pages = self.arena.n_pages();
        let mut pool = self.arena.pool();
        pool.n_taken -= 1;
        if self.arena.is_on_device() || pool.n_taken + pool.free.len() < n_pages {
            pool.free.push(numbers);
        }
    }
}

impl KvCache {
    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Where the tokens stand, slot by slot.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The segments of the tokens, slot by slot, once one was given.
    pub fn segments(&self) -> Option<&[u32]> {
        self.segments.as_deref()
    }

    /// Whether keys and values are on a device.
    pub fn is_on_device(&self) -> bool {
        self.arena.is_on_device()
    }

    /// The pages, in order, of a cache that is on a device.
    #[cfg(feature = "cuda")]
    pub fn pages_on_device(&self) -> Option<Vec<u32>> {
        let number = |page: &Arc<Page>| match page.numbers {
            Numbers::Device(number) => Some(number),
            _ => None,
        };
        self.arena.is_on_device().then(|| self.pages.iter().filter_map(number).collect())
    }

    /// Where its pages come from.
    #[cfg(feature = "cuda")]
    pub(crate) fn arena(&self) -> &KvArena {
        &self.arena
    }

    /// The number that a device's arena has for a slot.
    #[cfg(feature = "cuda")]
    pub(crate) fn device_slot(&self, slot: usize) -> u32 {
        self.pages[slot / KV_PAGE].numbers.device_slot(slot % KV_PAGE)
    }

    /// Appends the keys and the values of slots that are on a device, token by token.
    #[cfg(feature = "cuda")]
    pub(crate) fn download(&self, layer: usize, slots: Range<usize>, mut to: [&mut Vec<f32>; 2]) -> Result<()> {
        let pages = self.arena.device_pages().expect("the cache is on a device");
        let (n_kv_heads, head_dim) = (pages.n_kv_heads(), pages.head_dim());
        let mut halves = [Vec::new(), Vec::new()];
        for slot in slots.clone() {
            if slot == slots.start || slot % KV_PAGE == 0 {
                halves = pages.download(layer, self.device_slot(slot) as usize / KV_PAGE)?;
            }
            for (to, half) in to.iter_mut().zip(&halves) {
                for head in 0..n_kv_heads {
                    let start = (head * KV_PAGE + slot % KV_PAGE) * head_dim;
                    to.extend(half[start..start + head_dim].iter().map(|x| x.to_f32()));
                }
            }
        }
        Ok(())
    }

    /// Where the token behind all that are there stands.
    pub fn next_position(&self) -> u32 {
        self.positions.iter().max().map_or(0, |&last| last + 1)
    }

    /// The slots whose attention is weighed apart, if any.
    pub fn parallel(&self) -> Option<&ParallelContext> {
        self.parallel.as_ref()
    }

    /// Lets attention to some slots be weighed apart from now on. Rows that are read later see all of them, whatever
    /// the positions.
    pub fn set_parallel(&mut self, parallel: ParallelContext) {
        self.parallel = Some(parallel);
    }

    /// Memory of the pages of keys and values, shared ones included.
    pub fn n_bytes(&self) -> usize {
        self.pages.len() * self.arena.page_bytes()
    }

    /// Leaves room behind what is there for tokens that will be computed later, the first of them at `position`.
    ///
    /// # Errors
    ///
    /// [`Error::ArenaSpent`] when the cache cannot grow; it is as it was then.
    pub fn leave(&mut self, n_tokens: usize, position: u32) -> Result<()> {
        let slots: Vec<usize> = (self.len()..self.len() + n_tokens).collect();
        let positions: Vec<u32> = (position..).take(n_tokens).collect();
        let pages = self.reserve(&slots)?;
        self.place(pages, &slots, &positions, None);
        Ok(())
    }

    /// Forgets all but the first `n_tokens` slots.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.positions.truncate(n_tokens);
        if let Some(segments) = &mut self.segments {
            segments.truncate(n_tokens);
        }
        self.pages.truncate(self.len().div_ceil(KV_PAGE));
    }

    /// Keeps the first `n_tokens` slots and behind them, in order, those that `slots` names; forgets the others.
    ///
    /// # Errors
    ///
    /// [`Error::Slots`] when `slots` do not ascend, or one is not behind the first `n_tokens` or not there;
    /// [`Error::ArenaSpent`] when a shared page would have to be copied and cannot be. The cache is as it was then.
    pub fn keep(&mut self, n_tokens: usize, slots: &[usize]) -> Result<()> {
        let ascend = slots.windows(2).all(|pair| pair[0] < pair[1]);
        let there =
            slots.first().is_none_or(|&first| first >= n_tokens) && slots.last().is_none_or(|&l| l < self.len());
        if !ascend || !there || n_tokens > self.len() {
            return Err(Error::Slots { problem: "slots to keep do not ascend or are not there" });
        }
        let moved: Vec<(usize, usize)> =
            (n_tokens..).zip(slots.iter().copied()).filter(|(to, from)| to < from).collect();
        let written: Vec<usize> = moved.iter().map(|&(to, _)| to).collect();
        let fresh = self.reserve(&written)?;
        self.install(fresh);
        #[cfg(feature = "cuda")]
        self.move_on_device(&moved)?;
        for (to, from) in moved {
            self.move_slot(from, to);
        }
        self.truncate(n_tokens + slots.len());
        Ok(())
    }

    fn move_slot(&mut self, from: usize, to: usize) {
        self.positions[to] = self.positions[from];
        if let Some(segments) = &mut self.segments {
            segments[to] = segments[from];
        }
        if self.arena.is_on_device() {
            return; // All were moved at once.
        }
        let dim = self.arena.0.dim;
        let token = self.pages[from / KV_PAGE].numbers.token(from % KV_PAGE, dim);
        self.own_page(to / KV_PAGE).numbers.set_token(to % KV_PAGE, dim, &token);
    }

    /// Copies keys and values of slots to others, `(to, from)`, where they are on a device.
    #[cfg(feature = "cuda")]
    fn move_on_device(&self, moved: &[(usize, usize)]) -> Result<()> {
        let Some(mut pages) = self.arena.device_pages().filter(|_| !moved.is_empty()) else { return Ok(()) };
        let pairs: Vec<(u32, u32)> =
            moved.iter().map(|&(to, from)| (self.device_slot(from), self.device_slot(to))).collect();
        Ok(copy_slots(&mut pages, &pairs)?)
    }

    /// The pages that must be taken before these slots can be written: new ones, and copies of those that are shared.
    ///
    /// Clones that write to a page they share reserve a copy each, although the last of them could keep the page: which
    /// one is the last is not known before all have reserved. That page goes back when the copies are in place.
    ///
    /// # Errors
    ///
    /// [`Error::ArenaSpent`] when there are not so many; [`Error::Kernel`] when a device does not copy what is shared.
    pub fn reserve(&self, slots: &[usize]) -> Result<ReservedPages> {
        let missing = self.missing(slots);
        let pages = self.arena.take(missing.len())?;
        #[cfg(feature = "cuda")]
        self.copy_on_device(&missing, &pages)?;
        Ok(ReservedPages(missing.into_iter().zip(pages).collect()))
    }

    /// Gives pages that stand in for shared ones what those have, where they are on a device: there it can fail, which
    /// the installing of pages must not.
    #[cfg(feature = "cuda")]
    fn copy_on_device(&self, at: &[usize], to: &[Page]) -> Result<()> {
        let Some(mut pages) = self.arena.device_pages() else { return Ok(()) };
        let shared = at.iter().zip(to).filter_map(|(&at, to)| Some((&self.pages.get(at)?.numbers, &to.numbers)));
        let pairs: Vec<(u32, u32)> = shared
            .flat_map(|(from, to)| (0..KV_PAGE).map(|slot| (from.device_slot(slot), to.device_slot(slot))))
            .collect();
        if pairs.is_empty() { Ok(()) } else { Ok(copy_slots(&mut pages, &pairs)?) }
    }

    /// How many pages writing `n_tokens` behind the last would take from the arena, a copy of a shared one included.
    pub fn n_pages_to_append(&self, n_tokens: usize) -> usize {
        let slots: Vec<usize> = (self.len()..self.len() + n_tokens).collect();
        self.missing(&slots).len()
    }

    /// Indices, ascending, of the pages of `slots` that are not there or not this cache's alone.
    fn missing(&self, slots: &[usize]) -> Vec<usize> {
        let mut touched: Vec<usize> = slots.iter().map(|slot| slot / KV_PAGE).collect();
        touched.sort_unstable();
        touched.dedup();
        touched.retain(|&page| self.pages.get(page).is_none_or(|page| Arc::strong_count(page) > 1));
        touched
    }

    /// Puts reserved pages in their places, with what stood there.
    fn install(&mut self, reserved: ReservedPages) {
        for (at, mut page) in reserved.0 {
            match self.pages.get_mut(at) {
                Some(shared) => {
                    page.numbers.copy_from(&shared.numbers);
                    *shared = Arc::new(page);
                }
                None => self.pages.push(Arc::new(page)),
            }
        }
    }

    /// Makes room for tokens whose keys and values come layer by layer, with the pages that were reserved for `slots`.
    pub fn place(&mut self, reserved: ReservedPages, slots: &[usize], positions: &[u32], segments: Option<&[u32]>) {
        self.install(reserved);
        let len = slots.iter().fold(self.len(), |len, slot| len.max(slot + 1));
        self.positions.resize(len, 0);
        for (&slot, &position) in slots.iter().zip(positions) {
            self.positions[slot] = position;
        }
        if let Some(all) = &mut self.segments {
            all.resize(len, 0);
        } else if segments.is_some() {
            self.segments = Some(vec![0; len]);
        }
        if let Some(all) = &mut self.segments {
            for (i, &slot) in slots.iter().enumerate() {
                all[slot] = segments.map_or(0, |segments| segments[i]);
            }
        }
    }

    /// Stores a token's keys, which are rotated to its position, and values in one layer.
    ///
    /// # Panics
    ///
    /// When the slot's page is not this cache's own: pages are reserved and placed before they are written.
    pub fn write(&mut self, layer: usize, slot: usize, key: &[f32], value: &[f32]) {
        let dim = self.arena.0.dim;
        let start = self.arena.layer_start(layer) + slot % KV_PAGE * dim;
        let (keys, values) = (start..start + dim, start + KV_PAGE * dim..start + (KV_PAGE + 1) * dim);
        match &mut self.own_page(slot / KV_PAGE).numbers {
            Numbers::F32(numbers) => {
                numbers[keys].copy_from_slice(key);
                numbers[values].copy_from_slice(value);
            }
            Numbers::F16(numbers) => {
                round(key, &mut numbers[keys]);
                round(value, &mut numbers[values]);
            }
            #[cfg(feature = "cuda")]
            Numbers::Device(_) => unreachable!("{ELSEWHERE}"),
        }
    }

    fn own_page(&mut self, at: usize) -> &mut Page {
        Arc::get_mut(&mut self.pages[at]).expect("pages that are written were reserved, and so are not shared")
    }

    /// The values of some slots in a layer: `[n_slots, dim]`.
    pub fn values(&self, layer: usize, slots: &[usize]) -> Vec<f32> {
        let dim = self.arena.0.dim;
        let mut values = vec![0.0; slots.len() * dim];
        for (&slot, values) in slots.iter().zip(values.chunks_exact_mut(dim.max(1))) {
            for run in self.runs(layer, slot..slot + 1) {
                run.values.read(0..dim, values).expect("a token's values are as long");
            }
        }
        values
    }

    /// What attention reads of one layer in the slots of a range, page by page.
    pub fn runs(&self, layer: usize, slots: Range<usize>) -> impl Iterator<Item = KvRun<'_>> {
        let dim = self.arena.0.dim;
        let start = self.arena.layer_start(layer);
        let pages = slots.start / KV_PAGE..slots.end.div_ceil(KV_PAGE);
        pages.map(move |page| {
            let here = slots.start.max(page * KV_PAGE)..slots.end.min((page + 1) * KV_PAGE);
            let keys = start + (here.start - page * KV_PAGE) * dim..start + (here.end - page * KV_PAGE) * dim;
            let values = keys.start + KV_PAGE * dim..keys.end + KV_PAGE * dim;
            let (keys, values) = match &self.pages[page].numbers {
                Numbers::F32(numbers) => (KvSlice::F32(&numbers[keys]), KvSlice::F32(&numbers[values])),
                Numbers::F16(numbers) => (KvSlice::F16(&numbers[keys]), KvSlice::F16(&numbers[values])),
                #[cfg(feature = "cuda")]
                Numbers::Device(_) => unreachable!("{ELSEWHERE}"),
            };
            let segments = self.segments.as_deref().map(|segments| &segments[here.clone()]);
            KvRun { keys, values, positions: &self.positions[here], segments, log_weights: None }
        })
    }
}

/// The numbers of one layer in the pages of some consecutive slots.
pub(crate) struct LayerPages<'a> {
    dim: usize,
    /// Of each page the keys, then the values.
    pages: Vec<(Half<'a>, Half<'a>)>,
}

/// The keys or the values of a page's slots.
pub(crate) enum Half<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [u16]),
}

impl KvCache {
    /// Fails unless the cache is of this shape.
    pub(crate) fn check_shape(&self, shape: &KvShape) -> Result<()> {
        let expected = &self.arena.0.shape;
        if expected == shape {
            return Ok(());
        }
        Err(Error::Shape { expected: *expected, found: *shape })
    }

    /// The numbers of ranges of slots, whose pages were placed and which follow one another, in one layer.
    pub(crate) fn pages_of_layer(&mut self, layer: usize, ranges: &[Range<usize>]) -> Vec<LayerPages<'_>> {
        let dim = self.arena.0.dim;
        let start = self.arena.layer_start(layer);
        let mut found: Vec<_> = ranges.iter().map(|_| LayerPages { dim, pages: Vec::new() }).collect();
        let mut next = 0;
        for (at, page) in self.pages.iter_mut().enumerate() {
            let slots = at * KV_PAGE..(at + 1) * KV_PAGE;
            while ranges.get(next).is_some_and(|range| range.end <= slots.start) {
                next += 1;
            }
            let here = ranges[next..].iter().take_while(|range| range.start < slots.end);
            let here: Vec<Range<usize>> = here
                .map(|range| range.start.max(slots.start) - slots.start..range.end.min(slots.end) - slots.start)
                .collect();
            if here.iter().all(Range::is_empty) {
                continue;
            }
            let page = Arc::get_mut(page).expect("pages that are written were reserved, and so are not shared");
            let layer = start..start + 2 * KV_PAGE * dim;
            let found = &mut found[next..];
            match &mut page.numbers {
                Numbers::F32(numbers) => cut(&mut numbers[layer], dim, &here, found, Half::F32),
                Numbers::F16(numbers) => cut(&mut numbers[layer], dim, &here, found, Half::F16),
                #[cfg(feature = "cuda")]
                Numbers::Device(_) => unreachable!("{ELSEWHERE}"),
            }
        }
        found
    }

    /// The numbers of slots, whose pages were placed, layer by layer.
    pub(crate) fn layer_pages(&mut self, slots: Range<usize>) -> Vec<LayerPages<'_>> {
        let (n_layers, dim) = (self.arena.0.shape.n_layers, self.arena.0.dim);
        let mut layers: Vec<_> = (0..n_layers).map(|_| LayerPages { dim, pages: Vec::new() }).collect();
        let pages = slots.start / KV_PAGE..slots.end.div_ceil(KV_PAGE);
        for (page, at) in self.pages[pages.clone()].iter_mut().zip(pages) {
            let page = Arc::get_mut(page).expect("pages that are written were reserved, and so are not shared");
            let here = slots.start.max(at * KV_PAGE) - at * KV_PAGE..slots.end.min((at + 1) * KV_PAGE) - at * KV_PAGE;
            let here = here.start * dim..here.end * dim;
            match &mut page.numbers {
                Numbers::F32(numbers) => split(numbers, dim, &here, &mut layers, Half::F32),
                Numbers::F16(numbers) => split(numbers, dim, &here, &mut layers, Half::F16),
                #[cfg(feature = "cuda")]
                Numbers::Device(_) => unreachable!("{ELSEWHERE}"),
            }
        }
        layers
    }
}

fn split<'a, T>(
    numbers: &'a mut [T],
    dim: usize,
    here: &Range<usize>,
    layers: &mut [LayerPages<'a>],
    half: fn(&'a mut [T]) -> Half<'a>,
) {
    for (layer, numbers) in layers.iter_mut().zip(numbers.chunks_exact_mut(2 * KV_PAGE * dim)) {
        let (keys, values) = numbers.split_at_mut(KV_PAGE * dim);
        layer.pages.push((half(&mut keys[here.clone()]), half(&mut values[here.clone()])));
    }
}

/// Hands out parts of a page's layer, which are in order.
fn cut<'a, T>(
    numbers: &'a mut [T],
    dim: usize,
    parts: &[Range<usize>],
    to: &mut [LayerPages<'a>],
    half: fn(&'a mut [T]) -> Half<'a>,
) {
    let (mut keys, mut values) = numbers.split_at_mut(KV_PAGE * dim);
    let mut at = 0;
    for (part, to) in parts.iter().zip(to).filter(|(part, _)| !part.is_empty()) {
        let (skip, len) = ((part.start - at) * dim, part.len() * dim);
        let (own_keys, own_values);
        (own_keys, keys) = keys[skip..].split_at_mut(len);
        (own_values, values) = values[skip..].split_at_mut(len);
        to.pages.push((half(own_keys), half(own_values)));
        at = part.end;
    }
}

#[cfg(feature = "cuda")]
impl<'a> LayerPages<'a> {
    /// The numbers of consecutive slots, keys first, which go elsewhere afterwards.
    pub fn of(shape: KvShape, numbers: &'a mut [u16]) -> Self {
        let (keys, values) = numbers.split_at_mut(numbers.len() / 2);
        Self { dim: shape.dim(), pages: vec![(Half::F16(keys), Half::F16(values))] }
    }
}

impl LayerPages<'_> {
    /// How the numbers are kept.
    pub fn precision(&self) -> KvPrecision {
        match self.pages.first() {
            Some((Half::F32(_), _)) => KvPrecision::F32,
            _ => KvPrecision::F16,
        }
    }

    /// Takes over the keys of all slots; the numbers are kept in half precision.
    pub fn copy_keys(&mut self, keys: &[u16]) {
        copy(self.pages.iter_mut().map(|(to, _)| to), keys);
    }

    /// Takes over the values of all slots; the numbers are kept in half precision.
    pub fn copy_values(&mut self, values: &[u16]) {
        copy(self.pages.iter_mut().map(|(_, to)| to), values);
    }

    /// Writes keys from slot `first` on, counted from the first of these.
    pub fn write_keys(&mut self, first: usize, keys: &[f32]) {
        write(self.pages.iter_mut().map(|(to, _)| to), first * self.dim, keys);
    }

    /// Writes values from slot `first` on, counted from the first of these.
    pub fn write_values(&mut self, first: usize, values: &[f32]) {
        write(self.pages.iter_mut().map(|(_, to)| to), first * self.dim, values);
    }
}

fn copy<'a, 'b: 'a>(to: impl Iterator<Item = &'a mut Half<'b>>, mut from: &[u16]) {
    for to in to {
        let Half::F16(to) = to else { unreachable!("the numbers are kept in half precision") };
        let here;
        (here, from) = from.split_at(to.len());
        to.copy_from_slice(here);
    }
}

fn write<'a, 'b: 'a>(to: impl Iterator<Item = &'a mut Half<'b>>, mut skip: usize, mut from: &[f32]) {
    for to in to {
        let len = match to {
            Half::F32(to) => to.len(),
            Half::F16(to) => to.len(),
        };
        let start = skip.min(len);
        skip -= start;
        let here;
        (here, from) = from.split_at((len - start).min(from.len()));
        match to {
            Half::F32(to) => to[start..start + here.len()].copy_from_slice(here),
            Half::F16(to) => round(here, &mut to[start..start + here.len()]),
        }
    }
}

impl Numbers {
    fn copy_from(&mut self, other: &Self) {
        match (self, other) {
            (Self::F32(to), Self::F32(from)) => to.copy_from_slice(from),
            (Self::F16(to), Self::F16(from)) => to.copy_from_slice(from),
            // They were copied when they were reserved.
            #[cfg(feature = "cuda")]
            (Self::Device(_), Self::Device(_)) => {}
            _ => unreachable!("an arena has one precision"),
        }
    }

    /// Keys and values of one token, layer by layer.
    fn token(&self, slot: usize, dim: usize) -> Self {
        match self {
            Self::F32(numbers) => Self::F32(token_rows(numbers, slot, dim)),
            Self::F16(numbers) => Self::F16(token_rows(numbers, slot, dim)),
            #[cfg(feature = "cuda")]
            Self::Device(_) => unreachable!("{ELSEWHERE}"),
        }
    }

    /// The number that the device's arena has for a slot.
    #[cfg(feature = "cuda")]
    fn device_slot(&self, slot: usize) -> u32 {
        match self {
            Self::Device(page) => page * KV_PAGE as u32 + slot as u32,
            _ => unreachable!("an arena on a device has its pages there"),
        }
    }

    fn set_token(&mut self, slot: usize, dim: usize, token: &Self) {
        match (self, token) {
            (Self::F32(to), Self::F32(token)) => set_token_rows(to, slot, dim, token),
            (Self::F16(to), Self::F16(token)) => set_token_rows(to, slot, dim, token),
            _ => unreachable!("an arena has one precision"),
        }
    }
}

fn token_rows<T: Copy>(page: &[T], slot: usize, dim: usize) -> Vec<T> {
    page.chunks_exact(KV_PAGE * dim).flat_map(|half| &half[slot * dim..(slot + 1) * dim]).copied().collect()
}

fn set_token_rows<T: Copy>(page: &mut [T], slot: usize, dim: usize, token: &[T]) {
    for (half, row) in page.chunks_exact_mut(KV_PAGE * dim).zip(token.chunks_exact(dim)) {
        half[slot * dim..(slot + 1) * dim].copy_from_slice(row);
    }
}

impl fmt::Debug for ReservedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReservedPages").field(&self.0.len()).finish()
    }
}

impl fmt::Debug for KvArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("KvArena");
        debug.field("budget", &self.budget()).field("n_bytes_taken", &self.n_bytes_taken()).finish_non_exhaustive()
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache").field("len", &self.len()).field("n_pages", &self.pages.len()).finish_non_exhaustive()
    }
}

fn round(from: &[f32], to: &mut [u16]) {
    to_f16(from, to).expect("there is a place for each number");
}
