//! What a text says of entities.

use raglan_core::Result;
use rustc_hash::FxHashMap;

/// Says which entities texts name and relate.
pub trait Extractor: Send + Sync {
    /// What each of the texts says, in order. It depends on that text only.
    fn extract(&self, texts: &[&str]) -> Result<Vec<Extraction>>;

    /// Name, version and parameters, such as `rules/1`: equal strings mean equal extractions.
    fn fingerprint(&self) -> String;
}

/// The entities that a text names, and which of them it relates to each other.
///
/// Invariant: entities are [`normalized`], not empty and distinct; relations are of two distinct ones, by their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extraction {
    entities: Vec<String>,
    relations: Vec<[u32; 2]>,
}

impl Extraction {
    /// These entities, and those of the relations, by any names; a relation comes as often as the text states one.
    ///
    /// What a triple says between its subject and its object is not kept: a walk over the graph does not look at it.
    pub fn new<'a>(
        entities: impl IntoIterator<Item = &'a str>,
        relations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut extraction = Self::default();
        let mut places: FxHashMap<String, u32> = FxHashMap::default();
        let mut place = |name: &str, entities: &mut Vec<String>| {
            let name = normalized(name);
            if name.is_empty() {
                return None;
            }
            Some(*places.entry(name).or_insert_with_key(|name| {
                entities.push(name.clone());
                entities.len() as u32 - 1
            }))
        };
        for name in entities {
            place(name, &mut extraction.entities);
        }
        for (subject, object) in relations {
            let subject = place(subject, &mut extraction.entities);
            let object = place(object, &mut extraction.entities);
            if let (Some(subject), Some(object)) = (subject, object)
                && subject != object
            {
                extraction.relations.push([subject, object]);
            }
        }
        extraction
    }

    /// The entities, in the order in which they came.
    pub fn entities(&self) -> &[String] {
        &self.entities
    }

    /// The places of related entities, one pair a relation.
    pub fn relations(&self) -> &[[u32; 2]] {
        &self.relations
    }
}

/// A name as it is compared: its letters and digits in lower case, a space between words, no article in front.
pub fn normalized(name: &str) -> String {
    let mut words = words(name);
    if words.len() > 1 && ["the", "a", "an"].contains(&&*words[0]) {
        words.remove(0);
    }
    words.join(" ")
}

/// The runs of letters and digits, in lower case.
pub(crate) fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_marks_and_articles() {
        assert_eq!(normalized("  The  U.S. Navy’s "), "u s navy s");
        assert_eq!(normalized("The"), "the");
        assert_eq!(normalized("–…"), "");
    }

    #[test]
    fn an_extraction_has_each_entity_once() {
        let said = Extraction::new(["Ghana", "ghana", "—"], [("GHANA", "Accra"), ("Accra", "accra"), ("", "Ghana")]);
        assert_eq!(said.entities(), ["ghana", "accra"]);
        assert_eq!(said.relations(), [[0, 1]]);
    }
}
