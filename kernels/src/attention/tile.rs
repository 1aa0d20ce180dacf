//! The tiles that every form is made of: panels of keys, groups of query rows, and softmax block by block.
//!
//! A row's arithmetic is fixed by its keys' indices alone. Keys are cut into blocks of [`BLOCK`] at multiples of it;
//! a block gives a row a maximum `m`, a sum `l = Σ 2^(s - m)` and `o = Σ 2^(s - m) v`; blocks merge in ascending order.
//! Which rows share a group, and which thread computes a block, therefore changes no bit of a result.

use std::ops::Range;

use super::exp::exp2;
use super::pack::{AHEAD, depth, pack_keys, pack_queries, pack_values};
use super::simd::{Lanes, Simd, Singles};
use super::{AttentionMask, KvSlice};

/// Keys that are packed together: with 64 components, panels and values take 64 KiB, which stays in a second-level cache.
pub const BLOCK: usize = 128;
/// Query rows that meet a panel together: six rows of two vectors leave registers for the panel.
pub const ROWS: usize = 6;

/// Keys and values of some tokens in a row, each token's `stride` after the one before.
pub struct Source<'a> {
    pub keys: KvSlice<'a>,
    pub values: KvSlice<'a>,
    /// The index of its first key, counted over all sources.
    pub start: usize,
    pub len: usize,
}

/// What the rows of a job may see.
pub struct Visibility<'a> {
    pub mask: &'a AttentionMask,
    pub query_positions: &'a [u32],
    pub query_segments: Option<&'a [u32]>,
    pub key_positions: Vec<u32>,
    pub key_segments: Option<Vec<u32>>,
    pub blocks: Vec<BlockBounds>,
}

/// What can be said of a block of keys at once.
pub struct BlockBounds {
    pub positions: (u32, u32),
    pub segments: (u32, u32),
}

/// One attention, checked.
pub struct Job<'a> {
    /// Query heads that share a head of keys.
    pub group: usize,
    pub dim: usize,
    /// The scale of scores in base 2: `scale · log2(e)`.
    pub scale: f32,
    /// `queries[token * query_stride + head * dim..]`.
    pub queries: &'a [f32],
    pub n_tokens: usize,
    pub query_stride: usize,
    pub sources: Vec<Source<'a>>,
    pub kv_stride: usize,
    pub n_keys: usize,
    /// Everything is visible when there is none.
    pub visibility: Option<Visibility<'a>>,
    /// How far from a row, counted in tokens, the keys stand that it sees; rows and keys are the same tokens.
    pub radius: Option<usize>,
    /// In base 2.
    pub log_weights: Option<Vec<f32>>,
    /// Whether numbers may be rounded to bf16 where that makes products faster.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "it does not, there"))]
    pub rounds: bool,
}

impl Job<'_> {
    pub fn n_blocks(&self) -> usize {
        self.n_keys.div_ceil(BLOCK)
    }

    /// The blocks of which some of these tokens may see something.
    pub fn blocks_of(&self, tokens: &Range<usize>) -> Range<usize> {
        let Some(radius) = self.radius else { return 0..self.n_blocks() };
        let end = tokens.end.saturating_add(radius).min(self.n_keys);
        tokens.start.saturating_sub(radius) / BLOCK..end.div_ceil(BLOCK)
    }

    fn keys_of(&self, block: usize) -> Range<usize> {
        block * BLOCK..((block + 1) * BLOCK).min(self.n_keys)
    }
}

/// A cache line of numbers, so that a buffer of them is aligned.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read through a pointer to all lines")] [f32; 16]);

/// Numbers at the start of a cache line.
#[derive(Default)]
pub struct Aligned(Vec<Line>);

impl Aligned {
    /// At least `n` numbers; what they were is not kept.
    pub fn reserve(&mut self, n: usize) -> &mut [f32] {
        let n_lines = n.div_ceil(16);
        if self.0.len() < n_lines {
            self.0.resize(n_lines, Line([0.0; 16]));
        }
        // SAFETY: lines are arrays of f32 without gaps, and there are enough.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<f32>(), n) }
    }
}

/// What a thread works in, kept from task to task.
#[derive(Default)]
pub struct Scratch {
    pub queries: Aligned,
    pub keys: Aligned,
    pub values: Aligned,
    pub staging: Aligned,
    scores: Aligned,
}

