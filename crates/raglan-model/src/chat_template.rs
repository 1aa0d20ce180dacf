//! Chat templates: how a conversation becomes the text that a model was trained on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde::Serialize;
use serde_json::Value;

use crate::gguf::GgufFile;
use crate::json_file::JsonFile;
use crate::{Error, Result};

/// The form that files without a template are given; most instruction-tuned models understand it.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
    '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The form that Gemma was trained on, for files that leave it out. Standing instructions go before the first turn.
const GEMMA: &str = "{{ bos_token }}{% set ns = namespace(standing='') %}{% for message in messages %}\
    {% if message['role'] == 'system' %}{% set ns.standing = message['content'] + '\n\n' %}{% else %}\
    {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' + ns.standing + \
    message['content'] | trim + '<end_of_turn>\n' }}{% set ns.standing = '' %}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/// How much work a template may do: some thousand times what those of the common models need.
const FUEL: u64 = 10_000_000;

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: ChatRole,
    /// What is said.
    pub content: String,
}

/// Who speaks in a [`ChatMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatRole {
    /// Standing instructions.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

impl ChatMessage {
    /// A turn of the given speaker.
    pub fn new(role: ChatRole, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// A model's own template in the Jinja language.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos: String,
    eos: String,
    is_own: bool,
    /// The model that it is of, if it is one's.
    path: Option<PathBuf>,
}

impl ChatTemplate {
    /// The template that a GGUF file carries. If it has none: Gemma's if there are tokens for its turns, else ChatML.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] when the template is not sound.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
        let default = || if tokens.iter().any(|token| token == "<start_of_turn>") { GEMMA } else { CHATML };
        let own = file.text("tokenizer.chat_template")?;
        let token = |key: &str| {
            let id = file.u32(key)?.and_then(|id| tokens.get(id as usize));
            Ok::<_, Error>(id.cloned().unwrap_or_default())
        };
        let (bos, eos) = (token("tokenizer.ggml.bos_token_id")?, token("tokenizer.ggml.eos_token_id")?);
        let source = own.unwrap_or_else(default).to_owned();
        Self::of(Some(file.path().to_owned()), source, [bos, eos], own.is_some())
    }

    /// The template of a folder of a Hugging Face repository: `chat_template.jinja`, or what `tokenizer_config.json`
    /// or `chat_template.json` name as `chat_template`, of several the one called `default`; else as for
    /// [`from_gguf`](Self::from_gguf).
    ///
    /// # Errors
    ///
    /// [`Error::Template`] when the template is not sound, [`Error::Malformed`] when a file is not, [`Error::Io`].
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let config = JsonFile::open_if_there(&folder.join("tokenizer_config.json"))?;
        let own = folder.join("chat_template.jinja");
        let mut source = None;
        if own.exists() {
            source = Some(std::fs::read_to_string(&own).map_err(|source| Error::Io { path: own, source })?);
        }
        for file in [config.clone(), JsonFile::open_if_there(&folder.join("chat_template.json"))?] {
            if let (None, Some(file)) = (&source, &file) {
                source = named_template(file)?;
            }
        }
        let token = |key: &str| config.as_ref().and_then(|config| special_token(config, key)).unwrap_or_default();
        let added = config.as_ref().and_then(|config| config.value("added_tokens_decoder")?.as_object());
        let is_turn = |token: &Value| token["content"] == "<start_of_turn>";
        let default = if added.is_some_and(|added| added.values().any(is_turn)) { GEMMA } else { CHATML };
        let is_own = source.is_some();
        let source = source.unwrap_or_else(|| default.to_owned());
        Self::of(Some(folder.to_owned()), source, [token("bos_token"), token("eos_token")], is_own)
    }

    /// A template by its source; `bos` and `eos` are the texts it knows as `bos_token` and `eos_token`.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] when the source is not sound.
    pub fn new(source: impl Into<String>, bos: impl Into<String>, eos: impl Into<String>) -> Result<Self> {
        Self::of(None, source.into(), [bos.into(), eos.into()], true)
    }

    fn of(path: Option<PathBuf>, source: String, [bos, eos]: [String; 2], is_own: bool) -> Result<Self> {
        match environment(source) {
            Ok(environment) => Ok(Self { environment: Arc::new(environment), bos, eos, is_own, path }),
            Err(source) => Err(Error::Template { path, source }),
        }
    }

    /// The model's file or folder, if it is one's.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether the model brought it along; models without one are seldom made for conversation.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// The conversation as text, with the opening of the model's next turn.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] when the template refuses it, such as for a role that the model does not know.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String> {
        let template = self.environment.get_template("chat");
        let rendered = template.and_then(|template| {
            template.render(context! {
                messages => Serde(messages),
                add_generation_prompt => true,
                bos_token => self.bos.clone(),
                eos_token => self.eos.clone(),
            })
        });
        rendered.map_err(|source| Error::Template { path: self.path.clone(), source })
    }
}

