//! Files of weights, whatever their format.

use std::path::Path;

use raglan_kernels::{BlockFormat, dequantize_blocks};

use crate::safetensors::{SafetensorsFile, SafetensorsType};
use crate::{Error, Result};

/// A file, or a few that are one, of named tensors.
pub(crate) trait WeightFile: Sync {
    /// The file's path.
    fn path(&self) -> &Path;

    /// Lengths of a tensor's dimensions, rows first, if there is such a tensor.
    fn shape(&self, tensor: &str) -> Option<&[usize]>;

    /// The names of all tensors.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// How a tensor's numbers are stored, if raglan's kernels know that format.
    fn format(&self, tensor: &str) -> Option<BlockFormat>;

    /// A tensor as it is stored, if [`format`](Self::format) names how.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when there is no such tensor or its shape is another one; [`Error::Io`].
    fn bytes(&self, tensor: &str, shape: &[usize]) -> Result<Vec<u8>>;

    /// A tensor's numbers in single precision.
    ///
    /// # Errors
    ///
    /// As for [`bytes`](Self::bytes).
    fn numbers(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>>;

    /// Whether there is such a tensor.
    fn contains(&self, tensor: &str) -> bool {
        self.shape(tensor).is_some()
    }

    /// Refuses a tensor that is not there or has another shape.
    fn expect_shape(&self, tensor: &str, shape: &[usize]) -> Result<()> {
        let problem = match self.shape(tensor) {
            Some(found) if found == shape => return Ok(()),
            Some(found) => format!("tensor `{tensor}` has shape {found:?} where {shape:?} is needed"),
            None => format!("there is no tensor `{tensor}`"),
        };
        Err(Error::Malformed { path: self.path().to_owned(), problem })
    }

    /// The format that all of some tensors are stored in.
    fn common_format(&self, tensors: &[&str]) -> Option<BlockFormat> {
        let mut formats = tensors.iter().map(|tensor| self.format(tensor));
        let first = formats.next()??;
        formats.all(|format| format == Some(first)).then_some(first)
    }

    /// A matrix whose rows are read one by one, kept as it is stored where that can be.
    fn rows(&self, tensor: &str, shape: [usize; 2]) -> Result<Rows> {
        let [n_rows, dim] = shape;
        match self.format(tensor) {
            Some(format) => {
                let bytes = self.bytes(tensor, &shape)?;
                Ok(Rows { format, row_bytes: bytes.len() / n_rows, bytes })
            }
            None => {
                let numbers = self.numbers(tensor, &shape)?;
                let bytes = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
                Ok(Rows { format: BlockFormat::F32, row_bytes: dim * size_of::<f32>(), bytes })
            }
        }
    }
}

impl WeightFile for SafetensorsFile {
    fn path(&self) -> &Path {
        self.path()
    }

    fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors().get(tensor).map(|tensor| &*tensor.shape)
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors().keys().map(String::as_str))
    }

    fn format(&self, tensor: &str) -> Option<BlockFormat> {
        match self.tensors().get(tensor)?.dtype {
            SafetensorsType::F32 => Some(BlockFormat::F32),
            SafetensorsType::BF16 => Some(BlockFormat::Bf16),
            _ => None,
        }
    }

    fn bytes(&self, tensor: &str, shape: &[usize]) -> Result<Vec<u8>> {
        if let Some(bits) = self.tensor_bf16(tensor, shape)? {
            return Ok(bits.into_iter().flat_map(u16::to_le_bytes).collect());
        }
        Ok(self.tensor_f32(tensor, shape)?.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    fn numbers(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.tensor_f32(tensor, shape)
    }
}

/// A matrix whose rows are made `f32` when they are read.
#[derive(Debug)]
pub(crate) struct Rows {
    format: BlockFormat,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl Rows {
    /// Reads a row, which is there.
    pub fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let bytes = &self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes];
        Ok(dequantize_blocks(self.format, bytes, out)?)
    }
}
