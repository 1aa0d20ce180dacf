//! Finding the files of a folder.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, FileType, Metadata};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use ignore::WalkBuilder;

use crate::file_name::name_of;
use crate::{Error, LinkProblem, PathPatterns, Result, SkipReason};

/// The folder where an index lies by default; it is never walked.
pub const INDEX_FOLDER: &str = ".raglan";

/// The settings of a folder, which are none of its documents.
const SETTINGS_FILE: &str = "raglan.toml";

/// Which files of a folder are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkOptions {
    /// Whether `.gitignore`, `.ignore` and git's own exclude file hide files, in a git repository or not.
    pub respect_ignore_files: bool,
    /// Whether files and folders whose name begins with a dot are found.
    pub hidden: bool,
    /// Patterns in the manner of `.gitignore`; when there are any, only files that match one are found.
    pub include: Vec<String>,
    /// Patterns in the manner of `.gitignore`; files and folders that match one are not found.
    pub exclude: Vec<String>,
    /// Folders that are not walked, such as an index elsewhere than at its default place.
    pub exclude_paths: Vec<PathBuf>,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self {
            respect_ignore_files: true,
            hidden: false,
            include: Vec::new(),
            exclude: Vec::new(),
            exclude_paths: Vec::new(),
        }
    }
}

/// A file to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path relative to the folder, as [`name_of`](crate::name_of) writes it.
    pub name: String,
    /// Size in bytes when it was found.
    pub size: u64,
    /// Last modification in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
}

/// A file that is not to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedFile {
    /// Its path relative to the folder, as [`name_of`](crate::name_of) writes it.
    pub name: String,
    /// Size in bytes when it was found; 0 when unknown.
    pub size: u64,
    /// Last modification in nanoseconds since the Unix epoch; 0 when unknown.
    pub mtime_ns: i64,
    /// Why it is skipped.
    pub reason: SkipReason,
}

/// What a folder holds: every file that was found is in one of the two lists, both sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The files to read.
    pub files: Vec<FoundFile>,
    /// What was found and cannot be read.
    pub skipped: Vec<SkippedFile>,
}

/// Finds the files below `root`, or `root` itself when it is a file.
///
/// A symbolic link is followed when its target lies below `root` and is not found under its own name; so nothing is
/// found twice and loops end. Ignored, hidden and excluded files are not found at all, and neither are
/// [`INDEX_FOLDER`] and the folder's own `raglan.toml`. Folders that cannot be listed, and indexes elsewhere than at
/// their default place, are reported among the skipped.
///
/// # Errors
///
/// [`Error::Folder`] when `root` does not exist; [`Error::Pattern`] when a pattern does not parse.
pub fn walk(root: &Path, options: &WalkOptions) -> Result<Walk> {
    let folder_error = |source| Error::Folder { path: root.to_owned(), source };
    let canonical_root = root.canonicalize().map_err(folder_error)?;
    let metadata = fs::metadata(&canonical_root).map_err(folder_error)?;
    if !metadata.is_dir() {
        return Ok(single_file(root, &metadata));
    }
    fs::read_dir(root).map_err(folder_error)?;
    let mut search = Search {
        include: PathPatterns::new(&options.include)?,
        exclude: PathPatterns::new(&options.exclude)?,
        options,
        excluded: options.exclude_paths.iter().filter_map(|path| path.canonicalize().ok()).collect(),
        canonical_root,
        visited: HashSet::new(),
        links: VecDeque::new(),
        walk: Walk::default(),
    };
    search.folder(root, Path::new(""));
    search.follow_links();
    let Walk { mut files, mut skipped } = search.walk;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    skipped.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Walk { files, skipped })
}

fn single_file(path: &Path, metadata: &Metadata) -> Walk {
    let name = name_of(Path::new(path.file_name().unwrap_or(path.as_os_str())));
    let mut walk = Walk::default();
    let (size, mtime_ns) = (metadata.len(), mtime_ns(metadata));
    match special(metadata.file_type()) {
        Some(reason) => walk.skipped.push(SkippedFile { name, size, mtime_ns, reason }),
        None => walk.files.push(FoundFile { path: path.to_owned(), name, size, mtime_ns }),
    }
    walk
}

struct Search<'a> {
    options: &'a WalkOptions,
    include: Option<PathPatterns>,
    exclude: Option<PathPatterns>,
    excluded: HashSet<PathBuf>,
    canonical_root: PathBuf,
    /// Canonical paths of all files and folders found so far.
    visited: HashSet<PathBuf>,
    links: VecDeque<(PathBuf, PathBuf)>,
    walk: Walk,
}

