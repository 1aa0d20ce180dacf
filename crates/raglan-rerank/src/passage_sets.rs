//! A judge as a scorer of lists of passages.

use raglan_core::{Passage, PassageSetScorer, SharedBudget};

use crate::{Budget, Judge, Task, Verdict};

/// Scores a list of passages by what a judge thinks of their texts read as one: `1 / (1 + e^−score)`, and 0 where it says
/// nothing. The judge must give scores; of one that gives an order, the places count. It reads at the cost of the
/// [shared budget](raglan_core::SharedBudget::current), and nothing when that is spent.
pub struct JudgedSets<J> {
    judge: J,
}

impl<J: Judge> JudgedSets<J> {
    /// A scorer on a judge, which should read as many tokens as a list may have.
    pub fn new(judge: J) -> Self {
        Self { judge }
    }
}

impl<J: Judge> PassageSetScorer for JudgedSets<J> {
    fn scores(&self, question: &str, lists: &[Vec<&Passage>]) -> raglan_core::Result<Vec<f32>> {
        let text = |list: &Vec<&Passage>| {
            list.iter().map(|passage| passage.chunk.embedded_text(true)).collect::<Vec<_>>().join("\n\n")
        };
        let texts: Vec<String> = lists.iter().map(text).collect();
        let passages: Vec<&str> = texts.iter().map(String::as_str).collect();
        let judged = self
            .judge
            .judge(&[Task { question, passages: &passages, chunks: &[] }], &Budget::default().within_shared(1))?;
        let mut scores = vec![0.0; lists.len()];
        for judgement in judged {
            SharedBudget::current().spend(judgement.cost);
            match judgement.verdict {
                Verdict::Scores(of_lists) => {
                    for (score, own) in scores.iter_mut().zip(of_lists) {
                        *score = own.filter(|own| own.is_finite()).map_or(0.0, |own| 1.0 / (1.0 + (-own).exp()));
                    }
                }
                order @ Verdict::Order(_) => {
                    for (i, own) in order.ranked(lists.len()) {
                        scores[i] = own;
                    }
                }
            }
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raglan_core::{Chunk, ChunkId, ContentHash, DocId, Document, Format, Locator};

    use super::*;
    use crate::WordOverlap;

    #[test]
    fn a_list_is_judged_as_one_text() {
        let document = Arc::new(Document {
            id: DocId(0),
            path: "a.txt".to_owned(),
            hash: ContentHash([0; 32]),
            size: 0,
            mtime_ns: 0,
            format: Format::PlainText,
            reader: "text/1".to_owned(),
            encoding: None,
            title: None,
            metadata: Default::default(),
        });
        let passage = |id: u32, text: &str| Passage {
            chunk: Chunk {
                id: ChunkId(id),
                doc: DocId(0),
                span: 0..text.len(),
                text: text.to_owned(),
                locator: Locator::default(),
                n_tokens: 2,
            },
            document: document.clone(),
            score: 0.0,
        };
        let (tower, height, cat) = (passage(0, "the tower"), passage(1, "its height"), passage(2, "a cat"));
        let lists = [vec![&tower], vec![&tower, &height], vec![&cat]];
        let scores = JudgedSets::new(WordOverlap).scores("tower height", &lists).unwrap();
        assert!(scores[1] > scores[0] && scores[0] > scores[2], "{scores:?}");
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
        assert!(JudgedSets::new(WordOverlap).scores("tower", &[]).unwrap().is_empty());
    }
}
