//! What checking a recipe costs, and what a stage costs beyond its own work.
//!
//! Hides nothing but the work of real parts: each stage copies its three hits, as every stage does.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use raglan_core::{ChunkId, Hit, Query, Ranking, Result, Retriever};
use raglan_pipeline::{Part, Recipe, Stage, retrieve, select};

const STAGES: usize = 12;

/// A retriever that finds the same chunks whatever is asked.
struct Always;

impl Retriever for Always {
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
        let hits = || [(1, 3.0), (2, 2.0), (3, 1.0)].map(|(id, score)| Hit::new(ChunkId(id), score)).to_vec();
        queries.iter().map(|_| Ranking::best(hits(), k)).collect()
    }
}

/// Microseconds, the median of 201 runs.
fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..201)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[100]
}

fn check(text: &str) -> Recipe {
    Recipe::check(Path::new("r.toml"), text).expect("the recipe is sound")
}

fn main() {
    let mut text = "stage.s00.use = 'bm25'\n".to_owned();
    for i in 1..STAGES {
        text += &format!("stage.s{i:02} = {{ use = 'select', input = 's{:02}', k = 3 }}\n", i - 1);
    }
    println!("check of twelve stages: {:.0} µs", median(|| drop(check(&text))));
    let best = Recipe::shipped_text("best").expect("it is shipped");
    println!("check of `best`: {:.0} µs", median(|| drop(check(best))));

    let parts = |_: &_| Ok::<_, raglan_core::Error>(Part::Retriever(Arc::new(Always)));
    let pipeline = check(&text).bind(parts).expect("the only part is a retriever");
    let whole = median(|| drop(pipeline.run(vec!["q".into()]).expect("nothing can fail")));
    println!("recipe: {:.2} µs a stage", whole / STAGES as f64);

    let first = retrieve(Arc::new(Always), 3).boxed();
    let typed = (1..STAGES).fold(first, |stage, _| stage.then(select(3)).boxed());
    let whole = median(|| drop(typed.run(vec!["q".into()]).expect("nothing can fail")));
    println!("typed stages: {:.2} µs a stage", whole / STAGES as f64);
}
