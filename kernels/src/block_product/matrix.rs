//! Weights as the kernels read them.

use rayon::prelude::*;

use super::format::{BlockFormat, SubBlock, check_bytes, f16_to_f32};
use crate::{Error, Result};

/// Outputs that lie side by side.
pub(super) const GROUP: usize = 16;
/// Inputs that share a record.
pub(super) const BLOCK: usize = 32;

/// What a record holds beside the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scales {
    /// `d` as a half.
    Half,
    /// `d` as a half; values are less by 8 than the nibbles.
    HalfCentred,
    /// `d` and the minimum as halves.
    HalfMin,
    /// `d` and the minimum as floats, because they are products of two.
    FloatMin,
    /// `d` as a float for each 16 inputs.
    FloatPer16,
}

/// A record: the values of [`BLOCK`] inputs and [`GROUP`] outputs.
///
/// First the scales of all outputs, then, where there is one, their minima (for [`Scales::FloatPer16`], the scales of
/// the second half). Then the values, for each four inputs those of output 0, of output 1 and so on; of nibbles, the
/// low ones are such a row of 64 and the high ones are the next.
pub(super) trait Layout {
    /// Whether values are unsigned nibbles or signed bytes.
    const NIBBLES: bool;
    /// What comes before the values.
    const SCALES: Scales;
    /// Bytes before the values.
    const SCALE_BYTES: usize = match Self::SCALES {
        Scales::Half | Scales::HalfCentred => 2 * GROUP,
        Scales::HalfMin => 4 * GROUP,
        Scales::FloatMin | Scales::FloatPer16 => 8 * GROUP,
    };
    /// Bytes of a record, always a multiple of 32.
    const RECORD_BYTES: usize = Self::SCALE_BYTES + GROUP * BLOCK / if Self::NIBBLES { 2 } else { 1 };
    /// Whether something is added for each block besides the integers' product.
    const HAS_MIN: bool = matches!(Self::SCALES, Scales::HalfCentred | Scales::HalfMin | Scales::FloatMin);
}

macro_rules! layouts {
    ($($name:ident: $nibbles:literal, $scales:ident;)*) => {
        $(
            pub(super) struct $name;
            impl Layout for $name {
                const NIBBLES: bool = $nibbles;
                const SCALES: Scales = Scales::$scales;
            }
        )*
        /// A [`Layout`] by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum LayoutName { $($name),* }
    };
}

layouts! {
    NibblesCentred: true, HalfCentred;
    NibblesMin: true, HalfMin;
    NibblesFloatMin: true, FloatMin;
    Bytes: false, Half;
    BytesMin: false, HalfMin;
    BytesFloatMin: false, FloatMin;
    BytesPer16: false, FloatPer16;
}

/// Evaluates an expression with the [`Layout`] that has the name.
macro_rules! with_layout {
    ($layout:expr, $type:ident => $value:expr) => {
        with_layout!($layout, $type => $value, NibblesCentred NibblesMin NibblesFloatMin Bytes BytesMin BytesFloatMin BytesPer16)
    };
    ($layout:expr, $type:ident => $value:expr, $($name:ident)*) => {
        match $layout {
            $($crate::block_product::matrix::LayoutName::$name => {
                type $type = $crate::block_product::matrix::$name;
                $value
            })*
        }
    };
}
pub(super) use with_layout;

/// Quantised weights of a linear layer, `[n_out, n_in]`, repacked for [`block_product`](super::block_product).
///
/// They take the memory of the file's blocks, or somewhat more for the formats of 5 and 6 bits, which become bytes,
/// and for the formats in blocks of 256, whose combined scales become floats. The values are exactly the file's.
///
/// Invariant: there is a record for each group of 16 outputs and each 32 inputs, groups first; the outputs that fill
/// up the last group have zeros.
#[derive(Clone)]
pub struct BlockMatrix {
    n_out: usize,
    n_in: usize,
    layout: LayoutName,
    /// Bytes of one group, a multiple of 32.
    group_bytes: usize,
    records: Vec<Piece>,
}

/// Half a cache line, which no vector of 32 bytes straddles.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Piece([u8; 32]);

impl std::fmt::Debug for BlockMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { n_out, n_in, layout, .. } = self;
        write!(f, "BlockMatrix {{ n_out: {n_out}, n_in: {n_in}, layout: {layout:?} }}")
    }
}

