//! The score of late interaction: for each of a query's vectors the greatest inner product with one of a document's.
//!
//! The query's vectors are the weights of a matrix product and the documents' tokens its rows, so the register tiles are
//! those of [`matrix_product`](crate::matrix_product()). A tile's sums are not kept: each raises the maxima of its
//! document while it is in the nearest cache. A product is summed in one order and maxima have none, so a document's
//! score has the same bits alone, among others and on any number of threads.
//!
//! Tokens in IEEE half precision are widened, a block at a time, in a buffer that the tiles then read; the products are
//! those of the widened tokens. There is no form for bytes: with AVX2 three instructions multiply 32 of them and four
//! multiply 32 floats, and stored tokens are smaller still as residuals, see [`decode_residuals`](crate::decode_residuals).

#[cfg(test)]
mod cpu;
#[cfg(test)]
mod tests;
mod widen;

use std::ops::Range;

use crate::device::CpuForm;
use crate::matrix_product::{BLOCK, PANEL, TileShape, sum_tile, tile_size};
use crate::parallel::{Tiles, even_parts, for_each_task};
use crate::splade_pool::running_max_by;
use crate::{Error, PackedMatrix, Result};

/// Tokens that pass a panel of the query before the next panel: with 384 dimensions 150 kB, which stay in the
/// second-level cache. A multiple of every tile's height.
const BLOCK_TOKENS: usize = 96;
/// Tokens of a task, at least, unless there are no more.
const TASK_TOKENS: usize = 1024;

/// Scores documents against a query: `out[d] = Σ_i max_j query[i] · tokens[j]`, `j` over the tokens of document `d`.
///
/// Shapes: `query` packs `[n_query_tokens, dim]`, `tokens` is `[n_tokens, dim]`, row-major; document `d` has the tokens
/// from `ends[d − 1]`, or 0, to `ends[d]`. A document without tokens scores 0. Works on the caller's threads.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit, when ends fall, or when the last is not the number of tokens.
pub fn max_sim(query: &PackedMatrix, tokens: &[f32], ends: &[usize], out: &mut [f32]) -> Result<()> {
    check(query, tokens.len(), ends, out)?;
    scores(CpuForm::best(), query, tokens, ends, out);
    Ok(())
}

/// As [`max_sim`], with tokens in IEEE half precision.
///
/// # Errors
///
/// As for [`max_sim`].
pub fn max_sim_f16(query: &PackedMatrix, tokens: &[u16], ends: &[usize], out: &mut [f32]) -> Result<()> {
    check(query, tokens.len(), ends, out)?;
    scores(CpuForm::best(), query, tokens, ends, out);
    Ok(())
}

fn check(query: &PackedMatrix, n_components: usize, ends: &[usize], out: &[f32]) -> Result<()> {
    let dim = query.n_in();
    if !n_components.is_multiple_of(dim) {
        let expected = n_components.next_multiple_of(dim);
        return Err(Error::Shape { what: "tokens", expected, found: n_components });
    }
    if out.len() != ends.len() {
        return Err(Error::Shape { what: "out", expected: ends.len(), found: out.len() });
    }
    if let Some(pair) = ends.windows(2).find(|pair| pair[0] > pair[1]) {
        return Err(Error::Shape { what: "the tokens before a document's end", expected: pair[0], found: pair[1] });
    }
    let (expected, found) = (n_components / dim, ends.last().copied().unwrap_or(0));
    if found != expected {
        return Err(Error::Shape { what: "the tokens before the last document's end", expected, found });
    }
    Ok(())
}

/// A number that tokens are stored in.
trait Stored: Copy + Send + Sync {
    /// The tokens as `f32`, in the buffer if they are not so already.
    fn widened<'a>(form: CpuForm, stored: &'a [Self], buffer: &'a mut Vec<f32>) -> &'a [f32];
}

impl Stored for f32 {
    #[inline(always)]
    fn widened<'a>(_: CpuForm, stored: &'a [f32], _: &'a mut Vec<f32>) -> &'a [f32] {
        stored
    }
}

