//! Entities and relations as a language model reads them (HippoRAG's open information extraction).

use std::sync::Arc;

use raglan_core::{Budget, Meter};
use raglan_graph::{Extraction, Extractor, RuleExtractor, normalized};
use raglan_model::{Prompt, TextWriter, WritingRequest, Written};
use serde_json::Value;

use crate::Result;
use crate::embedder::Lazy;

/// Asks a language model for what a text says, as triples of subject, predicate and object.
///
/// The model is shown the names that rules find, which are entities too, whatever it makes of them. What it writes is read
/// as far as it can be: JSON, whole or broken off, or lines of three parts. Subjects and objects that do not stand in the
/// text are left out: small models go on with their example.
pub struct TripleExtractor {
    writer: Lazy<Arc<dyn TextWriter>>,
}

/// Tokens that a model may write of a text: some twenty triples.
const MAX_TOKENS: usize = 384;

const SYSTEM: &str = "You write down what a text says, as a JSON list of triples [subject, predicate, object]. Use the \
                      names as the text writes them. Write nothing else.";

/// The example of HippoRAG's prompt, shortened.
const EXAMPLE: (&str, &str) = (
    "Text: Radio City is India's first private FM radio station and was started on 3 July 2001. It plays Hindi songs.\n\
     Names: Radio City, India, July 2001",
    "[[\"Radio City\", \"located in\", \"India\"], [\"Radio City\", \"started on\", \"3 July 2001\"], [\"Radio City\", \
     \"plays songs in\", \"Hindi\"]]",
);

impl TripleExtractor {
    /// An extractor that asks the model that `load` gives, once it is needed.
    pub fn new(load: impl Fn() -> Result<Arc<dyn TextWriter>> + Send + Sync + 'static) -> Self {
        Self { writer: Lazy::new(Box::new(load)) }
    }

    fn request(text: &str, names: &[String]) -> WritingRequest {
        let prompt = Prompt {
            system: SYSTEM.to_owned(),
            examples: vec![(EXAMPLE.0.to_owned(), EXAMPLE.1.to_owned())],
            ..format!("Text: {text}\nNames: {}", names.join(", ")).into()
        };
        WritingRequest { stop: vec!["\n\n".to_owned()], ..WritingRequest::line(prompt, MAX_TOKENS) }
    }
}

impl Extractor for TripleExtractor {
    fn extract(&self, texts: &[&str]) -> raglan_core::Result<Vec<Extraction>> {
        let writer = self.writer.get().map_err(|error| raglan_core::Error::part("graph", error))?;
        let named = RuleExtractor.extract(texts)?;
        let requests: Vec<WritingRequest> =
            texts.iter().zip(&named).map(|(text, named)| Self::request(text, named.entities())).collect();
        let mut meter = Meter::start(&Budget::default());
        let written = writer.write(&requests, &mut meter)?;
        let said = |((text, named), written): ((&&str, &Extraction), Vec<Written>)| {
            let written = written.first().map_or("", |written| &written.text);
            let text = format!(" {} ", normalized_text(text));
            let stands = |name: &str| text.contains(&format!(" {} ", normalized(name)));
            let triples = triples(written);
            let relations = triples.iter().filter(|[subject, object]| stands(subject) && stands(object));
            let names = named.entities().iter().map(String::as_str);
            Extraction::new(names, relations.map(|[subject, object]| (subject.as_str(), object.as_str())))
        };
        Ok(texts.iter().zip(&named).zip(written).map(said).collect())
    }

    fn fingerprint(&self) -> String {
        format!("triples/1 with {}", RuleExtractor.fingerprint())
    }
}

/// The words of a text as those of names are compared.
fn normalized_text(text: &str) -> String {
    // A word in front keeps an article at the beginning.
    normalized(&format!("x {text}"))
}

/// The subjects and objects of triples that a model wrote, in order.
fn triples(written: &str) -> Vec<[String; 2]> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = written[at..].find(['[', '{']).map(|offset| at + offset) {
        let mut values = serde_json::Deserializer::from_str(&written[start..]).into_iter::<Value>();
        // What is broken off has whole values inside.
        at = match values.next() {
            Some(Ok(value)) => {
                collect(&value, &mut found);
                start + values.byte_offset()
            }
            _ => start + 1,
        };
    }
    if found.is_empty() {
        for line in written.lines() {
            let parts: Vec<&str> = line.split(['|', ';', '\t']).map(str::trim).collect();
            if let [subject, _, object] = parts[..] {
                found.push([subject.to_owned(), object.to_owned()]);
            }
        }
    }
    found
}

/// The triples in a JSON value: lists of three strings, or objects that name their parts.
fn collect(value: &Value, found: &mut Vec<[String; 2]>) {
    match value {
        Value::Array(parts) => match &parts[..] {
            [Value::String(subject), Value::String(_), Value::String(object)] => {
                found.push([subject.clone(), object.clone()]);
            }
            parts => parts.iter().for_each(|part| collect(part, found)),
        },
        Value::Object(parts) => match (parts.get("subject"), parts.get("object")) {
            (Some(Value::String(subject)), Some(Value::String(object))) => {
                found.push([subject.clone(), object.clone()]);
            }
            _ => parts.values().for_each(|part| collect(part, found)),
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, expected: &[(&str, &str)]) {
        let expected: Vec<[String; 2]> = expected.iter().map(|&(a, b)| [a.to_owned(), b.to_owned()]).collect();
        assert_eq!(triples(written), expected, "{written}");
    }

    /// Writes of every text what it is told to.
    struct Scripted(&'static str);

    impl TextWriter for Scripted {
        fn write(&self, requests: &[WritingRequest], _: &mut Meter) -> raglan_model::Result<Vec<Vec<Written>>> {
            let write = |_| vec![Written { text: self.0.to_owned(), ..Written::default() }];
            Ok(requests.iter().map(write).collect())
        }
    }

    #[test]
    fn what_the_text_does_not_say_is_left_out() {
        let written = r#"[["Ada", "knew", "a poet"], ["Ada", "lived in", "India"]]"#;
        let extractor = TripleExtractor::new(move || Ok(Arc::new(Scripted(written))));
        let said = extractor.extract(&["Ada knew a poet, and so did Bob.", ""]).unwrap();
        assert_eq!(said[0].entities(), ["ada", "bob", "poet"]);
        assert_eq!(said[0].relations(), [[0, 2]]);
        assert_eq!(said[1], Extraction::default());
    }

    #[test]
    fn what_a_model_writes_is_read_as_far_as_it_can_be() {
        check(r#"[["Ada", "knew", "Bob"], ["Bob", "was", "ill"]]"#, &[("Ada", "Bob"), ("Bob", "ill")]);
        check(r#"Here: [["Ada", "knew", "Bob"], ["Bob", "wa"#, &[("Ada", "Bob")]);
        check(r#"{"triples": [{"subject": "Ada", "predicate": "knew", "object": "Bob"}]} Done [1"#, &[("Ada", "Bob")]);
        check("Ada | knew | Bob\nnothing\nA | B", &[("Ada", "Bob")]);
        check(r#"[["Ada", "knew"], [1, 2, 3], "x"]"#, &[]);
        check("", &[]);
        check("[[[[{{", &[]);
    }
}
