//! What may stand in a recipe, for editors and for people.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};

use super::{KindReference, Port, Recipe};

impl Recipe {
    /// The JSON Schema (2020-12) of recipes, by which editors complete and check them as they are written.
    ///
    /// What it cannot say, such as which names there are and which ports fit, [`check`](Self::check) says.
    pub fn schema() -> Json {
        let kinds = KindReference::all();
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
        let of_kind = |kind: &KindReference| {
            json!({
                "if": { "properties": { "use": { "const": kind.name } }, "required": ["use"] },
                "then": { "$ref": format!("#/$defs/{}", kind.name) },
            })
        };
        let mut definitions = Map::new();
        definitions.insert(
            "stages".to_owned(),
            json!({ "type": "object", "minProperties": 1, "additionalProperties": { "$ref": "#/$defs/stage" } }),
        );
        definitions.insert(
            "stage".to_owned(),
            json!({
                "type": "object",
                "properties": { "use": { "enum": names, "description": "The kind of the stage." } },
                "allOf": kinds.iter().map(of_kind).collect::<Vec<_>>(),
            }),
        );
        for kind in &kinds {
            definitions.insert(kind.name.to_owned(), kind.schema());
        }
        let name_or_names = json!({ "type": ["string", "array"], "items": { "type": "string" } });
        let mut include = name_or_names;
        include["description"] = json!("Recipes whose stages these are added to: files, or names of shipped ones.");
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "A recipe of raglan",
            "type": "object",
            "properties": { "include": include, "stage": { "$ref": "#/$defs/stages" } },
            "anyOf": [{ "required": ["stage"] }, { "required": ["include"] }],
            "additionalProperties": false,
            "$defs": definitions,
        })
    }

    /// What recipes may say, as Markdown: each kind of stage with its parameters.
    pub fn reference() -> String {
        let mut text = String::new();
        for kind in KindReference::all() {
            text.push_str(&kind.markdown());
        }
        text
    }
}

impl KindReference {
    /// The schema of a stage's table.
    fn schema(&self) -> Json {
        let inputs = json!({
            "type": ["string", "array"],
            "items": { "type": "string" },
            "description": format!("{}: names of stages, or `query`; inside of a stage also `input`.", self.taken()),
        });
        let mut properties = Map::new();
        properties.insert("use".to_owned(), json!({ "const": self.name, "description": self.doc }));
        properties.insert("input".to_owned(), inputs);
        for parameter in &self.parameters {
            properties.insert(parameter.name.to_owned(), parameter.schema.clone());
        }
        for body in self.bodies {
            properties.insert((*body).to_owned(), json!({ "$ref": "#/$defs/stages" }));
        }
        json!({
            "type": "object",
            "description": self.doc,
            "properties": properties,
            "additionalProperties": false,
        })
    }

    /// What goes in, in words.
    fn taken(&self) -> String {
        let port = self.input.map_or("anything".to_owned(), |port| port.to_string());
        format!("{port}, {}", self.arity)
    }

    fn markdown(&self) -> String {
        let told = |port: Option<Port>, any: &str| port.map_or(any.to_owned(), |port| port.to_string());
        let mut text = format!(
            "### `{}`: {} → {}\n\n{}\n\nTakes {}.",
            self.name,
            told(self.input, "anything"),
            told(self.output, "what the stages inside give"),
            linkless(&self.doc),
            self.arity
        );
        if let [first, more @ ..] = self.bodies {
            let more: String = more.iter().map(|body| format!(" and, if wanted, `{body}`")).collect();
            write!(text, " The stages inside are below `{first}`{more}.").expect("strings take writes");
        }
        text.push_str("\n\n");
        if !self.parameters.is_empty() {
            text.push_str("| parameter | values | unless said | |\n|---|---|---|---|\n");
            for parameter in &self.parameters {
                let usual = parameter.usual.as_ref().map_or("must be said".to_owned(), |usual| format!("`{usual}`"));
                let (name, values, doc) = (parameter.name, &parameter.values, linkless(&parameter.doc));
                writeln!(text, "| `{name}` | {values} | {usual} | {doc} |").expect("strings take writes");
            }
            text.push('\n');
        }
        text
    }
}

/// A doc comment without the targets of its links.
fn linkless(doc: &str) -> String {
    let mut text = String::new();
    let mut rest = doc;
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        text.push(']');
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text.replace("[`", "`").replace("`]", "`")
}
