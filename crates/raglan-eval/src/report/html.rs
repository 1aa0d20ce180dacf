//! The report as one page.

use std::fmt::Write;

use super::svg::escaped;
use super::{Report, Row, Section, figures, grouped, told_bytes, told_ms, told_p};

pub(super) const STYLE: &str = include_str!("style.css");

pub(super) fn render(report: &Report<'_>) -> String {
    let mut page = String::new();
    write_page(&mut page, report).expect("a string takes all that is written");
    page
}

fn write_page(page: &mut String, report: &Report<'_>) -> std::fmt::Result {
    let n_results: usize = report.sections.iter().map(|section| section.rows.len()).sum();
    let metric = escaped(&report.metric);
    writeln!(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>")?;
    writeln!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>")?;
    writeln!(page, "<title>Retrieval report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>")?;
    writeln!(page, "<header><h1>Retrieval report</h1>")?;
    let (results, collections) = (told(n_results, "result"), told(report.sections.len(), "collection"));
    writeln!(page, "<p>{results} on {collections}, sorted and compared by <b>{metric}</b>.</p></header>")?;
    for section in &report.sections {
        write_section(page, section, &report.metric)?;
    }
    writeln!(
        page,
        "<footer><p>Means are over all judged queries, a query without an answer counting 0. The interval of a mean holds \
         95 of 100 bootstrap means. p is that of the two-sided paired randomisation test against the best result; \
         <span class=\"mark\">▾</span> marks results that are worse at .05 after Holm’s correction for their \
         number.</p></footer>\n</main>\n</body>\n</html>"
    )
}

fn write_section(page: &mut String, section: &Section<'_>, metric: &str) -> std::fmt::Result {
    let best = section.best().result;
    let collection = &best.collection;
    let (name, split) = (escaped(&collection.name), escaped(&collection.split));
    writeln!(page, "<section>\n<h2>{name} <small>{split}</small></h2>")?;
    let (documents, queries) = (grouped(collection.n_documents), grouped(best.n_judged));
    writeln!(page, "<p class=\"facts\">{documents} documents · {queries} judged queries</p>")?;
    writeln!(page, "<p class=\"conclusion\">{}</p>", escaped(&section.conclusion(metric)))?;
    write_table(page, section, metric)?;

    writeln!(page, "<div class=\"figures\">")?;
    if let Some(figure) = figures::quality_against_latency(section, metric) {
        let caption = "Up and to the left is better. The line joins the results that no other beats in both; bars show \
                       the interval of the mean and the way from the median to the 95th percentile.";
        write_figure(page, "Quality against latency", caption, &figure)?;
    }
    if let Some(figure) = figures::latency_by_percentile(section) {
        let caption = "How long queries took, from the fastest to the slowest; the axis gives each nine as much room as \
                       the one before it, so that the slow ones can be seen.";
        write_figure(page, "Latency distribution", caption, &figure)?;
    }
    writeln!(page, "</div>")?;

    let rows = || section.rows.iter().enumerate();
    write_multiples(
        page,
        "Quality per stage",
        "The share of the relevant documents that is left after each stage; red is what the stage lost. Below, its \
         median and 95th percentile.",
        rows().filter_map(|(i, row)| Some((row, figures::stages(row, i)?))),
    )?;
    write_multiples(
        page,
        "Query by query against the best",
        "Every query’s difference, from the most gained to the most lost.",
        rows().filter_map(|(i, row)| Some((row, figures::differences(row, i)?))),
    )?;
    write_origins(page, section)?;
    writeln!(page, "</section>")
}

fn write_table(page: &mut String, section: &Section<'_>, metric: &str) -> std::fmt::Result {
    write!(page, "<div class=\"wide\"><table>\n<thead><tr><th>recipe</th><th colspan=\"2\">{}</th>", escaped(metric))?;
    write!(page, "<th>less the best</th><th>p</th>")?;
    for name in &section.metrics[1..] {
        write!(page, "<th>{}</th>", escaped(name))?;
    }
    writeln!(page, "<th>median</th><th>99 %</th><th>index</th><th>memory</th></tr></thead>\n<tbody>")?;
    let scale = figures::interval_scale(section);
    // The best value of each column stands out.
    let largest = |name: &str| {
        section.rows.iter().filter_map(|row| row.result.metrics.get(name)).fold(f64::NEG_INFINITY, |a, b| a.max(*b))
    };
    for (i, row) in section.rows.iter().enumerate() {
        let result = row.result;
        let label = escaped(&row.label);
        write!(page, "<tr><th class=\"{}\"><i></i>{label}</th>", figures::colour(i))?;
        write!(page, "<td class=\"main\">{:.4}</td>", row.value)?;
        let interval = figures::interval(row, i, &scale, section.best().value);
        write!(page, "<td class=\"interval\">{interval}</td>")?;
        match &row.versus_best {
            Some(comparison) => {
                let mark = if row.is_worse { " <span class=\"mark\">▾</span>" } else { "" };
                let difference = format!("{:+.4}", comparison.difference).replace('-', "−");
                write!(page, "<td>{difference}</td><td>{}{mark}</td>", escaped(&told_p(comparison.p)))?;
            }
            None => write!(page, "<td class=\"none\">best</td><td></td>")?,
        }
        for name in &section.metrics[1..] {
            match result.metrics.get(*name) {
                Some(value) if *value == largest(name) => write!(page, "<td><b>{value:.4}</b></td>")?,
                Some(value) => write!(page, "<td>{value:.4}</td>")?,
                None => write!(page, "<td class=\"none\">–</td>")?,
            }
        }
        let [median, slow] = [result.latency_ms.p50, result.latency_ms.p99].map(known_ms);
        let index = known_ms(result.index_seconds * 1e3);
        let memory = if result.peak_memory == 0 { "–".to_owned() } else { told_bytes(result.peak_memory) };
        writeln!(page, "<td>{median}</td><td>{slow}</td><td>{index}</td><td>{memory}</td></tr>")?;
    }
    writeln!(page, "</tbody></table></div>")
}

pub(super) fn write_figure(page: &mut String, title: &str, caption: &str, figure: &str) -> std::fmt::Result {
    writeln!(page, "<figure><h3>{title}</h3>\n{figure}\n<figcaption>{caption}</figcaption></figure>")
}

fn write_multiples<'a>(
    page: &mut String,
    title: &str,
    caption: &str,
    figures: impl Iterator<Item = (&'a Row<'a>, String)>,
) -> std::fmt::Result {
    let mut figures = figures.peekable();
    if figures.peek().is_none() {
        return Ok(());
    }
    writeln!(page, "<div class=\"multiples\"><h3>{title}</h3>\n<p class=\"caption\">{caption}</p>\n<div>")?;
    for (row, figure) in figures {
        let told = match &row.versus_best {
            Some(comparison) => format!(
                "{} better, {} same, {} worse than the best",
                comparison.wins, comparison.ties, comparison.losses
            ),
            None => "the best".to_owned(),
        };
        let label = escaped(&row.label);
        writeln!(page, "<figure>{figure}<figcaption><b>{label}</b> {told}</figcaption></figure>")?;
    }
    writeln!(page, "</div></div>")
}