impl Stored for u16 {
    #[inline(always)]
    fn widened<'a>(form: CpuForm, stored: &'a [u16], buffer: &'a mut Vec<f32>) -> &'a [f32] {
        buffer.resize(stored.len(), 0.0);
        widen::widen(form, stored, buffer);
        buffer
    }
}

/// The scores by one form. The lengths fit and `form` is available.
fn scores<T: Stored>(form: CpuForm, query: &PackedMatrix, tokens: &[T], ends: &[usize], out: &mut [f32]) {
    let mut tasks: Vec<Range<usize>> = Vec::new();
    let mut first = 0;
    for (d, &end) in ends.iter().enumerate() {
        let start = if first == 0 { 0 } else { ends[first - 1] };
        if end - start >= TASK_TOKENS || d + 1 == ends.len() {
            tasks.push(first..d + 1);
            first = d + 1;
        }
    }
    let n_operations = tokens.len() * query.n_out();
    let out = Tiles::new(out);
    for_each_task(tasks.len(), n_operations, |task| {
        let documents = tasks[task].clone();
        // SAFETY: `out` is borrowed by this function, and each document belongs to one task.
        let out = unsafe { out.slice(documents.start, documents.len()) };
        score_documents(form, query, tokens, ends, documents, out);
    });
}

/// The scores of some documents.
fn score_documents<T: Stored>(
    form: CpuForm,
    query: &PackedMatrix,
    tokens: &[T],
    ends: &[usize],
    documents: Range<usize>,
    out: &mut [f32],
) {
    let (dim, n_query) = (query.n_in(), query.n_out());
    let (tall, widest) = tile_size(form);
    let n_panels = n_query.div_ceil(PANEL);
    let lanes = n_panels * PANEL;
    let inputs = dim.div_ceil(dim.div_ceil(BLOCK));
    let start_of = |d: usize| if d == 0 { 0 } else { ends[d - 1] };
    let mut maxima = vec![f32::NEG_INFINITY; documents.len() * lanes];
    let mut sums = vec![0.0; BLOCK_TOKENS * widest * PANEL];
    let mut buffer = Vec::new();
    let (mut token, last) = (start_of(documents.start), ends[documents.end - 1]);
    let mut document = documents.start; // That of `token`, if any has it.
    while token < last {
        let block = token..last.min(token + BLOCK_TOKENS);
        let rows = T::widened(form, &tokens[block.start * dim..block.end * dim], &mut buffer);
        while ends[document] <= block.start {
            document += 1;
        }
        let mut panel = 0;
        while panel < n_panels {
            let wide = if n_panels - panel >= widest { widest } else { 1 };
            let width = wide * PANEL;
            let panels = query.panels(panel, wide);
            for tile in even_parts(0..block.len(), tall) {
                let rows = &rows[tile.start * dim..tile.end * dim];
                let sums = &mut sums[tile.start * width..tile.end * width];
                for first in (0..dim).step_by(inputs) {
                    let shape = TileShape { n_in: dim, first, n_inputs: inputs.min(dim - first) };
                    sum_tile(form, tile.len(), wide, rows, panels, shape, sums);
                }
            }
            let mut d = document;
            let mut from = block.start;
            while from < block.end {
                let to = ends[d].min(block.end);
                if to > from {
                    let sums = &sums[(from - block.start) * width..(to - block.start) * width];
                    let at = (d - documents.start) * lanes + panel * PANEL;
                    running_max_by(form, sums, width, &mut maxima[at..at + width]);
                    from = to;
                }
                d += 1;
            }
            panel += wide;
        }
        token = block.end;
    }
    for ((out, maxima), d) in out.iter_mut().zip(maxima.chunks_exact(lanes)).zip(documents) {
        *out = if ends[d] > start_of(d) { maxima[..n_query].iter().sum() } else { 0.0 };
    }
}
