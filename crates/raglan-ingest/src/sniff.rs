//! What a file is, by its content first and its name second.

use encoding_rs::Encoding;
use raglan_core::{Format, Language};

use crate::SkipReason;
use crate::encoding::{self, Decoded};

/// A file with its format, decoded if it is text.
pub(crate) enum Sniffed {
    /// A package, or something else that its reader takes as bytes.
    Bytes(Format, Vec<u8>),
    /// Text.
    Text(Format, Decoded),
}

/// How much of a text is looked at to tell its format.
const HEAD: usize = 8 << 10;

/// Tells a file's format, and decodes it if it is text.
pub(crate) fn sniff(name: &str, bytes: Vec<u8>) -> Result<Sniffed, SkipReason> {
    let unknown = |what: &str| SkipReason::UnknownFormat { what: what.to_owned() };
    let head = &bytes[..bytes.len().min(HEAD)];
    let extension = extension(name);
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return match package_format(&bytes) {
            Some(format) => Ok(Sniffed::Bytes(format, bytes)),
            // Whoever names it so takes it for one.
            None if matches!(&*extension, "docx" | "pptx" | "xlsx" | "ods" | "epub") => {
                Err(SkipReason::malformed(format!("damaged or not a {}", extension.to_uppercase())))
            }
            None => Err(unknown("application/zip")),
        };
    }
    if bytes.starts_with(b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1") {
        return Ok(Sniffed::Bytes(compound_format(&bytes)?, bytes));
    }
    // A few bytes may come before the header; but text about PDF is no PDF.
    if bytes.starts_with(b"%PDF-")
        || (encoding::is_binary(head) && find(&head[..head.len().min(1024)], b"%PDF-").is_some())
    {
        return Ok(Sniffed::Bytes(Format::Pdf, bytes));
    }
    if looks_like_mail(head, &extension) {
        return Ok(Sniffed::Bytes(Format::Eml, bytes));
    }
    let kind = encoding::binary_kind(&bytes);
    let declared = declared_encoding(head);
    let decoded = encoding::decode(bytes, declared).ok_or_else(|| unknown(kind.unwrap_or("binary content")))?;
    Ok(Sniffed::Text(text_format(&extension, &decoded.text), decoded))
}

