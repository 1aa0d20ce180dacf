//! Examples of answers beside the passages.

use std::ops::Deref;

use raglan_core::{Context, Error, ExampleSource, Result};

use crate::Stage;

/// Puts the `n` examples that help most with a question beside its passages: `Vec<Context>` → `Vec<Context>`.
///
/// The source comes by reference, `Arc` or `Box`.
pub fn examples<S>(source: S, n: usize) -> Examples<S>
where
    S: Deref<Target: ExampleSource> + Send + Sync,
{
    Examples { source, n }
}

/// Examples as a stage; see [`examples`].
#[derive(Clone, Debug)]
pub struct Examples<S> {
    source: S,
    n: usize,
}

impl<S> Stage<Vec<Context>> for Examples<S>
where
    S: Deref<Target: ExampleSource> + Send + Sync,
{
    type Out = Vec<Context>;

    fn run(&self, batch: Vec<Context>) -> Result<Vec<Context>> {
        let questions: Vec<&str> = batch.iter().map(|context| context.question.as_str()).collect();
        let examples = self.source.examples(&questions, self.n)?;
        if examples.len() != batch.len() {
            return Err(Error::Shape { what: "examples", expected: batch.len(), found: examples.len() });
        }
        Ok(batch.into_iter().zip(examples).map(|(context, examples)| Context { examples, ..context }).collect())
    }

    fn name(&self) -> String {
        format!("examples({})", self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows the question itself.
    struct Echo;

    impl ExampleSource for Echo {
        fn examples(&self, questions: &[&str], n: usize) -> Result<Vec<String>> {
            Ok(questions.iter().map(|question| question.repeat(n)).collect())
        }
    }

    #[test]
    fn each_question_has_its_own_examples() {
        let found = examples(&Echo, 2).run(vec![Context::new("a", vec![]), Context::new("b", vec![])]).unwrap();
        assert_eq!(found.iter().map(|context| context.examples.as_str()).collect::<Vec<_>>(), ["aa", "bb"]);
    }
}
