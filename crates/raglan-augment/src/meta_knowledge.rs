//! What a collection is about, written down before anybody asks (Meta-Knowledge RAG; Mombaerts et al. 2024).

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Mutex;

use raglan_core::{Budget, ChunkId, Cost, Meter, QueryRewriter, SharedBudget};
use raglan_model::{TextWriter, WritingRequest};
use serde::{Deserialize, Serialize};

use crate::words::{content_words, first_words, normalized};
use crate::{Error, Result, SyntheticQuestion};

/// Words of a passage, and of a topic's questions, that are shown to the model.
const SHOWN_WORDS: usize = 160;

/// Questions and answers of a collection by topic, and what the questions of each topic are about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaKnowledge {
    /// The questions, in the order of the passages.
    pub questions: Vec<TopicQuestion>,
    /// A summary by topic; none for topics without questions.
    pub summaries: BTreeMap<String, String>,
}

impl MetaKnowledge {
    /// Reads meta-knowledge that [`write`](Self::write) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Malformed`] with the line where the file is not such JSON.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        serde_json::from_str(&text).map_err(|error| Error::Malformed {
            path: path.to_owned(),
            line: error.line(),
            problem: error.to_string(),
        })
    }

    /// Writes a file of JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        std::fs::write(path, text).map_err(failed)
    }
}

/// A question about a passage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicQuestion {
    /// The topic of its passage.
    pub topic: String,
    /// The question; a [`QuestionIndex`](crate::QuestionIndex) finds its chunk by it.
    pub question: SyntheticQuestion,
    /// The answer that the model gave with it.
    pub answer: String,
}

/// Writes [`MetaKnowledge`] of passages: each is put to a topic of a closed list, gets questions with answers, and each
/// topic gets a summary of its questions.
#[derive(Clone, Debug)]
pub struct MetaKnowledgeWriter<W> {
    writer: W,
    topics: Vec<String>,
    n: usize,
}

impl<W: TextWriter> MetaKnowledgeWriter<W> {
    /// A writer of up to `n` questions a passage for these topics. The paper has five or six a document, and topics in 20
    /// fields.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when there is no topic, one says nothing or comes twice, or no question is wanted.
    pub fn new(writer: W, topics: Vec<String>, n: usize) -> Result<Self> {
        let names: HashSet<String> = topics.iter().map(|topic| normalized(topic)).collect();
        if topics.is_empty() || names.len() < topics.len() || names.contains("") {
            let problem = "must be one or more, each with words of its own".to_owned();
            return Err(Error::Parameter { name: "topics", problem });
        }
        if n == 0 {
            return Err(Error::Parameter { name: "n", problem: "must be at least 1".to_owned() });
        }
        Ok(Self { writer, topics, n })
    }

    /// The meta-knowledge of passages, within a budget for all, and what it cost.
    ///
    /// # Errors
    ///
    /// What the writer of texts gives.
    pub fn write(&self, passages: &[(ChunkId, &str)], budget: &Budget) -> Result<(MetaKnowledge, Cost)> {
        let mut meter = Meter::start(budget);
        let shown: Vec<&str> = passages.iter().map(|(_, passage)| first_words(passage, SHOWN_WORDS)).collect();
        let ask = |passage: &&str| {
            let topics = self.topics.join(", ");
            let ask = format!("Passage: {passage}\n\nWhich of these topics is it about: {topics}? Name one.");
            WritingRequest::line(ask, 16)
        };
        let named = self.writer.write(&shown.iter().map(ask).collect::<Vec<_>>(), &mut meter)?;
        let ask = |passage: &&str| {
            let ask = format!(
                "Passage: {passage}\n\nWrite {} questions that this passage answers, each on a line with its answer \
                 behind it, as in:\nWhen was the bridge built? In 1878.",
                self.n
            );
            WritingRequest { stop: vec!["\n\n".to_owned()], ..WritingRequest::line(ask, 48 * self.n) }
        };
        let written = self.writer.write(&shown.iter().map(ask).collect::<Vec<_>>(), &mut meter)?;
        let mut questions = Vec::new();
        for (((chunk, passage), named), written) in passages.iter().zip(named).zip(written) {
            let named = named.first().map_or("", |written| written.text.as_str());
            let Some(topic) = self.topic(named, passage) else { continue };
            for written in &written {
                for (question, answer) in written.text.lines().filter_map(question_and_answer).take(self.n) {
                    let (topic, answer) = (topic.to_owned(), answer.to_owned());
                    let log_probability = written.mean_log_probability();
                    let question = SyntheticQuestion { chunk: *chunk, text: question.to_owned(), log_probability };
                    questions.push(TopicQuestion { topic, question, answer });
                }
            }
        }
        let mut of_topic: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for question in &questions {
            of_topic.entry(&question.topic).or_default().push(&question.question.text);
        }
        let requests: Vec<WritingRequest> = of_topic
            .iter()
            .map(|(topic, questions)| {
                let questions = questions.join("\n");
                let shown = first_words(&questions, SHOWN_WORDS);
                let ask = format!(
                    "Questions about {topic}:\n{shown}\n\nWhich concepts are they about? Name them in a sentence."
                );
                WritingRequest::line(ask, 64)
            })
            .collect();
        let written = self.writer.write(&requests, &mut meter)?;
        let summaries = of_topic.keys().zip(written).filter_map(|(topic, written)| {
            let summary = written.first()?.text.trim();
            (!summary.is_empty()).then(|| ((*topic).to_owned(), summary.to_owned()))
        });
        let summaries = summaries.collect();
        Ok((MetaKnowledge { questions, summaries }, meter.cost()))
    }

