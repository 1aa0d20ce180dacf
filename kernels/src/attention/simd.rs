//! The vector operations that the tiles are written in, and their portable form.

/// A vector of `f32` lanes.
///
/// Every method is unsafe for one reason, that the processor must run the instructions; those with pointers need
/// `LANES` numbers there, of any alignment.
pub trait Simd: Copy {
    type Vector: Copy;
    const LANES: usize;
    /// Vectors that the processor has names for, 16 or 32.
    const REGISTERS: usize;
    /// Keys of one panel: two vectors, so that six rows of accumulators fill twelve of sixteen registers.
    const PANEL: usize = 2 * Self::LANES;

    unsafe fn splat(x: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn load_f16(from: *const u16) -> Self::Vector;
    unsafe fn store(to: *mut f32, x: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`, rounded once where the processor can.
    unsafe fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `x` within bounds; NaN stays.
    unsafe fn clamp(x: Self::Vector, low: f32, high: f32) -> Self::Vector;
    unsafe fn round(x: Self::Vector) -> Self::Vector;
    /// `2^n` of whole `-126 <= n <= 127`.
    unsafe fn power_of_two(n: Self::Vector) -> Self::Vector;
    /// `y` where not `x < limit`, else 0.
    unsafe fn zero_below(x: Self::Vector, limit: f32, y: Self::Vector) -> Self::Vector;
    /// Transposes a square of `LANES` rows; strides count numbers.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// Asks for a cache line, from any address.
    #[inline(always)]
    fn prefetch(_line: *const u8) {}
}

/// How numbers stand in the lanes of what is multiplied; sums have one `f32` a lane.
///
/// Every method is unsafe for one reason, that the processor must run the instructions; those with pointers need room for
/// what they store.
pub trait Lanes<S: Simd> {
    /// Numbers of a lane.
    const NUMBERS: usize;

    /// Adds to each sum the products of a lane's numbers.
    unsafe fn add_products(a: S::Vector, b: S::Vector, sums: S::Vector) -> S::Vector;
    /// Stores the numbers of two vectors, neighbours in one lane where it holds two.
    unsafe fn store(to: *mut f32, low: S::Vector, high: S::Vector);
    /// Two numbers a lane, one of each vector; where lanes hold one there is no use for it.
    unsafe fn pairs(first: S::Vector, second: S::Vector) -> S::Vector;
}

/// One `f32` a lane.
pub struct Singles;

impl<S: Simd> Lanes<S> for Singles {
    const NUMBERS: usize = 1;

    #[inline(always)]
    unsafe fn add_products(a: S::Vector, b: S::Vector, sums: S::Vector) -> S::Vector {
        // SAFETY: the processor runs `S`.
        unsafe { S::fma(a, b, sums) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, low: S::Vector, high: S::Vector) {
        // SAFETY: the processor runs `S`, and there is room for both.
        unsafe {
            S::store(to, low);
            S::store(to.add(S::LANES), high);
        }
    }

    unsafe fn pairs(_: S::Vector, _: S::Vector) -> S::Vector {
        unreachable!("a lane has one number")
    }
}

/// Four lanes in plain loops, which is what every 64-bit processor has.
#[derive(Clone, Copy)]
pub struct Portable;

type Four = [f32; 4];

impl Simd for Portable {
    type Vector = Four;
    const LANES: usize = 4;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Four {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Four {
        // SAFETY: the caller's pointer has four numbers.
        unsafe { from.cast::<Four>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Four {
        // SAFETY: the caller's pointer has four numbers.
        unsafe { from.cast::<[u16; 4]>().read_unaligned() }.map(crate::half_product::f16_to_f32)
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Four) {
        // SAFETY: the caller's pointer has room for four numbers.
        unsafe { to.cast::<Four>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn add(a: Four, b: Four) -> Four {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Four, b: Four) -> Four {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Four, b: Four) -> Four {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: Four, b: Four, c: Four) -> Four {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn max(a: Four, b: Four) -> Four {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn clamp(x: Four, low: f32, high: f32) -> Four {
        x.map(|x| x.clamp(low, high))
    }

    #[inline(always)]
    unsafe fn round(x: Four) -> Four {
        // Adding 1.5 · 2^23 leaves no bits for a fraction; f32::round would be a call for each lane.
        const WHOLE: f32 = 12_582_912.0;
        x.map(|x| (x + WHOLE) - WHOLE)
    }

    #[inline(always)]
    unsafe fn power_of_two(n: Four) -> Four {
        n.map(|n| f32::from_bits(((n + 127.0) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn zero_below(x: Four, limit: f32, y: Four) -> Four {
        std::array::from_fn(|i| if x[i] < limit { 0.0 } else { y[i] })
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..4 {
            for column in 0..4 {
                // SAFETY: the caller's squares have four rows and columns.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
            }
        }
    }
}
