//! Evaluations that Ctrl-C ends in good order: they say so, keep what they have, and go on from there.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

/// A command, with the models of the environment or with a cache of its own.
fn raglan(cache: Option<&Path>, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.args(args).args(["--json", "--offline"]).env("RAGLAN_EMBEDDER", "none").env_remove("RAGLAN_INDEX");
    command.env("NO_COLOR", "1");
    if let Some(cache) = cache {
        command.env("RAGLAN_CACHE", cache);
    }
    command
}

#[track_caller]
fn json(cache: &Path, args: &[&str]) -> Value {
    let output = raglan(Some(cache), args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A command at work.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    told: String,
}

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, told: String::new() }
    }

    /// Waits for a message with this text.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            let n = self.stderr.read_line(&mut line).unwrap();
            self.told.push_str(&line);
            assert!(n > 0, "it ended without `{text}`: {}", self.told);
            if line.contains(text) {
                return;
            }
        }
    }

    /// Presses Ctrl-C, and waits until that is taken note of.
    #[track_caller]
    fn interrupt(&mut self) {
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap().success());
        self.wait_for("stopping in good order");
    }

    fn end(mut self) -> Ended {
        let mut stdout = self.child.stdout.take().unwrap();
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        self.stderr.read_to_string(&mut self.told).unwrap();
        let code = self.child.wait().unwrap().code();
        Ended { code, stdout: read.join().unwrap(), stderr: self.told }
    }
}

impl Ended {
    /// The result of an evaluation that says that it was interrupted.
    #[track_caller]
    fn interrupted(&self) -> Value {
        assert!(self.code == Some(2) && self.stderr.contains("error: interrupted"), "{:?}: {}", self.code, self.stderr);
        let [result] = &self.values()[..] else { panic!("{}", self.stdout) };
        assert_eq!(result["interrupted"], true, "{result}");
        result.clone()
    }

