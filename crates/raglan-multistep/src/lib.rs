//! Answers questions in several steps of searching and reading.
//!
//! Some questions need what no single search finds: the birthplace of the author of a play stands on a page that the
//! question does not name. A [`Strategy`] works with a [`TextModel`](raglan_model::TextModel), which writes, and
//! [`Sources`], a retriever and the texts of what it finds; it gives a [`Trail`]: the answer, each [`Step`] with its queries,
//! the pages it found and what it cost, and the evidence.
//!
//! - [`SingleStep`]: one search and one reading, with demonstrations (DRAG) or without any passage.
//! - [`SelfAsk`]: follow-up questions in a forced grammar (IterDRAG, Self-Ask).
//! - [`Interleaved`]: a chain of thought, each sentence of which is searched for (IRCoT).
//! - [`SearchPlan`]: queries that the model plans over what it has read (FRAMES).
//! - [`Adaptive`] and [`Flare`]: retrieval only where the model is unsure.
//! - [`Refusing`]: a refusal where the evidence does not bear the answer out.
//! - [`Remembering`]: thoughts that are kept from one question to the next (Thought-Retriever), in a [`ThoughtMemory`].
//!
//! [`AllocationModel`] tells from measurements how many passages, demonstrations and steps a budget of tokens is best spent
//! on (DRAG). All prompts are English.
#![forbid(unsafe_code)]

mod adaptive;
mod allocation;
mod demonstration;
mod error;
mod interleaved;
mod refusing;
#[cfg(test)]
mod scripted;
mod search_plan;
mod self_ask;
mod single_step;
mod sources;
mod strategy;
mod thoughts;
mod work;

pub use adaptive::{Adaptive, Flare, Samples, Trigger};
pub use allocation::{Allocation, AllocationModel, Informativeness, Measured, TokenCosts, best_allocation};
pub use demonstration::{Demonstration, without_answers};
pub use error::{Error, Result};
pub use interleaved::Interleaved;
pub use refusing::{EvidenceCheck, Refusing};
pub use search_plan::{Hints, SearchPlan};
pub use self_ask::SelfAsk;
pub use single_step::SingleStep;
pub use sources::{Sources, Unit};
pub use strategy::{End, Step, StepKind, Strategy, Trail};
pub use thoughts::{Remembering, Thought, ThoughtMemory};
pub use work::{Limits, Parts};
