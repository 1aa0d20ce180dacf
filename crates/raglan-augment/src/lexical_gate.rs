//! Query vectors that listen to the exact words (after LexSemBridge; 2025).

use std::path::Path;
use std::sync::Arc;

use raglan_core::{DenseVector, Encoder};
use raglan_kernels::l2_normalize;
use raglan_model::{EncoderModel, EncoderModelConfig, SafetensorsFile, Tokenizer};

use crate::{Error, Result};

/// Says how much each component of a query's vector counts, by the query's tokens.
///
/// `gate = dim · softmax(Σ_t w_t · E_t / τ)`, over the query's distinct tokens `t` with a row `E_t` of a table
/// `[vocab_size, dim]` and a weight `w_t`; a gate's mean is 1. The paper learns the table (its statistical form has `w` = 1
/// and `τ` = 1) and publishes none: [`of_encoder`](Self::of_encoder) takes the encoder's own word embeddings, which no
/// paper has shown to help.
#[derive(Debug)]
pub struct LexicalGate {
    tokenizer: Tokenizer,
    dim: usize,
    /// `[vocab_size, dim]`
    table: Vec<f32>,
    /// One a token, or none when all weigh 1.
    weights: Vec<f32>,
    temperature: f32,
}

impl LexicalGate {
    /// A gate of a table `[vocab_size, dim]`.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when the table has no whole rows, weights are neither none nor one a row, something is not a
    /// finite number, or the temperature is not above 0.
    pub fn new(tokenizer: Tokenizer, dim: usize, table: Vec<f32>, weights: Vec<f32>, temperature: f32) -> Result<Self> {
        let refused = |name, problem: &str| Err(Error::Parameter { name, problem: problem.to_owned() });
        if dim == 0 || !table.len().is_multiple_of(dim) || table.iter().any(|x| !x.is_finite()) {
            return refused("table", "must be whole rows of finite numbers");
        }
        if !weights.is_empty() && weights.len() != table.len() / dim || weights.iter().any(|x| !x.is_finite()) {
            return refused("weights", "must be one finite number a row of the table, or none");
        }
        if !(temperature.is_finite() && temperature > 0.0) {
            return refused("temperature", "must be above 0");
        }
        Ok(Self { tokenizer, dim, table, weights, temperature })
    }

    /// The gate of the word embeddings of an encoder in a folder (`config.json`, safetensors, `tokenizer.json`).
    ///
    /// # Errors
    ///
    /// What reading these files gives; what [`new`](Self::new) gives.
    pub fn of_encoder(dir: &Path, weights: Vec<f32>, temperature: f32) -> Result<Self> {
        let config = EncoderModelConfig::from_file(dir.join("config.json"))?;
        let table = EncoderModel::word_embeddings(&SafetensorsFile::open(dir)?, &config)?;
        let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json"))?;
        Self::new(tokenizer, config.hidden_size, table, weights, temperature)
    }

    /// How much each component counts for a query; all count 1 when it has no tokens.
    ///
    /// # Errors
    ///
    /// [`raglan_model::Error::UnknownToken`] for a token that the table lacks.
    pub fn gate(&self, query: &str) -> Result<Vec<f32>> {
        let mut ids = self.tokenizer.encode(query, false)?.ids;
        ids.sort_unstable();
        ids.dedup();
        let mut sums = vec![0.0_f64; self.dim];
        for id in ids {
            let row = self.table.chunks_exact(self.dim).nth(id as usize);
            let row = row.ok_or(raglan_model::Error::UnknownToken { id })?;
            let weight = self.weights.get(id as usize).copied().unwrap_or(1.0);
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += f64::from(weight) * f64::from(x) / f64::from(self.temperature);
            }
        }
        let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let odds: Vec<f64> = sums.iter().map(|sum| (sum - largest).exp()).collect();
        let scale = self.dim as f64 / odds.iter().sum::<f64>();
        Ok(odds.into_iter().map(|x| (x * scale) as f32).collect())
    }
}

/// An encoder whose query vectors pass a [`LexicalGate`]; those of passages stay as they are, and so does an index of them.
pub struct GatedEncoder {
    encoder: Arc<dyn Encoder<Vector = DenseVector>>,
    gate: LexicalGate,
}

impl GatedEncoder {
    /// An encoder behind a gate of its dimension.
    pub fn new(encoder: Arc<dyn Encoder<Vector = DenseVector>>, gate: LexicalGate) -> Self {
        Self { encoder, gate }
    }
}

impl Encoder for GatedEncoder {
    type Vector = DenseVector;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        let vectors = self.encoder.encode_queries(queries)?;
        let gated = vectors.into_iter().zip(queries).map(|(vector, query)| {
            let gate = self.gate.gate(query)?;
            if gate.len() != vector.dim() {
                let (expected, found) = (gate.len(), vector.dim());
                return Err(raglan_core::Error::Shape { what: "query vector", expected, found });
            }
            let mut gated: Vec<f32> = vector.as_slice().iter().zip(gate).map(|(x, gate)| x * gate).collect();
            let dim = gated.len();
            l2_normalize(&mut gated, dim).map_err(Error::from)?;
            DenseVector::new(gated)
        });
        gated.collect()
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        self.encoder.encode_passages(passages)
    }
}
