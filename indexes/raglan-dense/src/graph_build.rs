//! Building a graph: hnsw_rs links the vectors, and the links are copied into flat arrays.
//!
//! hnsw_rs's own dump is not used: it holds the vectors a second time, its reader ends the process on some damaged
//! files, and its linked nodes are several times slower to walk than arrays.

use std::collections::BTreeMap;

use hnsw_rs::anndists::dist::Distance;
use hnsw_rs::hnsw::Hnsw;
use raglan_kernels::inner_product;

use crate::bits::Bits;
use crate::graph::{Graph, Layer};
use crate::{DenseConfig, Error, Result};

/// The most layers that hnsw_rs has.
const MAX_LAYERS: usize = 16;

/// `1 − a · b`, a distance between unit vectors.
struct InnerProductDistance;

impl Distance<f32> for InnerProductDistance {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        1.0 - inner_product(a, b).expect("all vectors of a segment are of one length")
    }
}

/// Links unit vectors, of which there is at least one.
pub fn build_graph(vectors: &[f32], dim: usize, config: &DenseConfig, threads: usize) -> Result<Graph> {
    let n = vectors.len() / dim;
    if n.checked_mul(4 * config.m).is_none_or(|edges| u32::try_from(edges).is_err()) {
        return Err(Error::Vectors { problem: format!("{n} vectors are too many for one segment's graph") });
    }
    let hnsw = Hnsw::new(config.m, n, MAX_LAYERS, config.ef_construction, InnerProductDistance);
    let rows: Vec<(&[f32], usize)> = vectors.chunks_exact(dim).zip(0..).collect();
    if threads <= 1 {
        for &row in &rows {
            hnsw.insert_slice(row);
        }
    } else {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::Config { problem: format!("cannot start {threads} threads: {e}") })?;
        pool.install(|| hnsw.parallel_insert_slice(&rows));
    }
    let mut graph = flatten(&hnsw, n);
    drop(hnsw);
    connect(&mut graph, vectors, dim, config.ef_construction)?;
    Ok(graph)
}

/// The links as arrays. A row is in the layers up to its level, and keeps the links among rows of that layer.
fn flatten(hnsw: &Hnsw<f32, InnerProductDistance>, n: usize) -> Graph {
    let mut levels = vec![0u8; n];
    let mut links: Vec<Vec<Vec<u32>>> = vec![Vec::new(); n];
    for point in hnsw.get_point_indexation() {
        let row = point.get_origin_id();
        levels[row] = point.get_point_id().0;
        links[row] = point
            .get_neighborhood_id()
            .into_iter()
            .take(usize::from(levels[row]) + 1)
            .map(|layer| layer.into_iter().map(|neighbour| neighbour.d_id as u32).collect())
            .collect();
    }
    let top = levels.iter().copied().max().unwrap_or(0);
    let entry = (0..n).find(|&row| levels[row] == top).expect("there is a row");
    let layers = (0..=top)
        .map(|depth| {
            let mut layer = Layer { nodes: Vec::new(), offsets: vec![0], edges: Vec::new() };
            for row in (0..n).filter(|&row| levels[row] >= depth) {
                if depth > 0 {
                    layer.nodes.push(row as u32);
                }
                let neighbours = links[row].get(usize::from(depth)).map_or(&[][..], Vec::as_slice);
                let in_layer = |&&other: &&u32| levels[other as usize] >= depth && other as usize != row;
                layer.edges.extend(neighbours.iter().filter(in_layer));
                layer.offsets.push(layer.edges.len() as u32);
            }
            layer
        })
        .collect();
    Graph { entry: entry as u32, layers }
}

/// Links the rows that no walk from the entry reaches to the nearest that one does.
///
/// Insertion by several threads leaves such rows now and then, and so does the pruning of links around duplicates.
fn connect(graph: &mut Graph, vectors: &[f32], dim: usize, ef: usize) -> Result<()> {
    let n = vectors.len() / dim;
    let mut reached = Bits::none(n);
    let mut extra: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    walk(graph, graph.entry, &mut reached, &extra);
    for row in 0..n as u32 {
        if reached.contains(row) {
            continue;
        }
        let query = &vectors[row as usize * dim..][..dim];
        let near = graph.search(query, vectors, ef, |other| reached.contains(other))?;
        extra.entry(near.first().map_or(graph.entry, |near| near.row)).or_default().push(row);
        walk(graph, row, &mut reached, &extra);
    }
    if !extra.is_empty() {
        let lowest = &mut graph.layers[0];
        let mut linked = Layer { nodes: Vec::new(), offsets: vec![0], edges: Vec::new() };
        for row in 0..n as u32 {
            linked.edges.extend(lowest.neighbours(row));
            linked.edges.extend(extra.get(&row).into_iter().flatten());
            linked.offsets.push(linked.edges.len() as u32);
        }
        *lowest = linked;
    }
    Ok(())
}

/// Marks what can be reached from a row in the lowest layer, and by the extra links from there.
fn walk(graph: &Graph, from: u32, reached: &mut Bits, extra: &BTreeMap<u32, Vec<u32>>) {
    let mut stack = vec![from];
    reached.insert(from);
    while let Some(row) = stack.pop() {
        for &other in graph.layers[0].neighbours(row).iter().chain(extra.get(&row).into_iter().flatten()) {
            if reached.insert(other) {
                stack.push(other);
            }
        }
    }
}
