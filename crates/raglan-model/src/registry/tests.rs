//! Fetching, against self-made wheels, a pip that counts its calls, the real pip without an index, and a hub of
//! twenty lines. No network.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;

use super::pip::Pip;
use super::*;

const WEIGHTS: &[u8] = b"the weights, all of them";
const CONFIG: &[u8] = b"{}";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A registry of one model, `toy`, made of a configuration and weights.
fn toy(sources: &str) -> Registry {
    let file = |name: &str, bytes: &[u8]| {
        format!("[[model.files]]\nname = \"{name}\"\nbytes = {}\nsha256 = \"{}\"\n", bytes.len(), sha256(bytes))
    };
    Registry::from_toml(&format!(
        "[[model]]\nname = \"toy\"\nrole = \"reranker\"\ntitle = \"a toy\"\ndim = 1\nmax_tokens = 1\nlicence = \"MIT\"\n\
         licence_note = \"\"\n{}{}{sources}",
        file("config.json", CONFIG),
        file("model.safetensors", WEIGHTS),
    ))
    .unwrap()
}

const PIP: &str = "[[model.sources]]\nkind = \"pip\"\npackage = \"toy-model\"\nversion = \"1.0\"\nfolder = \"toy_model\"\nbytes = 999\n";

/// Writes the wheel that pip would find for `toy-model` 1.0.
fn make_wheel(folder: &Path, members: &[(&str, &[u8])]) -> PathBuf {
    let path = folder.join("toy_model-1.0-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
    let about: [(&str, &[u8]); 3] = [
        ("toy_model-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n"),
        ("toy_model-1.0.dist-info/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ("toy_model-1.0.dist-info/RECORD", b""),
    ];
    for (name, bytes) in about.iter().chain(members) {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}

const WHOLE: [(&str, &[u8]); 2] = [("toy_model/config.json", CONFIG), ("toy_model/model.safetensors", WEIGHTS)];

/// A folder with a wheel, a cache, and a pip that copies the wheel after `before` and notes each call in `calls`.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(members: &[(&str, &[u8])], before: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wheel = make_wheel(folder.path(), members);
        let script = format!(
            "if [ \"$1\" = --version ]; then exit 0; fi\necho call >> '{calls}'\n{before}\nwhile [ \"$1\" != -d ]; do \
             shift; done\ncp '{wheel}' \"$2\"\n",
            calls = folder.path().join("calls").display(),
            wheel = wheel.display(),
        );
        fs::write(folder.path().join("pip.sh"), script).unwrap();
        Self { folder }
    }

    fn cache(&self) -> ModelCache {
        Self::cache_in(self.folder.path(), false)
    }

    fn cache_in(folder: &Path, offline: bool) -> ModelCache {
        let mut cache = ModelCache::with_registry(toy(PIP), Some(folder.join("cache")), offline).unwrap();
        cache.pip.commands = vec![vec!["sh".into(), folder.join("pip.sh").to_str().unwrap().into()]];
        cache
    }

    fn n_calls(&self) -> usize {
        fs::read_to_string(self.folder.path().join("calls")).map_or(0, |calls| calls.lines().count())
    }

    fn model(&self, file: &str) -> PathBuf {
        self.folder.path().join("cache/toy").join(file)
    }

    /// The names in the model's folder, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.model(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// After a failed fetch there is nothing but the lock file.
    #[track_caller]
    fn check_nothing_kept(&self) {
        assert_eq!(self.names(), [".lock"]);
    }
}

const SETTLED: [&str; 4] = [".checked.json", ".lock", "config.json", "model.safetensors"];

/// Adds up what it is told.
#[derive(Default)]
struct Meter {
    promised: AtomicU64,
    done: AtomicU64,
    interrupted_after: Option<Duration>,
    begun: Option<Instant>,
}

impl Progress for Meter {
    fn start(&self, _what: &str, bytes: Option<u64>) {
        self.promised.fetch_add(bytes.unwrap_or(0), Ordering::Relaxed);
    }
    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
    fn finish(&self) {}
    fn interrupted(&self) -> bool {
        self.begun.zip(self.interrupted_after).is_some_and(|(begun, limit)| begun.elapsed() > limit)
    }
}

#[cfg(unix)]
#[test]
fn a_model_is_fetched_once_and_found_afterwards() {
    let bench = Bench::new(&WHOLE, "");
    let meter = Meter::default();
    let files = bench.cache().ensure("toy", &meter).unwrap();
    assert_eq!(fs::read(&files.files["model.safetensors"]).unwrap(), WEIGHTS);
    assert_eq!(files.sha256["model.safetensors"], sha256(WEIGHTS));
    assert_eq!(bench.names(), SETTLED);
    // Every byte that was promised came: 999 of the wheel, and the two files.
    assert_eq!(meter.promised.load(Ordering::Relaxed), 999 + (WEIGHTS.len() + CONFIG.len()) as u64);
    assert_eq!(meter.done.load(Ordering::Relaxed), meter.promised.load(Ordering::Relaxed));

    let again = Meter::default();
    assert_eq!(bench.cache().ensure("toy", &again).unwrap(), files);
    assert_eq!(bench.cache().pull("toy", &Silent).unwrap(), files);
    assert_eq!(Bench::cache_in(bench.folder.path(), true).ensure("toy", &Silent).unwrap(), files);
    assert_eq!(again.promised.load(Ordering::Relaxed), 0); // Nothing was hashed either.
    assert_eq!(bench.n_calls(), 1);
    assert_eq!(bench.cache().path("toy").unwrap(), files.dir);
    assert_eq!(bench.cache().list()[0].state, State::Present);
}

#[test]
fn offline_names_the_command_and_touches_nothing() {
    let bench = Bench::new(&WHOLE, "");
    let cache = Bench::cache_in(bench.folder.path(), true);
    for result in [cache.ensure("toy", &Silent), cache.pull("toy", &Silent)] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Offline { .. }));
        assert!(error.to_string().contains("raglan models pull toy"), "{error}");
    }
    assert!(matches!(cache.ensure("hf:o/r/f.gguf", &Silent), Err(Error::Offline { .. })));
    assert!(matches!(cache.verify("toy", &Silent), Err(Error::Absent { .. })));
    assert!(matches!(cache.path("toy"), Err(Error::Absent { .. })));
    assert_eq!(cache.list()[0].state, State::Absent);
    assert_eq!(bench.n_calls(), 0);
    assert!(!cache.dir().exists());
}

