//! Results side by side: as Markdown, and as a page with plots that needs nothing but itself.

mod figures;
mod html;
mod markdown;
mod svg;
mod trade_off;

use std::collections::BTreeMap;

pub use trade_off::{PlotAxis, TradeOff, TradeOffReport};

use crate::significance::bootstrap_interval;
use crate::{Comparison, Error, Metric, Result, ResultFile, compare};

/// Differences with a smaller probability by chance are marked as significant.
const SIGNIFICANT: f64 = 0.05;

/// Results by collection, best first, each compared with the best of its collection.
pub struct Report<'a> {
    metric: String,
    sections: Vec<Section<'a>>,
}

/// The results on one collection.
struct Section<'a> {
    rows: Vec<Row<'a>>,
    /// The metrics that any of them has, the one that is sorted by first.
    metrics: Vec<&'a str>,
}

/// A result.
struct Row<'a> {
    result: &'a ResultFile,
    /// The recipe's name, with the begin of its hash where another has the same name.
    label: String,
    /// The mean that is sorted by.
    value: f64,
    /// Its bootstrap interval.
    interval: (f64, f64),
    /// This result (as B) against the best (as A); none for the best itself.
    versus_best: Option<Comparison>,
    /// Whether it is worse than the best by more than chance, at .05 after Holm's correction for the number of results.
    is_worse: bool,
}

impl<'a> Report<'a> {
    /// Arranges results by `metric`. Results are of one collection when its name, split and hash of judgements are
    /// equal.
    ///
    /// # Errors
    ///
    /// [`Error::NoMetric`] when a result has no values of the metric.
    pub fn new(results: &'a [ResultFile], metric: Metric) -> Result<Self> {
        let mut collections: BTreeMap<[&str; 3], Vec<&ResultFile>> = BTreeMap::new();
        for result in results {
            let collection = &result.collection;
            let key = [&*collection.name, &*collection.split, &*collection.qrels_hash];
            collections.entry(key).or_default().push(result);
        }
        let sections = collections.into_values().map(|results| Section::new(&results, metric));
        Ok(Self { sections: sections.collect::<Result<_>>()?, metric: metric.to_string() })
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        markdown::render(self)
    }

    /// The report as one page of HTML with its style and its plots inside; it follows the reader's choice of dark or
    /// light.
    pub fn html(&self) -> String {
        html::render(self)
    }
}

impl<'a> Section<'a> {
    fn new(results: &[&'a ResultFile], metric: Metric) -> Result<Self> {
        let (is_better_low, metric) = (metric.is_better_low(), &*metric.to_string());
        let mut rows = results.iter().map(|result| Row::new(result, metric)).collect::<Result<Vec<_>>>()?;
        rows.sort_by(|a, b| {
            let best_first = b.value.total_cmp(&a.value);
            let best_first = if is_better_low { best_first.reverse() } else { best_first };
            best_first.then_with(|| a.label.cmp(&b.label))
        });
        let names: Vec<String> = rows.iter().map(|row| row.label.clone()).collect();
        for row in &mut rows {
            if names.iter().filter(|name| **name == row.label).count() > 1 {
                row.label = format!("{} {}", row.label, short(&row.result.recipe.hash));
            }
        }
        let values = |row: &Row<'a>| &row.result.per_query[metric];
        if let Some((best, others)) = rows.split_first_mut() {
            for row in others {
                row.versus_best = Some(compare(values(best), values(row)));
            }
        }
        mark_the_worse(&mut rows);
        let mut metrics: Vec<&str> = Vec::new();
        for name in results.iter().flat_map(|result| result.metrics.keys()) {
            if !metrics.contains(&name.as_str()) {
                metrics.push(name);
            }
        }
        metrics.sort_by_key(|name| (*name != metric, *name));
        Ok(Self { rows, metrics })
    }

    fn best(&self) -> &Row<'a> {
        &self.rows[0]
    }

