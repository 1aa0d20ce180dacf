//! Agreement with `trec_eval` on recorded runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use raglan_datasets::{Qrels, Run};
use raglan_eval::{Metric, evaluate};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    mean_of_answered: BTreeMap<String, f64>,
    n_judged: usize,
    queries: BTreeMap<String, BTreeMap<String, f64>>,
}

/// What summing in another order may change.
const TOLERANCE: f64 = 1e-9;

#[test]
fn every_query_agrees_with_trec_eval() {
    let Some(folder) = std::env::var_os("RAGLAN_DATA") else {
        eprintln!("did not run: RAGLAN_DATA does not name the folder of evaluation data");
        return;
    };
    let folder = Path::new(&folder).join("eval-fixtures");
    let mut n_values = 0;
    for name in ["tiny", "ties", "float32-ties", "negative-grades", "graded-many-ties", "scifact-bm25"] {
        let run = Run::read_trec(&folder.join(format!("{name}.run"))).expect("a run");
        let qrels = Qrels::read_trec(&folder.join(format!("{name}.qrels"))).expect("judgements");
        let expected = fs::read(folder.join(format!("{name}.expected.json"))).expect("expected values");
        let expected: Expected = serde_json::from_slice(&expected).expect("expected values");
        for (metric, &mean) in &expected.mean_of_answered {
            let evaluation = evaluate(&run, &qrels, metric.parse::<Metric>().expect("a metric"));
            assert!((evaluation.mean_of_answered - mean).abs() <= TOLERANCE, "{name}: mean {metric}");
            assert_eq!(evaluation.per_query.len(), expected.n_judged, "{name}");
            let sum: f64 = expected.queries.values().map(|values| values[metric]).sum();
            assert!((evaluation.mean - sum / expected.n_judged as f64).abs() <= TOLERANCE, "{name}: -c mean {metric}");
            assert_eq!(evaluation.n_answered, expected.queries.len(), "{name}: {metric}");
            for (query, values) in &expected.queries {
                let (got, want) = (evaluation.per_query[query], values[metric]);
                assert!((got - want).abs() <= TOLERANCE, "{name} {query}: {metric} is {got}, not {want}");
                n_values += 1;
            }
        }
    }
    assert!(n_values >= 300, "only {n_values} values were compared");
}
