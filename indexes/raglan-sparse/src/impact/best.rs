//! The best chunks so far.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use raglan_core::{ChunkId, Hit};

/// The best `k` chunks of a stream, ties by lower id, in whatever order they come.
pub struct Best {
    k: usize,
    /// What 1 is worth as a score.
    unit: f64,
    /// The bits of a score, then those of the id turned around: greater is better, for scores are positive.
    heap: BinaryHeap<Reverse<u64>>,
    floor: u32,
}

impl Best {
    /// Of nothing yet; `k` is at least 1.
    pub fn new(k: usize, unit: f64) -> Self {
        Self { k, unit, heap: BinaryHeap::new(), floor: 1 }
    }

    /// How many are wanted.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Sums below this one cannot be among the best any more; at least 1.
    #[inline]
    pub fn floor(&self) -> u32 {
        self.floor
    }

    /// Adds a chunk.
    #[inline]
    pub fn push(&mut self, sum: u32, id: u32) {
        if sum < self.floor {
            return;
        }
        let score = (f64::from(sum) * self.unit) as f32;
        let key = u64::from(score.to_bits()) << 32 | u64::from(!id);
        if self.heap.len() < self.k {
            self.heap.push(Reverse(key));
            if self.heap.len() < self.k {
                return;
            }
        } else {
            let mut worst = self.heap.peek_mut().expect("k is at least 1");
            if key <= worst.0 {
                return;
            }
            *worst = Reverse(key);
        }
        let worst = self.heap.peek().expect("k is at least 1").0;
        let worst = f64::from(f32::from_bits((worst >> 32) as u32)) / self.unit;
        // Sums so near to each other may be the same score.
        self.floor = ((worst * (1.0 - f64::from(f32::EPSILON) * 2.0)) as u32).max(1);
    }

    /// The chunks, in no order.
    pub fn into_hits(self) -> Vec<Hit> {
        let hit = |Reverse(key): Reverse<u64>| Hit::new(ChunkId(!(key as u32)), f32::from_bits((key >> 32) as u32));
        self.heap.into_iter().map(hit).collect()
    }
}