    /// What the numbers say, in a sentence or two.
    fn conclusion(&self, metric: &str) -> String {
        let best = self.best();
        let mut text = format!("{} is best with {metric} {:.3}", best.label, best.value);
        let equals: Vec<&Row<'_>> = self.rows[1..].iter().filter(|row| !row.is_worse).collect();
        let n_worse = self.rows.len() - 1 - equals.len();
        match equals[..] {
            [] if n_worse > 0 => text += ", and all others are significantly worse",
            [] => {}
            [row] => text += &format!("; {} cannot be told from it", row.label),
            [row, ..] => text += &format!("; {} and {} more cannot be told from it", row.label, equals.len() - 1),
        }
        text.push('.');
        let faster = equals.iter().filter(|row| {
            let (own, best) = (row.result.latency_ms.p50, best.result.latency_ms.p50);
            own > 0.0 && own < best / 1.5 // Less is within what measurements differ by.
        });
        if let Some(row) = faster.min_by(|a, b| a.result.latency_ms.p50.total_cmp(&b.result.latency_ms.p50)) {
            let ratio = best.result.latency_ms.p50 / row.result.latency_ms.p50;
            text += &format!(" Of those, {} answers {ratio:.1} times as fast.", row.label);
        }
        text
    }
}

impl<'a> Row<'a> {
    fn new(result: &'a ResultFile, metric: &str) -> Result<Self> {
        let (Some(values), Some(&value)) = (result.per_query.get(metric), result.metrics.get(metric)) else {
            return Err(Error::NoMetric {
                recipe: result.recipe.name.clone(),
                metric: metric.to_owned(),
                there: result.per_query.keys().cloned().collect::<Vec<_>>().join(", "),
            });
        };
        let values: Vec<f64> = values.values().copied().collect();
        Ok(Self {
            result,
            label: label(result),
            value,
            interval: bootstrap_interval(&values),
            versus_best: None,
            is_worse: false,
        })
    }
}

/// The recipe's name, and what was asked for besides.
fn label(result: &ResultFile) -> String {
    let options: Vec<String> = result
        .options
        .iter()
        .map(|(option, value)| if value.is_empty() { option.clone() } else { format!("{option} {value}") })
        .collect();
    match options.is_empty() {
        true => result.recipe.name.clone(),
        false => format!("{} ({})", result.recipe.name, options.join(", ")),
    }
}

/// Holm's step-down correction: the `i`-th smallest of `m` probabilities counts as significant while it and all before
/// it are below `.05 / (m - i)`, `i` from 0.
fn mark_the_worse(rows: &mut [Row<'_>]) {
    let mut by_p: Vec<(f64, usize)> = rows
        .iter()
        .enumerate()
        .filter_map(|(i, row)| row.versus_best.as_ref().map(|comparison| (comparison.p, i)))
        .collect();
    by_p.sort_by(|a, b| a.0.total_cmp(&b.0));
    let m = by_p.len();
    for (i, (p, row)) in by_p.into_iter().enumerate() {
        if p >= SIGNIFICANT / (m - i) as f64 {
            break;
        }
        rows[row].is_worse = true;
    }
}

/// Enough of a hash to tell it from others.
fn short(hash: &str) -> &str {
    let digits = hash.rsplit_once(':').map_or(hash, |(_, digits)| digits);
    digits.char_indices().nth(8).map_or(digits, |(end, _)| &digits[..end])
}

/// A time with three digits.
fn told_ms(milliseconds: f64) -> String {
    let (value, unit) = match milliseconds {
        ms if ms >= 1000.0 => (ms / 1000.0, "s"),
        ms if ms >= 1.0 => (ms, "ms"),
        ms => (ms * 1000.0, "µs"),
    };
    let n_decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.n_decimals$} {unit}")
}

/// A number of bytes with its unit.
fn told_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let n_decimals = usize::from(unit > 0 && value < 99.95);
    format!("{value:.n_decimals$} {}", UNITS[unit])
}

/// A number with its thousands apart.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut told = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            told.push(',');
        }
        told.push(digit);
    }
    told
}

/// A probability as papers print it.
fn told_p(p: f64) -> String {
    let told = format!("{p:.3}");
    if p < 0.001 { "< .001".to_owned() } else { told.strip_prefix('0').unwrap_or(&told).to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_for_people() {
        let times = [0.0004, 0.42, 1.0, 12.345, 99.96, 1250.0].map(told_ms);
        assert_eq!(times, ["0.40 µs", "420 µs", "1.00 ms", "12.3 ms", "100 ms", "1.25 s"]);
        assert_eq!([0, 999, 1500, 123_456_789].map(told_bytes), ["0 B", "999 B", "1.5 kB", "123 MB"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0001, 0.0312, 1.0].map(told_p), ["< .001", ".031", "1.000"]);
        assert_eq!((short("blake3:0123456789"), short("ab"), short("")), ("01234567", "ab", ""));
    }
}