#[cfg(unix)]
#[test]
fn a_source_that_gives_other_bytes_is_refused() {
    let check = |weights: &[u8]| {
        let bench = Bench::new(&[("toy_model/model.safetensors", weights), WHOLE[0]], "");
        fs::create_dir_all(bench.model("")).unwrap();
        fs::write(bench.model("config.json"), CONFIG).unwrap();
        let error = bench.cache().ensure("toy", &Silent).unwrap_err();
        assert_eq!(bench.names(), [".lock", "config.json"]); // What was already there and sound stays.
        error
    };
    let last = WEIGHTS.len() - 1;
    let mut changed = WEIGHTS.to_vec();
    changed[last] ^= 1;
    assert!(matches!(check(&changed), Error::WrongHash { found, .. } if found == sha256(&changed)));
    assert!(matches!(check(&[WEIGHTS, b"!"].concat()), Error::WrongHash { .. }));
    match check(&WEIGHTS[..last]) {
        Error::Truncated { expected, found, .. } => assert_eq!((expected, found), (24, 23)),
        other => panic!("{other}"),
    }
}

#[cfg(unix)]
#[test]
fn a_package_without_the_file_or_without_sense_is_named() {
    let bench = Bench::new(&WHOLE[1..], "");
    match bench.cache().ensure("toy", &Silent).unwrap_err() {
        Error::MissingMember { package, member } => {
            assert_eq!((&*package, &*member), ("toy-model==1.0", "toy_model/config.json"));
        }
        other => panic!("{other}"),
    }
    bench.check_nothing_kept();

    let wheel = bench.folder.path().join("toy_model-1.0-py3-none-any.whl");
    let bytes = fs::read(&wheel).unwrap();
    fs::write(&wheel, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(bench.cache().ensure("toy", &Silent), Err(Error::MalformedPackage { .. })));
    bench.check_nothing_kept();
}

