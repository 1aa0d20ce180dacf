//! The report's two forms.

use std::collections::BTreeMap;

use raglan_eval::{CollectionStamp, Error, Latency, Metric, Report, ResultFile, StageResult, Stamp};

const NDCG: Metric = Metric::Ndcg { k: Some(10) };

/// A result whose queries have these values, with times around `ms`.
fn result(recipe: &str, values: &[f64], ms: f64) -> ResultFile {
    let queries = || values.iter().enumerate().map(|(i, value)| (format!("q{i}"), *value));
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let metrics = [("ndcg@10", mean), ("recall@100", mean.sqrt())];
    let mut result = ResultFile {
        recipe: Stamp { name: recipe.into(), hash: format!("blake3:{:016x}", values.len() + recipe.len()) },
        collection: CollectionStamp {
            name: "a <b> & |c|".into(),
            split: "test".into(),
            qrels_hash: "blake3:42".into(),
            n_documents: 5183,
            n_queries: values.len(),
            ..CollectionStamp::default()
        },
        models: vec![Stamp { name: "encoder".into(), hash: "blake3:e".into() }],
        revision: "0123456789abcdef".into(),
        device: "a machine".into(),
        threads: 2,
        peak_memory: 123_456_789,
        metrics: metrics.map(|(name, mean)| (name.to_owned(), mean)).into(),
        n_judged: values.len(),
        n_answered: values.len(),
        per_query: BTreeMap::from([("ndcg@10".to_owned(), queries().collect())]),
        stages: vec![
            StageResult { name: "retrieve".into(), recall_after: 0.9, ..StageResult::default() },
            StageResult {
                name: "rerank <10>".into(),
                recall_before: Some(0.9),
                recall_after: 0.7,
                latency_ms: Latency { p50: ms, p95: ms * 2.0, p99: ms * 3.0, mean: ms },
                model_cost: None,
            },
        ],
        ..ResultFile::default()
    };
    result.time(queries().enumerate().map(|(i, (query, _))| (query, ms * (1.0 + i as f64 / 10.0))));
    result
}

/// Three recipes on 40 queries: one that is best, one that differs by chance, one that is worse.
fn results() -> Vec<ResultFile> {
    let values =
        |shift: f64| (0..40).map(|i| (f64::from(i * 17 % 23) / 23.0 + shift).clamp(0.0, 1.0)).collect::<Vec<_>>();
    let jitter =
        values(0.0).iter().enumerate().map(|(i, v)| v + if i % 2 == 0 { 0.02 } else { -0.021 }).collect::<Vec<_>>();
    vec![result("worse", &values(-0.2), 0.4), result("best", &values(0.0), 12.0), result("equal", &jitter, 3.0)]
}

#[test]
fn markdown_is_sorted_and_marked() {
    let results = results();
    let text = Report::new(&results, NDCG).unwrap().markdown();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(1).take(3).collect();
    assert!(rows[0].starts_with("| best |") && rows[0].contains("| best | "), "{text}");
    assert!(rows[1].starts_with("| equal |") && !rows[1].contains('▾'), "{text}");
    assert!(rows[2].starts_with("| worse |") && rows[2].contains("< .001 ▾"), "{text}");
    assert!(text.contains("## a \\<b\\> & \\|c\\| · test"), "{text}");
    assert!(text.contains("equal cannot be told from it. Of those, equal answers 4.0 times as fast."), "{text}");
}

#[test]
fn the_page_is_well_formed_and_stands_alone() {
    let results = results();
    let page = Report::new(&results, NDCG).unwrap().html();
    well_formed(&page);
    for part in ["Quality against latency", "Latency distribution", "Quality per stage", "Query by query"] {
        assert!(page.contains(part), "{part}");
    }
    for foreign in ["<script", "http:", "https:", "url(", "@import", "NaN", "inf\"", "inf "] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("a &lt;b&gt; &amp; |c|") && page.contains("rerank &lt;10&gt;"));
}

#[test]
fn little_is_enough() {
    let mut bare = result("bare", &[0.5], 1.0);
    bare.stages.clear();
    bare.per_query_latency_ms.clear();
    bare.latency_ms = Latency::default();
    for results in [vec![], vec![bare.clone()], vec![bare.clone(), bare.clone()], vec![result("all", &[0.0; 3], 0.0)]] {
        let report = Report::new(&results, NDCG).unwrap();
        well_formed(&report.html());
        assert!(!report.html().contains("NaN") && !report.markdown().contains("NaN"));
    }
}

#[test]
fn other_collections_are_other_sections() {
    let (a, mut b) = (result("a", &[0.5, 1.0], 1.0), result("b", &[0.75, 1.0], 1.0));
    b.collection.qrels_hash = "blake3:other".into();
    let results = [a, b];
    let text = Report::new(&results, NDCG).unwrap().markdown();
    assert_eq!(text.matches("\n## ").count(), 2);
}

#[test]
fn a_metric_that_is_not_there_is_told() {
    let results = results();
    let error = Report::new(&results, Metric::RPrecision).err().expect("no result has it");
    assert!(
        matches!(&error, Error::NoMetric { recipe, there, .. } if recipe == "worse" && there == "ndcg@10"),
        "{error}"
    );
}

/// Checks that tags nest, attributes are quoted, and ampersands begin entities, as XML asks.
#[track_caller]
fn well_formed(page: &str) {
    let body = page.strip_prefix("<!DOCTYPE html>\n").expect("a doctype");
    let (style_start, style_end) =
        (body.find("<style>").expect("a style") + 7, body.find("</style>").expect("its end"));
    let body = format!("{}{}", &body[..style_start], &body[style_end..]);
    let mut open: Vec<&str> = Vec::new();
    let mut rest = &*body;
    while let Some(start) = rest.find('<') {
        let (text, tag) = (&rest[..start], &rest[start + 1..]);
        for (at, _) in text.match_indices('&') {
            let entity = text[at + 1..].split(';').next().unwrap_or_default();
            assert!(["amp", "lt", "gt", "quot", "#39"].contains(&entity), "`&{entity}`");
        }
        assert!(!text.contains('>'), "`{text}`");
        let end = tag.find('>').expect("a tag ends");
        let inside = &tag[..end];
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else {
            let name = inside.split([' ', '/']).next().expect("a split has a part");
            assert_eq!(inside.matches('"').count() % 2, 0, "<{inside}>");
            if !inside.ends_with('/') {
                open.push(name);
            }
        }
        rest = &tag[end + 1..];
    }
    assert!(open.is_empty(), "{open:?} are open at the end");
}
