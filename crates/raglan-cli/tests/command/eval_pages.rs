//! `raglan eval kilt` and `raglan eval frames` on a few pages whose answers are known.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[track_caller]
fn json(cache: &Path, args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.args(args).args(["--json", "--offline", "-q"]).env("RAGLAN_CACHE", cache).env_remove("RAGLAN_INDEX");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A folder of three pages, and a question that needs two of them.
fn write_frames(place: &Path) -> (PathBuf, PathBuf) {
    let pages = place.join("pages");
    fs::create_dir_all(&pages).unwrap();
    fs::write(pages.join("Emma_(novel).txt"), "Emma is a novel. Its writer was Jane Austen.\n").unwrap();
    fs::write(pages.join("Jane_Austen.md"), "# Life\nAusten was born in Steventon.\n\n# Works\nShe wrote novels.")
        .unwrap();
    fs::write(pages.join("Bread.txt"), "Bread is baked from flour.").unwrap();
    let question = r#"{"id": 0, "question": "Where was the writer of the novel Emma born?", "answer": "Steventon",
        "wiki_links": ["https://en.wikipedia.org/wiki/Emma_(novel)", "https://en.wikipedia.org/wiki/Jane_Austen"]}"#;
    let questions = place.join("frames.jsonl");
    fs::write(&questions, question.replace('\n', " ")).unwrap();
    (pages, questions)
}

#[test]
fn pages_of_frames_are_found_in_a_folder() {
    let place = tempfile::tempdir().unwrap();
    let (pages, questions) = write_frames(place.path());
    let (cache, out) = (place.path().join("cache"), place.path().join("out"));
    let [pages, questions] = [&pages, &questions].map(|path| path.to_str().unwrap());
    let args = ["eval", "frames", "--path", questions, "--pages", pages, "--approach", "retrieval"];
    let result = json(&cache, &[&args[..], &["--out", out.to_str().unwrap()]].concat());
    let found = &result["approaches"][0];
    assert_eq!(found["kilt"]["r_precision"], 1.0, "{result}");
    assert_eq!(found["fates"]["found"], 1);
    assert_eq!(found["questions"][0]["pages"][0], "Emma_(novel)");
    let written: Value = serde_json::from_str(&fs::read_to_string(out.join("frames.json")).unwrap()).unwrap();
    assert_eq!(written["recipe"]["hash"], result["recipe"]["hash"]);
    // The index is there: the same is found at once, also from the folder of another run.
    assert_eq!(json(&cache, &args)["approaches"][0]["fates"], found["fates"]);
}

#[test]
fn an_index_without_pages_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let (_, questions) = write_frames(place.path());
    let dump = place.path().join("dump.jsonl");
    fs::write(&dump, "{\"id\": \"1\", \"title\": \"Sea\"}\n").unwrap();
    let (index, cache) = (place.path().join("index"), place.path().join("cache"));
    let [questions, dump, index] = [&questions, &dump, &index].map(|path| path.to_str().unwrap());
    let args = ["eval", "frames", "--path", questions, "--approach", "retrieval", "--index", index, "--offline", "-q"];
    let refused = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_raglan")).args(args).env("RAGLAN_CACHE", &cache).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let damaged = refused(&[&args[..], &["--pages", dump]].concat());
    assert!(damaged.contains("line 1"), "{damaged}");
    // What that left behind is no index of pages.
    let empty = refused(&args);
    assert!(empty.contains(index), "{empty}");
}

#[test]
fn pages_without_text_and_those_of_another_folder_are_told() {
    let place = tempfile::tempdir().unwrap();
    let (pages, questions) = write_frames(place.path());
    let n_pages = fs::read_dir(&pages).unwrap().count();
    let more = place.path().join("more");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("Blank.txt"), "\n \n").unwrap();
    fs::write(more.join("Sea.txt"), "The sea is salt.").unwrap();
    let index = place.path().join("index");
    let [questions, index] = [&questions, &index].map(|path| path.to_str().unwrap());
    let told = |pages: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
        command.args(["eval", "frames", "--path", questions, "--index", index, "--approach", "retrieval", "--offline"]);
        let done = command.arg("--pages").arg(pages).env("RAGLAN_CACHE", place.path()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stderr).unwrap()
    };
    assert!(!told(&pages).contains("more"));
    let told = told(&more);
    assert!(told.contains("1 page without text left out: Blank\n"), "{told}");
    assert!(told.contains(&format!("holds {n_pages} pages more")), "{told}");
}