fn extension(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

/// Where `needle` first occurs.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The format of a zip package by the names in its directory, read without unpacking anything.
fn package_format(bytes: &[u8]) -> Option<Format> {
    for name in zip_names(bytes).take(10_000) {
        match name {
            b"word/document.xml" | b"word/document2.xml" => return Some(Format::Docx),
            b"ppt/presentation.xml" => return Some(Format::Pptx),
            b"xl/workbook.xml" | b"xl/workbook.bin" => return Some(Format::Xlsx),
            b"META-INF/container.xml" => return Some(Format::Epub),
            _ => {}
        }
    }
    let head = &bytes[..bytes.len().min(512)];
    find(head, b"application/vnd.oasis.opendocument.spreadsheet").map(|_| Format::Xlsx)
}

/// The names in a zip file's central directory; none when it is damaged.
fn zip_names(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    let tail = bytes.len().saturating_sub(66_000); // The end record, with a comment of up to 64 KiB behind it.
    let end = bytes[tail..].windows(4).rposition(|window| window == b"PK\x05\x06").map(|at| tail + at);
    let mut at = end.and_then(|end| u32_at(end + 16));
    std::iter::from_fn(move || {
        let entry = at?;
        if bytes.get(entry..entry.checked_add(4)?)? != b"PK\x01\x02" {
            return None;
        }
        let (name, extra, comment) = (u16_at(entry + 28)?, u16_at(entry + 30)?, u16_at(entry + 32)?);
        at = Some(entry + 46 + name + extra + comment);
        bytes.get(entry + 46..entry + 46 + name)
    })
}

/// The format of an OLE compound file by the names of its streams: directory entries lie at multiples of 128 bytes.
fn compound_format(bytes: &[u8]) -> Result<Format, SkipReason> {
    let unknown = |what: &str| Err(SkipReason::UnknownFormat { what: what.to_owned() });
    let utf_16 = |name: &str| name.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let has = |name: &str| {
        let mut entry = utf_16(name);
        entry.extend([0, 0]);
        bytes.chunks_exact(128).any(|chunk| chunk.starts_with(&entry))
    };
    if has("EncryptedPackage") {
        Err(SkipReason::Encrypted)
    } else if has("__properties_version1.0") {
        Ok(Format::Msg)
    } else if has("Workbook") || has("Book") {
        Ok(Format::Xlsx)
    } else if has("WordDocument") {
        unknown("application/msword")
    } else if has("PowerPoint Document") {
        unknown("application/vnd.ms-powerpoint")
    } else {
        unknown("OLE compound file")
    }
}

/// Whether the text begins with the header of an Internet message.
fn looks_like_mail(head: &[u8], extension: &str) -> bool {
    if !matches!(extension, "" | "eml" | "txt" | "mht" | "mhtml" | "mail" | "msg") {
        return false;
    }
    let mut known = 0;
    for (at, line) in head.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || (at > 0 && matches!(line[0], b' ' | b'\t')) {
            if line.is_empty() {
                break;
            }
            continue;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            if at == 0 && line.starts_with(b"From ") {
                continue;
            }
            return false;
        };
        let field = line[..colon].to_ascii_lowercase();
        if field.is_empty() || !field.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return false;
        }
        known += usize::from(matches!(
            &field[..],
            b"from" | b"to" | b"subject" | b"date" | b"message-id" | b"received" | b"mime-version" | b"return-path"
        ));
    }
    known >= if extension == "eml" || extension.starts_with("mh") { 1 } else { 3 }
}

/// The encoding that HTML or XML names for itself.
fn declared_encoding(head: &[u8]) -> Option<&'static Encoding> {
    let head = &head[..head.len().min(2048)];
    let lower = head.to_ascii_lowercase();
    let at = find(&lower, b"charset=")
        .map(|at| at + 8)
        .or_else(|| lower.starts_with(b"<?xml").then(|| find(&lower, b"encoding=").map(|at| at + 9)).flatten())?;
    let label = lower[at..].strip_prefix(b"\"").or(lower[at..].strip_prefix(b"'")).unwrap_or(&lower[at..]);
    let end = label.iter().position(|byte| !byte.is_ascii_alphanumeric() && !b"-_".contains(byte));
    Encoding::for_label(&label[..end.unwrap_or(label.len())])
}

/// The format of a text: by its look where that is plain, else by its name.
fn text_format(extension: &str, text: &str) -> Format {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut end = text.len().min(HEAD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let head = &text[..end];
    let trimmed = head.trim_start();
    let code = |language| Format::Code(language);
    match extension {
        "md" | "markdown" | "mkd" | "mdown" | "mdx" => return Format::Markdown,
        "rst" | "rest" => return Format::ReStructuredText,
        "csv" => return Format::Csv,
        "tsv" | "tab" => return Format::Tsv,
        "jsonl" | "ndjson" => return Format::JsonLines,
        "json" | "ipynb" | "geojson" => return json_format(text),
        "rs" => return code(Language::Rust),
        "py" | "pyi" | "pyw" => return code(Language::Python),
        "js" | "mjs" | "cjs" | "jsx" => return code(Language::JavaScript),
        "ts" | "mts" | "cts" if !trimmed.starts_with("<?xml") => return code(Language::TypeScript),
        "tsx" => return code(Language::Tsx),
        "go" => return code(Language::Go),
        "c" => return code(Language::C),
        "cc" | "cpp" | "cxx" | "c++" | "hpp" | "hh" | "hxx" | "ipp" | "inl" => return code(Language::Cpp),
        "java" => return code(Language::Java),
        "h" => {
            let cpp = ["class ", "namespace ", "template", "using ", "public:"];
            let is_cpp = text.lines().any(|line| cpp.iter().any(|word| line.starts_with(word)));
            return code(if is_cpp { Language::Cpp } else { Language::C });
        }
        _ => {}
    }
    if looks_like_html(trimmed, matches!(extension, "html" | "htm" | "xhtml" | "xht" | "shtml")) {
        return Format::Html;
    }
    if extension.is_empty() {
        let first = trimmed.lines().next().unwrap_or_default();
        if first.starts_with("#!") && first.contains("python") {
            return code(Language::Python);
        }
        if first.starts_with("#!") && first.contains("node") {
            return code(Language::JavaScript);
        }
        if trimmed.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
            return Format::Json;
        }
    }
    if matches!(extension, "txt" | "") && looks_like_rst(head) {
        return Format::ReStructuredText;
    }
    Format::PlainText
}