impl BlockMatrix {
    /// Repacks the `bytes` of a quantised tensor of `n_out` rows with `n_in` numbers each.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroDimension`] when `n_in` is 0; [`Error::Shape`] when rows are not whole blocks, when `bytes` is not
    /// as long as the shape requires, and for the formats of floats, which other kernels multiply.
    pub fn new(format: BlockFormat, bytes: &[u8], n_out: usize, n_in: usize) -> Result<Self> {
        let layout = match format {
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => {
                return Err(Error::Shape { what: "block of quantised numbers", expected: BLOCK, found: 1 });
            }
            BlockFormat::Q4_0 => LayoutName::NibblesCentred,
            BlockFormat::Q4_1 => LayoutName::NibblesMin,
            BlockFormat::Q4K => LayoutName::NibblesFloatMin,
            BlockFormat::Q5_0 | BlockFormat::Q8_0 => LayoutName::Bytes,
            BlockFormat::Q5_1 => LayoutName::BytesMin,
            BlockFormat::Q5K => LayoutName::BytesFloatMin,
            BlockFormat::Q6K => LayoutName::BytesPer16,
        };
        if n_in == 0 {
            return Err(Error::ZeroDimension);
        }
        if !n_in.is_multiple_of(format.block_len()) {
            let expected = n_in.checked_next_multiple_of(format.block_len()).unwrap_or(usize::MAX);
            return Err(Error::Shape { what: "row of weights", expected, found: n_in });
        }
        check_bytes(format, bytes, n_out.saturating_mul(n_in))?;
        let group_bytes = with_layout!(layout, L => L::RECORD_BYTES) * (n_in / BLOCK);
        let pieces_a_group = group_bytes / size_of::<Piece>();
        let row_bytes = n_in / format.block_len() * format.block_bytes();
        let mut records = vec![Piece([0; 32]); n_out.div_ceil(GROUP) * pieces_a_group];
        records.par_chunks_mut(pieces_a_group).zip(bytes.par_chunks(GROUP * row_bytes)).for_each(|(pieces, bytes)| {
            // SAFETY: the pieces lie one after the other and have no padding; any bytes make a piece.
            let group = unsafe { std::slice::from_raw_parts_mut(pieces.as_mut_ptr().cast::<u8>(), group_bytes) };
            for (o, row) in bytes.chunks_exact(row_bytes).enumerate() {
                with_layout!(layout, L => pack::<L>(format, row, o, group));
            }
        });
        Ok(Self { n_out, n_in, layout, group_bytes, records })
    }

    /// How many rows, which are outputs, there are.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// How long a row is, which is how many inputs there are; never 0.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// How much memory the weights take.
    pub fn n_bytes(&self) -> usize {
        size_of_val(self.records.as_slice())
    }

    pub(super) fn layout(&self) -> LayoutName {
        self.layout
    }

    /// The records of a group, which is there.
    #[inline]
    pub(super) fn group(&self, group: usize) -> &[u8] {
        let pieces_a_group = self.group_bytes / size_of::<Piece>();
        let pieces = &self.records[group * pieces_a_group..(group + 1) * pieces_a_group];
        // SAFETY: the pieces lie one after the other, initialised and without padding.
        unsafe { std::slice::from_raw_parts(pieces.as_ptr().cast(), size_of_val(pieces)) }
    }
}

/// Puts the row of output `o` of a group at its places in the group's records, which are zeros there.
fn pack<L: Layout>(format: BlockFormat, row: &[u8], o: usize, group: &mut [u8]) {
    let mut records = group.chunks_exact_mut(L::RECORD_BYTES);
    for block in row.chunks_exact(format.block_bytes()) {
        for sub in 0..format.block_len() / BLOCK {
            let record = records.next().expect("there is a record for each 32 inputs");
            let SubBlock { values, scales, min } = SubBlock::read(format, block, sub);
            let (head, packed) = record.split_at_mut(L::SCALE_BYTES);
            match L::SCALES {
                // The formats of these layouts begin with `d` and `m`, which go over as they are.
                Scales::Half | Scales::HalfCentred => head[2 * o..][..2].copy_from_slice(&block[..2]),
                Scales::HalfMin => {
                    head[2 * o..][..2].copy_from_slice(&block[..2]);
                    head[2 * (GROUP + o)..][..2].copy_from_slice(&block[2..4]);
                }
                Scales::FloatMin | Scales::FloatPer16 => {
                    head[4 * o..][..4].copy_from_slice(&scales[0].to_le_bytes());
                    head[4 * (GROUP + o)..][..4].copy_from_slice(&min.unwrap_or(scales[1]).to_le_bytes());
                }
            }
            let offset = if L::SCALES == Scales::HalfCentred { 8 } else { 0 };
            for (step, four) in values.as_chunks::<4>().0.iter().enumerate() {
                let four = four.map(|value| (value + offset) as u8);
                let (at, shift) = if L::NIBBLES { (step / 2, step % 2 * 4) } else { (step, 0) };
                for (packed, value) in packed[at * 64 + 4 * o..][..4].iter_mut().zip(four) {
                    *packed |= value << shift;
                }
            }
        }
    }
}

/// The scales of a record and its minima, or the scales of its second half; zeros where there is neither.
pub(super) fn scales<L: Layout>(record: &[u8]) -> [[f32; GROUP]; 2] {
    let half = |i: usize| f16_to_f32(u16::from_le_bytes([record[2 * i], record[2 * i + 1]]));
    let float = |i: usize| f32::from_le_bytes(record[4 * i..4 * i + 4].try_into().expect("four bytes"));
    let (d, m): (&dyn Fn(usize) -> f32, &dyn Fn(usize) -> f32) = match L::SCALES {
        Scales::Half => (&half, &|_| 0.0),
        Scales::HalfCentred => (&half, &|o| -8.0 * half(o)),
        Scales::HalfMin => (&half, &|o| half(GROUP + o)),
        Scales::FloatMin | Scales::FloatPer16 => (&float, &|o| float(GROUP + o)),
    };
    [std::array::from_fn(d), std::array::from_fn(m)]
}
