//! The canonical text of a recipe: every parameter spelled, stages in the order of their work.

use std::fmt::{self, Write};

use super::parameter::Lines;
use super::parse::{INPUT, QUERY};
use super::{Input, Recipe, RecipeStage, StageSpec};

/// The canonical TOML.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tables = Vec::new();
        self.tables("stage", &mut tables);
        f.write_str(&tables.join("\n"))
    }
}

impl Recipe {
    /// Appends the table of each stage, whose name comes after `prefix`.
    fn tables(&self, prefix: &str, tables: &mut Vec<String>) {
        for stage in &self.stages {
            self.stage_tables(prefix, stage, tables);
        }
    }

    /// Appends the tables of a stage and of what is inside of it.
    pub(super) fn stage_tables(&self, prefix: &str, stage: &RecipeStage, tables: &mut Vec<String>) {
        let (path, table) = stage_table(prefix, &stage.name, &stage.spec, &self.input_names(stage));
        tables.push(table);
        for (body, name) in stage.bodies.iter().zip(stage.spec.bodies()) {
            body.tables(&format!("{path}.{name}"), tables);
        }
    }

    /// The names of a stage's inputs, as the recipe's text has them.
    pub fn input_names<'a>(&'a self, stage: &RecipeStage) -> Vec<&'a str> {
        let name = |input: &Input| match *input {
            Input::Query => QUERY,
            Input::Body => INPUT,
            Input::Stage(place) => &self.stages[place].name,
        };
        stage.inputs.iter().map(name).collect()
    }
}

/// The path of a stage, whose name comes after `prefix`, and its table without what is inside of it.
pub(super) fn stage_table(prefix: &str, name: &str, spec: &StageSpec, inputs: &[&str]) -> (String, String) {
    let path = format!("{prefix}.{}", key(name));
    let mut lines = Lines(format!("[{path}]\n"));
    lines.line("use", string(spec.kind()));
    match inputs {
        [input] => lines.line("input", string(input)),
        inputs => lines.line("input", list(inputs, |input| string(input))),
    }
    spec.write(&mut lines);
    (path, lines.0)
}

/// A number that reads back as the same `f32`, with a decimal point; −0 is 0.
pub(super) fn float(x: f32) -> String {
    format!("{:?}", x + 0.0)
}

pub(super) fn list<T>(items: &[T], one: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { name.to_owned() } else { string(name) }
}

/// A basic string.
pub(super) fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => write!(quoted, "\\u{:04X}", u32::from(c)).expect("strings take writes"),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
