//! Linear maps, by the product that a model is asked to use.

use std::str::FromStr;

use candle_core::{Device, Tensor};
use raglan_kernels::{
    BlockFormat, BlockMatrix, Int8Matrix, Output, PackedMatrix, block_product, block_product_add, int8_product,
    matrix_product,
};

use crate::Result;

/// How a model multiplies by its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Products {
    /// As the file holds them: single precision, or GGUF's blocks with inputs rounded to bytes.
    #[default]
    Stored,
    /// In single precision, whatever the file holds.
    F32,
    /// Weights and inputs rounded to bytes: about twice as fast; for encoders.
    Int8,
    /// In single precision by the candle library: slower, and what the others are checked against.
    Candle,
}

impl Products {
    const NAMES: [(&'static str, Self); 4] =
        [("stored", Self::Stored), ("f32", Self::F32), ("int8", Self::Int8), ("candle", Self::Candle)];

    /// The name that settings know it by.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, products)| *products == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Products {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, products)| *products).ok_or_else(|| format!("`{text}` is none of stored, f32, int8, candle"))
    }
}

/// `y = W x + b` for each row `x`.
#[derive(Debug)]
pub(crate) struct Linear {
    weights: Weights,
    bias: Option<Vec<f32>>,
    n_out: usize,
}

#[derive(Debug)]
enum Weights {
    F32(PackedMatrix),
    Int8(Int8Matrix),
    Blocks(BlockMatrix),
    /// `[n_in, n_out]`
    Candle(Tensor),
}

impl Linear {
    /// A map with weights `[n_out, n_in]` in single precision.
    pub fn new(weights: &[f32], bias: Option<Vec<f32>>, n_in: usize, products: Products) -> Result<Self> {
        let n_out = weights.len() / n_in;
        let weights = match products {
            Products::Stored | Products::F32 => Weights::F32(PackedMatrix::new(weights, n_out, n_in)?),
            Products::Int8 => Weights::Int8(Int8Matrix::new(weights, n_out, n_in)?),
            Products::Candle => {
                Weights::Candle(Tensor::from_slice(weights, (n_out, n_in), &Device::Cpu)?.t()?.contiguous()?)
            }
        };
        Ok(Self { weights, bias, n_out })
    }

    /// A map with weights in GGUF's blocks.
    pub fn from_blocks(
        format: BlockFormat,
        bytes: &[u8],
        bias: Option<Vec<f32>>,
        n_out: usize,
        n_in: usize,
    ) -> Result<Self> {
        Ok(Self { weights: Weights::Blocks(BlockMatrix::new(format, bytes, n_out, n_in)?), bias, n_out })
    }

    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// The map of each row of `input`, in `out` or added to it.
    pub fn apply(&self, input: &[f32], output: Output, out: &mut [f32]) -> Result<()> {
        let bias = self.bias.as_deref();
        match &self.weights {
            Weights::F32(weights) => matrix_product(input, weights, bias, output, out)?,
            Weights::Int8(weights) => int8_product(input, weights, bias, output, out)?,
            Weights::Blocks(weights) => {
                match output {
                    Output::Replace => block_product(input, weights, out)?,
                    Output::Add => block_product_add(input, weights, out)?,
                }
                self.add_bias(out);
            }
            Weights::Candle(weights) => {
                let n_in = weights.dim(0)?;
                let rows = Tensor::from_slice(input, (input.len() / n_in, n_in), &Device::Cpu)?;
                let product = rows.matmul(weights)?.flatten_all()?.to_vec1::<f32>()?;
                if output == Output::Replace {
                    out.copy_from_slice(&product);
                } else {
                    out.iter_mut().zip(product).for_each(|(out, product)| *out += product);
                }
                self.add_bias(out);
            }
        }
        Ok(())
    }

    fn add_bias(&self, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}
