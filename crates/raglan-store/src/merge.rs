//! Which segments to merge, so that their number grows with the logarithm of the index.

use crate::{SegmentEntry, SegmentId};

/// Segments of one tier that are left alone; one more and they are merged.
const PER_TIER: usize = 8;
/// Chunks of the largest segment in the lowest tier: below this a merge costs less than keeping track of it.
const LOWEST_TIER: u64 = 1 << 10;
/// Share of deleted chunks, in percent, beyond which a segment is rewritten.
const MOST_DELETED: u64 = 30;

/// The groups of segments that should each become one, in order of their first segment; none when all is well.
///
/// A segment's tier is the logarithm, base 8, of its live chunks. A tier with more than 8 segments is merged
/// into one, which belongs to a tier above; so a chunk is rewritten once a tier, and there are at most 8 segments a
/// tier. A segment of which more than 30 % is deleted is merged with its tier, if that is merged, or else rewritten
/// by itself. Plan again after a merge: it may have filled the next tier.
pub fn merge_plan(segments: &[SegmentEntry]) -> Vec<Vec<SegmentId>> {
    let mut tiers: Vec<Vec<&SegmentEntry>> = Vec::new();
    for segment in segments {
        let tier = tier(segment);
        if tiers.len() <= tier {
            tiers.resize(tier + 1, Vec::new());
        }
        tiers[tier].push(segment);
    }
    let mut plan: Vec<Vec<SegmentId>> = Vec::new();
    for tier in tiers {
        if tier.len() > PER_TIER {
            plan.push(tier.iter().map(|segment| segment.id).collect());
        } else {
            plan.extend(tier.iter().filter(|segment| is_worn(segment)).map(|segment| vec![segment.id]));
        }
    }
    for group in &mut plan {
        group.sort_unstable();
    }
    plan.sort_unstable();
    plan
}

fn tier(segment: &SegmentEntry) -> usize {
    let mut ceiling = LOWEST_TIER;
    let mut tier = 0;
    while u64::from(segment.n_live()) > ceiling {
        ceiling *= PER_TIER as u64;
        tier += 1;
    }
    tier
}

fn is_worn(segment: &SegmentEntry) -> bool {
    u64::from(segment.n_deleted) * 100 > u64::from(segment.n_chunks) * MOST_DELETED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(id: u32, n_chunks: u32, n_deleted: u32) -> SegmentEntry {
        SegmentEntry { id: SegmentId(id), n_chunks, n_deleted, files: Vec::new() }
    }

    #[track_caller]
    fn check(segments: &[(u32, u32)], expected: &[&[u32]]) {
        let segments: Vec<_> =
            segments.iter().zip(0..).map(|(&(n_chunks, n_deleted), id)| segment(id, n_chunks, n_deleted)).collect();
        let plan: Vec<Vec<u32>> =
            merge_plan(&segments).iter().map(|group| group.iter().map(|id| id.0).collect()).collect();
        assert_eq!(plan, expected);
    }

    #[test]
    fn a_full_tier_is_merged_and_others_are_left_alone() {
        check(&[], &[]);
        check(&[(10, 0); 8], &[]);
        check(&[(10, 0); 9], &[&[0, 1, 2, 3, 4, 5, 6, 7, 8]]);
        let mut mixed = vec![(1_000_000, 0)];
        mixed.extend([(1024, 0); 9]);
        mixed.extend([(1025, 0); 8]);
        check(&mixed, &[&[1, 2, 3, 4, 5, 6, 7, 8, 9]]);
    }

    #[test]
    fn a_worn_segment_is_rewritten() {
        check(&[(100, 30), (100, 31), (50_000, 40_000)], &[&[1], &[2]]);
        let mut full = vec![(100, 90)];
        full.extend([(10, 0); 8]);
        check(&full, &[&[0, 1, 2, 3, 4, 5, 6, 7, 8]]);
    }

    /// Adds many segments, merging as planned, and checks number and cost against what the tiers promise.
    #[test]
    fn the_number_of_segments_and_the_work_are_logarithmic() {
        let (mut segments, mut next_id, mut rewritten) = (Vec::new(), 0, 0u64);
        let (n_commits, per_commit) = (5000, 200);
        for _ in 0..n_commits {
            segments.push(segment(next_id, per_commit, 0));
            next_id += 1;
            loop {
                let plan = merge_plan(&segments);
                let Some(group) = plan.first() else { break };
                let n_chunks: u32 = segments.iter().filter(|s| group.contains(&s.id)).map(|s| s.n_chunks).sum();
                segments.retain(|segment| !group.contains(&segment.id));
                segments.push(segment(next_id, n_chunks, 0));
                rewritten += u64::from(n_chunks);
                next_id += 1;
            }
            assert!(segments.len() <= 8 * 5, "{} segments", segments.len()); // 10⁶ chunks reach tier 4: 1024 · 8⁴ > 10⁶.
        }
        let total = u64::from(per_commit) * n_commits;
        assert!(rewritten <= total * 5, "{rewritten} chunks were rewritten for {total}");
    }
}
