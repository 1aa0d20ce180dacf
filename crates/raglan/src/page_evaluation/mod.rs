//! Questions whose answers stand on pages, answered in one step or several: what KILT and FRAMES ask.

mod approach;
mod evaluate;
mod page_names;
mod questions;
mod recorded_retrieval;
#[cfg(test)]
mod tests;
mod tune;

pub use approach::{Approach, ApproachError};
pub use evaluate::{ApproachResult, Judged, PageEvaluator, QuestionResult};
pub use questions::{NamedPage, PageQuestion, frames_questions, kilt_questions};
pub use tune::{Allowance, MeasuredAllocation, Tuning, allocation_grid};
