//! Linear maps, by the product that a model is asked to use.

use std::str::FromStr;

use candle_core::{Device, Tensor};
use raglan_kernels::{
    Activation, AttentionShape, Bf16Matrix, BlockFormat, BlockMatrix, Epilogue, Int8Matrix, Int8Rows, Output,
    PackedMatrix, activate, bf16_product, bidirectional_attention, bidirectional_attention_bf16, block_product,
    block_product_add, gated, int8_product, int8_product_rounded, matrix_product,
};
use rayon::prelude::*;

use crate::weight_file::WeightFile;
use crate::{Error, Result};

/// Rows of a gated layer's middle that one thread takes.
const GATED_ROWS: usize = 32;

/// How a model multiplies by its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Products {
    /// As the file holds them: GGUF's blocks with inputs rounded to bytes, bf16, or single precision, which half
    /// precision becomes. Encoders: single precision.
    #[default]
    Stored,
    /// In single precision, whatever the file holds.
    F32,
    /// Weights rounded to bf16: half the memory, and on processors with AMX many times as fast.
    Bf16,
    /// Weights and inputs rounded to bytes: the fastest; for encoders.
    Int8,
    /// In single precision by the candle library: slower, and what the others are checked against.
    Candle,
}

impl Products {
    /// Those that are a matter of precision.
    const PRECISIONS: [(&'static str, Self); 4] =
        [("stored", Self::Stored), ("f32", Self::F32), ("bf16", Self::Bf16), ("int8", Self::Int8)];

    /// Its name: a precision's as it is parsed, or `candle`.
    pub fn name(self) -> &'static str {
        Self::PRECISIONS.iter().find(|(_, products)| *products == self).map_or("candle", |(name, _)| name)
    }
}

/// Parses a precision; that candle multiplies is said otherwise.
impl FromStr for Products {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::PRECISIONS.iter().find(|(name, _)| *name == text);
        found.map(|(_, products)| *products).ok_or_else(|| format!("`{text}` is none of stored, f32, bf16, int8"))
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
    Bf16(Bf16Matrix),
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
            Products::Bf16 => Weights::Bf16(Bf16Matrix::new(weights, n_out, n_in)?),
            Products::Int8 => Weights::Int8(Int8Matrix::new(weights, n_out, n_in)?),
            Products::Candle => {
                let weights = Tensor::from_slice(weights, (n_out, n_in), &Device::Cpu);
                Weights::Candle(weights.and_then(|weights| weights.t()?.contiguous()).map_err(Error::tensor)?)
            }
        };
        Ok(Self { weights, bias, n_out })
    }

    /// A map of `n_out` outputs whose weights lie in tensors of a file, one above the other.
    ///
    /// [`Products::Stored`] keeps blocks of one format and bf16 as they are; all else becomes single precision.
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
            && !matches!(format, BlockFormat::F32 | BlockFormat::F16)
        {
            let mut bytes = Vec::new();
            for tensor in tensors {
                bytes.extend(file.bytes(tensor, &shape(tensor))?);
            }
            let weights = if format == BlockFormat::Bf16 {
                let bits: Vec<u16> = bytes.as_chunks().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect();
                Weights::Bf16(Bf16Matrix::from_bits(&bits, n_out, n_in)?)
            } else {
                Weights::Blocks(BlockMatrix::new(format, &bytes, n_out, n_in)?)
            };
            return Ok(Self { weights, bias, n_out });
        }
        let mut weights = Vec::new();
        for tensor in tensors {
            weights.extend(file.numbers(tensor, &shape(tensor))?);
        }
        Self::new(&weights, bias, n_in, products)
    }

    /// The map of each row of `input`, of which `output` makes `out`.
    pub fn apply(&self, input: &[f32], output: Output, out: &mut [f32]) -> Result<()> {
        if let Output::Gated(activation) = output
            && !self.gates_its_sums()
        {
            let mut gate_up = vec![0.0; 2 * out.len()];
            self.apply(input, Output::Replace, &mut gate_up)?;
            return gate(&gate_up, self.n_out / 2, activation, out);
        }
        let epilogue = Epilogue { bias: self.bias.as_deref(), output };
        match &self.weights {
            Weights::F32(weights) => matrix_product(input, weights, epilogue, out)?,
            Weights::Bf16(weights) => bf16_product(input, weights, epilogue, out)?,
            Weights::Int8(weights) => {
                let mut rows = Int8Rows::default();
                rows.round(input, weights.n_in())?;
                int8_product(&rows, weights, epilogue, out)?;
            }
            Weights::Blocks(weights) => {
                match output {
                    Output::Add => block_product_add(input, weights, out)?,
                    _ => block_product(input, weights, out)?,
                }
                self.finish(output, out);
            }
            Weights::Candle(weights) => {
                let product = candle_product(input, weights).map_err(Error::tensor)?;
                match output {
                    Output::Add => out.iter_mut().zip(product).for_each(|(out, product)| *out += product),
                    _ => out.copy_from_slice(&product),
                }
                self.finish(output, out);
            }
        }
        Ok(())
    }

    fn n_in(&self) -> usize {
        match &self.weights {
            Weights::F32(weights) => weights.n_in(),
            Weights::Bf16(weights) => weights.n_in(),
            Weights::Int8(weights) => weights.n_in(),
            Weights::Blocks(weights) => weights.n_in(),
            Weights::Candle(weights) => weights.dims()[0],
        }
    }

    /// How to attend between rows that this map made: no more exactly than it multiplies.
    pub fn attention(&self) -> Attention {
        match self.weights {
            Weights::Bf16(_) | Weights::Int8(_) => bidirectional_attention_bf16,
            Weights::F32(_) | Weights::Blocks(_) | Weights::Candle(_) => bidirectional_attention,
        }
    }

    /// Whether the product gates its sums while they are near; it does where each half fills whole registers.
    fn gates_its_sums(&self) -> bool {
        matches!(self.weights, Weights::F32(_) | Weights::Int8(_)) && self.n_out.is_multiple_of(32)
    }

    /// The bias and the activation, for products that stop at their sums.
    fn finish(&self, output: Output, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
        if let Output::Activate(activation) = output {
            activate(out, activation);
        }
    }
}

