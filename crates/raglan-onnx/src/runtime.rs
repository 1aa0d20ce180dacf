//! The library that runs ONNX models: where it lies, and loading it once.

use std::env::consts::{DLL_EXTENSION, DLL_PREFIX};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;

use crate::{Error, Result};

/// What helps where the library is not found or not the right one.
pub const ONNX_RUNTIME_REMEDY: &str = "ONNX models need the library of onnxruntime, 1.22 or newer: \
     `pip install onnxruntime` brings it, and the setting `onnxruntime` or the variable ORT_DYLIB_PATH names its file";

/// What a process has loaded stays: the library can be there only once.
static LOADED: Mutex<Option<Environment>> = Mutex::new(None);

/// onnxruntime, from the library `named`, or else from where [`find_onnx_runtime`] finds one. When a library has been
/// loaded before, it is that one.
///
/// # Errors
///
/// [`Error::NoRuntime`] when there is none, or it is not one, or too old.
pub(crate) fn environment(named: Option<&Path>) -> Result<Environment> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*loaded {
        return Ok(environment.clone());
    }
    let absent = |problem: String| Error::NoRuntime { problem };
    let path = find_onnx_runtime(named).ok_or_else(|| absent("no library of onnxruntime was found".to_owned()))?;
    // The library's file is opened only where it is there: the loader would say less of a path that is none.
    if !path.is_file() {
        return Err(absent(format!("`{}` is not a file", path.display())));
    }
    let builder = ort::init_from(&path).map_err(|error| absent(error.to_string()))?;
    let environment = builder.with_name("raglan").with_telemetry(false).build();
    let environment = environment.map_err(|error| absent(format!("`{}`: {error}", path.display())))?;
    Ok(loaded.insert(environment).clone())
}

/// The library of onnxruntime: the one `named`; else the one that `ORT_DYLIB_PATH` names; else the first beside this
/// program, in the loader's folders, or in a Python of this machine, where `pip install onnxruntime` puts it.
///
/// What is named is given as it is, and need not be there.
pub fn find_onnx_runtime(named: Option<&Path>) -> Option<PathBuf> {
    let variable = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_owned).or(variable) {
        // A name alone would be sought beside the program.
        return Some(std::path::absolute(&path).unwrap_or(path));
    }
    usual_folders().iter().find_map(|folder| library_in(folder))
}

/// The folders that are looked into where no file is named.
fn usual_folders() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
    let mut folders: Vec<PathBuf> = program.into_iter().collect();
    for variable in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        folders.extend(std::env::split_paths(&std::env::var_os(variable).unwrap_or_default()));
    }
    folders.extend(
        [
            "/usr/local/lib",
            "/usr/lib",
            "/usr/lib64",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/opt/homebrew/lib",
        ]
        .map(PathBuf::from),
    );
    let of_variable = |name| std::env::var_os(name).map(PathBuf::from);
    let environments = [of_variable("VIRTUAL_ENV"), of_variable("CONDA_PREFIX")];
    let home = of_variable("HOME").map(|home| home.join(".local"));
    let prefixes = environments.into_iter().flatten().chain(home).chain(["/usr/local", "/usr"].map(PathBuf::from));
    for prefix in prefixes {
        for python in entries(&prefix.join("lib"), "python3") {
            let packages = ["site-packages", "dist-packages"];
            folders.extend(packages.map(|packages| python.join(packages).join("onnxruntime/capi")));
        }
    }
    folders
}

/// The library in a folder: `libonnxruntime.so`, or with a version behind it, the last of several.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let stem = format!("{DLL_PREFIX}onnxruntime.");
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let rest = name.strip_prefix(&stem).unwrap_or_default();
        // `so.1.31.1` on Linux, `1.31.1.dylib` on macOS, `dll` on Windows.
        rest.split('.')
            .all(|part| part == DLL_EXTENSION || !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
            && rest.contains(DLL_EXTENSION)
            && path.is_file()
    };
    entries(folder, &stem).into_iter().rfind(is_library)
}

/// The entries of a folder whose names begin so, in order of name; none where there is no such folder.
fn entries(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let begins =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start));
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(begins).collect();
    found.sort();
    found
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_told_from_what_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(library_in(folder.path()), None);
        let others =
            ["libonnxruntime_providers_shared.so", "libonnxruntime.so.sig", "libonnxruntime.a", "onnxruntime.dll"];
        for other in others {
            std::fs::write(folder.path().join(other), "").unwrap();
        }
        assert_eq!(library_in(folder.path()), None);
        for name in ["libonnxruntime.so", "libonnxruntime.so.1.31.1"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            assert_eq!(library_in(folder.path()), Some(path));
        }
        assert_eq!(library_in(&folder.path().join("none")), None);
    }

    #[test]
    fn a_named_library_is_taken_as_it_is() {
        let named = Path::new("/nowhere/libonnxruntime.so");
        assert_eq!(find_onnx_runtime(Some(named)).as_deref(), Some(named));
    }
}
