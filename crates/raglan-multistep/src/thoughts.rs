//! Thoughts that outlive their question: Thought-Retriever (Feng et al., 2024).

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use raglan_core::{Budget, ChunkId, ChunkStore, ContentHash, DenseVector, Encoder, Query};
use raglan_model::Prompt;
use serde::{Deserialize, Serialize};

use crate::single_step::{FROM_MEMORY, FROM_PASSAGES};
use crate::sources::Gathered;
use crate::work::{Turn, Work, first_sentence, passage_text};
use crate::{End, Error, Parts, Result, StepKind, Strategy, Trail};

/// A statement that was distilled from passages while a question was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thought {
    /// The statement, which can be understood by itself.
    pub text: String,
    /// Its vector.
    pub vector: DenseVector,
    /// The chunks that it comes from, also by way of other thoughts; there is one at least.
    pub roots: BTreeSet<Root>,
}

/// A chunk that a thought comes from, as it was then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Root {
    /// The chunk.
    pub chunk: ChunkId,
    /// The document's path.
    pub path: String,
    /// The hash of the document's source.
    pub hash: ContentHash,
}

/// Thoughts that are kept.
///
/// Invariant: every thought has a text and a root; vectors are of one length and not zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ThoughtMemory {
    thoughts: Vec<Thought>,
}

/// A file of thoughts is not read beyond this: some hundred thousand of them.
const MOST_BYTES: u64 = 1 << 30;

impl ThoughtMemory {
    /// Without thoughts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a file that [`save`](Self::save) has written; without thoughts when there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Malformed`] when the file does not keep to the invariant.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io(error)),
            Ok(found) if found.len() > MOST_BYTES => {
                return Err(malformed(format!("has {} bytes; a file of thoughts has fewer", found.len())));
            }
            Ok(_) => {}
        }
        let bytes = std::fs::read(path).map_err(io)?;
        let thoughts: Vec<Thought> = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let mut memory = Self::default();
        for (thought, number) in thoughts.into_iter().zip(1..) {
            memory.check(&thought).map_err(|problem| malformed(format!("thought {number} {problem}")))?;
            memory.thoughts.push(thought);
        }
        Ok(memory)
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let beside = Path::new(&name);
        let written = || {
            let mut file = std::fs::File::create(beside)?;
            serde_json::to_writer(std::io::BufWriter::new(&mut file), self)?;
            file.flush()?;
            file.sync_all()?;
            std::fs::rename(beside, path)
        };
        written().map_err(io)
    }

    /// The thoughts, in the order in which they came.
    pub fn thoughts(&self) -> &[Thought] {
        &self.thoughts
    }

    /// The `k` thoughts that are nearest to a vector by cosine, best first, with their cosines; equals in the order in
    /// which they came.
    pub fn recall(&self, vector: &DenseVector, k: usize) -> Vec<(usize, f64)> {
        let near = self.thoughts.iter().enumerate().map(|(i, thought)| (i, thought.vector.cosine(vector)));
        let mut near: Vec<(usize, f64)> = near.collect();
        near.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        near.truncate(k);
        near
    }

    /// Keeps a thought, unless its cosine with one that is there already is `redundant` or more; says whether it was kept.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a thought without text, root or sound vector.
    pub fn keep(&mut self, thought: Thought, redundant: f64) -> Result<bool> {
        self.check(&thought).map_err(|problem| Error::Parameter { name: "thought", problem: problem.to_owned() })?;
        let is_new = self.thoughts.iter().all(|other| other.vector.cosine(&thought.vector) < redundant);
        if is_new {
            self.thoughts.push(thought);
        }
        Ok(is_new)
    }

    /// Forgets the thoughts of which a root is gone or its document has changed; says how many.
    ///
    /// # Errors
    ///
    /// When the chunks cannot be read, but for those that are gone.
    pub fn expire(&mut self, store: &dyn ChunkStore) -> Result<usize> {
        let before = self.thoughts.len();
        let mut kept = Vec::with_capacity(before);
        for thought in std::mem::take(&mut self.thoughts) {
            let mut stands = true;
            for root in &thought.roots {
                stands &= is_as_it_was(root, store)?;
            }
            if stands {
                kept.push(thought);
            }
        }
        self.thoughts = kept;
        Ok(before - self.thoughts.len())
    }

    fn check(&self, thought: &Thought) -> Result<(), &'static str> {
        let dim = self.thoughts.first().map_or(thought.vector.dim(), |first| first.vector.dim());
        match thought {
            _ if thought.text.trim().is_empty() => Err("has no text"),
            _ if thought.roots.is_empty() => Err("has no root"),
            _ if thought.vector.dim() != dim => Err("has a vector of another length"),
            _ if thought.vector.as_slice().iter().all(|x| *x == 0.0) => Err("has a vector of zeros"),
            _ => Ok(()),
        }
    }
}

