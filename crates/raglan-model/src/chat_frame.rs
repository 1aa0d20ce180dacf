//! What stands around the words of a user.

use std::path::Path;

use crate::{ChatMessage, ChatRole, Error, LanguageModel, Result};

/// What a model's chat template writes before and behind a text that comes as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatFrame {
    /// The tokens before the text.
    pub before: Vec<u32>,
    /// The tokens behind it, up to where the model goes on.
    pub after: Vec<u32>,
}

impl ChatFrame {
    /// Stands for the text in the messages of a frame.
    pub const MARK: &str = "\u{f8ef}";

    /// The frame of a conversation in which [`MARK`](Self::MARK) stands where the text will, and whose next turn the model
    /// is to go on with from `opening`.
    ///
    /// # Errors
    ///
    /// [`Error::ChatFrame`] when the template does not write the mark once and as it is; what template and tokenizer give.
    pub fn new(model: &LanguageModel, messages: &[ChatMessage], opening: &str) -> Result<Self> {
        let conversation = model.template.render(messages)?;
        let halves = conversation.split_once(Self::MARK).filter(|(_, after)| !after.contains(Self::MARK));
        let (before, after) =
            halves.ok_or_else(|| Error::ChatFrame { path: model.template.path().map(Path::to_owned) })?;
        Ok(Self {
            before: model.tokenizer.encode_prompt(before)?.ids,
            after: model.tokenizer.encode(&format!("{after}{opening}"), false)?.ids,
        })
    }

    /// The frame of a conversation in which the text is all that the user says.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn of_user(model: &LanguageModel) -> Result<Self> {
        Self::new(model, &[ChatMessage::new(ChatRole::User, Self::MARK)], "")
    }

    /// How many tokens it has.
    pub fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// Whether the template writes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
