//! Markdown: CommonMark with tables and front matter.

use pulldown_cmark::{Event, HeadingLevel, MetadataBlockKind, Options, Parser, Tag, TagEnd};
use raglan_core::{BlockKind, Format, MarkKind, ParsedDocument};

use super::Task;
use crate::SkipReason;
use crate::structure::{Structure, collapse};

pub(super) fn read(text: String, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut structure = Structure::default();
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS;
    let start = if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
    // Where the item, at any depth, began whose text is not yet in a block; items of nested lists part it.
    let mut item: Option<usize> = None;
    let mut n_open_items = 0_usize;
    let mut heading: Option<(HeadingLevel, String)> = None;
    let mut front_matter: Option<String> = None;
    let mut first_heading: Option<(HeadingLevel, String)> = None;
    let mut table_head: Option<usize> = None;
    for (event_idx, (event, range)) in Parser::new_ext(&text[start..], options).into_offset_iter().enumerate() {
        if event_idx % 4096 == 0 {
            task.check_time()?;
        }
        let span = start + range.start..start + range.end;
        match event {
            Event::Start(Tag::Heading { level, .. }) => heading = Some((level, String::new())),
            Event::End(TagEnd::Heading(_)) => {
                let Some((level, title)) = heading.take() else { continue };
                let title = collapse(&title);
                if n_open_items == 0 {
                    structure.block(BlockKind::Heading(level as u8), span.clone());
                    if !title.is_empty() {
                        let kind = MarkKind::Heading { level: level as u8, title: title.clone() };
                        structure.mark(span.start, kind);
                    }
                }
                if !title.is_empty() && first_heading.as_ref().is_none_or(|&(outermost, _)| level < outermost) {
                    first_heading = Some((level, title));
                }
            }
            Event::Start(Tag::Item) => {
                n_open_items += 1;
                item = Some(span.start);
            }
            Event::End(TagEnd::Item) => {
                if let Some(from) = item.take() {
                    structure.block(BlockKind::ListItem, from..span.end);
                }
                n_open_items = n_open_items.saturating_sub(1);
            }
            Event::Start(Tag::List(_)) => {
                if let Some(from) = item.take() {
                    structure.block(BlockKind::ListItem, from..span.start);
                }
            }
            Event::End(TagEnd::List(_)) if n_open_items > 0 => item = Some(span.end),
            Event::Start(Tag::TableHead) => table_head = Some(span.start),
            // The line of dashes below the head belongs to it.
            Event::Start(Tag::TableRow) if n_open_items == 0 => {
                if let Some(head) = table_head.take() {
                    structure.block(BlockKind::TableRow, head..span.start);
                }
                structure.block(BlockKind::TableRow, span);
            }
            Event::End(TagEnd::Table) if n_open_items == 0 => {
                if let Some(head) = table_head.take() {
                    structure.block(BlockKind::TableRow, head..span.end);
                }
            }
            Event::Start(Tag::Paragraph | Tag::HtmlBlock) if n_open_items == 0 => {
                structure.block(BlockKind::Paragraph, span);
            }
            Event::Start(Tag::CodeBlock(_)) if n_open_items == 0 => structure.block(BlockKind::Code, span),
            Event::Start(Tag::MetadataBlock(MetadataBlockKind::YamlStyle | MetadataBlockKind::PlusesStyle)) => {
                structure.block(BlockKind::Code, span);
                front_matter = Some(String::new());
            }
            Event::End(TagEnd::MetadataBlock(_)) => {
                for line in front_matter.take().unwrap_or_default().lines() {
                    front_matter_line(line, &mut structure);
                }
            }
            Event::Text(words) | Event::Code(words) => {
                if let Some((_, title)) = &mut heading {
                    title.push_str(&words);
                } else if let Some(front_matter) = &mut front_matter {
                    front_matter.push_str(&words);
                }
            }
            Event::SoftBreak | Event::HardBreak => {
                if let Some((_, title)) = &mut heading {
                    title.push(' ');
                }
            }
            _ => {}
        }
    }
    if structure.title.is_none() {
        structure.title = first_heading.map(|(_, title)| title);
    }
    Ok(structure.into_document(Format::Markdown, text, BlockKind::Paragraph))
}

/// A `key: value` or `key = value` of the outermost level; lists and maps are left in the text.
fn front_matter_line(line: &str, structure: &mut Structure) {
    let Some((key, value)) = line.split_once([':', '=']) else { return };
    let (key, value) = (key.trim_end(), value.trim().trim_matches(['"', '\'']));
    if key.is_empty() || key.starts_with([' ', '\t', '-', '#']) || value.is_empty() {
        return;
    }
    match key {
        "title" => structure.title = Some(value.to_owned()),
        _ => structure.say(&key.to_lowercase(), value),
    }
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{headings, pieces, read_text};

    #[test]
    fn blocks_follow_the_structure() {
        let document = read_text(
            "a.md",
            "---\ntitle: The *T*\nauthor: A. B.\n---\n# One `x`\n\nText that\ngoes on.\n\n* item\n  * inner\n  rest\n* last\n\n\
             | a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n```rust\nfn f() {}\n\nfn g() {}\n```\n\nTwo\n---\nend\n",
        );
        assert_eq!(document.title.as_deref(), Some("The *T*"));
        assert_eq!(document.metadata["author"], "A. B.");
        assert_eq!(
            pieces(&document)[1..],
            [
                ("Heading(1)", "# One `x`"),
                ("Paragraph", "Text that\ngoes on."),
                ("ListItem", "* item"),
                ("ListItem", "* inner\n  rest"),
                ("ListItem", "* last"),
                ("TableRow", "| a | b |\n|---|---|"),
                ("TableRow", "| 1 | 2 |"),
                ("Paragraph", "> quoted"),
                ("Code", "```rust\nfn f() {}\n\nfn g() {}\n```"),
                ("Heading(2)", "Two\n---"),
                ("Paragraph", "end"),
            ]
        );
        assert_eq!(headings(&document), [(1, "One x"), (2, "Two")]);
    }
}
