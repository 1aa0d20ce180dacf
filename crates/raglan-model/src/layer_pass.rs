//! A forward of one sequence that goes layer by layer, under its caller's eyes.

use std::ops::Range;

use raglan_kernels::{KvRun, QueryRows, causal_attention};
use raglan_kv::{KvBlock, KvCache, LayerBytes};

use crate::decoder::{Attending, ForwardSequence, PASSES, Scratch, Want};
use crate::{DecoderModel, ForwardRows, Result};

/// Rows of one sequence on their way through the layers of a model.
///
/// Between two layers the caller may look at what rows attended to, bring keys and values of other tokens into the
/// cache, and go on with fewer rows. Rows that go all the way give the bits of [`DecoderModel::forward`].
#[derive(Debug)]
pub struct LayerPass<'m, 'c> {
    model: &'m DecoderModel,
    cache: &'c mut KvCache,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<usize>,
    hidden: Vec<f32>,
    scratch: Scratch,
    n_passed: usize,
}

impl DecoderModel {
    /// Appends tokens to a cache and gives the attention that they pay to each range of slots: the mean over the tokens,
    /// summed over the heads of `layers`.
    ///
    /// Layers behind those are not computed: where there are any, what is appended serves no other purpose and is to be
    /// cut off again.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward); [`Error::Kernel`](crate::Error::Kernel) when a range is not there.
    pub fn append_attending(
        &self,
        cache: &mut KvCache,
        tokens: &[u32],
        layers: Range<usize>,
        ranges: &[Range<usize>],
    ) -> Result<Vec<f32>> {
        let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
        let positions: Vec<u32> = (cache.next_position()..).take(tokens.len()).collect();
        let rows: Vec<usize> = (0..tokens.len()).collect();
        let mut sums = vec![0.0; ranges.len()];
        let mut pass = self.begin_pass(cache, tokens, &positions, &slots)?;
        for layer in 0..layers.end {
            pass.layer()?;
            if ranges.is_empty() || layer < layers.start {
                continue;
            }
            let mass = pass.attention_mass(&rows, ranges)?;
            for of_head in mass.chunks_exact(ranges.len()) {
                sums.iter_mut().zip(of_head).for_each(|(sum, mass)| *sum += mass / tokens.len() as f32);
            }
        }
        Ok(sums)
    }

    /// Begins a pass of tokens at any positions, whose keys and values go to any slots, as in
    /// [`ForwardRows`]. The positions of all slots are set at once, the keys and values layer by layer.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward); [`Error::NotOnDevice`](crate::Error::NotOnDevice) when the model is on a device.
    pub fn begin_pass<'m, 'c>(
        &'m self,
        cache: &'c mut KvCache,
        tokens: &[u32],
        positions: &[u32],
        slots: &[usize],
    ) -> Result<LayerPass<'m, 'c>> {
        self.on_processor(PASSES)?;
        let rows = ForwardRows { tokens, positions, slots, ..ForwardRows::default() };
        let sequence = ForwardSequence { rows, cache, want: Want::default(), attending: Attending::All };
        self.check(&sequence)?;
        let pages = cache.reserve(slots)?;
        cache.place(pages, slots, positions, None);
        Ok(LayerPass {
            model: self,
            cache,
            hidden: self.embed(tokens.iter().copied(), tokens.len())?,
            tokens: tokens.to_vec(),
            positions: positions.to_vec(),
            slots: slots.to_vec(),
            scratch: Scratch::new(self.config(), tokens.len()),
            n_passed: 0,
        })
    }
}

impl DecoderModel {
    /// Takes over blocks into a cache, on the model's threads: [`KvCache::load`].
    ///
    /// # Errors
    ///
    /// [`Error::Kv`](crate::Error::Kv) when a block does not fit its slots, or its file cannot be read.
    pub fn load_blocks(&self, cache: &mut KvCache, blocks: &[(KvBlock, Range<usize>)]) -> Result<()> {
        Ok(self.install(|| cache.load(blocks, self))?)
    }

