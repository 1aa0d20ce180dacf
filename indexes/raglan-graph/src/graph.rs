//! A graph with weighted edges, and where a walk over it comes to rest.

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::{Error, Result};

/// An undirected graph with weighted edges, as the lists of each node's neighbours one after the other (CSR).
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Where the neighbours of each node begin, and where the last's end.
    starts: Vec<usize>,
    neighbours: Vec<u32>,
    weights: Vec<f32>,
    /// The sum of the weights of each node's edges.
    totals: Vec<f64>,
}

/// How a walk goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PageRank {
    /// How likely the walk follows an edge; else it begins again.
    pub damping: f64,
    /// What comes to a node and is not followed on: at most this for each unit of its edges' weights. The result of a node
    /// is too small by no more than that.
    pub tolerance: f64,
}

impl Default for PageRank {
    /// HippoRAG's damping. At a tolerance of 1e-7 a walk follows edges of a weight of `1 / (1e-7 · (1 − damping))` in all at
    /// most, however many there are, and a chunk of a hundred mentions is at most 1e-5 off.
    fn default() -> Self {
        Self { damping: 0.5, tolerance: 1e-7 }
    }
}

impl PageRank {
    pub(crate) fn check(&self) -> Result<()> {
        let refused = |name, value, range| Err(Error::Parameter { name, value, range });
        if !(0.0..1.0).contains(&self.damping) {
            return refused("damping", self.damping, "from 0 to below 1");
        }
        if self.tolerance.is_nan() || self.tolerance <= 0.0 {
            return refused("tolerance", self.tolerance, "above 0");
        }
        Ok(())
    }
}

impl Graph {
    /// A graph of `n_nodes` nodes and these edges, whose weights are positive; those between the same nodes count as one
    /// with their weights' sum.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when an edge has a node that is not there, ends where it begins, or has another weight.
    pub fn new(n_nodes: usize, edges: &[(u32, u32, f32)]) -> Result<Self> {
        for &(a, b, weight) in edges {
            if a == b || a.max(b) as usize >= n_nodes || !(weight > 0.0 && weight.is_finite()) {
                let problem = format!("from {a} to {b} of {n_nodes} nodes with weight {weight}");
                return Err(Error::Invalid { what: "edge", problem });
            }
        }
        let mut both: Vec<(u32, u32, f32)> = edges.iter().flat_map(|&(a, b, w)| [(a, b, w), (b, a, w)]).collect();
        // By weight too, so that sums do not depend on the order in which edges came.
        both.par_sort_unstable_by(|x, y| (x.0, x.1).cmp(&(y.0, y.1)).then(x.2.total_cmp(&y.2)));
        both.dedup_by(|next, kept| {
            let is_same = (next.0, next.1) == (kept.0, kept.1);
            if is_same {
                kept.2 += next.2;
            }
            is_same
        });
        let starts: Vec<usize> =
            (0..=n_nodes).map(|node| both.partition_point(|&(from, ..)| (from as usize) < node)).collect();
        let total = |pair: &[usize]| both[pair[0]..pair[1]].iter().map(|edge| f64::from(edge.2)).sum();
        Ok(Self {
            totals: starts.windows(2).map(total).collect(),
            neighbours: both.iter().map(|edge| edge.1).collect(),
            weights: both.iter().map(|edge| edge.2).collect(),
            starts,
        })
    }

    /// How many nodes there are.
    pub fn n_nodes(&self) -> usize {
        self.totals.len()
    }

    /// How many edges there are.
    pub fn n_edges(&self) -> usize {
        self.neighbours.len() / 2
    }

