//! Questions with answers, and tables.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use raglan_datasets::beir::{self, Document, Query};
use raglan_datasets::trec_topics::{self, Topic};
use raglan_datasets::{Error, Qrels, Run, frames, kilt};
use tempfile::TempDir;

fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

#[track_caller]
fn check_topics(content: &str, expected: &[[&str; 4]]) {
    let (_folder, path) = file("topics.txt", content);
    let topics = trec_topics::read(&path).unwrap();
    let expected: Vec<Topic> = expected
        .iter()
        .map(|[id, title, description, narrative]| Topic {
            id: id.to_string(),
            title: title.to_string(),
            description: description.to_string(),
            narrative: narrative.to_string(),
        })
        .collect();
    assert_eq!(topics, expected);
}

#[test]
fn classic_topics() {
    check_topics(
        "<top>\n\n<num> Number: 301\n<title> International Organized Crime\n\n<desc> Description:\nIdentify \
         organizations that\nparticipate.\n\n<narr> Narrative:\nA relevant document must (a < b) do.\n\n</top>\n\n\
         <top>\n<num>302</num><title>Polio &amp; Co</title>\n</top>\n",
        &[
            [
                "301",
                "International Organized Crime",
                "Identify organizations that participate.",
                "A relevant document must (a < b) do.",
            ],
            ["302", "Polio & Co", "", ""],
        ],
    );
}

#[test]
fn xml_topics() {
    check_topics(
        "<?xml version=\"1.0\"?>\n<topics task=\"COVIDSearch\">\n<topic number=\"1\">\n<query>origin</query>\n\
         <question>what is the origin</question>\n<narrative>seeking</narrative>\n</topic>\n<topic number='2' \
         lang=\"en\"><title>t</title></topic></topics>",
        &[["1", "origin", "what is the origin", "seeking"], ["2", "t", "", ""]],
    );
}

#[test]
fn topics_as_lines() {
    check_topics("1\tone  two\n\n2\tthree\tfour\n", &[["1", "one two", "", ""], ["2", "three four", "", ""]]);
    check_topics("", &[]);
}

#[test]
fn a_topic_is_asked_by_its_title() {
    let topic = Topic { id: "7".into(), description: "whole sentence".into(), ..Topic::default() };
    assert_eq!(topic.query(), Query { id: "7".into(), text: "whole sentence".into() });
}

#[track_caller]
fn topics_fail(content: &str, at_line: usize, says: &str) {
    let (_folder, path) = file("topics.txt", content);
    match trec_topics::read(&path) {
        Err(Error::Malformed { line, problem, .. }) => {
            assert_eq!(line, at_line);
            assert!(problem.contains(says), "{problem}");
        }
        other => panic!("expected `{says}`, found {other:?}"),
    }
}

#[test]
fn malformed_topics_are_named() {
    topics_fail("1 one\n", 1, "a tab");
    topics_fail("1\ta\n1\tb\n", 2, "twice");
    topics_fail("<top>\n<title> a\n</top>", 1, "no number");
    topics_fail("<top>\n<num> 1\n<title> a\n</top>\n<top>\n<num> 2\n</top>", 5, "no title");
}

#[test]
fn kilt_records() {
    let (_folder, path) = file(
        "dev.jsonl",
        r#"{"id": 5, "input": "?", "output": [{"answer": "yes", "provenance": [{"wikipedia_id": 7, "title": "P", "start_paragraph_id": 1, "end_paragraph_id": 2, "meta": {}}]}, {"provenance": [{"wikipedia_id": "8"}]}]}"#,
    );
    let records = kilt::read(&path).unwrap();
    assert_eq!((records.len(), &*records[0].id, &*records[0].input), (1, "5", "?"));
    let [answer, source] = &records[0].outputs[..] else { panic!("two outputs") };
    assert_eq!(answer.answer.as_deref(), Some("yes"));
    let page = &answer.provenance[0];
    assert_eq!((&*page.wikipedia_id, &*page.title, page.paragraphs), ("7", "P", Some((1, 2))));
    assert_eq!((&source.answer, &*source.provenance[0].wikipedia_id), (&None, "8"));

    let (_folder, path) = file("dev.jsonl", "{\"id\": \"a\", \"output\": []}\n{\"id\": \"b\"}\n");
    let told = kilt::read(&path).unwrap_err().to_string();
    assert!(told.contains("line 2: column") && told.contains("missing field `output`"), "{told}");
}

