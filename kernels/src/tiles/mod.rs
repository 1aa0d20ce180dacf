//! Matrix registers: eight tiles of up to sixteen rows of sixty-four bytes, and the products between them.
//!
//! The loops of a product are written over [`TileUnit`], once: the processor's unit is [`Amx`], one instruction each;
//! the tests have another in software, which refuses what the processor would.

mod amx;
#[cfg(test)]
mod software;

pub use amx::Amx;
#[cfg(test)]
pub use software::SoftwareTiles;

/// Rows of a tile, at most.
pub const ROWS: usize = 16;
/// Bytes of a tile's row, at most.
pub const ROW_BYTES: usize = 64;
/// How many tiles there are.
const TILES: usize = 8;

/// The shapes of the tiles, in the layout that the processor loads (palette 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    /// No tile has a shape yet.
    pub fn new() -> Self {
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] }
    }

    /// Gives a tile `rows` rows of `row_bytes` bytes; without rows it stays unused.
    pub fn with(mut self, tile: usize, rows: usize, row_bytes: usize) -> Self {
        assert!(tile < TILES && rows <= ROWS && row_bytes <= ROW_BYTES, "a tile is sixteen rows of sixty-four bytes");
        self.rows[tile] = rows as u8;
        self.row_bytes[tile] = if rows == 0 { 0 } else { row_bytes as u16 };
        self
    }
}

/// The operations on tiles that products need; a tile is named by a number below eight.
pub trait TileUnit: Default {
    /// Gives the tiles their shapes, and zeroes them.
    ///
    /// # Safety
    ///
    /// Of all methods: the processor has the unit and the system lets the process use it; the thread does nothing
    /// else with tiles until [`TileUnit::release`].
    unsafe fn configure(&mut self, config: &TileConfig);

    /// Zeroes a tile.
    ///
    /// # Safety
    ///
    /// As for [`TileUnit::configure`]; the tile has a shape.
    unsafe fn zero<const T: usize>(&mut self);

    /// Reads a tile whose rows begin `stride` bytes apart.
    ///
    /// # Safety
    ///
    /// As for [`TileUnit::zero`]; all bytes of the tile's shape can be read.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// Writes a tile whose rows begin `stride` bytes apart.
    ///
    /// # Safety
    ///
    /// As for [`TileUnit::zero`]; all bytes of the tile's shape can be written.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);

    /// `C[m, n] += Σ_k A[m, 2k] · B[k, 2n] + A[m, 2k + 1] · B[k, 2n + 1]`: bf16 in, f32 out.
    ///
    /// # Safety
    ///
    /// As for [`TileUnit::zero`]; the shapes fit: `C` has the rows of `A` and the bytes of `B`, and `B` a row for
    /// each four bytes of `A`.
    unsafe fn add_bf16_products<const C: usize, const A: usize, const B: usize>(&mut self);

    /// `C[m, n] += Σ_k Σ_j A[m, 4k + j] · B[k, 4n + j]`: `A` of bytes from 0 to 255, `B` of bytes from −128 to 127, `C`
    /// of 32 bits.
    ///
    /// # Safety
    ///
    /// As for [`TileUnit::add_bf16_products`].
    unsafe fn add_byte_products<const C: usize, const A: usize, const B: usize>(&mut self);

    /// Gives the tiles up, so that the system need not keep them when it switches threads.
    ///
    /// # Safety
    ///
    /// As for [`TileUnit::configure`].
    unsafe fn release(&mut self);
}

/// What tiles multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileProducts {
    /// bf16, `16 · 16 · 32` multiplications an instruction.
    Bf16,
    /// Bytes, `16 · 16 · 64` multiplications an instruction.
    Bytes,
}

/// Multiplies full tiles of zeros, four products a turn, none of which waits for another: the most that tiles can do.
///
/// For measuring the machine. Returns false, and does nothing, where the processor or the system has no AMX.
pub fn multiply_tiles(products: TileProducts, turns: usize) -> bool {
    if crate::device::CpuForm::best() != crate::device::CpuForm::Amx {
        return false;
    }
    // SAFETY: the form is chosen only where the processor and the system allow its tiles.
    unsafe { multiply::<Amx>(products, turns) };
    true
}