/// The softmax of some rows so far.
#[derive(Default)]
pub struct State {
    /// `(m, l)` of each row, `m` in base 2.
    sums: Vec<(f32, f32)>,
    /// `[rows, padded dim]`, not yet divided by `l`.
    outputs: Aligned,
    padded_dim: usize,
}

impl State {
    /// Nothing seen by `n_rows` rows.
    pub fn reset(&mut self, n_rows: usize, dim: usize) {
        self.sums.clear();
        self.sums.resize(n_rows, (f32::NEG_INFINITY, 0.0));
        // 32 is twice the lanes of the widest form.
        self.padded_dim = dim.next_multiple_of(32);
        self.outputs.reserve(n_rows * self.padded_dim)[..].fill(0.0);
    }

    /// Writes a row's output and gives its log-sum-exp (natural).
    pub fn finish(&mut self, row: usize, out: &mut [f32]) -> f32 {
        let (m, l) = self.sums[row];
        if l == 0.0 {
            out.fill(0.0);
            return f32::NEG_INFINITY;
        }
        let n = self.sums.len() * self.padded_dim;
        let sums = &self.outputs.reserve(n)[row * self.padded_dim..];
        let inverse = 1.0 / l;
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * inverse;
        }
        ((f64::from(m) + f64::from(l).log2()) * std::f64::consts::LN_2) as f32
    }
}

/// Lets the query rows of `tokens` and one head of keys attend to `blocks`, and merges that into `state`.
///
/// Row `t * group + h` of `state` belongs to the `t`-th of `tokens` and the `h`-th head of the group.
///
/// # Safety
///
/// The processor runs `S`; the job's slices are as long as its numbers say; `state` was reset for these rows.
#[inline(always)]
pub unsafe fn attend<S: Simd, L: Lanes<S>>(
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    blocks: Range<usize>,
    scratch: &mut Scratch,
    state: &mut State,
) {
    let dim = job.dim;
    let n_rows = tokens.len() * job.group;
    let padded_dim = state.padded_dim;
    let outputs = state.outputs.reserve(n_rows * padded_dim).as_mut_ptr();
    let depth = depth::<S, L>(dim);
    // SAFETY: the processor runs `S`.
    unsafe { pack_queries::<S, L>(job, kv_head, &tokens, scratch) };
    let scores = scratch.scores.reserve(ROWS * BLOCK).as_mut_ptr();
    let once = n_rows <= ROWS && padded_dim == dim && L::NUMBERS == 1;
    for block in blocks {
        let keys = job.keys_of(block);
        let mut packed = false;
        let mut first = 0;
        while first < n_rows {
            let rows = (n_rows - first).min(ROWS);
            let view = Group { job, tokens: &tokens, first, rows }.view(block);
            if !matches!(view, View::Nothing) {
                // SAFETY: the buffers hold what the functions name, and `scratch` keeps each where it is.
                unsafe {
                    if !packed {
                        pack_keys::<S, L>(job, kv_head, keys.clone(), scratch);
                        if !once {
                            pack_values::<S, L>(job, kv_head, keys.clone(), padded_dim, scratch);
                        }
                        packed = true;
                    }
                    let call = Call {
                        unpacked: once.then_some((job, kv_head, &keys)),
                        queries: scratch.queries.0.as_ptr().cast::<f32>().add(first * depth),
                        panels: scratch.keys.0.as_ptr().cast(),
                        values: scratch.values.0.as_ptr().cast(),
                        scores,
                        outputs: outputs.add(first * padded_dim),
                        padded_dim,
                    };
                    let group = Group { job, tokens: &tokens, first, rows };
                    let sums = &mut state.sums[first..first + rows];
                    match rows {
                        1 => call.attend::<S, L, 1>(&group, &keys, view, sums),
                        2 => call.attend::<S, L, 2>(&group, &keys, view, sums),
                        3 => call.attend::<S, L, 3>(&group, &keys, view, sums),
                        4 => call.attend::<S, L, 4>(&group, &keys, view, sums),
                        5 => call.attend::<S, L, 5>(&group, &keys, view, sums),
                        _ => call.attend::<S, L, 6>(&group, &keys, view, sums),
                    }
                }
            }
            first += rows;
        }
    }
}

