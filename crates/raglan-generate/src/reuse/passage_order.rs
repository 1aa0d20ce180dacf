//! The order in which a prompt shows its passages.

use std::fmt;
use std::str::FromStr;

use crate::{Error, PromptPiece, Result};

/// The order in which a prompt shows its passages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PassageOrder {
    /// The best first.
    #[default]
    Rank,
    /// Those first that an earlier prompt began with, so that as much of it as possible is taken over exactly
    /// (`CacheWeaver` orders chunks so); the others behind them, the best first. A model may answer otherwise when
    /// passages change places.
    Shared,
}

impl fmt::Display for PassageOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rank => "rank",
            Self::Shared => "shared",
        })
    }
}

impl FromStr for PassageOrder {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = [Self::Rank, Self::Shared].into_iter().find(|order| order.to_string() == text);
        let problem = || format!("`{text}` is neither rank nor shared");
        found.ok_or_else(|| Error::Option { option: "kv-order", problem: problem() })
    }
}

/// The order of a prompt's passages, by their indices in it, in which the longest run of whole passages was read before;
/// of equal runs the one whose passages come first. `is_known` is given the tokens of a run, where its last passage
/// begins in them and which that is; the run without it is known.
///
/// What the templates write between passages may tell their numbers, and nothing else of them.
pub(super) fn shared_order(pieces: &[PromptPiece], is_known: &dyn Fn(&[u32], usize, usize) -> bool) -> Vec<usize> {
    let passages: Vec<&[u32]> =
        pieces.iter().filter(|piece| piece.passage.is_some()).map(|piece| &piece.ids[..]).collect();
    let mut walk =
        Walk { is_known, passages, pieces, tokens: pieces[0].ids.clone(), order: Vec::new(), best: Vec::new() };
    walk.extend();
    let Walk { passages, best: mut order, .. } = walk;
    let others: Vec<usize> = (0..passages.len()).filter(|passage| !order.contains(passage)).collect();
    order.extend(others);
    order
}

/// A walk along what was read, by whole passages.
struct Walk<'p> {
    is_known: &'p dyn Fn(&[u32], usize, usize) -> bool,
    passages: Vec<&'p [u32]>,
    /// A passage is every second.
    pieces: &'p [PromptPiece],
    tokens: Vec<u32>,
    order: Vec<usize>,
    best: Vec<usize>,
}

impl Walk<'_> {
    fn n_tokens(&self, order: &[usize]) -> usize {
        order.iter().map(|&passage| self.passages[passage].len()).sum()
    }

    /// Tries each passage behind those that are there; there are no more ways than prompts that were read.
    fn extend(&mut self) {
        if self.n_tokens(&self.order) > self.n_tokens(&self.best) {
            self.best.clone_from(&self.order);
        }
        for passage in 0..self.passages.len() {
            if self.order.contains(&passage) {
                continue;
            }
            let len = self.tokens.len();
            self.tokens.extend_from_slice(self.passages[passage]);
            if (self.is_known)(&self.tokens, len, passage) {
                self.order.push(passage);
                if self.order.len() < self.passages.len() {
                    self.tokens.extend_from_slice(&self.pieces[2 * self.order.len()].ids);
                }
                self.extend();
                self.order.pop();
            }
            self.tokens.truncate(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use raglan_kv::{KvArena, KvPrecision, KvShape, PrefixTree};

    use super::*;

    /// The pieces of a prompt: `0`, the passages with `100 + i` behind the `i`-th, and `9` at the end.
    fn pieces(passages: &[&[u32]]) -> Vec<PromptPiece> {
        let mut pieces = vec![PromptPiece { ids: vec![0], passage: None }];
        for (i, ids) in passages.iter().enumerate() {
            pieces.push(PromptPiece { ids: ids.to_vec(), passage: Some(i) });
            let behind = if i + 1 == passages.len() { 9 } else { 100 + i as u32 };
            pieces.push(PromptPiece { ids: vec![behind], passage: None });
        }
        pieces
    }

    #[track_caller]
    fn check(known: &[&[&[u32]]], passages: &[&[u32]], order: &[usize]) {
        let arena = KvArena::new(KvShape { n_layers: 1, n_kv_heads: 1, head_dim: 2 }, KvPrecision::F32);
        let tree = PrefixTree::new(usize::MAX);
        for prompt in known {
            let ids: Vec<u32> = pieces(prompt).iter().flat_map(|piece| piece.ids.clone()).collect();
            let mut cache = arena.cache();
            cache.leave(ids.len(), 0).unwrap();
            tree.insert(&ids, &cache);
        }
        let is_known = |tokens: &[u32], _, _| tree.common_len(tokens) == tokens.len();
        assert_eq!(shared_order(&pieces(passages), &is_known), order);
    }

    #[test]
    fn the_longest_run_of_whole_passages_comes_first() {
        let [a, b, c, d] = [&[1, 1][..], &[2, 2, 2], &[3], &[1, 4, 4, 4]];
        check(&[], &[a, b, c], &[0, 1, 2]);
        check(&[&[c, a]], &[a, b, c], &[2, 0, 1]);
        check(&[&[c, a], &[b, c]], &[a, b, c], &[1, 2, 0]); // 4 tokens, not 3.
        check(&[&[a, b], &[b, a]], &[a, b, c], &[0, 1, 2]); // As long in either order.
        check(&[&[d, a]], &[a, b, c], &[0, 1, 2]); // A passage that begins as another does is another.
        check(&[&[c, d, a]], &[a, c, b], &[1, 0, 2]); // What stands between is not wanted.
        check(&[&[b]], &[a, b], &[1, 0]);
        check(&[&[a, b, c]], &[c, b, a], &[2, 1, 0]);
        check(&[&[a]], &[a], &[0]);
    }

    #[test]
    fn orders_are_read_as_they_are_written() {
        for order in [PassageOrder::Rank, PassageOrder::Shared] {
            assert_eq!(order.to_string().parse::<PassageOrder>().unwrap(), order);
        }
        assert!("best".parse::<PassageOrder>().unwrap_err().to_string().contains("`best`"));
    }
}
