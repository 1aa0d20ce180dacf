//! PDF: glyphs by page, put together to lines, paragraphs and headings by where they stand.

use std::collections::{BTreeMap, HashSet};
use std::panic::{self, AssertUnwindSafe};

use pdf_extract::{Document, MediaBox, Object, OutputDev, OutputError, Transform, output_doc, output_doc_page};
use raglan_core::{BlockKind, Format, MarkKind, ParsedDocument};

use super::Task;
use crate::SkipReason;
use crate::structure::TextBuilder;

// Distances are in units of the font size.
/// A gap from which on two glyphs belong to different words; a space is a quarter or more in most fonts.
const WORD_GAP: f64 = 0.16;
/// How far a glyph may stand above or below its line: superscripts do.
const LINE_SHIFT: f64 = 0.45;
/// Lines farther apart than this are different paragraphs, whatever the distance of those before.
const PARAGRAPH_GAP: f64 = 1.9;

pub(super) fn read(bytes: &[u8], task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut pdf = Document::load_mem(bytes).map_err(SkipReason::malformed)?;
    if pdf.is_encrypted() && pdf.decrypt("").is_err() {
        return Err(SkipReason::Encrypted);
    }
    let n_pages = pdf.page_iter().take(task.limits.pages as usize + 1).count();
    if n_pages > task.limits.pages as usize {
        return Err(SkipReason::too_large("number of pages", u64::from(task.limits.pages)));
    }
    let glyphs = glyphs(&pdf, n_pages, task)?;
    if glyphs.pages.values().all(Vec::is_empty) {
        return Err(match glyphs.first_error {
            Some(error) => SkipReason::Malformed { problem: error },
            None => SkipReason::NoText { what: format!("scanned PDF: {n_pages} pages of images without a text layer") },
        });
    }
    let lines: Vec<(u32, Vec<Line>)> = glyphs.pages.iter().map(|(&page, glyphs)| (page, lines(glyphs))).collect();
    let words = Words::of(&lines);
    let pages: Vec<(u32, Vec<Paragraph>)> =
        lines.into_iter().map(|(page, lines)| (page, paragraphs(lines, &words))).collect();
    let mut out = TextBuilder::new(task.limits);
    properties(&pdf, &mut out);
    let levels = HeadingLevels::of(&pages);
    for (page, paragraphs) in &pages {
        out.mark(MarkKind::Page(*page));
        for paragraph in paragraphs {
            match levels.level(paragraph) {
                Some(level) => {
                    if out.structure.title.is_none() && *page == 1 && level == 1 {
                        out.structure.title = Some(paragraph.text.clone());
                    }
                    out.heading(level, &paragraph.text.replace('\n', " "))?;
                }
                None if paragraph.is_item => out.block(BlockKind::ListItem, &paragraph.text)?,
                None => out.block(BlockKind::Paragraph, &paragraph.text)?,
            }
        }
    }
    if glyphs.n_failed > 0 {
        out.structure.say("unreadable_pages", &glyphs.n_failed.to_string());
    }
    Ok(out.finish(Format::Pdf))
}

fn properties(pdf: &Document, out: &mut TextBuilder) {
    let info = pdf.trailer.get(b"Info").ok().and_then(|info| match info {
        Object::Reference(id) => pdf.get_dictionary(*id).ok(),
        info => info.as_dict().ok(),
    });
    let field = |name: &[u8]| {
        let text = info?.get(name).ok().and_then(|value| pdf_extract::decode_text_string(value).ok())?;
        Some(text.trim_end_matches('\0').to_owned()).filter(|text| !text.trim().is_empty())
    };
    out.structure.title = field(b"Title").filter(|title| !title.starts_with("Microsoft Word - "));
    for (name, key) in [("Author", "author"), ("Subject", "subject"), ("Keywords", "keywords")] {
        out.structure.say(key, &field(name.as_bytes()).unwrap_or_default());
    }
    // `D:20221129012046Z` is the 29th of November 2022.
    let created = field(b"CreationDate").unwrap_or_default();
    let digits = created.trim_start_matches("D:").get(..8).filter(|day| day.bytes().all(|byte| byte.is_ascii_digit()));
    if let Some(day) = digits {
        out.structure.say("created", &format!("{}-{}-{}", &day[..4], &day[4..6], &day[6..]));
    }
}

/// A glyph, or several that are one character code.
struct Glyph {
    /// Start and end along the direction of writing.
    start: f64,
    end: f64,
    /// Height of the base line above the bottom, across the direction of writing.
    base: f64,
    size: f64,
    /// Direction of writing in degrees.
    angle: i32,
    text: String,
}

