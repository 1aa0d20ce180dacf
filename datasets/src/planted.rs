//! Questions whose answers are planted in passages of other text, so that it is known what has to be read together.
//!
//! Where a passage's keys and values were computed behind other passages, what it says about those is not in them. These
//! sets ask for just that, with names that no model has read about, and decoys that an answer without the connection
//! would hit as often:
//!
//! - [`PlantedSet::Single`]: one sentence answers.
//! - [`PlantedSet::TwoChunks`]: `X reports to Y` stands in one passage, `Y works in Z` in another.
//! - [`PlantedSet::Pronoun`]: a passage begins with `She`, and who that is stands in the passage before it.
//! - [`PlantedSet::Contradiction`]: a later passage corrects an earlier one.
//! - [`PlantedSet::Permutations`]: several questions over two passages each about the same passages in other orders.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use crate::{ContextPassage, ContextQuestion, Draws, Error, Result};

/// The least number of passages of a question: a fact and a decoy of two passages each.
pub const FEWEST_PASSAGES: usize = 4;

/// Questions that share their passages in [`PlantedSet::Permutations`].
const GROUP: usize = 5;

/// Words of a passage, about.
const PASSAGE_WORDS: usize = 90;

/// What has to be read together to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedSet {
    /// One sentence.
    Single,
    /// Sentences in two passages, in either order.
    TwoChunks,
    /// A pronoun and the passage before.
    Pronoun,
    /// A sentence and its correction in a later passage.
    Contradiction,
    /// As two chunks, but groups of five questions share their passages, each in another order.
    Permutations,
}

impl PlantedSet {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Single, Self::TwoChunks, Self::Pronoun, Self::Contradiction, Self::Permutations];
}

impl fmt::Display for PlantedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "single",
            Self::TwoChunks => "two-chunks",
            Self::Pronoun => "pronoun",
            Self::Contradiction => "contradiction",
            Self::Permutations => "permutations",
        })
    }
}

impl FromStr for PlantedSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|set| set.to_string() == text)
            .ok_or_else(|| format!("no set `{text}`; there are {}", Self::ALL.map(|set| set.to_string()).join(", ")))
    }
}

/// The text around the planted sentences, as sentences.
#[derive(Clone, Debug)]
pub enum Filler {
    /// Sentences from templates.
    BuiltIn,
    /// Passages of text, each as its sentences; there is one at least.
    Texts(Vec<Vec<String>>),
}

impl Filler {
    /// Passages from a text file, or from the `.txt` and `.md` files of a folder: paragraphs, which blank lines divide,
    /// of twenty words or more, the first ninety words or so of each.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be read as text; [`Error::NoText`] when there is no such paragraph.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            let entries =
                fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(io(path))?;
            files = entries.into_iter().map(|entry| entry.path()).collect();
            files.retain(|file| file.extension().is_some_and(|end| end == "txt" || end == "md"));
            files.sort();
        }
        let mut texts = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file).map_err(io(&file))?.replace("\r\n", "\n");
            for paragraph in text.split("\n\n") {
                let words: Vec<&str> = paragraph.split_whitespace().collect();
                if words.len() >= 20 {
                    texts.push(sentences(&words));
                }
            }
        }
        if texts.is_empty() {
            return Err(Error::NoText { path: path.to_owned() });
        }
        Ok(Self::Texts(texts))
    }

    /// The sentences of one passage.
    pub(crate) fn passage(&self, draws: &mut Draws) -> Vec<String> {
        match self {
            Self::Texts(texts) => texts[draws.below(texts.len())].clone(),
            Self::BuiltIn => {
                let mut passage = Vec::new();
                let mut n_words = 0;
                while n_words < PASSAGE_WORDS {
                    let mut pick = |from: &[&'static str]| from[draws.below(from.len())];
                    let sentence = format!("{} {} {} {}.", pick(&WHO), pick(&DID), pick(&WHAT), pick(&WHEN));
                    n_words += sentence.split(' ').count();
                    passage.push(sentence);
                }
                passage
            }
        }
    }
}

/// Words as sentences, until there are enough.
fn sentences(words: &[&str]) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut n_words = 0;
    for sentence in words.split_inclusive(|word| word.ends_with(['.', '!', '?'])) {
        if n_words > 0 && n_words + sentence.len() > PASSAGE_WORDS {
            break;
        }
        n_words += sentence.len();
        sentences.push(sentence[..sentence.len().min(PASSAGE_WORDS)].join(" "));
    }
    sentences
}