#[test]
fn frames_as_a_table() {
    let (_folder, path) = file(
        "test.tsv",
        "\tPrompt\tAnswer\twikipedia_link_1\treasoning_types\twiki_links\n\
         0\t\"Who said \"\"no\"\"\n twice?\"\tJane\thttps://e.org/A\tNumerical reasoning | Tabular reasoning\t\
         ['https://e.org/A', \"https://e.org/B's\"]\n",
    );
    let questions = frames::read(&path).unwrap();
    assert_eq!(questions.len(), 1);
    assert_eq!((&*questions[0].id, &*questions[0].answer), ("0", "Jane"));
    assert_eq!(questions[0].text, "Who said \"no\"\n twice?");
    assert_eq!(questions[0].wiki_links, ["https://e.org/A", "https://e.org/B's"]);
    assert_eq!(questions[0].reasoning_types, ["Numerical reasoning", "Tabular reasoning"]);

    // The same columns as a line each.
    let line = r#"{"id": 0, "Prompt": "Who?", "Answer": "Jane", "wiki_links": "['https://e.org/A']", "reasoning_types": "a | b"}"#;
    let (_folder, path) = file("test.jsonl", line);
    let questions = frames::read(&path).unwrap();
    assert_eq!((&*questions[0].text, &*questions[0].answer), ("Who?", "Jane"));
    assert_eq!((&*questions[0].wiki_links.concat(), questions[0].reasoning_types.len()), ("https://e.org/A", 2));

    let (_folder, path) = file("test.tsv", "Prompt\tReply\nq\ta\n");
    let told = frames::read(&path).unwrap_err().to_string();
    assert!(told.contains("no column `Answer`, but `Prompt`, `Reply`"), "{told}");
    let (_folder, path) = file("test.csv", "");
    assert!(matches!(frames::read(&path), Err(Error::Table { .. })));
}

fn run() -> Run {
    let mut run = Run::default();
    run.set("q2", [("a", 1.0), ("b", 1.0 / 3.0), ("ü", -2.5e-7)]);
    run.set("q1", (0..9000).map(|i| (format!("d{i}"), (i % 700) as f32)));
    run
}

#[test]
fn tables_read_back_as_written() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    run().write_parquet(&at("a.parquet")).unwrap();
    assert_eq!(Run::read(&at("a.parquet")).unwrap(), run());

    let mut qrels = Qrels::default();
    for (query, id, grade) in [("q1", "a", 2), ("q1", "b", -1), ("q2", "a", 0)] {
        qrels.insert(query, id, grade);
    }
    fs::create_dir(at("qrels")).unwrap();
    qrels.write_parquet(&at("qrels/dev.parquet")).unwrap();
    let document = |id: &str, title: &str| Document { id: id.into(), title: title.into(), text: "téxt\n".into() };
    let documents = vec![document("a", ""), document("b", "title")];
    beir::write_documents_parquet(&at("corpus.parquet"), &documents).unwrap();
    let queries = vec![Query { id: "q1".into(), text: "?".into() }];
    beir::write_queries_parquet(&at("queries.parquet"), &queries).unwrap();
    let collection = beir::read(folder.path(), "dev").unwrap();
    assert_eq!((collection.documents, collection.queries, collection.qrels), (documents, queries, qrels));
    assert_eq!(beir::splits(folder.path()), ["dev"]);

    Run::default().write_parquet(&at("empty.parquet")).unwrap();
    assert_eq!(Run::read(&at("empty.parquet")).unwrap(), Run::default());
}

#[test]
fn damaged_and_foreign_tables_are_errors() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    run().write_parquet(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    assert!(matches!(Qrels::read(&path), Err(Error::Table { problem, .. }) if problem.contains("grade `0.3")));
    let told = beir::read_documents_parquet(&path).unwrap_err().to_string();
    assert!(told.contains("no column `_id`, but `query-id`, `corpus-id`, `rank`, `score`"), "{told}");
    for kept in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..kept]).unwrap();
        assert!(matches!(Run::read(&path), Err(Error::Table { .. })), "{kept} bytes");
    }
    let missing = folder.path().join("b.parquet");
    assert!(matches!(Run::read(&missing), Err(Error::Missing { .. })));
}