/// What templates are written in, with the template `chat`.
fn environment(source: String) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    // Whitespace as the templates were written for: that of Hugging Face's `apply_chat_template`.
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_template_owned("chat", source)?;
    Ok(environment)
}

/// The template of a file of settings.
fn named_template(file: &JsonFile) -> Result<Option<String>> {
    let Some(Value::Array(templates)) = file.value("chat_template") else {
        return Ok(file.text("chat_template")?.map(str::to_owned));
    };
    let default = templates.iter().find(|template| template["name"] == "default").or(templates.first());
    let source = default.and_then(|template| template["template"].as_str());
    source.map(|source| Some(source.to_owned())).ok_or_else(|| file.malformed("`chat_template` names no template"))
}

/// A special token's text, which is an entry itself or part of one.
fn special_token(file: &JsonFile, key: &str) -> Option<String> {
    let entry = file.value(key)?;
    entry.as_str().or_else(|| entry["content"].as_str()).map(str::to_owned)
}

/// The local date and time in the given form, as Python's `strftime` gives it.
fn strftime_now(form: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(form, &jiff::Zoned::now())
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_of_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let write = |source: &str| std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
        let place = format!("`{}`: chat template: ", folder.path().display());
        write("{% for");
        assert!(ChatTemplate::from_folder(folder.path()).unwrap_err().to_string().starts_with(&place));
        write("{{ raise_exception('no') }}");
        let refused = ChatTemplate::from_folder(folder.path()).unwrap().render(&[]).unwrap_err();
        assert!(refused.to_string().starts_with(&place), "{refused}");
    }

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
        let messages = [ChatMessage::new(ChatRole::System, "Be brief."), ChatMessage::new(ChatRole::User, " Hi ")];
        assert_eq!(template.render(&messages).unwrap(), expected);
    }

    #[test]
    fn chatml_ends_with_the_opening_of_the_answer() {
        check(
            CHATML,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n",
        );
    }

    #[test]
    fn gemma_hears_standing_instructions_in_the_first_turn() {
        check(GEMMA, "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n");
    }

    #[test]
    fn a_folder_names_its_template_in_one_of_four_ways() {
        let folder = tempfile::tempdir().unwrap();
        let render = || ChatTemplate::from_folder(folder.path()).unwrap().render(&[]).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(render(), "<|im_start|>assistant\n");
        write("tokenizer_config.json", r#"{"added_tokens_decoder": {"5": {"content": "<start_of_turn>"}}}"#);
        assert_eq!(render(), "<start_of_turn>model\n");
        assert!(!ChatTemplate::from_folder(folder.path()).unwrap().is_own());
        write("chat_template.json", r#"{"chat_template": "json"}"#);
        assert_eq!(render(), "json");
        assert!(ChatTemplate::from_folder(folder.path()).unwrap().is_own());
        let list =
            r#"[{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}!"}]"#;
        write("tokenizer_config.json", &format!(r#"{{"chat_template": {list}, "bos_token": {{"content": "<s>"}}}}"#));
        assert_eq!(render(), "<s>!");
        write("tokenizer_config.json", r#"{"chat_template": "{{ eos_token }}", "eos_token": "</s>"}"#);
        assert_eq!(render(), "</s>");
        write("chat_template.jinja", "own");
        assert_eq!(render(), "own");
        write("tokenizer_config.json", r#"{"chat_template": 3}"#);
        std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        assert!(matches!(ChatTemplate::from_folder(folder.path()), Err(Error::Malformed { .. })));
    }

    #[test]
    fn blocks_leave_no_blank_lines_and_strings_have_python_methods() {
        let source = "{{ bos_token }}\n{% for m in messages %}\n  {% if m.role == 'user' %}\n\
                      {{ m['content'].strip().upper() }}\n{% endif %}\n{% endfor %}\n";
        check(source, "<s>\nHI\n");
    }

    #[test]
    fn loops_can_be_left_and_values_written_as_json() {
        check("{% for m in messages %}{{ m.content | tojson }}{% break %}{% endfor %}", "\"Be brief.\"");
    }

    #[test]
    fn the_year_is_the_present_one() {
        let template = ChatTemplate::new("{{ strftime_now('%Y') }}", "", "").unwrap();
        assert!(template.render(&[]).unwrap().parse::<u32>().unwrap() >= 2024);
    }

    #[test]
    fn a_template_can_refuse_and_cannot_run_for_ever() {
        let refusing = ChatTemplate::new("{{ raise_exception('no system role') }}", "", "").unwrap();
        assert!(refusing.render(&[]).unwrap_err().to_string().contains("no system role"));
        let endless =
            ChatTemplate::new("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "", "");
        assert!(matches!(endless.unwrap().render(&[]), Err(Error::Template { .. })));
        assert!(matches!(ChatTemplate::new("{% for", "", ""), Err(Error::Template { .. })));
    }
}
