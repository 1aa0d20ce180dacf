//! Tokens are looked up where the tables are.

use crate::device::cuda::{Argument, Buffer, CudaDevice, F16, Kernel, Launch, Module, Real, check_len, count};
use crate::{Error, Result};

pub(crate) static MODULE: Module = Module {
    name: "embedding",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[Kernel { name: "embed", most_registers: 32 }],
};

/// A table of rows on a device, in half precision.
#[derive(Debug)]
pub struct Embedding {
    rows: Buffer<F16>,
    n_rows: usize,
    dim: usize,
}

impl Embedding {
    /// Uploads a table, `[n_rows, dim]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when it is not whole rows; [`Error::ZeroDimension`] when `dim` is 0.
    pub fn new(device: &CudaDevice, rows: &[f32], dim: usize) -> Result<Self> {
        if dim == 0 {
            return Err(Error::ZeroDimension);
        }
        check_len("table", rows.len(), rows.len().next_multiple_of(dim))?;
        let rounded: Vec<F16> = rows.iter().map(|&x| F16::from_f32(x)).collect();
        Ok(Self { rows: device.upload(&rounded)?, n_rows: rows.len() / dim, dim })
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.n_rows) {
            Some(&id) => Err(Error::Row { row: id as usize, n_rows: self.n_rows }),
            None => Ok(()),
        }
    }
}

/// The sums of tokens' rows in up to three tables, `[n, dim]`: words, and where there are such positions and kinds.
///
/// # Errors
///
/// [`Error::Row`] when a table has no such row; [`Error::Shape`] when a length does not fit.
pub fn embed(
    words: (&Embedding, &[u32]),
    positions: Option<(&Embedding, &[u32])>,
    kinds: Option<(&Embedding, &[u32])>,
) -> Result<Buffer<F16>> {
    let device = words.0.rows.device();
    let (dim, n) = (words.0.dim, words.1.len());
    let mut arguments = Vec::new();
    let mut uploaded = Vec::new();
    for table in [Some(words), positions, kinds] {
        let Some((table, ids)) = table else {
            arguments.extend([Argument::Address(0); 2]);
            continue;
        };
        check_len("dimension of tables", table.dim, dim)?;
        check_len("rows of tokens", ids.len(), n)?;
        table.check(ids)?;
        let ids = device.upload(ids)?;
        arguments.extend([table.rows.argument(), ids.argument()]);
        uploaded.push(ids);
    }
    let out = device.allocate(n * dim)?;
    arguments.extend([Argument::U32(count("dim", dim)?), Argument::U64((n * dim) as u64), out.argument()]);
    let launch = Launch { grid: [count("tokens", (n * dim).div_ceil(256))?, 1, 1], block: 256, shared_bytes: 0 };
    // SAFETY: the arguments are the kernel's; every id is in its table, and there is one for each of the `n` rows.
    unsafe { device.launch(&MODULE, "embed", launch, &arguments) }?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_tables_are_added() {
        if let Some(device) = &CudaDevice::to_test() {
            let words = Embedding::new(device, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2).unwrap();
            let places = Embedding::new(device, &[0.5, 0.25, -1.0, -2.0], 2).unwrap();
            let widened = |rows: Buffer<F16>| rows.download().unwrap().iter().map(|x| x.to_f32()).collect::<Vec<_>>();
            let out = embed((&words, &[2, 0]), Some((&places, &[0, 1])), Some((&places, &[1, 1]))).unwrap();
            assert_eq!(widened(out), [4.5, 4.25, -1.0, -2.0]);
            assert_eq!(widened(embed((&words, &[1]), None, None).unwrap()), [3.0, 4.0]);
            assert!(embed((&words, &[]), None, None).unwrap().is_empty());
            assert!(matches!(embed((&words, &[3]), None, None), Err(Error::Row { row: 3, n_rows: 3 })));
            assert!(embed((&words, &[0]), Some((&places, &[])), None).is_err());
        }
    }
}
