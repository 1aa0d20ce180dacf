//! Block-max pruning (BMP, Mallia, Suel and Tonellotto 2024): blocks in the order of what they can hold at most.

use std::cell::RefCell;

use super::best::Best;
use super::forward::Weights;
use super::part::{Part, TermRuns};

/// Bounds are sorted by as many bits as this; the rest is not worth the time.
const BUCKET_BITS: u32 = 10;

#[derive(Default)]
struct Scratch {
    /// By block; all 0 between searches.
    bounds: Vec<u32>,
    /// By bucket, where its blocks begin.
    buckets: Vec<u32>,
    /// Blocks, the greatest bounds first.
    blocks: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Adds the best chunks of a part, of those whose bits are in `mask`.
///
/// The bound of a block is `Σ_t weight_t · (greatest impact of t in the block)`. Blocks are scored from the greatest
/// bound down, by the `weights` of all terms, until no bound reaches the sum that is needed to be among the best.
pub fn block_max(part: &Part, runs: &[TermRuns<'_>], weights: &Weights, mask: &[u64], best: &mut Best) {
    SCRATCH.with_borrow_mut(|Scratch { bounds, buckets, blocks }| {
        if bounds.len() < mask.len() {
            bounds.resize(mask.len(), 0);
        }
        let bounds = &mut bounds[..mask.len()];
        for runs in runs {
            for (&block, &max) in runs.blocks.iter().zip(runs.maxima) {
                if let Some(bound) = bounds.get_mut(block as usize) {
                    *bound = bound.wrapping_add(runs.weight * u32::from(max));
                }
            }
        }
        let most = bounds.iter().copied().max().unwrap_or(0);
        let shift = (u32::BITS - most.leading_zeros()).saturating_sub(BUCKET_BITS);
        sort_into_buckets(bounds, shift, mask, best.floor(), buckets, blocks);
        for &block in blocks.iter() {
            let (bound, floor) = (bounds[block as usize], best.floor());
            if bound >= floor {
                part.score_block(block as usize, mask[block as usize], weights, best);
            } else if bound >> shift < floor >> shift {
                break; // Later blocks are of this bucket or a lower one, and even this one lies below the floor.
            }
        }
        bounds.fill(0);
    });
}

/// The blocks with something in `mask` whose bounds reach `floor`, by the upper bits of their bounds, greatest first.
fn sort_into_buckets(
    bounds: &[u32],
    shift: u32,
    mask: &[u64],
    floor: u32,
    buckets: &mut Vec<u32>,
    blocks: &mut Vec<u32>,
) {
    buckets.clear();
    buckets.resize((1 << BUCKET_BITS) + 1, 0);
    let wanted = |block: usize| bounds[block] >= floor && mask[block] != 0;
    let bucket_of = |block: usize| (1 << BUCKET_BITS) - 1 - (bounds[block] >> shift) as usize;
    for block in (0..bounds.len()).filter(|&block| wanted(block)) {
        buckets[bucket_of(block) + 1] += 1;
    }
    for bucket in 1..buckets.len() {
        buckets[bucket] += buckets[bucket - 1];
    }
    blocks.clear();
    blocks.resize(buckets[buckets.len() - 1] as usize, 0);
    for block in (0..bounds.len()).filter(|&block| wanted(block)) {
        let place = &mut buckets[bucket_of(block)];
        blocks[*place as usize] = block as u32;
        *place += 1;
    }
}