#[cfg(unix)]
#[test]
fn a_damaged_cache_is_found_and_mended() {
    let bench = Bench::new(&WHOLE, "");
    let cache = bench.cache();
    cache.ensure("toy", &Silent).unwrap();
    let path = bench.model("model.safetensors");

    fs::write(&path, &WEIGHTS[..5]).unwrap();
    for result in [cache.ensure("toy", &Silent), cache.verify("toy", &Silent)] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::CachedTruncated { expected: 24, found: 5, .. }));
        assert!(error.to_string().contains("raglan models pull toy"), "{error}");
    }
    assert!(matches!(cache.list()[0].state, State::Damaged { .. }));
    cache.pull("toy", &Silent).unwrap();
    assert_eq!(fs::read(&path).unwrap(), WEIGHTS);

    // As long as the pinned one: the time of change gives it away, and where that was set back, the full check.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, [b'x'; WEIGHTS.len()]).unwrap();
    assert!(matches!(cache.ensure("toy", &Silent), Err(Error::CachedChanged { .. })));
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(matches!(cache.verify("toy", &Silent), Err(Error::CachedChanged { .. })));
    assert!(matches!(cache.ensure("toy", &Silent), Err(Error::CachedChanged { .. }))); // It was told.
    cache.pull("toy", &Silent).unwrap();
    cache.verify("toy", &Silent).unwrap();
    assert_eq!(bench.names(), SETTLED);
    assert_eq!(bench.n_calls(), 3);
}

#[cfg(unix)]
#[test]
fn threads_share_one_download() {
    let bench = Bench::new(&WHOLE, "sleep 0.3");
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.cache().ensure("toy", &Silent))).collect();
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(bench.n_calls(), 1);
    assert_eq!(bench.names(), SETTLED);
}

/// Runs `pulls_in_a_process` of this very program on the bench.
fn spawn_pull(bench: &Bench) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "registry::tests::pulls_in_a_process", "--ignored"])
        .env("RAGLAN_TEST_BENCH", bench.folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the other process of the tests below"]
fn pulls_in_a_process() {
    let folder = std::env::var_os("RAGLAN_TEST_BENCH").expect("the parent names the bench");
    Bench::cache_in(Path::new(&folder), false).ensure("toy", &Silent).unwrap();
}

#[cfg(unix)]
#[test]
fn processes_share_one_download() {
    let bench = Bench::new(&WHOLE, "sleep 0.5");
    let pulls: Vec<_> = (0..3).map(|_| spawn_pull(&bench)).collect();
    for mut pull in pulls {
        assert!(pull.wait().unwrap().success());
    }
    assert_eq!(bench.n_calls(), 1);
    assert_eq!(bench.names(), SETTLED);
}

#[cfg(unix)]
#[test]
fn a_killed_process_frees_the_model_and_leaves_no_half_file() {
    let bench = Bench::new(&WHOLE, "[ -e \"$0.second\" ] || { touch \"$0.second\"; sleep 3; }");
    let mut pull = spawn_pull(&bench);
    let begun = Instant::now();
    while bench.n_calls() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the other process did not begin");
        thread::sleep(Duration::from_millis(10));
    }
    pull.kill().unwrap(); // SIGKILL: it cannot tidy up.
    pull.wait().unwrap();
    assert!(!bench.model("model.safetensors").exists());
    bench.cache().ensure("toy", &Silent).unwrap();
    assert_eq!(bench.names(), SETTLED);
}

#[cfg(unix)]
#[test]
fn an_interrupted_pull_keeps_nothing() {
    let bench = Bench::new(&WHOLE, "sleep 5");
    let meter =
        Meter { interrupted_after: Some(Duration::from_millis(200)), begun: Some(Instant::now()), ..Meter::default() };
    assert!(matches!(bench.cache().ensure("toy", &meter), Err(Error::Interrupted)));
    assert!(meter.begun.unwrap().elapsed() < Duration::from_secs(4));
    bench.check_nothing_kept();
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let bench = Bench::new(&WHOLE, "echo \"ERROR: [Errno 28] No space left on device\" >&2; exit 1");
    assert!(matches!(bench.cache().ensure("toy", &Silent), Err(Error::DiskFull { .. })));
    bench.check_nothing_kept();

    // A cache folder below a file cannot be made.
    let file = bench.folder.path().join("calls").join("below");
    let cache = ModelCache::with_registry(toy(PIP), Some(file), false).unwrap();
    assert!(matches!(cache.ensure("toy", &Silent), Err(Error::Io { .. })));
}

