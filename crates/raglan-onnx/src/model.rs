//! A model in ONNX: token ids in batches to vectors or scores.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, Tensor, TensorElementType};

use crate::runtime::environment;
use crate::{Error, OnnxFiles, Result};

/// How many tokens one run reads at most, unless a single text has more.
const BATCH_TOKENS: usize = 1024;

/// What a model can be given, by name.
const INPUTS: [&str; 4] = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];

/// What exporters call the vectors of tokens, best first; otherwise it is the only output of three dimensions.
const TOKENS: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// What sentence-transformers calls the vector of a text; a model with one output may give it another name.
const SENTENCE: &str = "sentence_embedding";

/// What exporters call the scores of classes; a model with one output may give it another name.
const CLASSES: &str = "logits";

/// A model in ONNX.
///
/// Texts of a batch are padded to the longest of them, and what is padded is masked; sums of a library over another
/// length may differ in their last bits.
pub struct OnnxModel {
    path: PathBuf,
    /// A run needs all of it; the threads are its own.
    session: Mutex<Session>,
    inputs: Vec<Input>,
    output: String,
    gives: OnnxOutput,
    /// The length of a vector; of classes, any number.
    dim: Option<usize>,
    pad_token: i64,
}

/// A text, or a pair of them, in tokens.
#[derive(Clone, Copy, Debug)]
pub struct OnnxText<'a> {
    /// The tokens, special ones included.
    pub ids: &'a [u32],
    /// Of which text each is, 0 or 1; those behind the last are 0.
    pub types: &'a [u32],
}

/// What a model is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnnxUse {
    /// Vectors of tokens or texts.
    Vectors,
    /// Scores of classes, `logits`.
    Classes,
}

/// What a model gives of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnnxOutput {
    /// A vector for each token.
    Tokens,
    /// One vector, pooled by the model itself.
    Sentence,
    /// A score for each class.
    Classes,
}

/// Something that the model is to be given.
#[derive(Debug)]
struct Input {
    name: String,
    kind: TensorElementType,
}

impl fmt::Debug for OnnxModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("OnnxModel");
        debug.field("path", &self.path).field("inputs", &self.inputs).field("output", &self.output);
        debug.finish_non_exhaustive()
    }
}

