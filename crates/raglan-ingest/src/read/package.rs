//! Zip packages of XML parts, with every unpacked byte counted.

use std::io::{Cursor, Read};

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use zip::ZipArchive;
use zip::result::ZipError;

use super::Task;
use crate::structure::TextBuilder;
use crate::{Limits, SkipReason, encoding};

/// A package whose parts are unpacked on demand, all together up to a limit.
pub(super) struct Package<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    limit: u64,
    left: u64,
}

impl<'a> Package<'a> {
    pub fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, SkipReason> {
        let archive = ZipArchive::new(Cursor::new(bytes)).map_err(reason)?;
        let limit = limits.unpacked_bytes();
        Ok(Self { archive, limit, left: limit })
    }

    /// The part of this name; `None` when there is none.
    pub fn part(&mut self, name: &str) -> Result<Option<Vec<u8>>, SkipReason> {
        let part = match self.archive.by_name(name.trim_start_matches('/')) {
            Ok(part) => part,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(reason(error)),
        };
        let mut bytes = Vec::new();
        part.take(self.left + 1).read_to_end(&mut bytes).map_err(SkipReason::malformed)?;
        if bytes.len() as u64 > self.left {
            return Err(SkipReason::too_large("unpacked content", self.limit));
        }
        self.left -= bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// The part of this name as text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, SkipReason> {
        let Some(bytes) = self.part(name)? else { return Ok(None) };
        let decoded = encoding::decode(bytes, None);
        decoded.map(|decoded| Some(decoded.text)).ok_or_else(|| SkipReason::malformed(format!("`{name}` is no text")))
    }

    /// The part of this name, without which the package makes no sense.
    pub fn required(&mut self, name: &str) -> Result<String, SkipReason> {
        self.text(name)?.ok_or_else(|| SkipReason::malformed(format!("`{name}` is missing")))
    }

    /// The targets of a part's relationships by their ids, as names of parts.
    pub fn relationships(&mut self, part: &str) -> Result<Vec<Relationship>, SkipReason> {
        let (folder, file) = part.rsplit_once('/').unwrap_or(("", part));
        let name = format!("{folder}/_rels/{file}.rels");
        let Some(xml) = self.text(&name)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        walk(&xml, |node| {
            if let Xml::Open("Relationship", element) = node {
                let target = attribute(element, "Target").unwrap_or_default();
                found.push(Relationship {
                    id: attribute(element, "Id").unwrap_or_default(),
                    kind: attribute(element, "Type").unwrap_or_default(),
                    target: resolve(folder, &target),
                });
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Unpacks everything once to nowhere, so that a library that unpacks without a limit meets none too large.
    pub fn measure(&mut self, task: &Task<'_>) -> Result<(), SkipReason> {
        for part_idx in 0..self.archive.len() {
            task.check_time()?;
            let part = self.archive.by_index(part_idx).map_err(reason)?;
            let n =
                std::io::copy(&mut part.take(self.left + 1), &mut std::io::sink()).map_err(SkipReason::malformed)?;
            self.left =
                self.left.checked_sub(n).ok_or_else(|| SkipReason::too_large("unpacked content", self.limit))?;
        }
        Ok(())
    }

    /// Whether any part's name begins so.
    pub fn has(&self, prefix: &str) -> bool {
        self.archive.file_names_raw().any(|name| name.starts_with(prefix.as_bytes()))
    }
}

pub(super) struct Relationship {
    pub id: String,
    pub kind: String,
    pub target: String,
}

/// The name of the part that `target` means in a part of `folder`.
pub(super) fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("/")
}

fn reason(error: ZipError) -> SkipReason {
    match error {
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) | ZipError::InvalidPassword => SkipReason::Encrypted,
        error => SkipReason::malformed(error),
    }
}

/// A piece of XML; names are without their prefix.
pub(super) enum Xml<'a> {
    Open(&'a str, &'a BytesStart<'a>),
    Close(&'a str),
    Text(&'a str),
}

/// Calls `each` with the elements and texts of some XML in order; an empty element opens and closes.
///
/// XML that breaks off or is not well formed is read as far as it goes.
pub(super) fn walk(xml: &str, mut each: impl FnMut(Xml<'_>) -> Result<(), SkipReason>) -> Result<(), SkipReason> {
    let mut reader = Reader::from_str(xml.strip_prefix('\u{FEFF}').unwrap_or(xml));
    reader.config_mut().check_end_names = false;
    reader.config_mut().allow_unmatched_ends = true;
    loop {
        match reader.read_event() {
            Ok(Event::Start(element)) => each(Xml::Open(local(element.name().as_ref()), &element))?,
            Ok(Event::Empty(element)) => {
                let name = element.name();
                each(Xml::Open(local(name.as_ref()), &element))?;
                each(Xml::Close(local(name.as_ref())))?;
            }
            Ok(Event::End(element)) => each(Xml::Close(local(element.name().as_ref())))?,
            Ok(Event::Text(text)) => each(Xml::Text(&text.xml_content(XmlVersion::Implicit1_0)))?,
            Ok(Event::CData(text)) => each(Xml::Text(&text.xml_content(XmlVersion::Implicit1_0)))?,
            Ok(Event::GeneralRef(reference)) => {
                if let Ok(Some(character)) = reference.resolve_char_ref() {
                    each(Xml::Text(character.encode_utf8(&mut [0; 4])))?;
                } else if let Some(text) = quick_xml::escape::resolve_predefined_entity(&reference) {
                    each(Xml::Text(text))?;
                }
            }
            Ok(Event::Eof) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}

fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// The attribute of this name, with or without a prefix.
pub(super) fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = element.attributes().with_checks(false).flatten().find(|found| local(found.key.as_ref()) == name)?;
    Some(found.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned())
}

/// What an Office document says of itself.
pub(super) fn office_properties(package: &mut Package<'_>, out: &mut TextBuilder) -> Result<(), SkipReason> {
    let Some(xml) = package.text("docProps/core.xml")? else { return Ok(()) };
    dublin_core(&xml, out)
}

/// Dublin Core elements, as Office documents and EPUB have them.
pub(super) fn dublin_core(xml: &str, out: &mut TextBuilder) -> Result<(), SkipReason> {
    let mut text = String::new();
    walk(xml, |node| {
        match node {
            Xml::Open(..) => text.clear(),
            Xml::Text(piece) => text.push_str(piece),
            Xml::Close("title") => {
                let title = std::mem::take(&mut text);
                if !title.trim().is_empty() {
                    out.structure.title.get_or_insert(title);
                }
            }
            Xml::Close(name) => {
                let key = match name {
                    "creator" => "author",
                    "language" | "publisher" | "subject" | "description" | "keywords" | "date" => name,
                    "created" | "modified" => name,
                    _ => return Ok(()),
                };
                if !out.structure.metadata.contains_key(key) {
                    out.structure.say(key, &text);
                }
                text.clear();
            }
        }
        Ok(())
    })
}
