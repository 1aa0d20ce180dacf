//! Vectors of texts.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A dense vector.
///
/// Invariant: every component is finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<f32>", try_from = "Vec<f32>")]
pub struct DenseVector(Vec<f32>);

impl From<DenseVector> for Vec<f32> {
    fn from(vector: DenseVector) -> Self {
        vector.0
    }
}

impl TryFrom<Vec<f32>> for DenseVector {
    type Error = Error;

    fn try_from(components: Vec<f32>) -> Result<Self> {
        Self::new(components)
    }
}

impl DenseVector {
    /// A vector of these components.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when a component is infinite or not a number.
    pub fn new(components: Vec<f32>) -> Result<Self> {
        if components.iter().all(|x| x.is_finite()) {
            Ok(Self(components))
        } else {
            Err(Error::NotFinite { what: "vector component" })
        }
    }

    /// The components.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// How many components there are.
    pub fn dim(&self) -> usize {
        self.0.len()
    }

    /// The cosine of the angle between two vectors; 0 when one of them is zero.
    pub fn cosine(&self, other: &Self) -> f64 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
        let norms = (dot(&self.0, &self.0) * dot(&other.0, &other.0)).sqrt();
        if norms == 0.0 { 0.0 } else { dot(&self.0, &other.0) / norms }
    }
}

/// A vector over a vocabulary, most of whose weights are zero.
///
/// Invariant: `terms` strictly increases; `weights` is as long, finite and non-zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparseVector {
    terms: Vec<u32>,
    weights: Vec<f32>,
}

impl SparseVector {
    /// A vector of these terms, in any order, with their weights; zero weights are dropped.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when a weight is infinite or not a number; [`Error::Invalid`] when a term is there twice.
    pub fn new(mut entries: Vec<(u32, f32)>) -> Result<Self> {
        if entries.iter().any(|(_, weight)| !weight.is_finite()) {
            return Err(Error::NotFinite { what: "weight" });
        }
        entries.retain(|&(_, weight)| weight != 0.0);
        entries.sort_unstable_by_key(|&(term, _)| term);
        if let Some(twice) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::Invalid {
                what: "sparse vector",
                problem: format!("term {} is there twice", twice[0].0),
            });
        }
        let (terms, weights) = entries.into_iter().unzip();
        Ok(Self { terms, weights })
    }

    /// The terms, increasing.
    pub fn terms(&self) -> &[u32] {
        &self.terms
    }

    /// The weights, in the order of the terms.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }
}

/// A vector for each token of a text.
///
/// Invariant: `rows` is `[n_tokens, dim]`, `dim` is not 0, and every component is finite. By convention rows are of
/// length 1, so that inner products are cosines. A text without tokens has no rows.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenMatrix {
    dim: usize,
    rows: Vec<f32>,
}

impl TokenMatrix {
    /// The vectors of a text's tokens, one after the other, `[n_tokens, dim]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when `dim` is 0 or does not divide the length; [`Error::NotFinite`] when a component is infinite
    /// or not a number.
    pub fn new(dim: usize, rows: Vec<f32>) -> Result<Self> {
        if dim == 0 || !rows.len().is_multiple_of(dim) {
            let expected = rows.len().next_multiple_of(dim.max(1));
            return Err(Error::Shape { what: "token vectors", expected, found: rows.len() });
        }
        if rows.iter().all(|x| x.is_finite()) {
            Ok(Self { dim, rows })
        } else {
            Err(Error::NotFinite { what: "vector component" })
        }
    }

    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many vectors there are.
    pub fn n_tokens(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// All vectors, `[n_tokens, dim]`.
    pub fn as_slice(&self) -> &[f32] {
        &self.rows
    }

    /// The vectors in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.rows.chunks_exact(self.dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_vector_sorts_and_drops_zeros() {
        let vector = SparseVector::new(vec![(9, 1.0), (3, 0.0), (1, 2.0)]).unwrap();
        assert_eq!((vector.terms(), vector.weights()), (&[1, 9][..], &[2.0, 1.0][..]));
        assert!(SparseVector::new(vec![(1, f32::NAN)]).is_err());
        assert!(SparseVector::new(vec![(1, 1.0), (1, 2.0)]).is_err());
    }

    #[test]
    fn a_token_matrix_has_whole_finite_rows() {
        let matrix = TokenMatrix::new(2, vec![1.0, 0.0, 0.6, 0.8]).unwrap();
        assert_eq!((matrix.dim(), matrix.n_tokens()), (2, 2));
        assert_eq!(matrix.rows().nth(1), Some(&[0.6, 0.8][..]));
        assert_eq!(TokenMatrix::new(3, vec![]).unwrap().n_tokens(), 0);
        assert!(matches!(TokenMatrix::new(0, vec![]), Err(Error::Shape { .. })));
        assert!(matches!(TokenMatrix::new(2, vec![1.0; 3]), Err(Error::Shape { .. })));
        assert!(matches!(TokenMatrix::new(1, vec![f32::NAN]), Err(Error::NotFinite { .. })));
    }

    #[test]
    fn cosine_of_parallel_vectors_is_one() {
        let vector = |components: &[f32]| DenseVector::new(components.to_vec()).unwrap();
        assert!((vector(&[1.0, 2.0]).cosine(&vector(&[2.0, 4.0])) - 1.0).abs() <= 1e-12);
        assert!(vector(&[1.0, 0.0]).cosine(&vector(&[0.0, 4.0])).abs() <= 1e-12);
    }
}
