//! From TOML to stages whose parameters are known to be sound; names and ports come after.

use std::path::{Path, PathBuf};

use super::parameter::Table;
use super::source::{Entry, Name, Node, NodeValue, Place, Sources};
use super::{Port, Recipe, RecipeError, RecipeProblem, StageSpec};

/// The name that stands for the questions.
pub(super) const QUERY: &str = "query";

/// The name that stands for what a recipe inside of a stage takes.
pub(super) const INPUT: &str = "input";

/// Stages whose inputs are still names.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) stages: Vec<DraftStage>,
}

/// A stage whose inputs are still names, each with its place in the text.
pub(super) struct DraftStage {
    pub(super) name: String,
    pub(super) name_place: Place,
    pub(super) spec: StageSpec,
    pub(super) inputs: Vec<Name>,
    pub(super) inputs_place: Place,
    /// The keys that the table has, with the places of their values.
    pub(super) keys: Vec<Name>,
    /// The recipes inside of it, in the order of [`StageSpec::bodies`].
    pub(super) bodies: Vec<Draft>,
}

/// The stages of a recipe's text, of what it includes, and with what is set from outside.
pub(super) fn parse(
    sources: &mut Sources,
    path: &Path,
    text: &str,
    settings: &[impl AsRef<str>],
) -> Result<Draft, RecipeError> {
    let (mut stages, place) = read(sources, path.to_owned(), text.to_owned(), &mut Vec::new())?;
    for setting in settings {
        set(sources, &mut stages, setting.as_ref())?;
    }
    if stages.is_empty() {
        let problem = RecipeProblem::Missing { stage: "the recipe".to_owned(), key: "[stage.NAME]".to_owned() };
        return Err(sources.error(&place, problem));
    }
    draft(sources, &stages)
}

/// The stages that a text has and includes, and where its table of stages stands; `above` are the files that include it.
fn read(
    sources: &mut Sources,
    path: PathBuf,
    text: String,
    above: &mut Vec<PathBuf>,
) -> Result<(Vec<Entry>, Place), RecipeError> {
    let number = sources.add(path.clone(), text);
    let root = sources.parse(number)?;
    let NodeValue::Table(entries) = root.value else { unreachable!("a text is a table") };
    let mut place = Place { text: number, span: 0..0 };
    let (mut included, mut own) = (Vec::new(), Vec::new());
    above.push(path);
    for entry in entries {
        match entry.key.as_str() {
            "include" => included = include(sources, &entry.value, above)?,
            "stage" => {
                place = entry.value.place.clone();
                let NodeValue::Table(stages) = entry.value.value else {
                    return Err(sources.wrong_type("stage", "a table", &entry.value));
                };
                own = stages;
            }
            key => return Err(sources.unknown(&entry.key_place, "table", key, &["stage", "include"])),
        }
    }
    above.pop();
    merge_stages(&mut included, own);
    Ok((included, place))
}

/// The stages of the recipes that `include` names.
fn include(sources: &mut Sources, value: &Node, above: &mut Vec<PathBuf>) -> Result<Vec<Entry>, RecipeError> {
    let mut stages = Vec::new();
    let names = match &value.value {
        NodeValue::Array(names) => names.iter().collect(),
        _ => vec![value],
    };
    for node in names {
        let NodeValue::String(name) = &node.value else {
            return Err(sources.wrong_type("include", "a recipe's file or name, or a list of them", node));
        };
        let refuse = |sources: &Sources, problem: String| {
            sources.error(&node.place, RecipeProblem::Include { name: name.clone(), problem })
        };
        let folder = sources.path(node.place.text).parent().unwrap_or(Path::new(""));
        let path = folder.join(name);
        let (path, text) = match Recipe::shipped_text(name) {
            Some(text) if !path.is_file() => (PathBuf::from(name), text.to_owned()),
            _ => match std::fs::read_to_string(&path) {
                Ok(text) => (path, text),
                Err(error) => return Err(refuse(sources, error.to_string())),
            },
        };
        if above.contains(&path) {
            return Err(refuse(sources, "it includes itself".to_owned()));
        }
        let (more, _) = read(sources, path, text, above)?;
        merge_stages(&mut stages, more);
    }
    Ok(stages)
}

/// Puts stages over others: one that says its kind replaces that of its name, one that does not changes its parameters.
fn merge_stages(stages: &mut Vec<Entry>, over: Vec<Entry>) {
    for entry in over {
        let Some(old) = stages.iter_mut().find(|old| old.key == entry.key) else {
            stages.push(entry);
            continue;
        };
        match (&mut old.value.value, entry.value.value) {
            (NodeValue::Table(old), NodeValue::Table(new)) if !new.iter().any(|key| key.key == "use") => {
                for new in new {
                    match old.iter_mut().find(|old| old.key == new.key) {
                        None => old.push(new),
                        Some(old) => match (&mut old.value.value, new.value.value) {
                            (NodeValue::Table(old), NodeValue::Table(new)) => merge_stages(old, new),
                            (old_value, value) => {
                                *old_value = value;
                                old.value.place = new.value.place;
                            }
                        },
                    }
                }
            }
            (_, value) => *old = Entry { value: Node { value, place: entry.value.place }, ..entry },
        }
    }
}

