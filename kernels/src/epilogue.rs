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
    /// `out = activation(s[r, o]) · s[r, n_out / 2 + o]`, with the bits that [`gated`](crate::gated) gives: the first half
    /// of the outputs is the gate, the second what passes. Rows of `out` are half as long, a multiple of sixteen.
    Gated(Activation),
}

impl Epilogue<'_> {
    /// The check of lengths that all products share.
    pub(crate) fn check(&self, n_in: usize, n_out: usize, input: usize, out: usize) -> Result<()> {
        if !input.is_multiple_of(n_in) {
            return Err(Error::Shape { what: "input", expected: input.next_multiple_of(n_in), found: input });
        }
        if let Some(bias) = self.bias
            && bias.len() != n_out
        {
            return Err(Error::Shape { what: "bias", expected: n_out, found: bias.len() });
        }
        let width = match self.output {
            Output::Gated(_) if !n_out.is_multiple_of(2 * LANES) => {
                let expected = n_out.next_multiple_of(2 * LANES);
                return Err(Error::Shape { what: "gated outputs", expected, found: n_out });
            }
            Output::Gated(_) => n_out / 2,
            _ => n_out,
        };
        let n_rows = input / n_in;
        if out != n_rows * width {
            return Err(Error::Shape { what: "out", expected: n_rows * width, found: out });
        }
        Ok(())
    }

    /// In which passes the outputs of a row of `out`, as long as `width`, are summed: the first output of each, and what
    /// becomes of it. What is gated passes before the gate.
    pub(crate) fn passes(&self, width: usize) -> impl Iterator<Item = (usize, Output)> + use<> {
        let passing = matches!(self.output, Output::Gated(_)).then_some((width, Output::Replace));
        passing.into_iter().chain([(0, self.output)])
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
    /// Stores rows of sums, `[rows.len(), biases.len()]`; what a row is too short for belongs to no output. What a gate
    /// multiplies is in the rows.
    pub fn store(sums: &[f32], biases: &[f32], output: Output, rows: &mut [&mut [f32]]) {
        match output {
            Output::Replace => store_rows(sums, biases, rows, |sum, _| sum),
            Output::Add => store_rows(sums, biases, rows, |sum, out| out + sum),
            Output::Activate(Activation::Gelu) => store_rows(sums, biases, rows, |sum, _| gelu::<FMA>(sum)),
            Output::Activate(Activation::GeluTanh) => store_rows(sums, biases, rows, |sum, _| gelu_tanh::<FMA>(sum)),
            Output::Activate(Activation::Relu) => store_rows(sums, biases, rows, |sum, _| relu(sum)),
            Output::Activate(Activation::Silu) => store_rows(sums, biases, rows, |sum, _| silu::<FMA>(sum)),
            Output::Gated(Activation::Gelu) => store_rows(sums, biases, rows, |sum, out| gelu::<FMA>(sum) * out),
            Output::Gated(Activation::GeluTanh) => store_rows(sums, biases, rows, |sum, out| gelu_tanh::<FMA>(sum) * out),
            Output::Gated(Activation::Relu) => store_rows(sums, biases, rows, |sum, out| relu(sum) * out),
            Output::Gated(Activation::Silu) => store_rows(sums, biases, rows, |sum, out| silu::<FMA>(sum) * out),
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
            // A vector by itself: written one by one, the numbers were also moved one by one.
            let mut finished = *out;
            for lane in 0..LANES {
                finished[lane] = f(sums[lane] + biases[lane], finished[lane]);
            }
            *out = finished;
        }
        let (sums, biases) = (&sums[n_blocks * LANES..], &biases[n_blocks * LANES..]);
        for ((out, sum), bias) in tail.iter_mut().zip(sums).zip(biases) {
            *out = f(sum + bias, *out);
        }
    }
}
