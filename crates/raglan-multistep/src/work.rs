//! The work on one question: evidence, steps and costs, and the prompts they make.

use std::sync::Arc;

use raglan_core::{Budget, Chunk, Cost, Meter, Passage, Query};
use raglan_model::{Prompt, Sampling, TextModel, Weighed, WritingRequest, Written};

use crate::demonstration::Demonstration;
use crate::sources::{Evidence, Gathered};
use crate::{End, Error, Result, Sources, Step, StepKind, Trail};

/// What is said instead of an answer.
pub(crate) const REFUSAL: &str = "The documents do not say.";

/// What a strategy works with.
#[derive(Clone)]
pub struct Parts {
    /// Reads and writes.
    pub model: Arc<dyn TextModel>,
    /// Where passages come from.
    pub sources: Sources,
    /// How prompts are filled.
    pub limits: Limits,
}

/// How prompts are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Words of each passage, as white space separates them.
    pub passage_words: usize,
    /// Tokens of prompt and reply together; the model's own context is a limit too.
    pub context_tokens: usize,
    /// Tokens of an answer.
    pub answer_tokens: usize,
    /// Tokens of what else the model writes at once: a sentence, a query, a sub-question.
    pub step_tokens: usize,
}

impl Default for Limits {
    /// 1,024 words a passage, as DRAG has it; short answers.
    fn default() -> Self {
        Self { passage_words: 1024, context_tokens: usize::MAX, answer_tokens: 64, step_tokens: 64 }
    }
}

/// The parts of a user's turn; passages stand between what comes before them and the question.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn<'a> {
    /// Demonstrations, or nothing.
    pub demonstrations: &'a [Demonstration],
    /// Notes that stand before the passages.
    pub notes: &'a [String],
    /// The question, as it is put at the end.
    pub question: &'a str,
    /// What is to be done, as the last line.
    pub request: &'a str,
    /// How the reply begins.
    pub reply: &'a str,
    /// Whether the best passage stands last, next to the question, and not in the order in which passages came.
    pub best_last: bool,
}

/// A prompt that fits.
#[derive(Clone, Debug)]
pub(crate) struct Filled {
    pub user: String,
    /// Places in the evidence of the passages that are in it, in the order in which they stand.
    pub shown: Vec<usize>,
}

/// Everything that is known while a question is worked on.
pub(crate) struct Work<'a> {
    pub model: &'a dyn TextModel,
    pub sources: &'a Sources,
    pub limits: Limits,
    pub question: &'a Query,
    pub evidence: Evidence,
    pub meter: Meter,
    has_searched: bool,
    steps: Vec<Step>,
    /// The cost when the last step was taken down.
    noted: Cost,
}

impl<'a> Work<'a> {
    pub fn start(parts: &'a Parts, question: &'a Query, budget: &Budget) -> Self {
        Self {
            model: &*parts.model,
            sources: &parts.sources,
            limits: parts.limits,
            question,
            evidence: Evidence::default(),
            meter: Meter::start(budget),
            has_searched: false,
            steps: Vec::new(),
            noted: Cost::default(),
        }
    }

    /// Looks for texts among what the question allows.
    pub fn gather(&mut self, texts: &[String], k: usize, most: usize) -> Result<Gathered> {
        let query = |text: &String| Query { text: text.clone(), allowed: self.question.allowed.clone() };
        let queries: Vec<Query> = texts.iter().map(query).collect();
        self.has_searched |= k > 0 && !queries.is_empty();
        self.evidence.gather(self.sources, &queries, k, most)
    }

    /// Whether passages were looked for, and none was found.
    pub fn found_nothing(&self) -> bool {
        self.has_searched && self.evidence.passages.is_empty()
    }

    /// Looks for the question itself, which is a step.
    pub fn search_question(&mut self, k: usize, most: usize) -> Result<Gathered> {
        let queries = vec![self.question.text.clone()];
        let gathered = self.gather(&queries, k, most)?;
        self.note(StepKind::Search, String::new(), queries, &gathered);
        Ok(gathered)
    }

