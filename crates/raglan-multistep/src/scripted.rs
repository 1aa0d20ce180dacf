//! Parts for tests: a model that says what a script has, and passages found by the words that they share with a query.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use raglan_core::{
    Budget, Chunk, ChunkId, ChunkStore, ContentHash, DocId, Document, Error as CoreError, Format, Hit, Locator, Meter,
    Query, Ranking, Result as CoreResult, Retriever,
};
use raglan_model::{Prompt, Result, TextModel, TextWriter, Weighed, WritingRequest, Written, WrittenToken};

use crate::{Limits, Parts, Sources, Strategy, Trail, Unit};

/// Says what the first line of its script has whose texts are all in the prompt, and remembers the prompts. `@` stands
/// before the reply's beginning, `$` behind it. Tokens are
/// words; one that ends in `~` and a number has that probability, the others 1. A line may have several replies, with `|`
/// between them: the first is the likeliest, and all are drawn, one after the other.
pub(crate) struct Scripted {
    lines: Vec<(&'static [&'static str], &'static str)>,
    pub prompts: Mutex<Vec<(String, String)>>,
    pub context_len: usize,
    pub special: Vec<&'static str>,
}

impl Scripted {
    pub fn new(lines: &[(&'static [&'static str], &'static str)]) -> Self {
        Self { lines: lines.to_vec(), prompts: Mutex::default(), context_len: 4096, special: Vec::new() }
    }

    fn reply(&self, prompt: &Prompt) -> &'static str {
        let whole = format!("{}\n@{}$", prompt.user, prompt.reply);
        self.prompts.lock().unwrap().push((prompt.user.clone(), prompt.reply.clone()));
        let line = self.lines.iter().find(|(needles, _)| needles.iter().all(|needle| whole.contains(needle)));
        line.map_or("", |(_, reply)| reply)
    }

    pub fn n_calls(&self) -> usize {
        self.prompts.lock().unwrap().len()
    }
}

impl TextWriter for Scripted {
    fn write(&self, requests: &[WritingRequest], meter: &mut Meter) -> Result<Vec<Vec<Written>>> {
        let write_one = |request: &WritingRequest, script: &str, meter: &mut Meter| {
            let mut written = Written { ended: true, ..Written::default() };
            let mut n_written = 0;
            for (i, word) in script.split(' ').enumerate().filter(|(_, word)| !word.is_empty()) {
                if n_written == request.max_tokens {
                    written.ended = false;
                    break;
                }
                let (word, probability) = match word.split_once('~') {
                    Some((word, p)) => (word, p.parse().unwrap()),
                    None => (word, 1.0_f32),
                };
                let text = if i == 0 { word.to_owned() } else { format!(" {word}") };
                n_written += 1;
                written.text.push_str(&text);
                written.tokens.push(WrittenToken { text, log_probability: probability.ln() });
                if let Some(end) = request.stop.iter().filter_map(|stop| written.text.find(stop.as_str())).min() {
                    written.text.truncate(end);
                    written.ended = false;
                    break;
                }
            }
            meter.count(0, 0, n_written);
            written
        };
        let write = |request: &WritingRequest| {
            meter.count(1, self.count_prompt(&request.prompt)?, 0);
            let replies: Vec<&str> = self.reply(&request.prompt).split('|').collect();
            let drawn = (0..request.n).map(|i| write_one(request, replies[i % replies.len()], meter));
            Ok(drawn.collect())
        };
        requests.iter().map(write).collect()
    }

    fn write_streaming(
        &self,
        request: &WritingRequest,
        meter: &mut Meter,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Option<Written>> {
        let written = self.write(std::slice::from_ref(request), meter)?.remove(0).remove(0);
        let mut told = 0;
        for token in &written.tokens {
            let end = written.text.len().min(told + token.text.len());
            on_text(&written.text[told..end]);
            told = end;
        }
        Ok(Some(written))
    }
}

impl TextModel for Scripted {
    fn name(&self) -> String {
        "scripted".to_owned()
    }

    fn context_len(&self) -> usize {
        self.context_len
    }

    fn count(&self, text: &str) -> Result<usize> {
        Ok(text.split_whitespace().count())
    }

    fn count_prompt(&self, prompt: &Prompt) -> Result<usize> {
        Ok(self.count(&prompt.user)? + self.count(&prompt.reply)?)
    }