/// Adds `Σ_rows 2^(s - lse)` for each key of a block to `sums`, `[group, BLOCK]`. `lse` is natural, `[n_tokens, n_heads]`.
///
/// # Safety
///
/// As [`attend`], with `sums` as said and `lse` for every query row of the job.
#[inline(always)]
pub unsafe fn mass_of_block<S: Simd>(
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    block: usize,
    lse: &[f32],
    scratch: &mut Scratch,
    sums: &mut [f32],
) {
    let dim = job.dim;
    let n_rows = tokens.len() * job.group;
    let n_heads = job.query_stride / dim;
    // SAFETY: the processor runs `S`.
    unsafe { pack_queries::<S, Singles>(job, kv_head, &tokens, scratch) };
    let scores = scratch.scores.reserve(ROWS * BLOCK).as_mut_ptr();
    let keys = job.keys_of(block);
    let mut packed = false;
    let mut first = 0;
    while first < n_rows {
        let rows = (n_rows - first).min(ROWS);
        let group = Group { job, tokens: &tokens, first, rows };
        let view = group.view(block);
        if !matches!(view, View::Nothing) {
            // SAFETY: the buffers hold what the functions name; `sums` has a block for each head of the group.
            unsafe {
                if !packed {
                    pack_keys::<S, Singles>(job, kv_head, keys.clone(), scratch);
                    packed = true;
                }
                let call = Call {
                    unpacked: None,
                    queries: scratch.queries.0.as_ptr().cast::<f32>().add(first * dim),
                    panels: scratch.keys.0.as_ptr().cast(),
                    values: std::ptr::null(),
                    scores,
                    outputs: std::ptr::null_mut(),
                    padded_dim: 0,
                };
                match rows {
                    1 => call.scores::<S, Singles, 1>(&group, &keys, view),
                    2 => call.scores::<S, Singles, 2>(&group, &keys, view),
                    3 => call.scores::<S, Singles, 3>(&group, &keys, view),
                    4 => call.scores::<S, Singles, 4>(&group, &keys, view),
                    5 => call.scores::<S, Singles, 5>(&group, &keys, view),
                    _ => call.scores::<S, Singles, 6>(&group, &keys, view),
                }
                for row in 0..rows {
                    let head = (first + row) % job.group;
                    let lse = lse[group.token(row) * n_heads + kv_head * job.group + head];
                    if lse == f32::NEG_INFINITY {
                        continue; // The row sees no key.
                    }
                    let lse = S::splat((f64::from(lse) * std::f64::consts::LOG2_E) as f32);
                    let mut key = 0;
                    while key < keys.len() {
                        let sum = sums.as_mut_ptr().add(head * BLOCK + key);
                        let share = exp2::<S>(S::sub(S::load(scores.add(row * BLOCK + key)), lse));
                        S::store(sum, S::add(S::load(sum), share));
                        key += S::LANES;
                    }
                }
            }
        }
        first += rows;
    }
}

/// How much of a block a group sees.
#[derive(Clone, Copy)]
enum View {
    Nothing,
    Everything,
    Some,
}

/// Rows that meet panels together.
struct Group<'a> {
    job: &'a Job<'a>,
    tokens: &'a Range<usize>,
    first: usize,
    rows: usize,
}