#[test]
fn without_pip_the_remedy_is_named() {
    let bench = Bench::new(&WHOLE, "");
    let mut cache = bench.cache();
    cache.pip.commands = vec![vec!["no-such-python".into(), "-m".into(), "pip".into()]];
    let error = cache.ensure("toy", &Silent).unwrap_err();
    assert!(matches!(error, Error::NoPip { .. }));
    assert!(error.to_string().contains("`no-such-python -m pip`"), "{error}");
    bench.check_nothing_kept();
}

#[cfg(unix)]
#[test]
fn the_next_source_is_tried_when_one_fails() {
    let bench = Bench::new(&WHOLE, "echo 'ERROR: No matching distribution' >&2; exit 1");
    let mirror = bench.folder.path().join("mirror");
    let sources = format!("{PIP}[[model.sources]]\nkind = \"folder\"\npath = \"{}\"\n", mirror.display());
    let mut cache = ModelCache::with_registry(toy(&sources), Some(bench.folder.path().join("cache")), false).unwrap();
    cache.pip = bench.cache().pip;
    match cache.ensure("toy", &Silent).unwrap_err() {
        Error::AllSources { failures, .. } => {
            assert!(matches!(failures[0], Error::PipFailed { .. }));
            assert!(matches!(failures[1], Error::FileNotFound { .. }));
        }
        other => panic!("{other}"),
    }
    fs::create_dir(&mirror).unwrap();
    fs::write(mirror.join("config.json"), CONFIG).unwrap();
    fs::write(mirror.join("model.safetensors"), WEIGHTS).unwrap();
    cache.ensure("toy", &Silent).unwrap();
    assert_eq!(bench.names(), SETTLED);
}

/// The real pip takes the wheel from a folder in place of an index.
#[test]
fn the_real_pip_brings_a_wheel() {
    let bench = Bench::new(&WHOLE, "");
    let mut cache = bench.cache();
    cache.pip = Pip::default();
    cache.pip.envs = vec![
        ("PIP_NO_INDEX".into(), "1".into()),
        ("PIP_FIND_LINKS".into(), bench.folder.path().into()),
        ("PIP_CONFIG_FILE".into(), if cfg!(windows) { "nul".into() } else { "/dev/null".into() }),
    ];
    match cache.ensure("toy", &Silent) {
        Err(Error::NoPip { tried, .. }) => eprintln!("skipped: no pip here (tried {tried})"),
        result => {
            result.unwrap();
            assert_eq!(bench.names(), SETTLED);
            fs::remove_dir_all(bench.model("")).unwrap();
            fs::remove_file(bench.folder.path().join("toy_model-1.0-py3-none-any.whl")).unwrap();
            assert!(matches!(cache.ensure("toy", &Silent), Err(Error::PipFailed { .. })));
            bench.check_nothing_kept();
        }
    }
}

#[test]
fn a_file_of_this_machine_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ModelCache::new(Some(folder.path().join("cache")), true).unwrap();
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("m.gguf"), WEIGHTS).unwrap();
    fs::write(own.join("notes.log"), "no model").unwrap();
    let reference = |path: &Path| format!("file:{}", path.display());

    let one = cache.ensure(&reference(&own.join("m.gguf")), &Silent).unwrap();
    assert_eq!(one.sha256["m.gguf"], sha256(WEIGHTS));
    let all = cache.ensure(&reference(&own), &Silent).unwrap();
    assert_eq!(all.files.keys().collect::<Vec<_>>(), ["m.gguf"]);
    let again = Meter::default();
    assert_eq!(cache.ensure(&reference(&own), &again).unwrap(), all);
    assert_eq!(again.promised.load(Ordering::Relaxed), 0); // Its hash is remembered.
    let missing = cache.ensure(&reference(&own.join("n.gguf")), &Silent);
    assert!(matches!(missing, Err(Error::FileNotFound { .. })));
}

