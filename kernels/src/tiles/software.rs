//! Tiles in software: the instructions as their maker's manual defines them, with a panic where the processor faults.

use super::{ROW_BYTES, ROWS, TILES, TileConfig, TileUnit};

#[derive(Default)]
pub struct SoftwareTiles {
    /// Set between `configure` and `release`.
    config: Option<TileConfig>,
    tiles: [Tile; TILES],
}

#[derive(Clone, Copy)]
struct Tile([[u8; ROW_BYTES]; ROWS]);

impl Default for Tile {
    fn default() -> Self {
        Self([[0; ROW_BYTES]; ROWS])
    }
}

impl Tile {
    fn four(&self, row: usize, at: usize) -> [u8; 4] {
        self.0[row][4 * at..4 * at + 4].try_into().expect("four bytes")
    }
}

impl SoftwareTiles {
    /// Rows and bytes a row of a tile that has a shape.
    #[track_caller]
    fn shape(&self, tile: usize) -> (usize, usize) {
        let config = self.config.as_ref().expect("tiles are configured");
        assert!(tile < TILES && config.rows[tile] > 0, "tile {tile} has a shape");
        (usize::from(config.rows[tile]), usize::from(config.row_bytes[tile]))
    }

    /// The shape of a product: rows, steps, columns.
    #[track_caller]
    fn product_shape(&self, c: usize, a: usize, b: usize) -> (usize, usize, usize) {
        assert!(c != a && c != b && a != b, "the tiles are three");
        let ((c_rows, c_bytes), (a_rows, a_bytes), (b_rows, b_bytes)) = (self.shape(c), self.shape(a), self.shape(b));
        let whole = [c_bytes, a_bytes, b_bytes].iter().all(|bytes| bytes % 4 == 0);
        assert!(whole && c_rows == a_rows && c_bytes == b_bytes && b_rows == a_bytes / 4, "the shapes fit");
        (c_rows, b_rows, c_bytes / 4)
    }
}

/// Numbers below the normal ones count as zeros, of their sign.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

fn pair(bytes: [u8; 4]) -> [f32; 2] {
    let widen = |low, high| flush(f32::from_bits(u32::from(u16::from_le_bytes([low, high])) << 16));
    [widen(bytes[0], bytes[1]), widen(bytes[2], bytes[3])]
}

impl TileUnit for SoftwareTiles {
    unsafe fn configure(&mut self, config: &TileConfig) {
        assert!(config.palette == 1 && config.start_row == 0 && config.reserved == [0; 14]);
        for (tile, (&rows, &bytes)) in config.rows.iter().zip(&config.row_bytes).enumerate() {
            assert!(usize::from(rows) <= ROWS && usize::from(bytes) <= ROW_BYTES && (rows == 0) == (bytes == 0));
            assert!(tile < TILES || rows == 0);
        }
        *self = Self { config: Some(*config), ..Self::default() };
    }

    unsafe fn zero<const T: usize>(&mut self) {
        self.shape(T);
        self.tiles[T] = Tile::default();
    }

    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        let (rows, bytes) = self.shape(T);
        self.tiles[T] = Tile::default();
        for (row, to) in self.tiles[T].0[..rows].iter_mut().enumerate() {
            // SAFETY: the caller promises that these bytes can be read.
            unsafe { std::ptr::copy_nonoverlapping(from.add(row * stride), to.as_mut_ptr(), bytes) };
        }
    }

    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        let (rows, bytes) = self.shape(T);
        for (row, from) in self.tiles[T].0[..rows].iter().enumerate() {
            // SAFETY: the caller promises that these bytes can be written.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.add(row * stride), bytes) };
        }
    }

    unsafe fn add_bf16_products<const C: usize, const A: usize, const B: usize>(&mut self) {
        let (rows, steps, columns) = self.product_shape(C, A, B);
        for row in 0..rows {
            for column in 0..columns {
                let mut sums = [0.0f32; 2];
                for step in 0..steps {
                    let (a, b) = (pair(self.tiles[A].four(row, step)), pair(self.tiles[B].four(step, column)));
                    for (sum, (a, b)) in sums.iter_mut().zip(a.into_iter().zip(b)) {
                        *sum = flush(a.mul_add(b, *sum));
                    }
                }
                let before = flush(f32::from_le_bytes(self.tiles[C].four(row, column)));
                let after = flush(before + flush(sums[0] + sums[1]));
                self.tiles[C].0[row][4 * column..4 * column + 4].copy_from_slice(&after.to_le_bytes());
            }
        }
    }

    unsafe fn add_byte_products<const C: usize, const A: usize, const B: usize>(&mut self) {
        let (rows, steps, columns) = self.product_shape(C, A, B);
        for row in 0..rows {
            for column in 0..columns {
                let mut sum = i32::from_le_bytes(self.tiles[C].four(row, column));
                for step in 0..steps {
                    let (a, b) = (self.tiles[A].four(row, step), self.tiles[B].four(step, column));
                    for (a, b) in a.into_iter().zip(b) {
                        sum = sum.wrapping_add(i32::from(a) * i32::from(b.cast_signed()));
                    }
                }
                self.tiles[C].0[row][4 * column..4 * column + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    unsafe fn release(&mut self) {
        *self = Self::default();
    }
}