/// [`bidirectional_attention`] or its like.
pub(crate) type Attention =
    fn(&AttentionShape, &[f32], &[usize], Option<usize>, &mut [f32]) -> raglan_kernels::Result<()>;

/// [`gated`] on all threads.
fn gate(gate_up: &[f32], dim: usize, activation: Activation, out: &mut [f32]) -> Result<()> {
    let rows = gate_up.par_chunks(2 * dim * GATED_ROWS).zip(out.par_chunks_mut(dim * GATED_ROWS));
    rows.try_for_each(|(gate_up, out)| Ok(gated(gate_up, dim, activation, out)?))
}

/// Room for the middle of a feed-forward part, kept from call to call.
#[derive(Debug, Default)]
pub(crate) struct Middle {
    numbers: Vec<f32>,
    rows: Int8Rows,
    rounded: Int8Rows,
}

/// Adds `narrow(activation(widen(x)))` to each row `x`.
///
/// In bytes the middle is rounded as it comes, and never is in single precision in memory.
pub(crate) fn add_feed_forward(
    rows: &mut [f32],
    widen: &Linear,
    activation: Activation,
    narrow: &Linear,
    middle: &mut Middle,
) -> Result<()> {
    if let (Weights::Int8(wide), Weights::Int8(back)) = (&widen.weights, &narrow.weights) {
        middle.rows.round(rows, wide.n_in())?;
        int8_product_rounded(&middle.rows, wide, widen.bias.as_deref(), Some(activation), &mut middle.rounded)?;
        let epilogue = Epilogue { bias: narrow.bias.as_deref(), output: Output::Add };
        return Ok(int8_product(&middle.rounded, back, epilogue, rows)?);
    }
    let n_numbers = rows.len() / widen.n_in() * widen.n_out;
    if middle.numbers.len() < n_numbers {
        middle.numbers.resize(n_numbers, 0.0);
    }
    let numbers = &mut middle.numbers[..n_numbers];
    widen.apply(rows, Output::Activate(activation), numbers)?;
    narrow.apply(numbers, Output::Add, rows)
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

    /// `activation(gate) · up` for each row of `input`, of two maps of one size; `room` is for both side by side.
    pub fn apply_gated(&self, input: &[f32], activation: Activation, room: &mut [f32], out: &mut [f32]) -> Result<()> {
        if let [both] = &*self.parts
            && both.gates_its_sums()
        {
            return both.apply(input, Output::Gated(activation), out);
        }
        self.apply(input, room)?;
        let dim: usize = self.parts.iter().map(|part| part.n_out).sum::<usize>() / 2;
        gate(room, dim, activation, out)
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

/// `input · weights`, of which `weights` is `[n_in, n_out]`, row by row.
fn candle_product(input: &[f32], weights: &Tensor) -> candle_core::Result<Vec<f32>> {
    let n_in = weights.dim(0)?;
    let rows = Tensor::from_slice(input, (input.len() / n_in, n_in), &Device::Cpu)?;
    rows.matmul(weights)?.flatten_all()?.to_vec1()
}