#[derive(Default)]
struct Glyphs {
    pages: BTreeMap<u32, Vec<Glyph>>,
    page: u32,
    n_failed: usize,
    first_error: Option<String>,
    bytes_left: usize,
    too_large: bool,
    out_of_time: bool,
    deadline: Option<std::time::Instant>,
}

impl OutputDev for Glyphs {
    fn begin_page(&mut self, page: u32, _: &MediaBox, _: Option<(f64, f64, f64, f64)>) -> Result<(), OutputError> {
        self.page = page;
        self.pages.insert(page, Vec::new());
        self.out_of_time = self.deadline.is_some_and(|deadline| std::time::Instant::now() > deadline);
        if self.out_of_time { Err(OutputError::FormatError(std::fmt::Error)) } else { Ok(()) }
    }

    fn end_page(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    fn output_character(
        &mut self,
        at: &Transform,
        width: f64,
        _: f64,
        font_size: f64,
        text: &str,
    ) -> Result<(), OutputError> {
        let stretch = at.m11.hypot(at.m12);
        let size = font_size.abs() * (at.m11 * at.m22 - at.m12 * at.m21).abs().sqrt();
        let numbers = [at.m31, at.m32, stretch, size, width];
        if !numbers.iter().all(|number| number.is_finite()) || stretch == 0.0 || size == 0.0 {
            return Ok(());
        }
        if text.len() > self.bytes_left {
            self.too_large = true;
            return Err(OutputError::FormatError(std::fmt::Error));
        }
        self.bytes_left -= text.len();
        let (cos, sin) = (at.m11 / stretch, at.m12 / stretch);
        let start = at.m31 * cos + at.m32 * sin;
        self.pages.entry(self.page).or_default().push(Glyph {
            start,
            end: start + width * font_size * stretch,
            base: at.m32 * cos - at.m31 * sin,
            size,
            angle: sin.atan2(cos).to_degrees().round() as i32,
            text: clean(text),
        });
        Ok(())
    }

    fn begin_word(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    fn end_word(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), OutputError> {
        Ok(())
    }
}

/// White space becomes spaces; control characters and soft hyphens go.
fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{AD}' => {}
            _ if character.is_whitespace() => cleaned.push(' '),
            _ if character.is_control() => {}
            _ => cleaned.push(character),
        }
    }
    cleaned
}

/// The glyphs of all pages. A page on which the library fails costs that page.
fn glyphs(pdf: &Document, n_pages: usize, task: &Task<'_>) -> Result<Glyphs, SkipReason> {
    let mut glyphs = Glyphs {
        bytes_left: usize::try_from(task.limits.text_bytes).unwrap_or(usize::MAX),
        deadline: Some(task.deadline),
        ..Glyphs::default()
    };
    let mut outcome = panic::catch_unwind(AssertUnwindSafe(|| output_doc(pdf, &mut glyphs)));
    let mut next = glyphs.page;
    loop {
        if glyphs.out_of_time {
            return Err(super::timed_out(task.limits));
        }
        if glyphs.too_large {
            return Err(SkipReason::too_large("extracted text", task.limits.text_bytes));
        }
        match outcome {
            Ok(Ok(())) => {}
            failed => {
                glyphs.n_failed += 1;
                let problem = match failed {
                    Ok(Err(error)) => error.to_string(),
                    Err(payload) => super::panic_message(payload.as_ref()),
                    Ok(Ok(())) => String::new(),
                };
                glyphs.first_error.get_or_insert(problem);
                next = next.max(glyphs.page);
            }
        }
        if glyphs.n_failed == 0 {
            return Ok(glyphs);
        }
        next += 1;
        if next as usize > n_pages {
            return Ok(glyphs);
        }
        outcome = panic::catch_unwind(AssertUnwindSafe(|| output_doc_page(pdf, &mut glyphs, next)));
    }
}

struct Line {
    start: f64,
    end: f64,
    base: f64,
    size: f64,
    angle: i32,
    text: String,
}

