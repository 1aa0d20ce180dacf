//! From TOML to stages whose parameters are known to be sound; names and ports come after.

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    DenseMode, GenerateSpec, RecipeError, RecipeProblem, RerankSpec, Reranking, Rescorer, SparseMode, SparseQueries,
    StageSpec,
};
use crate::Fusion;

/// The name that stands for the questions.
pub(super) const QUERY: &str = "query";

/// A recipe whose inputs are still names.
pub(super) struct Draft<'t> {
    pub(super) source: Source<'t>,
    pub(super) stages: Vec<DraftStage>,
}

/// A stage whose inputs are still names, each with its place in the text.
pub(super) struct DraftStage {
    pub(super) name: String,
    pub(super) name_span: Range<usize>,
    pub(super) spec: StageSpec,
    pub(super) inputs: Vec<Name>,
    pub(super) inputs_span: Range<usize>,
}

/// A name and its place in the text.
pub(super) type Name = (String, Range<usize>);

/// The text and its name, for messages.
pub(super) struct Source<'t> {
    path: PathBuf,
    text: &'t str,
}

impl Source<'_> {
    pub(super) fn error(&self, span: Range<usize>, problem: RecipeProblem) -> RecipeError {
        RecipeError::new(&self.path, self.text, span, problem)
    }

    /// `word` is none of `choices`.
    pub(super) fn unknown(
        &self,
        span: Range<usize>,
        what: impl Into<String>,
        word: &str,
        choices: &[&str],
    ) -> RecipeError {
        self.error(
            span,
            RecipeProblem::UnknownWord {
                what: what.into(),
                word: word.to_owned(),
                nearest: nearest(word, choices).map(str::to_owned),
                choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
            },
        )
    }
}

/// The choice that `word` is likeliest a misspelling of.
fn nearest<'c>(word: &str, choices: &[&'c str]) -> Option<&'c str> {
    let likeness = |choice: &str| strsim::jaro_winkler(&word.to_lowercase(), choice);
    let best = choices.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    // Between "denes" → "dense" (0.95) and unrelated words (about 0.5).
    (likeness(best) >= 0.75).then_some(best)
}

pub(super) fn parse<'t>(path: &Path, text: &'t str) -> Result<Draft<'t>, RecipeError> {
    let source = Source { path: path.to_owned(), text };
    let syntax = |error: toml::de::Error| {
        source.error(error.span().unwrap_or(0..0), RecipeProblem::Syntax(error.message().to_owned()))
    };
    let root = DeTable::parse(text).map_err(syntax)?;
    for key in root.get_ref().keys() {
        if key.get_ref() != "stage" {
            return Err(source.unknown(key.span(), "table", key.get_ref(), &["stage"]));
        }
    }
    let missing = || RecipeProblem::Missing { stage: "the recipe".to_owned(), key: "[stage.NAME]".to_owned() };
    let Some(stages) = root.get_ref().get("stage") else { return Err(source.error(0..0, missing())) };
    let DeValue::Table(tables) = stages.get_ref() else {
        return Err(wrong_type(&source, "stage", "a table", stages));
    };
    if tables.is_empty() {
        return Err(source.error(stages.span(), missing()));
    }
    let stages = tables.iter().map(|(name, table)| parse_stage(&source, name, table)).collect::<Result<Vec<_>, _>>()?;
    Ok(Draft { source, stages })
}

fn parse_stage(
    source: &Source<'_>,
    name: &Spanned<toml::de::DeString<'_>>,
    table: &Spanned<DeValue<'_>>,
) -> Result<DraftStage, RecipeError> {
    let DeValue::Table(entries) = table.get_ref() else {
        return Err(wrong_type(source, &format!("stage.{}", name.get_ref()), "a table", table));
    };
    if name.get_ref() == QUERY {
        let problem = "is what the questions are called; choose another name".to_owned();
        return Err(source.error(name.span(), RecipeProblem::OutOfRange { key: QUERY.to_owned(), problem }));
    }
    let mut table = Table { source, name, entries, known: vec!["use", "input"] };
    let Some(kind) = table.word("use", &StageSpec::KINDS, "stage kind")? else {
        return Err(table.missing("use"));
    };
    let spec = table.spec(kind)?;
    let (inputs, inputs_span) = table.inputs(&spec)?;
    table.refuse_unknown(kind)?;
    Ok(DraftStage { name: name.get_ref().to_string(), name_span: name.span(), spec, inputs, inputs_span })
}

