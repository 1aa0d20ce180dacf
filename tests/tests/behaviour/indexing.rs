//! What an index holds after files were added, changed, moved and removed.

use raglan::Filter;

use crate::common::{embedder, fill, open, settings, update};

fn everything(index: &std::path::Path) -> Vec<(String, String)> {
    let index = open(index).unwrap();
    let mut all = Vec::new();
    for document in index.snapshot().ledger().unwrap().documents() {
        for chunk in index.snapshot().chunks_of(document.id).unwrap() {
            all.push((document.path.clone(), chunk.text));
        }
    }
    all
}

fn searched(index: &std::path::Path, recipe: &str, query: &str) -> Vec<(String, u32)> {
    let outcome = open(index).unwrap().search(&raglan::recipe(recipe).unwrap(), query, &Filter::default()).unwrap();
    outcome.results.into_iter().map(|result| (result.path, result.score.to_bits())).collect()
}

#[test]
fn an_index_kept_up_to_date_answers_like_a_fresh_one() {
    let place = tempfile::tempdir().unwrap();
    let documents = place.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    fill(&documents, 30);
    let kept = place.path().join("kept");
    update(&documents, &kept, 2).unwrap();
    for round in 0..6 {
        std::fs::write(documents.join(format!("{round:03}.md")), format!("# New {round}\n\ncache of round {round}\n"))
            .unwrap();
        std::fs::remove_file(documents.join(format!("{:03}.md", 10 + round))).unwrap();
        std::fs::rename(documents.join(format!("{:03}.md", 20 + round)), documents.join(format!("moved-{round}.md")))
            .unwrap();
        let report = update(&documents, &kept, 2).unwrap();
        assert_eq!((report.changed, report.deleted, report.moved, report.new), (1, 1, 1, 0), "{report:?}");
        assert_eq!(report.found, report.unchanged + report.changed + report.moved);
        assert!(raglan::store::verify(&kept).unwrap().is_clean());
    }
    let fresh = place.path().join("fresh");
    update(&documents, &fresh, 2).unwrap();
    assert_eq!(everything(&kept), everything(&fresh));
    for (recipe, query) in [("bm25", "cache round"), ("dense", "manifest of a commit"), ("bm25", "token vector")] {
        let (mut kept, mut fresh) = (searched(&kept, recipe, query), searched(&fresh, recipe, query));
        // Ids differ, and with them the order of equal scores.
        kept.sort();
        fresh.sort();
        let scores = |results: &[(String, u32)]| {
            results.iter().map(|(_, score)| *score).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(scores(&kept), scores(&fresh), "{recipe}: {query}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let documents = place.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    fill(&documents, 20);
    let mut all = Vec::new();
    for threads in [1, 2, 4] {
        let index = place.path().join(threads.to_string());
        update(&documents, &index, threads).unwrap();
        all.push((
            everything(&index),
            searched(&index, "hybrid", "cache manifest"),
            searched(&index, "bm25", "ranking"),
        ));
    }
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

#[test]
fn another_model_is_refused_with_the_remedy() {
    let place = tempfile::tempdir().unwrap();
    let documents = place.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    fill(&documents, 2);
    let index = place.path().join("index");
    update(&documents, &index, 1).unwrap();
    let other =
        raglan::IndexSettings { build: raglan::BuildSettings::new(raglan::Encoders::default(), 1), ..settings(1) };
    let refused = raglan::Indexer::new(&documents, &index, other);
    let error = refused.update(raglan::Start::Continue, &(), &std::sync::atomic::AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("--rebuild"), "{error}");
    assert_eq!(everything(&index).len(), everything(&index).len());
}

#[test]
fn an_index_gets_the_vectors_that_it_lacks() {
    let place = tempfile::tempdir().unwrap();
    let documents = place.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    fill(&documents, 20);
    let (extended, whole) = (place.path().join("extended"), place.path().join("whole"));
    let update_with = |encoders: raglan::Encoders, index: &std::path::Path| {
        let settings = settings(1);
        let build = raglan::BuildSettings { encoders, ..settings.build };
        let indexer = raglan::Indexer::new(&documents, index, raglan::IndexSettings { build, ..settings });
        indexer.update(raglan::Start::Continue, &(), &std::sync::atomic::AtomicBool::new(false))
    };
    let dense = || raglan::Encoders::dense(Some(embedder()));
    update_with(raglan::Encoders::default(), &extended).unwrap();
    let report = update_with(dense(), &extended).unwrap();
    assert_eq!((report.extended, report.unchanged, report.chunks_written), (report.chunks, 20, 0));
    assert_eq!(update_with(dense(), &extended).unwrap().extended, 0);

    update(&documents, &whole, 1).unwrap();
    assert_eq!(everything(&extended), everything(&whole));
    for recipe in ["hybrid", "dense"] {
        assert_eq!(searched(&extended, recipe, "cache manifest"), searched(&whole, recipe, "cache manifest"));
    }
    // What it has is not taken away.
    assert!(update_with(raglan::Encoders::default(), &extended).is_err());
}

#[test]
fn an_interrupted_update_goes_on_where_it_stopped() {
    let place = tempfile::tempdir().unwrap();
    let documents = place.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    fill(&documents, 40);
    let (stopped, whole) = (place.path().join("stopped"), place.path().join("whole"));
    update(&documents, &whole, 2).unwrap();

    struct StopAfter<'a>(std::sync::atomic::AtomicUsize, &'a std::sync::atomic::AtomicBool);
    impl raglan::IndexProgress for StopAfter<'_> {
        fn event(&self, event: raglan::IndexEvent<'_>) {
            use std::sync::atomic::Ordering::Relaxed;
            if matches!(event, raglan::IndexEvent::Read { .. }) && self.0.fetch_sub(1, Relaxed) == 1 {
                self.1.store(true, Relaxed);
            }
        }
    }
    let mut runs = 0;
    loop {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let progress = StopAfter(7.into(), &stop);
        let report = raglan::Indexer::new(&documents, &stopped, settings(2))
            .update(raglan::Start::Continue, &progress, &stop)
            .unwrap();
        assert!(raglan::store::verify(&stopped).unwrap().is_clean());
        runs += 1;
        if !report.interrupted {
            break;
        }
        assert_eq!(report.new, 7);
    }
    assert_eq!(runs, 6); // 7 files a run, 5 in the last
    assert_eq!(everything(&stopped), everything(&whole));
    assert_eq!(searched(&stopped, "hybrid", "cache manifest"), searched(&whole, "hybrid", "cache manifest"));
}
