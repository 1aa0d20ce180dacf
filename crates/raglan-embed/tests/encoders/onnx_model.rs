//! Writes a BERT in ONNX from its safetensors, as an exporter would: the graph in protocol buffers, by hand.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::Value;

const FLOAT: u64 = 1;
pub const INT32: u64 = 6;
pub const INT64: u64 = 7;

/// What the graph gives.
#[derive(Clone, Copy, PartialEq)]
pub enum Gives {
    /// `last_hidden_state`.
    Tokens,
    /// `sentence_embedding`, the mean of the tokens.
    Sentence,
    /// `logits`, of a pooler and a classifier.
    Classes,
}

/// Writes the model of `dir`, which has `config.json` and `model.safetensors`, to `path`; its inputs are of type `kind`.
pub fn write_onnx(dir: &Path, path: &Path, gives: Gives, kind: u64) {
    assert!([INT32, INT64].contains(&kind), "token ids are whole numbers");
    let config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (hidden, heads) = (number("hidden_size"), number("num_attention_heads"));
    let epsilon = config["layer_norm_eps"].as_f64().unwrap_or(1e-12) as f32;
    let mut graph = Graph {
        bytes: Vec::new(),
        weights: candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap(),
        epsilon,
    };
    let g = &mut graph;
    g.shape("start", &[], &[0]);
    g.shape("one", &[], &[1]);
    g.shape("first", &[1], &[1]);
    g.shape("both", &[2], &[1, 2]);
    g.shape("split", &[4], &[0, 0, heads as i64, (hidden / heads) as i64]);
    g.shape("joined", &[3], &[0, 0, hidden as i64]);
    g.scalar("scale", 1.0 / ((hidden / heads) as f32).sqrt());
    for (name, value) in [("unit", 1.0), ("far", -1e9), ("half", 0.5), ("root", std::f32::consts::FRAC_1_SQRT_2)] {
        g.scalar(name, value);
    }
    for name in ["word_embeddings", "token_type_embeddings", "position_embeddings"] {
        g.weight(&format!("embeddings.{name}.weight"), false);
    }
    g.node("Gather", &["embeddings.word_embeddings.weight", "input_ids"], "words", &[]);
    g.node("Gather", &["embeddings.token_type_embeddings.weight", "token_type_ids"], "types", &[]);
    g.node("Shape", &["input_ids"], "sizes", &[]);
    g.node("Gather", &["sizes", "one"], "length", &[]);
    g.node("Range", &["start", "length", "one"], "places", &[]);
    g.node("Gather", &["embeddings.position_embeddings.weight", "places"], "positions", &[]);
    g.node("Add", &["words", "types"], "texts", &[]);
    g.node("Add", &["texts", "positions"], "embedded", &[]);
    g.layer_norm("embeddings.LayerNorm", "embedded", "x0");
    g.node("Cast", &["attention_mask"], "present", &[("to", Attribute::Int(FLOAT as i64))]);
    g.node("Sub", &["unit", "present"], "absent", &[]);
    g.node("Mul", &["absent", "far"], "away", &[]);
    g.node("Unsqueeze", &["away", "both"], "mask", &[]);
    let n_layers = number("num_hidden_layers");
    for i in 0..n_layers {
        g.layer(i);
    }
    let last = format!("x{n_layers}");
    let output = match gives {
        Gives::Tokens => {
            g.node("Identity", &[&last], "last_hidden_state", &[]);
            "last_hidden_state"
        }
        Gives::Sentence => {
            g.node("Unsqueeze", &["present", "first"], "row", &[]);
            g.node("MatMul", &["row", &last], "summed", &[]);
            g.node("Squeeze", &["summed", "first"], "sum", &[]);
            g.node("ReduceSum", &["present", "first"], "count", &[]);
            g.node("Div", &["sum", "count"], "sentence_embedding", &[]);
            "sentence_embedding"
        }
        Gives::Classes => {
            g.node("Gather", &[&last, "start"], "beginning", &[("axis", Attribute::Int(1))]);
            g.linear("pooler.dense", "beginning", "pooled");
            g.node("Tanh", &["pooled"], "pooler", &[]);
            g.linear("classifier", "pooler", "logits");
            "logits"
        }
    };
    g.string(2, "bert");
    for input in ["input_ids", "attention_mask", "token_type_ids"] {
        g.value(11, input, kind, &["batch", "length"]);
    }
    let dims: &[&str] = if gives == Gives::Tokens { &["batch", "length", "hidden"] } else { &["batch", "hidden"] };
    g.value(12, output, FLOAT, dims);
    let mut model = Vec::new();
    number_field(&mut model, 1, 8); // The format's version.
    bytes_field(&mut model, 7, &graph.bytes);
    let mut operators = Vec::new();
    number_field(&mut operators, 2, 17);
    bytes_field(&mut model, 8, &operators);
    std::fs::write(path, model).unwrap();
}

enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
}

struct Graph {
    bytes: Vec<u8>,
    weights: HashMap<String, Tensor>,
    epsilon: f32,
}