/// Writes a ZIM file of pages in HTML, by address, with a redirect from `Austen` to the last.
fn write_zim(path: &Path, pages: &[(&str, &str)]) {
    let media_types = b"text/html\0\0";
    let mut cluster = vec![1]; // Not compressed.
    let mut end = 4 * (pages.len() as u32 + 1);
    for length in [0].into_iter().chain(pages.iter().map(|(_, html)| html.len() as u32)) {
        end += length;
        cluster.extend(end.to_le_bytes());
    }
    cluster.extend(pages.iter().flat_map(|(_, html)| html.bytes()));
    let entry = |(blob, (address, _)): (u32, &(&str, &str))| {
        let head = [0, 0, 0, b'C', 0, 0, 0, 0, 0, 0, 0, 0];
        [&head, &blob.to_le_bytes()[..], address.as_bytes(), b"\0\0"].concat()
    };
    let mut entries: Vec<Vec<u8>> = (0..).zip(pages).map(entry).collect();
    let last = pages.len() as u32 - 1;
    entries.push([&[0xFF, 0xFF, 0, b'C', 0, 0, 0, 0][..], &last.to_le_bytes(), b"Austen\0\0"].concat());
    let entries_at = 80 + media_types.len() as u64;
    let clusters_at = entries_at + 8 * entries.len() as u64;
    let mut place = clusters_at + 8;
    let mut file = [&b"ZIM\x04\x06\0\x01\0"[..], &[0; 16]].concat();
    file.extend((entries.len() as u32).to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    [entries_at, 0, clusters_at, 80, 0, 0].iter().for_each(|at: &u64| file.extend(at.to_le_bytes()));
    file.extend(media_types);
    for entry in &entries {
        file.extend(place.to_le_bytes());
        place += entry.len() as u64;
    }
    file.extend(place.to_le_bytes());
    fs::write(path, [file, entries.concat(), cluster].concat()).unwrap();
}

#[test]
fn pages_of_frames_are_found_in_a_zim_file() {
    let place = tempfile::tempdir().unwrap();
    let (_, questions) = write_frames(place.path());
    let zim = place.path().join("wiki.zim");
    let pages = [
        ("Bread", "<p>Bread is baked from flour."),
        ("Emma_(novel)", "<h1>Emma (novel)</h1><p>Emma is a novel. Its writer was Jane Austen.</p>"),
        ("Jane_Austen", "<h1>Jane Austen</h1><h2>Life</h2><p>Austen was born in Steventon.</p>"),
    ];
    write_zim(&zim, &pages);
    let cache = place.path().join("cache");
    let [zim, questions] = [&zim, &questions].map(|path| path.to_str().unwrap());
    let args = ["eval", "frames", "--path", questions, "--pages", zim, "--approach", "retrieval"];
    let result = json(&cache, &args);
    let found = &result["approaches"][0];
    assert_eq!((&found["kilt"]["r_precision"], &found["fates"]["found"]), (&1.0.into(), &1.into()), "{result}");
    let names = found["questions"][0]["pages"].as_array().unwrap();
    assert!(names[0] == "Emma_(novel)" && names[1] == "Jane_Austen", "{names:?}");
    // A link to a redirect means the page that it leads to.
    let question = fs::read_to_string(questions).unwrap().replace("wiki/Jane_Austen", "wiki/Austen");
    fs::write(questions, question).unwrap();
    let result = json(&cache, &args);
    assert_eq!(result["approaches"][0]["questions"][0]["right_pages"][0][1], "Jane_Austen", "{result}");
    // A file that is cut short is told by its name.
    let bytes = fs::read(zim).unwrap();
    fs::write(zim, &bytes[..bytes.len() - 60]).unwrap();
    let index = place.path().join("other").to_str().unwrap().to_owned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    let output =
        command.args(args).args(["--index", &index, "--offline"]).env("RAGLAN_CACHE", &cache).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && told.contains("wiki.zim`: blob 2 of cluster 0 is not there"), "{told}");
}

