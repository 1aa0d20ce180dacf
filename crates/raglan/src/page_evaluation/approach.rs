//! Ways to answer by name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use raglan_multistep::{
    Adaptive, EvidenceCheck, Flare, Interleaved, Parts, Refusing, SearchPlan, SelfAsk, SingleStep, Strategy, Trigger,
    Unit,
};

/// How questions are answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Approach {
    /// Not at all: only pages are found.
    Retrieval,
    /// From the model alone.
    ClosedBook,
    /// From the best `k` passages.
    Single(usize),
    /// From `k` passages of the right pages: the best of each, then the second best of each, and so on.
    Oracle(usize),
    /// By follow-up questions: steps, and passages of each.
    SelfAsk(usize, usize),
    /// By a chain of thought: steps, and passages of each.
    Interleaved(usize, usize),
    /// By planned searches: steps, queries of a step, documents of a query.
    Plan(usize, usize, usize),
    /// With passages only where the first token is less likely than this: the threshold, searches, passages of each.
    Adaptive(f32, usize, usize),
    /// Looking for what unlikely sentences say: passages of each.
    Flare(usize),
    /// From the best `k` passages, refusing what they do not bear out.
    Refusing(usize),
}

/// A name that no approach has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no approach `{name}`; there are retrieval, closed-book, single=K, oracle=K, self-ask=STEPSxK, ircot=STEPSxK, \
     plan=STEPSxQUERIESxK, adaptive=PROBABILITY or adaptive=PROBABILITYxSEARCHESxK, flare=K and refusing=K, \
     numbers from 1, a probability above 0 and at most 1"
)]
pub struct ApproachError {
    /// What was given.
    pub name: String,
}

impl Approach {
    /// The strategy; none for [`Retrieval`](Self::Retrieval).
    pub(super) fn strategy(&self, mut parts: Parts) -> Option<Arc<dyn Strategy>> {
        Some(match *self {
            Self::Retrieval => return None,
            Self::ClosedBook => Arc::new(SingleStep::new(parts, 0)),
            Self::Single(k) | Self::Oracle(k) => Arc::new(SingleStep::new(parts, k)),
            Self::SelfAsk(max_steps, k) => Arc::new(SelfAsk { max_steps, ..SelfAsk::new(parts, k) }),
            Self::Interleaved(max_steps, k) => Arc::new(Interleaved { max_steps, ..Interleaved::new(parts, k) }),
            Self::Plan(steps, queries, k) => {
                parts.sources.unit = Unit::Documents;
                Arc::new(SearchPlan { steps, queries, k, ..SearchPlan::new(parts) })
            }
            Self::Adaptive(least, max_rounds, k) => {
                Arc::new(Adaptive { max_rounds, k, ..Adaptive::new(parts, Trigger::FirstToken { least }) })
            }
            Self::Flare(k) => Arc::new(Flare { k, ..Flare::new(parts) }),
            Self::Refusing(k) => {
                let check = EvidenceCheck::Words { least: 0.5 };
                Arc::new(Refusing { check, ..Refusing::new(SingleStep::new(parts, k)) })
            }
        })
    }

    /// Whether it needs pages.
    pub fn needs_pages(&self) -> bool {
        *self != Self::ClosedBook
    }

    /// Whether it needs a language model.
    pub fn needs_model(&self) -> bool {
        *self != Self::Retrieval
    }
}

impl fmt::Display for Approach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retrieval => write!(f, "retrieval"),
            Self::ClosedBook => write!(f, "closed-book"),
            Self::Single(k) => write!(f, "single={k}"),
            Self::Oracle(k) => write!(f, "oracle={k}"),
            Self::SelfAsk(steps, k) => write!(f, "self-ask={steps}x{k}"),
            Self::Interleaved(steps, k) => write!(f, "ircot={steps}x{k}"),
            Self::Plan(steps, queries, k) => write!(f, "plan={steps}x{queries}x{k}"),
            Self::Adaptive(least, rounds, k) => write!(f, "adaptive={least}x{rounds}x{k}"),
            Self::Flare(k) => write!(f, "flare={k}"),
            Self::Refusing(k) => write!(f, "refusing={k}"),
        }
    }
}

impl FromStr for Approach {
    type Err = ApproachError;

    fn from_str(name: &str) -> Result<Self, ApproachError> {
        let refused = || ApproachError { name: name.to_owned() };
        let (kind, parameters) = name.split_once('=').unwrap_or((name, ""));
        let mut numbers = Vec::new();
        for text in parameters.split('x').filter(|_| !parameters.is_empty()) {
            let number: f32 = text.parse().map_err(|_| refused())?;
            if !(number.is_finite() && number > 0.0 && number <= 1e6) {
                return Err(refused());
            }
            numbers.push(number);
        }
        // All but a threshold are whole numbers from 1.
        let whole = |i: usize| {
            let number: f32 = numbers[i];
            if number.fract() == 0.0 { Ok(number as usize) } else { Err(refused()) }
        };
        let probability = || if numbers[0] <= 1.0 { Ok(numbers[0]) } else { Err(refused()) };
        Ok(match (kind, numbers.len()) {
            ("retrieval", 0) => Self::Retrieval,
            ("closed-book", 0) => Self::ClosedBook,
            ("single", 1) => Self::Single(whole(0)?),
            ("oracle", 1) => Self::Oracle(whole(0)?),
            ("self-ask", 2) => Self::SelfAsk(whole(0)?, whole(1)?),
            ("ircot", 2) => Self::Interleaved(whole(0)?, whole(1)?),
            ("plan", 3) => Self::Plan(whole(0)?, whole(1)?, whole(2)?),
            ("adaptive", 1) => Self::Adaptive(probability()?, 2, 5),
            ("adaptive", 3) => Self::Adaptive(probability()?, whole(1)?, whole(2)?),
            ("flare", 1) => Self::Flare(whole(0)?),
            ("refusing", 1) => Self::Refusing(whole(0)?),
            _ => return Err(refused()),
        })
    }
}