impl Group<'_> {
    #[inline(always)]
    fn token(&self, row: usize) -> usize {
        self.tokens.start + (self.first + row) / self.job.group
    }

    #[inline(always)]
    fn view(&self, block: usize) -> View {
        if let Some(radius) = self.job.radius {
            let keys = self.job.keys_of(block);
            let (first, last) = (self.token(0), self.token(self.rows - 1));
            return if keys.start.saturating_sub(last).max((first + 1).saturating_sub(keys.end)) > radius {
                View::Nothing
            } else if last.saturating_sub(keys.start).max((keys.end - 1).saturating_sub(first)) <= radius {
                View::Everything
            } else {
                View::Some
            };
        }
        let Some(visibility) = &self.job.visibility else { return View::Everything };
        let BlockBounds { positions: (nearest, farthest), segments } = visibility.blocks[block];
        let (mut all, mut none) = (true, true);
        for token in self.token(0)..=self.token(self.rows - 1) {
            let position = visibility.query_positions[token];
            let in_window =
                |key: u32| visibility.mask.window.is_none_or(|window| position.saturating_sub(key) < window);
            let sinks = visibility.mask.sinks;
            let segment = visibility.query_segments.map_or(u32::MAX, |segments| segments[token]);
            let segment_seen = |s: u32| s == 0 || s == segment;
            all &= farthest <= position
                && (in_window(nearest) || farthest < sinks)
                && (segment == u32::MAX || segments.0 == segments.1 && segment_seen(segments.0));
            none &= nearest > position
                || (!in_window(farthest) && nearest >= sinks)
                || (segment != u32::MAX && segments.0 == segments.1 && !segment_seen(segments.0));
        }
        match (none, all) {
            (true, _) => View::Nothing,
            (_, true) => View::Everything,
            _ => View::Some,
        }
    }
}

/// The buffers of one group and one block.
struct Call<'a> {
    /// Where the values are read when they are used once only, and packing would not pay.
    unpacked: Option<(&'a Job<'a>, usize, &'a Range<usize>)>,
    /// `[rows, depth]`.
    queries: *const f32,
    /// `[n / PANEL, depth, PANEL]`.
    panels: *const f32,
    /// `[n, padded_dim]`, or half as many rows where lanes hold two numbers.
    values: *const f32,
    /// `[rows, BLOCK]`.
    scores: *mut f32,
    /// `[rows, padded_dim]`.
    outputs: *mut f32,
    padded_dim: usize,
}

