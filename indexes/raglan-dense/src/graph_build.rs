//! Building a graph, by many threads, with one result.
//!
//! Rows are inserted in batches, in an order drawn from the seed. All rows of a batch walk the graph as it was before
//! the batch, so that none depends on another or on the number of threads (as in ParlayANN, Manohar et al. 2024); then
//! their links are added, target by target. Batches double at first and stay a small part of the graph later on, so
//! that little is missed by rows not seeing others of their batch.

use raglan_kernels::{Int8Query, OneBitEncoder};
use rayon::prelude::*;

use crate::bits::{Bits, mixed};
use crate::graph::{Codes, Links, Step, Walk, WalkQuery};
use crate::{DenseConfig, Error, Result};

/// A batch is at most this part of the rows inserted before it, or of all rows, whichever is less.
const BATCH_SHARE: usize = 50;

/// While a graph grows, a row's links may exceed what it keeps by half, so that they are pruned now and then only.
const SLACK: f64 = 1.5;

/// A graph in memory.
pub struct BuiltGraph {
    degree: usize,
    neighbours: Vec<u32>,
    entries: Vec<u32>,
    copies: Vec<[u32; 2]>,
}

impl BuiltGraph {
    /// The links.
    pub fn links(&self) -> Links<'_> {
        Links { degree: self.degree, neighbours: &self.neighbours, entries: &self.entries, copies: &self.copies }
    }
}

/// Links unit vectors `[n, dim]`, of which there is at least one, by their codes.
pub fn build_graph(
    vectors: &[f32],
    codes: Codes<'_>,
    encoder: &OneBitEncoder,
    config: &DenseConfig,
    threads: usize,
) -> Result<BuiltGraph> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .build()
        .map_err(|e| Error::Config { problem: format!("cannot start {threads} threads: {e}") })?;
    pool.install(|| Builder::new(vectors, codes, encoder, config).build())
}

struct Builder<'a> {
    vectors: &'a [f32],
    codes: Codes<'a>,
    encoder: &'a OneBitEncoder,
    config: &'a DenseConfig,
    n: usize,
    /// Neighbours kept in the end.
    degree: usize,
    /// Neighbours that there is room for meanwhile.
    room: usize,
    /// `[n, room]`; a row's own number ends its neighbours.
    neighbours: Vec<u32>,
    /// The rows that are inserted.
    order: Vec<u32>,
    copies: Vec<[u32; 2]>,
}

impl<'a> Builder<'a> {
    fn new(vectors: &'a [f32], codes: Codes<'a>, encoder: &'a OneBitEncoder, config: &'a DenseConfig) -> Self {
        let n = codes.int8.scales.len();
        let degree = 2 * config.m;
        let room = (degree as f64 * SLACK) as usize;
        let neighbours = (0..n as u32).flat_map(|row| std::iter::repeat_n(row, room)).collect();
        let copies = copies(vectors, codes.dim);
        let mut is_copy = Bits::none(n);
        for &[_, copy] in &copies {
            is_copy.insert(copy);
        }
        let mut order = shuffled(n, config.seed);
        order.retain(|&row| !is_copy.contains(row));
        Self { vectors, codes, encoder, config, n, degree, room, neighbours, order, copies }
    }

    fn build(mut self) -> Result<BuiltGraph> {
        let n_distinct = self.order.len();
        let most = (n_distinct / BATCH_SHARE).max(1);
        let mut n_done = 1;
        while n_done < n_distinct {
            let end = (n_done + n_done.min(most)).min(n_distinct);
            self.insert(n_done, end)?;
            n_done = end;
        }
        let entries = self.order[..n_entries(n_distinct)].to_vec();
        let kept: Vec<Vec<u32>> = (0..self.n as u32)
            .into_par_iter()
            .map_init(|| Selection::new(self.codes), |selection, row| self.pruned(selection, row, &[], self.degree))
            .collect::<Result<_>>()?;
        let mut neighbours = Vec::with_capacity(self.n * self.degree);
        for (row, kept) in kept.iter().enumerate() {
            neighbours.extend_from_slice(kept);
            neighbours.resize((row + 1) * self.degree, row as u32);
        }
        let mut graph = BuiltGraph { degree: self.degree, neighbours, entries, copies: self.copies };
        connect(&mut graph, self.vectors, self.codes, self.encoder, self.config.ef_construction)?;
        Ok(graph)
    }