/// # Safety
///
/// The processor has the unit, and the system lets the process use it.
unsafe fn multiply<U: TileUnit>(products: TileProducts, turns: usize) {
    let config = (0..TILES).fold(TileConfig::new(), |config, tile| config.with(tile, ROWS, ROW_BYTES));
    let mut unit = U::default();
    // SAFETY: as the caller promises; all tiles have one shape, in which they fit each other.
    unsafe {
        unit.configure(&config);
        for _ in 0..turns {
            match products {
                TileProducts::Bf16 => {
                    unit.add_bf16_products::<0, 4, 6>();
                    unit.add_bf16_products::<1, 4, 7>();
                    unit.add_bf16_products::<2, 5, 6>();
                    unit.add_bf16_products::<3, 5, 7>();
                }
                TileProducts::Bytes => {
                    unit.add_byte_products::<0, 4, 6>();
                    unit.add_byte_products::<1, 4, 7>();
                    unit.add_byte_products::<2, 5, 6>();
                    unit.add_byte_products::<3, 5, 7>();
                }
            }
        }
        unit.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measuring_the_unit_does_nothing_that_the_unit_refuses() {
        for products in [TileProducts::Bf16, TileProducts::Bytes] {
            // SAFETY: tiles in software are there on any processor, and panic where a real one would fault.
            unsafe { multiply::<SoftwareTiles>(products, 1) };
            let there = crate::device::CpuForm::best() == crate::device::CpuForm::Amx;
            assert_eq!(multiply_tiles(products, 1), there);
        }
    }

    #[test]
    fn a_configuration_lies_in_memory_as_the_processor_reads_it() {
        let config = TileConfig::new().with(0, 16, 64).with(3, 5, 32).with(7, 8, 64).with(6, 0, 64);
        assert_eq!((size_of::<TileConfig>(), align_of::<TileConfig>()), (64, 64));
        // SAFETY: both types are 64 bytes without padding.
        let bytes: [u8; 64] = unsafe { std::mem::transmute(config) };
        let mut expected = [0; 64];
        expected[0] = 1; // the palette
        (expected[16], expected[22], expected[30]) = (64, 32, 64); // bytes a row, two places a tile
        (expected[48], expected[51], expected[55]) = (16, 5, 8); // rows, one place a tile
        assert_eq!(bytes, expected);
    }

    #[test]
    fn tiles_in_software_multiply_by_definition() {
        let mut unit = SoftwareTiles::default();
        // Two rows of four inputs by three outputs.
        let config = TileConfig::new().with(0, 2, 12).with(1, 2, 8).with(2, 2, 12);
        let bf16 = |x: f32| (x.to_bits() >> 16) as u16;
        let a = [1.0, 2.0, 3.0, 4.0, -1.0, 0.5, 0.0, 8.0].map(bf16);
        // [pair, output, 2]: the outputs weigh the inputs (1, 10, 100, 1000), (1, 0, 0, 1) and (0, 0, −2, 0).
        let b = [1.0, 10.0, 1.0, 0.0, 0.0, 0.0, 100.0, 1000.0, 0.0, 1.0, -2.0, 0.0].map(bf16);
        let mut c = [[0.0f32; 3]; 2];
        // SAFETY: the software has no demands but that memory is as long as the shapes say: 2 · 8 and 2 · 12 bytes.
        unsafe {
            unit.configure(&config);
            unit.load::<1>(a.as_ptr().cast(), 8);
            unit.load::<2>(b.as_ptr().cast(), 12);
            unit.zero::<0>();
            unit.add_bf16_products::<0, 1, 2>();
            unit.add_bf16_products::<0, 1, 2>();
            unit.store::<0>(c.as_mut_ptr().cast(), 12);
        }
        // 1 + 20 + 300 + 4000, 1 + 4, −6; −1 + 5 + 8000, −1 + 8, 0: each twice.
        assert_eq!(c, [[8642.0, 10.0, -12.0], [16008.0, 14.0, 0.0]]);

        let config = TileConfig::new().with(0, 1, 8).with(1, 1, 4).with(2, 1, 8);
        let (a, b) = ([255u8, 1, 2, 3], [-128i8, 127, 0, 1, 1, 1, 1, 1]);
        let mut c = [0i32; 2];
        // SAFETY: as above, with one row of four, eight and eight bytes.
        unsafe {
            unit.configure(&config);
            unit.load::<1>(a.as_ptr(), 4);
            unit.load::<2>(b.as_ptr().cast(), 8);
            unit.add_byte_products::<0, 1, 2>();
            unit.store::<0>(c.as_mut_ptr().cast(), 8);
            unit.release();
        }
        assert_eq!(c, [-32510, 261]); // −255 · 128 + 127 + 3, 255 + 1 + 2 + 3
    }

    #[test]
    fn tiles_in_software_flush_what_is_below_normal_numbers() {
        let mut unit = SoftwareTiles::default();
        let run = |unit: &mut SoftwareTiles, a: u32, b: u32| {
            let (a, b) = ([(a >> 16) as u16, 0], [(b >> 16) as u16, 0]);
            let mut c = 7.0f32;
            // SAFETY: each tile is one row of four bytes.
            unsafe {
                unit.configure(&TileConfig::new().with(0, 1, 4).with(1, 1, 4).with(2, 1, 4));
                unit.load::<1>(a.as_ptr().cast(), 4);
                unit.load::<2>(b.as_ptr().cast(), 4);
                unit.add_bf16_products::<0, 1, 2>();
                unit.store::<0>((&raw mut c).cast(), 4);
            }
            c
        };
        let (normal, below) = (f32::MIN_POSITIVE.to_bits(), 0x0040_0000);
        assert_eq!(run(&mut unit, normal, 1f32.to_bits()), f32::MIN_POSITIVE);
        assert_eq!(run(&mut unit, below, 1e30f32.to_bits()), 0.0);
        assert_eq!(run(&mut unit, normal, 0.5f32.to_bits()), 0.0);
        assert!(run(&mut unit, f32::NAN.to_bits(), 1f32.to_bits()).is_nan());
    }

    #[test]
    #[should_panic(expected = "shapes fit")]
    fn tiles_in_software_refuse_shapes_that_do_not_fit() {
        let mut unit = SoftwareTiles::default();
        // SAFETY: the software has no demands before memory is read.
        unsafe {
            unit.configure(&TileConfig::new().with(0, 2, 64).with(1, 2, 64).with(2, 15, 64));
            unit.add_bf16_products::<0, 1, 2>();
        }
    }
}