/// JSON, or JSON lines under the name of JSON.
fn json_format(text: &str) -> Format {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let whole = |line: &str| line.len() < 1 << 20 && serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok();
    match (lines.next(), lines.next()) {
        (Some(first), Some(second)) if first.starts_with('{') && whole(first) && whole(second) => Format::JsonLines,
        _ => Format::Json,
    }
}

fn looks_like_html(trimmed: &str, named_so: bool) -> bool {
    let end = (0..=trimmed.len().min(1024)).rev().find(|&at| trimmed.is_char_boundary(at)).unwrap_or(0);
    let head = trimmed[..end].to_ascii_lowercase();
    let begins = |head: &str| head.starts_with("<!doctype html") || head.starts_with("<html");
    if begins(&head) {
        return true;
    }
    if !head.starts_with('<') {
        return named_so && ["<p", "<div", "<body", "<h1", "<a ", "<br"].iter().any(|tag| head.contains(tag));
    }
    named_so || ["<!doctype html", "<html"].iter().any(|tag| head.contains(tag))
}

/// Directives, or titles that are underlined, with the double colons and backquotes of reStructuredText.
fn looks_like_rst(head: &str) -> bool {
    let directives = head.lines().filter(|line| {
        let Some(rest) = line.trim_start().strip_prefix(".. ") else { return false };
        rest.split_once("::").is_some_and(|(name, _)| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_:".contains(&byte))
        })
    });
    let roles = head.matches(":`").count();
    directives.count() + roles >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, content: &[u8], format: &str) {
        let found = match sniff(name, content.to_vec()) {
            Ok(Sniffed::Bytes(format, _) | Sniffed::Text(format, _)) => format.name().to_owned(),
            Err(reason) => reason.to_string(),
        };
        assert_eq!(found, format, "{name}");
    }

    #[test]
    fn content_counts_for_more_than_the_name() {
        check("report.txt", b"%PDF-1.4\n...", "pdf");
        check("page.txt", b"\n<!DOCTYPE html>\n<title>x</title>", "html");
        check("note.pdf", b"just words", "text");
        check("note.html", b"just words", "text");
        check("image.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no reader for image/png");
        check("letter", b"From: a@b.c\r\nTo: d@e.f\r\nSubject: x\r\n\r\nHello", "eml");
        check("doc", b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "no reader for OLE compound file");
        check("things", b"{\"a\": [1, 2]}", "json");
        check("notes.txt", b"See :class:`A` and :func:`b`.\n", "rst");
    }

    #[test]
    fn names_tell_text_formats_apart() {
        check("a.MD", b"# A", "markdown");
        check("a.json", b"{\"a\": 1}\n{\"a\": 2}\n", "jsonl");
        check("a.h", b"int f(void);\n", "c");
        check("a.h", b"namespace n {\n}\n", "cpp");
        check("run", b"#!/usr/bin/env python3\nprint(1)\n", "python");
        check("Makefile", b"all:\n\tcc a.c\n", "text");
        check("empty", b"", "text");
    }
}
