//! Chunks found by the questions that were written for them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use raglan_core::{ChunkId, DenseVector, Encoder, Hit, Query, Ranking, Retriever};

use crate::{Error, Result, SyntheticQuestion};

/// Writes questions to a file, one JSON object a line.
///
/// # Errors
///
/// [`Error::Io`].
pub fn write_questions(path: &Path, questions: &[SyntheticQuestion]) -> Result<()> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(failed)?);
    for question in questions {
        let line = serde_json::to_string(question).map_err(|error| failed(error.into()))?;
        writeln!(file, "{line}").map_err(failed)?;
    }
    file.flush().map_err(failed)
}

/// Reads the questions that [`write_questions`] wrote.
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Malformed`] with the line that is not such an object.
pub fn read_questions(path: &Path) -> Result<Vec<SyntheticQuestion>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let read = |(i, line): (usize, &str)| {
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), line: i + 1, problem };
        let question: SyntheticQuestion = serde_json::from_str(line).map_err(|error| malformed(error.to_string()))?;
        if question.log_probability.is_finite() {
            Ok(question)
        } else {
            Err(malformed("`log_probability` is not a finite number".to_owned()))
        }
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(read).collect()
}

/// Finds chunks by the cosine of a query and the nearest of their questions, as Meta-Knowledge RAG (Mombaerts et al. 2024)
/// and doc2query over vectors do. The passages themselves are another retriever's; fuse the two.
///
/// Every question is compared: `n_questions · dim` products a query.
pub struct QuestionIndex {
    encoder: Arc<dyn Encoder<Vector = DenseVector>>,
    questions: Vec<(ChunkId, DenseVector)>,
}

impl QuestionIndex {
    /// An index of questions, which the encoder reads as queries, as it will what is asked.
    ///
    /// # Errors
    ///
    /// What the encoder gives.
    pub fn new(
        encoder: Arc<dyn Encoder<Vector = DenseVector>>,
        questions: &[SyntheticQuestion],
    ) -> raglan_core::Result<Self> {
        let texts: Vec<&str> = questions.iter().map(|question| question.text.as_str()).collect();
        let vectors = encoder.encode_queries(&texts)?;
        if vectors.len() != texts.len() {
            let (expected, found) = (texts.len(), vectors.len());
            return Err(raglan_core::Error::Shape { what: "vectors of questions", expected, found });
        }
        let questions = questions.iter().map(|question| question.chunk).zip(vectors).collect();
        Ok(Self { encoder, questions })
    }

    /// How many questions there are.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }
}

impl Retriever for QuestionIndex {
    fn search(&self, queries: &[Query], k: usize) -> raglan_core::Result<Vec<Ranking>> {
        let texts: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
        let vectors = self.encoder.encode_queries(&texts)?;
        let search = |(query, vector): (&Query, &DenseVector)| {
            let mut best: BTreeMap<ChunkId, f32> = BTreeMap::new();
            for (chunk, of_question) in &self.questions {
                if query.allowed.as_ref().is_none_or(|allowed| allowed.contains(*chunk)) {
                    let cosine = vector.cosine(of_question) as f32;
                    let of_chunk = best.entry(*chunk).or_insert(cosine);
                    *of_chunk = of_chunk.max(cosine);
                }
            }
            Ranking::best(best.into_iter().map(|(chunk, score)| Hit::new(chunk, score)).collect(), k)
        };
        queries.iter().zip(&vectors).map(search).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raglan_core::ChunkSet;

    use super::*;
    use crate::word_vectors::WordVectors;

    fn question(chunk: u32, text: &str) -> SyntheticQuestion {
        SyntheticQuestion { chunk: ChunkId(chunk), text: text.to_owned(), log_probability: -0.5 }
    }

    #[test]
    fn the_nearest_question_of_a_chunk_counts() {
        let questions = [question(3, "bread"), question(3, "cache"), question(5, "cache bread"), question(9, "stone")];
        let index = QuestionIndex::new(Arc::new(WordVectors), &questions).unwrap();
        let among: ChunkSet = [ChunkId(5), ChunkId(9)].into_iter().collect();
        let queries = [Query::new("cache"), Query::new("cache").among(Arc::new(among))];
        let found = index.search(&queries, 2).unwrap();
        assert_eq!(found[0].ids(), [3, 5].map(ChunkId));
        assert!((found[0].hits()[1].score - 0.5_f32.sqrt()).abs() <= 1e-6); // One word of two.
        assert_eq!(found[1].ids(), [5, 9].map(ChunkId));
        assert!(QuestionIndex::new(Arc::new(WordVectors), &[]).unwrap().search(&queries, 2).unwrap()[0].is_empty());
    }

    #[test]
    fn a_file_of_questions_is_read_as_it_was_written_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("questions.jsonl");
        let questions = vec![question(3, "what is \"bread\"?"), question(5, "and\nthis?")];
        write_questions(&path, &questions).unwrap();
        assert_eq!(read_questions(&path).unwrap(), questions);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 3]).unwrap();
        assert!(matches!(read_questions(&path), Err(Error::Malformed { line: 2, .. })));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read_questions(&path), Err(Error::Io { .. })));
        std::fs::write(&path, "").unwrap();
        assert_eq!(read_questions(&path).unwrap(), []);
    }
}
