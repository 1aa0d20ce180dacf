use raglan_pipeline::{ReadSpec, RecipeBuilder};

fn main() {
    let mut recipe = RecipeBuilder::new();
    let query = recipe.query();
    recipe.add("context", ReadSpec {}, query);
}