    /// What it printed: a result or an error.
    #[track_caller]
    fn values(&self) -> Vec<Value> {
        let values = serde_json::Deserializer::from_str(&self.stdout).into_iter();
        values.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

/// A page of a knowledge source, of about a kilobyte, and its line.
fn page(number: usize) -> String {
    let text = format!(
        "Page {number} is about the number {number}. {}\n",
        "Pneumonoultramicroscopicsilicovolcanoconiosis. ".repeat(20)
    );
    let value = serde_json::json!({"wikipedia_id": number.to_string(), "wikipedia_title": format!("Number {number}"), "text": [text]});
    value.to_string() + "\n"
}

/// Writes as many questions, all of page 7.
fn write_questions(path: &Path, n: usize) {
    let question = |i: usize| {
        format!(r#"{{"id": "q{i}", "input": "number 7", "output": [{{"provenance": [{{"wikipedia_id": "7"}}]}}]}}"#)
    };
    fs::write(path, (0..n).map(question).collect::<Vec<_>>().join("\n")).unwrap();
}

#[test]
fn an_interrupted_index_of_a_dump_is_gone_on_with() {
    const PAGES: usize = 400;
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (cache, questions, index, pipe) = (place.path().join("cache"), at("dev.jsonl"), at("index"), at("pipe.jsonl"));
    write_questions(Path::new(&questions), 1);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let args = |pages: &str| -> Vec<String> {
        let args =
            ["eval", "kilt", "--path", &questions, "--index", &index, "--approach", "retrieval", "--pages", pages];
        args.map(str::to_owned).into()
    };
    let run = |pages: &str| raglan(Some(&cache), &args(pages).iter().map(String::as_str).collect::<Vec<_>>());

    // Open for reading too, so that a command that has ended does not end this.
    let mut writer = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut running = Running::start(run(&pipe));
    let (done, is_done) = channel();
    let mut other = writer.try_clone().unwrap();
    std::thread::spawn(move || {
        other.write_all((1..PAGES).map(page).collect::<String>().as_bytes()).unwrap();
        done.send(()).unwrap();
    });
    // A pipe holds 64 KiB: once all is written, the most pages were read.
    while is_done.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
        assert!(running.child.try_wait().unwrap().is_none(), "{}", running.end().stderr);
    }
    running.interrupt();
    writer.write_all(page(PAGES).as_bytes()).unwrap(); // It may wait for one more.
    let ended = running.end();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("interrupted while indexing; what was done is kept"), "{}", ended.stderr);

    let chunks = || json(&cache, &["chunks", "--index", &index]).as_array().unwrap().clone();
    let kept = chunks();
    assert!(200 < kept.len() && kept.len() < PAGES, "{}", kept.len());
    let source = at("source.jsonl");
    fs::write(&source, (1..=PAGES).map(page).collect::<String>()).unwrap();
    let resumed = run(&source).output().unwrap();
    let told = String::from_utf8_lossy(&resumed.stderr);
    assert!(resumed.status.success(), "{told}");
    let result: Value = serde_json::from_slice(&resumed.stdout).unwrap();
    assert_eq!((&result["interrupted"], &result["approaches"][0]["kilt"]["r_precision"]), (&false.into(), &1.0.into()));
    let all = chunks();
    assert_eq!(all.len(), PAGES);
    assert!(kept.iter().all(|chunk| all.contains(chunk)), "what was kept stays as it is");
    assert_eq!(json(&cache, &["verify", "--index", &index])["clean"], true);
    // Read anew, the dump adds nothing.
    assert!(run(&source).output().unwrap().status.success());
    assert_eq!(chunks(), all);
}

#[test]
fn an_interrupted_evaluation_of_pages_is_of_what_was_answered() {
    const QUESTIONS: usize = 100_000;
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (questions, source, index, out) = (at("dev.jsonl"), at("source.jsonl"), at("index"), at("out"));
    write_questions(Path::new(&questions), QUESTIONS);
    fs::write(&source, (1..10).map(page).collect::<String>()).unwrap();
    let args = ["eval", "kilt", "--path", &questions, "--pages", &source, "--index", &index, "--out", &out];
    let args = [&args[..], &["--approach", "retrieval,retrieval"]].concat();
    let mut running = Running::start(raglan(Some(&place.path().join("cache")), &args));
    running.wait_for("questions, retrieval");
    running.interrupt();
    let ended = running.end();
    let result = ended.interrupted();
    let approaches = result["approaches"].as_array().unwrap();
    assert_eq!(approaches.len(), 1, "the second was not begun");
    let n = approaches[0]["n"].as_u64().unwrap() as usize;
    assert!(0 < n && n < QUESTIONS, "{n}");
    assert_eq!((approaches[0]["questions"].as_array().unwrap().len(), &result["questions"]), (n, &QUESTIONS.into()));
    assert_eq!(approaches[0]["kilt"]["r_precision"], 1.0);
    let written: Value = serde_json::from_str(&fs::read_to_string(Path::new(&out).join("kilt.json")).unwrap()).unwrap();
    assert_eq!(written["interrupted"], true);
}

/// Interrupts an evaluation by the default model, of more prompts than anyone waits for, once some are done.
#[track_caller]
fn check_with_model(args: &[&str], file: &str, n_done: fn(&Value) -> usize, n_wanted: usize) {
    let place = tempfile::tempdir().unwrap();
    let model = raglan(None, &["models", "path", "smollm2-135m-instruct"]).output().unwrap();
    if !model.status.success() {
        let told = String::from_utf8_lossy(&model.stderr);
        assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{told}");
        return eprintln!("skipped, for want of the model: {told}");
    }
    let out = place.path().join("out");
    let args = [args, &["--out", out.to_str().unwrap()]].concat();
    // How long the first takes is not known.
    for seconds in [2, 4, 8, 16, 32, 64, 128] {
        let mut running = Running::start(raglan(None, &args));
        std::thread::sleep(Duration::from_secs(seconds));
        running.interrupt();
        let ended = running.end();
        if ended.values()[0].get("error").is_some() {
            assert!(ended.code == Some(2) && !out.join(file).exists(), "{:?}: {}", ended.code, ended.stderr);
            continue;
        }
        let result = ended.interrupted();
        let n = n_done(&result);
        assert!(0 < n && n < n_wanted, "{n}");
        let written: Value = serde_json::from_str(&fs::read_to_string(out.join(file)).unwrap()).unwrap();
        return assert_eq!(written, result);
    }
    panic!("nothing was done in two minutes");
}

#[test]
fn an_interrupted_comparison_of_reuse_is_of_the_prompts_that_are_done() {
    let args = ["eval", "kv", "--set", "two-chunks", "--limit", "5000", "--passages", "2", "--passage-tokens", "20"];
    let n_done = |result: &Value| result["evaluation"]["n_prompts"].as_u64().unwrap() as usize;
    check_with_model(&[&args[..], &["--tokens", "2", "--method", "naive"]].concat(), "kv.json", n_done, 5000);
}

#[test]
fn an_interrupted_evaluation_of_long_texts_is_of_what_was_answered() {
    let args = ["eval", "longcontext", "--lengths", "300", "--limit", "1000", "--tasks", "passkey", "--tokens", "2"];
    let n_done = |result: &Value| result["scores"].as_array().unwrap().len();
    check_with_model(&[&args[..], &["--policy", "full"]].concat(), "longcontext.json", n_done, 1000);
}
