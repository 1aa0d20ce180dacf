//! On a device: weights stay in their few bits, and activations are brought to bytes, as on the processor.

use super::BlockFormat;
use super::format::{SubBlock, check_bytes};
use crate::device::cuda::{Argument, Buffer, CudaDevice, Kernel, Launch, Module, check_len, count};
use crate::matrix_product::cuda::DeviceMatrix;
use crate::{Error, Result};

macro_rules! kernels {
    ($($name:literal),*) => {
        &[
            Kernel { name: "quantize", most_registers: 32 },
            $(
                Kernel { name: concat!("product_", $name, "_1"), most_registers: 48 },
                Kernel { name: concat!("product_", $name, "_4"), most_registers: 48 },
                Kernel { name: concat!("dequantize_", $name), most_registers: 40 },
            )*
        ]
    };
}

pub(crate) static MODULE: Module = Module {
    name: "block_product",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: kernels!["4", "5", "8", "4k", "5k", "6k"],
};

/// Weights that share scales.
const SUB: usize = 32;

/// How the kernels know a format: their names, the bits of a weight, and what is subtracted from it.
struct Layout {
    names: [&'static str; 3],
    bits: usize,
    offset: u32,
}

fn layout(format: BlockFormat) -> Result<Layout> {
    macro_rules! names {
        ($name:literal) => {
            [concat!("product_", $name, "_1"), concat!("product_", $name, "_4"), concat!("dequantize_", $name)]
        };
    }
    let (names, bits, offset) = match format {
        BlockFormat::Q4_0 => (names!("4"), 4, 8),
        BlockFormat::Q4_1 => (names!("4"), 4, 0),
        BlockFormat::Q5_0 => (names!("5"), 5, 16),
        BlockFormat::Q5_1 => (names!("5"), 5, 0),
        BlockFormat::Q8_0 => (names!("8"), 8, 0),
        BlockFormat::Q4K => (names!("4k"), 4, 0),
        BlockFormat::Q5K => (names!("5k"), 5, 0),
        BlockFormat::Q6K => (names!("6k"), 6, 32),
        BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => {
            return Err(Error::Unsupported { what: "block length of quantised weights", found: 1 });
        }
    };
    Ok(Layout { names, bits, offset })
}

/// Weights in the quantised blocks of a GGUF file, on a device.
///
/// They are repacked so that a thread loads 16 aligned bytes: 18 bytes of Q4_0 become 20, 210 of Q6_K become 212; the
/// others stay as large.
#[derive(Debug)]
pub struct DeviceBlockMatrix {
    layout: Layout,
    n_in: usize,
    n_out: usize,
    /// The lower four bits, or all eight.
    low: Buffer<u32>,
    /// A word for each bit more.
    high: Buffer<u32>,
    /// Two half floats for each 32 weights, or for each 256.
    scales: Buffer<u32>,
    /// Two bytes for each 32 weights, where the scales are of 256.
    parts: Buffer<u16>,
}

impl std::fmt::Debug for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.names[0])
    }
}

impl DeviceBlockMatrix {
    /// Repacks and uploads weights, `[n_out, n_in]`, as the file has them.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when `n_in` is not whole blocks or the bytes are not as many; [`Error::Unsupported`] when the
    /// format is not a quantised one; [`Error::ZeroDimension`] when `n_in` is 0.
    pub fn new(device: &CudaDevice, format: BlockFormat, bytes: &[u8], n_in: usize, n_out: usize) -> Result<Self> {
        let layout = layout(format)?;
        if n_in == 0 {
            return Err(Error::ZeroDimension);
        }
        check_len("inputs in blocks", n_in, n_in.next_multiple_of(format.block_len()))?;
        check_bytes(format, bytes, n_in.saturating_mul(n_out))?;
        let Packed { low, high, scales, parts } = Packed::new(format, &layout, bytes);
        let (low, high) = (device.upload(&low)?, device.upload(&high)?);
        Ok(Self { layout, n_in, n_out, low, high, scales: device.upload(&scales)?, parts: device.upload(&parts)? })
    }

