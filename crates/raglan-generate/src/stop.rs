//! Ending an answer at given texts while it streams.

/// Passes text on until one of the stop texts comes, which may be split over several pieces.
///
/// The one that ends first counts, of several that end together the longest: so a text is passed on to the same place
/// however it was cut. Text that may be the beginning of a stop text is held back until that is decided.
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
        for char in piece.chars() {
            self.held.push(char);
            let ended = self.stops.iter().filter(|stop| self.held.ends_with(stop.as_str()));
            if let Some(longest) = ended.map(String::len).max() {
                self.held.truncate(self.held.len() - longest);
                return Passed { text: std::mem::take(&mut self.held), stopped: true };
            }
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
        check(&["ab", "abc"], "xabc", "x"); // A prefix of another ends first.
        check(&["b", "abc"], "xabc", "xa"); // So does one inside of another.
        check(&["bc", "abc", "c"], "xabc", "x"); // The longest of those that end together.
    }

    /// The text before the stop text that ends first, of several the longest.
    fn plain<'t>(stops: &[String], text: &'t str) -> &'t str {
        let ends = (1..=text.len()).filter(|&end| text.is_char_boundary(end));
        let stopped = ends.filter_map(|end| {
            let ended = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
            ended.map(|stop| &text[..end - stop.len()]).min_by_key(|text| text.len())
        });
        stopped.take(1).last().unwrap_or(text)
    }

    #[test]
    fn random_cuts_change_nothing() {
        let mut state = 1_u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..3000 {
            let mut word = |n: usize| (0..n).map(|_| ['a', 'b', 'é'][random(3)]).collect::<String>();
            let text = word(12);
            let stops: Vec<String> = [1, 2, 3, 3, 4].map(&mut word).into();
            let stops = &stops[random(3)..];
            let mut filter = StopFilter::new(stops);
            let (mut got, mut rest, mut stopped) = (String::new(), text.as_str(), false);
            while !rest.is_empty() && !stopped {
                let n_chars = random(5);
                let cut = rest.char_indices().nth(n_chars).map_or(rest.len(), |(at, _)| at);
                let passed = filter.push(&rest[..cut]);
                got.push_str(&passed.text);
                (rest, stopped) = (&rest[cut..], passed.stopped);
            }
            if !stopped {
                got.push_str(&filter.finish());
            }
            assert_eq!(got, plain(stops, &text), "{text} {stops:?}");
        }
    }
}
