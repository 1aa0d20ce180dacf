//! Generators that search by themselves, as stages.

use std::ops::Deref;
use std::sync::Arc;

use raglan_core::{Answer, Error, Query, Ranking, Result, Retriever, StepwiseGenerator};

use crate::{Ranked, Stage};

/// Answers questions in steps, each of which may search by the stage `search`: `Vec<Query>` → `Vec<Result<Answer>>`.
///
/// The generator comes by reference, `Arc` or `Box`. What it searches by gives rankings:
///
/// ```compile_fail,E0271
/// use std::sync::Arc;
/// use raglan_core::{ChunkStore, Retriever, StepwiseGenerator};
/// use raglan_pipeline::{Stage, read, retrieve, steps};
///
/// fn answer(self_ask: &dyn StepwiseGenerator, bm25: Arc<dyn Retriever>, store: Arc<dyn ChunkStore>) {
///     steps(self_ask, retrieve(bm25, 10).then(read(store))); // gives `Vec<Context>`
/// }
/// ```
///
/// ```
/// # use std::sync::Arc;
/// # use raglan_core::{Retriever, StepwiseGenerator};
/// # use raglan_pipeline::{retrieve, steps};
/// fn answer(self_ask: &dyn StepwiseGenerator, bm25: Arc<dyn Retriever>) {
///     steps(self_ask, retrieve(bm25, 10));
/// }
/// ```
pub fn steps<G, S>(generator: G, search: S) -> Steps<G>
where
    G: Deref<Target: StepwiseGenerator> + Send + Sync,
    S: Stage<Vec<Query>, Out = Vec<Ranked>> + 'static,
{
    Steps { generator, search: Arc::new(StageRetriever(search)) }
}

/// A stepwise generator as a stage; see [`steps`].
#[derive(Clone)]
pub struct Steps<G> {
    generator: G,
    search: Arc<dyn Retriever>,
}

impl<G> Steps<G>
where
    G: Deref<Target: StepwiseGenerator> + Send + Sync,
{
    /// Runs the stage, and calls `on_text` with the index of the question and each piece of its answer as it is made.
    ///
    /// # Errors
    ///
    /// As the stage.
    pub fn run_streaming(
        &self,
        queries: &[Query],
        on_text: &mut dyn FnMut(usize, &str),
    ) -> Result<Vec<Result<Answer>>> {
        let answers = self.generator.answer(queries, &self.search, on_text)?;
        if answers.len() != queries.len() {
            return Err(Error::Shape { what: "answers", expected: queries.len(), found: answers.len() });
        }
        Ok(answers)
    }
}

impl<G> Stage<Vec<Query>> for Steps<G>
where
    G: Deref<Target: StepwiseGenerator> + Send + Sync,
{
    type Out = Vec<Result<Answer>>;

    fn run(&self, queries: Vec<Query>) -> Result<Vec<Result<Answer>>> {
        self.run_streaming(&queries, &mut |_, _| {})
    }

    fn name(&self) -> String {
        "steps".to_owned()
    }
}

/// Stages that find chunks, as a retriever: of what they give, the best `k`.
pub(crate) struct StageRetriever<S>(pub S);

impl<S: Stage<Vec<Query>, Out = Vec<Ranked>>> Retriever for StageRetriever<S> {
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
        let found = self.0.run(queries.to_vec())?;
        found.into_iter().map(|ranked| Ranking::best(ranked.ranking.hits().to_vec(), k)).collect()
    }
}

#[cfg(test)]
mod tests {
    use raglan_core::{ChunkId, Hit, Timings, TokenUsage};

    use super::*;
    use crate::{retrieve, select};

    /// Searches twice, for the question and for what it found, and says the ids.
    struct Twice;

    impl StepwiseGenerator for Twice {
        fn answer(
            &self,
            questions: &[Query],
            retriever: &Arc<dyn Retriever>,
            on_text: &mut dyn FnMut(usize, &str),
        ) -> Result<Vec<Result<Answer>>> {
            let mut answer = |(i, question): (usize, &Query)| {
                let first = retriever.search(std::slice::from_ref(question), 2)?.remove(0);
                let texts = first.ids().into_iter().map(|id| Query::new(id.0.to_string()));
                let second = retriever.search(&texts.collect::<Vec<_>>(), 1)?;
                let text = format!("{:?} {:?}", first.ids(), second.iter().map(Ranking::ids).collect::<Vec<_>>());
                let (one, other) = text.split_at(3);
                on_text(i, one);
                on_text(i, other);
                let gathered = first.ids().into_iter().chain(second.iter().flat_map(Ranking::ids));
                Ok(Answer {
                    question: question.text.clone(),
                    text,
                    sentences: vec![],
                    steps: vec![],
                    gathered: gathered.collect(),
                    sources: vec![],
                    left_out: vec![],
                    timings: Timings::default(),
                    tokens: TokenUsage::default(),
                    kv: None,
                })
            };
            Ok(questions.iter().enumerate().map(&mut answer).collect())
        }
    }

    /// Finds the chunks from the length of the text down.
    struct Lengths;

    impl Retriever for Lengths {
        fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
            let hits = |query: &Query| (1..=query.text.len()).map(|id| Hit::new(ChunkId(id as u32), id as f32));
            queries.iter().map(|query| Ranking::best(hits(query).collect(), k)).collect()
        }
    }

    #[test]
    fn a_generator_searches_by_the_stages_inside() {
        let lengths: Arc<dyn Retriever> = Arc::new(Lengths);
        let stage = steps(&Twice, retrieve(lengths, 10).then(select(3)));
        let answers = stage.run(vec!["four".into()]).unwrap();
        let text = &answers[0].as_ref().unwrap().text;
        assert_eq!(*text, format!("{:?} {:?}", [ChunkId(4), ChunkId(3)], [[ChunkId(1)], [ChunkId(1)]]));
        let mut pieces = [String::new(), String::new()];
        let asked = ["four".into(), "threes".into()];
        let streamed = stage.run_streaming(&asked, &mut |i, piece| pieces[i].push_str(piece)).unwrap();
        assert!(streamed.iter().zip(&pieces).all(|(answer, piece)| answer.as_ref().unwrap().text == *piece));
        assert!(stage.run(vec![]).unwrap().is_empty());
        assert_eq!(stage.name(), "steps");
    }
}