/// Links of old point to pages that have other names by now.
#[test]
fn right_pages_are_known_by_the_redirects_of_a_dump() {
    let place = tempfile::tempdir().unwrap();
    let page = |id: u32, title: &str, content: &str| {
        format!("<page><title>{title}</title><ns>0</ns><id>{id}</id>{content}</page>")
    };
    let text = |text: &str| format!("<revision><id>9</id><text>{text}</text></revision>");
    let redirect = |to: &str| format!("<redirect title=\"{to}\"/>{}", text(&format!("#REDIRECT [[{to}]]")));
    let all = [
        page(1, "Miss Austen", &redirect("Austen")),
        page(2, "Austen", &redirect("Jane Austen")),
        page(3, "Jane Austen", &text("Austen was born in Steventon.")),
        page(4, "Emma", &text("Emma is a novel. Its writer was Jane Austen.")),
        page(5, "Emma (novel)", &redirect("Emma")),
        page(6, "Bread", &text("Bread is baked from flour.")),
        page(7, "Loaf", &redirect("Loaf")),
        page(8, "6", &redirect("Jane Austen")), // Its title is another page's id.
    ];
    let dump = place.path().join("dump.xml");
    fs::write(&dump, format!("<mediawiki>{}</mediawiki>", all.concat())).unwrap();
    let questions = place.path().join("frames.jsonl");
    let links =
        ["Emma_(novel)", "Miss_Austen", "6", "Jane_Austen"].map(|page| format!("https://en.wikipedia.org/wiki/{page}"));
    let question = serde_json::json!({
        "id": 0, "question": "Where was the writer of the novel Emma born?", "answer": "Steventon", "wiki_links": links,
    });
    fs::write(&questions, question.to_string()).unwrap();
    let (index, cache) = (place.path().join("index"), place.path().join("cache"));
    let [dump, questions, index] = [&dump, &questions, &index].map(|path| path.to_str().unwrap());
    let args = ["eval", "frames", "--path", questions, "--index", index, "--approach", "retrieval"];
    let with_dump = [&args[..], &["--pages", dump]].concat();
    // From the dump, from the index that has it all, and from the index alone.
    for args in [&with_dump[..], &with_dump, &args] {
        let result = json(&cache, args);
        let found = &result["approaches"][0];
        assert_eq!(found["questions"][0]["right_pages"], serde_json::json!([["4", "3"]]), "{args:?}: {result}");
        assert_eq!((&found["kilt"]["r_precision"], &found["fates"]["found"]), (&1.0.into(), &1.into()), "{result}");
        let pages = found["questions"][0]["pages"].as_array().unwrap();
        assert!(pages.iter().all(|page| ["3", "4", "6"].contains(&page.as_str().unwrap())), "{pages:?}");
    }
}

