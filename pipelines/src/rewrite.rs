//! Searching with other texts than the question's own.

use std::ops::Deref;

use raglan_core::{Error, Query, QueryRewriter, Ranking, Result};

use crate::{Fusion, Ranked, Stage};

/// Searches with the texts that a rewriter gives for each question, and makes one ranking of what they find: `Vec<Query>`
/// → `Vec<Ranked>`.
///
/// All texts of all questions go through `search` in one batch, each among the chunks of its question's filter. The
/// rankings of a question's texts are fused; that of the question itself is the first of them, with `question_weight`
/// times the weight of each other one, and is left out when that is 0, unless there is nothing else. The rewriter comes
/// by reference, `Arc` or `Box`.
pub fn rewrite<R, S>(rewriter: R, search: S, fusion: Fusion, k: usize) -> Rewrite<R, S>
where
    R: Deref<Target: QueryRewriter> + Send + Sync,
    S: Stage<Vec<Query>, Out = Vec<Ranked>>,
{
    Rewrite { rewriter, search, fusion, question_weight: 1.0, depth: 100, k }
}

/// Searching with other texts as a stage; see [`rewrite`].
#[derive(Clone, Debug)]
pub struct Rewrite<R, S> {
    rewriter: R,
    search: S,
    fusion: Fusion,
    question_weight: f32,
    depth: usize,
    k: usize,
}

impl<R, S> Rewrite<R, S> {
    /// How much the question counts beside each other text; 1 unless said.
    pub fn question_weight(self, question_weight: f32) -> Self {
        Self { question_weight, ..self }
    }

    /// How many hits of each text count; 100 unless said.
    pub fn depth(self, depth: usize) -> Self {
        Self { depth, ..self }
    }
}

