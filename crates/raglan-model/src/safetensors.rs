//! Safetensors files: one, or the shards of an index, read as hostile input.
//!
//! Layout of a file: the header's length (u64, little-endian), the header, the tensors. The header is a JSON object of
//! `"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`, offsets counted from the header's end, and
//! may hold `__metadata__`. The tensors fill the rest of the file without gaps. An index, `model.safetensors.index.json`,
//! says in its `weight_map` which file beside it holds which tensor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{Error, Result};

// Bounds on what may be asked of the reader, well above the largest published models (an index of 9 MB with 92,000
// tensors in 163 shards): a file that asks for more is refused before anything of that size is allocated. Together
// they keep what opening takes below 64 MB.
const MAX_INDEX_BYTES: u64 = 12 << 20;
/// Of all shards together.
const MAX_HEADER_BYTES: u64 = 16 << 20;
const MAX_TENSORS: usize = 1 << 16;
const MAX_SHARDS: usize = 1 << 10;
const MAX_NAME_BYTES: usize = 512;
const MAX_DIMS: usize = 8;

/// How many bytes of a tensor are read before they are made `f32`.
const CHUNK_BYTES: usize = 1 << 18;

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[expect(missing_docs, reason = "the format's own names: a kind of number and its bits")]
#[expect(non_camel_case_types, reason = "the format's own names")]
pub enum SafetensorsType {
    F64,
    F32,
    F16,
    BF16,
    F8_E4M3,
    F8_E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    BOOL,
}

impl SafetensorsType {
    /// How many bytes a number takes.
    pub fn n_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F8_E4M3 | Self::F8_E5M2 | Self::I8 | Self::U8 | Self::BOOL => 1,
        }
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetensorsTensor {
    /// Lengths of its dimensions, the outermost (rows) first; a single number has none.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub dtype: SafetensorsType,
    /// First byte in its file.
    pub start: u64,
    /// Length in bytes.
    pub n_bytes: u64,
    shard: u32,
}

/// The tensors of one safetensors file or of the shards of an index, whose headers have been checked.
///
/// Tensors are read one at a time, from any thread.
///
/// Invariant: each tensor lies within its file, no two overlap, and its byte length fits its shape and type.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    shards: Vec<PathBuf>,
    tensors: BTreeMap<String, SafetensorsTensor>,
}

impl SafetensorsFile {
    /// Opens a `.safetensors` file, an index of shards (`….json`), or what lies in a folder: `model.safetensors`, or
    /// else `model.safetensors.index.json`. Reads the headers and no tensors.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be read; [`Error::Malformed`], which names the file, when one is not a sound
    /// safetensors file, or an index names a file that does not lie beside it or does not hold the tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let mut path = path.as_ref().to_owned();
        if path.is_dir() {
            let (single, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
            path = if !single.exists() && index.exists() { index } else { single };
        }
        let mut table = Table { tensors: BTreeMap::new(), header_bytes: 0 };
        let shards = if path.extension().is_some_and(|extension| extension == "json") {
            let shards = read_index(&path, &mut table.tensors)?;
            for (shard, path) in shards.iter().enumerate() {
                table.read_header(path, shard as u32, Names::OfIndex)?;
            }
            let missing = |(_, tensor): &(&String, &Option<SafetensorsTensor>)| tensor.is_none();
            if let Some((name, _)) = table.tensors.iter().map(|(name, (_, tensor))| (name, tensor)).find(missing) {
                return Err(malformed(&path, format!("its file has no tensor `{name}`")));
            }
            shards
        } else {
            table.read_header(&path, 0, Names::All)?;
            vec![path.clone()]
        };
        let tensors = table.tensors.into_iter().filter_map(|(name, (_, tensor))| Some((name, tensor?))).collect();
        Ok(Self { path, shards, tensors })
    }