impl Search<'_> {
    /// Walks the folder at `path`, whose contents are named below `name`.
    fn folder(&mut self, path: &Path, name: &Path) {
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let respect = self.options.respect_ignore_files;
        let mut builder = WalkBuilder::new(path);
        builder
            .hidden(!self.options.hidden)
            .parents(false)
            .ignore(respect)
            .git_ignore(respect)
            .git_exclude(respect)
            .git_global(false)
            .require_git(false)
            .follow_links(false);
        let exclude = self.exclude.clone();
        let (top, named, excluded) = (path.to_owned(), name.to_owned(), self.excluded.clone());
        let indexes = Arc::new(Mutex::new(Vec::new()));
        let met = indexes.clone();
        builder.filter_entry(move |entry| {
            let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
            if entry.depth() == 0 {
                return true;
            }
            if is_dir && (entry.file_name() == INDEX_FOLDER || is_among(entry.path(), &excluded)) {
                return false;
            }
            let relative = named.join(entry.path().strip_prefix(&top).unwrap_or(entry.path()));
            if exclude.as_ref().is_some_and(|set| set.match_entry(&relative, is_dir)) {
                return false;
            }
            let is_index = is_dir && is_index(entry.path());
            if is_index {
                met.lock().expect("no thread panics while it holds the list").push(relative);
            }
            !is_index
        });
        for entry in builder.build() {
            match entry {
                Ok(entry) => {
                    if let Some(error) = entry.error() {
                        tracing::warn!("{error}");
                    }
                    let below = entry.path().strip_prefix(path).unwrap_or(entry.path());
                    let (relative, kind) = (name.join(below), entry.file_type());
                    // The walker lists a folder before its contents, so a folder met once is not walked again by a link.
                    match kind {
                        Some(kind) if kind.is_dir() || (entry.depth() == 0 && kind.is_symlink()) => {
                            self.visited.insert(canonical.join(below));
                        }
                        Some(kind) if kind.is_symlink() => {
                            self.links.push_back((entry.path().to_owned(), relative));
                        }
                        _ => match entry.metadata() {
                            Ok(metadata) => {
                                if self.visited.insert(canonical.join(below)) {
                                    self.file(entry.path(), &relative, &metadata);
                                }
                            }
                            Err(error) => self.unreadable(&relative, &error),
                        },
                    }
                }
                Err(error) => {
                    let at = path_of(&error).map(|at| name.join(at.strip_prefix(path).unwrap_or(at)));
                    self.unreadable(at.as_deref().unwrap_or(name), &error);
                }
            }
        }
        for relative in indexes.lock().expect("no thread panics while it holds the list").drain(..) {
            let (name, reason) = (name_of(&relative), SkipReason::Index);
            self.walk.skipped.push(SkippedFile { name, size: 0, mtime_ns: 0, reason });
        }
    }

    fn file(&mut self, path: &Path, relative: &Path, metadata: &Metadata) {
        if relative == Path::new(SETTINGS_FILE) {
            return;
        }
        if self.include.as_ref().is_some_and(|set| !set.match_file(relative)) {
            return;
        }
        let (name, size, mtime_ns) = (name_of(relative), metadata.len(), mtime_ns(metadata));
        match special(metadata.file_type()) {
            Some(reason) => self.walk.skipped.push(SkippedFile { name, size, mtime_ns, reason }),
            None => self.walk.files.push(FoundFile { path: path.to_owned(), name, size, mtime_ns }),
        }
    }

    fn unreadable(&mut self, relative: &Path, error: &ignore::Error) {
        let problem = match error.io_error() {
            Some(error) => error.to_string(),
            None => error.to_string(),
        };
        let name = name_of(relative);
        self.walk.skipped.push(SkippedFile { name, size: 0, mtime_ns: 0, reason: SkipReason::Unreadable { problem } });
    }

    fn follow_links(&mut self) {
        // Links are taken in the order of their names, so that which of two names wins does not depend on the disk.
        self.links.make_contiguous().sort();
        while let Some((path, relative)) = self.links.pop_front() {
            let problem = match path.canonicalize() {
                Err(_) => LinkProblem::Broken,
                Ok(target) if !target.starts_with(&self.canonical_root) => LinkProblem::Outside,
                Ok(target) if self.in_index(&target) || self.visited.contains(&target) => LinkProblem::Duplicate,
                Ok(target) => match fs::metadata(&target) {
                    Ok(metadata) if metadata.is_dir() => {
                        self.folder(&path, &relative);
                        self.links.make_contiguous().sort();
                        continue;
                    }
                    Ok(metadata) => {
                        self.visited.insert(target);
                        self.file(&path, &relative, &metadata);
                        continue;
                    }
                    Err(_) => LinkProblem::Broken,
                },
            };
            let reason = SkipReason::Link { problem };
            self.walk.skipped.push(SkippedFile { name: name_of(&relative), size: 0, mtime_ns: 0, reason });
        }
    }

    fn in_index(&self, target: &Path) -> bool {
        let below = target.strip_prefix(&self.canonical_root).unwrap_or(target);
        below.components().any(|part| part == Component::Normal(INDEX_FOLDER.as_ref()))
            || self.excluded.iter().any(|folder| target.starts_with(folder))
    }
}

/// Whether a folder is an index, by the first words of its manifest.
fn is_index(folder: &Path) -> bool {
    let mut start = [0; 13];
    let manifest = fs::File::open(folder.join("manifest.json"));
    manifest.is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start == *b"raglan-index "
}

fn is_among(path: &Path, folders: &HashSet<PathBuf>) -> bool {
    !folders.is_empty() && path.canonicalize().is_ok_and(|path| folders.contains(&path))
}

fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        ignore::Error::Loop { child, .. } => Some(child),
        _ => None,
    }
}

/// Why something that is neither file nor folder is not read.
fn special(kind: FileType) -> Option<SkipReason> {
    if kind.is_file() {
        return None;
    }
    Some(SkipReason::NotAFile { what: special_name(kind).to_owned() })
}

#[cfg(unix)]
fn special_name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "FIFO"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "device"
    } else {
        "special file"
    }
}

#[cfg(not(unix))]
fn special_name(_: FileType) -> &'static str {
    "special file"
}

/// The time of last modification in nanoseconds since the Unix epoch; 0 when the system does not say.
pub(crate) fn mtime_ns(metadata: &Metadata) -> i64 {
    let nanoseconds = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match metadata.modified().map_err(io::Error::other).map(|time| time.duration_since(UNIX_EPOCH)) {
        Ok(Ok(after)) => nanoseconds(after),
        Ok(Err(before)) => -nanoseconds(before.duration()),
        Err(_) => 0,
    }
}
