use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::{Result, lines};

/// What a system retrieved: for each query, documents and their scores.
///
/// Invariant: no score is NaN, and none is negative zero, so that `total_cmp` orders as `<` does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    queries: BTreeMap<String, HashMap<String, f32>>,
}

impl Run {
    /// Reads a TREC run: lines of `query Q0 document rank score tag`, separated by white space.
    ///
    /// As in `trec_eval`, the order is that of the scores, as 32-bit floats; ranks and the order of the lines mean
    /// nothing.
    ///
    /// # Errors
    ///
    /// When the file is missing or unreadable, a line has other fields, a score is no number, or a query retrieved a
    /// document twice.
    pub fn read_trec(path: &Path) -> Result<Self> {
        let mut run = Self::default();
        lines::each(path, |_, line| {
            let [query, _q0, document, _rank, score, _tag] = lines::fields(line)?;
            // By way of 64 bits, as trec_eval rounds: straight to 32 may differ in the last bit.
            let number = score.parse::<f64>().ok().filter(|number| !number.is_nan());
            let number = number.ok_or_else(|| format!("score `{score}` is not a number"))?;
            match run.insert_new(query, document, number as f32) {
                true => Ok(()),
                false => Err(format!("query `{query}` has document `{document}` twice")),
            }
        })?;
        Ok(run)
    }

    /// Writes a TREC run under a tag, best documents first; it reads back equal.
    ///
    /// # Errors
    ///
    /// When an id or the tag is empty or holds white space, or the file cannot be written.
    pub fn write_trec(&self, path: &Path, tag: &str) -> Result<()> {
        lines::check_ids(path, [tag])?;
        for (query, documents) in &self.queries {
            lines::check_ids(path, std::iter::once(query).chain(documents.keys()).map(String::as_str))?;
        }
        lines::write(path, |out| {
            for query in self.queries() {
                for (i, (document, score)) in self.ranking(query).into_iter().enumerate() {
                    writeln!(out, "{query} Q0 {document} {} {score} {tag}", i + 1)?;
                }
            }
            Ok(())
        })
    }

    /// Adds a document to a query's list, or replaces its score.
    ///
    /// # Panics
    ///
    /// If the score is NaN, which has no place in an order.
    pub fn insert(&mut self, query: &str, document: &str, score: f32) {
        self.insert_new(query, document, score);
    }

    /// Adds or replaces; says whether the document was new.
    fn insert_new(&mut self, query: &str, document: &str, score: f32) -> bool {
        assert!(!score.is_nan(), "the score of document `{document}` for query `{query}` is NaN");
        let score = score + 0.0; // Makes negative zero positive.
        // Looked up first, as most calls name a query that is there.
        let documents = match self.queries.get_mut(query) {
            Some(documents) => documents,
            None => self.queries.entry(query.to_owned()).or_default(),
        };
        documents.insert(document.to_owned(), score).is_none()
    }

    /// Whether anything was retrieved for the query.
    pub fn contains_query(&self, query: &str) -> bool {
        self.queries.contains_key(query)
    }

    /// How many queries have a list.
    pub fn n_queries(&self) -> usize {
        self.queries.len()
    }

    /// The ids of the queries, in order.
    pub fn queries(&self) -> impl Iterator<Item = &str> {
        self.queries.keys().map(String::as_str)
    }

    /// A query's documents and scores in `trec_eval`'s order: higher scores first, equal ones by document id as bytes,
    /// descending. Empty when nothing was retrieved.
    pub fn ranking(&self, query: &str) -> Vec<(&str, f32)> {
        let Some(documents) = self.queries.get(query) else { return Vec::new() };
        let mut ranking: Vec<(&str, f32)> = documents.iter().map(|(id, &score)| (id.as_str(), score)).collect();
        ranking.sort_unstable_by(|(a, x), (b, y)| y.total_cmp(x).then_with(|| b.cmp(a)));
        ranking
    }
}
