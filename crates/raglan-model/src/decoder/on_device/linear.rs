//! Linear maps on a device, in whatever numbers their weights are.

use std::cell::OnceCell;

use raglan_kernels::cuda::{
    Bf16, Buffer, CudaDevice, DeviceBlockMatrix, DeviceMatrix, F16, Narrow, QuantizedRows, SplitMatrix, add_bias,
    block_product, convert, matrix_product, split, split_product,
};
use raglan_kernels::{BlockFormat, Output, Result as KernelResult};

use crate::weight_file::WeightFile;
use crate::{Products, Result};

/// Rows up to which blocks are multiplied as they are; with more they are widened first, which reads and writes them once
/// and leaves the rest to the matrix units.
pub(super) const FEW_ROWS: usize = 8;

/// `y = W x + b` for each row `x`.
#[derive(Debug)]
pub(super) struct Linear {
    matrix: Matrix,
    bias: Option<Buffer<f32>>,
    n_in: usize,
}

#[derive(Debug)]
enum Matrix {
    Blocks(DeviceBlockMatrix),
    Bf16(DeviceMatrix<Bf16>),
    F16(DeviceMatrix),
    F32(SplitMatrix),
}

/// Rows that one map takes or several, and what they are in the numbers that these multiply, each made once.
pub(super) struct Input<'a> {
    rows: &'a Buffer<f32>,
    quantized: OnceCell<QuantizedRows>,
    bf16: OnceCell<Buffer<Bf16>>,
    f16: OnceCell<Buffer<F16>>,
    parts: OnceCell<[Buffer<Bf16>; 3]>,
}

impl<'a> Input<'a> {
    pub fn new(rows: &'a Buffer<f32>) -> Self {
        let (quantized, bf16, f16) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { rows, quantized, bf16, f16, parts: OnceCell::new() }
    }
}

/// What is there, or is made now.
fn once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> KernelResult<T>) -> KernelResult<&T> {
    match cell.get() {
        Some(made) => Ok(made),
        None => make().map(|made| cell.get_or_init(|| made)),
    }
}

impl Linear {
    /// The map of a tensor with `n_out` outputs.
    pub fn load(
        device: &CudaDevice,
        file: &dyn WeightFile,
        (tensor, bias): (&str, Option<Vec<f32>>),
        (n_out, n_in): (usize, usize),
        products: Products,
    ) -> Result<Self> {
        let shape = [n_out, n_in];
        let matrix = match (products, file.format(tensor)) {
            (Products::Bf16, _) | (Products::Stored, Some(BlockFormat::Bf16)) => {
                Matrix::Bf16(DeviceMatrix::new(device, &file.numbers(tensor, &shape)?, n_in, n_out, None)?)
            }
            (Products::Stored, Some(BlockFormat::F16)) => {
                Matrix::F16(DeviceMatrix::new(device, &file.numbers(tensor, &shape)?, n_in, n_out, None)?)
            }
            (Products::Stored, Some(format)) if format != BlockFormat::F32 => {
                let bytes = file.bytes(tensor, &shape)?;
                Matrix::Blocks(DeviceBlockMatrix::new(device, format, &bytes, n_in, n_out)?)
            }
            _ => Matrix::F32(SplitMatrix::new(device, &file.numbers(tensor, &shape)?, n_in, n_out)?),
        };
        Ok(Self { matrix, bias: bias.map(|bias| device.upload(&bias)).transpose()?, n_in })
    }

    pub fn has_blocks(&self) -> bool {
        matches!(self.matrix, Matrix::Blocks(_))
    }

    pub fn apply(&self, input: &Input<'_>, out: &mut Buffer<f32>) -> KernelResult<()> {
        let rows = input.rows;
        match &self.matrix {
            Matrix::Blocks(weights) if rows.len() <= FEW_ROWS * self.n_in => {
                block_product(once(&input.quantized, || QuantizedRows::new(rows))?, weights, out)?;
            }
            Matrix::Blocks(weights) => narrow_product(rows, &input.f16, &weights.dequantize()?, out)?,
            Matrix::Bf16(weights) => narrow_product(rows, &input.bf16, weights, out)?,
            Matrix::F16(weights) => narrow_product(rows, &input.f16, weights, out)?,
            Matrix::F32(weights) => split_product(once(&input.parts, || split(rows))?, weights, out)?,
        }
        if let Some(bias) = &self.bias {
            add_bias(out, bias)?;
        }
        Ok(())
    }
}

/// The product with rows in the precision of the weights.
fn narrow_product<N: Narrow>(
    rows: &Buffer<f32>,
    narrow: &OnceCell<Buffer<N>>,
    weights: &DeviceMatrix<N>,
    out: &mut Buffer<f32>,
) -> KernelResult<()> {
    matrix_product(once(narrow, || convert(rows))?, weights, Output::Replace, out)
}
