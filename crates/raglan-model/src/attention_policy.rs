//! Which of the keys in a cache a text that is being written attends to.

use std::fmt;
use std::str::FromStr;

/// How the tokens that are written attend to a long prompt.
///
/// The prompt itself is read in full; from its last token on, the policy chooses keys, layer by layer and for each head
/// of keys. A budget of all keys gives full attention. Layers that see a window are left as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum AttentionPolicy {
    /// All keys.
    #[default]
    Full,
    /// The first four keys and the last ones, at positions counted within these (Xiao et al. 2023, `StreamingLLM`; the
    /// same as Han et al. 2023, LM-Infinite, with distances capped at the budget). Nothing else is ever needed again, so
    /// a text that is read in this way from its beginning, by a selection behind an empty cache, may go on beyond the
    /// model's context.
    Sinks {
        /// Keys in all.
        budget: KeyBudget,
    },
    /// The keys that the prompt's last queries look at most, chosen once (Li et al. 2024, `SnapKV`). Nothing else is
    /// ever needed again.
    SnapKv {
        /// Keys of the prompt that are kept.
        budget: KeyBudget,
    },
    /// The pages of eight keys that may have the highest scores, chosen for each token (Tang et al. 2024, Quest).
    Quest {
        /// Keys a token reads, in all layers but the first two, which read all.
        budget: KeyBudget,
    },
    /// All keys for the heads that find earlier occurrences of a token; for the others the first and the last ones, and
    /// one key for all between them, their mean (Tang et al. 2024, `RazorAttention`).
    Razor {
        /// Keys of the heads that do not look far.
        budget: KeyBudget,
    },
    /// `Razor` with as many heads that are drawn, which is what those that the probe finds have to beat.
    RandomRazor {
        /// Keys of the heads that were not drawn.
        budget: KeyBudget,
    },
    /// The first and the last keys, and those among the others that an index of the prompt's keys, trained with the
    /// prompt's queries, finds for each token (Liu et al. 2024, `RetrievalAttention`).
    Retrieval {
        /// Keys a token reads.
        budget: KeyBudget,
    },
}

/// How many keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyBudget {
    /// So many.
    Tokens(usize),
    /// A share of those that are there, above 0 and at most 1.
    Share(f32),
}

impl KeyBudget {
    /// How many of `n_keys`, one at least.
    pub fn of(self, n_keys: usize) -> usize {
        match self {
            Self::Tokens(n) => n.max(1),
            Self::Share(share) => ((f64::from(share) * n_keys as f64).ceil() as usize).max(1),
        }
    }
}

impl AttentionPolicy {
    /// The names that policies with a budget go by, before `=BUDGET`, without those that only serve to compare.
    pub const NAMES: [&str; 5] = ["sinks", "snapkv", "quest", "razor", "retrieval"];

    /// Its budget; none for full attention.
    pub fn budget(self) -> Option<KeyBudget> {
        match self {
            Self::Full => None,
            Self::Sinks { budget }
            | Self::SnapKv { budget }
            | Self::Quest { budget }
            | Self::Razor { budget }
            | Self::RandomRazor { budget }
            | Self::Retrieval { budget } => Some(budget),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Sinks { .. } => "sinks",
            Self::SnapKv { .. } => "snapkv",
            Self::Quest { .. } => "quest",
            Self::Razor { .. } => "razor",
            Self::RandomRazor { .. } => "razor-random",
            Self::Retrieval { .. } => "retrieval",
        }
    }
}

impl fmt::Display for KeyBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(n) => write!(f, "{n}"),
            Self::Share(share) => write!(f, "{share:?}"), // With a point, also when it is whole.
        }
    }
}

impl FromStr for KeyBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is neither a number of keys, from 1, nor a share such as 0.05, up to 1.0");
        match text.parse() {
            Ok(0) => Err(refused()),
            Ok(n) => Ok(Self::Tokens(n)),
            Err(_) => match text.parse() {
                Ok(share) if share > 0.0 && share <= 1.0 => Ok(Self::Share(share)),
                _ => Err(refused()),
            },
        }
    }
}

impl fmt::Display for AttentionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.budget().map_or(Ok(()), |budget| write!(f, "={budget}"))
    }
}

impl FromStr for AttentionPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "full" {
            return Ok(Self::Full);
        }
        let refused = || {
            let names = Self::NAMES.join("=BUDGET, ");
            format!(
                "no attention policy `{text}`; there are full, {names}=BUDGET and, to compare with, razor-random=BUDGET"
            )
        };
        let (name, budget) = text.split_once('=').ok_or_else(refused)?;
        let budget = budget.parse()?;
        match name {
            "sinks" => Ok(Self::Sinks { budget }),
            "snapkv" => Ok(Self::SnapKv { budget }),
            "quest" => Ok(Self::Quest { budget }),
            "razor" => Ok(Self::Razor { budget }),
            "razor-random" => Ok(Self::RandomRazor { budget }),
            "retrieval" => Ok(Self::Retrieval { budget }),
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for text in ["full", "sinks=1024", "snapkv=0.25", "quest=1.0", "razor=64", "razor-random=0.2", "retrieval=0.05"]
        {
            assert_eq!(text.parse::<AttentionPolicy>().unwrap().to_string(), text);
        }
        for text in ["quest", "quest=", "quest=0", "quest=1.5", "quest=NaN", "far=3", "full=3"] {
            assert!(text.parse::<AttentionPolicy>().is_err(), "{text}");
        }
        assert_eq!(
            [KeyBudget::Share(0.1).of(101), KeyBudget::Tokens(7).of(3), KeyBudget::Share(0.1).of(0)],
            [11, 7, 1]
        );
    }
}
