//! What there is of one question, and how it is measured.

use raglan_core::{Answer, Context, Error, Query, Result};
use serde::{Deserialize, Serialize};

use super::parameter::names;
use super::{Port, Value};
use crate::Ranked;
use crate::cache::{Content, ContentHasher};

/// One question of a batch and what a stage made of it.
#[derive(Clone)]
pub(super) struct Item {
    /// Its place in the batch.
    pub(super) place: usize,
    pub(super) query: Query,
    pub(super) value: ItemValue,
}

/// A [`Value`] of one question.
#[derive(Clone)]
pub(super) enum ItemValue {
    Query(Query),
    Queries(Vec<Query>),
    Ranking(Ranked),
    Context(Context),
    Answer(Box<Result<Answer>>),
}

impl Item {
    /// The items of a batch; each question has one value.
    pub(super) fn all(queries: &[Query], value: Value) -> Vec<Self> {
        let values: Vec<ItemValue> = match value {
            Value::Queries(queries) => queries.into_iter().map(ItemValue::Query).collect(),
            Value::QueryLists(lists) => lists.into_iter().map(ItemValue::Queries).collect(),
            Value::Rankings(rankings) => rankings.into_iter().map(ItemValue::Ranking).collect(),
            Value::Contexts(contexts) => contexts.into_iter().map(ItemValue::Context).collect(),
            Value::Answers(answers) => answers.into_iter().map(Box::new).map(ItemValue::Answer).collect(),
        };
        let items = queries.iter().cloned().zip(values).enumerate();
        items.map(|(place, (query, value))| Self { place, query, value }).collect()
    }

    /// The batch of the items' values, which are of this port.
    pub(super) fn values(items: Vec<Self>, port: Port) -> Value {
        let values = items.into_iter().map(|item| item.value);
        match port {
            Port::Query => Value::Queries(values.filter_map(ItemValue::query).collect()),
            Port::Queries => Value::QueryLists(values.filter_map(ItemValue::queries).collect()),
            Port::Ranking => Value::Rankings(values.filter_map(ItemValue::ranking).collect()),
            Port::Context => Value::Contexts(values.filter_map(ItemValue::context).collect()),
            Port::Answer => Value::Answers(values.filter_map(ItemValue::answer).collect()),
        }
    }
}

impl ItemValue {
    fn query(self) -> Option<Query> {
        if let Self::Query(query) = self { Some(query) } else { None }
    }

    pub(super) fn queries(self) -> Option<Vec<Query>> {
        if let Self::Queries(queries) = self { Some(queries) } else { None }
    }

    pub(super) fn ranking(self) -> Option<Ranked> {
        if let Self::Ranking(ranking) = self { Some(ranking) } else { None }
    }

    fn context(self) -> Option<Context> {
        if let Self::Context(context) = self { Some(context) } else { None }
    }

    fn answer(self) -> Option<Result<Answer>> {
        if let Self::Answer(answer) = self { Some(*answer) } else { None }
    }

    /// Whether it is anything but a question that got no answer.
    pub(super) fn is_ok(&self) -> bool {
        !matches!(self, Self::Answer(answer) if answer.is_err())
    }

    /// Whether a part failed on it, so that another attempt may do better.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self, Self::Answer(answer) if matches!(**answer, Err(Error::Part { .. })))
    }
}

impl Content for Item {
    fn hash_into(&self, hasher: &mut ContentHasher) {
        self.query.hash_into(hasher);
        match &self.value {
            ItemValue::Query(query) => query.hash_into(hasher.number(0)),
            ItemValue::Queries(queries) => {
                hasher.number(4).number(queries.len() as u64);
                queries.iter().for_each(|query| query.hash_into(hasher));
            }
            ItemValue::Ranking(ranked) => ranked.hash_into(hasher.number(1)),
            ItemValue::Context(context) => context.hash_into(hasher.number(2)),
            ItemValue::Answer(answer) => answer.hash_into(hasher.number(3)),
        }
    }
}

/// What a branch, a loop or a fallback looks at; of each question, a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// How many words the question has.
    Words,
    /// How many hits a ranking has, passages a context, or queries a question; of an answer, 1 when there is one that is not empty.
    Results,
    /// The score of the first hit or passage; less than any number when there is none.
    Score,
    /// How far the score of the first hit or passage is above the second; of one, its score.
    Margin,
    /// How many tokens the passages have.
    Tokens,
    /// The mean support of the answer's sentences by its sources, from 0 to 1.
    Support,
}

names!(Measure, "measure", {
    Words => "words", Results => "results", Score => "score", Margin => "margin", Tokens => "tokens",
    Support => "support",
});

impl Measure {
    /// Of what it is a measure.
    pub(super) fn ports(self) -> &'static [Port] {
        match self {
            Self::Words => &[Port::Query, Port::Queries, Port::Ranking, Port::Context, Port::Answer],
            Self::Results => &[Port::Queries, Port::Ranking, Port::Context, Port::Answer],
            Self::Score | Self::Margin => &[Port::Ranking, Port::Context],
            Self::Tokens => &[Port::Context],
            Self::Support => &[Port::Answer],
        }
    }

    /// Its value for an item.
    pub(super) fn of(self, item: &Item) -> f32 {
        let count = |n: usize| n as f32;
        match (self, &item.value) {
            (Self::Words, ItemValue::Query(query)) => count(query.text.split_whitespace().count()),
            (Self::Words, _) => count(item.query.text.split_whitespace().count()),
            (Self::Results, ItemValue::Queries(queries)) => count(queries.len()),
            (Self::Results, ItemValue::Ranking(ranked)) => count(ranked.ranking.len()),
            (Self::Results, ItemValue::Context(context)) => count(context.passages.len()),
            (Self::Results, ItemValue::Answer(answer)) => {
                count(usize::from(Result::as_ref(answer).is_ok_and(|answer| !answer.text.trim().is_empty())))
            }
            (Self::Score | Self::Margin, ItemValue::Ranking(ranked)) => {
                self.of_scores(ranked.ranking.hits().iter().map(|hit| hit.score))
            }
            (Self::Score | Self::Margin, ItemValue::Context(context)) => {
                self.of_scores(context.passages.iter().map(|passage| passage.score))
            }
            (Self::Tokens, ItemValue::Context(context)) => {
                count(context.passages.iter().map(|passage| passage.chunk.n_tokens as usize).sum())
            }
            (Self::Support, ItemValue::Answer(answer)) => {
                let sentences = Result::as_ref(answer).map_or(&[][..], |answer| &answer.sentences);
                let sum: f32 = sentences.iter().map(|sentence| sentence.support).sum();
                sum / count(sentences.len().max(1))
            }
            _ => unreachable!("the recipe's measures fit their ports"),
        }
    }

    fn of_scores(self, mut scores: impl Iterator<Item = f32>) -> f32 {
        let first = scores.next().unwrap_or(f32::NEG_INFINITY);
        if self == Self::Score { first } else { scores.next().map_or(first, |second| first - second) }
    }
}
