use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::path::Path;

use arrow_schema::DataType::{Float32, Int64, Utf8};
use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};
use rustc_hash::{FxBuildHasher, FxHashSet};

use crate::blocks::{self, Parsed};
use crate::columns::Cell;
use crate::{Error, Result, columns, lines};

/// What a system retrieved: for each query, documents and their scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    queries: BTreeMap<String, DocumentRanking>,
}

/// The documents retrieved for one query in `trec_eval`'s order: higher scores first, equal ones by document id as
/// bytes, descending.
///
/// Invariant: the entries are in that order, no id occurs twice, no score is NaN or negative zero; the id of entry `i`
/// goes from the end of the one before to its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DocumentRanking {
    /// The ids one after the other.
    ids: String,
    entries: Vec<Entry>,
}

/// A document of a ranking. Runs have many millions: this and the id are all that one costs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    /// Where the id ends in the ranking's ids.
    end: u32,
    score: f32,
}

impl Run {
    /// Reads a run by its name's end: `.parquet` as [`Run::read_parquet`], all others as [`Run::read_trec`].
    ///
    /// # Errors
    ///
    /// As those.
    pub fn read(path: &Path) -> Result<Self> {
        if columns::is_parquet(path) { Self::read_parquet(path) } else { Self::read_trec(path) }
    }

    /// Reads a TREC run: lines of `query Q0 document rank score tag`, separated by white space.
    ///
    /// As in `trec_eval`, the order is that of the scores, as 32-bit floats; ranks and the order of the lines mean
    /// nothing. All threads parse; a file that lies in order is not sorted again.
    ///
    /// # Errors
    ///
    /// When the file is missing or unreadable, a line has other fields, a score is no number, or a query retrieved a
    /// document twice.
    pub fn read_trec(path: &Path) -> Result<Self> {
        let (opened, parts) = blocks::parse(path, parse_lines)?;
        Self::of_parts(parts.into_iter().flatten()).or_else(|unfit| {
            let Unfit::Twice { query, document } = unfit else {
                return Err(Error::Io { path: opened, source: std::io::Error::other(unfit.to_string()) });
            };
            // Reading again for the line costs time only where something is wrong.
            let mut seen = false;
            lines::each(&opened, |_, line| {
                let mut fields = line.split_ascii_whitespace();
                if fields.next() == Some(&query) && fields.nth(1) == Some(&document) {
                    if seen {
                        return Err(format!("query `{query}` has document `{document}` twice; keep one of the lines"));
                    }
                    seen = true;
                }
                Ok(())
            })?;
            let source = std::io::Error::other("the file changed while it was read");
            Err(Error::Io { path: opened, source })
        })
    }

    /// Writes a TREC run under a tag, best documents first; it reads back equal.
    ///
    /// # Errors
    ///
    /// When an id or the tag is empty or holds white space, or the file cannot be written.
    pub fn write_trec(&self, path: &Path, tag: &str) -> Result<()> {
        lines::check_ids(path, [tag])?;
        for (query, ranking) in self.iter() {
            lines::check_ids(path, std::iter::once(query).chain(ranking.iter().map(|(document, _)| document)))?;
        }
        lines::write(path, |out| {
            for (query, ranking) in self.iter() {
                for (i, (document, score)) in ranking.iter().enumerate() {
                    writeln!(out, "{query} Q0 {document} {} {score} {tag}", i + 1)?;
                }
            }
            Ok(())
        })
    }

    /// Reads a table with the columns `query-id`, `corpus-id` and `score`.
    ///
    /// # Errors
    ///
    /// When the file is unreadable or has other columns, a score is NaN, or a query retrieved a document twice.
    pub fn read_parquet(path: &Path) -> Result<Self> {
        let mut parts: BTreeMap<String, DocumentRanking> = BTreeMap::new();
        columns::each(path, |batch| {
            let (queries, documents) = (batch.strings("query-id")?, batch.strings("corpus-id")?);
            let scores = batch.numbers("score")?;
            for row in 0..batch.n_rows() {
                let score = scores.at(row)? as f32;
                if score.is_nan() {
                    return Err(batch.problem(row, "the score is not a number"));
                }
                let (query, document) = (queries.at(row)?, documents.at(row)?);
                let pushed = match parts.get_mut(&*query) {
                    Some(ranking) => ranking.push(&document, score),
                    None => parts.entry(query.into_owned()).or_default().push(&document, score),
                };
                pushed.map_err(|too_long| batch.problem(row, &String::from(too_long)))?;
            }
            Ok(())
        })?;
        Self::of_parts(parts).map_err(|unfit| Error::Table { path: path.to_owned(), problem: unfit.to_string() })
    }

