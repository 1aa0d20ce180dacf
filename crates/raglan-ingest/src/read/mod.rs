//! Readers: one module a format, each from a file's content to a document.

mod code;
mod delimited;
mod docx;
mod eml;
mod epub;
mod html;
mod json;
mod markdown;
mod msg;
mod package;
mod pdf;
mod plain;
mod pptx;
mod rst;
mod xlsx;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use raglan_core::{Format, ParsedDocument};

use crate::encoding::Decoded;
use crate::sniff::{Sniffed, sniff};
use crate::{Limits, SkipReason};

/// Stack of the thread on which a reader runs: parsers of others recurse.
const STACK: usize = 64 << 20;

/// What a reader may use and must respect.
pub(crate) struct Task<'a> {
    pub limits: &'a Limits,
    /// When the file's time is over.
    pub deadline: Instant,
}

impl<'a> Task<'a> {
    pub fn new(limits: &'a Limits) -> Self {
        Self { limits, deadline: Instant::now() + limits.time }
    }

    /// Fails when the file's time is over; readers ask now and then.
    pub fn check_time(&self) -> Result<(), SkipReason> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(timed_out(self.limits)) }
    }
}

pub(crate) fn timed_out(limits: &Limits) -> SkipReason {
    SkipReason::TimedOut { limit_ms: u64::try_from(limits.time.as_millis()).unwrap_or(u64::MAX) }
}

/// Reads a file's content in this process; `name` hints at the format where the content does not tell it.
///
/// A reader that panics or does not end costs one [`SkipReason`]; the thread of one that does not end stays behind.
/// Memory is not bounded beyond what the readers bound themselves: [`ReaderPool`](crate::ReaderPool) does that.
pub fn read_bytes(name: &str, bytes: Vec<u8>, limits: &Limits) -> Result<ParsedDocument, SkipReason> {
    if bytes.len() as u64 > limits.file_bytes {
        return Err(SkipReason::too_large("file", limits.file_bytes));
    }
    let sniffed = sniff(name, bytes)?;
    if is_risky(sniffed.format()) { read_with_time_limit(sniffed, limits) } else { read_guarded(sniffed, limits) }
}

/// Whether a format's reader is complex enough to be kept apart.
pub(crate) fn is_risky(format: Format) -> bool {
    !format.is_plain_text()
}

impl Sniffed {
    pub fn format(&self) -> Format {
        match self {
            Self::Bytes(format, _) | Self::Text(format, _) => *format,
        }
    }
}

/// Runs the reader on a thread of its own and gives it up when its time is over.
pub(crate) fn read_with_time_limit(sniffed: Sniffed, limits: &Limits) -> Result<ParsedDocument, SkipReason> {
    let (send, receive) = mpsc::sync_channel(1);
    let (limits, allowed) = (*limits, limits.time);
    let reader = move || {
        // The receiver may have given up.
        let _ = send.send(read_guarded(sniffed, &limits));
    };
    let spawned = thread::Builder::new().name("raglan-reader".to_owned()).stack_size(STACK).spawn(reader);
    if let Err(error) = spawned {
        return Err(SkipReason::Crashed { problem: format!("no thread to read on: {error}") });
    }
    match receive.recv_timeout(allowed) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(timed_out(&limits)),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(SkipReason::Crashed { problem: "the reader's thread ended".to_owned() })
        }
    }
}

/// Runs the reader on this thread; a panic becomes a reason.
pub(crate) fn read_guarded(sniffed: Sniffed, limits: &Limits) -> Result<ParsedDocument, SkipReason> {
    match panic::catch_unwind(AssertUnwindSafe(|| read(sniffed, &Task::new(limits)))) {
        Ok(outcome) => outcome,
        Err(payload) => Err(SkipReason::Crashed { problem: panic_message(payload.as_ref()) }),
    }
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}

fn read(sniffed: Sniffed, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let document = match sniffed {
        Sniffed::Bytes(format, bytes) => read_package(format, bytes, task)?,
        Sniffed::Text(format, Decoded { text, encoding }) => {
            if text.len() as u64 > task.limits.text_bytes && format.is_plain_text() {
                return Err(SkipReason::too_large("extracted text", task.limits.text_bytes));
            }
            let mut document = read_text(format, text, task)?;
            document.encoding = Some(encoding.name().to_owned());
            document
        }
    };
    debug_assert_eq!(crate::check(&document), Ok(()), "the {} reader keeps its promise", document.format);
    Ok(document)
}

fn read_text(format: Format, text: String, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    match format {
        Format::Markdown => markdown::read(text, task),
        Format::ReStructuredText => rst::read(text, task),
        Format::Csv | Format::Tsv => delimited::read(format, text, task),
        Format::Json => json::read(text, task),
        Format::JsonLines => json::read_lines(text, task),
        Format::Html => html::read(&text, task),
        Format::Code(language) => code::read(language, text, task),
        _ => Ok(plain::read(format, text)),
    }
}

fn read_package(format: Format, bytes: Vec<u8>, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    match format {
        Format::Pdf => pdf::read(&bytes, task),
        Format::Docx => docx::read(&bytes, task),
        Format::Pptx => pptx::read(&bytes, task),
        Format::Xlsx => xlsx::read(&bytes, task),
        Format::Epub => epub::read(&bytes, task),
        Format::Eml => eml::read(&bytes, task),
        Format::Msg => msg::read(&bytes, task),
        text => Err(SkipReason::malformed(format!("{text} content that was not decoded"))),
    }
}

/// The version of each reader: raised whenever the text or structure that it gives changes.
fn version(format: Format) -> u32 {
    let _ = format;
    1
}

/// Name and version of a format's reader, such as `pdf/1`.
pub(crate) fn reader_version(format: Format) -> String {
    format!("{format}/{}", version(format))
}

/// The readers with their versions, by format, such as `pdf` → `pdf/1`: equal versions give equal documents.
pub fn reader_versions() -> BTreeMap<String, String> {
    Format::all().map(|format| (format.to_string(), reader_version(format))).collect()
}

#[cfg(test)]
mod testing {
    //! What the readers' tests share.

    use std::io::{Cursor, Write};

    use raglan_core::{MarkKind, ParsedDocument};

    use crate::Limits;

    #[track_caller]
    pub fn read_bytes(name: &str, bytes: &[u8]) -> ParsedDocument {
        let document = super::read_bytes(name, bytes.to_vec(), &Limits::default()).expect("the file is read");
        assert_eq!(crate::check(&document), Ok(()));
        document
    }

    /// Reads a plain-text file: its text must come back byte for byte.
    #[track_caller]
    pub fn read_text(name: &str, text: &str) -> ParsedDocument {
        let document = read_bytes(name, text.as_bytes());
        assert!(document.format.is_plain_text(), "{}", document.format);
        assert_eq!(document.text, text);
        document
    }

    /// A zip package of these parts.
    pub fn zip(parts: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in parts {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// The blocks: kind and text.
    pub fn pieces(document: &ParsedDocument) -> Vec<(&'static str, &str)> {
        let name = |kind| -> &'static str { format!("{kind:?}").leak() };
        document.blocks.iter().map(|block| (name(block.kind), &document.text[block.span.clone()])).collect()
    }

    /// The headings: level and title.
    pub fn headings(document: &ParsedDocument) -> Vec<(u8, &str)> {
        let heading = |kind| match kind {
            &MarkKind::Heading { level, ref title } => Some((level, title.as_str())),
            _ => None,
        };
        document.marks.iter().filter_map(|mark| heading(&mark.kind)).collect()
    }
}