#[test]
fn kilt_takes_a_knowledge_source_and_a_folder_with_judgements() {
    let place = tempfile::tempdir().unwrap();
    let cache = place.path().join("cache");
    let source = place.path().join("source.jsonl");
    let page = |id: &str, title: &str, text: &str| {
        serde_json::json!({"wikipedia_id": id, "wikipedia_title": title, "text": [format!("{title}\n"), text]})
            .to_string()
    };
    let lines = [page("12", "Emma", "Emma is a novel by Austen.\n"), page("13", "Bread", "Bread is baked.\n")];
    fs::write(&source, lines.join("\n")).unwrap();
    let questions = place.path().join("dev.jsonl");
    let output =
        r#"[{"answer": "Austen", "provenance": [{"wikipedia_id": "12"}]}, {"provenance": [{"wikipedia_id": "99"}]}]"#;
    fs::write(&questions, format!(r#"{{"id": "q", "input": "Who wrote the novel Emma?", "output": {output}}}"#))
        .unwrap();
    let index = place.path().join("index");
    let [source, questions, index] = [&source, &questions, &index].map(|path| path.to_str().unwrap());
    let args = ["eval", "kilt", "--path", questions, "--index", index, "--approach", "retrieval"];
    let result = json(&cache, &[&args[..], &["--pages", source]].concat());
    assert_eq!(result["approaches"][0]["kilt"]["r_precision"], 1.0, "{result}");
    // Now the index alone will do.
    assert_eq!(json(&cache, &args)["approaches"][0]["questions"][0]["pages"][0], "12");

    let folder = place.path().join("set");
    fs::create_dir_all(folder.join("qrels")).unwrap();
    fs::write(folder.join("corpus.jsonl"), r#"{"_id": "d", "title": "Emma", "text": "A novel by Austen."}"#).unwrap();
    fs::write(folder.join("queries.jsonl"), r#"{"_id": "q", "text": "novel Emma"}"#).unwrap();
    fs::write(folder.join("qrels/test.tsv"), "query-id\tcorpus-id\tscore\nq\td\t1\n").unwrap();
    let args = ["eval", "kilt", "--path", folder.to_str().unwrap(), "--approach", "retrieval"];
    assert_eq!(json(&cache, &args)["approaches"][0]["fates"]["found"], 1);
}

#[test]
fn tune_says_what_it_lacks() {
    let place = tempfile::tempdir().unwrap();
    let questions = place.path().join("dev.jsonl");
    let record = |i: usize, answer: &str| {
        format!(r#"{{"id": "q{i}", "input": "What is {i}?", "output": [{{"answer": "{answer}"}}]}}"#) + "\n"
    };
    let write = |answers: &[&str]| {
        let lines = answers.iter().enumerate().map(|(i, answer)| record(i, answer));
        fs::write(&questions, lines.collect::<String>()).unwrap();
    };
    let told = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
        command
            .args(["tune", "--path", questions.to_str().unwrap(), "--offline"])
            .args(args)
            .env_remove("RAGLAN_INDEX");
        let output = command.env("RAGLAN_CACHE", place.path().join("cache")).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    write(&["one", "two"]);
    for (args, expected) in [
        (&[][..], "say what a question may cost: `--budget-tokens N` or `--budget-seconds S`"),
        (&["--budget-tokens", "9", "--budget-seconds", "1"], "one of the two: `--budget-tokens` or `--budget-seconds`"),
        (&["--budget-seconds", "0"], "must be a number of seconds above 0"),
        (&["--budget-seconds", "inf"], "must be a number of seconds above 0"),
        (&["--budget-tokens", "9", "--calls", "1,0"], "must be a whole number of at least 1"),
        // The questions are there, and so are budgets; what is still missing comes next.
        (&["--budget-tokens", "9"], "there are no pages: name some with `--pages PATH`"),
    ] {
        let told = told(args);
        assert!(told.contains(expected), "{args:?}: {told}");
    }
    write(&["", " "]);
    let told = told(&["--budget-tokens", "9"]);
    assert!(told.contains("dev.jsonl` has too few questions with answers"), "{told}");
}

/// Asks the default model, when it is in the cache.
#[test]
fn the_default_model_answers_from_the_right_pages() {
    let Some(cache) = std::env::var_os("RAGLAN_CACHE").map(PathBuf::from) else {
        eprintln!("skipped: set RAGLAN_CACHE to a folder with the default model");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let (pages, questions) = write_frames(place.path());
    let index = place.path().join("index");
    let [pages, questions, index] = [&pages, &questions, &index].map(|path| path.to_str().unwrap());
    let approaches = "closed-book,oracle=4,self-ask=1x2";
    let args = ["eval", "frames", "--path", questions, "--pages", pages, "--index", index, "--approach", approaches];
    let result = json(&cache, &[&args[..], &["--answer-tokens", "12"]].concat());
    let approach = |i: usize| &result["approaches"][i];
    assert_eq!(approach(0)["page_recall"].as_array().unwrap().len(), 0);
    assert_eq!(approach(1)["all_pages"], 1.0, "{result}");
    assert_eq!(approach(1)["containment"], 1.0, "{result}");
    assert!(approach(2)["tokens"].as_f64() > approach(0)["tokens"].as_f64());
}
