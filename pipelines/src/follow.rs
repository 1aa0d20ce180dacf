//! What was found as a further question.

use raglan_core::{Context, Error, Query, Result};

use crate::Stage;

/// Asks on from what was found: `(Vec<Query>, Vec<Context>)` → `Vec<Query>`.
///
/// The new question is the old one, and of each of its first `passages` passages the title and the first `words` words:
/// what answers a question in several steps stands near what the first step found, in its words. No model is asked. A
/// question that found nothing is asked as it is.
pub fn follow(passages: usize, words: usize) -> Follow {
    Follow { passages, words }
}

/// Found passages as further questions; see [`follow`].
#[derive(Clone, Copy, Debug)]
pub struct Follow {
    passages: usize,
    words: usize,
}

impl Stage<(Vec<Query>, Vec<Context>)> for Follow {
    type Out = Vec<Query>;

    fn run(&self, (queries, contexts): (Vec<Query>, Vec<Context>)) -> Result<Vec<Query>> {
        if queries.len() != contexts.len() {
            return Err(Error::Shape { what: "contexts", expected: queries.len(), found: contexts.len() });
        }
        let follow = |(query, context): (Query, &Context)| {
            let mut text = query.text.clone();
            for passage in context.passages.iter().take(self.passages) {
                let title = passage.document.title.as_deref().unwrap_or_default();
                for word in title.split_whitespace().chain(passage.chunk.text.split_whitespace().take(self.words)) {
                    text.push(' ');
                    text.push_str(word);
                }
            }
            Query { text, ..query }
        };
        Ok(queries.into_iter().zip(&contexts).map(follow).collect())
    }

    fn name(&self) -> String {
        format!("follow({}, {})", self.passages, self.words)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raglan_core::{Chunk, ChunkId, ChunkSet, ContentHash, DocId, Document, Format, Locator, Passage};

    use super::*;

    #[test]
    fn the_question_goes_on_with_titles_and_first_words() {
        let document = Arc::new(Document {
            id: DocId(0),
            path: "a.txt".to_owned(),
            hash: ContentHash([0; 32]),
            size: 0,
            mtime_ns: 0,
            format: Format::PlainText,
            reader: "text/1".to_owned(),
            encoding: None,
            title: Some("Ada".to_owned()),
            metadata: Default::default(),
        });
        let passage = |text: &str| Passage {
            chunk: Chunk {
                id: ChunkId(0),
                doc: DocId(0),
                span: 0..text.len(),
                text: text.to_owned(),
                locator: Locator::default(),
                n_tokens: 9,
            },
            document: document.clone(),
            score: 1.0,
        };
        let context = |passages| Context::new("q", passages);
        let among = Query::new("who?").among(Arc::new(ChunkSet::new()));
        let contexts = vec![context(vec![passage("born in London, she"), passage("not this")]), context(vec![])];
        let asked = follow(1, 3).run((vec![among.clone(), "where?".into()], contexts)).unwrap();
        assert_eq!(asked[0], Query { text: "who? Ada born in London,".to_owned(), ..among });
        assert_eq!(asked[1], "where?".into());
        assert!(follow(1, 3).run((vec![], vec![context(vec![])])).is_err());
    }
}