/// Makes `n` questions with `n_passages` passages each, [`FEWEST_PASSAGES`] at least. The same seed gives the same ones,
/// and a question does not depend on how many there are.
pub fn planted(set: PlantedSet, n: usize, n_passages: usize, filler: &Filler, seed: u64) -> Vec<ContextQuestion> {
    let n_passages = n_passages.max(FEWEST_PASSAGES);
    (0..n)
        .map(|i| {
            let (number, asked) = if set == PlantedSet::Permutations { (i / GROUP, i % GROUP) } else { (i, 0) };
            let mut draws = Draws::new(seed, number as u64);
            let passages: Vec<Vec<String>> = (0..n_passages).map(|_| filler.passage(&mut draws)).collect();
            let mut planting = Planting { names: Names::new(&mut draws), passages, draws };
            let (question, answer) = match set {
                PlantedSet::Single => planting.single(),
                PlantedSet::TwoChunks | PlantedSet::Permutations => planting.two_chunks(asked),
                PlantedSet::Pronoun => planting.pronoun(),
                PlantedSet::Contradiction => planting.contradiction(),
            };
            let Planting { passages, draws: mut last, .. } = planting;
            let mut passages: Vec<ContextPassage> = passages
                .into_iter()
                .enumerate()
                .map(|(i, sentences)| ContextPassage { title: format!("Note {}", i + 1), text: sentences.join(" ") })
                .collect();
            if set == PlantedSet::Permutations {
                (0..=asked).for_each(|_| last.shuffle(&mut passages));
            }
            ContextQuestion { id: format!("{set}-{}", i + 1), question, answers: vec![answer], passages }
        })
        .collect()
}

/// Names in an order of their own for each question, so that none comes twice in one.
struct Names {
    women: Vec<String>,
    men: Vec<String>,
    cities: Vec<&'static str>,
    events: Vec<&'static str>,
}

impl Names {
    fn new(draws: &mut Draws) -> Self {
        let mut families = FAMILIES;
        draws.shuffle(&mut families);
        let (of_women, of_men) = families.split_at(FAMILIES.len() / 2);
        let mut people = |firsts: &[&str], families: &[&str]| {
            let mut firsts = firsts.to_vec();
            draws.shuffle(&mut firsts);
            firsts.iter().zip(families).map(|(first, family)| format!("{first} {family}")).collect()
        };
        let (women, men) = (people(&WOMEN, of_women), people(&MEN, of_men));
        let (mut cities, mut events) = (CITIES.to_vec(), EVENTS.to_vec());
        draws.shuffle(&mut cities);
        draws.shuffle(&mut events);
        Self { women, men, cities, events }
    }

    fn woman(&mut self) -> String {
        self.women.pop().expect("there are more names than a question takes")
    }

    fn man(&mut self) -> String {
        self.men.pop().expect("there are more names than a question takes")
    }

    fn city(&mut self) -> &'static str {
        self.cities.pop().expect("there are more cities than a question takes")
    }

    fn event(&mut self) -> &'static str {
        self.events.pop().expect("there are more events than a question takes")
    }
}

/// A question in the making.
struct Planting {
    names: Names,
    passages: Vec<Vec<String>>,
    draws: Draws,
}

impl Planting {
    /// Puts a sentence somewhere into a passage, but neither first nor last where there is room.
    fn put(&mut self, passage: usize, sentence: String) {
        let sentences = &mut self.passages[passage];
        let at = if sentences.len() < 2 { sentences.len() } else { 1 + self.draws.below(sentences.len() - 1) };
        sentences.insert(at, sentence);
    }

    /// Places in any order.
    fn places(&mut self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.passages.len()).collect();
        self.draws.shuffle(&mut places);
        places
    }

    fn single(&mut self) -> (String, String) {
        let places = self.places();
        let (person, city) = (self.names.man(), self.names.city());
        self.put(places[0], format!("{person} lives in {city}."));
        let (other, elsewhere) = (self.names.man(), self.names.city());
        self.put(places[1], format!("{other} lives in {elsewhere}."));
        (format!("In which city does {person} live?"), city.to_owned())
    }

    /// Facts over two passages each, as many as there is room for and are asked for; the one asked about has this
    /// number.
    fn two_chunks(&mut self, asked: usize) -> (String, String) {
        let mut told = Vec::new();
        for _ in 0..GROUP {
            let places = self.places();
            let (person, manager, city) = (self.names.woman(), self.names.man(), self.names.city());
            self.put(places[0], format!("{person} reports to {manager}."));
            self.put(places[1], format!("{manager} works in {city}."));
            told.push((person, city));
        }
        let (person, city) = told.swap_remove(asked);
        (format!("In which city does the manager of {person} work?"), city.to_owned())
    }

    fn pronoun(&mut self) -> (String, String) {
        // Two pairs of neighbours that have no passage in common.
        let pairs = self.passages.len() / 2;
        let first = self.draws.below(pairs);
        let second = (first + 1 + self.draws.below(pairs - 1)) % pairs;
        let mut asked = None;
        for pair in [first, second] {
            let (person, city) = (self.names.woman(), self.names.city());
            self.passages[2 * pair].push(format!("The report was written by {person}."));
            self.passages[2 * pair + 1].insert(0, format!("She lives in {city} and comes to the office by train."));
            asked.get_or_insert((person, city));
        }
        let (person, city) = asked.expect("there are two pairs");
        (format!("In which city does {person} live?"), city.to_owned())
    }

    fn contradiction(&mut self) -> (String, String) {
        let mut asked = None;
        for is_corrected in [true, false] {
            let mut places = self.places();
            places.truncate(2);
            places.sort_unstable();
            let (event, city) = (self.names.event(), self.names.city());
            self.put(places[0], format!("The {event} will be held in {city}."));
            if is_corrected {
                let moved = self.names.city();
                let sentence =
                    format!("Correction to the notes above: the {event} will not be held in {city} but in {moved}.");
                self.put(places[1], sentence);
                asked = Some((event, moved));
            }
        }
        let (event, city) = asked.expect("one of them is corrected");
        (format!("In which city will the {event} be held?"), city.to_owned())
    }
}

