//! The report as Markdown: the tables of the page, without its plots.

use std::fmt::Write;

use crate::ModelCost;

use super::{Report, Section, grouped, short, told_bytes, told_ms, told_p};

pub(super) fn render(report: &Report<'_>) -> String {
    let mut text = format!("# Retrieval report\n\nSorted and compared by {}.\n", report.metric);
    for section in &report.sections {
        write_section(&mut text, section, &report.metric).expect("a string takes all that is written");
    }
    text
}

fn write_section(text: &mut String, section: &Section<'_>, metric: &str) -> std::fmt::Result {
    let collection = &section.best().result.collection;
    writeln!(text, "\n## {} · {}\n", cell(&collection.name), cell(&collection.split))?;
    let n_judged = section.best().result.n_judged;
    writeln!(text, "{} documents, {} judged queries.\n", grouped(collection.n_documents), grouped(n_judged))?;
    writeln!(text, "{}\n", cell(&section.conclusion(metric)))?;

    write!(text, "| recipe |")?;
    section.metrics.iter().try_for_each(|name| write!(text, " {name} |"))?;
    writeln!(text, " 95 % | p | p50 | p95 | p99 | index | memory |")?;
    writeln!(text, "|---|{}", "---:|".repeat(section.metrics.len() + 7))?;
    for row in &section.rows {
        let result = row.result;
        write!(text, "| {} |", cell(&row.label))?;
        for name in &section.metrics {
            match result.metrics.get(*name) {
                Some(value) => write!(text, " {value:.4} |")?,
                None => write!(text, " |")?,
            }
        }
        let (low, high) = row.interval;
        let p = row.versus_best.as_ref().map_or_else(
            || "best".to_owned(),
            |comparison| format!("{}{}", told_p(comparison.p), if row.is_worse { " ▾" } else { "" }),
        );
        let [p50, p95, p99] = [result.latency_ms.p50, result.latency_ms.p95, result.latency_ms.p99].map(told_ms);
        let (index, memory) = (told_ms(result.index_seconds * 1e3), told_bytes(result.peak_memory));
        writeln!(text, " {low:.3}–{high:.3} | {p} | {p50} | {p95} | {p99} | {index} | {memory} |")?;
    }
    writeln!(
        text,
        "\n95 %: bootstrap interval of {metric} over queries. p: paired randomisation test against the best; ▾ worse at \
         .05 after Holm's correction.",
    )?;

    if section.rows.iter().any(|row| !row.result.stages.is_empty()) {
        writeln!(
            text,
            "\n| recipe | stage | recall before | recall after | p50 | p95 |\n|---|---|---:|---:|---:|---:|"
        )?;
        for row in &section.rows {
            for stage in &row.result.stages {
                let before = stage.recall_before.map_or_else(String::new, |recall| format!("{recall:.4}"));
                let [p50, p95] = [stage.latency_ms.p50, stage.latency_ms.p95].map(told_ms);
                let (label, name) = (cell(&row.label), cell(&stage.name));
                writeln!(text, "| {label} | {name} | {before} | {:.4} | {p50} | {p95} |", stage.recall_after)?;
            }
        }
    }

    if section.rows.iter().any(|row| row.result.model_cost.is_some()) {
        writeln!(text, "\n| recipe | calls a query | tokens read | written | time |\n|---|---:|---:|---:|---:|")?;
        for row in &section.rows {
            let ModelCost { calls, tokens_read, tokens_written, ms } = row.result.model_cost.unwrap_or_default();
            let (label, time) = (cell(&row.label), told_ms(ms));
            writeln!(text, "| {label} | {calls:.1} | {tokens_read:.0} | {tokens_written:.0} | {time} |")?;
        }
        writeln!(text, "\nCalls: of models that judge, rewrite or write.")?;
    }

    writeln!(text, "\n| recipe | hash | models | revision | device | threads |\n|---|---|---|---|---|---:|")?;
    for row in &section.rows {
        let result = row.result;
        let models: Vec<String> =
            result.models.iter().map(|model| format!("{} {}", cell(&model.name), short(&model.hash))).collect();
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            cell(&row.label),
            short(&result.recipe.hash),
            models.join(", "),
            short(&result.revision),
            cell(&result.device),
            result.threads
        )?;
    }
    writeln!(
        text,
        "\nCorpus {}, queries {}, judgements {}.",
        short(&collection.corpus_hash),
        short(&collection.queries_hash),
        short(&collection.qrels_hash)
    )
}

/// Text that stays within its cell and is no markup.
fn cell(text: &str) -> String {
    let mut told = String::new();
    for character in text.chars() {
        if "\\`*_[]<>|".contains(character) {
            told.push('\\');
        }
        told.push(if character.is_control() { ' ' } else { character });
    }
    told
}