    /// The topic that the model names first; where it names none, the one whose words the passage has most of.
    fn topic(&self, named: &str, passage: &str) -> Option<&str> {
        let named = normalized(named);
        let place = |topic: &String| named.find(&normalized(topic));
        let by_name = self.topics.iter().filter_map(|topic| Some((place(topic)?, topic))).min();
        let by_words = || most_shared(self.topics.iter().map(|topic| (topic.as_str(), topic.as_str())), passage);
        by_name.map(|(_, topic)| topic.as_str()).or_else(by_words)
    }
}

/// Of texts with their names, the name of the one that shares most content words with `text`; the first of equals.
fn most_shared<'a>(texts: impl Iterator<Item = (&'a str, &'a str)>, text: &str) -> Option<&'a str> {
    let own: HashSet<String> = content_words(text).collect();
    let shared = |other: &str| content_words(other).collect::<HashSet<_>>().intersection(&own).count();
    let mut best: Option<(usize, &str)> = None;
    for (name, other) in texts {
        let n = shared(other);
        if n > best.map_or(0, |(n, _)| n) {
            best = Some((n, name));
        }
    }
    best.map(|(_, name)| name)
}

/// A line's question, and what stands behind it.
fn question_and_answer(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c.is_whitespace() || "-*.)".contains(c));
    let end = line.find('?')? + 1;
    let (question, answer) = (line[..end].trim(), line[end..].trim());
    (content_words(question).next().is_some() && !answer.is_empty()).then_some((question, answer))
}

/// A [`QueryRewriter`] that asks for the questions to search with in the light of a topic's summary: the one whose topic
/// and summary share most words with the question.
pub struct MetaKnowledgeRewriter<W> {
    writer: W,
    summaries: BTreeMap<String, String>,
    n: usize,
    budget: Budget,
    spent: Mutex<Cost>,
}

impl<W: TextWriter> MetaKnowledgeRewriter<W> {
    /// A rewriter that gives up to `n` texts a question, within a budget for each and an equal part of what is left of the
    /// [current one](SharedBudget::current).
    pub fn new(writer: W, knowledge: &MetaKnowledge, n: usize, budget: Budget) -> Self {
        Self { writer, summaries: knowledge.summaries.clone(), n, budget, spent: Mutex::default() }
    }

    /// What all questions so far have cost.
    pub fn spent(&self) -> Cost {
        *self.spent.lock().expect("no thread panics while it adds")
    }
}