/// Lines in the order in which they are drawn, which for all but few documents is that of reading.
fn lines(glyphs: &[Glyph]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut drawn: Option<&Glyph> = None;
    for glyph in glyphs {
        // What is drawn twice, a hair apart, is bold.
        if drawn.is_some_and(|last| {
            last.text == glyph.text
                && (last.start - glyph.start).abs() < 0.12 * glyph.size
                && (last.base - glyph.base).abs() < 0.12 * glyph.size
        }) {
            continue;
        }
        drawn = Some(glyph);
        let is_space = glyph.text.trim().is_empty();
        if let Some(line) = lines.last_mut() {
            let size = line.size.max(glyph.size);
            let gap = glyph.start - line.end;
            let same_line = line.angle == glyph.angle
                && (line.base - glyph.base).abs() < LINE_SHIFT * size
                && gap > -0.6 * size.max(glyph.end - glyph.start);
            if same_line {
                if is_space {
                    if !line.text.ends_with(' ') {
                        line.text.push(' ');
                    }
                } else {
                    if gap > WORD_GAP * glyph.size.min(line.size) && !line.text.ends_with(' ') {
                        line.text.push(' ');
                    }
                    line.text.push_str(&glyph.text);
                    if glyph.size > line.size * 0.9 {
                        (line.base, line.size) = (glyph.base, line.size.max(glyph.size));
                    }
                }
                line.end = line.end.max(glyph.end);
                continue;
            }
        }
        if !is_space {
            let &Glyph { start, end, base, size, angle, .. } = glyph;
            lines.push(Line { start, end, base, size, angle, text: glyph.text.clone() });
        }
    }
    lines.retain(|line| !line.text.trim().is_empty());
    lines
}

struct Paragraph {
    text: String,
    size: f64,
    n_lines: usize,
    is_item: bool,
}

const BULLETS: [char; 9] = ['•', '◦', '▪', '●', '○', '■', '‣', '·', '–'];

fn paragraphs(lines: Vec<Line>, words: &Words) -> Vec<Paragraph> {
    let mut paragraphs: Vec<Paragraph> = Vec::new();
    let mut last: Option<(Line, f64)> = None;
    for line in lines {
        let text = line.text.trim().to_owned();
        let is_item = text.starts_with(BULLETS) && text.chars().nth(1).is_none_or(char::is_whitespace);
        let joins = last.as_ref().and_then(|(last, pitch)| {
            let paragraph = paragraphs.last_mut()?;
            let down = last.base - line.base;
            let size = last.size.max(line.size);
            let same_line = down.abs() < LINE_SHIFT * size;
            let same_size = (last.size - line.size).abs() < 0.12 * size;
            let below = down > 0.0 && down < PARAGRAPH_GAP * size && down < pitch * 1.35;
            let indented = line.start > last.start + 0.9 * size && last.text.trim_end().ends_with(['.', ':', '?', '!']);
            let bare_bullet = paragraph.is_item && paragraph.text.chars().count() == 1;
            let joins = last.angle == line.angle
                && ((same_line && line.start >= last.end)
                    || bare_bullet
                    || (below && same_size && !indented && !is_item));
            joins.then_some((paragraph, same_line || bare_bullet, if same_line { *pitch } else { down }))
        });
        let pitch = match joins {
            Some((paragraph, true, pitch)) => {
                paragraph.text.push(' ');
                paragraph.text.push_str(&text);
                pitch
            }
            Some((paragraph, false, pitch)) => {
                append_line(&mut paragraph.text, &text, words);
                paragraph.n_lines += 1;
                pitch
            }
            None => {
                paragraphs.push(Paragraph { text, size: line.size, n_lines: 1, is_item });
                f64::INFINITY
            }
        };
        last = Some((line, pitch));
    }
    paragraphs
}

/// The words of a document as they stand within its lines: what a hyphen at a line's end is judged by.
struct Words(HashSet<String>);

impl Words {
    fn of(pages: &[(u32, Vec<Line>)]) -> Self {
        let mut words = HashSet::new();
        for line in pages.iter().flat_map(|(_, lines)| lines) {
            for word in line.text.split_whitespace() {
                let word = word.trim_matches(|character: char| !character.is_alphanumeric() && character != '-');
                if !word.ends_with('-') {
                    words.insert(word.to_lowercase());
                }
            }
        }
        Self(words)
    }

    /// Whether the hyphen between two parts of a word belongs to it wherever it stands.
    fn keeps_hyphen(&self, stem: &str, tail: &str) -> bool {
        let (stem, tail) = (stem.to_lowercase(), tail.to_lowercase());
        let has = |word: &str| self.0.contains(word);
        stem.contains('-')
            || has(&format!("{stem}-{tail}"))
            || (!has(&format!("{stem}{tail}")) && has(&stem) && has(&tail))
    }
}

/// Adds a line below; a word that is parted by a hyphen becomes whole.
fn append_line(text: &mut String, line: &str, words: &Words) {
    let stem = text.strip_suffix(['-', '\u{2010}']).filter(|stem| stem.ends_with(char::is_lowercase));
    let Some(stem) = stem.filter(|_| line.starts_with(char::is_lowercase)) else {
        text.push('\n');
        text.push_str(line);
        return;
    };
    let is_part = |character: char| character.is_alphanumeric() || character == '-';
    let stem = stem.rsplit(|character| !is_part(character)).next().unwrap_or_default();
    let tail = line.split(|character| !is_part(character)).next().unwrap_or_default();
    if !words.keeps_hyphen(stem, tail) {
        text.pop();
    }
    text.push_str(line);
}