impl<R, S> Stage<Vec<Query>> for Rewrite<R, S>
where
    R: Deref<Target: QueryRewriter> + Send + Sync,
    S: Stage<Vec<Query>, Out = Vec<Ranked>>,
{
    type Out = Vec<Ranked>;

    fn run(&self, queries: Vec<Query>) -> Result<Vec<Ranked>> {
        let questions: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
        let rewritten = self.rewriter.rewrite(&questions)?;
        if rewritten.len() != queries.len() {
            return Err(Error::Shape { what: "rewritten questions", expected: queries.len(), found: rewritten.len() });
        }
        let mut asked: Vec<Query> = Vec::new();
        let mut weights: Vec<Vec<f32>> = Vec::with_capacity(queries.len());
        for (query, texts) in queries.iter().zip(rewritten) {
            let keeps_question = self.question_weight > 0.0 || texts.is_empty();
            let n = texts.len() + usize::from(keeps_question);
            let mut of_query = self.fusion.default_weights(n);
            if keeps_question {
                asked.push(query.clone());
                if !texts.is_empty() {
                    of_query[0] *= self.question_weight;
                }
            }
            asked.extend(texts.into_iter().map(|text| Query { text, ..query.clone() }));
            weights.push(of_query);
        }
        let n_asked = asked.len();
        let found = self.search.run(asked)?;
        if found.len() != n_asked {
            return Err(Error::Shape { what: "rankings", expected: n_asked, found: found.len() });
        }
        let mut found = found.into_iter();
        let fused = queries.into_iter().zip(weights).map(|(query, weights)| {
            let lists: Vec<Ranked> = found.by_ref().take(weights.len()).collect();
            let rankings: Vec<&Ranking> = lists.iter().map(|list| &list.ranking).collect();
            let ranking = match rankings[..] {
                // One list is what it is: its scores mean something to stages that come.
                [only] => only.clone().truncated(self.k),
                _ => self.fusion.fuse(&rankings, &weights, self.depth, self.k)?,
            };
            let mut left_out: Vec<_> = Vec::new();
            for one in lists.iter().flat_map(|list| &list.left_out) {
                if ranking.position(one.chunk).is_none() && !left_out.contains(one) {
                    left_out.push(*one);
                }
            }
            Ok(Ranked { query, ranking, left_out })
        });
        fused.collect()
    }

    fn name(&self) -> String {
        format!("rewrite({}, {}, {})", self.search.name(), self.fusion.name(), self.k)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raglan_core::{ChunkId, ChunkSet, Hit, Retriever};

    use super::*;
    use crate::retrieve;

    /// Takes a question apart at `+`.
    struct Parts;

    impl QueryRewriter for Parts {
        fn rewrite(&self, questions: &[&str]) -> Result<Vec<Vec<String>>> {
            let parts = |question: &&str| match question.split_once('+') {
                Some((first, second)) => vec![first.to_owned(), second.to_owned()],
                None => Vec::new(),
            };
            Ok(questions.iter().map(parts).collect())
        }
    }

    /// Finds, for a text of digits, the chunks of these ids in their order.
    struct Digits;

    impl Retriever for Digits {
        fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
            let search = |query: &Query| {
                let ids = query.text.chars().filter_map(|c| c.to_digit(10)).map(ChunkId);
                let allowed = ids.filter(|id| query.allowed.as_ref().is_none_or(|allowed| allowed.contains(*id)));
                Ranking::best(allowed.enumerate().map(|(i, id)| Hit::new(id, 9.0 - i as f32)).collect(), k)
            };
            queries.iter().map(search).collect()
        }
    }

    #[track_caller]
    fn check(weight: f32, questions: &[&str], expected: &[&[u32]]) {
        let stage = rewrite(&Parts, retrieve(&Digits, 9), Fusion::RECIPROCAL_RANK, 3).question_weight(weight);
        let queries: Vec<Query> = questions.iter().map(|&question| question.into()).collect();
        let found = stage.run(queries.clone()).unwrap();
        let ids: Vec<Vec<u32>> =
            found.iter().map(|item| item.ranking.ids().into_iter().map(|id| id.0).collect()).collect();
        assert_eq!(ids, expected);
        assert!(found.iter().map(|item| &item.query).eq(&queries), "the question stays what it was");
    }

    #[test]
    fn what_several_texts_find_counts_most() {
        // 1/61, 2 · 1/62 and 1/61.
        check(0.0, &["12+32"], &[&[2, 1, 3]]);
        // With the question's own 1, 2, 3: 2/61, 2/62, and 1/63 + 1/61, which is more.
        check(1.0, &["12+3", "45", ""], &[&[1, 3, 2], &[4, 5], &[]]);
        check(0.0, &["45", "1+2"], &[&[4, 5], &[1, 2]]);
        // With a tenth of a weight: 1.1/61, 1/62 + 0.1/62, and 1/61 + 0.1/63.
        check(0.1, &["12+3"], &[&[1, 3, 2]]);
        check(1.0, &[], &[]);
    }

    #[test]
    fn texts_are_sought_among_the_chunks_of_their_question() {
        let among: ChunkSet = [ChunkId(2), ChunkId(3)].into_iter().collect();
        let query = Query::new("12+34").among(Arc::new(among));
        let found = rewrite(&Parts, retrieve(&Digits, 9), Fusion::MIN_MAX, 3).question_weight(0.0).run(vec![query]);
        assert_eq!(found.unwrap()[0].ranking.ids(), [ChunkId(2), ChunkId(3)]);
    }

    #[test]
    fn a_rewriter_or_a_search_that_loses_a_question_is_refused() {
        struct Loses;

        impl QueryRewriter for Loses {
            fn rewrite(&self, _: &[&str]) -> Result<Vec<Vec<String>>> {
                Ok(vec![])
            }
        }

        let stage = rewrite(&Loses, retrieve(&Digits, 9), Fusion::MIN_MAX, 3);
        assert!(matches!(stage.run(vec!["1".into()]), Err(Error::Shape { .. })));
        let search = crate::stage("loses", |_: Vec<Query>| Ok(Vec::new()));
        assert!(matches!(rewrite(&Parts, search, Fusion::MIN_MAX, 3).run(vec!["1".into()]), Err(Error::Shape { .. })));
    }
}
