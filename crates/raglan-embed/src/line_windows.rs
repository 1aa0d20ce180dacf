//! One vector of a long piece of code from windows of its lines.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::Pooling;

/// Windows of lines that a passage is read in, one vector each, of which one is made.
///
/// SEA (Hu et al. 2022) does so for code that is longer than its model reads, with blocks of the syntax tree and an
/// attention over the windows that is trained. This is its form without training; [`Self::default`] has its sizes.
/// Passages of no more lines than a window are read as ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineWindows {
    /// How many lines a window has.
    pub lines: usize,
    /// From how many lines further the next one begins; at least one, and no more than a window has.
    pub step: usize,
    /// What makes one vector of theirs.
    pub aggregation: WindowAggregation,
}

/// What makes one vector of those of windows, before it is brought to length 1 if that is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WindowAggregation {
    /// Their mean.
    #[default]
    Mean,
    /// The greatest of each component.
    Max,
}

impl Default for LineWindows {
    fn default() -> Self {
        Self { lines: 32, step: 16, aggregation: WindowAggregation::Mean }
    }
}

impl fmt::Display for LineWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aggregation = match self.aggregation {
            WindowAggregation::Mean => "mean",
            WindowAggregation::Max => "max",
        };
        write!(f, "{}/{}/{aggregation}", self.lines, self.step)
    }
}

impl FromStr for LineWindows {
    type Err = String;

    /// Lines of a window, lines from one to the next, and what makes one vector of theirs, such as `32/16/mean`; the mean
    /// where that is left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let sizes = |lines: &str, step: &str| Some((lines.parse().ok()?, step.parse().ok()?));
        let (sizes, aggregation) = match *parts {
            [lines, step] | [lines, step, "mean"] => (sizes(lines, step), WindowAggregation::Mean),
            [lines, step, "max"] => (sizes(lines, step), WindowAggregation::Max),
            _ => (None, WindowAggregation::Mean),
        };
        let windows = sizes.map(|(lines, step)| Self { lines, step, aggregation }).filter(Self::is_sound);
        windows.ok_or_else(|| format!("`{text}` is not LINES/STEP or LINES/STEP/max, with a step from 1 to the lines"))
    }
}

impl WindowAggregation {
    /// The vector of some windows, from theirs: `[n_windows, dim]`, at least one.
    pub(crate) fn of(self, windows: &[f32], dim: usize) -> Vec<f32> {
        let pooling = match self {
            Self::Mean => Pooling::Mean,
            Self::Max => Pooling::Max,
        };
        pooling.pool(windows, dim)
    }
}

impl LineWindows {
    /// Whether every line is in a window.
    pub(crate) fn is_sound(&self) -> bool {
        (1..=self.lines).contains(&self.step)
    }

    /// The windows of a text, in bytes, of which there is at least one.
    pub(crate) fn of(&self, text: &str) -> Vec<Range<usize>> {
        let mut ends = Vec::new();
        for line in text.split_inclusive('\n') {
            ends.push(ends.last().unwrap_or(&0) + line.len());
        }
        let starts = |line: usize| if line == 0 { 0 } else { ends[line - 1] };
        let n_windows = ends.len().saturating_sub(self.lines).div_ceil(self.step) + 1;
        let windows = (0..n_windows).map(|window| {
            let first = window * self.step;
            starts(first)..starts((first + self.lines).min(ends.len()))
        });
        windows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: usize, step: usize, text: &str, want: &[&str]) {
        let windows = LineWindows { lines, step, aggregation: WindowAggregation::Mean };
        assert_eq!(windows.of(text).into_iter().map(|window| &text[window]).collect::<Vec<_>>(), want);
    }

    #[test]
    fn what_is_written_is_read() {
        for text in ["32/16/mean", "8/8/max", "1/1/mean"] {
            assert_eq!(text.parse::<LineWindows>().unwrap().to_string(), text);
        }
        assert_eq!("32/16".parse(), Ok(LineWindows::default()));
        for text in ["", "32", "32/0", "16/32", "0/0", "4/2/sum", "4/2/max/", "-1/1"] {
            assert!(text.parse::<LineWindows>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_line_is_in_a_window_and_the_last_window_ends_with_the_text() {
        check(2, 1, "", &[""]);
        check(2, 1, "a", &["a"]);
        check(2, 1, "a\nb\n", &["a\nb\n"]);
        check(2, 1, "a\nb\nc", &["a\nb\n", "b\nc"]);
        check(4, 2, "a\n\nc\nd\ne", &["a\n\nc\nd\n", "c\nd\ne"]);
        check(4, 2, "a\nb\nc\nd\ne\nf\n", &["a\nb\nc\nd\n", "c\nd\ne\nf\n"]);
        check(3, 3, "a\nb\nc\nd\n", &["a\nb\nc\n", "d\n"]);
    }
}
