//! A prompt whose passages' keys and values are there already, but for what has to be computed.

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, sync_channel};

use raglan_kv::{KvBlock, KvCache, LayerBytes, ParallelContext};
use raglan_model::{Attending, DecoderModel, ForwardRows, ForwardSequence, LayerPass, Want};

use crate::{Error, PromptPiece, Result};

/// Layers of blocks in files that are read ahead of the one that is computed.
const LAYERS_AHEAD: usize = 2;
/// Tokens that pass together where layers are not passed one by one.
const TOGETHER: usize = 512;

/// A prompt in a cache: the templates' first piece, exactly; passages as their blocks have them; and room for all else.
///
/// The last token is not in it: reading that one gives the first token of the answer. Blocks are loaded layer by layer
/// on the first way through the model, ahead of the layer that is computed.
#[derive(Clone, Debug)]
pub struct Assembly<'m> {
    model: &'m DecoderModel,
    cache: KvCache,
    /// By slot; the last is behind the cache.
    tokens: Vec<u32>,
    /// Slots that have to be computed, ascending.
    fresh: Vec<usize>,
    /// Slots of the passages that are shown, in order.
    passages: Vec<Range<usize>>,
    /// Slots behind the last passage.
    tail: Range<usize>,
    /// Blocks and where they go.
    blocks: Vec<(KvBlock, Range<usize>)>,
    n_loaded: usize,
    go_on: GoOn<'m>,
}

/// Whether to go on, which is asked before each layer.
#[derive(Clone, Copy)]
struct GoOn<'m>(&'m dyn Fn() -> ControlFlow<()>);

impl fmt::Debug for GoOn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GoOn")
    }
}

impl<'m> Assembly<'m> {
    /// Puts a prompt together from a cache that has read its first piece, and the blocks of its passages that there are.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when the cache cannot grow, or a block is of another model.
    pub fn new(
        model: &'m DecoderModel,
        prefix: &KvCache,
        pieces: &[PromptPiece],
        blocks: &[Option<KvBlock>],
    ) -> Result<Self> {
        let tokens: Vec<u32> = pieces.iter().flat_map(|piece| &piece.ids).copied().collect();
        let n_read = tokens.len().saturating_sub(1);
        let mut assembly = Self {
            model,
            cache: prefix.clone(),
            tokens,
            fresh: Vec::new(),
            passages: Vec::new(),
            tail: 0..0,
            blocks: Vec::new(),
            n_loaded: 0,
            go_on: GoOn(&|| ControlFlow::Continue(())),
        };
        for piece in pieces.iter().skip(1) {
            let cache = &mut assembly.cache;
            let first = cache.len();
            let slots = first..(first + piece.ids.len()).min(n_read);
            let block = piece.passage.and_then(|passage| blocks[passage].as_ref());
            match block.filter(|block| block.n_tokens() == slots.len()) {
                Some(block) => {
                    cache.leave_for(block, first as u32).map_err(raglan_model::Error::from)?;
                    assembly.blocks.push((block.clone(), slots.clone()));
                }
                None => {
                    cache.leave(slots.len(), first as u32).map_err(raglan_model::Error::from)?;
                    assembly.fresh.extend(slots.clone());
                }
            }
            assembly.tail = slots.end..slots.end;
            match piece.passage {
                Some(_) => assembly.passages.push(slots),
                None => assembly.tail = slots,
            }
        }
        Ok(assembly)
    }

