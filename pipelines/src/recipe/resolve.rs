//! From names to a graph: what each input is, whether ports fit, and in which order stages work.

use std::collections::BTreeMap;

use super::parse::{Draft, DraftStage, QUERY};
use super::{Input, Port, Recipe, RecipeError, RecipeProblem, RecipeStage, StageSpec};

pub(super) fn resolve(draft: Draft<'_>) -> Result<Recipe, RecipeError> {
    let places: BTreeMap<&str, usize> =
        draft.stages.iter().enumerate().map(|(i, stage)| (stage.name.as_str(), i)).collect();
    let mut inputs = Vec::with_capacity(draft.stages.len());
    for stage in &draft.stages {
        inputs.push(resolve_inputs(&draft, stage, &places)?);
    }
    let order = order(&draft, &inputs, &places)?;
    one_output(&draft, &inputs, &order)?;
    let mut new_places = vec![0; order.len()];
    for (new, &old) in order.iter().enumerate() {
        new_places[old] = new;
    }
    let mut stages: Vec<_> = draft
        .stages
        .into_iter()
        .zip(inputs)
        .map(|(mut stage, inputs)| {
            if let StageSpec::Fuse { fusion, weights, .. } = &mut stage.spec
                && weights.is_empty()
            {
                *weights = fusion.default_weights(inputs.len());
            }
            let inputs = inputs.into_iter().map(|old| old.map_or(Input::Query, |old| Input::Stage(new_places[old])));
            Some(RecipeStage { name: stage.name, spec: stage.spec, inputs: inputs.collect() })
        })
        .collect();
    let stages = order.iter().map(|&old| stages[old].take().expect("the order has each stage once")).collect();
    Ok(Recipe { stages })
}

/// The places of a stage's inputs, `None` for the questions.
fn resolve_inputs(
    draft: &Draft<'_>,
    stage: &DraftStage,
    places: &BTreeMap<&str, usize>,
) -> Result<Vec<Option<usize>>, RecipeError> {
    let mut inputs = Vec::with_capacity(stage.inputs.len());
    for (name, span) in &stage.inputs {
        let (place, found) = if name == QUERY {
            (None, Port::Query)
        } else if let Some(&place) = places.get(name.as_str()) {
            (Some(place), draft.stages[place].spec.output())
        } else {
            let choices: Vec<&str> =
                places.keys().copied().filter(|&other| other != stage.name).chain([QUERY]).collect();
            return Err(draft.source.unknown(span.clone(), "stage", name, &choices));
        };
        let expected = stage.spec.input();
        if found != expected {
            let problem = RecipeProblem::WrongPort { stage: stage.name.clone(), input: name.clone(), expected, found };
            return Err(draft.source.error(span.clone(), problem));
        }
        if inputs.contains(&place) {
            let problem = format!("has `{name}` twice");
            return Err(draft
                .source
                .error(span.clone(), RecipeProblem::OutOfRange { key: "input".to_owned(), problem }));
        }
        inputs.push(place);
    }
    let arity = stage.spec.arity();
    if !(arity.least..=arity.most).contains(&inputs.len()) {
        let (expected, found) = (arity.to_string(), inputs.len());
        let problem = RecipeProblem::WrongInputCount { stage: stage.name.clone(), expected, found };
        return Err(draft.source.error(stage.inputs_span.clone(), problem));
    }
    check_lengths(draft, stage)?;
    Ok(inputs)
}

/// Checks the parameters that hold one number an input.
fn check_lengths(draft: &Draft<'_>, stage: &DraftStage) -> Result<(), RecipeError> {
    let n = stage.inputs.len();
    let lengths: &[(&str, usize, usize)] = match &stage.spec {
        StageSpec::Fuse { fusion, weights, .. } => {
            let minima = if let crate::Fusion::MinMax { minima } = fusion { minima.len() } else { 0 };
            &[
                ("weights", weights.len(), if weights.is_empty() { 0 } else { n }),
                ("minima", minima, if minima == 0 { 0 } else { n }),
            ]
        }
        StageSpec::Gate { min_scores } => &[("min_scores", min_scores.len(), (n - 1).max(1))],
        _ => &[],
    };
    match lengths.iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some((key, found, expected)) => {
            let problem = format!(
                "needs {expected} {}, one for each input it judges, not {found}",
                if *expected == 1 { "number" } else { "numbers" }
            );
            Err(draft
                .source
                .error(stage.inputs_span.clone(), RecipeProblem::OutOfRange { key: (*key).to_owned(), problem }))
        }
    }
}

/// The stages' places so that inputs come first; of those that are ready, the lowest name.
fn order(
    draft: &Draft<'_>,
    inputs: &[Vec<Option<usize>>],
    places: &BTreeMap<&str, usize>,
) -> Result<Vec<usize>, RecipeError> {
    let mut order = Vec::with_capacity(inputs.len());
    let mut done = vec![false; inputs.len()];
    while order.len() < inputs.len() {
        let is_ready = |&&place: &&usize| !done[place] && inputs[place].iter().flatten().all(|&input| done[input]);
        match places.values().find(is_ready) {
            Some(&place) => {
                done[place] = true;
                order.push(place);
            }
            None => return Err(cycle(draft, inputs, &done)),
        }
    }
    Ok(order)
}

/// The circle that the stages which never get ready end in.
fn cycle(draft: &Draft<'_>, inputs: &[Vec<Option<usize>>], done: &[bool]) -> RecipeError {
    let waits_for = |place: usize| {
        let input = inputs[place].iter().flatten().find(|&&input| !done[input]);
        *input.expect("a stage that is not ready waits for another")
    };
    let mut path = vec![done.iter().position(|done| !done).expect("a stage is not ready")];
    let start = loop {
        let next = waits_for(*path.last().expect("the path begins with a stage"));
        if let Some(start) = path.iter().position(|&place| place == next) {
            path.push(next);
            break start;
        }
        path.push(next);
    };
    // The path goes against the flow.
    let names = path[start..].iter().rev().map(|&place| draft.stages[place].name.clone()).collect();
    draft.source.error(draft.stages[path[start]].inputs_span.clone(), RecipeProblem::Cycle { names })
}

fn one_output(draft: &Draft<'_>, inputs: &[Vec<Option<usize>>], order: &[usize]) -> Result<(), RecipeError> {
    let is_used = |place: usize| inputs.iter().flatten().any(|&input| input == Some(place));
    let unused: Vec<usize> = order.iter().copied().filter(|&place| !is_used(place)).collect();
    match unused[..] {
        [] | [_] => Ok(()),
        // The one that comes last in the text is likeliest the result.
        [a, b, ..] => {
            let (first, last) = (a.min(b), a.max(b));
            let (name, other) = (draft.stages[first].name.clone(), draft.stages[last].name.clone());
            Err(draft.source.error(draft.stages[first].name_span.clone(), RecipeProblem::ManyOutputs { name, other }))
        }
    }
}
