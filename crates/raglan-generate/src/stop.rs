//! Ending an answer at given texts while it streams.

/// Passes text on until one of the stop texts comes, which may be split over several pieces.
///
/// Text that may be the beginning of a stop text is held back until that is decided.
#[derive(Debug)]
pub(crate) struct StopFilter<'s> {
    stops: &'s [String],
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// What may be shown now.
    pub(crate) text: String,
    /// Whether a stop text came right after it.
    pub(crate) stopped: bool,
}

impl<'s> StopFilter<'s> {
    pub(crate) fn new(stops: &'s [String]) -> Self {
        Self { stops, held: String::new() }
    }

    pub(crate) fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        let held_from = self.held.char_indices().map(|(at, _)| at).find(|&at| {
            let tail = &self.held[at..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        });
        let undecided = self.held.split_off(held_from.unwrap_or(self.held.len()));
        Passed { text: std::mem::replace(&mut self.held, undecided), stopped: false }
    }

    /// What was held back, once no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stops: &[&str], text: &str, expected: &str) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        // However the text is cut into pieces of one to five characters, the outcome is the same.
        for step in 1..=5 {
            let chars: Vec<char> = text.chars().collect();
            let mut filter = StopFilter::new(&stops);
            let mut got = String::new();
            let stopped = chars.chunks(step).any(|piece| {
                let passed = filter.push(&piece.iter().collect::<String>());
                got.push_str(&passed.text);
                passed.stopped
            });
            if !stopped {
                got.push_str(&filter.finish());
            }
            assert_eq!(got, expected, "in pieces of {step}");
        }
    }

    #[test]
    fn text_ends_at_the_first_stop_however_it_is_cut() {
        check(&["\nQuestion:"], "Paris.\nQuestion: and Rome?", "Paris.");
        check(&["END", "ND"], "abc END", "abc ");
        check(&["···"], "é··é·", "é··é·");
        check(&["aab"], "aaab", "a");
        check(&[], "all of it", "all of it");
        check(&["xyz"], "ends in xy", "ends in xy");
    }
}
