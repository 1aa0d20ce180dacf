//! What can be wrong with a recipe, and where.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Port;

/// A mistake in a recipe: file, line, column, and what to write instead.
///
/// Its display is several lines: `path:line:column: problem`, then the line with the place marked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecipeError {
    /// The recipe's file, or a name for it.
    pub path: PathBuf,
    /// Line of the mistake, from 1.
    pub line: usize,
    /// Column of the mistake in characters, from 1.
    pub column: usize,
    /// How many characters are marked.
    pub width: usize,
    /// The line itself; of a long one the part around the mistake, with `…` where something is left out.
    pub line_text: String,
    /// Column of the mistake within `line_text`, in characters from 1.
    pub text_column: usize,
    /// What is wrong.
    pub problem: Box<RecipeProblem>,
}

/// What is wrong with a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecipeProblem {
    /// The text is not TOML.
    #[error("{message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// A word stands where only certain others may.
    #[error("no {what} `{word}`{}", suggestion(nearest.as_deref(), choices))]
    UnknownWord {
        /// What was expected: a stage kind, a parameter of `fuse`, …
        what: String,
        /// The word.
        word: String,
        /// The likeliest word that was meant.
        nearest: Option<String>,
        /// All words that may stand there.
        choices: Vec<String>,
    },
    /// A stage's input is of the wrong kind.
    #[error("`{stage}` takes {} {expected}, but `{input}` gives {} {found}{}", article(*expected), article(*found), bridge(*found, *expected))]
    WrongPort {
        /// The stage that takes.
        stage: String,
        /// The stage that gives.
        input: String,
        /// What it should give.
        expected: Port,
        /// What it gives.
        found: Port,
    },
    /// What a recipe inside of a stage gives is of the wrong kind.
    #[error("`{body}` of `{stage}` gives {} {found}, not {} {expected}", article(*found), article(*expected))]
    WrongBody {
        /// The stage.
        stage: String,
        /// The recipe inside of it.
        body: String,
        /// What it should give.
        expected: Port,
        /// What it gives.
        found: Port,
    },
    /// A recipe that cannot be included.
    #[error("`{name}` cannot be included: {problem}")]
    Include {
        /// The file or name.
        name: String,
        /// Why not.
        problem: String,
    },
    /// A value is of the wrong type.
    #[error("`{key}` is {expected}, not {found}")]
    WrongType {
        /// The parameter.
        key: String,
        /// The type it must have, with its article.
        expected: &'static str,
        /// The type it has, with its article.
        found: &'static str,
    },
    /// A value is outside of its domain.
    #[error("`{key}` {problem}")]
    OutOfRange {
        /// The parameter.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something that must be said is not.
    #[error("{stage} has no `{key}`")]
    Missing {
        /// The stage, in backquotes, or the recipe.
        stage: String,
        /// The parameter.
        key: String,
    },
    /// A stage has too many inputs or too few.
    #[error("`{stage}` takes {expected}, not {found}")]
    WrongInputCount {
        /// The stage.
        stage: String,
        /// How many it takes, in words.
        expected: String,
        /// How many it was given.
        found: usize,
    },
    /// Stages wait for each other.
    #[error("stages go in a circle: {}", names.join(" → "))]
    Cycle {
        /// The stages of the circle; the last is the first again.
        names: Vec<String>,
    },
    /// More than one stage could be the recipe's result.
    #[error("`{name}` is used by no stage, and neither is `{other}`: a recipe has one result")]
    ManyOutputs {
        /// A stage that no other uses.
        name: String,
        /// Another.
        other: String,
    },
}

fn suggestion(nearest: Option<&str>, choices: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None if choices.is_empty() => String::new(),
        None => format!("; there {} {}", if choices.len() == 1 { "is" } else { "are" }, choices.join(", ")),
    }
}

fn article(port: Port) -> &'static str {
    if port == Port::Answer { "an" } else { "a" }
}

/// What stands between two ports, where there is something to say.
fn bridge(found: Port, expected: Port) -> &'static str {
    match (found, expected) {
        (Port::Ranking, Port::Context) => "; put a `read` stage between them",
        (Port::Query, Port::Ranking) => "; put a retriever such as `bm25` between them",
        (Port::Query, Port::Context) => "; put a retriever such as `bm25` and a `read` stage between them",
        _ => "",
    }
}

impl RecipeError {
    /// The problem at these bytes of the text.
    pub(super) fn new(path: &Path, text: &str, span: Range<usize>, problem: RecipeProblem) -> Self {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let end = text.floor_char_boundary(span.end.clamp(start, line_end));
        let column = text[line_start..start].chars().count() + 1;
        let (line_text, text_column) = cut_around(text[line_start..line_end].trim_end(), column);
        let room = (line_text.chars().count() + 1).saturating_sub(text_column);
        Self {
            path: path.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column,
            width: text[start..end].trim_end().chars().count().min(room).max(1),
            line_text,
            text_column,
            problem: Box::new(problem),
        }
    }
}

/// How many characters of a line are shown before and from a mistake.
const SHOWN: usize = 80; // Two halves of a wide terminal.

/// The part of a line around a column, which counts from 1, and the same column in that part.
fn cut_around(line: &str, column: usize) -> (String, usize) {
    let skipped = (column - 1).saturating_sub(SHOWN);
    let mut rest = line.chars().skip(skipped);
    let mut part: String = if skipped > 0 { "…".to_owned() } else { String::new() };
    part.extend(rest.by_ref().take(2 * SHOWN));
    if rest.next().is_some() {
        part.push('…');
    }
    (part, column - skipped + usize::from(skipped > 0))
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs stay tabs, so that the carets stand below what they mark.
        let indent: String =
            self.line_text.chars().take(self.text_column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.problem)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", self.line_text)?;
        write!(f, "{gutter} | {indent}{}", "^".repeat(self.width))
    }
}

impl std::error::Error for RecipeError {}

impl From<RecipeError> for raglan_core::Error {
    fn from(error: RecipeError) -> Self {
        Self::part("pipeline", error)
    }
}
