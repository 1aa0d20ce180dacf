//! Entities that mean the same, by their vectors.

use raglan_kernels::{from_f16, inner_products_f16};
use rayon::prelude::*;

use crate::{Error, Result};

/// Which entities are synonyms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SynonymConfig {
    /// The least cosine.
    pub min_cosine: f32,
    /// How many synonyms an entity has that no other entity would have without it.
    pub max_synonyms: usize,
}

impl Default for SynonymConfig {
    /// HippoRAG's.
    fn default() -> Self {
        Self { min_cosine: 0.8, max_synonyms: 100 }
    }
}

impl SynonymConfig {
    pub(crate) fn check(&self) -> Result<()> {
        if self.min_cosine > 0.0 && self.min_cosine <= 1.0 {
            return Ok(());
        }
        let value = f64::from(self.min_cosine);
        Err(Error::Parameter { name: "min_cosine", value, range: "above 0, and at most 1" })
    }
}

/// Shorter names than this have no synonyms, as with HippoRAG: they are initials and numbers.
const MIN_LETTERS: usize = 3;

/// How many entities are compared with all others at a time.
const BLOCK: usize = 32;

/// Entities with unit vectors, `[names, dim]`, bits of `f16`.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    pub names: &'a [String],
    pub vectors: &'a [u16],
}

/// The synonyms of some entities among themselves, each pair once, and among others: the nearest first, equally near ones
/// in order of their names. A cosine does not depend on which of a pair comes first.
pub fn find_synonyms<'a>(
    own: Named<'a>,
    others: &[Named<'a>],
    dim: usize,
    config: &SynonymConfig,
) -> Vec<(u32, &'a str, f32)> {
    let is_long = |name: &str| name.chars().filter(|c| c.is_alphanumeric()).count() >= MIN_LETTERS;
    let near = |first: usize, other: &Named<'a>, is_own: bool| {
        let block = first..(first + BLOCK).min(own.names.len());
        // Of two entities here, the later one is the other.
        let from = if is_own { first } else { 0 };
        let (names, rows) = (&other.names[from..], &other.vectors[from * dim..]);
        let mut cosines = vec![0.0; block.len() * names.len()];
        let mut wide = vec![0.0; block.len() * dim];
        from_f16(&own.vectors[block.start * dim..block.end * dim], &mut wide).expect("both are as long");
        inner_products_f16(&wide, rows, dim, &mut cosines).expect("the shapes fit");
        let mut found: Vec<(u32, &'a str, f32)> = Vec::new();
        for (a, cosines) in block.zip(cosines.chunks_exact(names.len().max(1))) {
            if !is_long(&own.names[a]) {
                continue;
            }
            for (b, (name, &cosine)) in names.iter().zip(cosines).enumerate() {
                let is_other = if is_own { from + b > a } else { *name != own.names[a] };
                if cosine >= config.min_cosine && is_other && is_long(name) {
                    found.push((a as u32, name, cosine.min(1.0)));
                }
            }
        }
        found
    };
    let blocks: Vec<usize> = (0..own.names.len()).step_by(BLOCK).collect();
    let mut found: Vec<(u32, &str, f32)> = blocks
        .into_par_iter()
        .flat_map_iter(|first| {
            let here = near(first, &own, true);
            here.into_iter().chain(others.iter().flat_map(move |other| near(first, other, false)))
        })
        .collect();
    found.par_sort_unstable_by(|x, y| y.2.total_cmp(&x.2).then((x.0, x.1).cmp(&(y.0, y.1))));
    found.dedup_by(|x, y| (x.0, x.1) == (y.0, y.1));
    let mut counts: rustc_hash::FxHashMap<&str, usize> = Default::default();
    found.retain(|&(a, b, _)| {
        let a = own.names[a as usize].as_str();
        let few = |name| counts.get(name).copied().unwrap_or(0) < config.max_synonyms;
        let keep = few(a) || few(b);
        if keep {
            *counts.entry(a).or_default() += 1;
            *counts.entry(b).or_default() += 1;
        }
        keep
    });
    found
}
