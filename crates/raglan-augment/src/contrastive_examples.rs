//! Examples of right and wrong answers to questions like the one that is asked (contrastive in-context learning, as in Li
//! et al. 2025, "Enhancing RAG: a study of best practices").

use std::path::Path;
use std::sync::Arc;

use raglan_core::{DenseVector, Encoder, ExampleSource};
use serde::{Deserialize, Serialize};

use crate::words::normalized;
use crate::{Error, Result};

/// A question with a right and a wrong answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastiveExample {
    /// The question.
    pub question: String,
    /// A right answer.
    pub correct: String,
    /// A wrong one.
    pub incorrect: String,
}

/// Examples, found by the cosine of their questions and the one that is asked.
pub struct ContrastiveExamples {
    encoder: Arc<dyn Encoder<Vector = DenseVector>>,
    examples: Vec<(ContrastiveExample, DenseVector)>,
}

impl ContrastiveExamples {
    /// Examples whose questions the encoder reads as queries.
    ///
    /// # Errors
    ///
    /// What the encoder gives.
    pub fn new(
        encoder: Arc<dyn Encoder<Vector = DenseVector>>,
        examples: Vec<ContrastiveExample>,
    ) -> raglan_core::Result<Self> {
        let questions: Vec<&str> = examples.iter().map(|example| example.question.as_str()).collect();
        let vectors = encoder.encode_queries(&questions)?;
        if vectors.len() != questions.len() {
            let (expected, found) = (questions.len(), vectors.len());
            return Err(raglan_core::Error::Shape { what: "vectors of examples", expected, found });
        }
        Ok(Self { encoder, examples: examples.into_iter().zip(vectors).collect() })
    }

    /// Examples from a file, one JSON object a line.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Malformed`] with the line that is not such an object; what the encoder gives.
    pub fn load(path: &Path, encoder: Arc<dyn Encoder<Vector = DenseVector>>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let read = |(i, line): (usize, &str)| {
            let malformed = |error: serde_json::Error| Error::Malformed {
                path: path.to_owned(),
                line: i + 1,
                problem: error.to_string(),
            };
            serde_json::from_str(line).map_err(malformed)
        };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        Ok(Self::new(encoder, lines.map(read).collect::<Result<_>>()?)?)
    }

    /// The `n` nearest examples of each question, the nearest first, equal ones as they came. An example that asks the
    /// same, but for case and signs, is not shown: it would give the answer away.
    ///
    /// # Errors
    ///
    /// What the encoder gives.
    pub fn nearest(&self, questions: &[&str], n: usize) -> raglan_core::Result<Vec<Vec<&ContrastiveExample>>> {
        let vectors = self.encoder.encode_queries(questions)?;
        let nearest = |(question, vector): (&&str, &DenseVector)| {
            let asked = normalized(question);
            let others = self.examples.iter().filter(|(example, _)| normalized(&example.question) != asked);
            let mut scored: Vec<(f64, &ContrastiveExample)> =
                others.map(|(example, of_example)| (vector.cosine(of_example), example)).collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0));
            scored.into_iter().take(n).map(|(_, example)| example).collect()
        };
        Ok(questions.iter().zip(&vectors).map(nearest).collect())
    }
}

impl ExampleSource for ContrastiveExamples {
    fn examples(&self, questions: &[&str], n: usize) -> raglan_core::Result<Vec<String>> {
        let lines = |examples: Vec<&ContrastiveExample>| {
            let lines = examples.into_iter().map(|ContrastiveExample { question, correct, incorrect }| {
                format!(
                    "- Question: {question} Correct answer: {correct}\n- Question: {question} Incorrect answer: {incorrect}"
                )
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        Ok(self.nearest(questions, n)?.into_iter().map(lines).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word_vectors::WordVectors;

    fn example(question: &str) -> ContrastiveExample {
        ContrastiveExample { question: question.into(), correct: "yes".into(), incorrect: "no".into() }
    }

    #[test]
    fn the_nearest_are_shown_and_never_the_question_itself() {
        let examples = vec![example("stone"), example("Cache?"), example("cache bread"), example("old cache")];
        let bank = ContrastiveExamples::new(Arc::new(WordVectors), examples).unwrap();
        let shown = &bank.nearest(&["cache"], 2).unwrap()[0];
        assert_eq!(
            shown.iter().map(|example| example.question.as_str()).collect::<Vec<_>>(),
            ["cache bread", "old cache"]
        );
        assert_eq!(
            bank.examples(&["bread"], 1).unwrap(),
            ["- Question: cache bread Correct answer: yes\n- Question: cache bread Incorrect answer: no"]
        );
        assert_eq!(bank.examples(&["bread"], 0).unwrap(), [""]);
    }

    #[test]
    fn a_file_of_examples_is_read_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("examples.jsonl");
        let line = serde_json::to_string(&example("stone")).unwrap();
        std::fs::write(&path, format!("{line}\n\n{line}\n")).unwrap();
        assert_eq!(ContrastiveExamples::load(&path, Arc::new(WordVectors)).unwrap().examples.len(), 2);
        std::fs::write(&path, &line[..line.len() - 1]).unwrap();
        let error = ContrastiveExamples::load(&path, Arc::new(WordVectors)).err().unwrap();
        assert!(matches!(error, Error::Malformed { line: 1, .. }), "{error}");
    }
}
