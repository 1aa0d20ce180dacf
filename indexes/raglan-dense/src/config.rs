//! The parameters of a dense index.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How segments are written and searched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenseConfig {
    /// Segments of at least this many vectors get a graph; smaller ones are scanned faster than walked.
    pub graph_from: usize,
    /// Neighbours of a vector in the graph's upper layers; the lowest layer has up to twice as many. 2 to 128.
    pub m: usize,
    /// Candidates considered for a vector's neighbours while the graph is built.
    pub ef_construction: usize,
    /// Candidates kept while the graph is searched; a search for more than this many hits keeps that many.
    pub ef_search: usize,
}

impl Default for DenseConfig {
    fn default() -> Self {
        Self { graph_from: 50_000, m: 16, ef_construction: 200, ef_search: 100 }
    }
}

impl DenseConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |problem| Err(Error::Config { problem });
        if !(2..=128).contains(&self.m) {
            return refuse(format!("`m` is {}, not between 2 and 128", self.m));
        }
        if self.ef_construction == 0 || self.ef_search == 0 {
            return refuse("`ef_construction` and `ef_search` are at least 1".to_owned());
        }
        Ok(())
    }
}

/// How an index looks for the nearest vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// Reads every vector.
    Exact,
    /// Walks the graph of each segment that has one; scans the others, and where a filter lets fewer than one vector in
    /// ten through.
    Graph,
    /// As [`SearchMode::Graph`], but scans also where so many hits are wanted that the walk would not be shorter.
    #[default]
    Auto,
}
