//! Presentations: slides in their order, with their notes.

use raglan_core::{BlockKind, Format, MarkKind, ParsedDocument};

use super::Task;
use super::package::{Package, Xml, attribute, office_properties, walk};
use crate::SkipReason;
use crate::structure::{TextBuilder, collapse};

const PRESENTATION: &str = "ppt/presentation.xml";

pub(super) fn read(bytes: &[u8], task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut package = Package::open(bytes, task.limits)?;
    let mut out = TextBuilder::new(task.limits);
    office_properties(&mut package, &mut out)?;
    let mut ids = Vec::new();
    walk(&package.required(PRESENTATION)?, |node| {
        if let Xml::Open("sldId", element) = node {
            // The id of the relationship has a prefix; the slide's own has none.
            let mut attributes = element.attributes();
            for found in attributes.with_checks(false).flatten() {
                if found.key.as_ref().ends_with(":id") {
                    ids.push(found.value.into_owned());
                }
            }
        }
        Ok(())
    })?;
    if ids.len() > task.limits.pages as usize {
        return Err(SkipReason::too_large("number of slides", u64::from(task.limits.pages)));
    }
    let relationships = package.relationships(PRESENTATION)?;
    for (slide_idx, id) in ids.iter().enumerate() {
        task.check_time()?;
        let Some(slide) = relationships.iter().find(|relationship| relationship.id.as_str() == &**id) else { continue };
        let Some(xml) = package.text(&slide.target)? else { continue };
        out.mark(MarkKind::SectionEnd { level: 1 });
        out.mark(MarkKind::Slide(u32::try_from(slide_idx + 1).unwrap_or(u32::MAX)));
        write_slide(&xml, &mut out, Part::Slide)?;
        let notes = package.relationships(&slide.target)?;
        let notes = notes.iter().find(|relationship| relationship.kind.ends_with("/notesSlide"));
        if let Some(xml) = notes.map(|notes| package.text(&notes.target)).transpose()?.flatten() {
            write_slide(&xml, &mut out, Part::Notes)?;
        }
    }
    if out.is_empty() {
        return Err(SkipReason::NoText { what: "slides of nothing but images".to_owned() });
    }
    Ok(out.finish(Format::Pptx))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Slide,
    Notes,
}

fn write_slide(xml: &str, out: &mut TextBuilder, part: Part) -> Result<(), SkipReason> {
    let mut paragraph = String::new();
    let (mut in_text, mut is_title, mut is_left_out, mut n_cells) = (false, false, false, 0_usize);
    let mut row: Option<Vec<String>> = None;
    let mut title = String::new();
    walk(xml, |node| {
        match node {
            Xml::Open("sp", _) => (is_title, is_left_out) = (false, false),
            Xml::Open("ph", element) => {
                let kind = attribute(element, "type").unwrap_or_default();
                is_title = part == Part::Slide && matches!(kind.as_str(), "title" | "ctrTitle");
                is_left_out = matches!(kind.as_str(), "sldNum" | "dt" | "ftr" | "hdr");
            }
            Xml::Close("sp") => {
                if is_title {
                    out.heading(1, &std::mem::take(&mut title))?;
                }
                (is_title, is_left_out) = (false, false);
            }
            Xml::Open("t", _) => in_text = true,
            Xml::Close("t") => in_text = false,
            Xml::Text(text) if in_text && !is_left_out => paragraph.push_str(text),
            Xml::Open("br", _) => paragraph.push('\n'),
            Xml::Open("tab", _) => paragraph.push('\t'),
            Xml::Open("tr", _) => row = Some(Vec::new()),
            Xml::Open("tc", _) => {
                n_cells += 1;
                row.iter_mut().for_each(|row| row.push(String::new()));
            }
            Xml::Close("tr") => out.row(&row.take().unwrap_or_default())?,
            Xml::Close("p") => {
                let text = std::mem::take(&mut paragraph);
                if let Some(cell) = row.as_mut().and_then(|row| row.last_mut()) {
                    *cell = collapse(&format!("{cell} {text}"));
                } else if is_title {
                    title.push_str(&text);
                    title.push(' ');
                } else if part == Part::Notes && !text.trim().is_empty() {
                    out.block(BlockKind::Paragraph, &format!("Notes: {}", text.trim()))?;
                } else {
                    out.block(BlockKind::ListItem, &text)?;
                }
            }
            _ => {}
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{headings, pieces, read_bytes, zip};

    #[test]
    fn slides_come_in_their_order_with_notes() {
        let slide = |title: &str, body: &str| {
            format!(
                "<p:sld xmlns:a='a' xmlns:p='p'><p:sp><p:nvPr><p:ph type='title'/></p:nvPr><a:p><a:r><a:t>{title}</a:t></a:r>\
                 </a:p></p:sp><p:sp><a:p><a:r><a:t>{body}</a:t></a:r></a:p></p:sp></p:sld>"
            )
        };
        let relationship = |id: &str, kind: &str, target: &str| {
            format!("<Relationship Id='{id}' Type='http://x/{kind}' Target='{target}'/>")
        };
        let presentation =
            "<p:presentation xmlns:r='r'><p:sldId id='256' r:id='r2'/><p:sldId id='257' r:id='r1'/></p:presentation>";
        let main = relationship("r1", "slide", "slides/slide1.xml") + &relationship("r2", "slide", "slides/slide2.xml");
        let document = read_bytes(
            "a.pptx",
            &zip(&[
                ("ppt/presentation.xml", presentation),
                ("ppt/_rels/presentation.xml.rels", &main),
                ("ppt/slides/slide1.xml", &slide("Last", "words")),
                ("ppt/slides/slide2.xml", &slide("First", "other words")),
                ("ppt/slides/_rels/slide2.xml.rels", &relationship("n", "notesSlide", "../notesSlides/n1.xml")),
                ("ppt/notesSlides/n1.xml", "<p:notes><p:sp><a:p><a:r><a:t>say this</a:t></a:r></a:p></p:sp></p:notes>"),
            ]),
        );
        assert_eq!(
            pieces(&document),
            [
                ("Heading(1)", "First"),
                ("ListItem", "other words"),
                ("Paragraph", "Notes: say this"),
                ("Heading(1)", "Last"),
                ("ListItem", "words"),
            ]
        );
        assert_eq!(headings(&document), [(1, "First"), (1, "Last")]);
        assert_eq!(document.locate(&[document.text.len()])[0].slide, Some(2));
    }
}
