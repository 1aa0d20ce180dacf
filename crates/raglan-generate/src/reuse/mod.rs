//! Answering from keys and values that were computed before.

mod assembly;
mod method;

pub use self::assembly::Assembly;
pub use self::method::ReuseMethod;