    /// The text that the script has is twice as likely as the others.
    fn weigh(&self, prompt: &Prompt, texts: &[&str], meter: &mut Meter) -> Result<Weighed> {
        let script = self.reply(prompt);
        meter.count(1, self.count_prompt(prompt)?, 0);
        let log = |text: &&str| vec![if script.trim_start().starts_with(text.trim()) { -1.0 } else { -2.0 }];
        Ok(Weighed { log_probabilities: texts.iter().map(log).collect() })
    }

    fn has_token(&self, token: &str) -> bool {
        self.special.contains(&token)
    }
}

/// What a strategy answers; its pieces are the answer.
#[track_caller]
pub(crate) fn answered(strategy: &dyn Strategy, question: &Query, budget: &Budget) -> Trail {
    let mut pieces = String::new();
    let trail = strategy.answer_streaming(question, budget, &mut |piece| pieces.push_str(piece)).unwrap();
    assert_eq!(pieces, trail.answer);
    trail
}

/// A page's path and the text of one of its chunks.
pub(crate) fn page(path: &str, text: &str) -> (String, String) {
    (path.to_owned(), text.to_owned())
}

/// Chunks with ids as they come; those of one path are one document.
pub(crate) struct Pages {
    pub chunks: Vec<Chunk>,
    pub documents: Vec<Arc<Document>>,
}

pub(crate) fn pages(list: &[(String, String)]) -> Pages {
    let mut pages = Pages { chunks: Vec::new(), documents: Vec::new() };
    for (i, (path, text)) in list.iter().enumerate() {
        let place = pages.documents.iter().position(|document| document.path == *path).unwrap_or_else(|| {
            pages.documents.push(Arc::new(Document {
                id: DocId(pages.documents.len() as u32),
                path: path.clone(),
                hash: ContentHash([i as u8; 32]),
                size: 0,
                mtime_ns: 0,
                format: Format::PlainText,
                reader: "test/1".to_owned(),
                encoding: None,
                title: None,
                metadata: BTreeMap::new(),
            }));
            pages.documents.len() - 1
        });
        pages.chunks.push(Chunk {
            id: ChunkId(i as u32),
            doc: DocId(place as u32),
            span: 0..text.len(),
            text: text.clone(),
            locator: Locator::default(),
            n_tokens: 0,
        });
    }
    pages
}

/// Sources over pages, found by how many of their words are in the query.
pub(crate) fn sources(list: &[(String, String)], unit: Unit) -> Sources {
    let pages = Arc::new(pages(list));
    Sources { retriever: pages.clone(), store: pages, unit }
}

/// What a strategy works with, for tests.
pub(crate) fn parts(model: Scripted, list: &[(String, String)], unit: Unit) -> Parts {
    Parts { model: Arc::new(model), sources: sources(list, unit), limits: Limits::default() }
}

impl Retriever for Pages {
    fn search(&self, queries: &[Query], k: usize) -> CoreResult<Vec<Ranking>> {
        let ranking = |query: &Query| {
            let lower = query.text.to_lowercase();
            let words: HashSet<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
            let hit = |chunk: &Chunk| {
                let text = chunk.text.to_lowercase();
                let of = text.split(|c: char| !c.is_alphanumeric()).filter(|word| words.contains(word));
                let score = of.count() as f32;
                let is_allowed = query.allowed.as_ref().is_none_or(|allowed| allowed.contains(chunk.id));
                (score > 0.0 && is_allowed).then(|| Hit::new(chunk.id, score))
            };
            Ranking::best(self.chunks.iter().filter_map(hit).collect(), k)
        };
        queries.iter().map(ranking).collect()
    }
}

impl ChunkStore for Pages {
    fn chunks(&self, ids: &[ChunkId]) -> CoreResult<Vec<Chunk>> {
        let chunk = |id: &ChunkId| {
            let found = self.chunks.iter().find(|chunk| chunk.id == *id).cloned();
            found.ok_or(CoreError::Unknown { what: "chunk", id: id.0.into() })
        };
        ids.iter().map(chunk).collect()
    }

    fn chunks_of(&self, doc: DocId) -> CoreResult<Vec<Chunk>> {
        Ok(self.chunks.iter().filter(|chunk| chunk.doc == doc).cloned().collect())
    }

    fn document(&self, id: DocId) -> CoreResult<Arc<Document>> {
        let found = self.documents.iter().find(|document| document.id == id).cloned();
        found.ok_or(CoreError::Unknown { what: "document", id: id.0.into() })
    }
}