impl<W: TextWriter> QueryRewriter for MetaKnowledgeRewriter<W> {
    fn rewrite(&self, questions: &[&str]) -> raglan_core::Result<Vec<Vec<String>>> {
        let rewrite = |question: &&str| {
            let described: Vec<(&str, String)> =
                self.summaries.iter().map(|(topic, summary)| (topic.as_str(), format!("{topic} {summary}"))).collect();
            let named = described.iter().map(|(topic, text)| (*topic, text.as_str()));
            let Some(topic) = most_shared(named, question) else { return Ok(Vec::new()) };
            let ask = format!(
                "A collection about {topic} has this in it: {}\n\nWhich {} questions should be looked up there to answer \
                 the following? Write one on each line.\n\nQuestion: {}",
                self.summaries[topic],
                self.n,
                first_words(question, SHOWN_WORDS),
            );
            let request =
                WritingRequest { stop: vec!["\n\n".to_owned()], ..WritingRequest::line(ask, 32 * self.n.max(1)) };
            let mut meter = Meter::start(&self.budget.within_shared(questions.len()));
            let written = self.writer.write(&[request], &mut meter)?;
            SharedBudget::current().spend(meter.cost());
            *self.spent.lock().expect("no thread panics while it adds") += meter.cost();
            let mut texts: Vec<String> = Vec::new();
            for line in written.iter().flatten().flat_map(|written| written.text.lines()) {
                let line = line.trim().trim_start_matches(|c: char| c.is_ascii_digit() || "-*.) ".contains(c));
                let is_new = |seen: &String| normalized(seen) != normalized(line);
                if line.ends_with('?') && normalized(line) != normalized(question) && texts.iter().all(is_new) {
                    texts.push(line.to_owned());
                }
            }
            texts.truncate(self.n);
            Ok(texts)
        };
        questions.iter().map(rewrite).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::Scripted;

    fn script(request: &WritingRequest) -> Vec<String> {
        let ask = &request.prompt.user;
        let text = if ask.contains("Name one") {
            if ask.contains("Passage: Bread") { "It is about Baking." } else { "I cannot say." }
        } else if ask.contains("with its answer") {
            "1. What rises? Bread does.\n2. Nothing\n3. Why?\n- How long? An hour."
        } else if ask.starts_with("Questions about") {
            "Yeast, dough and rising."
        } else {
            "1. How does yeast work?\nhow does yeast work?\nWhat is dough?\nWhat is flour?"
        };
        vec![text.to_owned()]
    }

    #[test]
    fn passages_have_topics_questions_and_the_topics_summaries() {
        let topics = vec!["baking".to_owned(), "stone carving".to_owned()];
        let writer = MetaKnowledgeWriter::new(Scripted::by(script), topics, 2).unwrap();
        let passages =
            [(ChunkId(1), "Bread is baked."), (ChunkId(2), "A stone, for carving."), (ChunkId(3), "Something else.")];
        let (knowledge, cost) = writer.write(&passages, &Budget::default()).unwrap();
        let found: Vec<_> =
            knowledge.questions.iter().map(|of| (of.topic.as_str(), of.question.chunk.0, &*of.question.text)).collect();
        assert_eq!(
            found,
            [
                ("baking", 1, "What rises?"),
                ("baking", 1, "How long?"),
                ("stone carving", 2, "What rises?"),
                ("stone carving", 2, "How long?"),
            ]
        );
        assert_eq!(knowledge.questions[1].answer, "An hour.");
        assert_eq!(knowledge.summaries.keys().collect::<Vec<_>>(), ["baking", "stone carving"]);
        assert_eq!(cost.calls, 3 + 3 + 2);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("knowledge.json");
        knowledge.write(&path).unwrap();
        assert_eq!(MetaKnowledge::read(&path).unwrap(), knowledge);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(matches!(MetaKnowledge::read(&path), Err(Error::Malformed { .. })));
    }

    #[test]
    fn a_question_is_looked_up_in_the_light_of_its_topic() {
        let summaries = [("baking", "Yeast and dough."), ("carving", "Stone and chisels.")];
        let summaries = summaries.map(|(topic, summary)| (topic.to_owned(), summary.to_owned()));
        let knowledge = MetaKnowledge { summaries: summaries.into(), ..MetaKnowledge::default() };
        let rewriter = MetaKnowledgeRewriter::new(Scripted::by(script), &knowledge, 2, Budget::default());
        let texts = rewriter.rewrite(&["Why does yeast rise?", "Who wins?"]).unwrap();
        assert_eq!(texts, [vec!["How does yeast work?".to_owned(), "What is dough?".to_owned()], vec![]]);
        assert!(rewriter.writer.asked.lock().unwrap()[0].starts_with("A collection about baking"));
        assert_eq!(rewriter.spent().calls, 1);
    }

    #[test]
    fn topics_that_cannot_be_told_apart_are_refused() {
        for topics in [vec![], vec!["a b", "A, b"], vec!["?"]] {
            let topics = topics.into_iter().map(str::to_owned).collect();
            let error = MetaKnowledgeWriter::new(Scripted::new(&[]), topics, 2).err().unwrap();
            assert!(matches!(error, Error::Parameter { name: "topics", .. }), "{error}");
        }
    }
}