/// A stage's table, and which of its keys mean something.
struct Table<'a, 't> {
    source: &'a Source<'t>,
    name: &'a Spanned<toml::de::DeString<'t>>,
    entries: &'a DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a, '_> {
    fn spec(&mut self, kind: &str) -> Result<StageSpec, RecipeError> {
        const MOST: usize = u32::MAX as usize; // There are no more chunks.
        Ok(match kind {
            "bm25" => StageSpec::Bm25 {
                k: self.integer("k", 1..=MOST, 100)?,
                k1: self.float("k1", 0.0..=1e6, 1.2)?,
                b: self.float("b", 0.0..=1.0, 0.75)?,
            },
            "dense" => {
                let k = self.integer("k", 1..=MOST, 100)?;
                let mode = self.word("mode", &DenseMode::NAMES, "mode")?;
                StageSpec::Dense { k, mode: mode.map_or(DenseMode::Auto, known) }
            }
            "sparse" => {
                let k = self.integer("k", 1..=MOST, 100)?;
                let queries = self.word("queries", &SparseQueries::NAMES, "kind of queries")?;
                let mode = self.word("mode", &SparseMode::NAMES, "mode")?;
                StageSpec::Sparse {
                    k,
                    queries: queries.map_or(SparseQueries::Encoded, known),
                    mode: mode.map_or(SparseMode::Exact, known),
                }
            }
            "late" => StageSpec::Late { k: self.integer("k", 1..=MOST, 100)? },
            "rescore" => match self.word("by", &Rescorer::NAMES, "rescorer")? {
                Some(by) => StageSpec::Rescore { by: known(by), k: self.integer("k", 1..=MOST, 100)? },
                None => return Err(self.missing("by")),
            },
            "rerank" => {
                let Some(by) = self.word("by", &Reranking::NAMES, "way to rerank")? else {
                    return Err(self.missing("by"));
                };
                let by = known(by);
                let model = self.string("model")?.unwrap_or_default().to_owned();
                if by == Reranking::CrossEncoder && model.is_empty() {
                    return Err(self.missing("model"));
                }
                let window = self.integer("window", 2..=26, 20)?;
                StageSpec::Rerank(RerankSpec {
                    by,
                    model,
                    depth: self.integer("depth", 1..=MOST, 20)?,
                    k: self.integer("k", 1..=MOST, 100)?,
                    passage_tokens: self.integer("passage_tokens", 1..=MOST, 160)?,
                    window,
                    step: self.integer("step", 1..=window, window.min(10))?,
                    children: self.integer("children", 1..=25, 4)?,
                    top: self.integer("top", 1..=MOST, 10)?,
                    first_layer: self.integer("first_layer", 0..=MOST, 0)?,
                    n_layers: self.integer("n_layers", 0..=MOST, 0)?,
                    budget_tokens: self.integer("budget_tokens", 0..=MOST, 0)?,
                    budget_ms: self.integer("budget_ms", 0..=MOST, 0)?,
                })
            }
            "mmr" => StageSpec::MarginalRelevance {
                lambda: self.float("lambda", 0.0..=1.0, 0.7)?,
                k: self.integer("k", 1..=MOST, 10)?,
            },
            "expand" => StageSpec::Expand {
                neighbours: self.integer("neighbours", 0..=MOST, 1)?,
                merge: self.float("merge", 0.0..=2.0, 2.0)?,
            },
            "fuse" => {
                let method = self.word("method", &Fusion::NAMES, "fusion method")?;
                let fusion = match method.map_or(Fusion::MIN_MAX, known) {
                    Fusion::MinMax { .. } => {
                        Fusion::MinMax { minima: self.floats("minima", f32::MIN..=f32::MAX)?.unwrap_or_default() }
                    }
                    Fusion::ReciprocalRank { k0 } => Fusion::ReciprocalRank { k0: self.float("k0", 0.0..=1e6, k0)? },
                    fusion => fusion,
                };
                let weights = self.floats("weights", 0.0..=f32::MAX)?.unwrap_or_default();
                let depth = self.integer("depth", 1..=MOST, 100)?;
                StageSpec::Fuse { fusion, weights, depth, k: self.integer("k", 1..=MOST, 10)? }
            }
            "select" => StageSpec::Select { k: self.integer("k", 1..=MOST, 10)? },
            "gate" => match self.floats("min_scores", f32::MIN..=f32::MAX)? {
                Some(min_scores) => StageSpec::Gate { min_scores },
                None => return Err(self.missing("min_scores")),
            },
            "read" => StageSpec::Read,
            "generate" => {
                let usual = GenerateSpec::default();
                let spec = GenerateSpec {
                    max_tokens: self.integer("max_tokens", 1..=MOST, usual.max_tokens)?,
                    temperature: self.float("temperature", 0.0..=100.0, usual.temperature)?,
                    top_k: self.integer("top_k", 0..=MOST, usual.top_k)?,
                    top_p: self.float("top_p", f32::MIN_POSITIVE..=1.0, usual.top_p)?,
                    min_p: self.float("min_p", 0.0..=1.0, usual.min_p)?,
                    repetition_penalty: self.float("repetition_penalty", 0.01..=100.0, usual.repetition_penalty)?,
                    seed: self.integer("seed", 0..=i64::MAX as usize, 0)? as u64,
                    context_tokens: self.integer("context_tokens", 0..=MOST, usual.context_tokens)?,
                    system: self.string("system")?.unwrap_or_default().to_owned(),
                };
                if let Some(context_tokens) = self.entries.get("context_tokens")
                    && (1..=spec.max_tokens).contains(&spec.context_tokens)
                {
                    let problem = format!("must be more than `max_tokens`, {}, or 0", spec.max_tokens);
                    let key = "context_tokens".to_owned();
                    return Err(self.source.error(context_tokens.span(), RecipeProblem::OutOfRange { key, problem }));
                }
                StageSpec::Generate(spec)
            }
            _ => unreachable!("`use` is one of the kinds"),
        })
    }

    fn inputs(&mut self, spec: &StageSpec) -> Result<(Vec<Name>, Range<usize>), RecipeError> {
        let Some(value) = self.entries.get("input") else {
            if spec.input() == super::Port::Query {
                return Ok((vec![(QUERY.to_owned(), self.name.span())], self.name.span()));
            }
            return Err(self.missing("input"));
        };
        let one = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::String(name) => Ok((name.to_string(), value.span())),
            _ => Err(wrong_type(self.source, "input", "a stage's name or a list of them", value)),
        };
        let inputs = match value.get_ref() {
            DeValue::Array(names) => names.iter().map(one).collect::<Result<Vec<_>, _>>()?,
            _ => vec![one(value)?],
        };
        Ok((inputs, value.span()))
    }

