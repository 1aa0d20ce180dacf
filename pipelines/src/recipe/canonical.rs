//! The canonical text of a recipe: every parameter spelled, stages in the order of their work.

use std::fmt::{self, Write};

use super::{Input, Recipe, RerankSpec, StageSpec};
use crate::Fusion;

/// The canonical TOML.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, stage) in self.stages.iter().enumerate() {
            let inputs: Vec<_> = stage
                .inputs
                .iter()
                .map(|input| match *input {
                    Input::Query => "query",
                    Input::Stage(place) => &self.stages[place].name,
                })
                .collect();
            let gap = if i == 0 { "" } else { "\n" };
            write!(f, "{gap}{}", table(&stage.name, &stage.spec, &inputs))?;
        }
        Ok(())
    }
}

/// One stage as a table.
pub(super) fn table(name: &str, spec: &StageSpec, inputs: &[&str]) -> String {
    let mut table = format!("[stage.{}]\nuse = {}\n", key(name), string(spec.kind()));
    let mut line = |key: &str, value: String| writeln!(table, "{key} = {value}").expect("strings take writes");
    match inputs {
        [input] => line("input", string(input)),
        inputs => line("input", list(inputs, |input| string(input))),
    }
    match spec {
        StageSpec::Late { k } | StageSpec::Select { k } => line("k", k.to_string()),
        StageSpec::Bm25 { k, k1, b } => {
            line("k", k.to_string());
            line("k1", float(*k1));
            line("b", float(*b));
        }
        StageSpec::Sparse { k, queries, mode } => {
            line("k", k.to_string());
            line("queries", string(&queries.to_string()));
            line("mode", string(&mode.to_string()));
        }
        StageSpec::MarginalRelevance { lambda, k } => {
            line("lambda", float(*lambda));
            line("k", k.to_string());
        }
        StageSpec::Expand { neighbours, merge } => {
            line("neighbours", neighbours.to_string());
            line("merge", float(*merge));
        }
        StageSpec::Rescore { by, k } => {
            line("by", string(&by.to_string()));
            line("k", k.to_string());
        }
        StageSpec::Rerank(RerankSpec {
            by,
            model,
            depth,
            k,
            passage_tokens,
            window,
            step,
            children,
            top,
            first_layer,
            n_layers,
            budget_tokens,
            budget_ms,
        }) => {
            line("by", string(&by.to_string()));
            line("model", string(model));
            let numbers = [
                ("depth", depth),
                ("k", k),
                ("passage_tokens", passage_tokens),
                ("window", window),
                ("step", step),
                ("children", children),
                ("top", top),
                ("first_layer", first_layer),
                ("n_layers", n_layers),
                ("budget_tokens", budget_tokens),
                ("budget_ms", budget_ms),
            ];
            numbers.iter().for_each(|(key, number)| line(key, number.to_string()));
        }
        StageSpec::Dense { k, mode } => {
            line("k", k.to_string());
            line("mode", string(&mode.to_string()));
        }
        StageSpec::Fuse { fusion, weights, depth, k } => {
            line("method", string(fusion.name()));
            match fusion {
                Fusion::MinMax { minima } => line("minima", list(minima, |&min| float(min))),
                Fusion::ReciprocalRank { k0 } => line("k0", float(*k0)),
                Fusion::ZScore | Fusion::DistributionBased | Fusion::Auto => {}
            }
            let weights = if weights.is_empty() { &fusion.default_weights(inputs.len()) } else { weights };
            line("weights", list(weights, |&weight| float(weight)));
            line("depth", depth.to_string());
            line("k", k.to_string());
        }
        StageSpec::Gate { min_scores } => line("min_scores", list(min_scores, |&score| float(score))),
        StageSpec::Read => {}
        StageSpec::Generate(generate) => {
            line("max_tokens", generate.max_tokens.to_string());
            line("temperature", float(generate.temperature));
            line("top_k", generate.top_k.to_string());
            line("top_p", float(generate.top_p));
            line("min_p", float(generate.min_p));
            line("repetition_penalty", float(generate.repetition_penalty));
            line("seed", generate.seed.to_string());
            line("context_tokens", generate.context_tokens.to_string());
            line("system", string(&generate.system));
        }
    }
    table
}

/// A number that reads back as the same `f32`, with a decimal point; −0 is 0.
fn float(x: f32) -> String {
    format!("{:?}", x + 0.0)
}

fn list<T>(items: &[T], one: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { name.to_owned() } else { string(name) }
}

/// A basic string.
fn string(text: &str) -> String {
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
