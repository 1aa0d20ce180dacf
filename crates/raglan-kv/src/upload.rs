//! Blocks on their way to a device.

use std::ops::Range;
use std::sync::PoisonError;

use raglan_kernels::RotaryEmbedding;
use raglan_kernels::cuda::{F16, KvSource, Placement, RotaryTurns, StagedUploads, place_some};

use crate::block::Halves;
use crate::cache::DevicePages;
use crate::{KvBlock, KvCache, LayerRotary, Result};

/// Bytes that go in one piece at most, if a layer is not more: enough that its copy takes longer than to ask for it.
const PIECE: usize = 4 << 20;
/// Half of the pinned memory.
const PINNED: usize = PIECE;

/// Blocks that are uploaded one after the other.
pub(crate) struct Uploading<'a> {
    arena: &'a DevicePages,
    placement: Placement,
    /// Layers that follow one another and turn alike, and their turns, one a block.
    turns: Vec<(Range<usize>, RotaryTurns)>,
    /// Numbers of a token in a layer.
    dim: usize,
    /// How many tokens each block has that is to come.
    n_tokens: std::vec::IntoIter<usize>,
    /// How many tokens are on their way.
    n_put: usize,
}

impl KvCache {
    /// Begins to put layers of blocks into slots, to whose positions their keys are turned on the way. All that the device
    /// has to know besides goes there now, so that nothing waits for the device later.
    pub(crate) fn upload<'a, 'b>(
        &'a self,
        blocks: impl Iterator<Item = (&'b KvBlock, &'b Range<usize>)> + Clone,
        layers: Range<usize>,
        rotaries: &dyn LayerRotary,
    ) -> Result<Uploading<'a>> {
        let first = self.check_slots(blocks.clone())?;
        let delta = |(block, first): (&KvBlock, u32)| i64::from(first) - i64::from(block.start());
        let deltas: Vec<i64> = blocks.clone().map(|(block, _)| block).zip(first).map(delta).collect();
        let slots: Vec<u32> =
            blocks.clone().flat_map(|(_, slots)| slots.clone().map(|slot| self.device_slot(slot))).collect();
        let turn_of = blocks.clone().zip(&deltas).enumerate();
        let turn_of: Vec<Option<u32>> =
            turn_of.flat_map(|(i, ((_, slots), delta))| vec![(*delta != 0).then_some(i as u32); slots.len()]).collect();
        let mut alike: Vec<(Range<usize>, &RotaryEmbedding)> = Vec::new();
        for layer in layers {
            let rotary = rotaries.rotary(layer);
            match alike.last_mut() {
                Some((layers, last)) if std::ptr::eq(*last, rotary) => layers.end += 1,
                _ => alike.push((layer..layer + 1, rotary)),
            }
        }
        let arena = self.arena().on_its_device().expect("the cache is on a device");
        let pages = arena.pages();
        let device = pages.device();
        let turns = alike.into_iter().map(|(layers, rotary)| Ok((layers, RotaryTurns::by(device, rotary, &deltas)?)));
        Ok(Uploading {
            arena,
            placement: Placement::new(device, &slots, &turn_of, pages.n_pages())?,
            turns: turns.collect::<Result<_>>()?,
            dim: pages.n_kv_heads() * pages.head_dim(),
            n_tokens: blocks.map(|(block, _)| block.n_tokens()).collect::<Vec<_>>().into_iter(),
            n_put: 0,
        })
    }
}

impl Uploading<'_> {
    /// Puts the next block's layers in their place, all of them.
    pub fn put(&mut self, block: &Halves<'_>) -> Result<()> {
        let &Halves { ref numbers, keys, values, layer_stride } = block;
        let n_tokens = self.n_tokens.next().expect("there are as many blocks as it was begun for");
        let tokens = self.n_put..self.n_put + n_tokens;
        self.n_put = tokens.end;
        let together = (PIECE / size_of::<F16>() / layer_stride.max(1)).max(1);
        let first = self.turns.first().map_or(0, |(layers, _)| layers.start);
        for (i, numbers) in numbers.chunks((together * layer_stride).max(1)).enumerate() {
            let here = first + i * together;
            let piece = here..here + numbers.len() / layer_stride;
            let mut uploads = self.arena.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            let uploads = match &mut *uploads {
                Some(uploads) => uploads,
                none => none.insert(StagedUploads::new(self.arena.pages().device(), PINNED)?),
            };
            uploads.upload(F16::of_bits(numbers))?;
            // Others' passes may come between two pieces, but not into what is asked of the device for one.
            let mut pages = self.arena.pages();
            uploads.work_on(|numbers| {
                for (layers, turns) in &self.turns {
                    let layers = layers.start.max(piece.start)..layers.end.min(piece.end);
                    if layers.is_empty() {
                        continue;
                    }
                    let skipped = (layers.start - piece.start) * layer_stride;
                    let source = KvSource {
                        keys: numbers,
                        values: numbers,
                        key_start: skipped + keys,
                        value_start: skipped + values,
                        token_stride: self.dim,
                        layer_stride,
                    };
                    place_some(&source, &self.placement, tokens.clone(), turns, &mut pages, layers)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