    /// Writes a table with the columns `query-id`, `corpus-id`, `rank` (from 1) and `score`; it reads back equal.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_parquet(&self, path: &Path) -> Result<()> {
        let rows = self.iter().flat_map(|(query, ranking)| {
            ranking.iter().enumerate().map(move |(i, (document, score))| {
                [Cell::Text(query), Cell::Text(document), Cell::Integer(i as i64 + 1), Cell::Float(score)]
            })
        });
        columns::write(path, ["query-id", "corpus-id", "rank", "score"], [Utf8, Utf8, Int64, Float32], rows)
    }

    /// Puts the parts of rankings together, in order; says which query has a document twice, the first by its id.
    fn of_parts(parts: impl IntoIterator<Item = (String, DocumentRanking)>) -> Result<Self, Unfit> {
        let mut queries: BTreeMap<String, DocumentRanking> = BTreeMap::new();
        for (query, part) in parts {
            match queries.get_mut(&query) {
                Some(ranking) => {
                    if let Err(TooLong) = ranking.append(&part) {
                        return Err(Unfit::TooLong { query });
                    }
                }
                None => drop(queries.insert(query, part)),
            }
        }
        let mut rankings: Vec<(&String, &mut DocumentRanking)> = queries.iter_mut().collect();
        let twice = rankings.par_iter_mut().find_map_first(|(query, ranking)| {
            ranking.order();
            ranking.twice().map(|document| Unfit::Twice { query: (*query).clone(), document: document.to_owned() })
        });
        twice.map_or(Ok(Self { queries }), Err)
    }

    /// Sets a query's list, in any order, replacing an earlier one.
    ///
    /// # Panics
    ///
    /// When a score is NaN, a document occurs twice, or the ids take more than 4 GiB.
    pub fn set<D: AsRef<str>>(&mut self, query: &str, hits: impl IntoIterator<Item = (D, f32)>) {
        let mut ranking = DocumentRanking::default();
        for (document, score) in hits {
            assert!(!score.is_nan(), "the score of document `{}` for query `{query}` is NaN", document.as_ref());
            ranking.push(document.as_ref(), score).expect("the ids take at most 4 GiB");
        }
        ranking.order();
        let twice = ranking.twice();
        assert!(twice.is_none(), "query `{query}` has document `{}` twice", twice.unwrap_or_default());
        self.queries.insert(query.to_owned(), ranking);
    }

    /// Adds a document to a query's list, or replaces its score. A whole list at once goes faster with [`Run::set`].
    ///
    /// # Panics
    ///
    /// When the score is NaN.
    pub fn insert(&mut self, query: &str, document: &str, score: f32) {
        let mut hits: Vec<(String, f32)> =
            self.ranking(query).iter().map(|(id, score)| (id.to_owned(), score)).collect();
        hits.retain(|(id, _)| id != document);
        hits.push((document.to_owned(), score));
        self.set(query, hits);
    }

    /// Takes out the documents whose id is that of their query, as BEIR does before it computes anything: the queries
    /// of ArguAna and Quora are documents too.
    pub fn remove_own_ids(&mut self) {
        for (query, ranking) in &mut self.queries {
            if let Some(own) = (0..ranking.len()).find(|&i| ranking.document(i) == query) {
                let kept = (0..ranking.len()).filter(|&i| i != own);
                *ranking = ranking.picked(kept);
            }
        }
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

    /// The queries and their rankings, in the order of the query ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &DocumentRanking)> {
        self.queries.iter().map(|(query, ranking)| (query.as_str(), ranking))
    }

    /// A query's ranking; empty when nothing was retrieved.
    pub fn ranking(&self, query: &str) -> &DocumentRanking {
        const NOTHING: &DocumentRanking = &DocumentRanking { ids: String::new(), entries: Vec::new() };
        self.queries.get(query).unwrap_or(NOTHING)
    }
}

