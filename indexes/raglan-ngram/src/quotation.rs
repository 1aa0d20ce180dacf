//! What a text says word for word as the corpus does.

use std::ops::Range;

use crate::{NgramIndex, Place};

/// A run of a text's tokens that stands in the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotation {
    /// The tokens of the text.
    pub tokens: Range<usize>,
    /// Where they stand: of several places that with the lowest chunk, and in it the first.
    pub place: Place,
    /// How often they stand in the corpus.
    pub count: u64,
}

impl NgramIndex {
    /// The runs of at least `min_tokens` tokens, and one at least, that a text has from the corpus, in order: the longest,
    /// of equally long ones the first, and then those of what is left before and behind it.
    pub fn quotations(&self, text: &[u32], min_tokens: usize) -> Vec<Quotation> {
        let longest: Vec<usize> = (0..text.len()).map(|start| self.longest_match(&text[start..])).collect();
        let mut found = Vec::new();
        let whole = 0..text.len();
        let mut left = vec![whole];
        while let Some(range) = left.pop() {
            let len = |start: usize| longest[start].min(range.end - start);
            let Some(start) = range.clone().reduce(|best, start| if len(start) > len(best) { start } else { best })
            else {
                continue;
            };
            let tokens = start..start + len(start);
            if tokens.len() < min_tokens.max(1) {
                continue;
            }
            let occurrences = self.find(&text[tokens.clone()]);
            let place = self.places(&occurrences).min().expect("the run stands in the corpus");
            left.extend([range.start..tokens.start, tokens.end..range.end]);
            found.push(Quotation { tokens, place, count: occurrences.count() });
        }
        found.sort_unstable_by_key(|quotation| quotation.tokens.start);
        found
    }

    /// How many of a text's first tokens stand in the corpus as a run.
    fn longest_match(&self, text: &[u32]) -> usize {
        let mut occurrences = self.empty();
        for (n, &token) in text.iter().enumerate() {
            occurrences = self.extended(&occurrences, token);
            if occurrences.count() == 0 {
                return n;
            }
        }
        text.len()
    }
}
