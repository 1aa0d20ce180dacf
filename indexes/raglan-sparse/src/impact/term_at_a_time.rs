//! All postings of some terms, one term after the other.

use std::cell::RefCell;

use super::max_score::{Collector, push_block};
use super::part::TermRuns;
use super::part_file::BLOCK;

thread_local! {
    /// By block, a sum for each of its docs; all 0 between searches.
    static SUMS: RefCell<Vec<[u32; BLOCK]>> = const { RefCell::new(Vec::new()) };
}

/// Gives `found` the docs of a part that reach its floor, of those whose bits are in `mask`.
///
/// Bounds pass over little of what learned weights spread so evenly; adding up everything takes less than asking them.
pub fn term_at_a_time(runs: &[TermRuns<'_>], mask: &[u64], found: &mut impl Collector) {
    SUMS.with_borrow_mut(|sums| {
        if sums.len() < mask.len() {
            sums.resize(mask.len(), [0; BLOCK]);
        }
        let sums = &mut sums[..mask.len()];
        for runs in runs {
            let mut posting = runs.first_posting(0);
            for (run, &block) in runs.blocks.iter().enumerate() {
                // A damaged file may name a block that is not there.
                let Some(sums) = sums.get_mut(block as usize) else { break };
                posting = runs.add(run, posting, sums);
            }
        }
        for (block, (sums, &mask)) in (0..).zip(sums.iter_mut().zip(mask)) {
            push_block(block, mask, sums, found);
            *sums = [0; BLOCK];
        }
    });
}