    /// How likely a walk is at each node, in the long run, that begins at nodes with the probabilities of `reset`, which need
    /// not sum to 1: `x = (1 − δ) r + δ (Wᵀ x + dangling · r)`, where `W[i, j] = w[i, j] / Σ_j w[i, j]` and `dangling` is
    /// what is at nodes without edges. All 0 when `reset` is.
    ///
    /// What comes to a node waits there until it is more than the tolerance allows, then a share of `1 − δ` stays and the
    /// rest goes on to its neighbours (forward push; Andersen, Chung and Lang 2006): the cost is that of the nodes that
    /// matter, not of the graph.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when `reset` is not as long as there are nodes, or has a number that is negative, infinite or
    /// none; [`Error::Parameter`].
    pub fn personalized_page_rank(&self, reset: &[f64], walk: &PageRank) -> Result<Vec<f64>> {
        walk.check()?;
        if reset.len() != self.n_nodes() || !reset.iter().all(|r| (0.0..f64::INFINITY).contains(r)) {
            let problem = format!("{} numbers for {} nodes, which must not be negative", reset.len(), self.n_nodes());
            return Err(Error::Invalid { what: "beginning of a walk", problem });
        }
        let total: f64 = reset.iter().sum();
        let mut mass = vec![0.0; reset.len()];
        if !(total > 0.0 && total.is_finite()) {
            return Ok(mass);
        }
        let begins: Vec<(u32, f64)> =
            (0..).zip(reset).filter(|(_, r)| **r > 0.0).map(|(node, r)| (node, r / total)).collect();
        let mut waiting = Waiting::new(self, walk.tolerance);
        begins.iter().for_each(|&(node, r)| waiting.add(node, r));
        while let Some((node, come)) = waiting.next() {
            mass[node] += (1.0 - walk.damping) * come;
            let goes_on = walk.damping * come;
            if self.totals[node] > 0.0 {
                let share = goes_on / self.totals[node];
                let edges = self.starts[node]..self.starts[node + 1];
                let edges = self.neighbours[edges.clone()].iter().zip(&self.weights[edges]);
                edges.for_each(|(&to, &weight)| waiting.add(to, share * f64::from(weight)));
            } else {
                begins.iter().for_each(|&(to, r)| waiting.add(to, goes_on * r));
            }
        }
        // Of what still waits the share that would have stayed.
        mass.iter_mut().zip(&waiting.come).for_each(|(mass, come)| *mass += (1.0 - walk.damping) * come);
        Ok(mass)
    }
}

/// What has come to nodes and was not followed on, and the nodes where that is too much, in the order in which it became so.
struct Waiting<'a> {
    graph: &'a Graph,
    tolerance: f64,
    come: Vec<f64>,
    is_due: Vec<bool>,
    due: VecDeque<u32>,
}

impl<'a> Waiting<'a> {
    fn new(graph: &'a Graph, tolerance: f64) -> Self {
        let n = graph.n_nodes();
        Self { graph, tolerance, come: vec![0.0; n], is_due: vec![false; n], due: VecDeque::new() }
    }

    fn add(&mut self, node: u32, mass: f64) {
        let i = node as usize;
        self.come[i] += mass;
        // A node without edges counts as one with a unit.
        let weight = if self.graph.totals[i] > 0.0 { self.graph.totals[i] } else { 1.0 };
        if !self.is_due[i] && self.come[i] > self.tolerance * weight {
            self.is_due[i] = true;
            self.due.push_back(node);
        }
    }

    fn next(&mut self) -> Option<(usize, f64)> {
        let node = self.due.pop_front()? as usize;
        self.is_due[node] = false;
        Some((node, std::mem::take(&mut self.come[node])))
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Solves `(I − δ (Wᵀ + r dᵀ)) x = (1 − δ) r` by elimination; `d` is 1 at nodes without edges.
    fn solved(n: usize, edges: &[(u32, u32, f32)], reset: &[f64], damping: f64) -> Vec<f64> {
        let mut w = vec![vec![0.0; n]; n];
        for &(a, b, weight) in edges {
            w[a as usize][b as usize] += f64::from(weight);
            w[b as usize][a as usize] += f64::from(weight);
        }
        let total: f64 = reset.iter().sum();
        let r: Vec<f64> = reset.iter().map(|x| x / total).collect();
        let mut rows: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let mut row: Vec<f64> = (0..n)
                    .map(|j| {
                        let sum: f64 = w[j].iter().sum();
                        let step = if sum > 0.0 { w[j][i] / sum } else { r[i] };
                        f64::from(u8::from(i == j)) - damping * step
                    })
                    .collect();
                row.push((1.0 - damping) * r[i]);
                row
            })
            .collect();
        for pivot in 0..n {
            let best = (pivot..n).max_by(|&a, &b| rows[a][pivot].abs().total_cmp(&rows[b][pivot].abs())).unwrap();
            rows.swap(pivot, best);
            let pivot_row = rows[pivot].clone();
            for (i, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
                assert_ne!(i, pivot);
                let factor = row[pivot] / pivot_row[pivot];
                row.iter_mut().zip(&pivot_row).for_each(|(x, p)| *x -= factor * p);
            }
        }
        (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
    }

