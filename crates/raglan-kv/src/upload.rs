//! Blocks on their way to a device.

use std::ops::Range;

use raglan_kernels::cuda::{
    Buffer, CudaDevice, F16, KvPages, KvSource, Placement, RotaryTurns, StagedUploads, place_some,
};
use raglan_kernels::{Result as KernelResult, RotaryEmbedding};

use crate::block::Halves;
use crate::cache::DevicePages;
use crate::device_blocks::{DeviceBlocks, HalvesPlace, Name};
use crate::{KvBlock, KvCache, LayerRotary, Result};

/// Bytes that go in one piece at most, if a layer is not more: enough that its copy takes longer than to ask for it.
const PIECE: usize = 4 << 20;
/// Half of the pinned memory.
const PINNED: usize = PIECE;

/// What blocks go to an arena's pages by, and those that stay beside them.
#[derive(Default)]
pub(crate) struct Uploads {
    /// Once one went there.
    staged: Option<StagedUploads<F16>>,
    pub blocks: DeviceBlocks,
}

impl Uploads {
    fn staged(&mut self, device: &CudaDevice) -> Result<&mut StagedUploads<F16>> {
        Ok(match &mut self.staged {
            Some(staged) => staged,
            none => none.insert(StagedUploads::new(device, PINNED)?),
        })
    }
}

/// Blocks that are uploaded one after the other.
pub(crate) struct Uploading<'a> {
    arena: &'a DevicePages,
    device: CudaDevice,
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
            device: device.clone(),
            placement: Placement::new(device, &slots, &turn_of, pages.n_pages())?,
            turns: turns.collect::<Result<_>>()?,
            dim: pages.n_kv_heads() * pages.head_dim(),
            n_tokens: blocks.map(|(block, _)| block.n_tokens()).collect::<Vec<_>>().into_iter(),
            n_put: 0,
        })
    }

    /// Takes over all layers of blocks, which is under way when this returns. One is read from its file while others go up;
    /// those that are on the device already are not read.
    pub(crate) fn load_on_device(
        &self,
        blocks: &[(KvBlock, Range<usize>)],
        n_layers: usize,
        rotaries: &dyn LayerRotary,
    ) -> Result<()> {
        let mut uploading = self.upload(blocks.iter().map(|(block, slots)| (block, slots)), 0..n_layers, rotaries)?;
        let (load, is_there) = uploading.arena.uploads().blocks.begin(blocks.iter().map(|(block, _)| block));
        std::thread::scope(|scope| {
            let (sender, ahead) = std::sync::mpsc::sync_channel(1);
            scope.spawn(move || {
                let mut read = blocks.iter().zip(is_there).map(|((block, _), is_there)| match is_there {
                    true => Ok(None),
                    false => block.resident().map(Some),
                });
                read.try_for_each(|block| sender.send(block))
            });
            blocks.iter().zip(ahead).try_for_each(|((block, _), read)| {
                let (name, read) = (Name::of(block), read?);
                let tokens = uploading.next_tokens();
                if uploading.put_again(name, load, tokens.clone())? {
                    return Ok(());
                }
                // One that was there may have gone since.
                let read = read.map_or_else(|| block.resident(), Ok)?;
                let halves = read.halves(0..n_layers, None, rotaries)?;
                match name {
                    Some(name) => uploading.put_to_stay(name, load, &halves, tokens),
                    None => uploading.put(&halves, tokens),
                }
            })
        })
    }
}

