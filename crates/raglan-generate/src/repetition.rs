//! Noticing that a model has begun to say the same thing for ever.

/// How often a run of tokens must come in a row to be taken for a loop.
const TIMES: usize = 3;
/// The shortest loop in tokens, all its turns together: below that, a ruler of dashes is still a ruler.
const SHORTEST: usize = 24;
/// The longest run that is looked for: a few sentences.
const LONGEST_RUN: usize = 128;

/// Whether the tokens end in a run that has come three times in a row.
///
/// Greedy decoding of small models ends so now and then. Penalties on repeated tokens would prevent it, but they also
/// change numbers: a tokenizer that splits digits makes 10 of 100.
pub(crate) fn ends_in_a_loop(tokens: &[u32]) -> bool {
    (1..=LONGEST_RUN).any(|run| {
        let len = (run * TIMES).max(SHORTEST.next_multiple_of(run));
        let Some(start) = tokens.len().checked_sub(len) else { return false };
        let tail = &tokens[start..];
        tail[run..] == tail[..len - run]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(run: &[u32], times: usize, expected: bool) {
        let tokens: Vec<u32> = (1000..1010).chain(run.repeat(times)).collect();
        assert_eq!(ends_in_a_loop(&tokens), expected);
    }

    #[test]
    fn a_run_three_times_in_a_row_is_a_loop() {
        let sentence: Vec<u32> = (0..20).collect();
        check(&sentence, 2, false);
        check(&sentence, 3, true);
        check(&[1, 2, 2], 7, false);
        check(&[1, 2, 2], 8, true); // 24 tokens.
        check(&[7], 23, false);
        check(&[7], 24, true);
        check(&[1, 0, 0], 1, false);
        assert!(!ends_in_a_loop(&[]));
    }

    #[test]
    fn a_changing_text_is_none() {
        let tokens: Vec<u32> = (0..500).map(|i: u32| i.wrapping_mul(2_654_435_761) >> 24).collect();
        assert!((0..tokens.len()).all(|end| !ends_in_a_loop(&tokens[..end])));
    }
}