    /// Puts a prompt together in which the passages stand side by side, each behind the first piece: what is written
    /// between them is left out, and the tail begins behind the longest. Attention to them is weighed apart.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn parallel(
        model: &'m DecoderModel,
        prefix: &KvCache,
        pieces: &[PromptPiece],
        blocks: &[Option<KvBlock>],
        (temperature, scale): (f32, f32),
    ) -> Result<Self> {
        let last = pieces.len().saturating_sub(1);
        let kept = |(at, piece): (usize, &PromptPiece)| {
            (at == 0 || at == last || piece.passage.is_some()).then(|| piece.clone())
        };
        let pieces: Vec<PromptPiece> = pieces.iter().enumerate().filter_map(kept).collect();
        let mut assembly = Self::new(model, prefix, &pieces, blocks)?;
        let start = prefix.len();
        let longest = assembly.passages.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let mut cache = prefix.clone();
        let next = prefix.next_position();
        for slots in &assembly.passages {
            cache.leave(slots.len(), next).map_err(raglan_model::Error::from)?;
        }
        let end = cache.len();
        cache.leave(assembly.tail.len(), next + longest as u32).map_err(raglan_model::Error::from)?;
        cache.set_parallel(ParallelContext { slots: start..end, temperature, scale });
        assembly.cache = cache;
        Ok(assembly)
    }

    /// The same prompt, whose passes end with [`Error::Interrupted`] before the layer at which `go_on` says so.
    pub fn interrupted_by(self, go_on: &'m dyn Fn() -> ControlFlow<()>) -> Self {
        Self { go_on: GoOn(go_on), ..self }
    }

    /// The model.
    pub fn model(&self) -> &'m DecoderModel {
        self.model
    }

    /// Loads the first layers of the blocks; to a device all of them, at once.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when a block's file cannot be read.
    pub fn load(&mut self, n_layers: usize) -> Result<()> {
        if self.model.is_on_device() {
            if self.n_loaded == 0 {
                self.model.load_blocks(&mut self.cache, &self.blocks)?;
                self.n_loaded = self.model.config().n_layers;
            }
            return Ok(());
        }
        std::thread::scope(|scope| {
            let mut ahead = Ahead::new(scope, &self.blocks, self.n_loaded..n_layers);
            for layer in self.n_loaded..n_layers {
                ahead.load(layer, &mut self.cache, self.model)?;
            }
            self.n_loaded = self.n_loaded.max(n_layers);
            Ok(())
        })
    }

    /// Slots of the passages, in order.
    pub fn passages(&self) -> &[Range<usize>] {
        &self.passages
    }

    /// Slots behind the last passage.
    pub fn tail(&self) -> &Range<usize> {
        &self.tail
    }

    /// Blocks and the slots they go to.
    pub fn blocks(&self) -> &[(KvBlock, Range<usize>)] {
        &self.blocks
    }

    /// Slots that have to be computed in any case, ascending.
    pub fn fresh(&self) -> &[usize] {
        &self.fresh
    }

    /// All tokens; the cache has slots for all but the last.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Keys and values as far as they are there.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The keys and values, which may go on by themselves.
    pub fn into_cache(self) -> KvCache {
        self.cache
    }

    /// Takes what has to be computed, and some slots besides, which need no order, through the model; `watch` is called
    /// after each layer, and may let rows go.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when shared pages cannot be copied, or a block's file cannot be read; [`Error::Interrupted`].
    pub fn pass(
        &mut self,
        chosen: &[usize],
        n_layers: usize,
        watch: &mut dyn FnMut(&mut LayerPass<'_, '_>) -> Result<()>,
    ) -> Result<()> {
        let slots = self.slots_to_compute(chosen);
        let (ids, positions) = self.at(&slots);
        let Self { model, cache, blocks, n_loaded, go_on, .. } = self;
        let mut pass = model.begin_pass(cache, &ids, &positions, &slots)?;
        let first = *n_loaded;
        std::thread::scope(|scope| {
            let mut ahead = Ahead::new(scope, blocks, first..n_layers);
            while pass.n_passed() < n_layers {
                if (go_on.0)().is_break() {
                    return Err(Error::Interrupted);
                }
                if pass.n_passed() >= *n_loaded {
                    ahead.load(pass.n_passed(), pass.cache(), model)?;
                    *n_loaded += 1;
                }
                pass.layer()?;
                watch(&mut pass)?;
            }
            Ok(())
        })
    }

    /// Computes what has to be computed, and some slots besides; the cache is whole then.
    ///
    /// # Errors
    ///
    /// As [`pass`](Self::pass).
    pub fn compute(&mut self, chosen: &[usize]) -> Result<()> {
        if self.model.is_on_device() {
            return self.compute_at_once(chosen);
        }
        self.pass(chosen, self.model.config().n_layers, &mut |_| Ok(()))
    }

    /// The same where layers are not passed one by one: all blocks are loaded first.
    fn compute_at_once(&mut self, chosen: &[usize]) -> Result<()> {
        self.load(self.model.config().n_layers)?;
        let slots = self.slots_to_compute(chosen);
        // What comes later in a prompt is seen by nothing before it.
        for slots in slots.chunks(TOGETHER) {
            if (self.go_on.0)().is_break() {
                return Err(Error::Interrupted);
            }
            let (tokens, positions) = self.at(slots);
            let rows = ForwardRows { tokens: &tokens, positions: &positions, slots, ..ForwardRows::default() };
            let (cache, want) = (&mut self.cache, Want::default());
            self.model.forward(&mut [ForwardSequence { rows, cache, want, attending: Attending::All }])?;
        }
        Ok(())
    }

    /// What has to be computed, and some slots besides, ascending.
    fn slots_to_compute(&self, chosen: &[usize]) -> Vec<usize> {
        let mut slots: Vec<usize> = self.fresh.iter().chain(chosen).copied().collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// The tokens and the positions of slots.
    fn at(&self, slots: &[usize]) -> (Vec<u32>, Vec<u32>) {
        slots.iter().map(|&slot| (self.tokens[slot], self.cache.positions()[slot])).unzip()
    }

    /// How much the tail attends to each slot before it, summed over its rows, over heads and over the layers of the
    /// middle third: what the question looks at, as far as the blocks tell. The last third is not computed, and says
    /// nothing that the middle one does not.
    ///
    /// # Errors
    ///
    /// As [`pass`](Self::pass).
    pub fn tail_attention(&mut self) -> Result<Vec<f32>> {
        let n_slots = self.tail.start;
        let tail = self.tail.clone();
        let ranges: Vec<Range<usize>> = (0..n_slots).map(|slot| slot..slot + 1).collect();
        let mut attention = vec![0.0; n_slots];
        let n_layers = self.model.config().n_layers;
        let (first_layer, end) = (n_layers / 3, (2 * n_layers).div_ceil(3));
        self.pass(&[], end, &mut |pass| {
            if pass.n_passed() <= first_layer {
                return Ok(());
            }
            let first = pass.slots().partition_point(|&slot| slot < tail.start);
            let rows: Vec<usize> = (first..pass.slots().len()).collect();
            let mass = pass.attention_mass(&rows, &ranges)?;
            for head in mass.chunks_exact(n_slots.max(1)) {
                attention.iter_mut().zip(head).for_each(|(sum, mass)| *sum += mass);
            }
            Ok(())
        })?;
        Ok(attention)
    }
}

