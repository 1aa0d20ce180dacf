//! Policies of attention to long prompts, on small models with random weights.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use raglan_kv::KvCache;
use raglan_model::{
    Attending, AttentionPolicy, DecoderModel, Error, ForwardRows, ForwardSequence, KeySelection, Products, QueryRecord,
    Result, Want,
};

use crate::small_model::{CONTEXT, SmallModel, VOCAB, distance, prompt};

fn load(family: &'static str, products: Products) -> (tempfile::TempDir, DecoderModel) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    SmallModel::new(family).write_gguf(&path, GgmlDType::F32);
    let model = DecoderModel::load(path, 2, products).unwrap();
    (folder, model)
}

/// Reads tokens behind a cache and gives the logits after the last.
fn read(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32], attending: Attending<'_>) -> Result<Vec<f32>> {
    let (first, next) = (cache.len(), cache.next_position());
    let slots: Vec<usize> = (first..first + tokens.len()).collect();
    let positions: Vec<u32> = (next..).take(tokens.len()).collect();
    let rows = ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
    let want = Want { logits: &[tokens.len() - 1], ..Want::default() };
    Ok(model.forward(&mut [ForwardSequence { rows, cache, want, attending }])?.remove(0).logits)
}

/// Reads a prompt in slices of this length and writes some tokens by a policy: the logits after each of these.
fn written(model: &DecoderModel, policy: AttentionPolicy, n: usize, slice: usize) -> (Vec<Vec<f32>>, KeySelection) {
    let tokens = prompt(n as u32 + 20);
    let (mut cache, mut record) = (model.cache(), QueryRecord::new(model.config()));
    for slice in tokens[..n].chunks(slice) {
        read(model, &mut cache, slice, Attending::Observed(&mut record)).unwrap();
    }
    let mut selection = KeySelection::begin(model, policy, &cache, &record).unwrap();
    let logits = tokens[n..]
        .iter()
        .map(|&token| read(model, &mut cache, &[token], Attending::Selected(&mut selection)).unwrap())
        .collect();
    (logits, selection)
}

fn policies(budget: &str) -> Vec<AttentionPolicy> {
    AttentionPolicy::NAMES.iter().map(|name| format!("{name}={budget}").parse().unwrap()).collect()
}

#[test]
fn with_a_budget_of_all_keys_every_policy_gives_the_bits_of_full_attention() {
    for (family, products) in [("llama", Products::F32), ("llama", Products::Stored), ("gemma3", Products::F32)] {
        let (_folder, model) = load(family, products);
        let (expected, full) = written(&model, AttentionPolicy::Full, 333, 333);
        assert_eq!(full.traffic().share(), 1.0);
        for policy in policies("1.0").into_iter().chain(policies("5000")) {
            let (got, selection) = written(&model, policy, 333, 100);
            assert!(got == expected, "{family}, {policy}");
            assert_eq!(selection.traffic(), full.traffic());
        }
    }
}

#[test]
fn a_smaller_budget_reads_fewer_keys() {
    let (_folder, model) = load("llama", Products::Stored);
    let (full, _) = written(&model, AttentionPolicy::Full, 500, 200);
    for (policy, most) in policies("0.25").into_iter().zip([0.26, 0.3, 0.8, 0.8, 0.27]) {
        let (got, selection) = written(&model, policy, 500, 200);
        let share = selection.traffic().share();
        assert!(share > 0.2 && share <= most, "{policy}: {share}");
        let differ = got.iter().zip(&full).any(|(got, full)| distance(got, full) > 1e-3);
        assert!(differ, "{policy} reads all");
        assert!(got.iter().flatten().all(|logit| logit.is_finite()));
        // How a prompt is cut changes nothing.
        assert!(got == written(&model, policy, 500, 77).0, "{policy}");
    }
}

