//! The texts that a recipe is read from, as trees whose every part knows its place.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{RecipeError, RecipeProblem};

/// The texts of a recipe: its file, the files that it includes, and what the command line sets.
#[derive(Default)]
pub(super) struct Sources {
    texts: Vec<(PathBuf, String)>,
}

/// Bytes of one of the texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) text: usize,
    pub(super) span: Range<usize>,
}

/// A name and where it stands.
pub(super) type Name = (String, Place);

/// A value and where it stands.
pub(super) struct Node {
    pub(super) value: NodeValue,
    pub(super) place: Place,
}

/// A TOML value.
pub(super) enum NodeValue {
    String(String),
    /// `None` beyond 128 bits.
    Integer(Option<i128>),
    Float(f32),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table with its value.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

impl NodeValue {
    /// The type's name with its article.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a fraction",
            Self::Boolean(_) => "a boolean",
            Self::Datetime => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Sources {
    /// Adds a text, and gives its number.
    pub(super) fn add(&mut self, path: PathBuf, text: String) -> usize {
        self.texts.push((path, text));
        self.texts.len() - 1
    }

    /// The path of a text, or a name for it.
    pub(super) fn path(&self, text: usize) -> &Path {
        &self.texts[text].0
    }

    /// A text as a table.
    pub(super) fn parse(&self, text: usize) -> Result<Node, RecipeError> {
        let table = DeTable::parse(&self.texts[text].1).map_err(|error| self.syntax(text, &error))?;
        Ok(Node { place: Place { text, span: table.span() }, value: entries(text, table.into_inner()) })
    }

    fn syntax(&self, text: usize, error: &toml::de::Error) -> RecipeError {
        let place = Place { text, span: error.span().unwrap_or(0..0) };
        self.error(&place, RecipeProblem::Syntax { message: error.message().to_owned() })
    }

    pub(super) fn error(&self, place: &Place, problem: RecipeProblem) -> RecipeError {
        let (path, text) = &self.texts[place.text];
        RecipeError::new(path, text, place.span.clone(), problem)
    }

    /// `word` is none of `choices`.
    pub(super) fn unknown(
        &self,
        place: &Place,
        what: impl Into<String>,
        word: &str,
        choices: &[impl AsRef<str>],
    ) -> RecipeError {
        let problem = RecipeProblem::UnknownWord {
            what: what.into(),
            word: word.to_owned(),
            nearest: nearest(word, choices).map(str::to_owned),
            choices: choices.iter().map(|choice| choice.as_ref().to_owned()).collect(),
        };
        self.error(place, problem)
    }

    /// The value of `key` is not `expected`, a type's name with its article.
    pub(super) fn wrong_type(&self, key: &str, expected: &'static str, node: &Node) -> RecipeError {
        let problem = RecipeProblem::WrongType { key: key.to_owned(), expected, found: node.value.type_name() };
        self.error(&node.place, problem)
    }

    /// The value of `key` has a problem.
    pub(super) fn out_of_range(&self, key: &str, place: &Place, problem: String) -> RecipeError {
        self.error(place, RecipeProblem::OutOfRange { key: key.to_owned(), problem })
    }
}

/// The choice that `word` is likeliest a misspelling of.
fn nearest<'c>(word: &str, choices: &'c [impl AsRef<str>]) -> Option<&'c str> {
    let likeness = |choice: &str| strsim::jaro_winkler(&word.to_lowercase(), choice);
    let best = choices.iter().map(AsRef::as_ref).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    // Between "denes" → "dense" (0.95) and unrelated words (about 0.5).
    (likeness(best) >= 0.75).then_some(best)
}

fn node(text: usize, value: Spanned<DeValue<'_>>) -> Node {
    let place = Place { text, span: value.span() };
    let value = match value.into_inner() {
        DeValue::String(string) => NodeValue::String(string.into_owned()),
        DeValue::Integer(integer) => NodeValue::Integer(i128::from_str_radix(integer.as_str(), integer.radix()).ok()),
        DeValue::Float(float) => NodeValue::Float(float.as_str().parse().unwrap_or(f32::NAN)),
        DeValue::Boolean(boolean) => NodeValue::Boolean(boolean),
        DeValue::Datetime(_) => NodeValue::Datetime,
        DeValue::Array(array) => NodeValue::Array(array.into_iter().map(|value| node(text, value)).collect()),
        DeValue::Table(table) => entries(text, table),
    };
    Node { value, place }
}

fn entries(text: usize, table: DeTable<'_>) -> NodeValue {
    let entry = |(key, value): (Spanned<toml::de::DeString<'_>>, Spanned<DeValue<'_>>)| Entry {
        key_place: Place { text, span: key.span() },
        key: key.into_inner().into_owned(),
        value: node(text, value),
    };
    NodeValue::Table(table.into_iter().map(entry).collect())
}
