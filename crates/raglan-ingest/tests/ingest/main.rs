//! Folders walked and files read.

mod docs_mix;
#[cfg(unix)]
mod hostile;
#[cfg(unix)]
mod walk;