    #[test]
    fn a_walk_is_the_solution_of_its_equations() {
        for seed in 0..100 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let n = rng.random_range(1..20);
            let n_edges = if n < 2 { 0 } else { rng.random_range(0..30) };
            let edges: Vec<(u32, u32, f32)> = (0..n_edges)
                .map(|_| {
                    let a = rng.random_range(0..n as u32);
                    let b = (a + rng.random_range(1..n as u32)) % n as u32;
                    // Sums of such weights are exact.
                    (a, b, rng.random_range(1..24) as f32 / 8.0)
                })
                .collect();
            let mut reset: Vec<f64> = (0..n).map(|_| f64::max(0.0, rng.random_range(-1.0..1.0))).collect();
            reset[0] += 0.1;
            let walk = PageRank { damping: [0.0, 0.5, 0.85][seed as usize % 3], tolerance: 1e-12 };
            let graph = Graph::new(n, &edges).unwrap();
            let mass = graph.personalized_page_rank(&reset, &walk).unwrap();
            let expected = solved(n, &edges, &reset, walk.damping);
            assert!((mass.iter().sum::<f64>() - 1.0).abs() <= 1e-8);
            // A coarse walk falls short of it, at a node by no more than the tolerance times its weight, and what the nodes
            // without edges may hold back.
            let coarse = graph.personalized_page_rank(&reset, &PageRank { tolerance: 1e-3, ..walk }).unwrap();
            let weights: Vec<f32> = (0..n as u32)
                .map(|node| edges.iter().filter(|(a, b, _)| *a == node || *b == node).map(|edge| edge.2).sum())
                .collect();
            let n_alone = weights.iter().filter(|weight| **weight == 0.0).count() as f64;
            for (((got, want), coarse), weight) in mass.iter().zip(expected).zip(coarse).zip(weights) {
                assert!((got - want).abs() <= 1e-9, "seed {seed}: {got} {want}");
                let short = want - coarse;
                let bound = 1e-3 * (f64::from(weight) + n_alone);
                assert!((-1e-9..=bound + 1e-9).contains(&short), "seed {seed}: {coarse} {want}, {bound}");
            }
        }
    }

    #[test]
    fn a_walk_that_begins_nowhere_is_nowhere() {
        let graph = Graph::new(2, &[(0, 1, 1.0)]).unwrap();
        assert_eq!(graph.personalized_page_rank(&[0.0, 0.0], &PageRank::default()).unwrap(), [0.0, 0.0]);
        assert!(Graph::new(0, &[]).unwrap().personalized_page_rank(&[], &PageRank::default()).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_graph_or_walk_is_refused() {
        for edge in [(0, 0, 1.0), (0, 2, 1.0), (0, 1, 0.0), (0, 1, f32::NAN), (0, 1, f32::INFINITY)] {
            assert!(matches!(Graph::new(2, &[edge]), Err(Error::Invalid { .. })));
        }
        let graph = Graph::new(2, &[(0, 1, 1.0)]).unwrap();
        for reset in [&[1.0][..], &[1.0, -1.0], &[1.0, f64::NAN]] {
            assert!(matches!(graph.personalized_page_rank(reset, &PageRank::default()), Err(Error::Invalid { .. })));
        }
        let walk = PageRank { damping: 1.0, ..PageRank::default() };
        assert!(matches!(graph.personalized_page_rank(&[1.0, 0.0], &walk), Err(Error::Parameter { .. })));
    }
}
