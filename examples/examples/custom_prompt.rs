//! Answer with a prompt of your own: `cargo run --release --example custom_prompt -- FOLDER QUESTION…`

use std::path::PathBuf;
use std::sync::Arc;

use raglan::generate::{ChatGenerator, GenerateOptions, LanguageModel};
use raglan::model::Products;
use raglan::model::registry::{ModelCache, Silent};
use raglan::{Filter, Library, recipe};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "datasets/fixtures".into()));
    let question = args.collect::<Vec<_>>().join(" ");
    let question = if question.is_empty() { "What is in these files?".to_owned() } else { question };

    let files = ModelCache::new(None, false)?.ensure("smollm2-135m-instruct", &Silent)?;
    let gguf = files.files.values().find(|path| path.extension().is_some_and(|e| e == "gguf"));
    let model = LanguageModel::load(gguf.expect("the model is a GGUF file"), 2, Products::Stored)?;

    // The template is Jinja; it is checked here, before any question.
    let options = GenerateOptions {
        system_prompt: "You are a terse librarian.".into(),
        template: Some("{% for p in passages %}[{{ p.number }}] {{ p.text }}\n\n{% endfor %}{{ question }}".into()),
        max_tokens: 64,
        ..GenerateOptions::default()
    };
    let generator = Arc::new(ChatGenerator::new(Arc::new(model), options)?);

    let library = Library::open(&folder)?;
    let mut print = |text: &str| print!("{text}");
    let answer = library.index().ask(&recipe("ask")?, generator, &question, &Filter::default(), &mut print)?;
    println!();
    for sentence in &answer.sentences {
        let source = sentence.source.map_or("unsupported", |i| answer.sources[i].path.as_str());
        println!("- {} ({source})", sentence.text);
    }
    Ok(())
}
