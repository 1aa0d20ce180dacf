//! N-grams and the graph of entities, kept up to date with a folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use raglan::core::{ChunkId, ChunkStore, Query, Retriever};
use raglan::graph::GraphSearch;
use raglan::model::registry::Silent;
use raglan::ngram::{BeamSearch, SealScoring};
use raglan::{BuildSettings, Encoders, Index, IndexReport, IndexSettings, Indexer, Models, NgramSearch, Start};

use crate::common::{embedder, settings};

/// Texts in which what a question asks for is two steps away.
const TEXTS: [(&str, &str); 6] = [
    ("collegian.md", "The Collegian is a paper that students of Houston Baptist University publish every second week."),
    ("houston.md", "Houston Baptist University opened in Texas in 1960 with a few hundred students."),
    ("tribune.md", "The Tribune was founded as a paper for farmers. Who owned the Tribune is not known."),
    ("gazette.md", "The Gazette was founded by an institute in Ohio, and owned by it for a century."),
    ("herald.md", "When the Herald was founded, nobody read it, and so its owner closed it."),
    ("guild.md", "Owners of papers founded the Guild, an institute of their own."),
];

fn models() -> Models {
    Models::new(None, true, 2, Arc::new(Silent)).expect("the platform has a convention")
}

fn update(documents: &Path, index: &Path, encoders: Encoders) -> IndexReport {
    let settings = settings(1);
    let build = BuildSettings { encoders, ..settings.build };
    let indexer = Indexer::new(documents, index, IndexSettings { build, ..settings });
    indexer.update(Start::Continue, &(), &AtomicBool::new(false)).unwrap()
}

fn open(index: &Path) -> Index {
    let encoders = |passport: &_| Ok(Encoders { dense: Some(embedder()), ..models().encoders_of(passport, index) });
    Index::open(index, encoders).unwrap().with_models(models())
}

/// The documents of what was found, with their scores, in order of path.
fn found(index: &Index, retriever: &dyn Retriever, question: &str) -> Vec<(String, f32)> {
    let ranking = retriever.search(&[Query::new(question)], 10).unwrap().remove(0);
    let path = |chunk: ChunkId| {
        let chunk = index.snapshot().chunks(&[chunk]).unwrap().remove(0);
        index.snapshot().document(chunk.doc).unwrap().path.clone()
    };
    let mut found: Vec<_> = ranking.hits().iter().map(|hit| (path(hit.chunk), hit.score)).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[track_caller]
fn check_alike(kept: &[(String, f32)], fresh: &[(String, f32)]) {
    assert_eq!(kept.len(), fresh.len());
    for (kept, fresh) in kept.iter().zip(fresh) {
        // Chunks have other ids, and sums another order.
        assert!(kept.0 == fresh.0 && (kept.1 - fresh.1).abs() <= 1e-5 * fresh.1, "{kept:?} {fresh:?}");
    }
}

/// A folder that changes, an index kept up to date with it that gets further parts only later, and one of its last state.
fn kept_and_fresh(place: &Path, encoders: &Encoders) -> [PathBuf; 2] {
    let documents = place.join("documents");
    std::fs::create_dir(&documents).unwrap();
    let [kept, fresh] = ["kept", "fresh"].map(|name| place.join(name));
    for (name, text) in &TEXTS[..4] {
        std::fs::write(documents.join(name), text).unwrap();
    }
    std::fs::write(documents.join("gone.md"), "Houston Baptist University and the Collegian are told of here too.")
        .unwrap();
    update(&documents, &kept, Encoders::dense(Some(embedder())));
    let report = update(&documents, &kept, encoders.clone());
    assert_eq!((report.extended, report.unchanged), (5, 5));
    for (name, text) in &TEXTS[4..] {
        std::fs::write(documents.join(name), text).unwrap();
    }
    std::fs::remove_file(documents.join("gone.md")).unwrap();
    std::fs::write(documents.join("tribune.md"), "Something else, of the Herald.").unwrap();
    update(&documents, &kept, encoders.clone());
    std::fs::write(documents.join("tribune.md"), TEXTS[2].1).unwrap();
    let report = update(&documents, &kept, encoders.clone());
    assert_eq!((report.extended, report.changed), (0, 1));
    assert!(raglan::store::verify(&kept).unwrap().is_clean());
    update(&documents, &fresh, encoders.clone());
    [kept, fresh]
}

#[test]
fn a_graph_is_kept_up_to_date_and_finds_what_vectors_do_not() {
    let place = tempfile::tempdir().unwrap();
    let encoders =
        Encoders { graph: Some(models().graph_extractor(Models::RULES).unwrap()), ..Encoders::dense(Some(embedder())) };
    let question = "When was the institute that owned The Collegian founded?";
    let [kept, fresh] = kept_and_fresh(place.path(), &encoders).map(|folder| {
        let index = open(&folder);
        found(&index, &*index.graph_retriever(1000, GraphSearch::default()).unwrap(), question)
    });
    check_alike(&kept, &fresh);
    let score = |path: &str| fresh.iter().find(|(other, _)| other == path).map(|(_, score)| *score);
    assert!(score("collegian.md") > score("gazette.md") && score("houston.md") > score("gazette.md"), "{fresh:?}");

    // A question that names nobody is answered by vectors.
    let index = open(&place.path().join("fresh"));
    let walked = found(&index, &*index.graph_retriever(1000, GraphSearch::default()).unwrap(), "read for a century");
    let dense = found(&index, &*index.dense_retriever(Default::default()).unwrap(), "read for a century");
    assert_eq!(walked, dense);
}

#[test]
fn ngrams_are_kept_up_to_date_generated_and_quoted() {
    let name = "smollm2-135m-instruct";
    let Ok(tokenizer) = models().ngram_tokenizer(name) else {
        println!("not run: {name} is not in the cache");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let encoders = Encoders { ngrams: Some(tokenizer), ..Encoders::dense(Some(embedder())) };
    let question = "Which paper do students of the university publish?";
    let folders = kept_and_fresh(place.path(), &encoders);
    // There are few tokens.
    let scoring = SealScoring { smoothing: 0.1, ..SealScoring::default() };
    let own = NgramSearch { scoring, ..NgramSearch::default() };
    let generated = NgramSearch { generated: BeamSearch { beams: 3, max_tokens: 4 }, ..own };
    for search in [own, generated] {
        let [kept, fresh] = folders.clone().map(|folder| {
            let index = open(&folder);
            found(&index, &*index.ngram_retriever(search, "ngrams").unwrap(), question)
        });
        check_alike(&kept, &fresh);
        // Of so few tokens, each is likelier anyway than behind a model's question.
        if search == own {
            let best = fresh.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            assert_eq!(best.0, "collegian.md", "{fresh:?}");
        }
    }

    let index = open(&folders[0]);
    let answer = "It is known that students of Houston Baptist University publish every second week.";
    let quotations = index.quotations(answer, 5).unwrap();
    assert_eq!(quotations.len(), 1);
    let quotation = &quotations[0];
    assert_eq!(
        answer[quotation.span.clone()].trim(),
        "that students of Houston Baptist University publish every second week."
    );
    let chunk = index.snapshot().chunks(&[quotation.chunk]).unwrap().remove(0);
    assert!(chunk.text.contains(&answer[quotation.span.clone()]));
}
