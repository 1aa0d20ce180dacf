//! Sorting the suffixes of a text, in time linear in its length (SA-IS; Nong, Zhang and Chan 2009).
//!
//! A suffix is of type S when it is less than the one that begins a place later, else of type L; the end of the text is
//! less than anything. An S behind an L is a *leftmost* S (LMS). Once these are in order, one scan from the left puts the
//! L suffixes in order and one from the right the S suffixes. The same two scans put the pieces of text between LMS places
//! in order; equal pieces get equal names, and the order of the LMS suffixes is that of the text of names, which is at most
//! half as long.

use rayon::prelude::*;

/// A row of the array that has no suffix yet.
const EMPTY: u32 = u32::MAX;

/// Where the suffixes of a text begin, the suffixes in increasing order; one that another begins with comes first.
///
/// # Panics
///
/// When the text has 2³² − 1 tokens or more.
pub fn suffix_array(text: &[u32]) -> Vec<u32> {
    assert!(text.len() < EMPTY as usize, "places fit 32 bits");
    let mut alphabet = text.to_vec();
    alphabet.par_sort_unstable();
    alphabet.dedup();
    let rank = |token: &u32| alphabet.binary_search(token).expect("the alphabet has all tokens") as u32;
    let ranks: Vec<u32> = text.par_iter().map(rank).collect();
    sort_suffixes(&ranks, alphabet.len())
}

/// Like [`suffix_array`], of a text whose tokens are below `n_symbols`.
fn sort_suffixes(text: &[u32], n_symbols: usize) -> Vec<u32> {
    let n = text.len();
    if n <= 1 {
        return (0..n as u32).collect();
    }
    let induction = Induction::new(text, n_symbols);
    let lms: Vec<u32> = (1..n).filter(|&at| induction.is_lms(at)).map(|at| at as u32).collect();
    let by_piece = induction.induce(&lms);
    if lms.len() <= 1 {
        return by_piece;
    }

    // LMS places are at least two apart, so a half of the text's length has room for their names.
    let mut names = vec![EMPTY; n.div_ceil(2)];
    let mut ends = vec![0; n.div_ceil(2)];
    for (i, &at) in lms.iter().enumerate() {
        ends[at as usize / 2] = lms.get(i + 1).map_or(n, |&next| next as usize + 1);
    }
    let piece = |at: u32| &text[at as usize..ends[at as usize / 2]];
    let mut n_names = 0;
    let mut last: Option<u32> = None;
    for &at in by_piece.iter().filter(|&&at| induction.is_lms(at as usize)) {
        // A piece that ends with the text is like no other.
        let ends_here = |at: u32| ends[at as usize / 2] == n;
        let same = last.is_some_and(|last| !ends_here(last) && !ends_here(at) && piece(last) == piece(at));
        n_names += usize::from(!same);
        names[at as usize / 2] = n_names as u32 - 1;
        last = Some(at);
    }
    drop(ends);

    if n_names == lms.len() {
        let sorted: Vec<u32> = by_piece.into_iter().filter(|&at| induction.is_lms(at as usize)).collect();
        return induction.induce(&sorted);
    }
    drop(by_piece);
    let named: Vec<u32> = lms.iter().map(|&at| names[at as usize / 2]).collect();
    drop(names);
    let sorted: Vec<u32> = sort_suffixes(&named, n_names).into_iter().map(|i| lms[i as usize]).collect();
    induction.induce(&sorted)
}

/// Puts all suffixes in order, given that of some.
struct Induction<'a> {
    text: &'a [u32],
    /// Whether the suffix at each place is of type S.
    is_s: Vec<bool>,
    /// Where each symbol's rows begin, and where the last's end.
    buckets: Vec<u32>,
}

impl<'a> Induction<'a> {
    fn new(text: &'a [u32], n_symbols: usize) -> Self {
        let mut is_s = vec![false; text.len()];
        for at in (0..text.len() - 1).rev() {
            is_s[at] = if text[at] == text[at + 1] { is_s[at + 1] } else { text[at] < text[at + 1] };
        }
        let mut buckets = vec![0; n_symbols + 1];
        for &symbol in text {
            buckets[symbol as usize + 1] += 1;
        }
        for symbol in 0..n_symbols {
            buckets[symbol + 1] += buckets[symbol];
        }
        Self { text, is_s, buckets }
    }

    fn is_lms(&self, at: usize) -> bool {
        at > 0 && self.is_s[at] && !self.is_s[at - 1]
    }

    /// All suffixes in the order that follows from that of the LMS suffixes; by pieces, when those are in any order.
    fn induce(&self, lms: &[u32]) -> Vec<u32> {
        let n_symbols = self.buckets.len() - 1;
        let mut rows = vec![EMPTY; self.text.len()];
        let mut ends = self.buckets[1..].to_vec();
        for &at in lms.iter().rev() {
            place_last(&mut rows, &mut ends, self.text[at as usize], at);
        }

        let mut starts = self.buckets[..n_symbols].to_vec();
        let last = self.text.len() - 1;
        place_first(&mut rows, &mut starts, self.text[last], last as u32);
        for row in 0..rows.len() {
            let at = rows[row] as usize;
            if rows[row] != EMPTY && at > 0 && !self.is_s[at - 1] {
                place_first(&mut rows, &mut starts, self.text[at - 1], at as u32 - 1);
            }
        }

        ends.copy_from_slice(&self.buckets[1..]);
        for row in (0..rows.len()).rev() {
            let at = rows[row] as usize;
            if rows[row] != EMPTY && at > 0 && self.is_s[at - 1] {
                place_last(&mut rows, &mut ends, self.text[at - 1], at as u32 - 1);
            }
        }
        rows
    }
}

fn place_first(rows: &mut [u32], starts: &mut [u32], symbol: u32, at: u32) {
    let start = &mut starts[symbol as usize];
    rows[*start as usize] = at;
    *start += 1;
}

fn place_last(rows: &mut [u32], ends: &mut [u32], symbol: u32, at: u32) {
    let end = &mut ends[symbol as usize];
    *end -= 1;
    rows[*end as usize] = at;
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[track_caller]
    fn check(text: &[u32]) {
        let mut expected: Vec<u32> = (0..text.len() as u32).collect();
        expected.sort_by_key(|&at| &text[at as usize..]);
        assert_eq!(suffix_array(text), expected, "{text:?}");
    }

    #[test]
    fn suffixes_are_in_order() {
        check(&[]);
        check(&[7]);
        check(&[5; 33]);
        check(&[u32::MAX, 0, u32::MAX]);
        check(&(0..50).collect::<Vec<_>>());
        check(&(0..50).rev().collect::<Vec<_>>());
        check(&[2, 1, 2, 1].repeat(20));
    }

    #[test]
    fn suffixes_of_random_texts_are_in_order() {
        for seed in 0..300 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let n_symbols = [1, 2, 3, 10, 1000][seed as usize % 5];
            let n = rng.random_range(0..200);
            let text: Vec<u32> = (0..n).map(|_| 3 * rng.random_range(0..n_symbols)).collect();
            check(&text);
        }
    }
}