/// Serves `body` as the one file of the repository `o/r`; gives its address.
fn serve_hub(body: &'static [u8], etag: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            let range = lines
                .take_while(|line| !line.is_empty())
                .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
            if !request.starts_with("GET /o/r/resolve/main/m.gguf ") {
                write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
                continue;
            }
            let end = if range.as_deref() == Some("0-0") { 1 } else { body.len() };
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\ncontent-length: {end}\r\ncontent-range: bytes 0-{}/{}\r\netag: \
                 \"{etag}\"\r\nx-repo-commit: 0123\r\nconnection: close\r\n\r\n",
                end - 1,
                body.len(),
            )
            .ok();
            stream.write_all(&body[..end]).ok();
        }
    });
    address
}

#[test]
fn a_file_of_the_hub_is_fetched_checked_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache_of = |endpoint: String, offline| {
        let mut cache = ModelCache::new(Some(folder.path().to_owned()), offline).unwrap();
        cache.hub.endpoint = Some(endpoint);
        cache
    };
    let address = serve_hub(WEIGHTS, sha256(CONFIG));
    let lying = cache_of(address, false).ensure("hf:o/r/m.gguf", &Silent);
    assert!(matches!(lying, Err(Error::WrongHash { .. })), "{lying:?}");

    let address = serve_hub(WEIGHTS, sha256(WEIGHTS));
    let meter = Meter::default();
    let files = cache_of(address.clone(), false).ensure("hf:o/r/m.gguf", &meter).unwrap();
    assert_eq!(fs::read(&files.files["m.gguf"]).unwrap(), WEIGHTS);
    assert_eq!(files.sha256["m.gguf"], sha256(WEIGHTS));
    assert_eq!(cache_of(String::new(), true).ensure("hf:o/r/m.gguf", &Silent).unwrap(), files);
    let mut names: Vec<_> = fs::read_dir(&files.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".checked.json", ".lock", "m.gguf"]);

    let missing = cache_of(address, false).ensure("hf:o/r/n.gguf", &Silent);
    assert!(matches!(missing, Err(Error::HubNotFound { .. })), "{missing:?}");
    fs::write(&files.files["m.gguf"], [b'x'; WEIGHTS.len()]).unwrap();
    let changed = cache_of(String::new(), true).ensure("hf:o/r/m.gguf", &Silent);
    assert!(matches!(changed, Err(Error::CachedChanged { .. })), "{changed:?}");
}

#[test]
fn a_hub_that_does_not_answer_is_a_network_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut cache = ModelCache::new(Some(folder.path().to_owned()), false).unwrap();
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    cache.hub.endpoint = Some(format!("http://{port}"));
    let result = cache.ensure("hf:o/r/m.gguf", &Silent);
    assert!(matches!(result, Err(Error::NoNetwork { .. })), "{result:?}");
}

/// Fetches the built-in models for real, into `RAGLAN_CACHE`, when `RAGLAN_TEST_NETWORK` is set.
#[test]
fn the_builtin_models_can_be_had() {
    if std::env::var_os("RAGLAN_TEST_NETWORK").is_none() {
        eprintln!("skipped: set RAGLAN_TEST_NETWORK, and RAGLAN_CACHE, to fetch the built-in models");
        return;
    }
    let cache = ModelCache::new(None, false).unwrap();
    for entry in cache.registry().entries() {
        for step in ["ensure", "again", "verify"] {
            let begun = Instant::now();
            let files = match step {
                "verify" => cache.verify(&entry.name, &Silent),
                _ => cache.ensure(&entry.name, &Silent),
            };
            assert_eq!(files.unwrap().files.len(), entry.files.len());
            eprintln!("{} {step}: {:.3} s", entry.name, begun.elapsed().as_secs_f64());
        }
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_for_a_model_file_is_refused_and_not_waited_for() {
    let bench = Bench::new(&[], "");
    let folder = bench.folder.path().join("piped");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    let pipe = folder.join("tokenizer.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [&folder, &pipe] {
        let error = bench.cache().ensure(&format!("file:{}", path.display()), &Silent).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json`: it is not a regular file"), "{error}");
    }
}