    /// The path of the file or index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, SafetensorsTensor> {
        &self.tensors
    }

    /// Reads a tensor of floating-point numbers and makes them `f32`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when there is no such tensor, its shape is another one, its numbers are no floating-point
    /// numbers of at least 16 bits, or one is not finite; [`Error::Io`].
    pub fn tensor_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.expect_shape(name, shape)?;
        let path = &self.shards[tensor.shard as usize];
        let decode: fn(&[u8], &mut Vec<f32>) = match tensor.dtype {
            SafetensorsType::F64 => {
                |bytes, to| to.extend(bytes.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x) as f32))
            }
            SafetensorsType::F32 => |bytes, to| to.extend(bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x))),
            SafetensorsType::F16 => {
                |bytes, to| to.extend(bytes.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x).to_f32()))
            }
            SafetensorsType::BF16 => {
                |bytes, to| to.extend(bytes.as_chunks().0.iter().map(|&x| bf16::from_le_bytes(x).to_f32()))
            }
            other => return Err(malformed(path, format!("tensor `{name}` is of type {other:?}"))),
        };
        let mut numbers = Vec::with_capacity(shape.iter().product());
        self.read(tensor, |bytes| decode(bytes, &mut numbers))?;
        if !numbers.iter().all(|x| x.is_finite()) {
            return Err(not_finite(path, name));
        }
        Ok(numbers)
    }

    /// Reads the bits of a tensor of bfloat16 numbers; `None` when it is stored in another type.
    ///
    /// # Errors
    ///
    /// As for [`tensor_f32`](Self::tensor_f32).
    pub fn tensor_bf16(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<u16>>> {
        let tensor = self.expect_shape(name, shape)?;
        if tensor.dtype != SafetensorsType::BF16 {
            return Ok(None);
        }
        let mut bits = Vec::with_capacity(shape.iter().product());
        self.read(tensor, |bytes| bits.extend(bytes.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes))))?;
        if !bits.iter().all(|&bits| bf16::from_bits(bits).is_finite()) {
            return Err(not_finite(&self.shards[tensor.shard as usize], name));
        }
        Ok(Some(bits))
    }

    /// The tensor of a name, which must have this shape.
    pub(crate) fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<&SafetensorsTensor> {
        let tensor = self.tensors.get(name);
        let tensor = tensor.ok_or_else(|| malformed(&self.path, format!("there is no tensor `{name}`")))?;
        if tensor.shape != shape {
            let path = &self.shards[tensor.shard as usize];
            let found = &tensor.shape;
            return Err(malformed(path, format!("tensor `{name}`: expected shape {shape:?}, found {found:?}")));
        }
        Ok(tensor)
    }

    /// Hands a tensor's bytes over in order, in pieces of whole numbers.
    fn read(&self, tensor: &SafetensorsTensor, mut piece: impl FnMut(&[u8])) -> Result<()> {
        let path = &self.shards[tensor.shard as usize];
        let io = |source| Error::Io { path: path.clone(), source };
        let mut file = File::open(path).map_err(io)?;
        file.seek(SeekFrom::Start(tensor.start)).map_err(io)?;
        let mut buffer = vec![0; CHUNK_BYTES.min(tensor.n_bytes as usize)];
        let mut left = tensor.n_bytes;
        while left > 0 {
            let n = (CHUNK_BYTES as u64).min(left);
            let bytes = &mut buffer[..n as usize];
            file.read_exact(bytes).map_err(io)?;
            piece(bytes);
            left -= n;
        }
        Ok(())
    }
}

fn malformed(path: &Path, problem: String) -> Error {
    Error::Malformed { path: path.to_owned(), problem }
}

fn not_finite(path: &Path, name: &str) -> Error {
    malformed(path, format!("tensor `{name}` holds something that is not a finite number"))
}

/// A parser's complaint, without the whole of a hostile text in it.
fn bad_json(path: &Path, error: &serde_json::Error) -> Error {
    malformed(path, error.to_string().chars().take(200).collect())
}

