//! Answers of a model on a device beside those of the same model on the processor. The device is the emulation of one, or
//! the machine's first where `RAGLAN_CUDA` is set.

use std::path::Path;
use std::sync::Arc;

use raglan_core::{Answer, Context};
use raglan_generate::reuse::KvKeeper;
use raglan_generate::{ChatGenerator, Drafts, Error, GenerateOptions, LanguageModel};
use raglan_kv::{BlockPrecision, CacheLimits, ChunkCache};
use raglan_model::cuda::CudaDevice;
use raglan_model::{AttentionPolicy, Products};

use crate::byte_model;
use crate::reuse::context;

/// The same model on the processor and on a device.
fn both(device: &CudaDevice) -> [Arc<LanguageModel>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes.gguf");
    byte_model::write_heads(&path, 2, 1);
    let on_device = LanguageModel::load_on_device(&path, device, 2, Products::F32).unwrap();
    [Arc::new(LanguageModel::load(&path, 2, Products::F32).unwrap()), Arc::new(on_device)]
}

fn keeper(method: &str, folder: &Path) -> KvKeeper {
    let chunks = ChunkCache::open(Some(folder.to_owned()), CacheLimits::default()).unwrap();
    KvKeeper::new(method.parse().unwrap(), BlockPrecision::F16, Arc::new(chunks), "w")
}

fn generator(model: &Arc<LanguageModel>, drafts: Drafts) -> ChatGenerator {
    let options = GenerateOptions { max_tokens: 12, drafts, ..GenerateOptions::default() };
    ChatGenerator::new(model.clone(), options).unwrap()
}

fn questions() -> [Context; 3] {
    [context("When does it close?", &[0, 2]), context("Who is she?", &[0]), context("When?", &[3, 2, 1])]
}

fn answers(generator: &ChatGenerator) -> Vec<Answer> {
    let answers = generator.answers(&questions(), &mut |_, _| {}).unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

fn texts(answers: Vec<Answer>) -> Vec<String> {
    answers.into_iter().map(|answer| answer.text).collect()
}

#[test]
fn answers_are_those_of_the_processor_with_guesses_and_without() {
    if let Some(device) = &CudaDevice::to_test() {
        let [plain, on_device] = both(device);
        let want = texts(answers(&generator(&plain, Drafts::Off)));
        for drafts in [Drafts::Off, Drafts::TokenRecycling] {
            assert_eq!(texts(answers(&generator(&on_device, drafts))), want, "{drafts:?}");
        }
    }
}

fn ask(generator: &ChatGenerator, question: &str, order: &[usize]) -> Answer {
    generator.answer(&context(question, order), &mut |_| {}).unwrap()
}

#[test]
fn a_prompt_goes_on_from_what_an_earlier_one_began_with() {
    if let Some(device) = &CudaDevice::to_test() {
        let [plain, on_device] = both(device);
        let folder = tempfile::tempdir().unwrap();
        let keeping = |model| generator(model, Drafts::Off).keeping(keeper("prefix", folder.path()));
        let want = |question: &str| ask(&generator(&plain, Drafts::Off), question, &[0, 2]).text;
        let generator = keeping(&on_device);
        let first = ask(&generator, "When does it close?", &[0, 2]);
        assert_eq!(first.text, want("When does it close?"));
        let (computed, reused) = first.kv.map(|kv| (kv.computed_tokens, kv.reused_tokens)).unwrap();
        assert!(computed > 200 && reused == 0);
        assert_eq!(generator.remember().unwrap().blocks, 2);
        // In the same process, and from what was written in another.
        for generator in [generator, keeping(&on_device)] {
            let second = ask(&generator, "When not?", &[0, 2]);
            assert_eq!(second.text, want("When not?"));
            let kv = second.kv.unwrap();
            assert!(kv.reused_tokens > 80 && kv.hits == 2, "{kv:?}");
            assert!(kv.computed_tokens + kv.reused_tokens == second.tokens.prompt, "{kv:?}");
        }
        // The processor's own would differ in the last bits.
        assert_eq!(ask(&keeping(&plain), "When not?", &[0, 2]).kv.unwrap().hits, 0);
    }
}

#[test]
fn blocks_are_turned_to_where_a_prompt_shows_their_passages() {
    if let Some(device) = &CudaDevice::to_test() {
        for method in ["naive", "link=4", "random=0.2"] {
            let [want, got] = both(device).map(|model| {
                let folder = tempfile::tempdir().unwrap();
                let generator = generator(&model, Drafts::Off).keeping(keeper(method, folder.path()));
                ask(&generator, "When does it close?", &[0, 2, 1]);
                assert_eq!(generator.remember().unwrap().blocks, 3);
                ask(&generator, "When does it close?", &[1, 0, 2])
            });
            assert_eq!(got.text, want.text, "{method}");
            let kv = got.kv.unwrap();
            assert!(kv == want.kv.unwrap() && kv.hits == 3 && kv.reused_tokens > 100, "{method}: {kv:?}");
        }
    }
}

#[test]
fn what_a_device_does_not_serve_is_an_error() {
    if let Some(device) = &CudaDevice::to_test() {
        let [_, on_device] = both(device);
        let context = context("When does it close?", &[0, 2, 1]);
        let refused = |generator: &ChatGenerator| {
            let error = generator.answer(&context, &mut |_| {}).unwrap_err();
            assert!(matches!(error, Error::Model(raglan_model::Error::NotOnDevice { .. })), "{error}");
        };
        for method in ["focus=0.1", "blend=0.1", "cache-craft=0.5", "parallel=0.9,0.9"] {
            let folder = tempfile::tempdir().unwrap();
            refused(&generator(&on_device, Drafts::Off).keeping(keeper(method, folder.path())));
        }
        let attention: AttentionPolicy = "quest=64".parse().unwrap();
        let options = GenerateOptions { max_tokens: 4, attention, ..GenerateOptions::default() };
        refused(&ChatGenerator::new(on_device.clone(), options).unwrap());
        let plain = generator(&on_device, Drafts::Off);
        assert!(raglan_core::Generator::attention(&plain, &context, 0, None).is_err());
    }
}
