//! Texts that were read before, by their tokens: whoever begins in the same way takes over what they have in common.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::KvCache;

/// The keys and values of whole texts in a radix tree over their tokens; what texts share is there once.
///
/// What it gives is exact: the same tokens at the same places. It holds one model's texts and nothing else.
#[derive(Debug)]
pub struct PrefixTree {
    most_tokens: usize,
    tree: Mutex<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    roots: Vec<Node>,
    n_tokens: usize,
    now: u64,
}

/// A run of tokens behind those of the nodes above.
#[derive(Debug)]
struct Node {
    run: Vec<u32>,
    /// Of all tokens down to the end of the run.
    cache: KvCache,
    /// No two begin with the same token.
    children: Vec<Node>,
    last_use: u64,
}

impl PrefixTree {
    /// A tree that forgets the texts used longest ago when there are more than so many tokens.
    pub fn new(most_tokens: usize) -> Self {
        Self { most_tokens, tree: Mutex::default() }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        // A panic leaves a tree that lacks a text at worst.
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest beginning of `tokens` that is there; its length is the cache's.
    pub fn longest(&self, tokens: &[u32]) -> Option<KvCache> {
        let mut tree = self.tree();
        tree.now += 1;
        let now = tree.now;
        let (mut nodes, mut rest, mut found) = (&mut tree.roots, tokens, None);
        while let Some(node) = nodes.iter_mut().find(|node| rest.first() == node.run.first()) {
            let common = common_len(&node.run, rest);
            node.last_use = now;
            let mut cache = node.cache.clone();
            cache.truncate(node.cache.len() - (node.run.len() - common));
            found = Some(cache);
            if common < node.run.len() {
                break;
            }
            rest = &rest[common..];
            nodes = &mut node.children;
        }
        found
    }

    /// How many of the first tokens are there, in one text. It is no use of that text.
    pub fn common_len(&self, tokens: &[u32]) -> usize {
        let tree = self.tree();
        let (mut nodes, mut len) = (&tree.roots, 0);
        while let Some(node) = nodes.iter().find(|node| tokens.get(len) == node.run.first()) {
            let common = common_len(&node.run, &tokens[len..]);
            len += common;
            if common < node.run.len() {
                break;
            }
            nodes = &node.children;
        }
        len
    }

    /// Takes in a text whose tokens the cache has read, one a slot.
    ///
    /// # Panics
    ///
    /// When the cache is not of as many tokens.
    pub fn insert(&self, tokens: &[u32], cache: &KvCache) {
        assert_eq!(tokens.len(), cache.len(), "a cache holds a slot for each token");
        let mut tree = self.tree();
        tree.now += 1;
        let now = tree.now;
        let (mut nodes, mut start) = (&mut tree.roots, 0);
        let added = loop {
            let rest = &tokens[start..];
            let Some(at) = nodes.iter().position(|node| rest.first() == node.run.first()) else {
                if !rest.is_empty() {
                    let node = Node { run: rest.to_vec(), cache: cache.clone(), children: Vec::new(), last_use: now };
                    nodes.push(node);
                }
                break rest.len();
            };
            let node = &mut nodes[at];
            let common = common_len(&node.run, rest);
            node.last_use = now;
            if common < node.run.len() {
                let end = node.cache.len() - (node.run.len() - common);
                node.split(common, end);
            }
            start += common;
            nodes = &mut nodes[at].children;
        };
        tree.n_tokens += added;
        while tree.n_tokens > self.most_tokens && tree.drop_oldest_leaf() {}
    }

    /// Tokens that are there, shared ones once.
    pub fn n_tokens(&self) -> usize {
        self.tree().n_tokens
    }
}

impl Node {
    /// Makes the first `len` tokens a node of their own, which ends at the slot `end`.
    fn split(&mut self, len: usize, end: usize) {
        let rest = self.run.split_off(len);
        let cache = self.cache.clone();
        self.cache.truncate(end);
        let children = std::mem::take(&mut self.children);
        self.children = vec![Node { run: rest, cache, children, last_use: self.last_use }];
    }

    fn oldest_leaf(&self) -> u64 {
        self.children.iter().map(Node::oldest_leaf).min().unwrap_or(self.last_use)
    }

