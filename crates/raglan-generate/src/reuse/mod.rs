//! Answering from keys and values that were computed before.

mod assembly;

pub use self::assembly::Assembly;
