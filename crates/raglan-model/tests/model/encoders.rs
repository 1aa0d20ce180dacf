//! Small encoders of random weights, of every family and with every head, against candle's.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::{bert, distilbert, modernbert, xlm_roberta};
use raglan_model::{
    ClassificationHead, EncoderModel, EncoderModelConfig, Error, HiddenStates, MaskedLanguageHead, Positions, Products,
    SafetensorsFile, TermWeights, TokenProjection, Tokenizer,
};
use serde_json::{Value, json};

pub const HIDDEN: usize = 64;
const INNER: usize = 48;
pub const VOCAB: usize = 2500; // More than a tile of the vocabulary.
const POSITIONS: usize = 200;
const HEADS: usize = 2; // Of 32 dimensions, the fewest that a device has kernels for.
const LAYERS: usize = 5;
const CLASSES: usize = 3;

/// A model of random weights, as files and as tensors.
pub struct Small {
    folder: tempfile::TempDir,
    tensors: HashMap<String, Tensor>,
    seed: u64,
}

impl Small {
    fn new(config: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Self { folder, tensors: HashMap::new(), seed: 1 }
    }

    fn put(&mut self, name: &str, shape: &[usize], centre: f32) {
        let random = || {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            centre + ((self.seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) / 2.0
        };
        let values: Vec<f32> = std::iter::repeat_with(random).take(shape.iter().product()).collect();
        self.tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }

    fn linear(&mut self, name: &str, n_out: usize, n_in: usize) {
        self.put(&format!("{name}.weight"), &[n_out, n_in], 0.0);
        self.put(&format!("{name}.bias"), &[n_out], 0.0);
    }

    fn norm(&mut self, name: &str) {
        self.put(&format!("{name}.weight"), &[HIDDEN], 1.0);
        self.put(&format!("{name}.bias"), &[HIDDEN], 0.0);
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    fn write(self) -> Self {
        candle_core::safetensors::save(&self.tensors, self.path()).unwrap();
        self
    }

    fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.tensors.clone(), DType::F32, &Device::Cpu)
    }

    pub fn config(&self) -> EncoderModelConfig {
        EncoderModelConfig::from_file(self.folder.path().join("config.json")).unwrap()
    }

    pub fn file(&self) -> SafetensorsFile {
        SafetensorsFile::open(self.folder.path()).unwrap()
    }

    pub fn model(&self) -> EncoderModel {
        EncoderModel::load(self.folder.path(), self.config(), Products::Stored).unwrap()
    }

    pub fn masked_language_head(&self) -> MaskedLanguageHead {
        MaskedLanguageHead::from_safetensors(&self.file(), &self.config(), Products::Stored).unwrap()
    }

    pub fn classification_head(&self) -> ClassificationHead {
        ClassificationHead::from_safetensors(&self.file(), &self.config(), Products::Stored).unwrap()
    }
}

/// BERT's layers, or RoBERTa's, which have the same names.
fn bert_layers(small: &mut Small, prefix: &str) {
    small.put(&format!("{prefix}embeddings.word_embeddings.weight"), &[VOCAB, HIDDEN], 0.0);
    small.put(&format!("{prefix}embeddings.position_embeddings.weight"), &[POSITIONS, HIDDEN], 0.0);
    small.put(&format!("{prefix}embeddings.token_type_embeddings.weight"), &[2, HIDDEN], 0.0);
    small.norm(&format!("{prefix}embeddings.LayerNorm"));
    for i in 0..LAYERS {
        let layer = format!("{prefix}encoder.layer.{i}");
        for part in ["query", "key", "value"] {
            small.linear(&format!("{layer}.attention.self.{part}"), HIDDEN, HIDDEN);
        }
        small.linear(&format!("{layer}.attention.output.dense"), HIDDEN, HIDDEN);
        small.norm(&format!("{layer}.attention.output.LayerNorm"));
        small.linear(&format!("{layer}.intermediate.dense"), INNER, HIDDEN);
        small.linear(&format!("{layer}.output.dense"), HIDDEN, INNER);
        small.norm(&format!("{layer}.output.LayerNorm"));
    }
}