    /// Takes over a layer of blocks into a cache, on the model's threads: [`KvCache::load_layer`].
    ///
    /// # Errors
    ///
    /// [`Error::Kv`](crate::Error::Kv) when a block does not fit its slots.
    pub fn load_layer(
        &self,
        cache: &mut KvCache,
        layer: usize,
        blocks: &[(&KvBlock, &LayerBytes<'_>, Range<usize>)],
    ) -> Result<()> {
        Ok(self.install(|| cache.load_layer(layer, blocks, self))?)
    }
}

impl LayerPass<'_, '_> {
    /// How many layers have been passed.
    pub fn n_passed(&self) -> usize {
        self.n_passed
    }

    /// Whether all layers have been passed.
    pub fn is_finished(&self) -> bool {
        self.n_passed == self.model.config().n_layers
    }

    /// The rows that are left: the slots that they write.
    pub fn slots(&self) -> &[usize] {
        &self.slots
    }

    /// Keys and values as far as they have been computed.
    pub fn cache(&mut self) -> &mut KvCache {
        self.cache
    }

    /// Passes the next layer.
    ///
    /// # Panics
    ///
    /// When all have been passed.
    ///
    /// # Errors
    ///
    /// Only when the model is damaged.
    pub fn layer(&mut self) -> Result<()> {
        let Self { model, cache, tokens, positions, slots, hidden, scratch, n_passed } = self;
        if !slots.is_empty() {
            let rows = ForwardRows { tokens, positions, slots, ..ForwardRows::default() };
            let attending = Attending::All;
            let mut sequences = [ForwardSequence { rows, cache, want: Want::default(), attending }];
            model.pass_layer(*n_passed, hidden, positions, &mut sequences, scratch)?;
        }
        *n_passed += 1;
        Ok(())
    }

    /// Passes all layers that are left.
    ///
    /// # Errors
    ///
    /// As [`layer`](Self::layer).
    pub fn finish(&mut self) -> Result<()> {
        while !self.is_finished() {
            self.layer()?;
        }
        Ok(())
    }

    /// Goes on with some rows only, named by their indices, which ascend.
    pub fn retain(&mut self, rows: &[usize]) {
        let config = self.model.config();
        for (to, &from) in rows.iter().enumerate() {
            self.tokens[to] = self.tokens[from];
            self.positions[to] = self.positions[from];
            self.slots[to] = self.slots[from];
            self.hidden.copy_within(from * config.hidden_dim..(from + 1) * config.hidden_dim, to * config.hidden_dim);
        }
        self.tokens.truncate(rows.len());
        self.positions.truncate(rows.len());
        self.slots.truncate(rows.len());
        self.hidden.truncate(rows.len() * config.hidden_dim);
        self.scratch.retain(config, rows);
    }

    /// The share of some rows' attention in the layer last passed that slots received: `[n_rows, n_heads]`, each
    /// `Σ_j softmax_j` over the keys `j` in `slots`.
    ///
    /// # Errors
    ///
    /// Only when the model is damaged.
    pub fn attention_share(&self, rows: Range<usize>, slots: &[Range<usize>]) -> Result<Vec<f32>> {
        let config = self.model.config();
        let (layer, q_dim) = (self.n_passed - 1, config.n_heads * config.head_dim);
        let queries = QueryRows {
            rows: &self.scratch.queries[rows.start * q_dim..rows.end * q_dim],
            positions: &self.positions[rows.clone()],
            segments: None,
        };
        let runs: Vec<KvRun<'_>> = slots.iter().flat_map(|slots| self.cache.runs(layer, slots.clone())).collect();
        let mut mixed = vec![0.0; rows.len() * q_dim];
        let mut lse = vec![0.0; rows.len() * config.n_heads];
        let mask = config.mask(layer, Default::default());
        let shape = config.attention_shape();
        self.model.install(|| causal_attention(&shape, &queries, &runs, &mask, &mut mixed, Some(&mut lse)))?;
        let all = &self.scratch.lse[rows.start * config.n_heads..rows.end * config.n_heads];
        lse.iter_mut().zip(all).for_each(|(lse, all)| *lse = (*lse - all).exp());
        Ok(lse)
    }

    /// How much attention of some rows in the layer last passed each range of slots received, summed over the rows:
    /// `[n_heads, n_ranges]`.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::Error::Kernel) when a range is not there.
    pub fn attention_mass(&self, rows: &[usize], ranges: &[Range<usize>]) -> Result<Vec<f32>> {
        let Self { tokens, positions, slots, .. } = self;
        let all = ForwardRows { tokens, positions, slots, ..ForwardRows::default() };
        self.model
            .install(|| self.model.attention(self.n_passed - 1, &all, self.cache, 0, &self.scratch, (rows, ranges)))
    }

    /// The logits after some rows, which have passed all layers: `[n_rows, vocab_size]`.
    ///
    /// # Errors
    ///
    /// Only when the model is damaged.
    pub fn logits(&self, rows: &[usize]) -> Result<Vec<f32>> {
        let dim = self.model.config().hidden_dim;
        let wanted = rows.iter().flat_map(|row| &self.hidden[row * dim..(row + 1) * dim]).copied().collect();
        self.model.install(|| self.model.logits_of(wanted))
    }
}
