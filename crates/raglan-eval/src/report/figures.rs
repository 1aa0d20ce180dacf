//! The plots of a collection's results. A result has one colour in all of them.

use super::svg::{Drawing, Scale, escaped, spread};
use super::{Row, Section, told_ms};

pub(super) const WIDTH: f64 = 640.0;
pub(super) const HEIGHT: f64 = 360.0;
/// Room for ticks on the left, names on the right, titles above and below.
pub(super) const LEFT: f64 = 52.0;
pub(super) const RIGHT: f64 = 500.0;
pub(super) const TOP: f64 = 34.0;
pub(super) const BOTTOM: f64 = 308.0;
/// Between the names of two results.
const LINE: f64 = 15.0;

/// How many colours there are.
const N_COLOURS: usize = 8;

pub(super) fn colour(i: usize) -> String {
    format!("s{}", i % N_COLOURS)
}

/// The values of all rows and their intervals, with some room, for [`interval`].
pub(super) fn interval_scale(section: &Section<'_>) -> Scale {
    let (low, high) = extremes(section.rows.iter().flat_map(|row| [row.interval.0, row.interval.1, row.value]));
    Scale::linear(low, high, 6.0, 174.0)
}

/// A row's mean and interval as a dot on a line, with a mark where the best mean lies.
pub(super) fn interval(row: &Row<'_>, i: usize, scale: &Scale, best: f64) -> String {
    let (low, high) = row.interval;
    let mut drawing = Drawing::new(180.0, 22.0, &format!("{:.3}, interval {low:.3} to {high:.3}", row.value));
    drawing.line("best", [scale.at(best), 0.0, scale.at(best), 22.0]);
    drawing.raw(format_args!(r#"<g class="{}">"#, colour(i)));
    drawing.line("range", [scale.at(low), 11.0, scale.at(high), 11.0]);
    drawing.raw(format_args!(r#"<circle class="dot" cx="{:.1}" cy="11" r="4.5"/></g>"#, scale.at(row.value)));
    drawing.finish()
}

/// Quality against the median latency, and which results no other beats in both; nothing for fewer than two.
pub(super) fn quality_against_latency(section: &Section<'_>, metric: &str) -> Option<String> {
    let timed: Vec<(usize, &Row<'_>)> =
        section.rows.iter().enumerate().filter(|(_, row)| row.result.latency_ms.p50 > 0.0).collect();
    if timed.len() < 2 {
        return None;
    }
    let times = timed.iter().flat_map(|(_, row)| [row.result.latency_ms.p50, row.result.latency_ms.p95]);
    let x = Scale::logarithmic(times.filter(|time| *time > 0.0), LEFT, RIGHT);
    let (low, high) = extremes(timed.iter().flat_map(|(_, row)| [row.interval.0, row.interval.1]));
    let y = Scale::linear(low, high, BOTTOM, TOP);
    let mut drawing = Drawing::new(WIDTH, HEIGHT, &format!("{metric} against latency"));
    drawing.x_axis(&x, &times_at(&x), [TOP, BOTTOM], "latency of a query, median to 95th percentile");
    drawing.y_axis(&y, &shares_at(&y), [LEFT, RIGHT], metric);

    // From fast to slow, those that are better than all faster ones.
    let mut by_time: Vec<&Row<'_>> = timed.iter().map(|(_, row)| *row).collect();
    by_time.sort_by(|a, b| {
        let times = a.result.latency_ms.p50.total_cmp(&b.result.latency_ms.p50);
        times.then_with(|| b.value.total_cmp(&a.value))
    });
    let mut path = String::new();
    let mut reached = f64::NEG_INFINITY;
    for row in by_time {
        if row.value <= reached {
            continue;
        }
        reached = row.value;
        let (at_x, at_y) = (x.at(row.result.latency_ms.p50), y.at(row.value));
        path += &if path.is_empty() { format!("M{at_x:.1} {at_y:.1}") } else { format!("H{at_x:.1}V{at_y:.1}") };
    }
    drawing.raw(format_args!(r#"<path class="frontier" d="{path}"/>"#));

    for (i, row) in &timed {
        let latency = row.result.latency_ms;
        let (at_x, at_y) = (x.at(latency.p50), y.at(row.value));
        let title =
            format!("{}: {metric} {:.4}, {} to {}", row.label, row.value, told_ms(latency.p50), told_ms(latency.p95));
        drawing.raw(format_args!(r#"<g class="{}"><title>{}</title>"#, colour(*i), escaped(&title)));
        drawing.line("whisker", [at_x, at_y, x.at(latency.p95.max(latency.p50)), at_y]);
        drawing.line("whisker", [at_x, y.at(row.interval.0), at_x, y.at(row.interval.1)]);
        drawing.raw(format_args!(r#"<circle class="dot" cx="{at_x:.1}" cy="{at_y:.1}" r="5.5"/></g>"#));
    }
    let ends = timed.iter().map(|(i, row)| {
        let latency = row.result.latency_ms;
        (*i, &*row.label, x.at(latency.p95.max(latency.p50)), y.at(row.value))
    });
    names(&mut drawing, ends);
    Some(drawing.finish())
}

/// Which share of the queries took how long, with the slowest pulled apart; nothing where no times were kept.
pub(super) fn latency_by_percentile(section: &Section<'_>) -> Option<String> {
    let timed: Vec<(usize, &Row<'_>, Vec<f64>)> = section
        .rows
        .iter()
        .enumerate()
        .map(|(i, row)| {
            let mut times: Vec<f64> = row.result.per_query_latency_ms.values().copied().filter(|t| *t > 0.0).collect();
            times.sort_unstable_by(f64::total_cmp);
            (i, row, times)
        })
        .filter(|(_, _, times)| !times.is_empty())
        .collect();
    let longest = timed.iter().map(|(_, _, times)| times.len()).max()?;
    // Each nine takes as much room as the one before it; of n queries the slowest stands at 1 - 1/(2n).
    let nines = |share: f64| -(1.0 - share).log10();
    let x = Scale::linear(0.0, nines(1.0 - 0.5 / longest as f64).max(1.0), LEFT, RIGHT);
    let y = Scale::logarithmic(timed.iter().flat_map(|(_, _, times)| times.iter().copied()), BOTTOM, TOP);
    let mut drawing = Drawing::new(WIDTH, HEIGHT, "latency by percentile");
    let shares = [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    let ticks = shares.map(|(share, label)| (nines(share), label.to_owned()));
    let ticks: Vec<(f64, String)> = ticks.into_iter().filter(|(tick, _)| *tick <= x.high).collect();
    drawing.x_axis(&x, &ticks, [TOP, BOTTOM], "queries that took no longer");
    drawing.y_axis(&y, &times_at(&y), [LEFT, RIGHT], "latency of a query");
    let mut ends = Vec::new();
    for (i, row, times) in &timed {
        // Every time where there are few, and at least ten for each nine where there are many.
        let n = times.len();
        let shown = (0..n).filter(|rank| *rank < 100 || n - rank <= 100 || rank.is_multiple_of(n.div_ceil(100)));
        let mut path = String::new();
        let mut end = (LEFT, BOTTOM);
        for rank in shown {
            end = (x.at(nines((rank as f64 + 0.5) / n as f64)), y.at(times[rank]));
            path += &format!("{}{:.1} {:.1}", if path.is_empty() { 'M' } else { 'L' }, end.0, end.1);
        }
        let latency = row.result.latency_ms;
        let [p50, p95, p99] = [latency.p50, latency.p95, latency.p99].map(told_ms);
        let title = escaped(&format!("{}: median {p50}, 95 % {p95}, 99 % {p99}", row.label));
        drawing.raw(format_args!(r#"<g class="{}"><title>{title}</title>"#, colour(*i)));
        drawing.raw(format_args!(r#"<path class="curve" d="{path}"/></g>"#));
        ends.push((*i, &*row.label, end.0, end.1));
    }
    names(&mut drawing, ends.into_iter());
    Some(drawing.finish())
}

/// What each stage of a result keeps of the relevant documents, what it loses, and what it costs; nothing without
/// stages.
pub(super) fn stages(row: &Row<'_>, i: usize) -> Option<String> {
    let stages = &row.result.stages;
    if stages.is_empty() {
        return None;
    }
    const TALL: f64 = 250.0;
    const FLOOR: f64 = 188.0;
    let slot = 104.0;
    let right = LEFT + slot * stages.len() as f64;
    let width = right + 12.0;
    let y = Scale::linear(0.0, 1.0, FLOOR, TOP);
    let mut drawing = Drawing::new(width, TALL, &format!("recall by stage of {}", row.label));
    drawing.y_axis(&y, &shares_at(&y), [LEFT, right], "recall");
    drawing.raw(format_args!(r#"<g class="{}">"#, colour(i)));
    for (n, stage) in stages.iter().enumerate() {
        let (left, wide) = (LEFT + slot * n as f64 + 22.0, slot - 44.0);
        let middle = left + wide / 2.0;
        let after = y.at(stage.recall_after);
        let told = match stage.recall_before {
            Some(before) => format!("{}: recall {before:.4} before, {:.4} after", stage.name, stage.recall_after),
            None => format!("{}: recall {:.4}", stage.name, stage.recall_after),
        };
        drawing.raw(format_args!("<g><title>{}</title>", escaped(&told)));
        if let Some(before) = stage.recall_before.map(|before| y.at(before)).filter(|before| *before < after) {
            let tall = after - before;
            drawing.raw(format_args!(
                r#"<rect class="lost" x="{left:.1}" y="{before:.1}" width="{wide:.1}" height="{tall:.1}"/>"#
            ));
        }
        let tall = FLOOR - after;
        drawing.raw(format_args!(
            r#"<rect class="bar" x="{left:.1}" y="{after:.1}" width="{wide:.1}" height="{tall:.1}"/></g>"#
        ));
        let inside = if tall > 22.0 { after + 15.0 } else { after - 5.0 };
        let class = if tall > 22.0 { "onbar middle" } else { "value middle" };
        drawing.text(class, middle, inside, &format!("{:.3}", stage.recall_after));
        drawing.text("name middle", middle, FLOOR + 18.0, &ellipsis(&stage.name, 15));
        drawing.text("tick middle", middle, FLOOR + 34.0, &told_ms(stage.latency_ms.p50));
        drawing.text("faint middle", middle, FLOOR + 50.0, &format!("95 % {}", told_ms(stage.latency_ms.p95)));
    }
    drawing.raw("</g>");
    drawing.line("axis", [LEFT, FLOOR, right, FLOOR]);
    Some(drawing.finish())
}

/// Each query's difference from the best result, from the most gained to the most lost; nothing for the best itself.
pub(super) fn differences(row: &Row<'_>, i: usize) -> Option<String> {
    let comparison = row.versus_best.as_ref()?;
    const TALL: f64 = 150.0;
    let (right, bottom) = (300.0, 134.0);
    let mut values: Vec<f64> = comparison.changed.iter().map(crate::ChangedQuery::difference).collect();
    values.resize(comparison.n_queries, 0.0);
    values.sort_unstable_by(|a, b| b.total_cmp(a));
    let largest = values.iter().fold(0.0f64, |largest, value| largest.max(value.abs())).max(0.1);
    let y = Scale::linear(-largest, largest, bottom, TOP);
    let x = Scale::linear(0.0, values.len().max(1) as f64, LEFT, right);
    let mut drawing = Drawing::new(right + 12.0, TALL, &format!("{} less the best, by query", row.label));
    let ticks = [-largest, 0.0, largest].map(|tick| (tick, format!("{tick:+.2}")));
    drawing.y_axis(&y, &ticks, [LEFT, right], &format!("{} less the best", row.label));
    // No more columns than pixels; one column shows the middle of its queries.
    let n_columns = values.len().min(248);
    for (class, keeps) in [("gained", (|v| v > 0.0) as fn(f64) -> bool), ("lost", |v| v < 0.0)] {
        let mut path = String::new();
        for column in 0..n_columns {
            let [start, end] = [column, column + 1].map(|c| c * values.len() / n_columns);
            let value = values[(start + end) / 2];
            if keeps(value) {
                let (zero, to) = (y.at(0.0), y.at(value));
                let (start, end) = (x.at(start as f64), x.at(end as f64));
                path += &format!("M{start:.1} {zero:.1}V{to:.1}H{end:.1}V{zero:.1}Z");
            }
        }
        drawing.raw(format_args!(r#"<path class="{class} {}" d="{path}"/>"#, colour(i)));
    }
    drawing.line("axis", [LEFT, y.at(0.0), right, y.at(0.0)]);
    Some(drawing.finish())
}

/// Writes the names of results right of where their marks end, apart from each other.
pub(super) fn names<'a>(drawing: &mut Drawing, ends: impl Iterator<Item = (usize, &'a str, f64, f64)>) {
    let mut ends: Vec<(usize, &str, f64, f64)> = ends.collect();
    ends.sort_by(|a, b| a.3.total_cmp(&b.3));
    let mut heights: Vec<f64> = ends.iter().map(|(.., y)| *y).collect();
    spread(&mut heights, LINE, TOP, BOTTOM);
    for ((i, label, x, y), height) in ends.into_iter().zip(heights) {
        drawing.raw(format_args!(r#"<g class="{}">"#, colour(i)));
        let at = RIGHT + 16.0;
        drawing.raw(format_args!(
            r#"<path class="leader" d="M{:.1} {y:.1}L{:.1} {height:.1}H{at:.1}"/>"#,
            x + 7.0,
            at - 8.0
        ));
        drawing.text("name", at + 4.0, height + 4.0, &ellipsis(label, 18));
        drawing.raw("</g>");
    }
}

/// The smallest and the largest value with a little room, within 0 and 1 where the values are.
fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if low > high {
        return (0.0, 1.0);
    }
    let room = ((high - low) * 0.08).max(0.005);
    let (lower, higher) = (low - room, high + room);
    (if low >= 0.0 { lower.max(0.0) } else { lower }, if high <= 1.0 { higher.min(1.0) } else { higher })
}

fn times_at(scale: &Scale) -> Vec<(f64, String)> {
    let told = |tick: f64| match tick {
        ms if ms >= 1000.0 => format!("{} s", ms / 1000.0),
        ms if ms >= 0.999 => format!("{} ms", ms.round()),
        ms => format!("{} µs", (ms * 1e6).round() / 1e3),
    };
    scale.ticks(6).into_iter().map(|tick| (tick, told(tick))).collect()
}

fn shares_at(scale: &Scale) -> Vec<(f64, String)> {
    let ticks = scale.ticks(6);
    let is_fine = ticks.windows(2).any(|two| two[1] - two[0] < 0.0099);
    ticks.into_iter().map(|tick| (tick, if is_fine { format!("{tick:.3}") } else { format!("{tick:.2}") })).collect()
}

fn ellipsis(text: &str, n: usize) -> String {
    if text.chars().count() <= n {
        return text.to_owned();
    }
    text.chars().take(n - 1).chain(['…']).collect()
}
