//! Linear maps, by the product that a model is asked to use.

use std::str::FromStr;

use candle_core::{Device, Tensor};
use raglan_kernels::{
    BlockFormat, BlockMatrix, Int8Matrix, Output, PackedMatrix, block_product, block_product_add, int8_product,
    matrix_product,
};

use crate::Result;
use crate::weight_file::WeightFile;

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

    /// A map of `n_out` outputs whose weights lie in tensors of a file, one above the other.
    ///
    /// [`Products::Stored`] keeps blocks of one format as they are; all else becomes single precision.
    pub fn from_file(
        file: &dyn WeightFile,
        tensors: &[&str],
        bias: Option<Vec<f32>>,
        n_out: usize,
        n_in: usize,
        products: Products,
    ) -> Result<Self> {
        let shape = |tensor: &str| match tensors {
            [_] => [n_out, n_in],
            _ => [file.shape(tensor).map_or(0, |shape| shape[0]), n_in],
        };
        if products == Products::Stored
            && let Some(format) = file.common_format(tensors)
            && !matches!(format, BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16)
        {
            let mut bytes = Vec::new();
            for tensor in tensors {
                bytes.extend(file.bytes(tensor, &shape(tensor))?);
            }
            let weights = Weights::Blocks(BlockMatrix::new(format, &bytes, n_out, n_in)?);
            return Ok(Self { weights, bias, n_out });
        }
        let mut weights = Vec::new();
        for tensor in tensors {
            weights.extend(file.numbers(tensor, &shape(tensor))?);
        }
        Self::new(&weights, bias, n_in, products)
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

    fn n_in(&self) -> usize {
        match &self.weights {
            Weights::F32(weights) => weights.n_in(),
            Weights::Int8(weights) => weights.n_in(),
            Weights::Blocks(weights) => weights.n_in(),
            Weights::Candle(weights) => weights.dims()[0],
        }
    }

    fn add_bias(&self, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}

/// Linear maps of one input whose outputs stand side by side.
#[derive(Debug)]
pub(crate) struct Stacked {
    /// One map when all could be packed together, as their formats allow.
    parts: Vec<Linear>,
}

impl Stacked {
    /// The maps of some parts of a layer, each with its name in the file and its number of outputs.
    pub fn from_file(
        file: &dyn WeightFile,
        parts: &[(String, usize)],
        n_in: usize,
        products: Products,
    ) -> Result<Self> {
        let bias = |(part, n_out): &(String, usize)| {
            let name = format!("{part}.bias");
            file.contains(&name).then(|| file.numbers(&name, &[*n_out])).transpose()
        };
        let names: Vec<String> = parts.iter().map(|(part, _)| format!("{part}.weight")).collect();
        for (name, (_, n_out)) in names.iter().zip(parts) {
            file.expect_shape(name, &[*n_out, n_in])?;
        }
        let biases = parts.iter().map(bias).collect::<Result<Vec<_>>>()?;
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let together = products != Products::Stored || file.common_format(&all).is_some();
        if together && (biases.iter().all(Option::is_some) || biases.iter().all(Option::is_none)) {
            let bias: Option<Vec<Vec<f32>>> = biases.into_iter().collect();
            let n_out = parts.iter().map(|(_, n_out)| n_out).sum();
            let all = Linear::from_file(file, &all, bias.map(|bias| bias.concat()), n_out, n_in, products)?;
            return Ok(Self { parts: vec![all] });
        }
        let mut singly = Vec::with_capacity(parts.len());
        for ((name, (_, n_out)), bias) in names.iter().zip(parts).zip(biases) {
            singly.push(Linear::from_file(file, &[name], bias, *n_out, n_in, products)?);
        }
        Ok(Self { parts: singly })
    }

    /// The maps of each row of `input`, side by side in each row of `out`.
    pub fn apply(&self, input: &[f32], out: &mut [f32]) -> Result<()> {
        if let [all] = &*self.parts {
            return all.apply(input, Output::Replace, out);
        }
        let width: usize = self.parts.iter().map(|part| part.n_out).sum();
        let mut first = 0;
        for part in &self.parts {
            let mut rows = vec![0.0; input.len() / part.n_in() * part.n_out];
            part.apply(input, Output::Replace, &mut rows)?;
            for (out, row) in out.chunks_exact_mut(width).zip(rows.chunks_exact(part.n_out)) {
                out[first..first + part.n_out].copy_from_slice(row);
            }
            first += part.n_out;
        }
        Ok(())
    }
}
