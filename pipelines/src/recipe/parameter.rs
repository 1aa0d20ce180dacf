//! What parameters are: how they are read, written in canonical form, and described.

use std::fmt::Write;
use std::ops::RangeInclusive;

use serde_json::{Value as Json, json};

use super::canonical::{float, list, string};
use super::source::{Entry, Node, NodeValue, Place, Sources};
use super::{RecipeError, RecipeProblem};
use crate::Fusion;

/// The most of anything that a stage counts: there are no more chunks.
pub(super) const MOST: usize = u32::MAX as usize;

/// A type of parameters.
///
/// Most take one key of a stage's table; [`Fusion`] takes those that its method has.
pub(super) trait Parameter: Sized {
    /// What values may be where the type does not say it: a range of numbers.
    type Limits;

    /// The value in a stage's table; `None` when the table does not say it.
    fn read(table: &mut Table<'_>, key: &'static str, limits: &Self::Limits) -> Result<Option<Self>, RecipeError>;

    /// Its lines of canonical TOML.
    fn write(&self, key: &str, lines: &mut Lines);

    /// What users may write, key by key; `usual` is the value when they write nothing, and `None` when they must.
    fn describe(key: &'static str, doc: &str, limits: &Self::Limits, usual: Option<&Self>) -> Vec<ParameterReference>;
}

/// A parameter as reference and schema tell of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterReference {
    /// The key.
    pub name: &'static str,
    /// What it says.
    pub doc: String,
    /// Its values, in words.
    pub values: String,
    /// The value that counts when nothing is said, as TOML; `None` when it must be said.
    pub usual: Option<String>,
    /// The JSON Schema of its values.
    pub schema: Json,
}

/// Lines of canonical TOML.
#[derive(Default)]
pub(super) struct Lines(pub(super) String);

impl Lines {
    pub(super) fn line(&mut self, key: &str, value: impl AsRef<str>) {
        writeln!(self.0, "{key} = {}", value.as_ref()).expect("strings take writes");
    }
}

/// A stage's table, and which of its keys mean something.
pub(super) struct Table<'a> {
    pub(super) sources: &'a Sources,
    pub(super) name: &'a str,
    pub(super) name_place: &'a Place,
    pub(super) entries: &'a [Entry],
    pub(super) known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The value of `key`, which from here on is a known one.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    pub(super) fn string(&mut self, key: &'static str) -> Result<Option<&'a str>, RecipeError> {
        match self.value(key) {
            None => Ok(None),
            Some(Node { value: NodeValue::String(text), .. }) => Ok(Some(text)),
            Some(node) => Err(self.sources.wrong_type(key, "a string", node)),
        }
    }

    /// A string that is one of `choices`.
    pub(super) fn word(
        &mut self,
        key: &'static str,
        choices: &[&'static str],
        what: &str,
    ) -> Result<Option<&'static str>, RecipeError> {
        let Some(word) = self.string(key)? else { return Ok(None) };
        match choices.iter().find(|&&choice| choice == word) {
            Some(choice) => Ok(Some(choice)),
            None => {
                let place = &self.value(key).expect("the word stands there").place;
                Err(self.sources.unknown(place, what, word, choices))
            }
        }
    }

    pub(super) fn missing(&self, key: &str) -> RecipeError {
        let problem = RecipeProblem::Missing { stage: format!("`{}`", self.name), key: key.to_owned() };
        self.sources.error(self.name_place, problem)
    }

    pub(super) fn refuse_unknown(&self, kind: &str) -> Result<(), RecipeError> {
        match self.entries.iter().find(|entry| !self.known.contains(&entry.key.as_str())) {
            None => Ok(()),
            Some(entry) => {
                let what = format!("parameter of `{kind}`");
                Err(self.sources.unknown(&entry.key_place, what, &entry.key, &self.known))
            }
        }
    }

    fn number(&self, key: &str, range: &RangeInclusive<f32>, node: &Node) -> Result<f32, RecipeError> {
        let number = match node.value {
            NodeValue::Float(number) => number,
            NodeValue::Integer(Some(number)) => number as f32,
            NodeValue::Integer(None) => f32::NAN,
            _ => return Err(self.sources.wrong_type(key, "a number", node)),
        };
        if range.contains(&number) {
            return Ok(number);
        }
        Err(self.sources.out_of_range(key, &node.place, format!("must be {}", float_range(range, true))))
    }
}