fn is_as_it_was(root: &Root, store: &dyn ChunkStore) -> Result<bool> {
    let chunk = match store.chunks(&[root.chunk]) {
        Err(raglan_core::Error::Unknown { .. }) => return Ok(false),
        chunks => chunks?.into_iter().next(),
    };
    let Some(chunk) = chunk else { return Ok(false) };
    let document = store.document(chunk.doc)?;
    Ok(document.path == root.path && document.hash == root.hash)
}

/// Reads passages and the thoughts of earlier questions, the nearest of both by one encoder; answers; and keeps a thought
/// of what it read, if the model stands by it and it is not one that is there already.
#[derive(Clone)]
pub struct Remembering {
    /// What it works with.
    pub parts: Parts,
    /// Encodes questions, passages and thoughts.
    pub encoder: Arc<dyn Encoder<Vector = DenseVector>>,
    /// The thoughts.
    pub memory: Arc<Mutex<ThoughtMemory>>,
    /// Passages and thoughts that are read, together.
    pub k: usize,
    /// The cosine from which on a thought is one that is there already.
    pub redundant: f64,
}

const THINK: &str = "Write one sentence that says what the documents tell about the question, so that it can be understood \
    by itself.";
const IS_VALID: &str = "Is the statement meaningful, and do the documents bear it out? Reply with Yes or No.";