impl Uploading<'_> {
    /// The tokens of the next block in the placement.
    pub fn next_tokens(&mut self) -> Range<usize> {
        let n_tokens = self.n_tokens.next().expect("there are as many blocks as it was begun for");
        let tokens = self.n_put..self.n_put + n_tokens;
        self.n_put = tokens.end;
        tokens
    }

    /// Puts a block's layers in their place, all of them.
    pub fn put(&self, block: &Halves<'_>, tokens: Range<usize>) -> Result<()> {
        for (numbers, layers) in self.pieces(block) {
            let mut uploads = self.arena.uploads();
            let staged = uploads.staged(&self.device)?;
            staged.upload(F16::of_bits(numbers))?;
            // Others' passes may come between two pieces, but not into what is asked of the device for one.
            let mut pages = self.arena.pages();
            let first = layers.start;
            staged.work_on(|numbers| self.place(numbers, first, &block.place, layers, tokens.clone(), &mut pages))?;
        }
        Ok(())
    }

    /// The same, into memory of its own where there is room for it, so that it is there the next time.
    fn put_to_stay(&self, name: Name, load: u64, block: &Halves<'_>, tokens: Range<usize>) -> Result<()> {
        let mut uploads = self.arena.uploads();
        if !uploads.blocks.make_room(size_of_val(&*block.numbers), load) {
            drop(uploads);
            return self.put(block, tokens);
        }
        let Ok(mut room) = uploads.staged(&self.device)?.room(block.numbers.len()) else {
            // Memory that others have meanwhile.
            drop(uploads);
            return self.put(block, tokens);
        };
        let first = self.first_layer();
        for (numbers, layers) in self.pieces(block) {
            let staged = uploads.staged(&self.device)?;
            staged.append(&mut room, F16::of_bits(numbers))?;
            let mut pages = self.arena.pages();
            let place = |numbers: &_| self.place(numbers, first, &block.place, layers, tokens.clone(), &mut pages);
            staged.work_on_room(&mut room, place)?;
        }
        uploads.blocks.insert(name, room, block.place, load);
        Ok(())
    }

    /// Puts a block's layers in their place if it is on the device.
    fn put_again(&self, name: Option<Name>, load: u64, tokens: Range<usize>) -> Result<bool> {
        let mut uploads = self.arena.uploads();
        let Uploads { staged: Some(staged), blocks } = &mut *uploads else { return Ok(false) };
        let Some(block) = blocks.get(name, load) else { return Ok(false) };
        let (first, place) = (self.first_layer(), block.place);
        let layers = first..self.turns.last().map_or(first, |(layers, _)| layers.end);
        let mut pages = self.arena.pages();
        staged.work_on_room(&mut block.numbers, |numbers| {
            self.place(numbers, first, &place, layers, tokens, &mut pages)
        })?;
        Ok(true)
    }

    fn first_layer(&self) -> usize {
        self.turns.first().map_or(0, |(layers, _)| layers.start)
    }

    /// What goes in one piece, and the layers that it is of.
    fn pieces<'b>(&self, block: &'b Halves<'_>) -> impl Iterator<Item = (&'b [u16], Range<usize>)> + use<'b> {
        let layer_stride = block.place.layer_stride.max(1);
        let together = (PIECE / size_of::<F16>() / layer_stride).max(1);
        let first = self.first_layer();
        block.numbers.chunks(together * layer_stride).enumerate().map(move |(i, numbers)| {
            let here = first + i * together;
            (numbers, here..here + numbers.len() / layer_stride)
        })
    }

    /// Turns layers of a block, whose numbers begin with those of the layer `first`, to their places.
    fn place(
        &self,
        numbers: &Buffer<F16>,
        first: usize,
        &HalvesPlace { keys, values, layer_stride }: &HalvesPlace,
        these: Range<usize>,
        tokens: Range<usize>,
        pages: &mut KvPages,
    ) -> KernelResult<()> {
        for (layers, turns) in &self.turns {
            let layers = layers.start.max(these.start)..layers.end.min(these.end);
            if layers.is_empty() {
                continue;
            }
            let skipped = (layers.start - first) * layer_stride;
            let source = KvSource {
                keys: numbers,
                values: numbers,
                key_start: skipped + keys,
                value_start: skipped + values,
                token_stride: self.dim,
                layer_stride,
            };
            place_some(&source, &self.placement, tokens.clone(), turns, pages, layers)?;
        }
        Ok(())
    }
}
