//! Internet messages: headers, the body, and the names of what is attached.

use mail_parser::{Address, Message, MessageParser, MimeHeaders, PartType};
use raglan_core::{BlockKind, Format, ParsedDocument};

use super::{Task, html};
use crate::SkipReason;
use crate::structure::{TextBuilder, paragraphs};

/// How deep messages that are attached to messages are read.
const MAX_ATTACHED: u32 = 4;

pub(super) fn read(bytes: &[u8], task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let message = MessageParser::default().parse(bytes).ok_or_else(|| SkipReason::malformed("not a message"))?;
    let mut out = TextBuilder::new(task.limits);
    for (key, addresses) in [("author", message.from()), ("to", message.to()), ("cc", message.cc())] {
        out.structure.say(key, &addresses.map(written).unwrap_or_default());
    }
    out.structure.say("date", &message.date().map(mail_parser::DateTime::to_rfc3339).unwrap_or_default());
    out.structure.say("message_id", message.message_id().unwrap_or_default());
    write(&message, 1, &mut out, task)?;
    out.structure.title = message.subject().map(str::to_owned);
    Ok(out.finish(Format::Eml))
}

fn write(message: &Message<'_>, depth: u32, out: &mut TextBuilder, task: &Task<'_>) -> Result<(), SkipReason> {
    task.check_time()?;
    let level = u8::try_from(depth).unwrap_or(u8::MAX);
    out.heading(level, message.subject().unwrap_or_default())?;
    let header = [
        ("From", message.from().map(written)),
        ("To", message.to().map(written)),
        ("Cc", message.cc().map(written)),
        ("Date", message.date().map(mail_parser::DateTime::to_rfc3339)),
    ];
    let lines = header.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}", value?)));
    out.block(BlockKind::Paragraph, &lines.collect::<Vec<_>>().join("\n"))?;
    let metadata = (out.structure.title.clone(), out.structure.metadata.clone());
    for part in message.text_bodies() {
        match &part.body {
            PartType::Html(body) => html::write(body, out, task)?,
            PartType::Text(body) => write_plain(body, out)?,
            _ => {}
        }
    }
    (out.structure.title, out.structure.metadata) = metadata;
    for attachment in message.attachments() {
        if let PartType::Message(attached) = &attachment.body {
            if depth < MAX_ATTACHED {
                write(attached, depth + 1, out, task)?;
            }
        } else if let Some(name) = attachment.attachment_name() {
            out.block(BlockKind::ListItem, &format!("Attachment: {name}"))?;
        }
    }
    Ok(())
}

/// Paragraph by paragraph.
pub(super) fn write_plain(body: &str, out: &mut TextBuilder) -> Result<(), SkipReason> {
    let body = body.replace("\r\n", "\n");
    let mut outcome = Ok(());
    paragraphs(&body, 0..body.len(), |span| {
        if outcome.is_ok() {
            outcome = out.block(BlockKind::Paragraph, &body[span]);
        }
    });
    outcome
}

fn written(address: &Address<'_>) -> String {
    let each = address.iter().map(|address| match (address.name(), address.address()) {
        (Some(name), Some(at)) => format!("{name} <{at}>"),
        (name, at) => name.or(at).unwrap_or_default().to_owned(),
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{pieces, read_bytes};

    #[test]
    fn a_message_is_its_headers_body_and_attachments() {
        let message = "From: =?utf-8?q?J=C3=BCrgen?= <j@x.org>\r\nTo: a@b.org\r\nSubject: Plan\r\n\
            Date: Tue, 1 Jul 2025 10:52:37 +0200\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=B\r\n\r\n\
            --B\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            Gr=FC=DFe\r\nan alle\r\n\r\nEnd\r\n--B\r\nContent-Type: application/pdf; name=a.pdf\r\n\
            Content-Disposition: attachment; filename=a.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--B--\r\n";
        let document = read_bytes("a.eml", message.as_bytes());
        assert_eq!(
            pieces(&document),
            [
                ("Heading(1)", "Plan"),
                ("Paragraph", "From: Jürgen <j@x.org>\nTo: a@b.org\nDate: 2025-07-01T10:52:37+02:00"),
                ("Paragraph", "Grüße\nan alle"),
                ("Paragraph", "End"),
                ("ListItem", "Attachment: a.pdf"),
            ]
        );
        assert_eq!(document.title.as_deref(), Some("Plan"));
        assert_eq!(document.metadata["author"], "Jürgen <j@x.org>");
    }
}