/// Reads blocks' layers from files while the model computes.
struct Ahead<'b> {
    blocks: &'b [(KvBlock, Range<usize>)],
    /// By layer, the bytes of the blocks that are in files.
    layers: Option<Receiver<raglan_kv::Result<Vec<LayerBytes<'b>>>>>,
}

impl<'b> Ahead<'b> {
    fn new<'s>(
        scope: &'s std::thread::Scope<'s, '_>,
        blocks: &'b [(KvBlock, Range<usize>)],
        layers: Range<usize>,
    ) -> Self
    where
        'b: 's,
    {
        if layers.is_empty() || blocks.iter().all(|(block, _)| block.is_resident()) {
            return Self { blocks, layers: None };
        }
        let (sender, receiver) = sync_channel(LAYERS_AHEAD);
        scope.spawn(move || {
            for layer in layers {
                let read = blocks.iter().map(|(block, _)| block.layer(layer)).collect();
                if sender.send(read).is_err() {
                    return;
                }
            }
        });
        Self { blocks, layers: Some(receiver) }
    }

    /// Brings a layer of all blocks into the cache; layers come in order.
    fn load(&mut self, layer: usize, cache: &mut KvCache, model: &DecoderModel) -> Result<()> {
        let read = match &self.layers {
            Some(layers) => layers.recv().expect("whoever reads ahead sends every layer"),
            None => self.blocks.iter().map(|(block, _)| block.layer(layer)).collect(),
        };
        let read = read.map_err(raglan_model::Error::from)?;
        let placed: Vec<_> =
            self.blocks.iter().zip(&read).map(|((block, slots), bytes)| (block, bytes, slots.clone())).collect();
        model.load_layer(cache, layer, &placed)?;
        Ok(())
    }
}
