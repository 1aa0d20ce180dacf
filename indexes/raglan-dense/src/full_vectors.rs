//! The full vectors of a segment, in either precision.

use std::borrow::Cow;

use raglan_kernels::{
    from_f16, inner_products, inner_products_at, inner_products_f16, inner_products_f16_at, prefetch,
};

use crate::Result;

/// Rows `[n, dim]`.
#[derive(Clone, Copy)]
pub enum FullVectors<'a> {
    /// As they came.
    F32(&'a [f32]),
    /// The bits of `f16`.
    F16(&'a [u16]),
}

impl<'a> FullVectors<'a> {
    /// Rows `first..first + n`.
    pub fn rows(self, first: usize, n: usize, dim: usize) -> Self {
        let components = first * dim..(first + n) * dim;
        match self {
            Self::F32(rows) => Self::F32(&rows[components]),
            Self::F16(rows) => Self::F16(&rows[components]),
        }
    }

    /// The components as `f32`.
    pub fn widen(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(rows) => Cow::Borrowed(rows),
            Self::F16(rows) => {
                let mut wide = vec![0.0; rows.len()];
                from_f16(rows, &mut wide).expect("there is room for each");
                Cow::Owned(wide)
            }
        }
    }

    /// The scores of all rows: `out[q, row] = ⟨queries[q], row⟩`.
    pub fn scores(self, queries: &[f32], dim: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::F32(rows) => inner_products(queries, rows, dim, out)?,
            Self::F16(rows) => inner_products_f16(queries, rows, dim, out)?,
        }
        Ok(())
    }

    /// The scores of chosen rows, to the bit as [`scores`](Self::scores) gives them.
    pub fn scores_at(self, query: &[f32], chosen: &[u32], out: &mut [f32]) -> Result<()> {
        match self {
            Self::F32(rows) => {
                for &row in chosen {
                    prefetch(&rows[row as usize * query.len()..][..query.len()]);
                }
                inner_products_at(query, rows, chosen, out)?;
            }
            Self::F16(rows) => {
                for &row in chosen {
                    prefetch(&rows[row as usize * query.len()..][..query.len()]);
                }
                inner_products_f16_at(query, rows, chosen, out)?;
            }
        }
        Ok(())
    }
}