/// Font sizes above that of the body, largest first.
struct HeadingLevels(Vec<i64>);

impl HeadingLevels {
    fn of(pages: &[(u32, Vec<Paragraph>)]) -> Self {
        let mut n_chars: BTreeMap<i64, usize> = BTreeMap::new();
        for paragraph in pages.iter().flat_map(|(_, paragraphs)| paragraphs) {
            *n_chars.entry(half_points(paragraph.size)).or_default() += paragraph.text.len();
        }
        let body = n_chars.iter().max_by_key(|&(_, n)| n).map_or(0, |(&size, _)| size);
        let larger = n_chars.keys().rev().copied().filter(|&size| size as f64 >= body as f64 * 1.12 + 1.0);
        Self(larger.take(6).collect())
    }

    fn level(&self, paragraph: &Paragraph) -> Option<u8> {
        let n_letters = paragraph.text.chars().filter(|character| character.is_alphabetic()).count();
        if paragraph.n_lines > 3 || paragraph.text.len() > 200 || n_letters < 2 || paragraph.is_item {
            return None;
        }
        let size = half_points(paragraph.size);
        self.0.iter().position(|&larger| larger == size).and_then(|rank| u8::try_from(rank + 1).ok())
    }
}

fn half_points(size: f64) -> i64 {
    (size * 2.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::{headings, pieces, read_bytes};
    use crate::{Limits, read_bytes as try_read};

    /// A PDF whose every page shows its lines: font size, left, base and text.
    fn pdf(pages: &[&[(u32, u32, u32, &str)]]) -> Vec<u8> {
        let mut objects = vec![
            "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
            format!(
                "<< /Type /Pages /Count {} /Kids [{}] >>",
                pages.len(),
                (0..pages.len()).map(|page| format!("{} 0 R ", 4 + 2 * page)).collect::<String>()
            ),
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_owned(),
        ];
        for (page, lines) in pages.iter().enumerate() {
            let show =
                |&(size, x, y, text): &(u32, u32, u32, &str)| format!("BT /F {size} Tf {x} {y} Td ({text}) Tj ET\n");
            let content: String = lines.iter().map(show).collect();
            objects.push(format!(
                "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {} 0 R \
                 /Resources << /Font << /F 3 0 R >> >> >>",
                5 + 2 * page
            ));
            objects.push(format!("<< /Length {} >>\nstream\n{content}endstream", content.len()));
        }
        let mut file = "%PDF-1.4\n".to_owned();
        let mut offsets = Vec::new();
        for (object_idx, object) in objects.iter().enumerate() {
            offsets.push(file.len());
            file += &format!("{} 0 obj\n{object}\nendobj\n", object_idx + 1);
        }
        let start = file.len();
        file += &format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
        file.extend(offsets.iter().map(|offset| format!("{offset:010} 00000 n \n")));
        file += &format!("trailer << /Size {} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1);
        file.into_bytes()
    }

    #[test]
    fn lines_become_paragraphs_headings_and_pages() {
        let first: &[_] = &[
            (20, 50, 700, "The Title"),
            (10, 50, 660, "A paragraph that is well-"),
            (10, 50, 648, "known and goes on, as retrie-"),
            (10, 50, 636, "val does. It is well-known."),
            (10, 50, 600, "Left"),
            (10, 200, 600, "right"),
        ];
        let document = read_bytes("a.pdf", &pdf(&[first, &[(10, 50, 700, "Page two.")]]));
        assert_eq!(
            pieces(&document),
            [
                ("Heading(1)", "The Title"),
                ("Paragraph", "A paragraph that is well-known and goes on, as retrieval does. It is well-known."),
                ("Paragraph", "Left right"),
                ("Paragraph", "Page two."),
            ]
        );
        assert_eq!(headings(&document), [(1, "The Title")]);
        assert_eq!(document.title.as_deref(), Some("The Title"));
        let places = document.locate(&[0, document.text.len()]);
        assert_eq!((places[0].page, places[1].page), (Some(1), Some(2)));
    }

    #[test]
    fn a_pdf_without_text_says_so_and_a_damaged_one_does_not_panic() {
        let limits = Limits::default();
        let reason = try_read("a.pdf", pdf(&[&[]]), &limits).unwrap_err();
        assert!(matches!(reason, SkipReason::NoText { .. }), "{reason}");
        let whole = pdf(&[&[(10, 50, 700, "words")]]);
        for cut in (10..whole.len()).step_by(23) {
            if let Err(reason) = try_read("a.pdf", whole[..cut].to_vec(), &limits) {
                assert!(!matches!(reason, SkipReason::Crashed { .. }), "{cut}: {reason}");
            }
        }
    }
}