    /// The length of an input row.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// The number of outputs.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// The weights in half precision, as their scales are, for products with many rows.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`] when there is not so much memory.
    pub fn dequantize(&self) -> Result<DeviceMatrix> {
        let device = self.low.device();
        let out = device.allocate(self.n_in * self.n_out)?;
        let n_subs = self.n_in / SUB * self.n_out;
        let launch = Launch { grid: [count("blocks", n_subs.div_ceil(128))?, 1, 1], block: 128, shared_bytes: 0 };
        let mut arguments = self.arguments().to_vec();
        arguments.extend([Argument::U64(n_subs as u64), out.argument()]);
        // SAFETY: the arguments are the kernel's; there are as many blocks of 32 weights, and as much room.
        unsafe { device.launch(&MODULE, self.layout.names[2], launch, &arguments) }?;
        DeviceMatrix::from_buffer(out, self.n_in, self.n_out)
    }

    fn arguments(&self) -> [Argument; 5] {
        [
            self.low.argument(),
            self.high.argument(),
            self.scales.argument(),
            self.parts.argument(),
            Argument::U32(self.layout.offset),
        ]
    }
}

/// Weights as the kernels read them.
#[derive(Default)]
struct Packed {
    low: Vec<u32>,
    high: Vec<u32>,
    scales: Vec<u32>,
    parts: Vec<u16>,
}

impl Packed {
    fn new(format: BlockFormat, layout: &Layout, bytes: &[u8]) -> Self {
        let mut packed = Self::default();
        let half = |block: &[u8], at: usize| u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
        for block in bytes.chunks_exact(format.block_bytes()) {
            packed.scales.push(match format {
                BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => {
                    half(block, 0) | half(block, 2) << 16
                }
                BlockFormat::Q6K => half(block, 208),
                _ => half(block, 0),
            });
            for sub in 0..format.block_len() / SUB {
                let values = SubBlock::read(format, block, sub).values;
                packed.push_values(layout, &values);
                match format {
                    BlockFormat::Q4K | BlockFormat::Q5K => {
                        let (scale, least) = super::format::six_bit_scales(&block[4..16], sub);
                        packed.parts.push(u16::from(scale) | u16::from(least) << 8);
                    }
                    BlockFormat::Q6K => {
                        let at = 192 + 8 * (sub / 4) + 2 * (sub % 4);
                        packed.parts.push(u16::from_le_bytes([block[at], block[at + 1]]));
                    }
                    _ => {}
                }
            }
        }
        packed
    }

    fn push_values(&mut self, layout: &Layout, values: &[i8; SUB]) {
        if layout.bits == 8 {
            self.low.extend(values.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(four.map(|q| q as u8))));
            return;
        }
        let q = values.map(|value| (i32::from(value) + layout.offset as i32) as u32);
        for word in 0..4 {
            let byte = |i: usize| (q[4 * word + i] & 15) | (q[16 + 4 * word + i] & 15) << 4;
            self.low.push((0..4).fold(0, |bits, i| bits | byte(i) << (8 * i)));
        }
        for plane in 4..layout.bits {
            self.high.push(q.iter().enumerate().fold(0, |bits, (i, q)| bits | (q >> plane & 1) << i));
        }
    }
}

/// Rows in bytes, each 32 with a scale, as several products with blocks may take them.
#[derive(Debug)]
pub struct QuantizedRows {
    codes: Buffer<i8>,
    scales: Buffer<f32>,
    /// Of the two halves of each 32.
    sums: Buffer<u32>,
}

