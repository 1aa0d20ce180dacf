//! What a pass of rows through the layers stands on, in memory that it can be done in again.

use raglan_kernels::Result as KernelResult;
use raglan_kernels::cuda::{
    Buffer, CudaDevice, F16, KvPages, KvSource, PAGE_TOKENS, Placement, RotaryTurns, convert, place, rms_norm,
};

use super::DeviceWeights;
use super::attention::{Attention, Seeing};
use crate::decoder::ForwardSequence;
use crate::{DecoderConfig, DecoderModel, Result};

/// Rows of sequences as the processor knows them.
pub(super) struct Rows {
    hidden: Vec<f32>,
    positions: Vec<u32>,
    /// Where their keys and values go in the arena.
    slots: Vec<u32>,
}

impl Rows {
    pub fn of(model: &DecoderModel, sequences: &[ForwardSequence<'_>]) -> Result<Self> {
        let rows = || sequences.iter().map(|sequence| &sequence.rows);
        let positions: Vec<u32> = rows().flat_map(|rows| rows.positions).copied().collect();
        let hidden = model.embed(rows().flat_map(|rows| rows.tokens).copied(), positions.len())?;
        Ok(Self { hidden, positions, slots: sequences.iter().flat_map(slots_in_arena).collect() })
    }

    pub fn len(&self) -> usize {
        self.positions.len()
    }
}

fn slots_in_arena(sequence: &ForwardSequence<'_>) -> Vec<u32> {
    let pages = sequence.cache.pages_on_device().expect("the caches of a forward were checked");
    let slot = |slot: &usize| pages[slot / PAGE_TOKENS] * PAGE_TOKENS as u32 + (slot % PAGE_TOKENS) as u32;
    sequence.rows.slots.iter().map(slot).collect()
}

/// Rows on their way through the layers.
#[derive(Debug)]
pub(super) struct Pass {
    /// `[n_rows, hidden_dim]`; behind the last layer what that gave.
    pub hidden: Buffer<f32>,
    turns: RotaryTurns,
    local_turns: Option<RotaryTurns>,
    /// The turn of each row is its own.
    turn_of: Buffer<u32>,
    placement: Placement,
    attention: Attention,
    room: Room,
}

impl Pass {
    pub fn new(
        model: &DecoderModel,
        device: &CudaDevice,
        rows: &Rows,
        attention: Attention,
        n_pages: usize,
    ) -> Result<Self> {
        let n_rows = rows.len();
        let own = 0..n_rows as u32;
        let turns = |rotary| RotaryTurns::at(device, rotary, &rows.positions);
        Ok(Self {
            hidden: device.upload(&rows.hidden)?,
            turns: turns(&model.rotary)?,
            local_turns: model.local_rotary.as_ref().map(turns).transpose()?,
            turn_of: device.upload(&own.clone().collect::<Vec<_>>())?,
            placement: Placement::new(device, &rows.slots, &own.map(Some).collect::<Vec<_>>(), n_pages)?,
            attention,
            room: Room::new(device, &model.config, n_rows)?,
        })
    }

    /// Makes this the pass of as many other rows, which see other keys; see [`Attention::set`].
    pub fn set(&mut self, model: &DecoderModel, rows: &Rows, seeing: &[Seeing<'_>], pages: &KvPages) -> Result<()> {
        self.hidden.write(0, &rows.hidden)?;
        self.turns.set(&model.rotary, &rows.positions)?;
        if let (Some(turns), Some(rotary)) = (&mut self.local_turns, &model.local_rotary) {
            turns.set(rotary, &rows.positions)?;
        }
        self.placement.set(&rows.slots)?;
        self.attention.set(seeing, pages)
    }

    /// Takes the rows through all layers and the final norm. It asks the same of the device each time.
    pub fn run(&mut self, weights: &DeviceWeights, config: &DecoderConfig, pages: &mut KvPages) -> KernelResult<()> {
        let Self { hidden, turns, local_turns, turn_of, placement, attention, room } = self;
        let first_norm = weights.layers.first().map_or(&weights.norm, |layer| &layer.attention_norm);
        rms_norm(hidden, first_norm, config.rms_eps, &mut room.normed)?;
        for (i, layer) in weights.layers.iter().enumerate() {
            let turns = local_turns.as_ref().filter(|_| config.windows[i].is_some()).unwrap_or(turns);
            layer.project(config, turn_of, turns, room)?;
            let source = KvSource {
                keys: &room.key,
                values: &room.value,
                key_start: 0,
                value_start: 0,
                token_stride: config.n_kv_heads * config.head_dim,
                layer_stride: 0,
            };
            place(&source, placement, turns, pages, i..i + 1)?;
            attention.attend(config, i, &convert(&room.query)?, pages, &mut room.mixed)?;
            let next_norm = weights.layers.get(i + 1).map_or(&weights.norm, |layer| &layer.attention_norm);
            layer.finish(config, &convert(&room.mixed)?, hidden, next_norm, room)?;
        }
        Ok(())
    }

    /// The rows behind the final norm.
    pub fn normed(&self) -> &Buffer<f32> {
        &self.room.normed
    }
}

/// Room that the layers share, `[n_rows, …]`.
#[derive(Debug)]
pub(super) struct Room {
    pub normed: Buffer<f32>,
    pub query: Buffer<f32>,
    pub key: Buffer<f32>,
    pub value: Buffer<f32>,
    mixed: Buffer<F16>,
    /// What a part of a layer adds to the hidden state.
    pub added: Buffer<f32>,
    pub gate: Buffer<f32>,
    pub up: Buffer<f32>,
    pub inner: Buffer<f32>,
}

impl Room {
    fn new(device: &CudaDevice, config: &DecoderConfig, n_rows: usize) -> Result<Self> {
        let room = |width: usize| device.filled(0, n_rows * width);
        let (q_dim, kv_dim) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        Ok(Self {
            normed: room(config.hidden_dim)?,
            query: room(q_dim)?,
            key: room(kv_dim)?,
            value: room(kv_dim)?,
            mixed: device.filled(0, n_rows * q_dim)?,
            added: room(config.hidden_dim)?,
            gate: room(config.ffn_dim)?,
            up: room(config.ffn_dim)?,
            inner: room(config.ffn_dim)?,
        })
    }
}
