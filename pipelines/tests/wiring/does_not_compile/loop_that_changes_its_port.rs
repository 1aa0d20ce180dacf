use raglan_pipeline::{Bm25Spec, LoopSpec, Measure, ReadSpec, RecipeBuilder};

fn main() {
    let mut recipe = RecipeBuilder::new();
    let found = recipe.add("found", Bm25Spec::new(), recipe.query());
    let rounds = LoopSpec::new(Measure::Score, 1.0, 3);
    recipe.repeat("rounds", rounds, found, |round, found| round.add("context", ReadSpec {}, found));
}