impl DocumentRanking {
    /// How many documents were retrieved.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was retrieved.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The id of the document at an index, best first, from 0.
    ///
    /// # Panics
    ///
    /// When there are not as many.
    #[inline]
    pub fn document(&self, i: usize) -> &str {
        &self.ids[self.start(i)..self.entries[i].end as usize]
    }

    /// The documents and their scores, best first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, f32)> + Clone {
        let mut start = 0;
        self.entries.iter().map(move |&Entry { end, score }| {
            let document = &self.ids[start..end as usize];
            start = end as usize;
            (document, score)
        })
    }

    /// Where the id of an entry begins.
    #[inline]
    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.entries[i - 1].end as usize }
    }

    /// Adds an entry at the end, whatever the order.
    fn push(&mut self, document: &str, score: f32) -> Result<(), TooLong> {
        let end = u32::try_from(self.ids.len() + document.len()).map_err(|_| TooLong)?;
        self.ids.push_str(document);
        self.entries.push(Entry { end, score: score + 0.0 }); // Makes negative zero positive.
        Ok(())
    }

    fn append(&mut self, other: &Self) -> Result<(), TooLong> {
        let before = self.ids.len() as u32;
        u32::try_from(self.ids.len() + other.ids.len()).map_err(|_| TooLong)?;
        self.ids.push_str(&other.ids);
        self.entries.extend(other.entries.iter().map(|entry| Entry { end: before + entry.end, ..*entry }));
        Ok(())
    }

    /// No entries, and room for as many as these.
    fn emptied(&self) -> Self {
        Self { ids: String::with_capacity(self.ids.len()), entries: Vec::with_capacity(self.len()) }
    }

    /// The entries at these indices, which are all different.
    fn picked(&self, indices: impl Iterator<Item = usize>) -> Self {
        let mut picked = self.emptied();
        for i in indices {
            picked.push(self.document(i), self.entries[i].score).expect("a part is no longer than the whole");
        }
        picked
    }

    /// Brings the entries into the order of the invariant. Most runs have their scores in order, and only some equal
    /// ones not; those are turned in their places.
    fn order(&mut self) {
        let by_score = |i: usize, j: usize| self.entries[j].score.total_cmp(&self.entries[i].score);
        if !(1..self.len()).all(|i| by_score(i - 1, i).is_le()) {
            let mut indices: Vec<usize> = (0..self.len()).collect();
            indices.sort_unstable_by(|&i, &j| by_score(i, j));
            *self = self.picked(indices.into_iter());
        }
        let mut first = 0;
        for i in 1..=self.len() {
            if self.entries.get(i).is_some_and(|entry| entry.score == self.entries[first].score) {
                continue;
            }
            if (first + 1..i).any(|i| self.document(i - 1) < self.document(i)) {
                let mut documents: Vec<&str> = (first..i).map(|i| self.document(i)).collect();
                documents.sort_unstable_by(|a, b| b.cmp(a));
                let lengths: Vec<usize> = documents.iter().map(|document| document.len()).collect();
                let turned = documents.concat();
                let start = self.start(first);
                self.ids.replace_range(start..start + turned.len(), &turned);
                let mut end = start;
                for (entry, length) in self.entries[first..i].iter_mut().zip(lengths) {
                    end += length;
                    entry.end = end as u32;
                }
            }
            first = i;
        }
    }

    /// A document that occurs twice.
    ///
    /// Each id sets two bits of a table by its hash; nearly always no id finds both set, and none is compared with
    /// another.
    fn twice(&self) -> Option<&str> {
        let n_words = (2 * self.len()).next_power_of_two();
        let mut bits = vec![0u64; n_words];
        let mut set = |hash: u64| {
            let word = &mut bits[hash as usize >> 6 & (n_words - 1)];
            let was_set = *word >> (hash & 63) & 1 == 1;
            *word |= 1 << (hash & 63);
            was_set
        };
        let may_be = self.iter().any(|(document, _)| {
            let hash = FxBuildHasher.hash_one(document);
            set(hash) & set(hash >> 32)
        });
        let mut seen = FxHashSet::default();
        may_be.then(|| self.iter().map(|(document, _)| document).find(|document| !seen.insert(*document))).flatten()
    }
}

