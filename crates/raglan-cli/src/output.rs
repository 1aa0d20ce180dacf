//! Results on standard output.

use std::io::Write;
use std::ops::Range;

use anyhow::Result;
use console::style;
use serde::Serialize;

/// Prints a value as indented JSON and a line feed.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Prints a value as a line of JSON.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// The text with the ranges in bold.
pub fn highlighted(text: &str, highlights: &[Range<usize>]) -> String {
    let mut marked = String::new();
    let mut at = 0;
    for span in highlights {
        marked += &text[at..span.start];
        marked += &style(&text[span.clone()]).bold().yellow().to_string();
        at = span.end;
    }
    marked + &text[at..]
}

/// The text on one line, without control characters, which could steer the terminal.
pub fn one_line(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text without control characters other than line feeds and tabs.
pub fn printable(text: &str) -> String {
    text.chars().filter(|&c| !c.is_control() || c == '\n' || c == '\t').collect()
}

/// The text, indented by two spaces and wrapped at `width` columns.
pub fn indented(text: &str, width: usize) -> String {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let length = console::measure_text_width(&line) + 1 + console::measure_text_width(word);
            if !line.is_empty() && length > width.saturating_sub(2) {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// `1 file`, `2 files`, `2 queries`.
pub fn count(n: usize, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if n == 1 => format!("1 {noun}"),
        Some(stem) => format!("{n} {stem}ies"),
        None => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_follow_their_numbers() {
        assert_eq!([0, 1, 2].map(|n| count(n, "file")), ["0 files", "1 file", "2 files"]);
        assert_eq!([0, 1, 2].map(|n| count(n, "query")), ["0 queries", "1 query", "2 queries"]);
    }

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        assert_eq!(one_line("a\x1b[31mb\n\tc"), "a [31mb c");
        assert_eq!(printable("a\x1b[31mb\nc"), "a[31mb\nc");
    }

    #[test]
    fn long_lines_are_wrapped() {
        assert_eq!(indented("one two three", 9), "  one two\n  three");
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!((bytes(999), bytes(1500), bytes(2_000_000)), ("999 B".into(), "1.5 kB".into(), "2.0 MB".into()));
    }
}
