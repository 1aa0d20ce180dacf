//! HTML: the content of a page without its furniture.

use raglan_core::{BlockKind, Format, ParsedDocument};
use scraper::node::Element;
use scraper::{Html, Node};

use super::Task;
use crate::SkipReason;
use crate::structure::{TextBuilder, collapse};

pub(super) fn read(text: &str, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut out = TextBuilder::new(task.limits);
    write(text, &mut out, task)?;
    Ok(out.finish(Format::Html))
}

/// Writes the content of a page: its `main` element if that has content, else all but the navigation.
pub(super) fn write(text: &str, out: &mut TextBuilder, task: &Task<'_>) -> Result<(), SkipReason> {
    let page = Html::parse_document(text.strip_prefix('\u{FEFF}').unwrap_or(text));
    task.check_time()?;
    let mut first_heading = None;
    let mut main = None;
    for node in page.tree.root().descendants() {
        let Node::Element(element) = node.value() else { continue };
        match element.name() {
            "html" => out.structure.say("language", element.attr("lang").unwrap_or_default()),
            // The title of the page, and not that of a drawing in it.
            "title" if out.structure.title.is_none() && parent_is(node, "head") => {
                out.structure.title = Some(text_of(node)).filter(|title| !title.is_empty());
            }
            "meta" => {
                let name = element.attr("name").unwrap_or_default().to_ascii_lowercase();
                if matches!(name.as_str(), "author" | "description" | "keywords" | "date") {
                    out.structure.say(&name, element.attr("content").unwrap_or_default());
                }
            }
            "h1" if first_heading.is_none() => first_heading = Some(text_of(node)),
            _ => {}
        }
        if main.is_none() && (element.name() == "main" || element.attr("role") == Some("main")) {
            main = Some(node);
        }
    }
    if out.structure.title.is_none() {
        out.structure.title = first_heading.filter(|title| !title.is_empty());
    }
    let has_content = |node: ego_tree::NodeRef<'_, Node>| {
        let texts = node.descendants().filter_map(|node| node.value().as_text());
        texts.map(|text| text.trim().len()).sum::<usize>() >= 200
    };
    let root = main.filter(|&main| has_content(main)).unwrap_or(page.tree.root());
    let before = out.text.len();
    Content::new(out, task).write(root, Furniture::LeftOut)?;
    if out.text.len() == before {
        // A page of nothing but links is read as what it is.
        Content::new(out, task).write(page.tree.root(), Furniture::Kept)?;
    }
    Ok(())
}

fn parent_is(node: ego_tree::NodeRef<'_, Node>, name: &str) -> bool {
    node.parent().and_then(|parent| parent.value().as_element().map(|element| element.name() == name)).unwrap_or(false)
}

fn text_of(node: ego_tree::NodeRef<'_, Node>) -> String {
    let texts: String = node.descendants().filter_map(|node| node.value().as_text().map(|text| &*text.text)).collect();
    collapse(&texts)
}

/// Whether navigation, footers and the like are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Furniture {
    LeftOut,
    Kept,
}

struct Content<'a, 'b> {
    out: &'a mut TextBuilder,
    task: &'a Task<'b>,
    /// Text of the block that is being read; in a row, of its cell.
    inline: String,
    heading: Option<u8>,
    /// One entry a list: the number of its next item, if it has numbers.
    lists: Vec<Option<u32>>,
    item: Option<String>,
    n_pre: usize,
    /// One entry a table: the cells of its open row, unless it only lays out the page.
    tables: Vec<Option<Vec<String>>>,
}

impl<'a, 'b> Content<'a, 'b> {
    fn new(out: &'a mut TextBuilder, task: &'a Task<'b>) -> Self {
        Self {
            out,
            task,
            inline: String::new(),
            heading: None,
            lists: Vec::new(),
            item: None,
            n_pre: 0,
            tables: Vec::new(),
        }
    }

    fn write(mut self, root: ego_tree::NodeRef<'_, Node>, furniture: Furniture) -> Result<(), SkipReason> {
        let mut skipped = None;
        for (edge_idx, edge) in root.traverse().enumerate() {
            if edge_idx % (1 << 14) == 0 {
                self.task.check_time()?;
            }
            match edge {
                ego_tree::iter::Edge::Open(node) => match node.value() {
                    _ if skipped.is_some() => {}
                    Node::Text(text) => self.text(text),
                    Node::Element(element) if node != root && is_left_out(element, furniture) => {
                        skipped = Some(node.id());
                    }
                    Node::Element(element) => self.open(element)?,
                    _ => {}
                },
                ego_tree::iter::Edge::Close(node) => {
                    if skipped.is_some() {
                        if skipped == Some(node.id()) {
                            skipped = None;
                        }
                    } else if let Node::Element(element) = node.value() {
                        self.close(element.name())?;
                    }
                }
            }
        }
        self.flush()
    }

