//! `raglan check`

use anyhow::Result;
use serde_json::json;

use crate::args::{CheckCommand, CheckFormat};
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &CheckCommand) -> Result<Outcome> {
    let recipe = match raglan::recipe(&command.recipe) {
        Ok(recipe) => recipe,
        Err(raglan::Error::Recipe(problem)) => {
            if session.json {
                output::json(&json!({ "ok": false, "problem": problem.to_string() }))?;
            } else {
                eprintln!("{problem}");
            }
            return Ok(Outcome::Nothing);
        }
        Err(other) => return Err(other.into()),
    };
    let hash = recipe.hash().to_string();
    if session.json {
        let stages = recipe
            .stages()
            .iter()
            .map(|stage| json!({ "name": stage.name, "kind": stage.spec.kind(), "output": stage.gives }));
        output::json(
            &json!({ "ok": true, "hash": hash, "output": recipe.output(), "stages": stages.collect::<Vec<_>>() }),
        )?;
    } else if command.format == CheckFormat::Toml {
        print!("{recipe}");
    } else {
        for stage in recipe.stages() {
            println!("{:16} {:10} {} → {}", stage.name, stage.spec.kind(), stage.takes, stage.gives);
        }
        println!("sound: Query → {}, {}", recipe.output(), &hash[..16]);
    }
    Ok(Outcome::Success)
}