fn bert_config(family: &str, pad: usize) -> Value {
    json!({
        "model_type": family, "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "intermediate_size": INNER, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "initializer_range": 0.02, "layer_norm_eps": 1e-5, "pad_token_id": pad, "position_embedding_type": "absolute",
    })
}

pub fn small_bert() -> Small {
    let mut small = Small::new(&bert_config("bert", 0));
    bert_layers(&mut small, "bert.");
    small.linear("bert.pooler.dense", HIDDEN, HIDDEN);
    small.linear("cls.predictions.transform.dense", HIDDEN, HIDDEN);
    small.norm("cls.predictions.transform.LayerNorm");
    small.linear("cls.predictions.decoder", VOCAB, HIDDEN);
    small.linear("classifier", CLASSES, HIDDEN);
    small.put("linear.weight", &[6, HIDDEN], 0.0);
    small.write()
}

fn small_roberta(family: &str) -> Small {
    let mut small = Small::new(&bert_config(family, 1));
    bert_layers(&mut small, "roberta.");
    small.linear("lm_head.dense", HIDDEN, HIDDEN);
    small.norm("lm_head.layer_norm");
    small.put("lm_head.bias", &[VOCAB], 0.0);
    small.linear("classifier.dense", HIDDEN, HIDDEN);
    small.linear("classifier.out_proj", CLASSES, HIDDEN);
    small.write()
}

/// The activation is named as Hugging Face names what candle computes for "gelu" here.
fn distilbert_config(activation: &str) -> Value {
    json!({
        "model_type": "distilbert", "vocab_size": VOCAB, "dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS,
        "hidden_dim": INNER, "activation": activation, "max_position_embeddings": POSITIONS, "pad_token_id": 0,
        "initializer_range": 0.02,
    })
}

fn small_distilbert() -> Small {
    let mut small = Small::new(&distilbert_config("gelu_new"));
    small.put("distilbert.embeddings.word_embeddings.weight", &[VOCAB, HIDDEN], 0.0);
    small.put("distilbert.embeddings.position_embeddings.weight", &[POSITIONS, HIDDEN], 0.0);
    small.norm("distilbert.embeddings.LayerNorm");
    for i in 0..LAYERS {
        let layer = format!("distilbert.transformer.layer.{i}");
        for part in ["q_lin", "k_lin", "v_lin", "out_lin"] {
            small.linear(&format!("{layer}.attention.{part}"), HIDDEN, HIDDEN);
        }
        small.norm(&format!("{layer}.sa_layer_norm"));
        small.linear(&format!("{layer}.ffn.lin1"), INNER, HIDDEN);
        small.linear(&format!("{layer}.ffn.lin2"), HIDDEN, INNER);
        small.norm(&format!("{layer}.output_layer_norm"));
    }
    small.linear("vocab_transform", HIDDEN, HIDDEN);
    small.norm("vocab_layer_norm");
    small.put("vocab_projector.bias", &[VOCAB], 0.0);
    small.linear("pre_classifier", HIDDEN, HIDDEN);
    small.linear("classifier", CLASSES, HIDDEN);
    small.write()
}

/// Local layers see 10 tokens either way.
fn modernbert_config(pooling: &str) -> Value {
    json!({
        "model_type": "modernbert", "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "intermediate_size": INNER, "hidden_activation": "gelu",
        "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-5, "norm_eps": 1e-5, "pad_token_id": 0,
        "global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0, "local_attention": 20,
        "local_rope_theta": 10_000.0, "classifier_pooling": pooling,
        "id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": "0", "b": "1", "c": "2"},
    })
}