#[test]
fn what_is_kept_of_a_prompt_takes_fewer_bytes() {
    let (_folder, model) = load("llama", Products::Stored);
    let tokens = prompt(400);
    let (mut cache, mut record) = (model.cache(), QueryRecord::new(model.config()));
    read(&model, &mut cache, &tokens, Attending::Observed(&mut record)).unwrap();
    let bytes = |policy: AttentionPolicy| {
        KeySelection::begin(&model, policy, &cache, &record).unwrap().n_bytes_kept(&model, &cache)
    };
    let all = bytes(AttentionPolicy::Full);
    assert_eq!(all, 400 * model.kv_arena().page_bytes() / raglan_kv::KV_PAGE);
    for (policy, share) in policies("0.25").into_iter().zip([0.26, 0.26, 1.2, 0.8, 1.4]) {
        let n = bytes(policy);
        assert!(n as f64 <= share * all as f64, "{policy}: {n} of {all}");
    }
}

#[test]
fn sinks_and_a_window_go_on_beyond_the_models_context() {
    let (_folder, model) = load("llama", Products::F32);
    let policy = "sinks=100".parse().unwrap();
    let begin =
        |cache: &KvCache| KeySelection::begin(&model, policy, cache, &QueryRecord::new(model.config())).unwrap();
    let tokens: Vec<u32> = (0..CONTEXT + 500).map(|i| (i * i / 7 + 3 * i) % VOCAB as u32).collect();
    // At once and token by token the same.
    let mut logits = Vec::new();
    for slice in [1, 97, tokens.len()] {
        let mut cache = model.cache();
        let mut selection = begin(&cache);
        let read = tokens
            .chunks(slice)
            .map(|slice| read(&model, &mut cache, slice, Attending::Selected(&mut selection)).unwrap());
        logits.push(read.last().unwrap());
    }
    assert!(distance(&logits[0], &logits[1]) <= 1e-3 && distance(&logits[0], &logits[2]) <= 1e-3);
    let mut cache = model.cache();
    let refused = read(&model, &mut cache, &tokens, Attending::All);
    assert!(matches!(refused, Err(Error::ContextOverflow { .. })));
}

#[test]
fn tokens_that_do_not_go_behind_the_last_are_refused() {
    let (_folder, model) = load("llama", Products::F32);
    let (mut cache, mut record) = (model.cache(), QueryRecord::new(model.config()));
    read(&model, &mut cache, &prompt(50), Attending::Observed(&mut record)).unwrap();
    let mut selection = KeySelection::begin(&model, "quest=16".parse().unwrap(), &cache, &record).unwrap();
    for (position, slot) in [(50, 7), (51, 50)] {
        let rows = ForwardRows { tokens: &[1], positions: &[position], slots: &[slot], ..ForwardRows::default() };
        let attending = Attending::Selected(&mut selection);
        let sequence = ForwardSequence { rows, cache: &mut cache, want: Want::default(), attending };
        assert!(matches!(model.forward(&mut [sequence]), Err(Error::Rows { .. })));
    }
}

#[test]
fn an_extended_context_is_that_of_a_file_that_says_so() {
    let linear = [("rope.scaling.type", Value::String("linear".into())), ("rope.scaling.factor", Value::F32(2.0))];
    let yarn = [
        ("rope.scaling.type", Value::String("yarn".into())),
        ("rope.scaling.factor", Value::F32(2.0)),
        ("rope.scaling.original_context_length", Value::U32(CONTEXT)),
    ];
    let tokens = prompt(CONTEXT + 50);
    for (extension, metadata) in [("linear=2", linear.to_vec()), ("yarn=2", yarn.to_vec())] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut small = SmallModel::new("llama");
        small.metadata.extend(metadata);
        small.write_gguf(&path, GgmlDType::F32);
        let from_file = DecoderModel::load(&path, 2, Products::F32).unwrap();
        let (_folder, plain) = load("llama", Products::F32);
        assert!(matches!(plain.session().prefill(&tokens), Err(Error::ContextOverflow { .. })));
        let extended = plain.extended(extension.parse().unwrap()).unwrap();
        assert_eq!(extended.config().rope, from_file.config().rope);
        assert_eq!(extended.config().context_len, 2 * CONTEXT as usize);
        let short = &tokens[..100];
        assert!(extended.session().prefill(short).unwrap() == from_file.session().prefill(short).unwrap());
        assert!(extended.session().prefill(&tokens).unwrap().iter().all(|logit| logit.is_finite()));
        let error = extended.extended("ntk=2".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("ntk=2"), "{error}");
    }
}
