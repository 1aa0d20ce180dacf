//! What chunks cost and cover, against reference passages of one document.
//!
//! Everything is counted in bytes of the document: `covered` is how much of the references lies in retrieved chunks,
//! each byte once. The definitions are those of Chroma's `chunking_evaluation` (Smith and Troynikov, 2024).

use std::ops::Range;

use serde::Serialize;

/// How well retrieved chunks fit the references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ChunkingScore {
    /// `covered / length of the references`.
    pub recall: f64,
    /// `covered / Σ length of the chunks`: text that two chunks share is paid for twice.
    pub precision: f64,
    /// `covered / (Σ length of the chunks + uncovered length of the references)`.
    pub iou: f64,
}

/// Compares the chunks retrieved for a question with the passages that answer it.
///
/// Ranges may overlap and come in any order; references that overlap count once. A quotient without a denominator is 0.
pub fn score(references: &[Range<usize>], retrieved: &[Range<usize>]) -> ChunkingScore {
    let references = union(references.iter().cloned());
    let wanted = length(&references);
    let covered = overlap(&references, &union(retrieved.iter().cloned()));
    let paid: usize = retrieved.iter().map(ExactSizeIterator::len).sum();
    ChunkingScore {
        recall: ratio(covered, wanted),
        precision: ratio(covered, paid),
        iou: ratio(covered, paid + wanted - covered),
    }
}

/// Precision-Ω: the precision left when every chunk that touches a reference, and no other, is retrieved, so that it
/// judges where the chunker cuts and not who searches.
///
/// `covered / length of (touching chunks ∪ references)`, overlaps counted once. 0 when no chunk touches a reference.
pub fn precision_omega(references: &[Range<usize>], all_chunks: &[Range<usize>]) -> f64 {
    let references = union(references.iter().cloned());
    let touching = union(all_chunks.iter().filter(|chunk| touches(&references, chunk)).cloned());
    let covered = overlap(&references, &touching);
    ratio(covered, length(&touching) + length(&references) - covered)
}

/// The same bytes as disjoint, non-empty ranges in ascending order.
fn union(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = ranges.filter(|range| !range.is_empty()).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

fn length(disjoint: &[Range<usize>]) -> usize {
    disjoint.iter().map(ExactSizeIterator::len).sum()
}

/// How many bytes two unions share.
fn overlap(a: &[Range<usize>], b: &[Range<usize>]) -> usize {
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        shared += a[i].end.min(b[j].end).saturating_sub(a[i].start.max(b[j].start));
        if a[i].end <= b[j].end {
            i += 1;
        } else {
            j += 1;
        }
    }
    shared
}

/// Whether a range shares a byte with a union.
fn touches(union: &[Range<usize>], range: &Range<usize>) -> bool {
    let first = union.partition_point(|part| part.end <= range.start);
    union.get(first).is_some_and(|part| part.start < range.end)
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one reference, one chunk")]
mod tests {
    use super::*;

    #[track_caller]
    fn check(references: &[Range<usize>], retrieved: &[Range<usize>], recall: f64, precision: f64, iou: f64) {
        assert_eq!(score(references, retrieved), ChunkingScore { recall, precision, iou });
    }

    #[test]
    fn a_chunk_that_is_the_reference_is_perfect() {
        check(&[10..20], &[10..20], 1.0, 1.0, 1.0);
    }

    #[test]
    fn half_a_reference_in_a_longer_chunk() {
        // Covered 15..20: 5 of 10; chunk 25 long; iou 5 / (25 + 5).
        check(&[10..20], &[15..40], 5.0 / 10.0, 5.0 / 25.0, 5.0 / 30.0);
    }

    #[test]
    fn a_chunk_found_twice_is_paid_twice_and_covers_once() {
        check(&[10..20], &[0..20, 0..20], 10.0 / 10.0, 10.0 / 40.0, 10.0 / 40.0);
        // They share 15..20, all of it in the reference: covered 10, paid 20 + 25.
        check(&[10..20], &[15..40, 0..20], 10.0 / 10.0, 10.0 / 45.0, 10.0 / 45.0);
    }

    #[test]
    fn references_that_overlap_count_once() {
        // 0..15 is 15 long, 5 of them covered by a chunk of 10; iou 5 / (10 + 10).
        check(&[5..15, 0..10], &[10..20], 5.0 / 15.0, 5.0 / 10.0, 5.0 / 20.0);
    }

    #[test]
    fn several_of_both() {
        // References 0..10 and 30..40; chunks 5..35 and 38..50 cover 5..10, 30..35 and 38..40: 12 of 20, paid 42.
        check(&[30..40, 0..10], &[38..50, 5..35], 12.0 / 20.0, 12.0 / 42.0, 12.0 / 50.0);
    }

    #[test]
    fn nothing_gives_zero() {
        check(&[10..20], &[], 0.0, 0.0, 0.0);
        check(&[], &[10..20], 0.0, 0.0, 0.0);
        check(&[], &[], 0.0, 0.0, 0.0);
        check(&[10..20], &[20..30, 0..10], 0.0, 0.0, 0.0);
    }

    #[test]
    fn precision_omega_takes_every_touching_chunk() {
        // 0..10 and 10..20 touch 5..15, which they cover; 20..30 does not: 10 / 20.
        assert_eq!(precision_omega(&[5..15], &[20..30, 0..10, 10..20]), 10.0 / 20.0);
        // Chunks that share 5..10 are counted once: 10 / (0..20).
        assert_eq!(precision_omega(&[5..15], &[0..10, 5..20]), 10.0 / 20.0);
        // 10..15 is in no chunk: 5 covered, 10 of the chunk and 5 uncovered.
        assert_eq!(precision_omega(&[5..15], &[0..10]), 5.0 / 15.0);
        assert_eq!(precision_omega(&[5..15], &[15..20, 0..5]), 0.0);
        assert_eq!(precision_omega(&[], &[0..5]), 0.0);
    }
}
