//! From names to a graph: what each input is, whether ports fit, and in which order stages work.

use std::collections::BTreeMap;

use super::kinds::Discord;
use super::parse::{Draft, DraftStage, INPUT, QUERY};
use super::source::{Place, Sources};
use super::{Input, Port, Recipe, RecipeError, RecipeProblem, RecipeStage};

/// The recipe that a draft is; inside of a stage, `takes` is what that stage takes.
pub(super) fn resolve(sources: &Sources, draft: Draft, takes: Option<Port>) -> Result<Recipe, RecipeError> {
    let resolver = Resolver { sources, draft: &draft, takes };
    let inputs = draft.stages.iter().map(|stage| resolver.inputs(stage)).collect::<Result<Vec<_>, _>>()?;
    let order = resolver.order(&inputs)?;
    resolver.one_output(&inputs, &order)?;
    let mut new_places = vec![0; order.len()];
    for (new, &old) in order.iter().enumerate() {
        new_places[old] = new;
    }
    let mut drafts: Vec<_> = draft.stages.into_iter().zip(inputs).map(Some).collect();
    let mut stages: Vec<RecipeStage> = Vec::with_capacity(order.len());
    for old in order {
        let (stage, inputs) = drafts[old].take().expect("the order has each stage once");
        let inputs = inputs.into_iter().map(|input| match input {
            Input::Stage(old) => Input::Stage(new_places[old]),
            other => other,
        });
        stages.push(resolve_stage(sources, stage, inputs.collect(), takes, &stages)?);
    }
    Ok(Recipe { name: String::new(), takes: takes.unwrap_or(Port::Query), stages })
}

/// A stage whose inputs are known, after the stages before it.
fn resolve_stage(
    sources: &Sources,
    stage: DraftStage,
    inputs: Vec<Input>,
    takes: Option<Port>,
    before: &[RecipeStage],
) -> Result<RecipeStage, RecipeError> {
    let DraftStage { name, name_place, mut spec, inputs: input_names, inputs_place, keys, bodies } = stage;
    let mut expected = spec.input();
    for (input, (input_name, place)) in inputs.iter().zip(input_names) {
        let found = match *input {
            Input::Query => Port::Query,
            Input::Body => takes.expect("`input` is a name only inside of a stage"),
            Input::Stage(place) => before[place].gives,
        };
        let expected = *expected.get_or_insert(found);
        if found != expected {
            let problem = RecipeProblem::WrongPort { stage: name, input: input_name, expected, found };
            return Err(sources.error(&place, problem));
        }
    }
    let arity = spec.arity();
    if !(arity.least..=arity.most).contains(&inputs.len()) {
        let problem = RecipeProblem::WrongInputCount { stage: name, expected: arity.to_string(), found: inputs.len() };
        return Err(sources.error(&inputs_place, problem));
    }
    let takes = expected.expect("every stage has an input");
    let place_of = |key: &str| keys.iter().find(|(name, _)| name == key).map_or(&inputs_place, |(_, place)| place);
    spec.settle(inputs.len()).map_err(|discord| match discord {
        Discord::Missing(key) => {
            let problem = RecipeProblem::Missing { stage: format!("`{name}`"), key: key.to_owned() };
            sources.error(&name_place, problem)
        }
        Discord::Misfit(key, problem) => sources.out_of_range(key, place_of(key), problem),
    })?;
    let inside = Some(spec.body_takes(takes));
    let bodies = bodies.into_iter().map(|draft| resolve(sources, draft, inside)).collect::<Result<Vec<_>, _>>()?;
    let gives = match spec.output() {
        Some(port) => port,
        None => bodies[0].output(),
    };
    for (body, key) in bodies.iter().zip(spec.bodies()) {
        let found = body.output();
        let expected = spec.body_gives(takes, gives);
        if found != expected {
            let problem = RecipeProblem::WrongBody { stage: name, body: (*key).to_owned(), expected, found };
            let place = keys.iter().find(|(name, _)| name == key).map_or(&name_place, |(_, place)| place);
            return Err(sources.error(place, problem));
        }
    }
    if let Some((key, measure, port)) = spec.measured(takes, gives)
        && !measure.ports().contains(&port)
    {
        let ports: Vec<_> = measure.ports().iter().map(ToString::to_string).collect();
        let problem = format!("= `{measure}` is a measure of {}, not of {port}", ports.join(", "));
        let place = keys.iter().find(|(name, _)| name == key).map_or(&name_place, |(_, place)| place);
        return Err(sources.out_of_range(key, place, problem));
    }
    Ok(RecipeStage { name, spec, inputs, bodies, takes, gives })
}