/// What one must know to find the numbers again.
fn write_origins(page: &mut String, section: &Section<'_>) -> std::fmt::Result {
    writeln!(
        page,
        "<details><summary>Where the numbers are from</summary>\n<div class=\"wide\"><table class=\"origins\">"
    )?;
    let heads =
        ["recipe", "hash", "models", "model cost a query", "revision", "device", "threads", "search", "answered"];
    writeln!(page, "<thead><tr><th>{}</th></tr></thead>\n<tbody>", heads.join("</th><th>"))?;
    for row in &section.rows {
        let result = row.result;
        let models: Vec<String> = result
            .models
            .iter()
            .map(|model| format!("{} <code>{}</code>", escaped(&model.name), escaped(&model.hash)))
            .collect();
        writeln!(
            page,
            "<tr><th>{}</th><td><code>{}</code></td><td>{}</td><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{} of {}</td></tr>",
            escaped(&row.label),
            escaped(&result.recipe.hash),
            models.join("<br/>"),
            result.model_cost.map_or_else(|| "–".to_owned(), |cost| cost.to_string()),
            escaped(&result.revision),
            escaped(&result.device),
            result.threads,
            known_ms(result.search_seconds * 1e3),
            grouped(result.n_answered),
            grouped(result.n_judged),
        )?;
    }
    let collection = &section.best().result.collection;
    let hashes = [
        ("corpus", &collection.corpus_hash),
        ("queries", &collection.queries_hash),
        ("judgements", &collection.qrels_hash),
    ];
    let hashes = hashes.map(|(what, hash)| format!("{what} <code>{}</code>", escaped(hash)));
    writeln!(page, "</tbody></table></div>\n<p>{}</p></details>", hashes.join(", "))
}

fn known_ms(milliseconds: f64) -> String {
    if milliseconds > 0.0 { told_ms(milliseconds) } else { "–".to_owned() }
}

fn told(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{} {noun}s", grouped(n)) }
}