/// Opens what must be an ordinary file (another kind might never end, or never begin), and gives its length.
fn open_file(path: &Path) -> Result<(File, u64)> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(malformed(path, "not a file".into()));
    }
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    Ok((file, len))
}

/// Reads an index: puts each tensor's name and shard into the table, and gives the shards' paths.
fn read_index(path: &Path, tensors: &mut BTreeMap<String, (u32, Option<SafetensorsTensor>)>) -> Result<Vec<PathBuf>> {
    let (file, len) = open_file(path)?;
    if len > MAX_INDEX_BYTES {
        return Err(malformed(path, format!("an index of {len} bytes")));
    }
    let mut json = Vec::with_capacity(len as usize);
    file.take(len).read_to_end(&mut json).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let json = str::from_utf8(&json).map_err(|e| malformed(path, e.to_string()))?;
    let mut shards = BTreeMap::new();
    let mut found = false;
    let place = |name: String, file: String| {
        let plain = file.ends_with(".safetensors") && !file.contains(['/', '\\', ':', '\0']);
        if !plain || file.len() > MAX_NAME_BYTES {
            let file: String = file.chars().take(100).collect();
            return Err(format!("`{file}` is not the name of a safetensors file beside it"));
        }
        let next = shards.len() as u32;
        let shard = *shards.entry(file).or_insert(next);
        if shards.len() > MAX_SHARDS {
            return Err(format!("more than {MAX_SHARDS} files"));
        }
        check_name(&name, tensors.len())?;
        match tensors.entry(name) {
            Entry::Vacant(place) => drop(place.insert((shard, None))),
            Entry::Occupied(place) => return Err(format!("tensor `{}` is there twice", place.key())),
        }
        Ok(())
    };
    parse(json, Index { found: &mut found, each: place }).map_err(|e| bad_json(path, &e))?;
    if !found {
        return Err(malformed(path, "there is no `weight_map`".into()));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut paths = vec![PathBuf::new(); shards.len()];
    for (file, shard) in shards {
        paths[shard as usize] = folder.join(file);
    }
    Ok(paths)
}

fn check_name(name: &str, n_before: usize) -> Result<(), String> {
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("a name of {} bytes", name.len()));
    }
    if n_before >= MAX_TENSORS {
        return Err(format!("more than {MAX_TENSORS} tensors"));
    }
    Ok(())
}

/// Which tensors of a file are wanted.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    All,
    /// Those that the index expects in this file.
    OfIndex,
}

/// The tensors so far, each with the shard that it is to lie in.
struct Table {
    tensors: BTreeMap<String, (u32, Option<SafetensorsTensor>)>,
    header_bytes: u64,
}

