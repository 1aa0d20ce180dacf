//! Texts that are longer than an encoder reads at once.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use raglan_model::{EncoderModel, EncoderModelConfig, HiddenStates, Positions};

use crate::{Error, Result};

/// What an encoder does with texts of more tokens than it reads at once, its `max_tokens`. Others are the same under all
/// of them.
///
/// Nothing is trained for the last two (the ways of `LongEmbed`: Zhu et al. 2024). Queries are cut, with a warning,
/// where passages are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongInputs {
    /// Refuses them, as [`Error::TooLong`]: what is not read cannot be found.
    #[default]
    Refuse,
    /// Reads their beginning, as published figures on whole documents do.
    Cut,
    /// Reads them in windows of `max_tokens`, of which each has the prefix and the special tokens, and takes the mean of
    /// the windows' vectors. Only for encoders of one dense vector a text.
    ParallelWindows,
    /// Reads them as one, at positions that the model was not trained on.
    Extended {
        /// Which those are.
        positions: ExtendedPositions,
        /// How many tokens are read of one text; longer ones are refused. The cost of attention grows as its square.
        limit: usize,
    },
}

/// Where token `i` of `n` stands that are more than the `L` that a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendedPositions {
    /// Some tokens share a position of the table: `⌊i / s⌋`, where `s = ⌈n / L⌉`.
    Grouped,
    /// The positions of the table come again and again: `i mod L`.
    Recurrent,
    /// The table is stretched, so that the last token has its last position: `i · (L - 1) / (n - 1)`, linearly between
    /// rows.
    Interpolated,
    /// One behind the other, for models whose positions are rotations: their base is raised as by NTK-aware scaling by
    /// `n / L`.
    RaisedBase,
    /// One behind the other, for models whose positions are rotations: keys nearer than `L / 8` tokens have their true
    /// distance, others one in the smallest groups that keep the farthest within `L` (`SelfExtend`, in both directions;
    /// an eighth is what `LongEmbed` takes of 512 and of 4096).
    SelfExtend,
}

impl ExtendedPositions {
    /// The positions of `n_tokens` for a model that reads `max_tokens`, which are at least two.
    fn of(self, n_tokens: usize, max_tokens: usize) -> Positions {
        if n_tokens <= max_tokens {
            return Positions::Consecutive;
        }
        let table = |position: &dyn Fn(usize) -> f32| Positions::Table((0..n_tokens).map(position).collect());
        match self {
            Self::Grouped => {
                let group = n_tokens.div_ceil(max_tokens);
                table(&|i| (i / group) as f32)
            }
            Self::Recurrent => table(&|i| (i % max_tokens) as f32),
            Self::Interpolated => table(&|i| (i as f64 * (max_tokens - 1) as f64 / (n_tokens - 1) as f64) as f32),
            Self::RaisedBase => Positions::RaisedBase { factor: n_tokens as f64 / max_tokens as f64 },
            Self::SelfExtend => {
                let window = (max_tokens / 8).max(1);
                let farthest = |group: usize| (n_tokens - 1) / group + window - window / group;
                let group = (1..n_tokens).find(|&group| farthest(group) < max_tokens).unwrap_or(n_tokens);
                Positions::SelfExtend { window, group }
            }
        }
    }
}

impl ExtendedPositions {
    /// Every one, with its name.
    const NAMES: [(&str, Self); 5] = [
        ("grouped", Self::Grouped),
        ("recurrent", Self::Recurrent),
        ("interpolated", Self::Interpolated),
        ("raised-base", Self::RaisedBase),
        ("self-extend", Self::SelfExtend),
    ];
}

impl fmt::Display for ExtendedPositions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = Self::NAMES.iter().find(|(_, known)| known == self).expect("every one has a name");
        f.write_str(name)
    }
}

impl fmt::Display for LongInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse => f.write_str("refuse"),
            Self::Cut => f.write_str("cut"),
            Self::ParallelWindows => f.write_str("windows"),
            Self::Extended { positions, limit } => write!(f, "{positions}:{limit}"),
        }
    }
}

impl FromStr for LongInputs {
    type Err = String;

    /// What [`Display`](fmt::Display) writes: `refuse`, `cut`, `windows`, or the name of positions, a colon and how many
    /// tokens are read, such as `grouped:1024`.
    fn from_str(text: &str) -> Result<Self, String> {
        let extended = |(name, limit): (&str, &str)| {
            let (_, positions) = *ExtendedPositions::NAMES.iter().find(|(known, _)| *known == name)?;
            Some(Self::Extended { positions, limit: limit.parse().ok()? })
        };
        match text {
            "refuse" => Ok(Self::Refuse),
            "cut" => Ok(Self::Cut),
            "windows" => Ok(Self::ParallelWindows),
            _ => text.split_once(':').and_then(extended).ok_or_else(|| {
                let names: Vec<String> = ExtendedPositions::NAMES.iter().map(|(name, _)| format!("{name}:N")).collect();
                format!("`{text}` is none of refuse, cut, windows, {}", names.join(", "))
            }),
        }
    }
}