impl OnnxModel {
    /// Loads a model, and the library that runs it (see [`find_onnx_runtime`](crate::find_onnx_runtime)), to work on
    /// `threads` threads.
    ///
    /// # Errors
    ///
    /// [`Error::NoRuntime`] without the library; [`Error::Runtime`] when the library refuses the file;
    /// [`Error::Unsupported`] when the model wants what is not given, or gives nothing that is of use here.
    pub fn load(files: &OnnxFiles, wanted: OnnxUse, library: Option<&Path>, threads: usize) -> Result<Self> {
        let path = files.model.clone();
        let refused = |error: ort::Error| Error::Runtime { path: path.clone(), source: error };
        let environment = environment(library)?;
        let builder = Session::builder(&environment).map_err(refused)?;
        let builder = builder.with_intra_threads(threads.max(1)).map_err(|error| refused(error.into()))?;
        let mut builder = builder.with_intra_op_spinning(false).map_err(|error| refused(error.into()))?;
        let session = builder.commit_from_file(&path).map_err(refused)?;
        let unsupported = |what: String| Error::Unsupported { path: path.clone(), what };
        let inputs = session.inputs().iter().map(|input| match input.dtype().tensor_type() {
            Some(kind @ (TensorElementType::Int64 | TensorElementType::Int32)) if INPUTS.contains(&input.name()) => {
                Ok(Input { name: input.name().to_owned(), kind })
            }
            _ => {
                let (name, kind) = (input.name(), input.dtype());
                Err(unsupported(format!(
                    "the input `{name}` of {kind}; whole numbers are given as {}",
                    INPUTS.join(", ")
                )))
            }
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let is_of = |output: &&Outlet, n: usize| output.dtype().tensor_shape().is_some_and(|shape| shape.len() == n);
        let named = |name: &str| session.outputs().iter().find(|output| output.name() == name);
        let tokens = TOKENS.into_iter().find_map(named).or_else(|| session.outputs().iter().find(|o| is_of(o, 3)));
        let only = session.outputs().first().filter(|_| session.outputs().len() == 1);
        let sentence = named(SENTENCE).or(only.filter(|output| output.name() != CLASSES));
        let classes = named(CLASSES).or(only.filter(|output| output.name() != SENTENCE));
        let (output, gives) = match (wanted, tokens, sentence, classes) {
            (OnnxUse::Vectors, Some(tokens), ..) if is_of(&tokens, 3) => (tokens, OnnxOutput::Tokens),
            (OnnxUse::Vectors, _, Some(sentence), _) if is_of(&sentence, 2) => (sentence, OnnxOutput::Sentence),
            (OnnxUse::Classes, .., Some(classes)) if is_of(&classes, 2) => (classes, OnnxOutput::Classes),
            _ => {
                let names: Vec<&str> = session.outputs().iter().map(Outlet::name).collect();
                let wanted = match wanted {
                    OnnxUse::Vectors => "neither vectors of tokens (`last_hidden_state`) nor a `sentence_embedding`",
                    OnnxUse::Classes => "no scores of classes (`logits`)",
                };
                return Err(unsupported(format!("a model that gives {wanted}, but {}", names.join(", "))));
            }
        };
        if output.dtype().tensor_type() != Some(TensorElementType::Float32) {
            return Err(unsupported(format!("the output `{}` of {}, not of f32", output.name(), output.dtype())));
        }
        let (output, pad_token) = (output.name().to_owned(), files.pad_token);
        let dim = (gives != OnnxOutput::Classes).then_some(files.hidden_size);
        Ok(Self { path, session: Mutex::new(session), inputs, output, gives, dim, pad_token })
    }

    /// What it gives of a text.
    pub fn gives(&self) -> OnnxOutput {
        self.gives
    }

    /// What `make` makes of each text's vectors, in order: `[n_tokens, dim]`, `[1, dim]` where the model pools, or
    /// `[n_classes]`.
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`]; [`Error::Malformed`] when the model gives another shape than it said; what `make` gives.
    pub fn encode<T, E: From<Error>>(
        &self,
        texts: &[OnnxText<'_>],
        mut make: impl FnMut(&[f32]) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| std::cmp::Reverse(texts[text].ids.len()));
        let mut made: Vec<Option<T>> = texts.iter().map(|_| None).collect();
        let mut rest = &*order;
        while let Some(&first) = rest.first() {
            let longest = texts[first].ids.len();
            let n_texts = (BATCH_TOKENS / longest.max(1)).clamp(1, rest.len());
            let (batch, others) = rest.split_at(n_texts);
            let of_batch: Vec<OnnxText<'_>> = batch.iter().map(|&text| texts[text]).collect();
            self.run(&of_batch, longest, |place, vectors| -> Result<(), E> {
                made[batch[place]] = Some(make(vectors)?);
                Ok(())
            })?;
            rest = others;
        }
        Ok(made.into_iter().map(|made| made.expect("every text is in a batch")).collect())
    }

    /// Runs a batch of texts of no more than `longest` tokens, and calls `each` with each one's place and vectors.
    fn run<E: From<Error>>(
        &self,
        texts: &[OnnxText<'_>],
        longest: usize,
        mut each: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |source: ort::Error| Error::Runtime { path: self.path.clone(), source };
        let mut given: Vec<(&str, SessionInputValue)> = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let mut values = Vec::with_capacity(texts.len() * longest);
            for OnnxText { ids, types } in texts {
                values.extend((0..longest).map(|token| match (&*input.name, ids.get(token)) {
                    ("input_ids", Some(&id)) => i64::from(id),
                    ("input_ids", None) => self.pad_token,
                    ("attention_mask", id) => i64::from(id.is_some()),
                    ("position_ids", _) => token as i64,
                    _ => types.get(token).map_or(0, |&of| i64::from(of)),
                }));
            }
            let shape = [texts.len(), longest];
            let value: SessionInputValue = match input.kind {
                TensorElementType::Int32 => {
                    let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
                    Tensor::from_array((shape, values)).map_err(failed)?.into()
                }
                _ => Tensor::from_array((shape, values)).map_err(failed)?.into(),
            };
            given.push((&input.name, value));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(given).map_err(failed)?;
        let output = outputs.get(&self.output).expect("the model was loaded with this output");
        let (shape, vectors) = output.try_extract_tensor::<f32>().map_err(failed)?;
        let sizes: Vec<usize> = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
        let dim = self.dim.or(sizes.last().copied()).unwrap_or(0);
        let rows = if self.gives == OnnxOutput::Tokens { longest } else { 1 };
        let fits = match *sizes {
            [n, tokens, of_token] if rows == tokens => (n, of_token) == (texts.len(), dim),
            [n, of_text] if self.gives != OnnxOutput::Tokens => (n, of_text) == (texts.len(), dim),
            _ => false,
        };
        if !fits {
            let problem = format!(
                "of {} texts of {longest} tokens it gives `{}` of shape {sizes:?}, where vectors of {dim} were expected",
                texts.len(),
                self.output,
            );
            return Err(Error::Malformed { path: self.path.clone(), problem }.into());
        }
        for (place, text) in texts.iter().enumerate() {
            let of_text = &vectors[place * rows * dim..];
            each(place, &of_text[..rows.min(text.ids.len()) * dim])?;
        }
        Ok(())
    }
}