/// A range as a user wants to read it; without an article inside of "list of …".
fn float_range(range: &RangeInclusive<f32>, article: bool) -> String {
    let told = |x: f32| match x {
        x if x == f32::MIN_POSITIVE => Some("just above 0".to_owned()),
        x => (x.abs() < f32::MAX).then(|| x.to_string()),
    };
    let a = if article { "a " } else { "" };
    match (told(*range.start()), told(*range.end())) {
        (Some(least), Some(most)) => format!("from {least} to {most}"),
        (Some(least), None) => format!("{a}finite number of at least {least}"),
        (None, _) => format!("{a}finite number"),
    }
}

/// A whole number of this range; the table's key is known to hold it.
fn whole(table: &mut Table<'_>, key: &'static str, range: &RangeInclusive<u64>) -> Result<Option<u64>, RecipeError> {
    let Some(node) = table.value(key) else { return Ok(None) };
    let NodeValue::Integer(number) = node.value else {
        return Err(table.sources.wrong_type(key, "a whole number", node));
    };
    match number.and_then(|number| u64::try_from(number).ok()).filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let problem = format!("must be from {} to {}", range.start(), range.end());
            Err(table.sources.out_of_range(key, &node.place, problem))
        }
    }
}

macro_rules! whole_number {
    ($type:ty) => {
        impl Parameter for $type {
            type Limits = RangeInclusive<$type>;

            fn read(table: &mut Table<'_>, key: &'static str, limits: &Self::Limits) -> Result<Option<Self>, RecipeError> {
                let range = *limits.start() as u64..=*limits.end() as u64;
                Ok(whole(table, key, &range)?.map(|number| number as $type))
            }

            fn write(&self, key: &str, lines: &mut Lines) {
                lines.line(key, self.to_string());
            }

            fn describe(
                key: &'static str,
                doc: &str,
                limits: &Self::Limits,
                usual: Option<&Self>,
            ) -> Vec<ParameterReference> {
                let values = match *limits.end() as u64 {
                    most if most < MOST as u64 => format!("whole number from {} to {most}", limits.start()),
                    _ => format!("whole number from {} on", limits.start()),
                };
                let schema = json!({ "type": "integer", "minimum": limits.start(), "maximum": limits.end() });
                vec![reference(key, doc, values, usual.map(|usual| (usual.to_string(), json!(usual))), schema)]
            }
        }
    };
}

whole_number!(usize);
whole_number!(u64);

impl Parameter for f32 {
    type Limits = RangeInclusive<Self>;

    fn read(table: &mut Table<'_>, key: &'static str, limits: &Self::Limits) -> Result<Option<Self>, RecipeError> {
        table.value(key).map(|node| table.number(key, limits, node)).transpose()
    }

    fn write(&self, key: &str, lines: &mut Lines) {
        lines.line(key, float(*self));
    }

    fn describe(key: &'static str, doc: &str, limits: &Self::Limits, usual: Option<&Self>) -> Vec<ParameterReference> {
        let values = float_range(limits, false).replace("from", "number from").replace("finite ", "");
        let usual = usual.map(|usual| (float(*usual), number(*usual)));
        vec![reference(key, doc, values, usual, number_schema(limits))]
    }
}

impl Parameter for Vec<f32> {
    type Limits = RangeInclusive<f32>;