    fn text(&mut self, text: &str) {
        if self.n_pre > 0 {
            self.inline.push_str(text);
            return;
        }
        let mut space = self.inline.is_empty() || self.inline.ends_with([' ', '\n']);
        for character in text.chars() {
            match character {
                '\u{AD}' | '\u{200B}' | '\u{FEFF}' => {}
                _ if character.is_whitespace() => {
                    if !space {
                        self.inline.push(' ');
                        space = true;
                    }
                }
                _ => {
                    self.inline.push(character);
                    space = false;
                }
            }
        }
    }

    fn in_cell(&self) -> bool {
        matches!(self.tables.last(), Some(Some(_)))
    }

    fn open(&mut self, element: &Element) -> Result<(), SkipReason> {
        match element.name() {
            "br" => self.break_line(),
            "pre" | "listing" | "xmp" => {
                self.lay_out()?;
                self.flush()?;
                self.n_pre += 1;
            }
            name @ ("h1" | "h2" | "h3" | "h4" | "h5" | "h6") => {
                self.lay_out()?;
                self.flush()?;
                self.heading = Some(name.as_bytes()[1] - b'0');
            }
            "ul" | "menu" | "dir" | "ol" => {
                self.lay_out()?;
                self.flush()?;
                let first = element.attr("start").and_then(|start| start.parse().ok()).unwrap_or(1);
                self.lists.push((element.name() == "ol").then_some(first));
            }
            "li" => {
                self.flush()?;
                self.item = Some(match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number = number.saturating_add(1);
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".to_owned(),
                });
            }
            "table" => {
                // A table within a cell: the outer one only lays out the page.
                self.lay_out()?;
                self.flush()?;
                self.tables.push(None);
            }
            "tr" => {
                self.flush()?;
                if let Some(row) = self.tables.last_mut() {
                    *row = Some(Vec::new());
                }
            }
            "td" | "th" => {
                self.end_cell();
                if let Some(Some(cells)) = self.tables.last_mut() {
                    cells.push(String::new());
                }
            }
            name if is_block(name) => self.end_block()?,
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self, name: &str) -> Result<(), SkipReason> {
        match name {
            "pre" | "listing" | "xmp" => {
                self.flush()?;
                self.n_pre = self.n_pre.saturating_sub(1);
            }
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.flush()?;
                self.heading = None;
            }
            "ul" | "menu" | "dir" | "ol" => {
                self.flush()?;
                self.lists.pop();
                self.item = None;
            }
            "li" => {
                self.flush()?;
                self.item = None;
            }
            "tr" => self.end_row()?,
            "table" => {
                self.end_row()?;
                self.tables.pop();
            }
            name if is_block(name) => self.end_block()?,
            _ => {}
        }
        Ok(())
    }

    fn break_line(&mut self) {
        if self.n_pre > 0 {
            self.inline.push('\n');
        } else if self.in_cell() || self.heading.is_some() {
            self.inline.push(' ');
        } else {
            let end = self.inline.trim_end().len();
            self.inline.truncate(end);
            if end > 0 {
                self.inline.push('\n');
            }
        }
    }

    /// The end of a block, which within a cell or a heading parts only words.
    fn end_block(&mut self) -> Result<(), SkipReason> {
        if self.in_cell() || self.heading.is_some() || self.n_pre > 0 {
            if self.n_pre > 0 && !self.inline.ends_with('\n') {
                self.inline.push('\n');
            } else if self.n_pre == 0 && !self.inline.ends_with(' ') {
                self.inline.push(' ');
            }
            return Ok(());
        }
        self.flush()
    }

    fn end_cell(&mut self) {
        if let Some(Some(cells)) = self.tables.last_mut() {
            let words = collapse(&self.inline);
            match cells.last_mut() {
                _ if words.is_empty() => {}
                Some(cell) if cell.is_empty() => *cell = words,
                Some(cell) => *cell = format!("{cell} {words}"),
                None => cells.push(words),
            }
            self.inline.clear();
        }
    }

    fn end_row(&mut self) -> Result<(), SkipReason> {
        self.end_cell();
        if let Some(row) = self.tables.last_mut()
            && let Some(cells) = row.take()
        {
            self.out.row(&cells)?;
        }
        self.flush()
    }

    /// What stands in an open row is no cell of a table but a part of the page.
    fn lay_out(&mut self) -> Result<(), SkipReason> {
        if self.in_cell() {
            self.end_row()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SkipReason> {
        if self.in_cell() {
            self.end_cell();
            return Ok(());
        }
        if self.inline.trim().is_empty() {
            self.inline.clear();
            return Ok(());
        }
        let text = std::mem::take(&mut self.inline);
        if self.n_pre > 0 {
            return self.out.block(BlockKind::Code, &text);
        }
        if let Some(level) = self.heading {
            return self.out.heading(level, &text);
        }
        match self.item.take() {
            Some(bullet) => self.out.block(BlockKind::ListItem, &(bullet + &text)),
            None if self.lists.is_empty() => self.out.block(BlockKind::Paragraph, &text),
            None => self.out.block(BlockKind::ListItem, &text),
        }
    }
}

fn is_block(name: &str) -> bool {
    matches!(
        name,
        "p" | "div"
            | "section"
            | "article"
            | "main"
            | "header"
            | "footer"
            | "aside"
            | "nav"
            | "blockquote"
            | "figure"
            | "figcaption"
            | "address"
            | "dl"
            | "dt"
            | "dd"
            | "form"
            | "fieldset"
            | "details"
            | "summary"
            | "center"
            | "hr"
            | "body"
            | "caption"
            | "option"
    )
}

fn is_left_out(element: &Element, furniture: Furniture) -> bool {
    match element.name() {
        "script" | "style" | "noscript" | "template" | "head" | "svg" | "math" | "iframe" | "object" | "canvas"
        | "audio" | "video" | "select" | "button" | "input" | "textarea" | "datalist" => return true,
        "nav" | "footer" | "dialog" if furniture == Furniture::LeftOut => return true,
        _ => {}
    }
    if element.attr("hidden").is_some() || element.attr("aria-hidden") == Some("true") {
        return true;
    }
    if element.classes().any(|class| matches!(class, "headerlink" | "linenos" | "lineno")) {
        return true;
    }
    let role = matches!(element.attr("role"), Some("navigation" | "search" | "banner" | "contentinfo"));
    furniture == Furniture::LeftOut
        && (role
            || element.classes().any(|class| {
                matches!(
                    class,
                    "sphinxsidebar"
                        | "related"
                        | "navheader"
                        | "navfooter"
                        | "navbar"
                        | "sidebar"
                        | "breadcrumb"
                        | "breadcrumbs"
                        | "top-nav"
                        | "bottom-nav"
                        | "skip-nav"
                        | "noprint"
                )
            }))
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{headings, pieces, read_bytes};

    #[track_caller]
    fn check(html: &str, expected: &[(&str, &str)]) {
        let document = read_bytes("a.html", format!("<!doctype html>{html}").as_bytes());
        assert_eq!(pieces(&document), expected);
    }

    #[test]
    fn a_page_becomes_blocks() {
        check(
            "<title>T</title><nav>Home</nav><h1>One <em>two</em></h1><p>Some\n <b>bold</b>ness &amp; more.<br>New line</p>\
             <script>alert(1)</script><ul><li>a<ul><li>b</ul><li><p>c</p><p>d</p></ul><ol start=3><li>x</ol>\
             <pre>  keep\n    this</pre><footer>end</footer>",
            &[
                ("Heading(1)", "One two"),
                ("Paragraph", "Some boldness & more.\nNew line"),
                ("ListItem", "- a"),
                ("ListItem", "- b"),
                ("ListItem", "- c"),
                ("ListItem", "d"),
                ("ListItem", "3. x"),
                ("Code", "keep\n    this"),
            ],
        );
    }

    #[test]
    fn tables_are_read_row_by_row() {
        check(
            "<table><thead><tr><th>Name<th>Size</tr></thead><tr><td><p>a</p><p>b</p></td><td>1</td></tr></table><p>x",
            &[("TableRow", "Name | Size"), ("TableRow", "a b | 1"), ("Paragraph", "x")],
        );
        // A table that lays out the page is no table.
        check(
            "<table><tr><td>menu</td><td><h2>H</h2><p>text</p><table><tr><td>1<td>2</table></td></tr></table>",
            &[("TableRow", "menu"), ("Heading(2)", "H"), ("Paragraph", "text"), ("TableRow", "1 | 2")],
        );
    }

    #[test]
    fn the_main_element_is_the_page() {
        let long = "word ".repeat(60);
        let html = format!("<!doctype html><html lang=en><div>menu</div><main><h2>S</h2>{long}</main><div>foot</div>");
        let document = read_bytes("a.html", html.as_bytes());
        assert_eq!(document.text, format!("S\n\n{}", long.trim()));
        assert_eq!(headings(&document), [(2, "S")]);
        assert_eq!(document.metadata["language"], "en");
    }

    #[test]
    fn a_legacy_encoding_is_declared() {
        let html = b"<html><meta charset='iso-8859-2'><p>\xB1\xE6\xEA".as_slice();
        assert_eq!(read_bytes("a.html", html).text, "ąćę");
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let html = format!("<!doctype html>{}deep", "<b><i>".repeat(2000));
        assert_eq!(read_bytes("a.html", html.as_bytes()).text, "deep");
    }
}
