//! Outlook messages: properties in the streams of a compound file.

use std::io::{Cursor, Read};

use cfb::CompoundFile;
use encoding_rs::UTF_16LE;
use raglan_core::{BlockKind, Format, ParsedDocument};

use super::eml::write_plain;
use super::{Task, html};
use crate::structure::TextBuilder;
use crate::{SkipReason, encoding};

// Property tags of the MAPI specification.
const SUBJECT: u16 = 0x0037;
const BODY: u16 = 0x1000;
const HTML: u16 = 0x1013;
const SENDER: u16 = 0x0C1A;
const SENDER_ADDRESS: u16 = 0x5D01;
const DISPLAY_TO: u16 = 0x0E04;
const DISPLAY_CC: u16 = 0x0E03;
const TRANSPORT_HEADERS: u16 = 0x007D;
const MESSAGE_ID: u16 = 0x1035;
const ATTACHMENT_NAME: u16 = 0x3707;
const ATTACHMENT_SHORT_NAME: u16 = 0x3704;

pub(super) fn read(bytes: &[u8], task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let file = CompoundFile::open(Cursor::new(bytes)).map_err(SkipReason::malformed)?;
    let mut message = Properties { file, limit: task.limits.text_bytes };
    let mut out = TextBuilder::new(task.limits);
    let subject = message.text("/", SUBJECT)?.unwrap_or_default();
    let sender = match (message.text("/", SENDER)?, message.text("/", SENDER_ADDRESS)?) {
        (Some(name), Some(at)) if name != at => Some(format!("{name} <{at}>")),
        (name, at) => name.or(at),
    };
    let headers = message.text("/", TRANSPORT_HEADERS)?.unwrap_or_default();
    let date = headers.lines().find_map(|line| line.strip_prefix("Date:")).map(|date| date.trim().to_owned());
    let fields = [
        ("From", "author", sender),
        ("To", "to", message.text("/", DISPLAY_TO)?),
        ("Cc", "cc", message.text("/", DISPLAY_CC)?),
        ("Date", "date", date),
    ];
    let mut lines = Vec::new();
    for (name, key, value) in fields {
        if let Some(value) = value.filter(|value| !value.trim().is_empty()) {
            out.structure.say(key, &value);
            lines.push(format!("{name}: {}", value.trim()));
        }
    }
    if let Some(id) = message.text("/", MESSAGE_ID)? {
        out.structure.say("message_id", id.trim().trim_matches(['<', '>']));
    }
    out.heading(1, &subject)?;
    out.block(BlockKind::Paragraph, &lines.join("\n"))?;
    let metadata = out.structure.metadata.clone();
    match message.text("/", BODY)?.filter(|body| !body.trim().is_empty()) {
        Some(body) => write_plain(&body, &mut out)?,
        None => {
            if let Some(page) = message.html("/")? {
                html::write(&page, &mut out, task)?;
            }
        }
    }
    out.structure.metadata = metadata;
    out.structure.title = Some(subject);
    for folder in message.attachments() {
        let name = message.text(&folder, ATTACHMENT_NAME)?;
        if let Some(name) = name.map_or_else(|| message.text(&folder, ATTACHMENT_SHORT_NAME), |name| Ok(Some(name)))? {
            out.block(BlockKind::ListItem, &format!("Attachment: {}", name.trim()))?;
        }
    }
    Ok(out.finish(Format::Msg))
}

struct Properties<'a> {
    file: CompoundFile<Cursor<&'a [u8]>>,
    limit: u64,
}

impl Properties<'_> {
    /// The content of the property's stream of this type.
    fn stream(&mut self, folder: &str, tag: u16, kind: u16) -> Result<Option<Vec<u8>>, SkipReason> {
        let path = format!("{}/__substg1.0_{tag:04X}{kind:04X}", folder.trim_end_matches('/'));
        if !self.file.is_stream(&path) {
            return Ok(None);
        }
        let stream = self.file.open_stream(&path).map_err(SkipReason::malformed)?;
        let mut bytes = Vec::new();
        stream.take(self.limit + 1).read_to_end(&mut bytes).map_err(SkipReason::malformed)?;
        if bytes.len() as u64 > self.limit {
            return Err(SkipReason::too_large("extracted text", self.limit));
        }
        Ok(Some(bytes))
    }

    /// A property that is text, in UTF-16 or in an old encoding.
    fn text(&mut self, folder: &str, tag: u16) -> Result<Option<String>, SkipReason> {
        if let Some(bytes) = self.stream(folder, tag, 0x001F)? {
            return Ok(Some(UTF_16LE.decode_without_bom_handling(&bytes).0.replace('\0', "")));
        }
        let bytes = self.stream(folder, tag, 0x001E)?;
        Ok(bytes.and_then(|bytes| encoding::decode(bytes, None)).map(|decoded| decoded.text))
    }

    fn html(&mut self, folder: &str) -> Result<Option<String>, SkipReason> {
        let bytes = self.stream(folder, HTML, 0x0102)?;
        let page = bytes.and_then(|bytes| encoding::decode(bytes, None)).map(|decoded| decoded.text);
        page.map_or_else(|| self.text(folder, HTML), |page| Ok(Some(page)))
    }

    /// The folders of what is attached, in order.
    fn attachments(&self) -> Vec<String> {
        let entries = self.file.read_root_storage().filter(cfb::Entry::is_storage);
        let names =
            entries.map(|entry| entry.name().to_owned()).filter(|name| name.starts_with("__attach_version1.0_"));
        let mut folders: Vec<String> = names.map(|name| format!("/{name}")).collect();
        folders.sort();
        folders
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::read::testing::{pieces, read_bytes};

    #[test]
    fn a_message_is_read_from_its_properties() {
        let mut file = CompoundFile::create(Cursor::new(Vec::new())).unwrap();
        let mut put = |path: &str, bytes: &[u8]| file.create_stream(path).unwrap().write_all(bytes).unwrap();
        let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        put("/__properties_version1.0", &[0; 32]);
        put("/__substg1.0_0037001F", &utf_16("Grüße"));
        put("/__substg1.0_0C1A001F", &utf_16("Ann"));
        put("/__substg1.0_1000001E", b"one\r\ntwo\r\n\r\nthree");
        let bytes = file.into_inner().into_inner();
        let document = read_bytes("a.msg", &bytes);
        assert_eq!(
            pieces(&document),
            [("Heading(1)", "Grüße"), ("Paragraph", "From: Ann"), ("Paragraph", "one\ntwo"), ("Paragraph", "three"),]
        );
    }
}