    fn read(table: &mut Table<'_>, key: &'static str, limits: &Self::Limits) -> Result<Option<Self>, RecipeError> {
        let Some(node) = table.value(key) else { return Ok(None) };
        let NodeValue::Array(numbers) = &node.value else {
            return Err(table.sources.wrong_type(key, "a list of numbers", node));
        };
        numbers.iter().map(|number| table.number(key, limits, number)).collect::<Result<_, _>>().map(Some)
    }

    fn write(&self, key: &str, lines: &mut Lines) {
        lines.line(key, list(self, |&number| float(number)));
    }

    fn describe(key: &'static str, doc: &str, limits: &Self::Limits, usual: Option<&Self>) -> Vec<ParameterReference> {
        let values = format!("list of numbers, each {}", float_range(limits, true));
        let usual = usual.map(|usual| (list(usual, |&x| float(x)), usual.iter().map(|&x| number(x)).collect()));
        vec![reference(key, doc, values, usual, json!({ "type": "array", "items": number_schema(limits) }))]
    }
}

impl Parameter for bool {
    type Limits = ();

    fn read(table: &mut Table<'_>, key: &'static str, (): &()) -> Result<Option<Self>, RecipeError> {
        match table.value(key) {
            None => Ok(None),
            Some(Node { value: NodeValue::Boolean(boolean), .. }) => Ok(Some(*boolean)),
            Some(node) => Err(table.sources.wrong_type(key, "a boolean", node)),
        }
    }

    fn write(&self, key: &str, lines: &mut Lines) {
        lines.line(key, self.to_string());
    }

    fn describe(key: &'static str, doc: &str, (): &(), usual: Option<&Self>) -> Vec<ParameterReference> {
        let usual = usual.map(|usual| (usual.to_string(), json!(usual)));
        vec![reference(key, doc, "true or false".to_owned(), usual, json!({ "type": "boolean" }))]
    }
}

impl Parameter for String {
    type Limits = ();

    fn read(table: &mut Table<'_>, key: &'static str, (): &()) -> Result<Option<Self>, RecipeError> {
        Ok(table.string(key)?.map(str::to_owned))
    }

    fn write(&self, key: &str, lines: &mut Lines) {
        lines.line(key, string(self));
    }

    fn describe(key: &'static str, doc: &str, (): &(), usual: Option<&Self>) -> Vec<ParameterReference> {
        let usual = usual.map(|usual| (string(usual), json!(usual)));
        vec![reference(key, doc, "string".to_owned(), usual, json!({ "type": "string" }))]
    }
}

/// Names for the values of an enumeration, as recipes spell them, which makes it a type of parameters.
macro_rules! names {
    ($type:ty, $what:literal, { $($value:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The names, as recipes spell them.
            pub const NAMES: [&'static str; [$($name),+].len()] = [$($name),+];
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$value => $name),+ })
            }
        }

        impl std::str::FromStr for $type {
            type Err = raglan_core::Error;

            fn from_str(name: &str) -> raglan_core::Result<Self> {
                match name {
                    $($name => Ok(Self::$value),)+
                    _ => Err(raglan_core::Error::Invalid {
                        what: $what,
                        problem: format!("no `{name}`; there are {}", Self::NAMES.join(", ")),
                    }),
                }
            }
        }

        impl $crate::recipe::parameter::Parameter for $type {
            type Limits = ();

            fn read(
                table: &mut $crate::recipe::parameter::Table<'_>,
                key: &'static str,
                (): &(),
            ) -> Result<Option<Self>, $crate::RecipeError> {
                let word = table.word(key, &Self::NAMES, $what)?;
                Ok(word.map(|word| word.parse().expect("the listed names can be parsed")))
            }

            fn write(&self, key: &str, lines: &mut $crate::recipe::parameter::Lines) {
                lines.line(key, format!("\"{self}\""));
            }

            fn describe(
                key: &'static str,
                doc: &str,
                (): &(),
                usual: Option<&Self>,
            ) -> Vec<$crate::recipe::parameter::ParameterReference> {
                let usual = usual.map(ToString::to_string);
                vec![$crate::recipe::parameter::choice(key, doc, &Self::NAMES, usual.as_deref())]
            }
        }
    };
}
pub(super) use names;

