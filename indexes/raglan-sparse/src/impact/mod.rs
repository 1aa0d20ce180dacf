//! Learned sparse vectors: postings that carry an impact of one byte, searched exactly or nearly so.
//!
//! A weight becomes an impact by one fixed scale, [`ImpactConfig::ceiling`], so that a score does not depend on how
//! chunks lie in segments. A query's weights become whole numbers whose sum with impacts just fits 32 bits: sums of
//! integers have no order, and so every way of searching gives the same scores, bit for bit.
//!
//! Inside of a segment, chunks are put in an order in which similar ones are neighbours; 64 neighbours are a block.
//! - The inverted index has for each term the blocks with their greatest impact, and the impacts of each block:
//!   [`term_at_a_time`] adds them all up, [`max_score`] walks them block by block (Turtle and Flood 1995), and
//!   [`block_max`] takes the blocks in the order of their bounds (BMP, Mallia et al. 2024).
//! - The forward index has for each chunk its terms: it scores what the bounds let through, and chunks by id.
//!
//! The approximate search takes SEISMIC's dials (Bruch et al. 2024): its heaviest terms choose a query's candidates, by
//! all of their postings, and the forward index scores them by all terms.

mod best;
mod block_max;
mod candidates;
mod config;
mod document_order;
mod fixed_query;
mod forward;
mod index;
mod inference_free;
mod max_score;
mod part;
mod part_file;
mod term_at_a_time;
#[cfg(test)]
mod tests;
mod writer;

pub use config::{ImpactConfig, ImpactSearch};
pub use index::ImpactIndex;
pub use writer::write_impact_segment;
