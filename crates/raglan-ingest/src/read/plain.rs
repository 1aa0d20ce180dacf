//! Plain text: paragraphs are what empty lines part.

use raglan_core::{BlockKind, Format, ParsedDocument};

use crate::structure::Structure;

pub(super) fn read(format: Format, text: String) -> ParsedDocument {
    let rest = if matches!(format, Format::Code(_)) { BlockKind::Code } else { BlockKind::Paragraph };
    Structure::default().into_document(format, text, rest)
}
