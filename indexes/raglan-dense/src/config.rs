//! The parameters of a dense index.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A form in which a segment keeps its vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VectorStorage {
    /// Four bytes a component, as they came.
    F32,
    /// Two bytes a component, rounded to eleven bits.
    F16,
    /// A byte a component, with a scale for each vector; scored roughly, the best once more from the full vectors.
    Int8,
    /// A bit a component, with three factors for each vector (RaBitQ); likewise.
    OneBit,
}

/// How segments are written and searched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenseConfig {
    /// The forms that a segment keeps: one of `f32` and `f16`, which are full, and any codes beside it.
    pub storage: Vec<VectorStorage>,
    /// Segments of at least this many vectors get a graph; smaller ones are scanned faster than walked.
    pub graph_from: usize,
    /// Neighbours that a vector links itself to in the graph; it keeps up to twice as many. 2 to 128.
    pub m: usize,
    /// Candidates considered for a vector's neighbours while the graph is built.
    pub ef_construction: usize,
    /// Candidates kept while the graph is searched; a search for more than this many hits keeps that many.
    pub ef_search: usize,
    /// A filter that lets at most so many of a segment's vectors through is answered by scoring just those.
    pub few: usize,
    /// Hits of a scan of codes that are scored from the full vectors, for each that is wanted.
    pub rescore: usize,
    /// What random rotations and orders follow from.
    pub seed: u64,
}

impl Default for DenseConfig {
    fn default() -> Self {
        Self {
            storage: vec![VectorStorage::F32, VectorStorage::Int8, VectorStorage::OneBit],
            graph_from: 1_000,
            m: 16,
            ef_construction: 200,
            ef_search: 100,
            few: 10_000,
            rescore: 10,
            seed: 0x5eed,
        }
    }
}

impl DenseConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |problem| Err(Error::Config { problem });
        let n_full = self.storage.iter().filter(|form| matches!(form, VectorStorage::F32 | VectorStorage::F16)).count();
        if n_full != 1 {
            return refuse(format!("`storage` has {n_full} of `f32` and `f16`, not one"));
        }
        if self.storage.iter().enumerate().any(|(i, form)| self.storage[..i].contains(form)) {
            return refuse("`storage` has a form twice".to_owned());
        }
        if !(2..=128).contains(&self.m) {
            return refuse(format!("`m` is {}, not between 2 and 128", self.m));
        }
        if self.ef_construction == 0 || self.ef_search == 0 || self.rescore == 0 {
            return refuse("`ef_construction`, `ef_search` and `rescore` are at least 1".to_owned());
        }
        Ok(())
    }

    pub(crate) fn keeps(&self, form: VectorStorage) -> bool {
        self.storage.contains(&form)
    }
}

/// How an index looks for the nearest vectors.
///
/// A segment that lacks what a mode needs is searched exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// Reads every vector.
    Exact,
    /// Walks the graph of each segment that has one; scans where a filter lets few vectors through.
    Graph,
    /// Reads every vector as bytes, and scores the best again.
    Int8,
    /// Reads every vector as bits, and scores the best again.
    OneBit,
    /// As [`SearchMode::Graph`] in segments of at least 50,000 vectors, and as [`SearchMode::Exact`] in smaller ones, which
    /// takes milliseconds, and where so many hits are wanted that the walk would not be shorter.
    #[default]
    Auto,
}
