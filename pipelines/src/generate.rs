//! Generators as stages.

use std::ops::Deref;

use raglan_core::{Answer, Context, Cost, Error, Generator, Result, SharedBudget};

use crate::Stage;

/// Answers questions from their passages: `Vec<Context>` → `Vec<Result<Answer>>`. A question that cannot be answered
/// does not keep the others from it.
///
/// The generator comes by reference, `Arc` or `Box`. A ranking has no texts to answer from; without
/// [`read`](crate::read) between them the two do not fit:
///
/// ```compile_fail,E0277
/// use raglan_core::{Generator, Retriever};
/// use raglan_pipeline::{Stage, generate, retrieve};
///
/// fn answer(bm25: &dyn Retriever, llm: &dyn Generator) {
///     retrieve(bm25, 10).then(generate(llm)); // this stage does not take `Vec<Ranked>`
/// }
/// ```
///
/// ```
/// # use raglan_core::{ChunkStore, Generator, Retriever};
/// # use raglan_pipeline::{Stage, generate, read, retrieve};
/// fn answer(bm25: &dyn Retriever, store: &dyn ChunkStore, llm: &dyn Generator) {
///     retrieve(bm25, 10).then(read(store)).then(generate(llm));
/// }
/// ```
pub fn generate<G>(generator: G) -> Generate<G, impl Fn(usize, &str) + Send + Sync>
where
    G: Deref<Target: Generator> + Send + Sync,
{
    generate_streaming(generator, |_, _| {})
}

/// Like [`generate`], and calls `on_text` with the index of the context and each piece of its answer as it is made.
pub fn generate_streaming<G, F>(generator: G, on_text: F) -> Generate<G, F>
where
    G: Deref<Target: Generator> + Send + Sync,
    F: Fn(usize, &str) + Send + Sync,
{
    Generate { generator, on_text }
}

/// A generator as a stage; see [`generate`].
#[derive(Clone, Debug)]
pub struct Generate<G, F> {
    generator: G,
    on_text: F,
}

impl<G, F> Stage<Vec<Context>> for Generate<G, F>
where
    G: Deref<Target: Generator> + Send + Sync,
    F: Fn(usize, &str) + Send + Sync,
{
    type Out = Vec<Result<Answer>>;

    fn run(&self, contexts: Vec<Context>) -> Result<Vec<Result<Answer>>> {
        answers(&*self.generator, &contexts, &mut |i, text| (self.on_text)(i, text))
    }

    fn name(&self) -> String {
        "generate".to_owned()
    }
}

/// One answer for each context, or why it has none.
///
/// Within a [`SharedBudget`] questions are answered one after another, each at its cost, until the budget is spent.
pub(crate) fn answers<G: Generator + ?Sized>(
    generator: &G,
    contexts: &[Context],
    on_text: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Result<Answer>>> {
    let budget = SharedBudget::current();
    if !budget.is_limited() {
        let answers = generator.generate(contexts, on_text)?;
        if answers.len() != contexts.len() {
            return Err(Error::Shape { what: "answers", expected: contexts.len(), found: answers.len() });
        }
        answers.iter().flatten().for_each(|answer| budget.spend(cost(answer)));
        return Ok(answers);
    }
    let one = |(i, context): (usize, &Context)| {
        if budget.is_spent() {
            return Ok(Err(Error::BudgetSpent));
        }
        let mut answers = generator.generate(std::slice::from_ref(context), &mut |_, text| on_text(i, text))?;
        match (answers.pop(), answers.len()) {
            (Some(answer), 0) => {
                answer.iter().for_each(|answer| budget.spend(cost(answer)));
                Ok(answer)
            }
            (_, found) => Err(Error::Shape { what: "answers", expected: 1, found }),
        }
    };
    contexts.iter().enumerate().map(one).collect()
}

/// What a model's work for an answer cost: nothing where it was not asked.
fn cost(answer: &Answer) -> Cost {
    let Answer { tokens, timings, .. } = answer;
    let calls = usize::from(tokens.prompt > 0);
    let seconds = timings.prefill_s + timings.decode_s;
    Cost { calls, tokens_read: tokens.prompt, tokens_written: tokens.answer, seconds }
}