/// Sets a parameter as `STAGE.KEY=VALUE` says, a line of TOML whose value may be a word without quotes.
fn set(sources: &mut Sources, stages: &mut Vec<Entry>, setting: &str) -> Result<(), RecipeError> {
    let path = PathBuf::from("--set");
    let number = sources.add(path.clone(), setting.to_owned());
    let root = sources.parse(number).or_else(|error| {
        let Some((key, word)) = setting.split_once('=') else { return Err(error) };
        if word.trim().starts_with(['[', '{', '"', '\'']) || word.contains(['"', '\\', '\n']) {
            return Err(error);
        }
        let quoted = sources.add(path, format!("{key}=\"{}\"", word.trim()));
        sources.parse(quoted)
    })?;
    let NodeValue::Table(mut entries) = root.value else { unreachable!("a text is a table") };
    let exists = |name: &str| stages.iter().any(|stage| stage.key == name);
    if let [Entry { key, value: Node { value: NodeValue::Table(inner), .. }, .. }] = &mut entries[..]
        && key == "stage"
        && !exists("stage")
    {
        entries = std::mem::take(inner);
    }
    for entry in &entries {
        if !exists(&entry.key) {
            let names: Vec<&str> = stages.iter().map(|stage| stage.key.as_str()).collect();
            return Err(sources.unknown(&entry.key_place, "stage", &entry.key, &names));
        }
        if !matches!(entry.value.value, NodeValue::Table(_)) {
            return Err(sources.wrong_type(&entry.key, "a stage, whose parameters are `STAGE.KEY`", &entry.value));
        }
    }
    merge_stages(stages, entries);
    Ok(())
}

fn draft(sources: &Sources, stages: &[Entry]) -> Result<Draft, RecipeError> {
    let stages = stages.iter().map(|entry| draft_stage(sources, entry)).collect::<Result<_, _>>()?;
    Ok(Draft { stages })
}

fn draft_stage(sources: &Sources, entry: &Entry) -> Result<DraftStage, RecipeError> {
    let NodeValue::Table(entries) = &entry.value.value else {
        return Err(sources.wrong_type(&format!("stage.{}", entry.key), "a table", &entry.value));
    };
    for (word, meaning) in [(QUERY, "the questions are"), (INPUT, "the input of a recipe inside of a stage is")] {
        if entry.key == word {
            let problem = format!("is what {meaning} called; choose another name");
            return Err(sources.out_of_range(word, &entry.key_place, problem));
        }
    }
    let known = vec!["use", "input"];
    let mut table = Table { sources, name: &entry.key, name_place: &entry.key_place, entries, known };
    let Some(kind) = table.word("use", &StageSpec::KINDS, "stage kind")? else {
        return Err(table.missing("use"));
    };
    let spec = StageSpec::read(kind, &mut table)?;
    let (inputs, inputs_place) = inputs(&mut table, &spec)?;
    let bodies = bodies(&mut table, &spec)?;
    table.refuse_unknown(kind)?;
    Ok(DraftStage {
        name: entry.key.clone(),
        name_place: entry.key_place.clone(),
        spec,
        inputs,
        inputs_place,
        keys: entries.iter().map(|entry| (entry.key.clone(), entry.value.place.clone())).collect(),
        bodies,
    })
}

fn inputs(table: &mut Table<'_>, spec: &StageSpec) -> Result<(Vec<Name>, Place), RecipeError> {
    let Some(node) = table.value("input") else {
        if spec.input() == Some(Port::Query) {
            return Ok((vec![(QUERY.to_owned(), table.name_place.clone())], table.name_place.clone()));
        }
        return Err(table.missing("input"));
    };
    let one = |node: &Node| match &node.value {
        NodeValue::String(name) => Ok((name.clone(), node.place.clone())),
        _ => Err(table.sources.wrong_type("input", "a stage's name or a list of them", node)),
    };
    let inputs = match &node.value {
        NodeValue::Array(names) => names.iter().map(one).collect::<Result<Vec<_>, _>>()?,
        _ => vec![one(node)?],
    };
    Ok((inputs, node.place.clone()))
}

/// The recipes inside of a stage; those after the first need not be there, and then give what they take.
fn bodies(table: &mut Table<'_>, spec: &StageSpec) -> Result<Vec<Draft>, RecipeError> {
    let mut bodies = Vec::new();
    for (i, &key) in spec.bodies().iter().enumerate() {
        bodies.push(match table.value(key) {
            Some(Node { value: NodeValue::Table(stages), .. }) if !stages.is_empty() => draft(table.sources, stages)?,
            Some(Node { value: NodeValue::Table(_), .. }) | None if i > 0 => Draft::default(),
            Some(Node { value: NodeValue::Table(_), .. }) | None => return Err(table.missing(&format!("{key}.NAME"))),
            Some(node) => return Err(table.sources.wrong_type(key, "a table of stages", node)),
        });
    }
    Ok(bodies)
}