const WOMEN: [&str; 12] =
    ["Alda", "Berit", "Corinna", "Delphine", "Edda", "Fenja", "Greta", "Hedwig", "Ilse", "Jorunn", "Katla", "Linnea"];
const MEN: [&str; 12] = [
    "Anselm", "Bertil", "Casimir", "Detlef", "Egon", "Folke", "Gustav", "Henning", "Ivar", "Joachim", "Konrad", "Leif",
];
const FAMILIES: [&str; 24] = [
    "Aldermoor",
    "Brackwell",
    "Carrow",
    "Dunmere",
    "Eskdale",
    "Farrant",
    "Garroway",
    "Hollin",
    "Inskip",
    "Jessop",
    "Kellaway",
    "Lorimer",
    "Marchbank",
    "Norcott",
    "Ormerod",
    "Penhallow",
    "Quarrie",
    "Rushworth",
    "Sallow",
    "Thirlby",
    "Underhay",
    "Vickery",
    "Wetherall",
    "Yarrow",
];
const CITIES: [&str; 20] = [
    "Aldport",
    "Brenwick",
    "Castermoor",
    "Dornstadt",
    "Elverfield",
    "Fallowby",
    "Grimstone",
    "Harrowgate",
    "Inverloch",
    "Jarrowby",
    "Kestrelford",
    "Lindholm",
    "Marrowick",
    "Northolm",
    "Ostermark",
    "Pellworth",
    "Quenby",
    "Ravensund",
    "Silverton",
    "Tarnfield",
];
const EVENTS: [&str; 8] = [
    "spring fair",
    "annual assembly",
    "chess tournament",
    "book exhibition",
    "regatta",
    "harvest festival",
    "choir competition",
    "design conference",
];
// Filler names nobody, and no city.
const WHO: [&str; 16] = [
    "The committee",
    "A small group of volunteers",
    "The library",
    "One of the engineers",
    "The local museum",
    "The new supplier",
    "An old survey",
    "The finance office",
    "The gardeners",
    "Most of the visitors",
    "The night shift",
    "A retired teacher",
    "The planning board",
    "The second workshop",
    "The weather service",
    "Every department",
];
const DID: [&str; 16] = [
    "discussed",
    "put off",
    "described",
    "repaired",
    "collected",
    "asked for",
    "wrote about",
    "counted",
    "replaced",
    "praised",
    "looked into",
    "paid for",
    "set aside",
    "measured",
    "photographed",
    "explained",
];
const WHAT: [&str; 20] = [
    "the wooden bridge behind the mill",
    "several boxes of printed maps",
    "the heating of the main hall",
    "a list of missing tools",
    "the prices of timber and glass",
    "the old water pump",
    "two pages of the handbook",
    "the plans for a larger car park",
    "the results of the last quarter",
    "the roof of the greenhouse",
    "a number of broken chairs",
    "the opening hours of the reading room",
    "the path along the river",
    "the rules for lending bicycles",
    "a collection of dried flowers",
    "the lamps in the corridor",
    "the menu of the canteen",
    "the archive of letters",
    "a shipment of blue paint",
    "the noise of the machines",
];
const WHEN: [&str; 16] = [
    "in the first week of the month",
    "although nobody had asked for it",
    "before the meeting was over",
    "with the help of a neighbour",
    "as it had been agreed in winter",
    "without any further delay",
    "after a long conversation",
    "on a rainy afternoon",
    "for the third time this year",
    "while the doors were closed",
    "because the budget allowed it",
    "and sent a short report",
    "as soon as the snow had melted",
    "to everyone's surprise",
    "which took longer than expected",
    "and nothing else was decided that day",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn make(set: PlantedSet, n: usize) -> Vec<ContextQuestion> {
        planted(set, n, 10, &Filler::BuiltIn, 7)
    }

    /// Passages that hold a text.
    fn holding<'q>(question: &'q ContextQuestion, text: &str) -> Vec<(usize, &'q str)> {
        let texts = question.passages.iter().map(|passage| passage.text.as_str()).enumerate();
        texts.filter(|(_, passage)| passage.contains(text)).collect()
    }

    /// The person whom a question is about.
    fn person<'q>(question: &'q str, before: &str, after: &str) -> &'q str {
        question.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).unwrap()
    }

    #[test]
    fn a_seed_decides_and_each_question_stands_by_itself() {
        for set in PlantedSet::ALL {
            let questions = make(set, 12);
            assert_eq!(questions, make(set, 12));
            assert_eq!(questions[..7], make(set, 7));
            assert_ne!(questions, planted(set, 12, 10, &Filler::BuiltIn, 8));
            assert!(questions.iter().all(|question| question.passages.len() == 10));
            assert!(questions.iter().all(|question| !holding(question, &question.answers[0]).is_empty()));
            assert_eq!(set.to_string().parse(), Ok(set));
            assert_eq!(planted(set, 3, 0, &Filler::BuiltIn, 1)[2].passages.len(), FEWEST_PASSAGES);
        }
        assert!("twochunks".parse::<PlantedSet>().unwrap_err().contains("two-chunks"));
    }

    #[test]
    fn no_passage_alone_answers_over_two_chunks() {
        let mut is_forward = Vec::new();
        for question in [make(PlantedSet::TwoChunks, 40), make(PlantedSet::Permutations, 40)].concat() {
            let person = person(&question.question, "In which city does the manager of ", " work?");
            let (of_person, of_city) = (holding(&question, person), holding(&question, &question.answers[0]));
            assert_eq!((of_person.len(), of_city.len()), (1, 1), "{question:?}");
            assert_ne!(of_person[0].0, of_city[0].0);
            is_forward.push(of_person[0].0 < of_city[0].0);
            // Guessing a city hits a decoy as well.
            let n_cities = CITIES.iter().filter(|city| !holding(&question, city).is_empty()).count();
            assert_eq!(n_cities, GROUP);
        }
        assert!(is_forward.contains(&true) && is_forward.contains(&false));
    }

    #[test]
    fn a_pronouns_passage_does_not_name_whom_it_means() {
        for question in make(PlantedSet::Pronoun, 40) {
            let person = person(&question.question, "In which city does ", " live?");
            let (of_person, of_city) = (holding(&question, person), holding(&question, &question.answers[0]));
            assert_eq!((of_person.len(), of_city.len()), (1, 1));
            assert_eq!(of_person[0].0 + 1, of_city[0].0);
            assert!(of_city[0].1.starts_with("She lives in ") && of_person[0].1.ends_with(&format!("{person}.")));
            assert_eq!(holding(&question, "She lives in ").len(), 2);
        }
    }

    #[test]
    fn a_correction_comes_later() {
        for question in make(PlantedSet::Contradiction, 40) {
            let event = person(&question.question, "In which city will the ", " be held?");
            let told = holding(&question, &format!("{event} will"));
            let corrected = holding(&question, &question.answers[0]);
            assert_eq!((told.len(), corrected.len()), (2, 1));
            assert_eq!(told[1], corrected[0]);
        }
    }

    #[test]
    fn permutations_share_their_passages() {
        let questions = make(PlantedSet::Permutations, GROUP + 1);
        let sorted = |question: &ContextQuestion| {
            let mut texts: Vec<String> = question.passages.iter().map(|passage| passage.text.clone()).collect();
            texts.sort();
            texts
        };
        for question in &questions[1..GROUP] {
            assert_eq!(sorted(question), sorted(&questions[0]));
            assert_ne!(question.passages, questions[0].passages);
            assert_ne!(question.question, questions[0].question);
        }
        assert_ne!(sorted(&questions[GROUP]), sorted(&questions[0]));
    }

    #[test]
    fn filler_is_taken_from_files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Filler::read(folder.path()).unwrap_err().to_string().contains("paragraph"));
        let long = "One two three four five six seven eight nine ten. ".repeat(12);
        fs::write(folder.path().join("a.txt"), format!("too short\n\n{long}\n")).unwrap();
        fs::write(folder.path().join("b.pdf"), "x ".repeat(100)).unwrap();
        let Filler::Texts(texts) = Filler::read(folder.path()).unwrap() else { panic!("it is from a file") };
        assert_eq!((texts.len(), texts[0].len()), (1, PASSAGE_WORDS / 10));
        let filler = Filler::read(&folder.path().join("a.txt")).unwrap();
        let question = &planted(PlantedSet::Single, 1, 4, &filler, 1)[0];
        assert!(question.passages.iter().all(|passage| passage.text.contains("nine ten.")));
    }
}