impl Parameter for Fusion {
    type Limits = ();

    fn read(table: &mut Table<'_>, key: &'static str, (): &()) -> Result<Option<Self>, RecipeError> {
        let method = table.word(key, &Self::NAMES, "fusion method")?;
        Ok(Some(match method.map_or(Self::MIN_MAX, |name| name.parse().expect("the listed names can be parsed")) {
            Self::MinMax { minima } => Self::MinMax { minima: Vec::read(table, "minima", &FINITE)?.unwrap_or(minima) },
            method => {
                // An empty list says nothing, so that a recipe's method can be changed alone.
                let is_empty = |value: &NodeValue| matches!(value, NodeValue::Array(numbers) if numbers.is_empty());
                if table.entries.iter().any(|entry| entry.key == "minima" && is_empty(&entry.value.value)) {
                    table.known.push("minima");
                }
                match method {
                    Self::ReciprocalRank { k0 } => {
                        Self::ReciprocalRank { k0: f32::read(table, "k0", &RANK_OFFSETS)?.unwrap_or(k0) }
                    }
                    method => method,
                }
            }
        }))
    }

    fn write(&self, key: &str, lines: &mut Lines) {
        lines.line(key, string(self.name()));
        match self {
            Self::MinMax { minima } if !minima.is_empty() => minima.write("minima", lines),
            Self::ReciprocalRank { k0 } => k0.write("k0", lines),
            Self::MinMax { .. } | Self::ZScore | Self::DistributionBased | Self::Auto => {}
        }
    }

    fn describe(key: &'static str, doc: &str, (): &(), usual: Option<&Self>) -> Vec<ParameterReference> {
        let minima = "Of `min-max`: the least score of each input's method; empty, the least that the list holds.";
        let k0 = "Of `reciprocal-rank`: how little the first ranks stand out.";
        let mut all = vec![choice(key, doc, &Self::NAMES, usual.map(Self::name))];
        all.extend(Vec::describe("minima", minima, &FINITE, Some(&Vec::new())));
        all.extend(f32::describe("k0", k0, &RANK_OFFSETS, Some(&Self::DEFAULT_K0)));
        all
    }
}

/// Every number but infinities and NaN.
pub(super) const FINITE: RangeInclusive<f32> = f32::MIN..=f32::MAX;

/// What `k0` of reciprocal rank fusion may be.
const RANK_OFFSETS: RangeInclusive<f32> = 0.0..=1e6;

fn number_schema(limits: &RangeInclusive<f32>) -> Json {
    let mut schema = json!({ "type": "number" });
    if *limits.start() == f32::MIN_POSITIVE {
        schema["exclusiveMinimum"] = json!(0);
    } else if *limits.start() > f32::MIN {
        schema["minimum"] = number(*limits.start());
    }
    if *limits.end() < f32::MAX {
        schema["maximum"] = number(*limits.end());
    }
    schema
}

/// The shortest decimal number that reads back as the same `f32`.
fn number(x: f32) -> Json {
    json!(x.to_string().parse::<f64>().expect("a number's text is a number"))
}

/// A parameter that is one of some words.
pub(super) fn choice(
    key: &'static str,
    doc: &str,
    choices: &[&'static str],
    usual: Option<&str>,
) -> ParameterReference {
    let values = choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    reference(key, doc, values, usual.map(|usual| (string(usual), json!(usual))), json!({ "enum": choices }))
}

fn reference(
    name: &'static str,
    doc: &str,
    values: String,
    usual: Option<(String, Json)>,
    mut schema: Json,
) -> ParameterReference {
    schema["description"] = json!(doc);
    let usual = usual.map(|(toml, value)| {
        schema["default"] = value;
        toml
    });
    ParameterReference { name, doc: doc.to_owned(), values, usual, schema }
}
