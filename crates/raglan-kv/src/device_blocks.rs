//! Blocks that stay on a device.

use std::collections::HashMap;

use raglan_kernels::cuda::{F16, Uploaded};

use crate::{BlockKey, BlockPrecision, KvBlock};

/// Blocks in a device's memory as they were computed, so that whoever takes one over again has nothing to upload. Those
/// that were used longest ago go first.
#[derive(Default)]
pub(crate) struct DeviceBlocks {
    /// In bytes.
    budget: usize,
    n_bytes: usize,
    blocks: HashMap<Name, DeviceBlock>,
    /// Counts loads.
    now: u64,
}

/// What a block's numbers depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    key: BlockKey,
    precision: BlockPrecision,
    start: u32,
    n_tokens: usize,
}

/// Half floats of all layers.
pub(crate) struct DeviceBlock {
    pub numbers: Uploaded<F16>,
    pub place: HalvesPlace,
    last_use: u64,
}

/// Where the parts of a block lie in half floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HalvesPlace {
    /// Where the first layer's keys begin.
    pub keys: usize,
    /// Where its values begin.
    pub values: usize,
    /// From a layer to the next.
    pub layer_stride: usize,
}

impl Name {
    /// None of a block of which nobody said what it depends on.
    pub fn of(block: &KvBlock) -> Option<Self> {
        let (key, precision) = (*block.key(), block.precision());
        let name = Self { key, precision, start: block.start(), n_tokens: block.n_tokens() };
        (key != BlockKey::default()).then_some(name)
    }
}

impl DeviceBlocks {
    pub fn budget(&self) -> usize {
        self.budget
    }

    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Sets what blocks may take, for which some go.
    pub fn set_budget(&mut self, n_bytes: usize) {
        self.budget = n_bytes;
        self.make_room(0, u64::MAX);
    }

    /// Begins a load of some blocks: gives its number, and which of them are there. Those stay until a later one.
    pub fn begin<'a>(&mut self, blocks: impl Iterator<Item = &'a KvBlock>) -> (u64, Vec<bool>) {
        self.now += 1;
        let load = self.now;
        (load, blocks.map(|block| self.get(Name::of(block), load).is_some()).collect())
    }

    /// A block that is there, for this load.
    pub fn get(&mut self, name: Option<Name>, load: u64) -> Option<&mut DeviceBlock> {
        let block = self.blocks.get_mut(&name?)?;
        block.last_use = block.last_use.max(load);
        Some(block)
    }

    /// Lets blocks go that no load since this one used, until there is room for so many bytes; or says that there is none.
    pub fn make_room(&mut self, n_bytes: usize, load: u64) -> bool {
        let mut old: Vec<(u64, Name)> = Vec::new();
        let mut spare = 0;
        for (name, block) in self.blocks.iter().filter(|(_, block)| block.last_use < load) {
            old.push((block.last_use, *name));
            spare += block.n_bytes();
        }
        if self.n_bytes - spare + n_bytes > self.budget {
            return false;
        }
        old.sort_unstable_by_key(|(last_use, _)| *last_use);
        for (_, name) in old {
            if self.n_bytes + n_bytes <= self.budget {
                break;
            }
            self.remove(&name);
        }
        true
    }

    /// Takes in a block, which `make_room` has room for.
    pub fn insert(&mut self, name: Name, numbers: Uploaded<F16>, place: HalvesPlace, load: u64) {
        self.remove(&name);
        let block = DeviceBlock { numbers, place, last_use: load };
        self.n_bytes += block.n_bytes();
        self.blocks.insert(name, block);
    }

    fn remove(&mut self, name: &Name) {
        if let Some(block) = self.blocks.remove(name) {
            self.n_bytes -= block.n_bytes();
        }
    }
}

impl DeviceBlock {
    fn n_bytes(&self) -> usize {
        self.numbers.len() * size_of::<F16>()
    }
}