/// What no run can hold.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("query `{query}` has document `{document}` twice; keep one of the rows")]
    Twice { query: String, document: String },
    #[error("the ids of the documents of query `{query}` take more than 4 GiB together")]
    TooLong { query: String },
}

/// The ids of one query's documents would take more than 4 GiB.
#[derive(Debug)]
struct TooLong;

impl From<TooLong> for String {
    fn from(TooLong: TooLong) -> Self {
        "the ids of the query's documents take more than 4 GiB together".to_owned()
    }
}

/// Parses whole lines; what belongs to one query comes together, in the order of first appearance.
fn parse_lines(text: &str) -> Parsed<Vec<(String, DocumentRanking)>> {
    let mut parts: Vec<(String, DocumentRanking)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut current = usize::MAX;
    let (outcome, n_lines) = lines::each_with_fields(text, |fields| {
        let [query, _q0, document, _rank, score, _tag] = *fields else {
            let n = fields.len();
            return Err(format!("expected 6 fields, found {n}; a line is `query Q0 document rank score tag`"));
        };
        let number = number(score).ok_or_else(|| format!("score `{score}` is not a number"))?;
        if parts.get(current).is_none_or(|(last, _)| last != query) {
            current = *known.entry(query.to_owned()).or_insert_with(|| {
                // Lists are mostly as long as the one before.
                let like = parts.last().map_or_else(DocumentRanking::default, |(_, last)| last.emptied());
                parts.push((query.to_owned(), like));
                parts.len() - 1
            });
        }
        Ok(parts[current].1.push(document, number as f32)?)
    });
    Parsed { outcome: outcome.map(|()| parts), n_lines }
}

/// A score: by way of 64 bits, as `trec_eval` rounds; straight to 32 may differ in the last bit.
fn number(text: &str) -> Option<f64> {
    short_decimal(text).or_else(|| text.parse::<f64>().ok().filter(|number| !number.is_nan()))
}

/// A number of up to 15 digits without exponent. Both the digits and the power of ten are exact in 64 bits, so one
/// division rounds correctly (Clinger 1990).
fn short_decimal(text: &str) -> Option<f64> {
    const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (sign, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (-1.0, digits),
        digits => (1.0, digits),
    };
    let mut mantissa = 0u64;
    let mut point = None;
    for (i, byte) in digits.iter().take(17).enumerate() {
        match byte.wrapping_sub(b'0') {
            digit @ 0..10 => mantissa = mantissa * 10 + u64::from(digit),
            _ if *byte == b'.' && point.is_none() => point = Some(i),
            _ => return None,
        }
    }
    let (n_digits, n_decimals) = match point {
        Some(point) => (digits.len() - 1, digits.len() - 1 - point),
        None => (digits.len(), 0),
    };
    (1..=15).contains(&n_digits).then(|| sign * (mantissa as f64 / POWERS[n_decimals]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_decimals_are_what_the_standard_parser_makes_of_them() {
        for text in [
            "0",
            "-0",
            "1",
            "0.1",
            "-2.5",
            "23.456",
            ".5",
            "5.",
            "123456789012345",
            "0.00000000000012",
            "-.0",
            "007.70",
        ] {
            assert_eq!(short_decimal(text).map(f64::to_bits), text.parse::<f64>().ok().map(f64::to_bits), "{text}");
        }
        for text in ["", "-", ".", "-.", "1.2.3", "1e5", "inf", "+1", "0x1", "1234567890123456", "12345678901234567.5"]
        {
            assert_eq!(short_decimal(text), None, "{text}");
        }
    }
}
