//! Where in a document a text stands, in a reader's terms.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The place of a text in its document, in the terms of the document's format.
///
/// What a format does not have is left empty: a text file has lines and no pages, a workbook sheets and rows.
/// All numbers count from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locator {
    /// Page of a paginated document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Slide of a presentation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slide: Option<u32>,
    /// Sheet of a workbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sheet: Option<String>,
    /// Row of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u32>,
    /// Line of a plain-text file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Headings above the text, outermost first; in code, the enclosing definitions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headings: Vec<String>,
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.page.map(|n| format!("page {n}")));
        parts.extend(self.slide.map(|n| format!("slide {n}")));
        parts.extend(self.sheet.as_ref().map(|name| format!("sheet {name}")));
        parts.extend(self.row.map(|n| format!("row {n}")));
        parts.extend(self.line.map(|n| format!("line {n}")));
        if !self.headings.is_empty() {
            parts.push(self.headings.join(" › "));
        }
        f.write_str(&parts.join(", "))
    }
}
