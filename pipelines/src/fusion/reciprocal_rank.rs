//! Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009).

use super::Values;

/// `1 / (k0 + rank)` with ranks from 1; absent = 0.
///
/// Qdrant counts from 0, takes `k0` = 2 and lets a weight divide the rank; numbers of the two forms do not compare.
pub(super) fn values(n: usize, k0: f64) -> Values {
    Values { present: (1..=n).map(|rank| 1.0 / (k0 + rank as f64)).collect(), absent: 0.0 }
}
