//! Answering from keys and values that were computed before.

mod assembly;
mod cache_craft;
mod capture;
mod keeper;
mod method;
mod prefill;

pub use self::assembly::Assembly;
pub use self::cache_craft::fix_share;
pub use self::capture::{AttentionWatch, capture, model_hash};
pub use self::keeper::KvKeeper;
pub(crate) use self::keeper::ReadPrompt;
pub use self::method::ReuseMethod;
pub use self::prefill::{Prefilled, ReuseCost, prefill};