    /// Inserts the rows `order[n_done..end]` into the graph of those before.
    fn insert(&mut self, n_done: usize, end: usize) -> Result<()> {
        let links = Links {
            degree: self.room,
            neighbours: &self.neighbours,
            entries: &self.order[..n_entries(n_done)],
            copies: &[],
        };
        let batch = &self.order[n_done..end];
        let chosen: Vec<Vec<u32>> = batch
            .par_iter()
            .map_init(
                || (Walk::new(self.n), Selection::new(self.codes)),
                |(walk, selection), &row| {
                    let vector = &self.vectors[row as usize * self.codes.dim..][..self.codes.dim];
                    let (int8, scale) = self.codes.row(row);
                    let query =
                        WalkQuery { int8: Int8Query::from_codes(int8, scale)?, bits: self.encoder.query(vector)? };
                    let near = walk.search(links, self.codes, &query, self.config.ef_construction, usize::MAX)?;
                    let near = near.expect("there is no limit").iter().map(|step: &Step| (step.score, step.row));
                    selection.select(near, self.config.m)
                },
            )
            .collect::<Result<_>>()?;
        let mut back: Vec<(u32, u32)> = Vec::with_capacity(batch.len() * self.config.m);
        for (&row, chosen) in batch.iter().zip(&chosen) {
            self.neighbours[row as usize * self.room..][..chosen.len()].copy_from_slice(chosen);
            back.extend(chosen.iter().map(|&target| (target, row)));
        }
        back.par_sort_unstable();
        let targets: Vec<&[(u32, u32)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let linked: Vec<Vec<u32>> = targets
            .par_iter()
            .map_init(
                || Selection::new(self.codes),
                |selection, links| {
                    let sources: Vec<u32> = links.iter().map(|link| link.1).collect();
                    self.pruned(selection, links[0].0, &sources, self.room)
                },
            )
            .collect::<Result<_>>()?;
        for (links, linked) in targets.iter().zip(&linked) {
            let row = links[0].0;
            let place = &mut self.neighbours[row as usize * self.room..][..self.room];
            place[..linked.len()].copy_from_slice(linked);
            place[linked.len()..].fill(row);
        }
        Ok(())
    }

    /// The neighbours of a row with more of them; pruned to the degree when they exceed `room`.
    fn pruned(&self, selection: &mut Selection<'_>, row: u32, more: &[u32], room: usize) -> Result<Vec<u32>> {
        let links = Links { degree: self.room, neighbours: &self.neighbours, entries: &[], copies: &[] };
        let mut all = links.of(row).to_vec();
        all.extend(more.iter().filter(|other| !links.of(row).contains(other)));
        if all.len() <= room {
            return Ok(all);
        }
        let mut near = selection.scores(row, &all)?;
        near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        selection.select(near.into_iter(), self.degree)
    }
}

/// The choice of neighbours that lie in different directions (Malkov and Yashunin 2016, algorithm 4).
struct Selection<'a> {
    codes: Codes<'a>,
    query: Int8Query,
    scores: Vec<f32>,
}

impl<'a> Selection<'a> {
    /// How many of those chosen a candidate is compared with at once.
    const AT_ONCE: usize = 4;

    fn new(codes: Codes<'a>) -> Self {
        let query = Int8Query::from_codes(&vec![0; codes.dim], 0.0).expect("the dimension is checked before");
        Self { codes, query, scores: Vec::new() }
    }

    /// The inner products of a row with others.
    fn scores(&mut self, row: u32, others: &[u32]) -> Result<Vec<(f32, u32)>> {
        self.assign(row)?;
        self.score(others)?;
        Ok(self.scores.iter().copied().zip(others.iter().copied()).collect())
    }

    /// Of candidates that come nearest first, with their scores, up to `most` that are nearer to where they are linked
    /// from than to any that is chosen before.
    fn select(&mut self, candidates: impl Iterator<Item = (f32, u32)>, most: usize) -> Result<Vec<u32>> {
        let mut chosen: Vec<u32> = Vec::with_capacity(most);
        'candidates: for (score, candidate) in candidates {
            if chosen.len() == most {
                break;
            }
            self.assign(candidate)?;
            for some in chosen.chunks(Self::AT_ONCE) {
                self.score(some)?;
                if self.scores.iter().any(|&between| between >= score) {
                    continue 'candidates;
                }
            }
            chosen.push(candidate);
        }
        Ok(chosen)
    }

    fn assign(&mut self, row: u32) -> Result<()> {
        let (codes, scale) = self.codes.row(row);
        Ok(self.query.assign(codes, scale)?)
    }

    fn score(&mut self, others: &[u32]) -> Result<()> {
        self.scores.resize(others.len(), 0.0);
        let int8 = self.codes.int8;
        Ok(self.query.inner_products_at(int8.codes, int8.scales, others, &mut self.scores)?)
    }
}