    /// Drops the leaf that was used longest ago; gives the length of its run.
    fn drop_oldest(nodes: &mut Vec<Node>) -> usize {
        let Some(at) = (0..nodes.len()).min_by_key(|&at| nodes[at].oldest_leaf()) else { return 0 };
        if nodes[at].children.is_empty() {
            nodes.remove(at).run.len()
        } else {
            Self::drop_oldest(&mut nodes[at].children)
        }
    }
}

impl Tree {
    fn drop_oldest_leaf(&mut self) -> bool {
        let dropped = Node::drop_oldest(&mut self.roots);
        self.n_tokens -= dropped;
        dropped > 0
    }
}

fn common_len(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KvArena, KvPrecision, KvShape};

    fn arena() -> KvArena {
        KvArena::new(KvShape { n_layers: 1, n_kv_heads: 1, head_dim: 2 }, KvPrecision::F32)
    }

    /// A cache that has "read" tokens: its keys name them.
    fn read(arena: &KvArena, tokens: &[u32]) -> KvCache {
        let mut cache = arena.cache();
        cache.leave(tokens.len(), 0).unwrap();
        for (slot, &token) in tokens.iter().enumerate() {
            cache.write(0, slot, &[token as f32, 0.0], &[0.0, 0.0]);
        }
        cache
    }

    #[track_caller]
    fn check(tree: &PrefixTree, arena: &KvArena, tokens: &[u32], len: usize) {
        assert_eq!(tree.common_len(tokens), len, "{tokens:?}");
        let found = tree.longest(tokens);
        assert_eq!(found.as_ref().map_or(0, KvCache::len), len, "{tokens:?}");
        let Some(found) = found else { return };
        let keys = |cache: &KvCache| {
            let keys = cache.runs(0, 0..cache.len()).map(|run| match run.keys {
                raglan_kernels::KvSlice::F32(keys) => keys.to_vec(),
                raglan_kernels::KvSlice::F16(_) => unreachable!("the arena is in single precision"),
            });
            keys.collect::<Vec<_>>().concat()
        };
        assert_eq!(keys(&found), keys(&read(arena, &tokens[..len])));
    }

    #[test]
    fn the_longest_common_beginning_is_found() {
        let (arena, tree) = (arena(), PrefixTree::new(1000));
        let texts: [&[u32]; 5] = [&[1, 2, 3, 4, 5], &[1, 2, 3, 9], &[1, 2], &[7, 7, 7], &[1, 2, 3, 4, 5, 6]];
        for text in texts {
            tree.insert(text, &read(&arena, text));
        }
        assert_eq!(tree.n_tokens(), 10); // 1 2 3 | 4 5 | 6 | 9 | 7 7 7
        for text in texts {
            check(&tree, &arena, text, text.len());
        }
        check(&tree, &arena, &[1, 2, 3, 4, 8], 4);
        check(&tree, &arena, &[1], 1);
        check(&tree, &arena, &[7, 7, 7, 7], 3);
        check(&tree, &arena, &[2, 1], 0);
        check(&tree, &arena, &[], 0);
    }

    #[test]
    fn random_texts_are_found_as_a_list_would_find_them() {
        let mut random = 1u64;
        let mut next = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let (arena, tree) = (arena(), PrefixTree::new(usize::MAX));
        let mut texts: Vec<Vec<u32>> = Vec::new();
        for _ in 0..200 {
            let text: Vec<u32> = (0..next(9)).map(|_| next(3) as u32).collect();
            let longest = texts.iter().map(|other| common_len(other, &text)).max().unwrap_or(0);
            check(&tree, &arena, &text, longest);
            tree.insert(&text, &read(&arena, &text));
            texts.push(text);
        }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_gives_its_pages_back() {
        let (arena, tree) = (arena(), PrefixTree::new(8));
        tree.insert(&[1, 2, 3], &read(&arena, &[1, 2, 3]));
        tree.insert(&[4, 5, 6], &read(&arena, &[4, 5, 6]));
        check(&tree, &arena, &[1, 2, 3], 3);
        tree.insert(&[7, 8, 9], &read(&arena, &[7, 8, 9]));
        check(&tree, &arena, &[4, 5, 6], 0);
        check(&tree, &arena, &[1, 2, 3], 3);
        check(&tree, &arena, &[7, 8, 9], 3);
        assert_eq!(arena.n_bytes_taken(), 2 * arena.page_bytes());
    }
}