impl Remembering {
    /// With 5 texts, and 0.85 as too near, as the paper has it.
    pub fn new(
        parts: Parts,
        encoder: Arc<dyn Encoder<Vector = DenseVector>>,
        memory: Arc<Mutex<ThoughtMemory>>,
    ) -> Self {
        Self { parts, encoder, memory, k: 5, redundant: 0.85 }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, ThoughtMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places of the passages and the thoughts that are nearest to the question.
    fn nearest(&self, work: &Work<'_>) -> Result<(Vec<usize>, Vec<Thought>)> {
        let question = self.encoder.encode_queries(&[&work.question.text])?.remove(0);
        let texts: Vec<String> = work.evidence.passages.iter().map(passage_text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = self.encoder.encode_passages(&texts)?;
        let memory = self.memory();
        // Passages first: of equals, what a source says itself.
        let mut near: Vec<(f64, Result<usize, usize>)> =
            vectors.iter().enumerate().map(|(i, vector)| (vector.cosine(&question), Ok(i))).collect();
        near.extend(memory.recall(&question, self.k).into_iter().map(|(i, cosine)| (cosine, Err(i))));
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.truncate(self.k);
        let passages = near.iter().filter_map(|(_, item)| item.ok()).collect();
        let thoughts = near.iter().filter_map(|(_, item)| item.err()).map(|i| memory.thoughts[i].clone());
        Ok((passages, thoughts.collect()))
    }

    /// Lets the model write a thought over what it read, and keeps it; the step is taken down either way.
    fn think(&self, work: &mut Work<'_>, turn: &Turn<'_>, places: &[usize], used: &[Thought]) -> Result<()> {
        let limit = self.parts.limits.step_tokens;
        let turn = Turn { request: THINK, reply: "", ..turn.clone() };
        let Some(filled) = work.fill_step(&turn, places, limit, 1)? else {
            return Ok(());
        };
        let written = work.write(&Prompt::new(&filled.user, ""), limit, &["\n"])?;
        let text = first_sentence(written.text.trim()).0.to_owned();
        let mut roots: BTreeSet<Root> = used.iter().flat_map(|thought| thought.roots.iter().cloned()).collect();
        roots.extend(filled.shown.iter().map(|&i| {
            let passage = &work.evidence.passages[i];
            Root { chunk: passage.chunk.id, path: passage.document.path.clone(), hash: passage.document.hash }
        }));
        let request = format!("{IS_VALID}\nStatement: {text}");
        let check = Turn { request: &request, ..turn };
        let is_kept = match work.fill_step(&check, places, 2, 0)? {
            Some(filled) if !text.is_empty() && !roots.is_empty() => {
                let weighed = work.weigh(&Prompt::new(&filled.user, ""), &["Yes", "No"])?;
                weighed.margin() >= 0.0 && {
                    let vector = self.encoder.encode_passages(&[&text])?.remove(0);
                    // A vector without direction is near nothing, and cannot be told from others.
                    let is_sound = vector.as_slice().iter().any(|x| *x != 0.0);
                    is_sound && self.memory().keep(Thought { text: text.clone(), vector, roots }, self.redundant)?
                }
            }
            _ => false,
        };
        let text = if is_kept { text } else { format!("not kept: {text}") };
        work.note(StepKind::Thought, text, Vec::new(), &Gathered::default());
        Ok(())
    }
}

impl Strategy for Remembering {
    fn name(&self) -> String {
        format!("remembering({},{})", self.k, self.redundant)
    }

    fn answer_streaming(&self, question: &Query, budget: &Budget, on_text: &mut dyn FnMut(&str)) -> Result<Trail> {
        self.memory().expire(&*self.parts.sources.store)?;
        let mut work = Work::start(&self.parts, question, budget);
        work.search_question(self.k, self.k)?;
        let (places, used) = self.nearest(&work)?;
        let notes: Vec<String> = used.iter().map(|thought| thought.text.clone()).collect();
        if notes.is_empty() && work.found_nothing() {
            return Ok(work.refuse(End::Answered, on_text));
        }
        let request = if self.k == 0 { FROM_MEMORY } else { FROM_PASSAGES };
        let turn = Turn { notes: &notes, question: &question.text, request, reply: "Answer:", ..Turn::default() };
        let Some(filled) = work.fill(&turn, &places, self.parts.limits.answer_tokens)? else {
            return Ok(work.finish(String::new(), Vec::new(), End::Budget));
        };
        let prompt = Prompt::new(&filled.user, turn.reply);
        let answer = work.write_answer(&prompt, on_text)?;
        work.note(StepKind::Answer, answer.clone(), Vec::new(), &Gathered::default());
        self.think(&mut work, &turn, &places, &used)?;
        Ok(work.finish(answer, filled.shown, End::Answered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unit;
    use crate::scripted::{Scripted, answered, page, pages, parts};

    /// Counts of four words.
    struct FourWords;

    impl Encoder for FourWords {
        type Vector = DenseVector;

        fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
            self.encode_passages(queries)
        }

        fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
            let count = |text: &str, word: &str| text.to_lowercase().matches(word).count() as f32;
            let vector =
                |text: &&str| DenseVector::new(["tower", "1889", "cat", "iron"].map(|w| count(text, w)).to_vec());
            passages.iter().map(vector).collect()
        }
    }

    fn vector(components: &[f32]) -> DenseVector {
        DenseVector::new(components.to_vec()).unwrap()
    }

    fn thought(text: &str, components: &[f32], chunk: u32) -> Thought {
        let root = Root { chunk: ChunkId(chunk), path: "a".to_owned(), hash: ContentHash([0; 32]) };
        Thought { text: text.to_owned(), vector: vector(components), roots: [root].into() }
    }

    #[test]
    fn what_is_too_near_is_not_kept_and_the_nearest_is_recalled() {
        let mut memory = ThoughtMemory::new();
        assert!(memory.keep(thought("one", &[1.0, 0.0], 0), 0.85).unwrap());
        assert!(!memory.keep(thought("near", &[0.9, 0.1], 0), 0.85).unwrap());
        assert!(memory.keep(thought("two", &[1.0, 1.0], 0), 0.85).unwrap()); // cos 45° = .71
        let recalled = memory.recall(&vector(&[0.0, 2.0]), 5);
        assert_eq!(recalled.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [1, 0]);
        assert!(memory.recall(&vector(&[0.0, 0.0]), 1)[0].1 == 0.0);
        for wrong in [thought("", &[1.0, 0.0], 0), thought("x", &[0.0, 0.0], 0)] {
            assert!(memory.keep(wrong, 0.85).is_err());
        }
        assert!(memory.keep(Thought { roots: BTreeSet::new(), ..thought("x", &[0.0, 1.0], 0) }, 0.85).is_err());
        assert!(memory.keep(thought("x", &[1.0], 0), 0.85).is_err());
    }

    #[test]
    fn a_thought_expires_with_any_of_its_sources() {
        let store = pages(&[page("a", "text"), page("b", "other")]);
        let (same, gone, changed) = (thought("same", &[1.0, 0.0], 0), thought("gone", &[0.0, 1.0], 7), {
            let mut changed = thought("changed", &[1.0, 1.0], 0);
            changed.roots.insert(Root { chunk: ChunkId(1), path: "b".to_owned(), hash: ContentHash([9; 32]) });
            changed
        });
        let mut memory = ThoughtMemory { thoughts: vec![same.clone(), gone, changed] };
        assert_eq!(memory.expire(&store).unwrap(), 2);
        assert_eq!(memory.thoughts(), [same]);
    }

    #[test]
    fn files_are_read_back_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thoughts.json");
        assert_eq!(ThoughtMemory::open(&path).unwrap(), ThoughtMemory::new());
        let mut memory = ThoughtMemory::new();
        memory.keep(thought("one", &[1.0, 0.5], 3), 0.85).unwrap();
        memory.save(&path).unwrap();
        assert_eq!(ThoughtMemory::open(&path).unwrap(), memory);
        let bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            std::fs::write(&path, &bytes[..n]).unwrap();
            assert!(matches!(ThoughtMemory::open(&path), Err(Error::Malformed { .. })), "{n} bytes");
        }
        std::fs::write(&path, r#"[{"text": "x", "vector": [0.0], "roots": []}]"#).unwrap();
        assert!(ThoughtMemory::open(&path).unwrap_err().to_string().contains("thought 1 has no root"));
    }

    #[test]
    fn a_second_question_of_a_kind_reads_what_the_first_has_thought() {
        let list = [page("history", "the tower opened in 1889, and the tower stood"), page("cats", "cats sleep")];
        let script: &[(&[&str], &str)] = &[
            (&["Statement: The tower"], "Yes"),
            (&["Write one sentence", "When"], "The tower opened 1889. More"),
            (&["Write one sentence"], ""),
            (&["Note: The tower opened 1889."], " remembered"),
            (&["@Answer:"], " 1889"),
        ];
        let memory = Arc::new(Mutex::new(ThoughtMemory::new()));
        let parts = parts(Scripted::new(script), &list, Unit::Passages);
        let strategy = Remembering { k: 2, ..Remembering::new(parts, Arc::new(FourWords), memory.clone()) };
        let first = answered(&strategy, &"When was the tower opened?".into(), &Budget::default());
        assert_eq!((first.answer.as_str(), first.steps.last().unwrap().kind), ("1889", StepKind::Thought));
        let kept = memory.lock().unwrap().thoughts().to_vec();
        assert_eq!((kept[0].text.as_str(), kept[0].roots.len()), ("The tower opened 1889.", 1));
        assert_eq!(kept[0].roots.first().unwrap().path, "history");
        let second = answered(&strategy, &"Was it 1889 for the tower?".into(), &Budget::default());
        assert_eq!(second.answer, "remembered");
        // The same thought again is not kept again.
        answered(&strategy, &"When was the tower opened?".into(), &Budget::default());
        assert_eq!(memory.lock().unwrap().thoughts().len(), 1);
    }
}