/// A tensor as a header describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    dtype: SafetensorsType,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Table {
    fn read_header(&mut self, path: &Path, shard: u32, names: Names) -> Result<()> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let (mut file, len) = open_file(path)?;
        let mut n_header = [0; 8];
        if len < 8 {
            return Err(malformed(path, format!("{len} bytes are no safetensors file")));
        }
        file.read_exact(&mut n_header).map_err(io)?;
        let n_header = u64::from_le_bytes(n_header);
        if n_header > len - 8 || n_header > MAX_HEADER_BYTES - self.header_bytes {
            return Err(malformed(path, format!("a header of {n_header} bytes in a file of {len}")));
        }
        self.header_bytes += n_header;
        let mut json = vec![0; n_header as usize];
        file.read_exact(&mut json).map_err(io)?;
        let json = str::from_utf8(&json).map_err(|e| malformed(path, e.to_string()))?;
        let first = 8 + n_header;
        let mut spans = Vec::new();
        let place = |name: String, described: Described| {
            check_name(&name, spans.len())?;
            let Described { dtype, shape: Shape(shape), data_offsets: (start, end) } = described;
            let numbers = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
            let n_bytes = numbers.and_then(|n| n.checked_mul(dtype.n_bytes()));
            if end > len - first || end.checked_sub(start).is_none_or(|n| n_bytes.is_none_or(|m| m as u64 != n)) {
                return Err(format!("tensor `{name}` of {dtype:?}{shape:?} cannot lie at bytes {start} to {end}"));
            }
            spans.push((start, end));
            let tensor = SafetensorsTensor { shape, dtype, start: first + start, n_bytes: end - start, shard };
            match (names, self.tensors.get_mut(&name)) {
                (Names::All, None) => drop(self.tensors.insert(name, (shard, Some(tensor)))),
                (Names::OfIndex, Some((expected, place @ None))) if *expected == shard => *place = Some(tensor),
                (_, Some((expected, Some(_)))) if *expected == shard => {
                    return Err(format!("tensor `{name}` is there twice"));
                }
                _ => {} // The index does not want it from here.
            }
            Ok(())
        };
        parse(json, Object { ignored: Some("__metadata__"), each: place, value: PhantomData })
            .map_err(|e| bad_json(path, &e))?;
        spans.sort_unstable();
        let mut end = 0;
        for span in spans.into_iter().chain([(len - first, len - first)]) {
            if span.0 != end {
                return Err(malformed(path, format!("tensors overlap, or leave a gap, at byte {end} of them")));
            }
            end = span.1;
        }
        Ok(())
    }
}

/// Reads a whole text of JSON.
fn parse<'de>(json: &'de str, seed: impl DeserializeSeed<'de, Value = ()>) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_str(json);
    seed.deserialize(&mut json)?;
    json.end()
}

/// A JSON object whose entries are handed over as they come; `serde_json`'s maps would swallow a name that is there
/// twice.
struct Object<V, F> {
    /// The entry that is of no interest; it must be an object of texts.
    ignored: Option<&'static str>,
    each: F,
    value: PhantomData<V>,
}

impl<'de, V: Deserialize<'de>, F: FnMut(String, V) -> Result<(), String>> DeserializeSeed<'de> for Object<V, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, V: Deserialize<'de>, F: FnMut(String, V) -> Result<(), String>> Visitor<'de> for Object<V, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<String>()? {
            if self.ignored == Some(&*key) {
                entries.next_value_seed(Texts)?;
            } else {
                (self.each)(key, entries.next_value()?).map_err(serde::de::Error::custom)?;
            }
        }
        Ok(())
    }
}

/// An object of texts, passed over. Nothing is nested in it, since that would cost time.
struct Texts;

impl<'de> DeserializeSeed<'de> for Texts {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(()) // `null`, where there are none.
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_key::<IgnoredAny>()?.is_some() {
            entries.next_value::<Cow<str>>()?;
        }
        Ok(())
    }
}

/// An index, of whose `weight_map` each entry is handed over.
struct Index<'f, F> {
    /// Whether there is a `weight_map`.
    found: &'f mut bool,
    each: F,
}

impl<'de, F: FnMut(String, String) -> Result<(), String>> DeserializeSeed<'de> for Index<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, F: FnMut(String, String) -> Result<(), String>> Visitor<'de> for Index<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<String>()? {
            if key != "weight_map" {
                entries.next_value::<IgnoredAny>()?;
            } else if std::mem::replace(self.found, true) {
                return Err(serde::de::Error::duplicate_field("weight_map"));
            } else {
                entries.next_value_seed(Object { ignored: None, each: &mut self.each, value: PhantomData })?;
            }
        }
        Ok(())
    }
}

/// The lengths of a few dimensions.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_DIMS} lengths")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut dims: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dim) = dims.next_element()? {
                    if shape.len() == MAX_DIMS {
                        return Err(serde::de::Error::invalid_length(MAX_DIMS + 1, &self));
                    }
                    shape.push(dim);
                }
                Ok(Shape(shape))
            }
        }
        json.deserialize_seq(Dims)
    }
}

#[cfg(test)]
mod tests;
