//! Answering from keys and values that were computed before.

mod assembly;
mod attention_watch;
mod cache_craft;
mod continuation;
mod keeper;
mod method;
mod passage_order;
mod prefill;
mod safety_switch;

pub use self::assembly::Assembly;
pub use self::attention_watch::AttentionWatch;
pub use self::cache_craft::fix_share;
pub use self::continuation::{Continuation, Distributions, Followed, best_token, read_tokens};
pub(crate) use self::keeper::{Kept, ReadPrompt, read_while};
pub use self::keeper::{KvKeeper, Remembered};
pub use self::method::ReuseMethod;
pub use self::passage_order::PassageOrder;
pub use self::prefill::{Prefilled, ReuseCost, prefill, prefill_while};
pub use self::safety_switch::SafetySwitch;
