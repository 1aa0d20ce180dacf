//! Packed sequences, as kernels see them.

use super::{Buffer, CudaDevice, count};
use crate::{Error, Result};

/// Rows of queries that one block of [`bidirectional_attention`](crate::cuda::bidirectional_attention) takes.
pub(crate) const TILE_ROWS: usize = 128;

/// Where packed sequences end, checked once and kept on the device for all layers of a forward pass.
#[derive(Debug)]
pub struct PackedSequences {
    n_tokens: usize,
    n_sequences: usize,
    ends: Buffer<u32>,
    tiles: Buffer<u32>,
    n_tiles: usize,
}

impl PackedSequences {
    /// Sequences of which `ends[b]` is one past the last row of the `b`-th; they follow one another without gaps and
    /// may be empty.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when `ends` descends or there are more tokens than kernels count.
    pub fn new(device: &CudaDevice, ends: &[usize]) -> Result<Self> {
        if let Some(pair) = ends.windows(2).find(|pair| pair[1] < pair[0]) {
            return Err(Error::Shape { what: "ends", expected: pair[0], found: pair[1] });
        }
        let n_tokens = ends.last().copied().unwrap_or(0);
        count("tokens", n_tokens)?;
        let tiles = tiles(ends, TILE_ROWS);
        let flat: Vec<u32> = tiles.iter().flat_map(|tile| [tile.start, tile.end, tile.first_row]).collect();
        let numbers: Vec<u32> = ends.iter().map(|&end| end as u32).collect();
        Ok(Self {
            n_tokens,
            n_sequences: ends.len(),
            ends: device.upload(&numbers)?,
            tiles: device.upload(&flat)?,
            n_tiles: tiles.len(),
        })
    }

    /// How many rows the sequences have together.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// How many sequences there are.
    pub fn n_sequences(&self) -> usize {
        self.n_sequences
    }

    /// How many tiles of queries there are.
    pub(crate) fn n_tiles(&self) -> usize {
        self.n_tiles
    }

    pub(crate) fn ends(&self) -> &Buffer<u32> {
        &self.ends
    }

    pub(crate) fn tiles(&self) -> &Buffer<u32> {
        &self.tiles
    }
}

/// Query rows of one sequence that one block attends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// The sequence's first row.
    pub start: u32,
    /// One past its last.
    pub end: u32,
    /// The tile's first row.
    pub first_row: u32,
}

/// The tiles of all sequences, those with most keys first, so that no long one begins when the others are done.
pub(crate) fn tiles(ends: &[usize], rows: usize) -> Vec<Tile> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let mut tiles: Vec<Tile> = starts
        .zip(ends)
        .flat_map(|(start, &end)| {
            (start..end).step_by(rows).map(move |row| Tile {
                start: start as u32,
                end: end as u32,
                first_row: row as u32,
            })
        })
        .collect();
    tiles.sort_by_key(|tile| std::cmp::Reverse(tile.end - tile.start));
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_each_row_once_and_the_longest_come_first() {
        for ends in [&[][..], &[0], &[1], &[128, 129], &[5, 5, 300, 301, 701]] {
            let tiles = tiles(ends, TILE_ROWS);
            let mut rows: Vec<u32> =
                tiles.iter().flat_map(|t| t.first_row..t.end.min(t.first_row + TILE_ROWS as u32)).collect();
            rows.sort_unstable();
            assert!(rows.into_iter().eq(0..ends.last().copied().unwrap_or(0) as u32), "{ends:?}");
            assert!(tiles.is_sorted_by_key(|t| std::cmp::Reverse(t.end - t.start)));
            assert!(tiles.iter().all(|t| t.start <= t.first_row && ends.contains(&(t.end as usize))));
        }
    }
}
