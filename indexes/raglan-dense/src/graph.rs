//! A navigable small-world graph in flat arrays.
//!
//! `graph.bin` is a header of 64 bytes (magic, version u32, n_layers u32, n u64, entry u32) and then, for each layer
//! from the lowest: a part of two u32, how many nodes and how many edges; the nodes (left out in the lowest layer,
//! which has all); the offsets of each node's edges; the edges. Each part begins at a multiple of 64 bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use raglan_kernels::{inner_product, inner_products_at};

use crate::bits::Bits;
use crate::files::{ALIGNMENT, MappedFile, after, write_file};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"RAGLANGR";
const VERSION: u32 = 1;
const MAX_LAYERS: u32 = 64;

/// Layers of neighbourhoods, each a subset of the one below; the lowest holds every row.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// The row at which a search begins; it is in every layer.
    pub entry: u32,
    /// From the lowest to the highest.
    pub layers: Vec<Layer>,
}

/// One layer: whose neighbours are whose.
///
/// Invariant: `offsets` is one longer than the number of nodes, does not decrease, begins at 0 and ends at the length
/// of `edges`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    /// The rows in this layer, increasing; empty in the lowest layer, which has all.
    pub nodes: Vec<u32>,
    /// Where the neighbours of each node begin in `edges`.
    pub offsets: Vec<u32>,
    /// Rows.
    pub edges: Vec<u32>,
}

impl Layer {
    /// The neighbours of a row.
    #[inline]
    pub fn neighbours(&self, row: u32) -> &[u32] {
        let node = if self.nodes.is_empty() { Ok(row as usize) } else { self.nodes.binary_search(&row) };
        match node {
            Ok(node) => &self.edges[self.offsets[node] as usize..self.offsets[node + 1] as usize],
            Err(_) => &[],
        }
    }
}

/// A row with its inner product with the query; greater when nearer, and when the row is lower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// The inner product.
    pub score: f32,
    /// The row.
    pub row: u32,
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(other.row.cmp(&self.row))
    }
}

impl Graph {
    /// Up to `ef` rows that `keep` lets through and that are nearest to `query`, as far as the graph leads there;
    /// nearest first.
    ///
    /// Rows that are not kept are walked through all the same. `vectors` are the rows that the graph was built from.
    pub fn search(&self, query: &[f32], vectors: &[f32], ef: usize, keep: impl Fn(u32) -> bool) -> Result<Vec<Near>> {
        let dim = query.len();
        let row_of = |row: u32| &vectors[row as usize * dim..][..dim];
        let mut scores = Vec::new();
        let mut start = Near { score: inner_product(query, row_of(self.entry))?, row: self.entry };
        for layer in self.layers[1..].iter().rev() {
            loop {
                let neighbours = layer.neighbours(start.row);
                scores.resize(neighbours.len(), 0.0);
                inner_products_at(query, vectors, neighbours, &mut scores)?;
                let best = neighbours.iter().zip(&scores).map(|(&row, &score)| Near { score, row }).max();
                match best {
                    Some(near) if near > start => start = near,
                    _ => break,
                }
            }
        }
        let mut visited = Bits::none(vectors.len() / dim);
        visited.insert(start.row);
        let mut candidates = BinaryHeap::from([start]);
        let mut best = BinaryHeap::new();
        if keep(start.row) {
            best.push(Reverse(start));
        }
        let mut fresh = Vec::new();
        while let Some(candidate) = candidates.pop() {
            if best.len() >= ef && best.peek().is_some_and(|Reverse(worst)| candidate.score < worst.score) {
                break;
            }
            fresh.clear();
            fresh.extend(self.layers[0].neighbours(candidate.row).iter().copied().filter(|&row| visited.insert(row)));
            scores.resize(fresh.len(), 0.0);
            inner_products_at(query, vectors, &fresh, &mut scores)?;
            for (&row, &score) in fresh.iter().zip(&scores) {
                let near = Near { score, row };
                if best.len() < ef || best.peek().is_some_and(|&Reverse(worst)| near > worst) {
                    candidates.push(near);
                    if keep(row) {
                        best.push(Reverse(near));
                        if best.len() > ef {
                            best.pop();
                        }
                    }
                }
            }
        }
        Ok(best.into_sorted_vec().into_iter().map(|Reverse(near)| near).collect())
    }

    /// Writes the graph's file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut header = [0; ALIGNMENT];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(self.layers.len() as u32).to_le_bytes());
        header[16..24].copy_from_slice(&(self.layers[0].offsets.len() as u64 - 1).to_le_bytes());
        header[24..28].copy_from_slice(&self.entry.to_le_bytes());
        let sizes: Vec<_> =
            self.layers.iter().map(|layer| [layer.offsets.len() as u32 - 1, layer.edges.len() as u32]).collect();
        let mut parts: Vec<&[u8]> = vec![&header];
        for (layer, size) in self.layers.iter().zip(&sizes) {
            parts.push(bytemuck::cast_slice(size));
            parts.extend([&layer.nodes, &layer.offsets, &layer.edges].map(|part| bytemuck::cast_slice::<_, u8>(part)));
        }
        write_file(path, &parts)
    }

    /// Reads and checks the graph of `n` rows.
    pub fn read(file: &MappedFile, n: usize) -> Result<Self> {
        let damaged = |problem: &str| Error::damaged(file.path(), problem);
        file.check_format(MAGIC, VERSION)?;
        let n_layers = file.numbers::<u32>(12, 1)?[0];
        if file.numbers::<u64>(16, 1)?[0] != n as u64 || n_layers == 0 || n_layers > MAX_LAYERS {
            return Err(damaged("it is not the graph of the vectors beside it"));
        }
        let entry = file.numbers::<u32>(24, 1)?[0];
        let mut offset = ALIGNMENT;
        let mut part = |count: usize| -> Result<Vec<u32>> {
            let numbers = file.numbers(offset, count)?.to_vec();
            offset = after(offset, count, 4).ok_or_else(|| damaged("a part is too long"))?;
            Ok(numbers)
        };
        let mut layers = Vec::new();
        for depth in 0..n_layers {
            let [n_nodes, n_edges] = part(2)?[..] else { unreachable!("two were asked for") };
            let n_nodes = n_nodes as usize;
            let nodes = part(if depth == 0 { 0 } else { n_nodes })?;
            let offsets = part(n_nodes + 1)?;
            let edges = part(n_edges as usize)?;
            let sound = (depth > 0 || n_nodes == n)
                && n_nodes > 0
                && nodes.windows(2).all(|pair| pair[0] < pair[1])
                && nodes.iter().chain(&edges).all(|&row| (row as usize) < n)
                && offsets.windows(2).all(|pair| pair[0] <= pair[1])
                && offsets[0] == 0
                && offsets[n_nodes] == n_edges;
            if !sound {
                return Err(damaged(&format!("layer {depth} contradicts itself")));
            }
            layers.push(Layer { nodes, offsets, edges });
        }
        if entry as usize >= n || offset != file.len() {
            return Err(damaged("its length or its entry is not what its header says"));
        }
        Ok(Self { entry, layers })
    }
}
