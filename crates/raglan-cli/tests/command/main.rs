//! The command, run as its users run it.

mod augmentations;
mod device;
mod encoder_settings;
mod eval;
mod eval_collections;
mod eval_pages;
#[cfg(unix)]
mod hostile;
#[cfg(unix)]
mod interrupted;
mod kept_kv;
mod kill;
mod long_context;
mod manners;
mod recipes;
