//! Keys and values of the tokens that a model has read.

use half::f16;
use half::slice::HalfFloatSliceExt;
use raglan_kernels::{KvRun, KvSlice};

/// How exactly keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvPrecision {
    /// In single precision.
    F32,
    /// In half precision.
    F16,
}

/// The keys and values of one sequence, all layers, a slot for each token.
///
/// Invariant: each layer has as many keys and values as there are positions.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Numbers of a token's keys in a layer, and as many of its values.
    dim: usize,
    positions: Vec<u32>,
    /// Segments of the tokens, once one was given.
    segments: Option<Vec<u32>>,
}

#[derive(Clone, Debug)]
enum LayerCache {
    F32 { keys: Vec<f32>, values: Vec<f32> },
    F16 { keys: Vec<u16>, values: Vec<u16> },
}

impl KvCache {
    pub(crate) fn new(n_layers: usize, dim: usize, precision: KvPrecision) -> Self {
        let layer = match precision {
            KvPrecision::F32 => LayerCache::F32 { keys: Vec::new(), values: Vec::new() },
            KvPrecision::F16 => LayerCache::F16 { keys: Vec::new(), values: Vec::new() },
        };
        Self { layers: vec![layer; n_layers], dim, positions: Vec::new(), segments: None }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Memory that keys and values take.
    pub fn n_bytes(&self) -> usize {
        let numbers = 2 * self.layers.len() * self.dim * self.len();
        match self.layers.first() {
            Some(LayerCache::F16 { .. }) => 2 * numbers,
            _ => 4 * numbers,
        }
    }

    /// Forgets all but the first `n_tokens` slots.
    pub fn truncate(&mut self, n_tokens: usize) {
        if n_tokens < self.len() {
            self.resize(n_tokens);
        }
    }

    fn resize(&mut self, n_tokens: usize) {
        self.positions.resize(n_tokens, 0);
        if let Some(segments) = &mut self.segments {
            segments.resize(n_tokens, 0);
        }
        for layer in &mut self.layers {
            match layer {
                LayerCache::F32 { keys, values } => {
                    keys.resize(n_tokens * self.dim, 0.0);
                    values.resize(n_tokens * self.dim, 0.0);
                }
                LayerCache::F16 { keys, values } => {
                    keys.resize(n_tokens * self.dim, 0);
                    values.resize(n_tokens * self.dim, 0);
                }
            }
        }
    }

    /// Makes room for tokens whose keys and values come layer by layer.
    pub(crate) fn place(&mut self, slots: &[usize], positions: &[u32], segments: Option<&[u32]>) {
        let len = slots.iter().fold(self.len(), |len, slot| len.max(slot + 1));
        self.resize(len);
        for (&slot, &position) in slots.iter().zip(positions) {
            self.positions[slot] = position;
        }
        if segments.is_some() && self.segments.is_none() {
            self.segments = Some(vec![0; len]);
        }
        if let Some(all) = &mut self.segments {
            for (i, &slot) in slots.iter().enumerate() {
                all[slot] = segments.map_or(0, |segments| segments[i]);
            }
        }
    }

    /// Stores a token's keys, which are rotated to its position, and values in one layer.
    pub(crate) fn write(&mut self, layer: usize, slot: usize, key: &[f32], value: &[f32]) {
        let place = slot * self.dim..(slot + 1) * self.dim;
        match &mut self.layers[layer] {
            LayerCache::F32 { keys, values } => {
                keys[place.clone()].copy_from_slice(key);
                values[place].copy_from_slice(value);
            }
            LayerCache::F16 { keys, values } => {
                half(key, &mut keys[place.clone()]);
                half(value, &mut values[place]);
            }
        }
    }

    /// What attention reads of one layer.
    pub(crate) fn run(&self, layer: usize) -> KvRun<'_> {
        let (keys, values) = match &self.layers[layer] {
            LayerCache::F32 { keys, values } => (KvSlice::F32(keys), KvSlice::F32(values)),
            LayerCache::F16 { keys, values } => (KvSlice::F16(keys), KvSlice::F16(values)),
        };
        KvRun { keys, values, positions: &self.positions, segments: self.segments.as_deref(), log_weights: None }
    }
}

/// Rounds to half precision, sixteen bits each.
fn half(from: &[f32], to: &mut [u16]) {
    const PIECE: usize = 64;
    let mut rounded = [f16::ZERO; PIECE];
    for (from, to) in from.chunks(PIECE).zip(to.chunks_mut(PIECE)) {
        let rounded = &mut rounded[..from.len()];
        rounded.convert_from_f32_slice(from);
        for (to, rounded) in to.iter_mut().zip(rounded) {
            *to = rounded.to_bits();
        }
    }
}
