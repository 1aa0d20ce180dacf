//! What can go wrong with a model in ONNX.

use std::path::PathBuf;

use crate::ONNX_RUNTIME_REMEDY;

/// The result of this crate's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to load a model or to run it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not sound.
    #[error("`{}`: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A model asks for what cannot be done.
    #[error("`{}` is not supported: {what}", path.display())]
    Unsupported {
        /// The model.
        path: PathBuf,
        /// What cannot be done.
        what: String,
    },
    /// The library that runs models is not there or not the right one.
    #[error("{problem}; {ONNX_RUNTIME_REMEDY}")]
    NoRuntime {
        /// What is wrong.
        problem: String,
    },
    /// onnxruntime refuses a model, or fails to run it.
    #[error("`{}`: {source}", path.display())]
    Runtime {
        /// The model.
        path: PathBuf,
        /// What onnxruntime says.
        source: ort::Error,
    },
}
