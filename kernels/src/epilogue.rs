//! What is done with a product's finished sums while they are still in the nearest cache.

use crate::activation::{Activation, gelu, gelu_tanh, relu, silu};
use crate::forms::forms;
use crate::{Error, Result};

/// Sums that are finished together.
pub const LANES: usize = 16;

/// What a product does with each finished sum `s[r, o]`, of row `r` and output `o`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to the sums first, `[n_out]`.
    pub bias: Option<&'a [f32]>,
    /// Where they go.
    pub output: Output,
}

/// Where a finished sum goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// `out = s`
    #[default]
    Replace,
    /// `out += s`, as a residual connection does.
    Add,
    /// `out = activation(s)`, with the bits that [`activate`](crate::activate) gives for `s`.
    Activate(Activation),
}

impl Epilogue<'_> {
    /// The check that all products share; gives the number of rows.
    pub(crate) fn rows(&self, n_in: usize, n_out: usize, input: usize, out: usize) -> Result<usize> {
        if !input.is_multiple_of(n_in) {
            return Err(Error::Shape { what: "input", expected: input.next_multiple_of(n_in), found: input });
        }
        let n_rows = input / n_in;
        match self.bias {
            Some(bias) if bias.len() != n_out => Err(Error::Shape { what: "bias", expected: n_out, found: bias.len() }),
            _ if out != n_rows * n_out => Err(Error::Shape { what: "out", expected: n_rows * n_out, found: out }),
            _ => Ok(n_rows),
        }
    }
}

/// The biases of some outputs from `first` on, and after the last one what adds nothing to any number.
pub fn biases<const N: usize>(bias: Option<&[f32]>, first: usize) -> [f32; N] {
    let mut biases = [-0.0; N];
    if let Some(bias) = bias {
        biases.iter_mut().zip(&bias[first..]).for_each(|(to, from)| *to = *from);
    }
    biases
}

forms! {
    /// Stores rows of sums, `[rows.len(), biases.len()]`; what a row is too short for belongs to no output.
    pub fn store(sums: &[f32], biases: &[f32], output: Output, rows: &mut [&mut [f32]]) {
        match output {
            Output::Replace => store_rows(sums, biases, rows, |sum, _| sum),
            Output::Add => store_rows(sums, biases, rows, |sum, out| out + sum),
            Output::Activate(Activation::Gelu) => store_rows(sums, biases, rows, |sum, _| gelu::<FMA>(sum)),
            Output::Activate(Activation::GeluTanh) => store_rows(sums, biases, rows, |sum, _| gelu_tanh::<FMA>(sum)),
            Output::Activate(Activation::Relu) => store_rows(sums, biases, rows, |sum, _| relu(sum)),
            Output::Activate(Activation::Silu) => store_rows(sums, biases, rows, |sum, _| silu::<FMA>(sum)),
        }
    }
}

/// `out = f(sum + bias, out)`
#[inline(always)]
fn store_rows(sums: &[f32], biases: &[f32], rows: &mut [&mut [f32]], f: impl Fn(f32, f32) -> f32) {
    for (out, sums) in rows.iter_mut().zip(sums.chunks_exact(biases.len())) {
        let (blocks, tail) = out.as_chunks_mut::<LANES>();
        let n_blocks = blocks.len();
        for ((out, sums), biases) in
            blocks.iter_mut().zip(sums.as_chunks::<LANES>().0).zip(biases.as_chunks::<LANES>().0)
        {
            for lane in 0..LANES {
                out[lane] = f(sums[lane] + biases[lane], out[lane]);
            }
        }
        let (sums, biases) = (&sums[n_blocks * LANES..], &biases[n_blocks * LANES..]);
        for ((out, sum), bias) in tail.iter_mut().zip(sums).zip(biases) {
            *out = f(sum + bias, *out);
        }
    }
}