impl LongInputs {
    /// Whether a model can read long texts so that reads `max_tokens` of others.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] and [`Error::Unsupported`] with the file when it cannot.
    pub(crate) fn check(self, path: &Path, model: &EncoderModelConfig, max_tokens: usize) -> Result<()> {
        let Self::Extended { positions, limit } = self else { return Ok(()) };
        if limit < max_tokens {
            let problem = format!("of long texts the encoder is to read {limit} tokens, and of others {max_tokens}");
            return Err(Error::Malformed { path: path.to_owned(), problem });
        }
        let what = match (positions, &model.rotary) {
            (ExtendedPositions::RaisedBase | ExtendedPositions::SelfExtend, None) => {
                "positions as rotations, in a model with a table of positions"
            }
            (ExtendedPositions::RaisedBase | ExtendedPositions::SelfExtend, Some(_)) | (_, None) => return Ok(()),
            (_, Some(_)) => "positions of a table, in a model whose positions are rotations",
        };
        Err(Error::Unsupported { path: path.to_owned(), what: what.into() })
    }

    /// The same for encoders whose vectors have no mean.
    ///
    /// # Errors
    ///
    /// As for [`check`](Self::check).
    pub(crate) fn check_without_mean(self, path: &Path, model: &EncoderModelConfig, max_tokens: usize) -> Result<()> {
        if self == Self::ParallelWindows {
            let what = "a mean over windows, of vectors that are sparse or one a token".into();
            return Err(Error::Unsupported { path: path.to_owned(), what });
        }
        self.check(path, model, max_tokens)
    }

    /// How many tokens are read of one text at once by an encoder that reads `max_tokens` of those that are not long.
    pub fn limit(self, max_tokens: usize) -> usize {
        match self {
            Self::Refuse | Self::Cut | Self::ParallelWindows => max_tokens,
            Self::Extended { limit, .. } => limit,
        }
    }

    /// The last layer's vector for each token of texts, for a model that reads `max_tokens` of those that are not long.
    pub(crate) fn hidden_states(
        self,
        model: &EncoderModel,
        texts: &[&[u32]],
        max_tokens: usize,
    ) -> Result<HiddenStates> {
        let Self::Extended { positions, .. } = self else { return Ok(model.hidden_states(texts)?) };
        let positions: Vec<Positions> = texts.iter().map(|ids| positions.of(ids.len(), max_tokens)).collect();
        Ok(model.hidden_states_at(texts, &positions)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(extended: ExtendedPositions, n_tokens: usize, want: &[f32]) {
        assert_eq!(extended.of(n_tokens, 4), Positions::Table(want.to_vec()));
    }

    #[test]
    fn positions_are_as_defined() {
        check(ExtendedPositions::Grouped, 5, &[0.0, 0.0, 1.0, 1.0, 2.0]); // s = ⌈5 / 4⌉ = 2
        check(ExtendedPositions::Grouped, 9, &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]); // s = 3
        check(ExtendedPositions::Recurrent, 9, &[0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0, 0.0]);
        check(ExtendedPositions::Interpolated, 5, &[0.0, 0.75, 1.5, 2.25, 3.0]); // i · 3 / 4
        check(ExtendedPositions::Interpolated, 7, &[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]); // i · 3 / 6
        // ⌊2999 / 7⌋ + 64 - ⌊64 / 7⌋ = 428 + 64 - 9 = 483 < 512, and ⌊2999 / 6⌋ + 64 - 10 = 553 is too far.
        assert_eq!(ExtendedPositions::SelfExtend.of(3000, 512), Positions::SelfExtend { window: 64, group: 7 });
        assert_eq!(ExtendedPositions::SelfExtend.of(5, 4), Positions::SelfExtend { window: 1, group: 2 }); // 2 + 1 - 0 < 4
        assert_eq!(ExtendedPositions::RaisedBase.of(6, 4), Positions::RaisedBase { factor: 1.5 });
    }

    #[test]
    fn what_is_written_is_read() {
        for text in ["refuse", "cut", "windows", "grouped:1024", "recurrent:9", "interpolated:4096", "raised-base:8192"]
        {
            assert_eq!(text.parse::<LongInputs>().unwrap().to_string(), text);
        }
        for text in ["", "grouped", "grouped:", "grouped:-1", "grouped:x", "windows:3", "Cut"] {
            assert!(text.parse::<LongInputs>().unwrap_err().contains("raised-base:N"), "{text}");
        }
    }

    #[test]
    fn texts_that_are_not_long_stay_and_long_ones_stay_in_the_table() {
        use ExtendedPositions::{Grouped, Interpolated, RaisedBase, Recurrent, SelfExtend};
        for extended in [Grouped, Recurrent, Interpolated, RaisedBase, SelfExtend] {
            for n_tokens in 0..=4 {
                assert_eq!(extended.of(n_tokens, 4), Positions::Consecutive);
            }
        }
        for extended in [Grouped, Recurrent, Interpolated] {
            for (n_tokens, max_tokens) in (5..300).flat_map(|n| [(n, 3), (n, 4)]).chain([(9_999, 512), (100_000, 256)])
            {
                let Positions::Table(positions) = extended.of(n_tokens, max_tokens) else { panic!("no table") };
                assert_eq!(positions.len(), n_tokens);
                assert!(positions.iter().all(|position| (0.0..=(max_tokens - 1) as f32).contains(position)));
            }
        }
    }
}
