use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use arrow_schema::DataType::{Int64, Utf8};

use crate::blocks::{self, Parsed};
use crate::columns::Cell;
use crate::{Error, Result, columns, lines};

/// Relevance judgements: for each query, the grades of the documents that were judged for it.
///
/// A grade of at least 1 says relevant, more says more so; 0 and below say not relevant. Documents without a grade
/// were never judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qrels {
    queries: BTreeMap<String, BTreeMap<String, i32>>,
}

impl Qrels {
    /// Reads judgements by the name's end: `.parquet` as [`Qrels::read_parquet`], `.tsv` as [`Qrels::read_tsv`], all
    /// others as [`Qrels::read_trec`].
    ///
    /// # Errors
    ///
    /// As those.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        if columns::is_parquet(path) {
            Self::read_parquet(path)
        } else if plain.ends_with(".tsv") {
            Self::read_tsv(path)
        } else {
            Self::read_trec(path)
        }
    }

    /// Reads BEIR's judgements: tab-separated lines of query, document and grade under the heading
    /// `query-id corpus-id score`.
    ///
    /// # Errors
    ///
    /// When the file is missing or unreadable, a line has other fields, or a pair has two different grades.
    pub fn read_tsv(path: &Path) -> Result<Self> {
        let mut qrels = Self::default();
        lines::each(path, |number, line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [query, document, grade] = fields[..] else {
                let n = fields.len();
                return Err(format!(
                    "expected 3 fields, found {n}; a line is `query-id`, `corpus-id` and `score` between tabs, \
                     or name a file of TREC judgements `.qrels`"
                ));
            };
            if number == 1 && query == "query-id" {
                return Ok(());
            }
            qrels.judge(query, document, grade.trim())
        })?;
        Ok(qrels)
    }

    /// Reads a table with the columns `query-id`, `corpus-id` and `score`.
    ///
    /// # Errors
    ///
    /// When the file is unreadable or has other columns, a grade is not an integer, or a pair has two different grades.
    pub fn read_parquet(path: &Path) -> Result<Self> {
        let mut qrels = Self::default();
        columns::each(path, |batch| {
            let (queries, documents) = (batch.strings("query-id")?, batch.strings("corpus-id")?);
            let grades = batch.numbers("score")?;
            for row in 0..batch.n_rows() {
                let (query, document, grade) = (queries.at(row)?, documents.at(row)?, grades.at(row)?);
                // A float that is an integer is printed as one.
                let judged = qrels.judge(&query, &document, &grade.to_string());
                judged.map_err(|problem| batch.problem(row, &problem))?;
            }
            Ok(())
        })?;
        Ok(qrels)
    }

    /// Writes a table with the columns `query-id`, `corpus-id` and `score`; it reads back equal.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_parquet(&self, path: &Path) -> Result<()> {
        let rows = self.iter().flat_map(|(query, grades)| {
            grades.iter().map(move |(id, &grade)| [Cell::Text(query), Cell::Text(id), Cell::Integer(grade.into())])
        });
        columns::write(path, ["query-id", "corpus-id", "score"], [Utf8, Utf8, Int64], rows)
    }

    /// Reads TREC judgements: lines of `query iteration document grade`, separated by white space.
    ///
    /// # Errors
    ///
    /// When the file is missing or unreadable, a line has other fields, or a pair has two different grades.
    pub fn read_trec(path: &Path) -> Result<Self> {
        let (opened, parts) = blocks::parse(path, parse_lines)?;
        let mut qrels = Self::default();
        for (query, grades) in parts.into_iter().flatten() {
            let Some(earlier) = qrels.queries.get_mut(&query) else {
                qrels.queries.insert(query, grades);
                continue;
            };
            if grades.iter().any(|(document, grade)| earlier.get(document).is_some_and(|earlier| earlier != grade)) {
                // Reading again for the line costs time only where something is wrong.
                let mut judged = Self::default();
                lines::each(&opened, |_, line| {
                    let mut fields = line.split_ascii_whitespace();
                    match (fields.next(), fields.nth(1), fields.next()) {
                        (Some(query), Some(document), Some(grade)) => judged.judge(query, document, grade),
                        _ => Ok(()),
                    }
                })?;
                let source = std::io::Error::other("the file changed while it was read");
                return Err(Error::Io { path: opened, source });
            }
            earlier.extend(grades);
        }
        Ok(qrels)
    }

    /// Writes TREC judgements, ordered by query and document.
    ///
    /// # Errors
    ///
    /// When an id holds white space, or the file cannot be written.
    pub fn write_trec(&self, path: &Path) -> Result<()> {
        for (query, grades) in self.iter() {
            lines::check_ids(path, std::iter::once(query).chain(grades.keys().map(String::as_str)))?;
        }
        lines::write(path, |out| {
            for (query, grades) in self.iter() {
                for (document, grade) in grades {
                    writeln!(out, "{query} 0 {document} {grade}")?;
                }
            }
            Ok(())
        })
    }

    /// Sets a document's grade for a query, replacing an earlier one.
    pub fn insert(&mut self, query: &str, document: &str, grade: i32) {
        // Looked up first, as most calls name a query that is there.
        match self.queries.get_mut(query) {
            Some(grades) => grades.insert(document.to_owned(), grade),
            None => self.queries.entry(query.to_owned()).or_default().insert(document.to_owned(), grade),
        };
    }

    /// Whether any document was judged for the query.
    pub fn contains_query(&self, query: &str) -> bool {
        self.queries.contains_key(query)
    }

    /// How many queries have judgements.
    pub fn n_queries(&self) -> usize {
        self.queries.len()
    }

    /// The grades of the documents judged for a query, if there are any.
    pub fn grades(&self, query: &str) -> Option<&BTreeMap<String, i32>> {
        self.queries.get(query)
    }

    /// The queries and their grades, in the order of the query ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, i32>)> {
        self.queries.iter().map(|(query, grades)| (query.as_str(), grades))
    }

    /// Adds a judgement as it stands in a file; the same one twice is let pass, two different ones are not.
    pub(crate) fn judge(&mut self, query: &str, document: &str, grade: &str) -> Result<(), String> {
        // Looked up first, as most calls name a query that is there.
        match self.queries.get_mut(query) {
            Some(grades) => judge(grades, query, document, grade),
            None => judge(self.queries.entry(query.to_owned()).or_default(), query, document, grade),
        }
    }
}