fn small_modernbert(pooling: &str) -> Small {
    let mut small = Small::new(&modernbert_config(pooling));
    let norm = |small: &mut Small, name: &str| small.put(&format!("{name}.weight"), &[HIDDEN], 1.0);
    small.put("model.embeddings.tok_embeddings.weight", &[VOCAB, HIDDEN], 0.0);
    norm(&mut small, "model.embeddings.norm");
    for i in 0..LAYERS {
        let layer = format!("model.layers.{i}");
        if i > 0 {
            norm(&mut small, &format!("{layer}.attn_norm"));
        }
        small.put(&format!("{layer}.attn.Wqkv.weight"), &[3 * HIDDEN, HIDDEN], 0.0);
        small.put(&format!("{layer}.attn.Wo.weight"), &[HIDDEN, HIDDEN], 0.0);
        norm(&mut small, &format!("{layer}.mlp_norm"));
        small.put(&format!("{layer}.mlp.Wi.weight"), &[2 * INNER, HIDDEN], 0.0);
        small.put(&format!("{layer}.mlp.Wo.weight"), &[HIDDEN, INNER], 0.0);
    }
    norm(&mut small, "model.final_norm");
    small.put("head.dense.weight", &[HIDDEN, HIDDEN], 0.0);
    norm(&mut small, "head.norm");
    small.put("decoder.bias", &[VOCAB], 0.0);
    small.linear("classifier", CLASSES, HIDDEN);
    small.write()
}

pub fn every_family() -> Vec<Small> {
    vec![small_bert(), small_roberta("xlm-roberta"), small_distilbert(), small_modernbert("cls")]
}

/// Lengths of 1, an odd one, and longer than a tile of attention; none has the token for padding.
pub fn texts() -> Vec<Vec<u32>> {
    let text = |n: usize, step: usize| (0..n).map(|i| 2 + (i * step % (VOCAB - 2)) as u32).collect();
    vec![text(1, 1), text(7, 411), text(33, 1013), text(170, 97)]
}

fn input(ids: &[u32]) -> (Tensor, Tensor, Tensor) {
    let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    (ids.clone(), ids.ones_like().unwrap(), ids.zeros_like().unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn parse<T: serde::de::DeserializeOwned>(config: Value) -> T {
    serde_json::from_value(config).unwrap()
}

#[track_caller]
fn check_near(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-4, "{got} for {want}");
    }
}

/// Each text's hidden states, and the logits of a masked-language head, are those of the oracle.
#[track_caller]
fn check(small: &Small, oracle: impl Fn(&[u32]) -> (Option<Tensor>, Tensor)) {
    let (model, head) = (small.model(), small.masked_language_head());
    for ids in texts() {
        let (hidden, logits) = oracle(&ids);
        let got = model.hidden_states(&[&ids]).unwrap();
        if let Some(hidden) = hidden {
            check_near(got.rows(), &values(&hidden));
        }
        check_near(&head.logits(got.rows()).unwrap(), &values(&logits));
        check_term_weights(&head.term_weights(&got).unwrap()[0], &values(&logits));
    }
}

/// The weights are those of the whole matrix of logits.
#[track_caller]
fn check_term_weights(got: &[(u32, f32)], logits: &[f32]) {
    let mut want = vec![0.0_f32; VOCAB];
    for row in logits.chunks_exact(VOCAB) {
        want.iter_mut().zip(row).for_each(|(max, logit)| *max = max.max(logit.max(0.0).ln_1p()));
    }
    let mut dense = vec![0.0; VOCAB];
    got.iter().for_each(|&(term, weight)| dense[term as usize] = weight);
    check_near(&dense, &want);
    assert!(got.windows(2).all(|pair| pair[0].0 < pair[1].0) && got.iter().all(|(_, weight)| *weight > 0.0));
}

#[test]
fn bert_is_candles() {
    let small = small_bert();
    let config: bert::Config = parse(bert_config("bert", 0));
    let model = bert::BertModel::load(small.builder().pp("bert"), &config).unwrap();
    let masked = bert::BertForMaskedLM::load(small.builder(), &config).unwrap();
    check(&small, |ids| {
        let (ids, _, types) = input(ids);
        (Some(model.forward(&ids, &types, None).unwrap()), masked.forward(&ids, &types, None).unwrap())
    });
}

