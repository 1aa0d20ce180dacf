//! `raglan check`

use anyhow::Result;
use raglan::pipeline::{Recipe, RecipeError, RecipeStage};
use serde_json::{Value, json};

use crate::args::{CheckCommand, CheckFormat, GraphFormat};
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &CheckCommand) -> Result<Outcome> {
    let Some(name) = &command.recipe else {
        if command.schema {
            output::json(&Recipe::schema())?;
        } else {
            print!("{}", Recipe::reference());
        }
        return Ok(Outcome::Success);
    };
    let json = session.json || command.format == CheckFormat::Json;
    let recipe = match raglan::recipe_with(name, &command.set) {
        Ok(recipe) => recipe,
        Err(raglan::Error::Recipe(mistake)) => {
            if json {
                output::json(&told(&mistake)?)?;
            } else {
                say!("{mistake}");
            }
            return Ok(Outcome::Nothing);
        }
        Err(other) => return Err(other.into()),
    };
    let hash = recipe.hash().to_string();
    // A recipe is sound wherever its models are.
    let lacks = session.models.check_recipe(&recipe).err().map(|error| error.to_string());
    match (command.graph, command.format) {
        (Some(GraphFormat::Mermaid), _) => print!("{}", recipe.mermaid()),
        (Some(GraphFormat::Svg), _) => print!("{}", recipe.svg()),
        _ if json => {
            let stages = stages(&recipe);
            let output = recipe.output();
            output::json(&json!({ "ok": true, "hash": hash, "output": output, "stages": stages, "lacks": lacks }))?;
        }
        (None, CheckFormat::Toml) => print!("{recipe}"),
        (None, _) => {
            print(&recipe, 0);
            println!("sound: Query → {}, {}", recipe.output(), &hash[..16]);
            if let Some(lacks) = lacks {
                println!("still lacks a model: {lacks}");
            }
        }
    }
    Ok(Outcome::Success)
}

/// A mistake as programs want it: its place, what it is, and the whole message.
fn told(mistake: &RecipeError) -> Result<Value> {
    let mut told = serde_json::to_value(mistake)?;
    told["ok"] = json!(false);
    told["message"] = json!(mistake.problem.to_string());
    Ok(told)
}

fn stages(recipe: &Recipe) -> Vec<Value> {
    let stage = |stage: &RecipeStage| {
        let mut told = json!({ "name": stage.name, "kind": stage.spec.kind(), "output": stage.gives });
        for (body, key) in stage.bodies.iter().zip(stage.spec.bodies()) {
            told[*key] = json!(stages(body));
        }
        told
    };
    recipe.stages().iter().map(stage).collect()
}

fn print(recipe: &Recipe, depth: usize) {
    let indent = "  ".repeat(depth);
    for stage in recipe.stages() {
        let name = format!("{indent}{}", stage.name);
        println!("{name:16} {:10} {} → {}", stage.spec.kind(), stage.takes, stage.gives);
        for (body, key) in stage.bodies.iter().zip(stage.spec.bodies()).filter(|(body, _)| !body.stages().is_empty()) {
            println!("{indent}  {key}:");
            print(body, depth + 2);
        }
    }
}