/// Adds a judgement to those of its query, as [`Qrels::judge`].
fn judge(grades: &mut BTreeMap<String, i32>, query: &str, document: &str, grade: &str) -> Result<(), String> {
    let grade: i32 = grade.parse().map_err(|_| format!("grade `{grade}` is not an integer"))?;
    match grades.get(document) {
        Some(&earlier) if earlier != grade => {
            Err(format!("document `{document}` has grade {grade} for query `{query}`, and {earlier} further up"))
        }
        Some(_) => Ok(()),
        None => {
            grades.insert(document.to_owned(), grade);
            Ok(())
        }
    }
}

/// Parses whole lines; what belongs to one query comes together, in the order of first appearance.
fn parse_lines(text: &str) -> Parsed<Vec<(String, BTreeMap<String, i32>)>> {
    let mut parts: Vec<(String, BTreeMap<String, i32>)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut current = usize::MAX;
    let (outcome, n_lines) = lines::each_with_fields(text, |fields| {
        let [query, _iteration, document, grade] = *fields else {
            let n = fields.len();
            return Err(format!("expected 4 fields, found {n}; a line is `query iteration document grade`"));
        };
        if parts.get(current).is_none_or(|(last, _)| last != query) {
            current = *known.entry(query.to_owned()).or_insert(parts.len());
            if current == parts.len() {
                parts.push((query.to_owned(), BTreeMap::new()));
            }
        }
        judge(&mut parts[current].1, query, document, grade)
    });
    Parsed { outcome: outcome.map(|()| parts), n_lines }
}