#[test]
fn berts_pairs_have_the_types_of_their_texts() {
    let small = small_bert();
    let config: bert::Config = parse(bert_config("bert", 0));
    let oracle = bert::BertModel::load(small.builder().pp("bert"), &config).unwrap();
    let (model, ids, types) = (small.model(), [2u32, 100, 3, 7, 8, 3], [0u32, 0, 0, 1, 1, 1]);
    let (input, _, _) = input(&ids);
    let want = oracle.forward(&input, &Tensor::new(&types, &Device::Cpu).unwrap().unsqueeze(0).unwrap(), None).unwrap();
    let got = model.hidden_states_of_pairs(&[&ids], &[&types]).unwrap();
    check_near(got.rows(), &values(&want));
    assert_ne!(got, model.hidden_states(&[&ids]).unwrap());
    // The pooler and the classifier, in plain loops.
    let weights = |name: &str| values(&small.tensors[name]);
    let map = |name: &str, input: &[f32]| -> Vec<f32> {
        let (weights, bias) = (weights(&format!("{name}.weight")), weights(&format!("{name}.bias")));
        let dot = |row: &[f32]| row.iter().zip(input).map(|(w, x)| w * x).sum::<f32>();
        weights.chunks_exact(HIDDEN).zip(bias).map(|(row, bias)| dot(row) + bias).collect()
    };
    let pooled: Vec<f32> = map("bert.pooler.dense", &values(&want)[..HIDDEN]).iter().map(|x| x.tanh()).collect();
    check_near(&small.classification_head().logits(&got).unwrap(), &map("classifier", &pooled));
    for (types, ids) in [(&[0u32; 5], &ids), (&[2; 5], &ids)] {
        assert!(matches!(model.hidden_states_of_pairs(&[ids], &[types]), Err(Error::Rows { .. })));
    }
    assert!(matches!(model.hidden_states_of_pairs(&[&ids], &[&[2; 6]]), Err(Error::Rows { .. })));
}

#[test]
fn roberta_is_candles() {
    for family in ["roberta", "xlm-roberta"] {
        let small = small_roberta(family);
        let config: xlm_roberta::Config = parse(bert_config(family, 1));
        let model = xlm_roberta::XLMRobertaModel::new(&config, small.builder().pp("roberta")).unwrap();
        let masked = xlm_roberta::XLMRobertaForMaskedLM::new(&config, small.builder()).unwrap();
        check(&small, |ids| {
            let (ids, mask, types) = input(ids);
            let logits = masked.forward(&ids, &mask, &types, None, None, None).unwrap();
            // The oracle leaves the decoder's bias out.
            let logits = logits.broadcast_add(&small.tensors["lm_head.bias"]).unwrap();
            (Some(model.forward(&ids, &mask, &types, None, None, None).unwrap()), logits)
        });
        let oracle = xlm_roberta::XLMRobertaForSequenceClassification::new(CLASSES, &config, small.builder()).unwrap();
        let (head, model) = (small.classification_head(), small.model());
        for ids in texts() {
            let (tensor, mask, types) = input(&ids);
            let got = head.logits(&model.hidden_states(&[&ids]).unwrap()).unwrap();
            check_near(&got, &values(&oracle.forward(&tensor, &mask, &types).unwrap()));
        }
        assert_eq!(model.config().max_tokens(), POSITIONS - 2);
        assert!(model.hidden_states(&[&[5; POSITIONS - 2]]).is_ok());
        assert!(matches!(model.hidden_states(&[&[5; POSITIONS - 1]]), Err(Error::ContextOverflow { .. })));
    }
}