struct Resolver<'a> {
    sources: &'a Sources,
    draft: &'a Draft,
    takes: Option<Port>,
}

impl Resolver<'_> {
    /// The stages' places by their names.
    fn places(&self) -> BTreeMap<&str, usize> {
        self.draft.stages.iter().enumerate().map(|(i, stage)| (stage.name.as_str(), i)).collect()
    }

    /// A stage's inputs, by their places in the draft.
    fn inputs(&self, stage: &DraftStage) -> Result<Vec<Input>, RecipeError> {
        let mut inputs = Vec::with_capacity(stage.inputs.len());
        for (name, place) in &stage.inputs {
            let input = self.input(stage, name, place)?;
            if inputs.contains(&input) {
                return Err(self.sources.out_of_range("input", place, format!("has `{name}` twice")));
            }
            inputs.push(input);
        }
        Ok(inputs)
    }

    fn input(&self, stage: &DraftStage, name: &str, place: &Place) -> Result<Input, RecipeError> {
        if name == QUERY {
            return Ok(Input::Query);
        }
        if name == INPUT && self.takes.is_some() {
            return Ok(Input::Body);
        }
        if let Some(i) = self.draft.stages.iter().position(|other| other.name == name) {
            return Ok(Input::Stage(i));
        }
        let stages = self.places();
        let words = stages.keys().copied().filter(|&other| other != stage.name);
        let choices: Vec<&str> = words.chain([QUERY]).chain(self.takes.map(|_| INPUT)).collect();
        Err(self.sources.unknown(place, "stage", name, &choices))
    }

    /// The stages' places so that inputs come first; of those that are ready, the lowest name.
    fn order(&self, inputs: &[Vec<Input>]) -> Result<Vec<usize>, RecipeError> {
        let places = self.places();
        let mut order = Vec::with_capacity(inputs.len());
        let mut done = vec![false; inputs.len()];
        while order.len() < inputs.len() {
            let is_ready = |&&place: &&usize| !done[place] && stages_of(&inputs[place]).all(|input| done[input]);
            match places.values().find(is_ready) {
                Some(&place) => {
                    done[place] = true;
                    order.push(place);
                }
                None => return Err(self.cycle(inputs, &done)),
            }
        }
        Ok(order)
    }

    /// The circle that the stages which never get ready end in.
    fn cycle(&self, inputs: &[Vec<Input>], done: &[bool]) -> RecipeError {
        let waits_for = |place: usize| {
            let input = stages_of(&inputs[place]).find(|&input| !done[input]);
            input.expect("a stage that is not ready waits for another")
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
        let names = path[start..].iter().rev().map(|&place| self.draft.stages[place].name.clone()).collect();
        self.sources.error(&self.draft.stages[path[start]].inputs_place, RecipeProblem::Cycle { names })
    }

    fn one_output(&self, inputs: &[Vec<Input>], order: &[usize]) -> Result<(), RecipeError> {
        let is_used = |place: usize| inputs.iter().any(|inputs| stages_of(inputs).any(|input| input == place));
        let unused: Vec<usize> = order.iter().copied().filter(|&place| !is_used(place)).collect();
        match unused[..] {
            [] | [_] => Ok(()),
            // The one that comes last in the text is likeliest the result.
            [a, b, ..] => {
                let stages = &self.draft.stages;
                let (first, last) = (a.min(b), a.max(b));
                let (name, other) = (stages[first].name.clone(), stages[last].name.clone());
                Err(self.sources.error(&stages[first].name_place, RecipeProblem::ManyOutputs { name, other }))
            }
        }
    }
}

/// The stages among inputs.
fn stages_of(inputs: &[Input]) -> impl Iterator<Item = usize> {
    inputs.iter().filter_map(|input| match *input {
        Input::Stage(place) => Some(place),
        Input::Query | Input::Body => None,
    })
}
