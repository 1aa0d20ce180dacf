//! Many segments become one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raglan_core::{ChunkId, ChunkSet, TokenMatrix};
use raglan_kernels::l2_normalize;

use crate::codebook::{Codebook, Coder, TRIED};
use crate::files::SegmentFiles;
use crate::segment::{Scratch, Segment};
use crate::{Error, LateConfig, LateSegmentWriter, Result};

/// Documents that are coded side by side.
const BATCH: usize = 128;

/// Writes what is not deleted of segments into `folder`, which exists, as one segment.
///
/// The codebook that most tokens are coded by stays, as long as it serves the others too and is not outgrown by all
/// together; then the bytes of its documents are copied, and only the others are read back and coded anew, some at a time.
/// Otherwise all are read back and a codebook is learned, in the memory that [`LateSegmentWriter`] takes. What is coded
/// anew loses about as much again as the first time.
///
/// # Errors
///
/// [`Error::File`] when a file cannot be used; [`Error::Dimension`] when segments have vectors of different dimensions;
/// [`Error::Vectors`] when two have the same chunk; [`Error::Config`].
pub fn merge_late_segments(folder: &Path, segments: &[PathBuf], deleted: &ChunkSet, config: &LateConfig) -> Result<()> {
    config.check()?;
    let segments: Vec<Segment> = segments.iter().map(|folder| Segment::open(folder, deleted)).collect::<Result<_>>()?;
    let mut rows: Vec<(ChunkId, &Segment, u32)> = Vec::new();
    for segment in &segments {
        rows.extend(segment.live_rows().map(|row| (segment.ids()[row as usize], segment, row)));
    }
    rows.sort_unstable_by_key(|(id, ..)| *id);
    if let Some(pair) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::Vectors { problem: format!("two segments have chunk {}", pair[0].0.0) });
    }
    if let Some((_, first, _)) = rows.first()
        && let Some((_, other, _)) = rows.iter().find(|(_, segment, _)| segment.dim() != first.dim())
    {
        return Err(Error::Dimension { what: "a segment", expected: first.dim(), found: other.dim() });
    }
    let ids: Vec<ChunkId> = rows.iter().map(|(id, ..)| *id).collect();
    match codebook_of_most(&rows, config)? {
        Some(codebook) => copy(folder, &ids, &rows, &codebook),
        None => {
            // Tokens were pooled when they came.
            let mut writer = LateSegmentWriter::create(folder, &LateConfig { pool_factor: 1, ..config.clone() })?;
            let mut scratch = Scratch::default();
            for (_, segment, row) in &rows {
                writer.spill(&[unit_tokens(segment, *row, &mut scratch)?])?;
            }
            writer.finish(&ids, &[])
        }
    }
}

/// The codebook that most tokens are coded by, if it serves all.
fn codebook_of_most(rows: &[(ChunkId, &Segment, u32)], config: &LateConfig) -> Result<Option<Arc<Codebook>>> {
    let mut counts: Vec<(&Arc<Codebook>, usize)> = Vec::new();
    for (_, segment, row) in rows {
        let n_tokens = segment.codes(*row).len();
        match counts.iter_mut().find(|(codebook, _)| codebook.key == segment.codebook().key) {
            Some((_, count)) => *count += n_tokens,
            None => counts.push((segment.codebook(), n_tokens)),
        }
    }
    let n_tokens: usize = counts.iter().map(|(_, count)| count).sum();
    let suitable = counts.iter().filter(|(codebook, _)| codebook.storage == config.storage);
    // Of equal ones the first.
    let Some((most, own)) = suitable.rev().max_by_key(|(_, count)| *count) else { return Ok(None) };
    let others: Vec<_> = rows.iter().filter(|(_, segment, _)| segment.codebook().key != most.key).collect();
    let step = (n_tokens - own).div_ceil(TRIED).max(1);
    let (mut some, mut scratch, mut next, mut at) = (Vec::new(), Scratch::default(), 0, 0);
    for (_, segment, row) in others {
        let end = at + segment.codes(*row).len();
        if next < end {
            let tokens = unit_tokens(segment, *row, &mut scratch)?;
            while next < end {
                some.extend_from_slice(&tokens.as_slice()[(next - at) * tokens.dim()..][..tokens.dim()]);
                next += step;
            }
        }
        at = end;
    }
    Ok(most.serves(n_tokens, &some)?.then(|| Arc::clone(most)))
}

/// Copies the bytes of documents that are coded by the codebook, and codes the others.
fn copy(folder: &Path, ids: &[ChunkId], rows: &[(ChunkId, &Segment, u32)], codebook: &Codebook) -> Result<()> {
    let coder = Coder::new(codebook)?;
    let token_bytes = codebook.storage.token_bytes(codebook.dim);
    let mut files = SegmentFiles::create(folder)?;
    let mut scratch = Scratch::default();
    for batch in rows.chunks(BATCH) {
        let mut tokens = Vec::new();
        for (_, segment, row) in batch.iter().filter(|(_, segment, _)| segment.codebook().key != codebook.key) {
            tokens.extend_from_slice(unit_tokens(segment, *row, &mut scratch)?.as_slice());
        }
        let (codes, bytes) = coder.code(&tokens)?;
        let mut at = 0;
        for (_, segment, row) in batch {
            let codes_before = segment.codes(*row);
            if segment.codebook().key == codebook.key {
                files.push(codes_before, segment.bytes(*row)?)?;
            } else {
                let end = at + codes_before.len();
                files.push(&codes[at..end], &bytes[at * token_bytes..end * token_bytes])?;
                at = end;
            }
        }
    }
    files.finish(ids, codebook)
}

/// The tokens of a row, brought to length 1.
fn unit_tokens(segment: &Segment, row: u32, scratch: &mut Scratch) -> Result<TokenMatrix> {
    let mut rows = segment.tokens(row, scratch)?.as_slice().to_vec();
    l2_normalize(&mut rows, segment.dim())?;
    TokenMatrix::new(segment.dim(), rows).map_err(|_| segment.not_finite())
}
