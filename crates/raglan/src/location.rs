//! Where the index of a folder lies.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The name of the index in the folder it is of.
pub const INDEX_FOLDER: &str = ".raglan";

/// The index of a folder of documents: `.raglan` inside it, or, where the folder cannot be written,
/// a folder of raglan's own data named after it.
///
/// # Errors
///
/// [`Error::NoFolder`] when there is no such folder of documents; [`Error::NoPlaceForIndex`] when the folder cannot
/// be written and the platform names no place for data.
pub fn index_of(documents: &Path) -> Result<PathBuf> {
    let root = documents
        .canonicalize()
        .ok()
        .filter(|path| path.is_dir())
        .ok_or_else(|| Error::NoFolder { path: documents.to_owned() })?;
    let inside = root.join(INDEX_FOLDER);
    if inside.is_dir() || is_writable(&root) {
        return Ok(inside);
    }
    let project =
        directories::ProjectDirs::from("", "", "raglan").ok_or(Error::NoPlaceForIndex { path: root.clone() })?;
    let hash = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| "root".into());
    Ok(project.data_local_dir().join("indexes").join(format!("{name}-{}", &hash[..12])))
}

/// What an index remembers of its folder of documents, whose path is canonical: see [`raglan_store::Passport::root`].
pub(crate) fn root_note(index: &Path, root: &Path) -> String {
    match canonical(index).strip_prefix(root) {
        Ok(inside) => vec![".."; inside.components().count()].join("/"),
        Err(_) => root.to_string_lossy().into_owned(),
    }
}

/// The folder of documents that an index remembers.
pub(crate) fn noted_root(index: &Path, note: &str) -> PathBuf {
    let inside = note.split('/').all(|part| part == "..");
    if !inside {
        return PathBuf::from(note);
    }
    let levels = note.split('/').count();
    canonical(index).ancestors().nth(levels).map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// The canonical path of what may not be there yet.
fn canonical(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    match there {
        Some((ancestor, canonical)) => canonical.join(absolute.strip_prefix(ancestor).unwrap_or(Path::new(""))),
        None => absolute,
    }
}

fn is_writable(folder: &Path) -> bool {
    tempfile::Builder::new().prefix(".raglan-probe").tempfile_in(folder).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_inside_its_folder_moves_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::create_dir_all(a.join("deep/index")).unwrap();
        let a = a.canonicalize().unwrap();
        let note = root_note(&a.join("deep/index"), &a);
        assert_eq!(noted_root(&a.join("deep/index"), &note), a);
        std::fs::rename(&a, &b).unwrap();
        assert_eq!(noted_root(&b.join("deep/index"), &note), b.canonicalize().unwrap());
        let elsewhere = root_note(&folder.path().join("elsewhere"), &b);
        assert_eq!(noted_root(&folder.path().join("elsewhere"), &elsewhere), b);
    }

    #[test]
    fn the_index_lies_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(index_of(folder.path()).unwrap(), folder.path().canonicalize().unwrap().join(".raglan"));
        assert!(matches!(index_of(&folder.path().join("none")), Err(Error::NoFolder { .. })));
    }
}