/// Blocks of half a megabyte: lines that straddle them, queries that come again, orders that must be made.
#[test]
fn a_run_of_many_blocks_is_the_run() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.run");
    let mut lines: Vec<String> = Vec::new();
    let mut expected = Run::default();
    for query in 0..60 {
        let score = |i: usize| ((i * 7919 + query) % 1009) as f32 / 8.0;
        expected.set(&format!("q{query}"), (0..1000).map(|i| (format!("document-{i}"), score(i))));
        lines.extend((0..1000).map(|i| format!("q{query}\tQ0 document-{i}   1 {} a-tag\n", score(i))));
    }
    fs::write(&path, lines.concat()).unwrap();
    assert_eq!(Run::read(&path).unwrap(), expected);
    // Each query in every block, without a line feed at the end, and packed.
    let shuffled: String = (0..lines.len()).map(|i| &*lines[i * 7 % lines.len()]).collect();
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
    encoder.write_all(shuffled.trim_end().as_bytes()).unwrap();
    encoder.finish().unwrap();
    fs::rename(&path, path.with_extension("run.gz")).unwrap();
    assert_eq!(Run::read(&path).unwrap(), expected);
}

#[test]
fn problems_deep_in_a_run_are_told_with_their_line() {
    let (_folder, path) = file("a.run", "");
    let lines = |i: usize| format!("q{} Q0 d{i} 1 0.5 tag\n", i / 100);
    for (broken, says) in [
        ("q Q0 d 1 0.5\n", "expected 6 fields, found 5"),
        ("q Q0 d 1 0.5 tag more\n", "expected 6 fields, found 7"),
        ("q Q0 d 1 0.x tag\n", "`0.x` is not a number"),
        ("q3 Q0 d300 1 7 tag\n", "query `q3` has document `d300` twice"),
    ] {
        let text: String = (0..70_000).map(|i| if i == 60_000 { broken.to_owned() } else { lines(i) }).collect();
        fs::write(&path, text).unwrap();
        match Run::read(&path) {
            Err(Error::Malformed { line, problem, .. }) => {
                assert_eq!(line, 60_001, "{problem}");
                assert!(problem.contains(says), "{problem}");
            }
            other => panic!("expected `{says}`, found {:?}", other.map(|run| run.n_queries())),
        }
    }
    let mut bytes: Vec<u8> = (0..70_000).flat_map(|i| lines(i).into_bytes()).collect();
    let at = bytes.len() - 5;
    bytes[at] = 0xff;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Run::read(&path), Err(Error::Malformed { line: 70_000, .. })));
}

fn published() -> Option<PathBuf> {
    let folder = std::env::var_os("RAGLAN_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("did not run: RAGLAN_DATA does not name the folder of evaluation data");
    }
    folder
}

#[test]
fn published_questions_have_the_counts_that_their_makers_state() {
    let Some(folder) = published() else { return };
    let records = kilt::read(&folder.join("kilt/hotpotqa-dev-kilt.jsonl")).unwrap();
    assert_eq!(records.len(), 5600);
    assert!(records.iter().all(|record| record.outputs.iter().any(|output| output.answer.is_some())));
    let questions = frames::read(&folder.join("frames/frames-test.jsonl.gz")).unwrap();
    assert_eq!(questions.len(), 824);
    assert_eq!(questions[0].answer, "Jane Ballou");
    let topics =
        trec_topics::read(&folder.join("learned-sparse-queries/topics.dl19-passage.splade-v3.tsv.gz")).unwrap();
    assert_eq!(topics.len(), 43);
}

#[test]
fn every_published_collection_reads() {
    let Some(folder) = published() else { return };
    let mut n_read = 0;
    for group in ["beir", "classic", "other", "kilt", "multihop", "rerank", "qa"] {
        for entry in fs::read_dir(folder.join(group)).unwrap() {
            let path: &Path = &entry.unwrap().path();
            if path.is_dir() {
                let collection = beir::read(path, "test").unwrap();
                let ids: std::collections::HashSet<&str> =
                    collection.documents.iter().map(|document| &*document.id).collect();
                let mut judged = collection.qrels.iter().flat_map(|(_, grades)| grades.keys()).peekable();
                assert!(judged.peek().is_some() && judged.all(|id| ids.contains(&**id)), "{}", path.display());
                n_read += 1;
            }
        }
    }
    assert!(n_read >= 10, "only {n_read} collections were read");
}
