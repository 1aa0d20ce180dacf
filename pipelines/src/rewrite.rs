//! Other texts to search with for a question.

use std::ops::Deref;

use raglan_core::{Error, Query, QueryRewriter, Result};

use crate::Stage;

/// Makes of each question itself and the texts that a rewriter gives for it: `Vec<Query>` → `Vec<Vec<Query>>`, which
/// [`each`](crate::each) takes.
///
/// The texts are sought among the chunks of their question's filter. The rewriter comes by reference, `Arc` or `Box`.
pub fn rewrite<R>(rewriter: R) -> Rewrite<R>
where
    R: Deref<Target: QueryRewriter> + Send + Sync,
{
    Rewrite { rewriter }
}

/// A rewriter as a stage; see [`rewrite`].
#[derive(Clone, Debug)]
pub struct Rewrite<R> {
    rewriter: R,
}

impl<R> Stage<Vec<Query>> for Rewrite<R>
where
    R: Deref<Target: QueryRewriter> + Send + Sync,
{
    type Out = Vec<Vec<Query>>;

    fn run(&self, queries: Vec<Query>) -> Result<Vec<Vec<Query>>> {
        let questions: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
        let rewritten = self.rewriter.rewrite(&questions)?;
        if rewritten.len() != queries.len() {
            return Err(Error::Shape { what: "rewritten questions", expected: queries.len(), found: rewritten.len() });
        }
        let with_texts = queries.into_iter().zip(rewritten).map(|(query, texts)| {
            let texts = texts.into_iter().map(|text| Query { text, allowed: query.allowed.clone() });
            let texts: Vec<Query> = texts.collect();
            std::iter::once(query).chain(texts).collect()
        });
        Ok(with_texts.collect())
    }

    fn name(&self) -> String {
        "rewrite".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raglan_core::{ChunkId, ChunkSet, Hit, Ranking, Retriever};

    use super::*;
    use crate::{Fusion, each, retrieve};

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

    /// Finds, for a text of digits, the chunks of these ids in their order, and for any other nothing.
    struct Digits;

    impl Retriever for Digits {
        fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
            let search = |query: &Query| {
                let digits: Option<Vec<u32>> = query.text.chars().map(|c| c.to_digit(10)).collect();
                let ids = digits.unwrap_or_default().into_iter().map(ChunkId);
                let allowed = ids.filter(|id| query.allowed.as_ref().is_none_or(|allowed| allowed.contains(*id)));
                Ranking::best(allowed.enumerate().map(|(i, id)| Hit::new(id, 9.0 - i as f32)).collect(), k)
            };
            queries.iter().map(search).collect()
        }
    }

    #[test]
    fn what_several_texts_find_is_fused_for_the_question() {
        let stage = rewrite(&Parts).then(each(retrieve(&Digits, 9), Fusion::RECIPROCAL_RANK, 3).first_weight(0.0));
        let queries: Vec<Query> = vec!["12+32".into(), "45".into(), "".into()];
        let found = stage.run(queries.clone()).unwrap();
        let ids: Vec<Vec<u32>> =
            found.iter().map(|item| item.ranking.ids().into_iter().map(|id| id.0).collect()).collect();
        assert_eq!(ids, [vec![2, 1, 3], vec![4, 5], vec![]]); // 2/62, 1/61 and 1/61.
        assert!(found.iter().map(|item| &item.query).eq(&queries), "the question stays what it was");
    }

    #[test]
    fn texts_are_sought_among_the_chunks_of_their_question() {
        let among: Arc<ChunkSet> = Arc::new([ChunkId(2), ChunkId(3)].into_iter().collect());
        let lists = rewrite(&Parts).run(vec![Query::new("12+34").among(among.clone())]).unwrap();
        let texts: Vec<&str> = lists[0].iter().map(|query| query.text.as_str()).collect();
        assert_eq!(texts, ["12+34", "12", "34"]);
        assert!(lists[0].iter().all(|query| query.allowed.as_ref() == Some(&among)));
    }

    #[test]
    fn a_rewriter_that_loses_a_question_is_refused() {
        struct Loses;

        impl QueryRewriter for Loses {
            fn rewrite(&self, _: &[&str]) -> Result<Vec<Vec<String>>> {
                Ok(vec![])
            }
        }

        assert!(matches!(rewrite(&Loses).run(vec!["1".into()]), Err(Error::Shape { .. })));
    }
}
