//! Several queries for one question.

use raglan_core::{Error, Query, Ranking, Result};

use crate::{Fusion, Ranked, Stage};

/// Asks each of a question's queries, and fuses what they find: `Vec<Vec<Query>>` → `Vec<Ranked>`.
///
/// All queries of the batch go through `stage` together. The first query of a question is the one that its ranking is
/// for; a question without queries finds nothing. Looks at whole lists with the method's own weights, of which
/// [`first_weight`](Each::first_weight) changes that of the first query.
pub fn each<S>(stage: S, fusion: Fusion, k: usize) -> Each<S>
where
    S: Stage<Vec<Query>, Out = Vec<Ranked>>,
{
    Each { stage, fusion, first_weight: 1.0, k }
}

/// A stage for each of several queries; see [`each`].
#[derive(Clone, Debug)]
pub struct Each<S> {
    stage: S,
    fusion: Fusion,
    first_weight: f32,
    k: usize,
}

impl<S> Each<S> {
    /// How much the first query counts beside each other one; 0, only where there is no other. 1 unless said.
    pub fn first_weight(self, first_weight: f32) -> Self {
        Self { first_weight, ..self }
    }
}

impl<S> Stage<Vec<Vec<Query>>> for Each<S>
where
    S: Stage<Vec<Query>, Out = Vec<Ranked>>,
{
    type Out = Vec<Ranked>;

    fn run(&self, questions: Vec<Vec<Query>>) -> Result<Vec<Ranked>> {
        let firsts: Vec<Query> =
            questions.iter().map(|queries| queries.first().cloned().unwrap_or_else(|| Query::new(""))).collect();
        let search = |queries| self.stage.run(queries);
        fused(firsts, questions, &self.fusion, self.first_weight, usize::MAX, self.k, search)
    }

    fn name(&self) -> String {
        format!("each({}, {}, {})", self.stage.name(), self.fusion, self.k)
    }
}

/// For each of `originals` one ranking of what all its queries find, of which the first `depth` hits count.
pub(crate) fn fused(
    originals: Vec<Query>,
    mut questions: Vec<Vec<Query>>,
    fusion: &Fusion,
    first_weight: f32,
    depth: usize,
    k: usize,
    search: impl FnOnce(Vec<Query>) -> Result<Vec<Ranked>>,
) -> Result<Vec<Ranked>> {
    if first_weight == 0.0 {
        for queries in questions.iter_mut().filter(|queries| queries.len() > 1) {
            queries.remove(0);
        }
    }
    let lengths: Vec<usize> = questions.iter().map(Vec::len).collect();
    let expected = lengths.iter().sum();
    let mut found = if expected == 0 {
        Vec::new().into_iter()
    } else {
        let found = search(questions.into_iter().flatten().collect())?;
        if found.len() != expected {
            return Err(Error::Shape { what: "rankings of queries", expected, found: found.len() });
        }
        found.into_iter()
    };
    let fuse = |(query, length): (Query, usize)| {
        let lists: Vec<Ranked> = found.by_ref().take(length).collect();
        let rankings: Vec<&Ranking> = lists.iter().map(|ranked| &ranked.ranking).collect();
        let mut weights = fusion.default_weights(length);
        if let Some(first) = weights.first_mut().filter(|_| length > 1 && first_weight > 0.0) {
            *first *= first_weight;
        }
        let ranking =
            if rankings.is_empty() { Ranking::default() } else { fusion.fuse(&rankings, &weights, depth, k)? };
        Ok(Ranked::new(query, ranking))
    };
    originals.into_iter().zip(lengths).map(fuse).collect()
}

/// Makes of each question itself and, when it has several, its sentences: `Vec<Query>` → `Vec<Vec<Query>>`.
///
/// A question in several parts is often answered in several places. Sentences end with `?`, `!`, `.` or `;` before
/// white space, and sentences of one word, such as "Why?", are no queries.
pub fn split() -> Split {
    Split
}