impl QuantizedRows {
    /// Brings rows to bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when they are not whole blocks; [`Error::DeviceMemory`] when there is not so much memory.
    pub fn new(rows: &Buffer<f32>) -> Result<Self> {
        check_len("rows", rows.len(), rows.len().next_multiple_of(SUB))?;
        let (device, n_subs) = (rows.device(), rows.len() / SUB);
        let (codes, scales) = (device.allocate::<i8>(rows.len())?, device.allocate::<f32>(n_subs)?);
        let sums = device.allocate::<u32>(n_subs)?;
        let launch = Launch { grid: [count("blocks", n_subs.div_ceil(8))?, 1, 1], block: 256, shared_bytes: 0 };
        let arguments =
            [rows.argument(), Argument::U64(n_subs as u64), codes.argument(), scales.argument(), sums.argument()];
        // SAFETY: the arguments are the kernel's; a warp below `n_subs` has 32 numbers and a place for each result.
        unsafe { device.launch(&MODULE, "quantize", launch, &arguments) }?;
        Ok(Self { codes, scales, sums })
    }
}

/// [`block_product`](crate::block_product): rows, `[n, n_in]`, with quantised weights into `out`, `[n, n_out]`.
///
/// Weights are read once for four rows. With more than some ten rows a product with what
/// [`DeviceBlockMatrix::dequantize`] gives is faster.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn block_product(rows: &QuantizedRows, weights: &DeviceBlockMatrix, out: &mut Buffer<f32>) -> Result<()> {
    let (n_in, n_out) = (weights.n_in, weights.n_out);
    check_len("rows", rows.codes.len(), rows.codes.len().next_multiple_of(n_in))?;
    let n = rows.codes.len() / n_in;
    check_len("out", out.len(), n * n_out)?;
    if out.is_empty() {
        return Ok(());
    }
    let (kernel, each) = if n == 1 { (weights.layout.names[0], 1) } else { (weights.layout.names[1], 4) };
    let launch = Launch {
        grid: [count("outputs", n_out.div_ceil(4))?, count("rows", n.div_ceil(each))?, 1],
        block: 128,
        shared_bytes: 0,
    };
    let mut arguments = weights.arguments().to_vec();
    arguments.extend([
        rows.codes.argument(),
        rows.scales.argument(),
        rows.sums.argument(),
        Argument::U32(count("rows", n)?),
        Argument::U32((n_in / SUB) as u32),
        Argument::U32(n_out as u32),
        out.argument(),
    ]);
    // SAFETY: the arguments are the kernel's; weights, codes and result are as long as the numbers say.
    unsafe { out.device().launch(&MODULE, kernel, launch, &arguments) }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::device::cuda::{F16, Real};
    use crate::{Output, dequantize_blocks};

    const FORMATS: [BlockFormat; 8] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
    ];

    /// Random bytes but for the half floats, which are small numbers.
    fn random_blocks(rng: &mut ChaCha8Rng, format: BlockFormat, n_blocks: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..n_blocks * format.block_bytes()).map(|_| rng.random()).collect();
        let halves: &[usize] = match format {
            BlockFormat::Q6K => &[208],
            BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
            _ => &[0, 2],
        };
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for &at in halves {
                let half = F16::from_f32(rng.random_range(-0.01..0.01)).0;
                block[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
        bytes
    }

    fn quantized(device: &CudaDevice, rows: &[f32]) -> QuantizedRows {
        QuantizedRows::new(&device.upload(rows).unwrap()).unwrap()
    }

    fn check(device: &CudaDevice, format: BlockFormat, n: usize, n_out: usize, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n_in = 2 * format.block_len().max(64);
        let bytes = random_blocks(&mut rng, format, n_in * n_out / format.block_len());
        let mut weights = vec![0.0; n_in * n_out];
        dequantize_blocks(format, &bytes, &mut weights).unwrap();
        let rows: Vec<f32> = (0..n * n_in).map(|_| rng.random_range(-1.0..1.0)).collect();
        let matrix = DeviceBlockMatrix::new(device, format, &bytes, n_in, n_out).unwrap();

        let rounded = matrix.dequantize().unwrap().weights().download().unwrap();
        for (i, (got, want)) in rounded.iter().zip(&weights).enumerate() {
            let tolerance = want.abs() / 2048.0 + 1e-6;
            assert!((got.to_f32() - want).abs() <= tolerance, "{format:?}, weight {i}: {} is not {want}", got.to_f32());
        }

        let mut out = device.filled::<f32>(0xff, n * n_out).unwrap();
        block_product(&quantized(device, &rows), &matrix, &mut out).unwrap();
        let out = out.download().unwrap();
        for r in 0..n {
            let row: Vec<f64> = rows[r * n_in..][..n_in].iter().map(|&x| f64::from(x)).collect();
            for o in 0..n_out {
                let weights = &weights[o * n_in..][..n_in];
                let want: f64 = row.iter().zip(weights).map(|(x, &w)| x * f64::from(w)).sum();
                let length = |squares: &mut dyn Iterator<Item = f64>| squares.sum::<f64>().sqrt();
                let lengths =
                    length(&mut row.iter().map(|x| x * x)) * length(&mut weights.iter().map(|&w| f64::from(w).powi(2)));
                let got = f64::from(out[r * n_out + o]);
                // Codes are off by at most half a 127th of the greatest number of 32.
                let tolerance = 4.0 * lengths / 254.0 / (n_in as f64).sqrt() + 1e-6;
                assert!((got - want).abs() <= tolerance, "{format:?}, row {r}, output {o}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn a_device_multiplies_with_quantised_weights_as_their_numbers_say() {
        if let Some(device) = &CudaDevice::to_test() {
            for (i, format) in FORMATS.into_iter().enumerate() {
                check(device, format, 1, 5, i as u64);
                check(device, format, 6, 3, 100 + i as u64);
            }
            check(device, BlockFormat::Q4_0, 0, 5, 0);
        }
    }

    #[test]
    fn a_row_that_is_no_numbers_gives_none_and_wrong_bytes_are_refused() {
        if let Some(device) = &CudaDevice::to_test() {
            let matrix = DeviceBlockMatrix::new(device, BlockFormat::Q8_0, &[1; 34], 32, 1).unwrap();
            for bad in [f32::NAN, f32::INFINITY] {
                let mut rows = vec![1.0; 32];
                rows[7] = bad;
                let mut out = device.filled::<f32>(0, 1).unwrap();
                block_product(&quantized(device, &rows), &matrix, &mut out).unwrap();
                assert!(out.download().unwrap()[0].is_nan());
            }
            let refused = |format, n_bytes: usize, n_in| {
                DeviceBlockMatrix::new(device, format, &vec![0; n_bytes], n_in, 1).map(|_| ()).unwrap_err()
            };
            assert!(matches!(refused(BlockFormat::Q8_0, 33, 32), Error::Shape { .. }));
            let (part, rows) = (device.upload(&[0.0; 33]).unwrap(), quantized(device, &[0.0; 64]));
            assert!(matches!(QuantizedRows::new(&part), Err(Error::Shape { .. })));
            let mut out = device.filled::<f32>(0, 1).unwrap();
            assert!(matches!(block_product(&rows, &matrix, &mut out), Err(Error::Shape { .. })));
            assert!(matches!(refused(BlockFormat::Q4K, 18, 32), Error::Shape { .. }));
            assert!(matches!(refused(BlockFormat::F16, 64, 32), Error::Unsupported { .. }));
            assert!(matches!(refused(BlockFormat::Q8_0, 0, 0), Error::ZeroDimension));
        }
    }

    #[test]
    fn widened_weights_serve_products_of_many_rows() {
        if let Some(device) = &CudaDevice::to_test() {
            let bytes: Vec<u8> = [0x00, 0x3c].into_iter().chain(1..=32).collect(); // d = 1, q = 1..=32
            let matrix =
                DeviceBlockMatrix::new(device, BlockFormat::Q8_0, &bytes, 32, 1).unwrap().dequantize().unwrap();
            let rows = device.upload(&[F16::from_f32(1.0); 64]).unwrap();
            let mut out = device.filled::<f32>(0xff, 2).unwrap();
            crate::cuda::matrix_product(&rows, &matrix, Output::Replace, &mut out).unwrap();
            assert_eq!(out.download().unwrap(), [528.0, 528.0]); // 32 · 33 / 2
        }
    }
}