    /// The value of `key`, which from here on is a known one.
    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.entries.get(key)
    }

    fn string(&mut self, key: &'static str) -> Result<Option<&'a str>, RecipeError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match value.get_ref() {
                DeValue::String(text) => Ok(Some(text)),
                _ => Err(wrong_type(self.source, key, "a string", value)),
            },
        }
    }

    /// A string that is one of `choices`.
    fn word(
        &mut self,
        key: &'static str,
        choices: &[&'static str],
        what: &str,
    ) -> Result<Option<&'static str>, RecipeError> {
        let Some(word) = self.string(key)? else { return Ok(None) };
        match choices.iter().find(|&&choice| choice == word) {
            Some(choice) => Ok(Some(choice)),
            None => Err(self.source.unknown(self.entries[key].span(), what, word, choices)),
        }
    }

    fn integer(&mut self, key: &'static str, range: RangeInclusive<usize>, usual: usize) -> Result<usize, RecipeError> {
        let Some(value) = self.value(key) else { return Ok(usual) };
        let DeValue::Integer(integer) = value.get_ref() else {
            return Err(wrong_type(self.source, key, "a whole number", value));
        };
        match i128::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if range.contains(&n) => Ok(n),
            _ => Err(self.out_of_range(key, value, &range)),
        }
    }

    fn float(&mut self, key: &'static str, range: RangeInclusive<f32>, usual: f32) -> Result<f32, RecipeError> {
        self.value(key).map_or(Ok(usual), |value| self.number(key, &range, value))
    }

    fn floats(&mut self, key: &'static str, range: RangeInclusive<f32>) -> Result<Option<Vec<f32>>, RecipeError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let DeValue::Array(numbers) = value.get_ref() else {
            return Err(wrong_type(self.source, key, "a list of numbers", value));
        };
        numbers.iter().map(|number| self.number(key, &range, number)).collect::<Result<_, _>>().map(Some)
    }

    fn number(&self, key: &str, range: &RangeInclusive<f32>, value: &Spanned<DeValue<'_>>) -> Result<f32, RecipeError> {
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f32>().ok(),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|n| n as f32),
            _ => return Err(wrong_type(self.source, key, "a number", value)),
        };
        match number {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(self.out_of_range(key, value, range)),
        }
    }

    fn out_of_range<T: Bound>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        range: &RangeInclusive<T>,
    ) -> RecipeError {
        let problem = match (range.start().to_text(), range.end().to_text()) {
            (Some(least), Some(most)) => format!("must be from {least} to {most}"),
            (Some(least), None) => format!("must be a finite number of at least {least}"),
            (None, _) => "must be a finite number".to_owned(),
        };
        self.source.error(value.span(), RecipeProblem::OutOfRange { key: key.to_owned(), problem })
    }

    fn missing(&self, key: &str) -> RecipeError {
        let problem = RecipeProblem::Missing { stage: format!("`{}`", self.name.get_ref()), key: key.to_owned() };
        self.source.error(self.name.span(), problem)
    }

    fn refuse_unknown(&self, kind: &str) -> Result<(), RecipeError> {
        match self.entries.keys().find(|key| !self.known.contains(&&**key.get_ref())) {
            None => Ok(()),
            Some(key) => {
                Err(self.source.unknown(key.span(), format!("parameter of `{kind}`"), key.get_ref(), &self.known))
            }
        }
    }
}

/// An end of a range.
trait Bound {
    /// The end as a user wants to read it; `None` when it only says that numbers are finite.
    fn to_text(&self) -> Option<String>;
}

impl Bound for usize {
    fn to_text(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Bound for f32 {
    fn to_text(&self) -> Option<String> {
        let text = if *self == Self::MIN_POSITIVE { "just above 0".to_owned() } else { self.to_string() };
        (self.abs() < Self::MAX).then_some(text)
    }
}

/// What one of the names in a list of names stands for.
fn known<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str) -> T {
    name.parse().expect("the listed names can be parsed")
}

fn wrong_type(source: &Source<'_>, key: &str, expected: &'static str, value: &Spanned<DeValue<'_>>) -> RecipeError {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    source.error(value.span(), RecipeProblem::WrongType { key: key.to_owned(), expected, found })
}