impl Graph {
    fn layer(&mut self, i: usize) {
        let layer = |name: &str| format!("encoder.layer.{i}.{name}");
        let at = |name: &str| format!("{name}{i}");
        let x = at("x");
        for (name, perm) in [("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])] {
            self.linear(&layer(&format!("attention.self.{name}")), &x, &at(name));
            self.node("Reshape", &[&at(name), "split"], &at(&format!("{name}-split")), &[]);
            let heads = at(&format!("{name}-heads"));
            self.node("Transpose", &[&at(&format!("{name}-split"))], &heads, &[("perm", Attribute::Ints(&perm))]);
        }
        self.node("MatMul", &[&at("query-heads"), &at("key-heads")], &at("products"), &[]);
        self.node("Mul", &[&at("products"), "scale"], &at("scaled"), &[]);
        self.node("Add", &[&at("scaled"), "mask"], &at("masked"), &[]);
        self.node("Softmax", &[&at("masked")], &at("shares"), &[("axis", Attribute::Int(-1))]);
        self.node("MatMul", &[&at("shares"), &at("value-heads")], &at("mixed-heads"), &[]);
        let back = [("perm", Attribute::Ints(&[0, 2, 1, 3]))];
        self.node("Transpose", &[&at("mixed-heads")], &at("mixed-split"), &back);
        self.node("Reshape", &[&at("mixed-split"), "joined"], &at("mixed"), &[]);
        self.linear(&layer("attention.output.dense"), &at("mixed"), &at("attended"));
        self.node("Add", &[&x, &at("attended")], &at("attended-sum"), &[]);
        self.layer_norm(&layer("attention.output.LayerNorm"), &at("attended-sum"), &at("normed"));
        self.linear(&layer("intermediate.dense"), &at("normed"), &at("wide"));
        // GELU: x/2 · (1 + erf(x / √2)).
        self.node("Mul", &[&at("wide"), "root"], &at("divided"), &[]);
        self.node("Erf", &[&at("divided")], &at("erf"), &[]);
        self.node("Add", &[&at("erf"), "unit"], &at("gate"), &[]);
        self.node("Mul", &[&at("wide"), "half"], &at("halved"), &[]);
        self.node("Mul", &[&at("halved"), &at("gate")], &at("active"), &[]);
        self.linear(&layer("output.dense"), &at("active"), &at("narrow"));
        self.node("Add", &[&at("normed"), &at("narrow")], &at("sum"), &[]);
        self.layer_norm(&layer("output.LayerNorm"), &at("sum"), &format!("x{}", i + 1));
    }

    fn linear(&mut self, name: &str, input: &str, output: &str) {
        let (weight, bias, product) = (format!("{name}.weight"), format!("{name}.bias"), format!("{output}-product"));
        self.weight(&weight, true);
        self.weight(&bias, false);
        self.node("MatMul", &[input, &weight], &product, &[]);
        self.node("Add", &[&product, &bias], output, &[]);
    }

    fn layer_norm(&mut self, name: &str, input: &str, output: &str) {
        let (scale, shift) = (format!("{name}.weight"), format!("{name}.bias"));
        self.weight(&scale, false);
        self.weight(&shift, false);
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(self.epsilon))];
        self.node("LayerNormalization", &[input, &scale, &shift], output, &attributes);
    }

    fn weight(&mut self, name: &str, transposed: bool) {
        let tensor = &self.weights[name];
        let tensor = if transposed { tensor.t().unwrap().contiguous().unwrap() } else { tensor.clone() };
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, tensor.dims(), FLOAT, &bytes);
    }

    fn scalar(&mut self, name: &str, value: f32) {
        self.tensor(name, &[], FLOAT, &value.to_le_bytes());
    }

    fn shape(&mut self, name: &str, dims: &[usize], values: &[i64]) {
        self.tensor(name, dims, INT64, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    }

    fn tensor(&mut self, name: &str, dims: &[usize], kind: u64, bytes: &[u8]) {
        let mut tensor = Vec::new();
        dims.iter().for_each(|&dim| number_field(&mut tensor, 1, dim as u64));
        number_field(&mut tensor, 2, kind);
        bytes_field(&mut tensor, 8, name.as_bytes());
        bytes_field(&mut tensor, 9, bytes);
        bytes_field(&mut self.bytes, 5, &tensor);
    }

    fn node(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) {
        let mut node = Vec::new();
        inputs.iter().for_each(|input| bytes_field(&mut node, 1, input.as_bytes()));
        bytes_field(&mut node, 2, output.as_bytes());
        bytes_field(&mut node, 4, operator.as_bytes());
        for (name, value) in attributes {
            let mut attribute = Vec::new();
            bytes_field(&mut attribute, 1, name.as_bytes());
            let kind = match value {
                Attribute::Float(value) => {
                    varint(&mut attribute, 2 << 3 | 5);
                    attribute.extend(value.to_le_bytes());
                    1
                }
                Attribute::Int(value) => {
                    number_field(&mut attribute, 3, *value as u64);
                    2
                }
                Attribute::Ints(values) => {
                    values.iter().for_each(|&value| number_field(&mut attribute, 8, value as u64));
                    7
                }
            };
            number_field(&mut attribute, 20, kind);
            bytes_field(&mut node, 5, &attribute);
        }
        bytes_field(&mut self.bytes, 1, &node);
    }

    /// An input or output.
    fn value(&mut self, field: u64, name: &str, kind: u64, dims: &[&str]) {
        let mut shape = Vec::new();
        for dim in dims {
            let mut size = Vec::new();
            bytes_field(&mut size, 2, dim.as_bytes());
            bytes_field(&mut shape, 1, &size);
        }
        let mut tensor = Vec::new();
        number_field(&mut tensor, 1, kind);
        bytes_field(&mut tensor, 2, &shape);
        let mut of = Vec::new();
        bytes_field(&mut of, 1, &tensor);
        let mut value = Vec::new();
        bytes_field(&mut value, 1, name.as_bytes());
        bytes_field(&mut value, 2, &of);
        bytes_field(&mut self.bytes, field, &value);
    }

    fn string(&mut self, field: u64, text: &str) {
        bytes_field(&mut self.bytes, field, text.as_bytes());
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number_field(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