/// Sentences of questions as queries; see [`split`].
#[derive(Clone, Copy, Debug)]
pub struct Split;

impl Stage<Vec<Query>> for Split {
    type Out = Vec<Vec<Query>>;

    fn run(&self, batch: Vec<Query>) -> Result<Vec<Vec<Query>>> {
        Ok(batch.into_iter().map(parts).collect())
    }

    fn name(&self) -> String {
        "split".to_owned()
    }
}

fn parts(query: Query) -> Vec<Query> {
    let mut sentences: Vec<&str> = Vec::new();
    let mut start = 0;
    for (i, c) in query.text.char_indices() {
        let end = i + c.len_utf8();
        if matches!(c, '?' | '!' | '.' | ';') && query.text[end..].starts_with(char::is_whitespace) {
            sentences.push(&query.text[start..end]);
            start = end;
        }
    }
    sentences.push(&query.text[start..]);
    let sentences = sentences.into_iter().map(str::trim).filter(|text| text.split_whitespace().count() > 1);
    let more: Vec<Query> =
        sentences.map(|text| Query { text: text.to_owned(), allowed: query.allowed.clone() }).collect();
    let more = if more.len() > 1 { more } else { Vec::new() };
    std::iter::once(query).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use raglan_core::{ChunkId, Hit};

    use super::*;
    use crate::stage;

    /// Finds the chunk whose number is the length of the query, and chunk 1.
    fn by_length() -> impl Stage<Vec<Query>, Out = Vec<Ranked>> {
        stage("by length", |queries: Vec<Query>| {
            let ranked = |query: Query| {
                let hits = vec![Hit::new(ChunkId(query.text.len() as u32), 2.0), Hit::new(ChunkId(1), 1.0)];
                Ok(Ranked::new(query, Ranking::best(hits, 9)?))
            };
            queries.into_iter().map(ranked).collect()
        })
    }

    #[test]
    fn what_the_queries_of_a_question_find_is_fused() {
        let graph = each(by_length(), Fusion::RECIPROCAL_RANK, 2);
        let questions = vec![vec!["four".into(), "fives".into()], vec![], vec!["sixsix".into()]];
        let found = graph.run(questions).unwrap();
        // Chunk 1 has 1/62 twice, the others 1/61 once.
        let ids = |i: usize| found[i].ranking.ids().iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!((ids(0), ids(1), ids(2)), (vec![1, 4], vec![], vec![6, 1]));
        assert_eq!(found[0].query, "four".into());
    }

    #[test]
    fn the_first_query_counts_as_much_as_is_said() {
        let ids = |weight: f32, queries: &[&str]| {
            let graph = each(by_length(), Fusion::RECIPROCAL_RANK, 3).first_weight(weight);
            let queries = queries.iter().map(|&query| query.into()).collect();
            graph.run(vec![queries]).unwrap()[0].ranking.ids().iter().map(|id| id.0).collect::<Vec<_>>()
        };
        // 4: w/61; 5: 1/61; 1: (w + 1)/62.
        assert_eq!(ids(1.0, &["four", "fives"]), [1, 4, 5]);
        assert_eq!(ids(0.01, &["four", "fives"]), [5, 1, 4]);
        assert_eq!(ids(0.0, &["four", "fives"]), [5, 1]);
        assert_eq!(ids(0.0, &["four"]), [4, 1]);
    }

    #[test]
    fn questions_of_several_sentences_are_several_queries() {
        let check = |text: &str, expected: &[&str]| {
            let found = split().run(vec![text.into()]).unwrap();
            assert_eq!(found[0].iter().map(|query| query.text.as_str()).collect::<Vec<_>>(), expected);
        };
        check(
            "Who wrote it? And when was that?",
            &["Who wrote it? And when was that?", "Who wrote it?", "And when was that?"],
        );
        check("What does v1.2 do?", &["What does v1.2 do?"]);
        check("Why? Say it", &["Why? Say it"]);
        check("", &[""]);
    }
}
