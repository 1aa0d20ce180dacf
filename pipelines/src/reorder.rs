//! Passages in another order, for readers that do not look everywhere alike.

use raglan_core::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::Stage;

/// In which order passages stand that come best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassageOrder {
    /// The best at both ends and the worst in the middle, which long prompts are read least well in (Jin et al. 2024,
    /// "Long-context LLMs meet RAG"): of `k` passages, number `i` stands at `(i + 1) / 2` when `i` is odd and at
    /// `k + 1 − i / 2` when it is even.
    EndsFirst,
    /// The best last, nearest to the question, as DRAG has it.
    BestLast,
    /// As they stand in their documents, and documents in the order of their best passages (OP-RAG).
    Document,
}

/// Puts the passages of contexts in another order: `Vec<Context>` → `Vec<Context>`.
///
/// No passage is lost. A generator whose prompt does not hold them all leaves out the last, so choose as many as fit
/// before; the first of the passages is no longer the best but in [`EndsFirst`](PassageOrder::EndsFirst).
pub fn reorder(order: PassageOrder) -> Reorder {
    Reorder { order }
}

/// Another order as a stage; see [`reorder`].
#[derive(Clone, Copy, Debug)]
pub struct Reorder {
    order: PassageOrder,
}

impl Reorder {
    fn reordered(self, context: Context) -> Context {
        let mut passages = context.passages;
        match self.order {
            PassageOrder::EndsFirst => {
                let k = passages.len();
                let mut placed: Vec<_> = passages
                    .into_iter()
                    .zip(1_usize..)
                    .map(|(passage, i)| (if i % 2 == 1 { i.div_ceil(2) } else { k + 1 - i / 2 }, passage))
                    .collect();
                placed.sort_by_key(|(place, _)| *place);
                passages = placed.into_iter().map(|(_, passage)| passage).collect();
            }
            PassageOrder::BestLast => passages.reverse(),
            PassageOrder::Document => {
                let mut documents = Vec::new();
                for passage in &passages {
                    if !documents.contains(&passage.chunk.doc) {
                        documents.push(passage.chunk.doc);
                    }
                }
                let place = |doc| documents.iter().position(|seen| *seen == doc);
                passages.sort_by_key(|passage| {
                    (place(passage.chunk.doc), passage.chunk.span.start, passage.chunk.span.end, passage.chunk.id)
                });
            }
        }
        Context { passages, ..context }
    }
}

impl Stage<Vec<Context>> for Reorder {
    type Out = Vec<Context>;

    fn run(&self, batch: Vec<Context>) -> Result<Vec<Context>> {
        Ok(batch.into_iter().map(|context| self.reordered(context)).collect())
    }

    fn name(&self) -> String {
        format!("reorder({})", self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passages_for_tests::{ids, passage};

    #[track_caller]
    fn check(order: PassageOrder, k: u32, expected: &[u32]) {
        let passages = (1..=k).map(|id| passage(id, id % 2, "text")).collect();
        let found = reorder(order).run(vec![Context::new("q", passages)]).unwrap();
        assert_eq!(ids(&found[0]), expected);
    }

    #[test]
    fn the_best_stand_at_both_ends() {
        check(PassageOrder::EndsFirst, 6, &[1, 3, 5, 6, 4, 2]);
        check(PassageOrder::EndsFirst, 5, &[1, 3, 5, 4, 2]);
        check(PassageOrder::EndsFirst, 2, &[1, 2]);
        check(PassageOrder::EndsFirst, 1, &[1]);
        check(PassageOrder::EndsFirst, 0, &[]);
    }

    #[test]
    fn the_best_stands_last_or_all_as_in_their_documents() {
        check(PassageOrder::BestLast, 4, &[4, 3, 2, 1]);
        check(PassageOrder::Document, 5, &[1, 3, 5, 2, 4]);
        let passages = [3, 4, 1].map(|id| passage(id, 0, "text"));
        let found = reorder(PassageOrder::Document).run(vec![Context::new("q", passages.to_vec())]).unwrap();
        assert_eq!(ids(&found[0]), [1, 3, 4]);
    }
}