#[test]
fn distilbert_is_candles() {
    let small = small_distilbert();
    let config: distilbert::Config = parse(distilbert_config("gelu"));
    let model = distilbert::DistilBertModel::load(small.builder().pp("distilbert"), &config).unwrap();
    let masked = distilbert::DistilBertForMaskedLM::load(small.builder(), &config).unwrap();
    check(&small, |ids| {
        let (ids, _, _) = input(ids);
        // What the mask of this one names is hidden.
        let mask = Tensor::zeros(ids.dim(1).unwrap(), DType::U8, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        (Some(model.forward(&ids, &mask).unwrap()), masked.forward(&ids, &mask).unwrap())
    });
    assert_eq!(small.classification_head().n_classes(), CLASSES);
}

#[test]
fn modernbert_is_candles() {
    for pooling in ["cls", "mean"] {
        let small = small_modernbert(pooling);
        let config: modernbert::Config = parse(modernbert_config(pooling));
        let model = modernbert::ModernBert::load(small.builder(), &config).unwrap();
        let masked = modernbert::ModernBertForMaskedLM::load(small.builder(), &config).unwrap();
        check(&small, |ids| {
            let (ids, mask, _) = input(ids);
            (Some(model.forward(&ids, &mask).unwrap()), masked.forward(&ids, &mask).unwrap())
        });
        let oracle = modernbert::ModernBertForSequenceClassification::load(small.builder(), &config).unwrap();
        let (head, model) = (small.classification_head(), small.model());
        for ids in texts() {
            let (tensor, mask, _) = input(&ids);
            let got = head.logits(&model.hidden_states(&[&ids]).unwrap()).unwrap();
            let got = Tensor::new(got, &Device::Cpu).unwrap();
            let got = candle_nn::ops::softmax(&got, D::Minus1).unwrap();
            check_near(&values(&got), &values(&oracle.forward(&tensor, &mask).unwrap()));
        }
    }
}

#[test]
fn modernberts_layers_are_read_as_newer_configurations_write_them() {
    let small = small_modernbert("cls");
    let mut config = modernbert_config("cls");
    let object = config.as_object_mut().unwrap();
    for before in ["global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"] {
        object.remove(before);
    }
    let kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"];
    object.insert("layer_types".into(), json!(kinds));
    let rope = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    object.insert("rope_parameters".into(), json!({"full_attention": rope(160_000.0), "sliding_attention": rope(1e4)}));
    let before = small.config();
    std::fs::write(small.folder.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(small.config(), before);
}

/// A model whose table of positions has these rows of another's.
fn with_rows(mut small: Small, name: &str, rows: &[Vec<f32>]) -> EncoderModel {
    let mut table = small.tensors[name].to_vec2::<f32>().unwrap();
    let first = small.config().first_position;
    table[first..first + rows.len()].clone_from_slice(rows);
    small.tensors.insert(name.into(), Tensor::new(table, &Device::Cpu).unwrap());
    small.write().model()
}

#[test]
fn positions_are_rows_of_the_table_and_what_lies_between_them() {
    type Make = fn() -> Small;
    let models: [(Make, &str); 2] = [
        (small_bert, "embeddings.position_embeddings.weight"),
        (|| small_roberta("roberta"), "roberta.embeddings.position_embeddings.weight"),
    ];
    for (make, name) in models {
        let small = make();
        let name = small.tensors.keys().find(|key| key.ends_with(name)).unwrap().clone();
        let table = small.tensors[&name].to_vec2::<f32>().unwrap();
        let table = &table[small.config().first_position..];
        let ids: &[u32] = &[5, 9, 11, 7, 2];
        let positions = [3.0_f32, 3.0, 0.0, 1.25, (table.len() - 1) as f32];
        let rows: Vec<Vec<f32>> = positions
            .iter()
            .map(|&position| {
                let below = position.floor();
                let above = &table[position.ceil() as usize];
                let between = table[below as usize].iter().zip(above);
                between.map(|(a, b)| a + (b - a) * (position - below)).collect()
            })
            .collect();
        let want = with_rows(make(), &name, &rows).hidden_states(&[ids]).unwrap();
        let model = small.model();
        let at = |positions: &[f32]| Positions::Table(positions.to_vec());
        let both = model.hidden_states_at(&[&[8, 8], ids], &[Positions::Consecutive, at(&positions)]).unwrap();
        check_near(both.sequences().nth(1).unwrap(), want.rows());
        assert_eq!(both.sequences().next().unwrap(), model.hidden_states(&[&[8, 8]]).unwrap().rows());
        let plain = model.hidden_states_at(&[ids], &[at(&[0.0, 1.0, 2.0, 3.0, 4.0])]).unwrap();
        assert!(plain == model.hidden_states(&[ids]).unwrap());
        // More tokens than rows, as long as each has a row.
        let many = vec![5; 2 * POSITIONS];
        assert!(model.hidden_states_at(&[&many], &[at(&vec![1.0; many.len()])]).is_ok());
        let beyond = table.len() as f32;
        for wrong in [vec![0.0; 4], vec![beyond; 5], vec![beyond - 0.5; 5], vec![-0.5; 5], vec![f32::NAN; 5]] {
            let got = model.hidden_states_at(&[ids], &[Positions::Table(wrong)]);
            assert!(matches!(got, Err(Error::Rows { .. })));
        }
        let rotations = model.hidden_states_at(&[ids], &[Positions::RaisedBase { factor: 2.0 }]);
        assert!(matches!(rotations, Err(Error::Rows { .. })));
        assert!(matches!(model.hidden_states_at(&[ids], &[]), Err(Error::Rows { .. })));
    }
}

#[test]
fn a_raised_base_is_that_of_the_layers_that_see_all() {
    let small = small_modernbert("cls");
    let model = small.model();
    let (ids, long) = (&texts()[2], vec![7; 2 * POSITIONS]);
    let raise = |factor| Positions::RaisedBase { factor };
    let mut config = small.config();
    config.rotary.as_mut().unwrap().global_theta *= 3.0_f64.powf(32.0 / 30.0); // 3^(d / (d - 2)), with heads of 32
    config.max_position_embeddings *= 3;
    let raised = EncoderModel::from_safetensors(&small.file(), config, Products::Stored).unwrap();
    let texts: [&[u32]; 4] = [ids, &[5, 9], &long, ids];
    let got = model.hidden_states_at(&texts, &[raise(3.0), Positions::Consecutive, raise(3.0), raise(1.0)]).unwrap();
    let got: Vec<_> = got.sequences().collect();
    check_near(got[0], raised.hidden_states(&[ids]).unwrap().rows());
    check_near(got[2], raised.hidden_states(&[&long]).unwrap().rows());
    for (got, ids) in [(got[1], texts[1]), (got[3], texts[3])] {
        assert!(got == model.hidden_states(&[ids]).unwrap().rows());
    }
    assert!(got[0] != got[3]);
    let overflow =
        |positions| matches!(model.hidden_states_at(&[&long], &[positions]), Err(Error::ContextOverflow { .. }));
    assert!(overflow(raise(1.9)) && overflow(Positions::Consecutive));
    for n in 2..3 * POSITIONS {
        // A quotient that is rounded down is still of so many tokens.
        let factor = (n as f64 / POSITIONS as f64).max(1.0);
        assert!(!matches!(
            model.hidden_states_at(&[&vec![u32::MAX; n]], &[raise(factor)]),
            Err(Error::ContextOverflow { .. })
        ));
    }
    for wrong in [raise(0.5), raise(f64::NAN), raise(f64::INFINITY), Positions::Table(vec![0.0; ids.len()])] {
        assert!(matches!(model.hidden_states_at(&[ids], &[wrong]), Err(Error::Rows { .. })));
    }
}

#[test]
fn self_extend_keeps_what_is_near_and_reads_what_is_long() {
    let model = small_modernbert("cls").model();
    let extend = |window, group| Positions::SelfExtend { window, group };
    let ids: Vec<u32> = (0..POSITIONS as u32).map(|i| 5 + i % 7).collect();
    let texts: [&[u32]; 3] = [&ids, &[5, 9], &ids[..9]];
    let want = model.hidden_states(&texts).unwrap();
    // All is near; groups of one token.
    for positions in [extend(POSITIONS, 3), extend(3, 1)] {
        let got = model.hidden_states_at(&texts, &[positions, Positions::Consecutive, extend(9, 4)]).unwrap();
        check_near(got.rows(), want.rows());
    }
    // A sequence is the same in any company, and far keys are elsewhere.
    let grouped = model.hidden_states_at(&[&ids], &[extend(4, 3)]).unwrap();
    assert!(grouped.rows() != model.hidden_states(&[&ids]).unwrap().rows());
    let pair: [&[u32]; 2] = [&[7], &ids];
    let both = model.hidden_states_at(&pair, &[Positions::RaisedBase { factor: 2.0 }, extend(4, 3)]).unwrap();
    assert!(both.sequences().nth(1).unwrap() == grouped.rows());
    // The farthest distance of n tokens, ⌊(n - 1) / 3⌋ + 4 - 1, is one of those that the model knows.
    let read = |n: usize| model.hidden_states_at(&[&vec![7; n]], &[extend(4, 3)]);
    let limit = 3 * (POSITIONS - 3);
    assert!(read(limit).is_ok());
    assert!(matches!(read(limit + 1), Err(Error::ContextOverflow { .. })));
    for wrong in [extend(0, 2), extend(4, 0), extend(POSITIONS + 1, 2)] {
        assert!(matches!(model.hidden_states_at(&[&ids], &[wrong]), Err(Error::Rows { .. })));
    }
    let table = small_bert().model().hidden_states_at(&[&ids], &[extend(4, 3)]);
    assert!(matches!(table, Err(Error::Rows { .. })));
}

#[test]
fn projections_have_length_one() {
    let small = small_bert();
    let model = small.model();
    let head = TokenProjection::from_safetensors(&small.file(), &small.config(), Products::Stored).unwrap();
    assert_eq!(head.dim(), 6);
    let hidden = model.hidden_states(&[&[5, 9, 11], &[], &[7]]).unwrap();
    let got = head.project(&hidden).unwrap();
    let tensor = Tensor::from_slice(hidden.rows(), (4, HIDDEN), &Device::Cpu).unwrap();
    let map = candle_nn::Linear::new(small.tensors["linear.weight"].clone(), None);
    let want = map.forward(&tensor).unwrap();
    let length = want.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    check_near(got.rows(), &values(&want.broadcast_div(&length).unwrap()));
    assert_eq!(got.ends(), [3, 3, 4]);
}

/// All that a model and its heads say of some texts, text by text.
fn all(small: &Small, texts: &[&[u32]]) -> Vec<(Vec<f32>, TermWeights, Vec<f32>)> {
    let hidden = small.model().hidden_states(texts).unwrap();
    let terms = small.masked_language_head().term_weights(&hidden).unwrap();
    let classes = small.classification_head().logits(&hidden).unwrap();
    let classes = classes.chunks_exact(CLASSES).map(<[f32]>::to_vec);
    let texts = hidden.sequences().map(<[f32]>::to_vec).zip(terms).zip(classes);
    texts.map(|((hidden, terms), classes)| (hidden, terms, classes)).collect()
}

#[test]
fn alone_in_a_batch_shuffled_and_on_any_number_of_threads_the_bits_are_the_same() {
    for small in every_family() {
        let texts = texts();
        let batch: Vec<&[u32]> = texts.iter().cycle().take(3 * texts.len()).map(Vec::as_slice).collect();
        let together = all(&small, &batch);
        for (text, together) in batch.iter().zip(&together).take(texts.len()) {
            assert!(all(&small, &[text])[0] == *together);
        }
        let n = batch.len();
        let order: Vec<usize> = (0..n).map(|i| (i * 5 + 3) % n).collect(); // 5 and 12 have no common factor.
        for n_threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let shuffled: Vec<&[u32]> = order.iter().map(|&i| batch[i]).collect();
            let got = pool.install(|| all(&small, &shuffled));
            for (&i, got) in order.iter().zip(got) {
                assert!(got == together[i], "{n_threads} threads");
            }
        }
    }
}

#[test]
fn no_texts_and_empty_texts_give_nothing() {
    for small in every_family() {
        assert!(all(&small, &[]).is_empty());
        let hidden = small.model().hidden_states(&[&[], &[7, 9], &[], &[]]).unwrap();
        let terms = small.masked_language_head().term_weights(&hidden).unwrap();
        assert_eq!(terms.iter().map(Vec::is_empty).collect::<Vec<_>>(), [true, false, true, true]);
        assert!(matches!(small.classification_head().logits(&hidden), Err(Error::Rows { .. })));
    }
}

#[test]
fn heads_that_are_not_there_or_do_not_fit_are_errors() {
    let of = |small: &Small, hidden: &HiddenStates| small.masked_language_head().term_weights(hidden).map(drop);
    let mut small = small_bert();
    let narrow = TokenProjection::from_safetensors(&small.file(), &small.config(), Products::Stored).unwrap();
    let hidden = narrow.project(&small.model().hidden_states(&[&[7]]).unwrap()).unwrap();
    assert!(matches!(of(&small, &hidden), Err(Error::Rows { .. })));
    assert!(matches!(narrow.project(&hidden), Err(Error::Rows { .. })));
    assert!(matches!(small.classification_head().logits(&hidden), Err(Error::Rows { .. })));
    for name in ["linear.weight", "classifier.weight", "cls.predictions.transform.dense.weight"] {
        small.tensors.remove(name);
    }
    let small = small.write();
    let (file, config) = (small.file(), small.config());
    let malformed = |e: Option<Error>| matches!(e, Some(Error::Malformed { .. }));
    assert!(malformed(TokenProjection::from_safetensors(&file, &config, Products::Stored).err()));
    assert!(malformed(ClassificationHead::from_safetensors(&file, &config, Products::Stored).err()));
    assert!(malformed(MaskedLanguageHead::from_safetensors(&file, &config, Products::Stored).err()));
}

#[test]
fn pairs_have_types_and_the_longer_text_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let vocab: HashMap<&str, usize> = ["[UNK]", "[CLS]", "[SEP]", "a", "b"].into_iter().zip(0..).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab},
    });
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    let check = |first: &str, second: &str, max_tokens: usize, ids: &[u32], types: &[u32]| {
        let pair = tokenizer.encode_pair(first, second, max_tokens).unwrap();
        assert_eq!((&*pair.ids, &*pair.token_types), (ids, types));
    };
    check("a a", "b b b", 99, &[1, 3, 3, 2, 4, 4, 4, 2], &[0, 0, 0, 0, 1, 1, 1, 1]);
    check("a a", "b b b", 7, &[1, 3, 3, 2, 4, 4, 2], &[0, 0, 0, 0, 1, 1, 1]);
    check("a a", "b b b", 5, &[1, 3, 2, 4, 2], &[0, 0, 0, 1, 1]);
    check("a", "b b b b", 7, &[1, 3, 2, 4, 4, 4, 2], &[0, 0, 0, 1, 1, 1, 1]);
    check("a a a a", "b", 7, &[1, 3, 3, 3, 2, 4, 2], &[0, 0, 0, 0, 0, 1, 1]);
    check("a", "b", 3, &[1, 2, 2], &[0, 0, 1]);
    check("", "", 3, &[1, 2, 2], &[0, 0, 1]);
    assert!(matches!(tokenizer.encode_pair("a", "b", 2), Err(Error::Tokenizer { .. })));
}
