//! Keys and values in pages on a device.

use super::{Buffer, CudaDevice, F16, HEAD_DIMS, PAGE_TOKENS, count};
use crate::{Error, Result};

/// An arena of pages of keys and values, `[n_layers, n_pages, n_kv_heads, PAGE_TOKENS, head_dim]` of half floats each.
///
/// A page is one in all layers. Which are free, a [`PagePool`](super::PagePool) knows. What is in a slot that nothing
/// was put into is zero.
#[derive(Debug)]
pub struct KvPages {
    pub(crate) keys: Buffer<F16>,
    pub(crate) values: Buffer<F16>,
    n_layers: usize,
    n_pages: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

impl KvPages {
    /// An arena of `n_pages` pages.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when `head_dim` is not among [`HEAD_DIMS`]; [`Error::DeviceMemory`] when there is not so much
    /// memory; [`Error::Shape`] when there are more slots than kernels count.
    pub fn new(
        device: &CudaDevice,
        n_layers: usize,
        n_pages: usize,
        n_kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self> {
        if !HEAD_DIMS.contains(&head_dim) {
            return Err(Error::Unsupported { what: "size of attention's heads", found: head_dim });
        }
        count("slots of pages", n_pages.saturating_mul(PAGE_TOKENS))?;
        let numbers = [n_layers, n_pages, n_kv_heads, PAGE_TOKENS, head_dim];
        let len = numbers.into_iter().try_fold(1_usize, usize::checked_mul);
        let len = len.ok_or(Error::DeviceMemory { needed: usize::MAX, free: 0 })?;
        let (keys, values) = (device.filled(0, len)?, device.filled(0, len)?);
        Ok(Self { keys, values, n_layers, n_pages, n_kv_heads, head_dim })
    }

    /// Where they are.
    pub fn device(&self) -> &CudaDevice {
        self.keys.device()
    }

    /// The keys and the values of a page in a layer, `[n_kv_heads, PAGE_TOKENS, head_dim]` each.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] when there is no such layer or page; [`Error::Cuda`] when the device does not answer.
    pub fn download(&self, layer: usize, page: usize) -> Result<[Vec<F16>; 2]> {
        for (row, n_rows) in [(layer, self.n_layers), (page, self.n_pages)] {
            if row >= n_rows {
                return Err(Error::Row { row, n_rows });
            }
        }
        let len = self.n_kv_heads * PAGE_TOKENS * self.head_dim;
        let start = layer * self.layer_len() + page * len;
        Ok([self.keys.download_range(start..start + len)?, self.values.download_range(start..start + len)?])
    }

    /// How many layers have pages.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// How many pages there are.
    pub fn n_pages(&self) -> usize {
        self.n_pages
    }

    /// Heads of keys and values.
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads
    }

    /// Components of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How many numbers the pages of a layer hold.
    pub(crate) fn layer_len(&self) -> usize {
        self.n_pages * self.n_kv_heads * PAGE_TOKENS * self.head_dim
    }
}