/// Rows that are equal to one before, as pairs of the first such row and the copy, increasing.
///
/// Copies would crowd all others off a walk, so they are not part of the graph.
fn copies(vectors: &[f32], dim: usize) -> Vec<[u32; 2]> {
    let row = |row: u32| bytemuck::cast_slice::<f32, u32>(&vectors[row as usize * dim..][..dim]);
    let mut rows: Vec<(u64, u32)> = (0..(vectors.len() / dim) as u32)
        .into_par_iter()
        .map(|i| (row(i).iter().fold(0, |hash, &x| mixed(hash, x)), i))
        .collect();
    rows.par_sort_unstable();
    let mut copies = Vec::new();
    for equal in rows.chunk_by(|a, b| a.0 == b.0) {
        let mut firsts: Vec<u32> = Vec::new(); // More than one where different rows have one hash.
        for &(_, i) in equal {
            match firsts.iter().find(|&&first| row(first) == row(i)) {
                Some(&first) => copies.push([first, i]),
                None => firsts.push(i),
            }
        }
    }
    copies.sort_unstable();
    copies
}

/// How many rows of `n` walks may begin at.
fn n_entries(n: usize) -> usize {
    n.isqrt().clamp(1, 4096)
}

/// The numbers below `n` in an order that follows from the seed.
fn shuffled(n: usize, seed: u64) -> Vec<u32> {
    let mut keyed: Vec<(u64, u32)> = (0..n as u32).map(|row| (mixed(seed, row), row)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, row)| row).collect()
}

/// Links the rows to which no way leads from the first entry, each from a near row to which one does.
///
/// The ways found form a tree; a link is replaced only when it is not of the tree, so that no other row is lost.
fn connect(
    graph: &mut BuiltGraph,
    vectors: &[f32],
    codes: Codes<'_>,
    encoder: &OneBitEncoder,
    ef: usize,
) -> Result<()> {
    let n = codes.int8.scales.len();
    let mut reached = Reached { rows: Bits::none(n), parents: vec![0; n] };
    reached.spread(graph.links(), graph.entries[0]);
    // Copies are reached by the rows that stand for them.
    let mut is_copy = Bits::none(n);
    for &[_, copy] in &graph.copies {
        reached.rows.insert(copy);
        is_copy.insert(copy);
    }
    let mut walk = Walk::new(n);
    for row in 0..n as u32 {
        if reached.rows.contains(row) {
            continue;
        }
        let vector = &vectors[row as usize * codes.dim..][..codes.dim];
        let (int8, scale) = codes.row(row);
        let query = WalkQuery { int8: Int8Query::from_codes(int8, scale)?, bits: encoder.query(vector)? };
        let near = walk.search(graph.links(), codes, &query, ef, usize::MAX)?.expect("there is no limit");
        let near: Vec<u32> = near.iter().map(|step| step.row).collect();
        let (from, place) = near
            .into_iter()
            .chain(0..n as u32)
            .filter(|&from| reached.rows.contains(from) && !is_copy.contains(from))
            .find_map(|from| Some((from, reached.place_for_link(graph.links(), from)?)))
            .expect("a tree has fewer links than there are places");
        graph.neighbours[from as usize * graph.degree + place] = row;
        reached.rows.insert(row);
        reached.parents[row as usize] = from;
        reached.spread(graph.links(), row);
    }
    Ok(())
}

/// Rows to which a way leads, and from where.
struct Reached {
    rows: Bits,
    parents: Vec<u32>,
}

impl Reached {
    /// Marks what can be reached from a row.
    fn spread(&mut self, links: Links<'_>, from: u32) {
        let mut stack = vec![from];
        self.rows.insert(from);
        while let Some(row) = stack.pop() {
            for &other in links.of(row) {
                if self.rows.insert(other) {
                    self.parents[other as usize] = row;
                    stack.push(other);
                }
            }
        }
    }

    /// Where a row has room for one more link: a free place, or the last whose link is not of the tree.
    fn place_for_link(&self, links: Links<'_>, from: u32) -> Option<usize> {
        let used = links.of(from);
        if used.len() < links.degree {
            return Some(used.len());
        }
        used.iter().rposition(|&other| self.parents[other as usize] != from)
    }
}
