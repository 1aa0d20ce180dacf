//! Topics of TREC: what was asked, in the forms in which tracks published it.

use std::collections::HashSet;
use std::path::Path;

use crate::{Error, Query, Result, lines};

/// A topic. What a form does not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// Its number, the query id of runs and judgements.
    pub id: String,
    /// A few words, as one would type them.
    pub title: String,
    /// The question in a sentence.
    pub description: String,
    /// What makes a document relevant.
    pub narrative: String,
}

impl Topic {
    /// The topic as a query of its title, or of its description where it has no title.
    pub fn query(&self) -> Query {
        let text = if self.title.is_empty() { &self.description } else { &self.title };
        Query { id: self.id.clone(), text: text.clone() }
    }
}

/// Reads topics of any of these forms, told apart by the first character:
///
/// - classic: `<top> <num> Number: 301 <title> … <desc> Description: … <narr> Narrative: … </top>`, with or without
///   closing tags;
/// - XML: `<topic number="1"> <query>…</query> <question>…</question> <narrative>…</narrative> </topic>`, also with
///   `title` and `description`;
/// - lines of number, tab, text.
///
/// White space within a field becomes single blanks.
///
/// # Errors
///
/// When the file is missing or unreadable, a topic has no number or no text, or a number occurs twice.
pub fn read(path: &Path) -> Result<Vec<Topic>> {
    let text = lines::whole(path)?;
    let text = text.trim_start_matches('\u{feff}');
    let mut topics: Vec<Topic> = Vec::new();
    let mut ids: HashSet<String> = HashSet::new();
    let mut take = |line: usize, topic: Topic| {
        let problem = if topic.id.is_empty() {
            "the topic has no number".to_owned()
        } else if topic.title.is_empty() && topic.description.is_empty() {
            format!("topic `{}` has no title and no description", topic.id)
        } else if ids.insert(topic.id.clone()) {
            topics.push(topic);
            return Ok(());
        } else {
            format!("topic `{}` occurs twice", topic.id)
        };
        Err(Error::Malformed { path: path.to_owned(), line, problem })
    };
    if text.trim_start().starts_with('<') {
        for (line, block) in blocks(text) {
            take(line, topic(block))?;
        }
    } else {
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let Some((id, text)) = line.split_once('\t') else {
                let problem = "expected a number, a tab and a text".to_owned();
                return Err(Error::Malformed { path: path.to_owned(), line: i + 1, problem });
            };
            take(i + 1, Topic { id: id.trim().to_owned(), title: one_line(text), ..Topic::default() })?;
        }
    }
    Ok(topics)
}

/// The topics of a text with tags: the line at which each begins, from 1, and what stands from its tag on.
fn blocks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text;
    let mut line = 1;
    std::iter::from_fn(move || {
        let start = tags(rest).find(|tag| matches!(tag.name, "top" | "topic"))?.start;
        line += rest[..start].matches('\n').count();
        let block = &rest[start..];
        let next = tags(block).skip(1).find(|tag| matches!(tag.name, "top" | "topic" | "/top" | "/topic"));
        let end = next.map_or(block.len(), |tag| tag.start);
        let found = (line, &block[..end]);
        line += block[..end].matches('\n').count();
        rest = &block[end..];
        Some(found)
    })
}

/// A tag `<name …>`; `start..end` are its bytes.
struct Tag<'a> {
    name: &'a str,
    attributes: &'a str,
    start: usize,
    end: usize,
}

/// The tags of a text; a `<` that begins no word is text.
fn tags(text: &str) -> impl Iterator<Item = Tag<'_>> {
    text.match_indices('<').filter_map(|(start, _)| {
        let inside = &text[start + 1..];
        let inside = &inside[..inside.find(['>', '<']).filter(|&end| inside.as_bytes()[end] == b'>')?];
        let name = inside.split_ascii_whitespace().next().unwrap_or_default();
        let word = name.strip_prefix('/').unwrap_or(name);
        let is_name = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let attributes = inside[name.len().min(inside.len())..].trim();
        (is_name && inside.starts_with(name)).then_some(Tag { name, attributes, start, end: start + inside.len() + 2 })
    })
}

fn topic(block: &str) -> Topic {
    let tags: Vec<Tag<'_>> = tags(block).collect();
    let mut topic = Topic::default();
    for (i, tag) in tags.iter().enumerate() {
        let end = tags.get(i + 1).map_or(block.len(), |next| next.start);
        let content = one_line(&block[tag.end..end]);
        let labelled = |label: &str| one_line(content.strip_prefix(label).unwrap_or(&content));
        let (field, text) = match tag.name {
            "topic" => (&mut topic.id, number(tag.attributes)),
            "num" | "number" => (&mut topic.id, labelled("Number:")),
            "title" | "query" => (&mut topic.title, labelled("Topic:")),
            "desc" | "description" | "question" => (&mut topic.description, labelled("Description:")),
            "narr" | "narrative" => (&mut topic.narrative, labelled("Narrative:")),
            _ => continue,
        };
        if field.is_empty() {
            *field = unescaped(&text);
        }
    }
    topic
}

/// The value of `number="…"` among attributes.
fn number(attributes: &str) -> String {
    let value = attributes.split_once("number=").map(|(_, value)| value.trim_start_matches(['"', '\'']));
    value.and_then(|value| value.split(['"', '\'', ' ']).next()).unwrap_or_default().to_owned()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unescaped(text: &str) -> String {
    let mut text = text.to_owned();
    // The ampersand last, so that `&amp;lt;` stays `&lt;`.
    for (escape, character) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")] {
        text = text.replace(escape, character);
    }
    text
}
