//! The sentences of passages that say something about the question (focus mode, as in Li et al. 2025, "Enhancing RAG: a
//! study of best practices").

use std::ops::{Deref, Range};

use raglan_core::{Context, DenseVector, Encoder, Error, LeftOut, LeftOutReason, Passage, Result, sentence_spans};

use crate::Stage;

/// Keeps the `n_sentences` sentences of the first `n_passages` passages that are nearest to the question by the cosine of
/// their vectors: `Vec<Context>` → `Vec<Context>`. The paper takes 80 of 80.
///
/// Sentences that stood side by side become one passage, a span of its chunk. They stay in the order of the text, and
/// passages in theirs; equal sentences of a question count in that order too. The number of tokens of what is left of a
/// passage is estimated by its share of the text. Passages of which nothing is left, and those behind the first
/// `n_passages`, are left out as irrelevant. The encoder comes by reference, `Arc` or `Box`.
pub fn focus<E>(encoder: E, n_passages: usize, n_sentences: usize) -> Focus<E>
where
    E: Deref<Target: Encoder<Vector = DenseVector>> + Send + Sync,
{
    Focus { encoder, n_passages, n_sentences }
}

/// Sentences instead of passages as a stage; see [`focus`].
#[derive(Clone, Debug)]
pub struct Focus<E> {
    encoder: E,
    n_passages: usize,
    n_sentences: usize,
}

/// A sentence: its passage, and where it stands there.
struct Candidate {
    passage: usize,
    span: Range<usize>,
}

impl<E> Focus<E>
where
    E: Deref<Target: Encoder<Vector = DenseVector>> + Send + Sync,
{
    fn focused(&self, context: Context, question: &DenseVector) -> Result<Context> {
        let mut sentences: Vec<Candidate> = Vec::new();
        for (i, passage) in context.passages.iter().take(self.n_passages).enumerate() {
            let spans = sentence_spans(&passage.chunk.text);
            sentences.extend(spans.into_iter().map(|span| Candidate { passage: i, span }));
        }
        let text = |sentence: &Candidate| &context.passages[sentence.passage].chunk.text[sentence.span.clone()];
        let texts: Vec<&str> = sentences.iter().map(text).collect();
        let vectors = self.encoder.encode_passages(&texts)?;
        if vectors.len() != texts.len() {
            return Err(Error::Shape { what: "vectors of sentences", expected: texts.len(), found: vectors.len() });
        }
        let cosines: Vec<f64> = vectors.iter().map(|vector| question.cosine(vector)).collect();
        let mut best: Vec<usize> = (0..sentences.len()).collect();
        best.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]));
        best.truncate(self.n_sentences);
        best.sort_unstable();
        let mut kept: Vec<(usize, Range<usize>)> = Vec::new();
        for (n, &i) in best.iter().enumerate() {
            let Candidate { passage, span } = &sentences[i];
            match kept.last_mut() {
                Some((of, run)) if of == passage && best[n - 1] + 1 == i => run.end = span.end,
                _ => kept.push((*passage, span.clone())),
            }
        }
        let passages = kept.iter().map(|(i, span)| part(&context.passages[*i], span)).collect();
        let mut left_out = context.left_out;
        for (i, passage) in context.passages.iter().enumerate() {
            if !kept.iter().any(|(of, _)| *of == i) {
                left_out.push(LeftOut { chunk: passage.chunk.id, reason: LeftOutReason::Irrelevant });
            }
        }
        Ok(Context { passages, left_out, ..context })
    }
}

/// A part of a passage, whose text is the document's at its own span.
fn part(passage: &Passage, span: &Range<usize>) -> Passage {
    let mut part = passage.clone();
    let share = span.len() as f64 / passage.chunk.text.len().max(1) as f64;
    part.chunk.text = passage.chunk.text[span.clone()].to_owned();
    part.chunk.span = passage.chunk.span.start + span.start..passage.chunk.span.start + span.end;
    part.chunk.n_tokens = (f64::from(passage.chunk.n_tokens) * share).ceil() as u32;
    part
}

impl<E> Stage<Vec<Context>> for Focus<E>
where
    E: Deref<Target: Encoder<Vector = DenseVector>> + Send + Sync,
{
    type Out = Vec<Context>;

    fn run(&self, batch: Vec<Context>) -> Result<Vec<Context>> {
        let questions: Vec<&str> = batch.iter().map(|context| context.question.as_str()).collect();
        let vectors = self.encoder.encode_queries(&questions)?;
        if vectors.len() != batch.len() {
            return Err(Error::Shape { what: "vectors of questions", expected: batch.len(), found: vectors.len() });
        }
        batch.into_iter().zip(&vectors).map(|(context, question)| self.focused(context, question)).collect()
    }

    fn name(&self) -> String {
        format!("focus({}, {})", self.n_passages, self.n_sentences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passages_for_tests::{ids, passage};

    /// Knows caches from all else.
    struct Caches;

    impl Encoder for Caches {
        type Vector = DenseVector;

        fn encode_queries(&self, queries: &[&str]) -> Result<Vec<DenseVector>> {
            let encode = |text: &&str| {
                let n = text.matches("cache").count() as f32;
                DenseVector::new(vec![n, 1.0])
            };
            queries.iter().map(encode).collect()
        }

        fn encode_passages(&self, passages: &[&str]) -> Result<Vec<DenseVector>> {
            self.encode_queries(passages)
        }
    }

    #[track_caller]
    fn check(n_passages: usize, n_sentences: usize, texts: &[&str], expected: &[(u32, &str)]) {
        let passages: Vec<_> = (1..).zip(texts).map(|(id, text)| passage(id, 0, text)).collect();
        let whole = passages.clone();
        let found =
            focus(&Caches, n_passages, n_sentences).run(vec![Context::new("cache", passages)]).unwrap().remove(0);
        let kept: Vec<_> =
            found.passages.iter().map(|passage| (passage.chunk.id.0, passage.chunk.text.as_str())).collect();
        assert_eq!(kept, expected);
        for part in &found.passages {
            let whole = &whole[part.chunk.id.0 as usize - 1].chunk;
            let start = part.chunk.span.start - whole.span.start;
            assert_eq!(whole.text[start..start + part.chunk.span.len()], part.chunk.text);
            assert!(part.chunk.n_tokens <= whole.n_tokens);
        }
        let n_gone = (1..=texts.len() as u32).filter(|id| !ids(&found).contains(id)).count();
        assert_eq!(found.left_out.len(), n_gone);
    }

    const FIRST: &str = "Bread is baked. A cache evicts. The cache is small. Stones lie.";
    const SECOND: &str = "Nothing here. One cache more.";

    #[test]
    fn the_best_sentences_stay_where_they_stood() {
        check(9, 3, &[FIRST, SECOND], &[(1, "A cache evicts. The cache is small."), (2, "One cache more.")]);
        check(9, 1, &[FIRST, SECOND], &[(1, "A cache evicts.")]);
        check(1, 9, &[FIRST, SECOND], &[(1, FIRST)]);
        check(9, 9, &[SECOND, FIRST], &[(1, SECOND), (2, FIRST)]);
        check(9, 1, &[SECOND, "No sentence"], &[(1, "One cache more.")]);
    }

    #[test]
    fn nothing_comes_of_nothing() {
        check(9, 0, &[FIRST], &[]);
        check(0, 9, &[FIRST], &[]);
        check(9, 9, &[], &[]);
        check(9, 9, &["", " \n"], &[]);
    }
}
