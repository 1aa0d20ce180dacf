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

fn is_writable(folder: &Path) -> bool {
    tempfile::Builder::new().prefix(".raglan-probe").tempfile_in(folder).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_lies_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(index_of(folder.path()).unwrap(), folder.path().canonicalize().unwrap().join(".raglan"));
        assert!(matches!(index_of(&folder.path().join("none")), Err(Error::NoFolder { .. })));
    }
}