    /// Takes a step down, with all that was spent since the last one.
    pub fn note(&mut self, kind: StepKind, text: String, queries: Vec<String>, gathered: &Gathered) {
        let now = self.meter.cost();
        let before = std::mem::replace(&mut self.noted, now);
        self.steps.push(Step {
            kind,
            text,
            queries,
            found: gathered.found.clone(),
            documents: gathered.documents.clone(),
            cost: Cost {
                calls: now.calls - before.calls,
                tokens_read: now.tokens_read - before.tokens_read,
                tokens_written: now.tokens_written - before.tokens_written,
                seconds: now.seconds - before.seconds,
            },
        });
    }

    pub fn write(&mut self, prompt: &Prompt, max_tokens: usize, stops: &[&str]) -> Result<Written> {
        self.write_streaming(prompt, max_tokens, stops, &mut |_| {})
    }

    fn write_streaming(
        &mut self,
        prompt: &Prompt,
        max_tokens: usize,
        stops: &[&str],
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Written> {
        let stop = stops.iter().map(|&stop| stop.to_owned()).collect();
        let sampling = Sampling::default();
        let request = WritingRequest { prompt: prompt.clone(), n: 1, max_tokens, stop, sampling };
        // What a step may spend was looked at when its prompt was filled.
        let mut meter = Meter::start(&Budget::default());
        let written = self.model.write_streaming(&request, &mut meter, on_text)?;
        self.meter.add(meter.cost());
        Ok(written.expect("a meter without a budget allows a text"))
    }

    /// Has the answer written on one line, and gives it without white space around it, also to `on_text`.
    pub fn write_answer(&mut self, prompt: &Prompt, on_text: &mut dyn FnMut(&str)) -> Result<String> {
        let (mut is_begun, mut held) = (false, String::new());
        let written = self.write_streaming(prompt, self.limits.answer_tokens, &["\n"], &mut |piece| {
            held.push_str(piece);
            let text = if is_begun { &held } else { held.trim_start() };
            let told = text.trim_end();
            if !told.is_empty() {
                on_text(told);
                is_begun = true;
                held = text[told.len()..].to_owned(); // White space, which may be the end.
            }
        })?;
        Ok(written.text.trim().to_owned())
    }

    pub fn weigh(&mut self, prompt: &Prompt, texts: &[&str]) -> Result<Weighed> {
        Ok(self.model.weigh(prompt, texts, &mut self.meter)?)
    }

    /// The user's turn with as many of some passages as fit: those of the best ranks are taken first, and stand in the
    /// order in which they came. None when the budget's tokens do not even allow the turn without them.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] when the model cannot read the turn without passages.
    pub fn fill(&self, turn: &Turn<'_>, places: &[usize], max_tokens: usize) -> Result<Option<Filled>> {
        self.fill_within(turn, places, max_tokens, self.meter.left().tokens.unwrap_or(usize::MAX))
    }

    /// As [`fill`](Self::fill) for a prompt that is not the last one, and is read in `n_calls` calls: it takes no more than
    /// leaves as much for the answer. None also when time is up.
    pub fn fill_step(
        &self,
        turn: &Turn<'_>,
        places: &[usize],
        max_tokens: usize,
        n_calls: usize,
    ) -> Result<Option<Filled>> {
        if !self.meter.allows(0) {
            return Ok(None);
        }
        let allowed = self.meter.left().tokens.map_or(usize::MAX, |left| left / (n_calls + 1));
        self.fill_within(turn, places, max_tokens, allowed)
    }

    fn fill_within(
        &self,
        turn: &Turn<'_>,
        places: &[usize],
        max_tokens: usize,
        allowed: usize,
    ) -> Result<Option<Filled>> {
        let limit = self.model.context_len().min(self.limits.context_tokens);
        let bare = user_turn(turn, &[]);
        let needed = self.model.count_prompt(&Prompt::new(&bare, turn.reply))? + max_tokens;
        if needed > limit {
            return Err(Error::NoRoom { needed, limit });
        }
        if needed > allowed {
            return Ok(None);
        }
        let mut order = places.to_vec();
        order.sort_by_key(|&i| (self.evidence.ranks[i], i));
        let (mut room, mut chosen) = (limit.min(allowed) - needed, Vec::new());
        for i in order {
            let text = shown_passage(chosen.len() + 1, &self.evidence.passages[i], self.limits.passage_words);
            let n = self.model.count(&text)? + 2; // Tokens that meet at the borders may be cut in another way.
            if n <= room {
                room -= n;
                chosen.push(i);
            }
        }
        let mut shown = chosen;
        if turn.best_last {
            shown.reverse();
        } else {
            shown.sort_unstable();
        }
        let texts = shown
            .iter()
            .zip(1..)
            .map(|(&i, number)| shown_passage(number, &self.evidence.passages[i], self.limits.passage_words));
        let texts: Vec<String> = texts.collect();
        Ok(Some(Filled { user: user_turn(turn, &texts), shown }))
    }

    /// Places of all evidence.
    pub fn all(&self) -> Vec<usize> {
        (0..self.evidence.passages.len()).collect()
    }

    /// Asks for the answer on one line from passages, and ends the work with it. Where time is up before the model was
    /// called at all there is no answer; one that ran out in a later step is answered from what was found. Where nothing was
    /// found, this is a refusal.
    pub fn answer(
        mut self,
        turn: &Turn<'_>,
        places: &[usize],
        end: End,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Trail> {
        if self.found_nothing() {
            return Ok(self.refuse(end, on_text));
        }
        let was_called = self.meter.cost().calls > 0;
        let filled = self.fill(turn, places, self.limits.answer_tokens)?;
        let Some(filled) = filled.filter(|_| was_called || self.meter.allows(0)) else {
            return Ok(self.finish(String::new(), Vec::new(), End::Budget));
        };
        let prompt = Prompt::new(&filled.user, turn.reply);
        let answer = self.write_answer(&prompt, on_text)?;
        self.note(StepKind::Answer, answer.clone(), Vec::new(), &Gathered::default());
        Ok(self.finish(answer, filled.shown, end))
    }

    /// Ends the work with a refusal.
    pub fn refuse(self, end: End, on_text: &mut dyn FnMut(&str)) -> Trail {
        on_text(REFUSAL);
        Trail { refused: true, ..self.finish(REFUSAL.to_owned(), Vec::new(), end) }
    }

    /// Ends the work with an answer that stands already.
    pub fn finish(self, answer: String, shown: Vec<usize>, end: End) -> Trail {
        Trail {
            answer,
            refused: false,
            steps: self.steps,
            evidence: self.evidence.passages,
            shown,
            cost: self.meter.cost(),
            end,
        }
    }
}

/// The user's turn: demonstrations, notes, passages, the question, and the request.
fn user_turn(turn: &Turn<'_>, passages: &[String]) -> String {
    let mut user = String::new();
    for demonstration in turn.demonstrations {
        user.push_str(&demonstration.to_string());
        user.push('\n');
    }
    for note in turn.notes {
        user.push_str(&format!("Note: {note}\n"));
    }
    for passage in passages {
        user.push_str(passage);
    }
    user.push_str(&format!("Question: {}\n{}", turn.question, turn.request));
    user
}

/// A passage as it stands in a prompt: the document's title, or the headings above the text, and its first words.
pub(crate) fn shown_passage(number: usize, passage: &Passage, most_words: usize) -> String {
    let heading = match (&passage.document.title, passage.chunk.locator.headings.last()) {
        (Some(title), _) => title.as_str(),
        (None, Some(heading)) => heading,
        (None, None) => "",
    };
    let text = first_words(&passage.chunk.text, most_words);
    match heading {
        "" => format!("Document [{number}]\n{text}\n\n"),
        heading => format!("Document [{number}] {heading}\n{text}\n\n"),
    }
}

/// The text up to and with its `n`-th word.
pub(crate) fn first_words(text: &str, n: usize) -> &str {
    let mut words = 0;
    let mut in_word = false;
    for (at, c) in text.char_indices() {
        if c.is_whitespace() {
            if in_word && words == n {
                return &text[..at];
            }
            in_word = false;
        } else if !in_word {
            in_word = true;
            words += 1;
            if words > n {
                return text[..at].trim_end();
            }
        }
    }
    text
}

/// The first sentence of a text, and whether something ends it: a full stop, a question mark or an exclamation mark
/// before white space, but not behind an initial or a short title such as `Dr.`.
pub(crate) fn first_sentence(text: &str) -> (&str, bool) {
    let mut from = 0;
    while let Some(found) = text[from..].find(['.', '?', '!']) {
        let (at, end) = (from + found, from + found + 1);
        let word = text[..at].rsplit(char::is_whitespace).next().unwrap_or_default();
        let is_abbreviation = text[at..].starts_with('.')
            && word.chars().count() <= 3
            && word.starts_with(|c: char| c.is_uppercase())
            && word.chars().all(char::is_alphabetic);
        let is_border = text[end..].chars().next().is_none_or(char::is_whitespace);
        if is_border && !is_abbreviation {
            return (&text[..end], true);
        }
        from = end;
    }
    (text, false)
}

/// A chunk's text below its headings.
pub(crate) fn passage_text(passage: &Passage) -> String {
    Chunk::prefixed(&passage.chunk.locator, &passage.chunk.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unit;
    use crate::scripted::{Scripted, page, parts};

    #[test]
    fn words_and_sentences_are_counted() {
        assert_eq!(first_words("one  two three", 2), "one  two");
        assert_eq!(first_words("one two", 2), "one two");
        assert_eq!((first_words("one", 0), first_words("", 3)), ("", ""));
        assert_eq!(first_sentence("Dr. No came in 1962. It was good."), ("Dr. No came in 1962.", true));
        assert_eq!(first_sentence("It costs 3.5 pounds? Yes."), ("It costs 3.5 pounds?", true));
        assert_eq!(first_sentence("no end"), ("no end", false));
        assert_eq!(first_sentence(""), ("", false));
    }

    /// What a prompt of some tokens shows of three passages of twelve words each, the third of which ranks first.
    #[track_caller]
    fn check(context_tokens: usize, budget: Option<usize>, expected: Option<&[usize]>) {
        let words = "alpha beta gamma delta epsilon zeta eta theta iota kappa";
        let list =
            [page("a", &format!("x {words}")), page("b", &format!("y {words}")), page("c", &format!("z z {words}"))];
        let mut parts = parts(Scripted::new(&[]), &list, Unit::Passages);
        parts.limits.context_tokens = context_tokens;
        let question = Query::new("x y");
        let mut work = Work::start(&parts, &question, &Budget { tokens: budget, time: None });
        work.gather(&["x".to_owned(), "y".to_owned()], 1, 9).unwrap();
        work.gather(&["y z z".to_owned()], 3, 9).unwrap();
        let turn = Turn { question: "q", request: "r", ..Turn::default() };
        let filled = work.fill(&turn, &work.all(), 4).unwrap();
        assert_eq!(filled.map(|filled| filled.shown).as_deref(), expected);
    }

    #[test]
    fn what_does_not_fit_is_left_out_from_the_worst_rank() {
        // The turn has 3 words, its reply 4 tokens; a passage has 2 words above its 11 or 12, and 2 tokens to spare.
        check(1000, None, Some(&[0, 1, 2]));
        check(7 + 15 + 15 + 15, None, Some(&[0, 1]));
        check(7 + 15, None, Some(&[0]));
        check(7, None, Some(&[]));
        check(1000, Some(7 + 15), Some(&[0]));
        check(1000, Some(6), None);
    }

    #[test]
    fn a_turn_that_the_model_cannot_read_is_refused() {
        let mut parts = parts(Scripted::new(&[]), &[], Unit::Passages);
        parts.limits.context_tokens = 5;
        let question = Query::new("x");
        let work = Work::start(&parts, &question, &Budget::default());
        let refused = work.fill(&Turn { question: "q", request: "r", ..Turn::default() }, &[], 4);
        assert!(matches!(refused, Err(Error::NoRoom { needed: 7, limit: 5 })));
    }
}