impl Call<'_> {
    /// Fills `scores` up to a whole panel: `-inf` where a row may not see or no key is.
    #[inline(always)]
    unsafe fn scores<S: Simd, L: Lanes<S>, const R: usize>(&self, group: &Group, keys: &Range<usize>, view: View) {
        let (job, n) = (group.job, keys.len());
        let n_panels = n.div_ceil(S::PANEL);
        // SAFETY: the pointers have the shapes that the fields name.
        unsafe {
            let mut panel = 0;
            // Few rows take more panels at once: eight sums are what hides the latency of a multiplication. So do all
            // where registers are left.
            while const { R <= few_rows::<S>(1) } && panel + 4 <= n_panels {
                self.panels::<S, L, R, 4>(depth::<S, L>(job.dim), panel);
                panel += 4;
            }
            while const { R <= few_rows::<S>(3) } && panel + 2 <= n_panels {
                self.panels::<S, L, R, 2>(depth::<S, L>(job.dim), panel);
                panel += 2;
            }
            while panel < n_panels {
                self.panels::<S, L, R, 1>(depth::<S, L>(job.dim), panel);
                panel += 1;
            }
            if let Some(log_weights) = &job.log_weights {
                let log_weights = &log_weights[keys.clone()];
                for r in 0..R {
                    for (key, log_weight) in log_weights.iter().enumerate() {
                        *self.scores.add(r * BLOCK + key) += log_weight;
                    }
                }
            }
            if matches!(view, View::Some) {
                for r in 0..R {
                    let scores = std::slice::from_raw_parts_mut(self.scores.add(r * BLOCK), n);
                    hide(group, r, keys, scores);
                }
            }
            for r in 0..R {
                for key in n..n_panels * S::PANEL {
                    *self.scores.add(r * BLOCK + key) = f32::NEG_INFINITY;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn attend<S: Simd, L: Lanes<S>, const R: usize>(
        &self,
        group: &Group,
        keys: &Range<usize>,
        view: View,
        sums: &mut [(f32, f32)],
    ) {
        let n = keys.len();
        let n_padded = n.next_multiple_of(S::PANEL);
        let mut of_old = [0.0; R];
        let mut of_block = [0.0; R];
        // SAFETY: the pointers have the shapes that the fields name.
        unsafe {
            self.scores::<S, L, R>(group, keys, view);
            // Each step for all rows before the next, so that no row's fold waits for another's. Loops and no closures:
            // those would be compiled without the form's instructions.
            let mut block_m = [f32::NEG_INFINITY; R];
            for (r, block_m) in block_m.iter_mut().enumerate() {
                let scores = self.scores.add(r * BLOCK);
                let mut maximum = S::splat(f32::NEG_INFINITY);
                for key in (0..n_padded).step_by(S::LANES) {
                    maximum = S::max(maximum, S::load(scores.add(key)));
                }
                *block_m = fold::<S>(maximum, f32::max);
            }
            let mut block_l = [S::splat(0.0); R];
            for (r, block_l) in block_l.iter_mut().enumerate() {
                let scores = self.scores.add(r * BLOCK);
                // A row that sees nothing subtracts 0, so that its shares are 0 and not NaN.
                let base = S::splat(if block_m[r] == f32::NEG_INFINITY { 0.0 } else { block_m[r] });
                let mut sum = S::splat(0.0);
                for key in (0..n_padded).step_by(2 * S::LANES) {
                    let low = exp2::<S>(S::sub(S::load(scores.add(key)), base));
                    let high = exp2::<S>(S::sub(S::load(scores.add(key + S::LANES)), base));
                    // Lanes are written behind what is read.
                    L::store(scores.add(key / L::NUMBERS), low, high);
                    sum = S::add(S::add(sum, low), high);
                }
                *block_l = sum;
            }
            for r in 0..R {
                let block_l = fold::<S>(block_l[r], |a, b| a + b);
                (of_old[r], of_block[r]) = merge::<S>(&mut sums[r], (block_m[r], block_l));
            }
            let mut column = 0;
            while const { R <= few_rows::<S>(1) } && column + 8 * S::LANES <= self.padded_dim {
                self.columns::<S, L, R, 8>(n, column, &of_old, &of_block);
                column += 8 * S::LANES;
            }
            while const { R <= few_rows::<S>(3) } && column + 4 * S::LANES <= self.padded_dim {
                self.columns::<S, L, R, 4>(n, column, &of_old, &of_block);
                column += 4 * S::LANES;
            }
            while column < self.padded_dim {
                self.columns::<S, L, R, 2>(n, column, &of_old, &of_block);
                column += 2 * S::LANES;
            }
        }
    }

    /// The products of `R` rows with the keys of `P` panels, each summed over ascending `d`.
    #[inline(always)]
    unsafe fn panels<S: Simd, L: Lanes<S>, const R: usize, const P: usize>(&self, depth: usize, first: usize) {
        // SAFETY: the pointers have the shapes that the fields name.
        unsafe {
            let mut sums = [[[S::splat(0.0); 2]; P]; R];
            let from = self.panels.add(first * depth * S::PANEL);
            for d in 0..depth {
                let at = |p: usize, half: usize| from.add((p * depth + d) * S::PANEL + half * S::LANES);
                if R <= 3 {
                    // Few rows stay in registers while keys pass, many the other way round.
                    let mut queries = [S::splat(0.0); R];
                    for (r, query) in queries.iter_mut().enumerate() {
                        *query = S::splat(*self.queries.add(r * depth + d));
                    }
                    for i in 0..2 * P {
                        let keys = S::load(at(i / 2, i % 2));
                        for (sums, &query) in sums.iter_mut().zip(&queries) {
                            sums[i / 2][i % 2] = L::add_products(query, keys, sums[i / 2][i % 2]);
                        }
                    }
                    continue;
                }
                let mut keys = [[S::splat(0.0); 2]; P];
                for (p, keys) in keys.iter_mut().enumerate() {
                    *keys = [S::load(at(p, 0)), S::load(at(p, 1))];
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let query = S::splat(*self.queries.add(r * depth + d));
                    for (sums, keys) in sums.iter_mut().zip(keys) {
                        sums[0] = L::add_products(query, keys[0], sums[0]);
                        sums[1] = L::add_products(query, keys[1], sums[1]);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (p, sums) in sums.into_iter().enumerate() {
                    let to = self.scores.add(r * BLOCK + (first + p) * S::PANEL);
                    S::store(to, sums[0]);
                    S::store(to.add(S::LANES), sums[1]);
                }
            }
        }
    }

    /// Adds to the sums of `R` rows `n` lanes of keys from the block's `first`, whose values lie `stride` numbers apart.
    #[inline(always)]
    unsafe fn weigh<S: Simd, L: Lanes<S>, V: Values<S>, const R: usize, const C: usize>(
        &self,
        first: usize,
        n: usize,
        values: V,
        stride: usize,
        sums: &mut [[S::Vector; C]; R],
    ) {
        // SAFETY: the pointers have the shapes that the fields name.
        unsafe {
            for key in 0..n {
                values.prefetch((key + AHEAD) * stride);
                let shares = self.scores.add(first + key);
                if R <= 3 {
                    let mut splat = [S::splat(0.0); R];
                    for (r, share) in splat.iter_mut().enumerate() {
                        *share = S::splat(*shares.add(r * BLOCK));
                    }
                    for c in 0..C {
                        let values = values.load(key * stride + c * S::LANES);
                        for (sums, &share) in sums.iter_mut().zip(&splat) {
                            sums[c] = L::add_products(share, values, sums[c]);
                        }
                    }
                    continue;
                }
                let mut row = [S::splat(0.0); C];
                for (c, vector) in row.iter_mut().enumerate() {
                    *vector = values.load(key * stride + c * S::LANES);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let share = S::splat(*shares.add(r * BLOCK));
                    for (sum, values) in sums.iter_mut().zip(row) {
                        *sum = L::add_products(share, values, *sum);
                    }
                }
            }
        }
    }

    /// `C` vectors of the outputs of `R` rows, each summed over ascending keys.
    #[inline(always)]
    unsafe fn columns<S: Simd, L: Lanes<S>, const R: usize, const C: usize>(
        &self,
        n: usize,
        column: usize,
        of_old: &[f32; R],
        of_block: &[f32; R],
    ) {
        // SAFETY: the pointers have the shapes that the fields name.
        unsafe {
            let mut sums = [[S::splat(0.0); C]; R];
            if let Some((job, kv_head, keys)) = self.unpacked {
                let mut key = keys.start;
                let mut at = job.sources.partition_point(|source| source.start <= key).saturating_sub(1);
                while key < keys.end {
                    let source = &job.sources[at];
                    let end = keys.end.min(source.start + source.len);
                    let offset = (key - source.start) * job.kv_stride + kv_head * job.dim + column;
                    let (first, n) = (key - keys.start, end - key);
                    match &source.values {
                        KvSlice::F32(numbers) => {
                            let from = numbers[offset..][..(n - 1) * job.kv_stride + C * S::LANES].as_ptr();
                            self.weigh::<S, L, _, R, C>(first, n, from, job.kv_stride, &mut sums);
                        }
                        KvSlice::F16(bits) => {
                            let from = bits[offset..][..(n - 1) * job.kv_stride + C * S::LANES].as_ptr();
                            self.weigh::<S, L, _, R, C>(first, n, from, job.kv_stride, &mut sums);
                        }
                    }
                    key = end;
                    at += 1;
                }
            } else {
                self.weigh::<S, L, _, R, C>(
                    0,
                    n.div_ceil(L::NUMBERS),
                    self.values.add(column),
                    self.padded_dim,
                    &mut sums,
                );
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (c, sum) in sums.into_iter().enumerate() {
                    let to = self.outputs.add(r * self.padded_dim + column + c * S::LANES);
                    S::store(to, weighted::<S>(S::load(to), of_old[r], sum, of_block[r]));
                }
            }
        }
    }
}

/// How many rows find room for their sums where sixteen registers hold those of `of_sixteen`.
const fn few_rows<S: Simd>(of_sixteen: usize) -> usize {
    match (S::REGISTERS, of_sixteen) {
        (32, 1) => 3,
        (32, _) => ROWS,
        _ => of_sixteen,
    }
}

/// Merges a block's state into what stands before it.
///
/// # Safety
///
/// The processor runs `S`; both states are of one shape.
#[inline(always)]
pub unsafe fn merge_states<S: Simd>(state: &mut State, block: &mut State) {
    let (n_rows, padded_dim) = (state.sums.len(), state.padded_dim);
    let to = state.outputs.reserve(n_rows * padded_dim).as_mut_ptr();
    let from = block.outputs.reserve(n_rows * padded_dim).as_ptr();
    for row in 0..n_rows {
        // SAFETY: both have `padded_dim` numbers a row, a multiple of the lanes.
        unsafe {
            let (of_old, of_block) = merge::<S>(&mut state.sums[row], block.sums[row]);
            for d in (row * padded_dim..(row + 1) * padded_dim).step_by(S::LANES) {
                let merged = weighted::<S>(S::load(to.add(d)), of_old, S::load(from.add(d)), of_block);
                S::store(to.add(d), merged);
            }
        }
    }
}

/// Merges `(m, l)` of two sets of keys and gives the factors of their outputs.
#[inline(always)]
unsafe fn merge<S: Simd>(old: &mut (f32, f32), block: (f32, f32)) -> (f32, f32) {
    if block.1 == 0.0 {
        return (1.0, 0.0);
    }
    if old.1 == 0.0 {
        *old = block;
        return (0.0, 1.0);
    }
    // SAFETY: the processor runs `S`.
    let power = |x| fold::<S>(unsafe { exp2::<S>(S::splat(x)) }, |a, _| a);
    let (of_old, of_block) =
        if block.0 <= old.0 { (1.0, power(block.0 - old.0)) } else { (power(old.0 - block.0), 1.0) };
    *old = (old.0.max(block.0), old.1 * of_old + block.1 * of_block);
    (of_old, of_block)
}

/// `old · of_old + new · of_new`.
#[inline(always)]
unsafe fn weighted<S: Simd>(old: S::Vector, of_old: f32, new: S::Vector, of_new: f32) -> S::Vector {
    // SAFETY: the processor runs `S`.
    unsafe { S::fma(old, S::splat(of_old), S::mul(new, S::splat(of_new))) }
}

/// Folds the lanes in halves.
#[inline(always)]
fn fold<S: Simd>(x: S::Vector, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; 16];
    // SAFETY: no form has more than 16 lanes.
    unsafe { S::store(lanes.as_mut_ptr(), x) };
    let mut half = S::LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Sets the scores of keys that a row may not see to `-inf`.
#[inline(always)]
fn hide(group: &Group, row: usize, keys: &Range<usize>, scores: &mut [f32]) {
    if let Some(radius) = group.job.radius {
        let token = group.token(row);
        for (score, key) in scores.iter_mut().zip(keys.clone()) {
            *score = if key.abs_diff(token) <= radius { *score } else { f32::NEG_INFINITY };
        }
        return;
    }
    let Some(visibility) = &group.job.visibility else { return };
    let token = group.token(row);
    let position = visibility.query_positions[token];
    let (no_window, window) = (visibility.mask.window.is_none(), visibility.mask.window.unwrap_or(0));
    let sinks = visibility.mask.sinks;
    for (score, &key) in scores.iter_mut().zip(&visibility.key_positions[keys.clone()]) {
        let visible = (key <= position) & (no_window | (position.wrapping_sub(key) < window) | (key < sinks));
        *score = if visible { *score } else { f32::NEG_INFINITY };
    }
    if let (Some(key_segments), Some(query_segments)) = (&visibility.key_segments, visibility.query_segments) {
        let segment = query_segments[token];
        for (score, &key) in scores.iter_mut().zip(&key_segments[keys.clone()]) {
            let visible = (key == 0) | (key == segment) | (segment == u32::MAX);
            *score = if visible { *score } else { f32::NEG_INFINITY };
        }
    }
}

/// Values in memory. A trait and no closure, which would be compiled without the form's instructions.
trait Values<S: Simd>: Copy {
    /// The vector that begins `at` numbers on.
    ///
    /// # Safety
    ///
    /// The processor has the form's instructions, and the numbers are there.
    unsafe fn load(self, at: usize) -> S::Vector;

    /// Asks for the cache line of a number that may be beyond the last one.
    fn prefetch(self, at: usize);
}

impl<S: Simd> Values<S> for *const f32 {
    #[inline(always)]
    fn prefetch(self, at: usize) {
        S::prefetch(self.wrapping_add(at).cast());
    }

    #[inline(always)]
    unsafe fn load(self, at: usize) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe { S::load(self.add(at)) }
    }
}

impl<S: Simd> Values<S> for *const u16 {
    #[inline(always)]
    fn prefetch(self, at: usize) {
        S::prefetch(self.wrapping_add(at).cast());
    }

    #[inline(always)]
    unsafe fn load(self, at: usize) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe { S::load_f16(self.add(at)) }
    }
}
