//! GGUF files: metadata, tensor table and weights, read as hostile input.
//!
//! Layout: magic `GGUF`, version (u32), number of tensors and of metadata entries (u64 each), the metadata, the
//! tensor table, padding to `general.alignment`, the tensors. Numbers are little-endian.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use candle_core::quantized::{GgmlDType, ggml_file};
use raglan_kernels::{BlockFormat, dequantize_blocks};

use crate::weight_file::WeightFile;
use crate::{Error, Result};

// Bounds on what a header may hold, several times what the largest published models need: a file that asks for more
// is refused before anything of that size is allocated.
const MAX_HEADER_BYTES: u64 = 48 << 20;
/// What a header may take in memory: a vocabulary of 262,144 tokens with as many scores and types and twice as many
/// merges takes 45 MB.
const MAX_HEADER_MEMORY: u64 = 56 << 20;
const MAX_NAME_BYTES: u64 = 1 << 10;
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_ARRAY_LEN: u64 = 1 << 22;
const MAX_STRING_BYTES: u64 = 16 << 20;
const MAX_DIMS: u32 = 4;
const MAX_DEPTH: usize = 4;

/// A value of a GGUF file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// A whole number of any width.
    Integer(i128),
    /// A floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Whole numbers.
    Integers(Vec<i64>),
    /// Floating-point numbers.
    Floats(Vec<f32>),
    /// Truth values.
    Bools(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
    /// Arrays of arrays.
    Arrays(Vec<GgufValue>),
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// Lengths of its dimensions, the outermost (rows) first; GGUF itself writes them innermost first.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub(crate) dtype: GgmlDType,
    /// First byte in the file.
    pub start: u64,
    /// Length in bytes.
    pub n_bytes: usize,
}

impl GgufTensor {
    /// The format, if raglan's kernels know it.
    fn format(&self) -> Option<BlockFormat> {
        Some(match self.dtype {
            GgmlDType::F32 => BlockFormat::F32,
            GgmlDType::F16 => BlockFormat::F16,
            GgmlDType::BF16 => BlockFormat::Bf16,
            GgmlDType::Q4_0 => BlockFormat::Q4_0,
            GgmlDType::Q4_1 => BlockFormat::Q4_1,
            GgmlDType::Q5_0 => BlockFormat::Q5_0,
            GgmlDType::Q5_1 => BlockFormat::Q5_1,
            GgmlDType::Q8_0 => BlockFormat::Q8_0,
            GgmlDType::Q4K => BlockFormat::Q4K,
            GgmlDType::Q5K => BlockFormat::Q5K,
            GgmlDType::Q6K => BlockFormat::Q6K,
            _ => return None,
        })
    }
}

/// An open GGUF file whose header has been checked.
///
/// Invariant: each tensor lies within the file, no two overlap, and its byte length fits its shape and dtype.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: Mutex<File>,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, GgufTensor>,
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is not a sound GGUF file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let io = |source| Error::Io { path: path.clone(), source };
        // Another kind of file might never end, or never begin.
        if !std::fs::metadata(&path).map_err(io)?.is_file() {
            return Err(Error::Malformed { path, problem: "not a file".into() });
        }
        let file = File::open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut header = Header { path: &path, reader: BufReader::new(file), at: 0, len, memory: 0 };
        let (metadata, tensors) = header.read()?;
        let file = Mutex::new(header.reader.into_inner());
        Ok(Self { path, file, metadata, tensors })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of the metadata.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// A text of the metadata; `None` when there is no such entry.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when the entry is of another type; so for all of these.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_type(key, "a text")),
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Texts(texts)) => Ok(Some(texts)),
            Some(_) => Err(self.wrong_type(key, "a list of texts")),
        }
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Integers(numbers)) => Ok(Some(numbers)),
            Some(_) => Err(self.wrong_type(key, "a list of whole numbers")),
        }
    }

    /// A list of floating-point numbers.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Floats(numbers)) => Ok(Some(numbers)),
            Some(_) => Err(self.wrong_type(key, "a list of floating-point numbers")),
        }
    }

    /// A whole number from 0 to 2³²−1.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Integer(n)) => {
                u32::try_from(*n).map(Some).map_err(|_| self.wrong_type(key, "a number of 32 bits"))
            }
            Some(_) => Err(self.wrong_type(key, "a whole number")),
        }
    }

    /// A finite number.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(GgufValue::Integer(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.wrong_type(key, "a finite number")),
        }
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Bool(yes)) => Ok(Some(*yes)),
            Some(_) => Err(self.wrong_type(key, "a truth value")),
        }
    }

    /// The entry that a model or tokenizer cannot do without.
    pub(crate) fn required<T>(&self, key: &str, value: Result<Option<T>>) -> Result<T> {
        value?.ok_or_else(|| self.malformed(format!("metadata lacks `{key}`")))
    }

    /// Reads a tensor and makes its numbers `f32`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when there is no such tensor, its shape is another one or a number is not finite;
    /// [`Error::Io`].
    pub fn dequantize(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let bytes = self.bytes(name, shape)?;
        let tensor = &self.tensors[name];
        if let Some(format) = tensor.format() {
            let mut numbers = vec![0.0; shape.iter().product()];
            dequantize_blocks(format, &bytes, &mut numbers)?;
            return self.finite(name, numbers);
        }
        let quantized = ggml_file::qtensor_from_ggml(tensor.dtype, &bytes, shape.to_vec(), &Device::Cpu);
        let numbers = quantized.and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1());
        self.finite(name, numbers.map_err(Error::tensor)?)
    }

    fn finite(&self, name: &str, numbers: Vec<f32>) -> Result<Vec<f32>> {
        if numbers.iter().all(|x| x.is_finite()) {
            return Ok(numbers);
        }
        Err(self.malformed(format!("tensor `{name}` holds something that is not a finite number")))
    }

    /// Reads a tensor as it is stored.
    ///
    /// # Errors
    ///
    /// As for [`dequantize`](Self::dequantize).
    pub fn bytes(&self, name: &str, shape: &[usize]) -> Result<Vec<u8>> {
        self.expect_shape(name, shape)?;
        let tensor = &self.tensors[name];
        let mut bytes = vec![0; tensor.n_bytes];
        let io = |source| Error::Io { path: self.path.clone(), source };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(tensor.start)).map_err(io)?;
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    pub(crate) fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), problem: problem.into() }
    }

    fn wrong_type(&self, key: &str, wanted: &str) -> Error {
        self.malformed(format!("metadata `{key}` is not {wanted}"))
    }
}

impl WeightFile for GgufFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors.get(tensor).map(|tensor| &*tensor.shape)
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn format(&self, tensor: &str) -> Option<BlockFormat> {
        self.tensors.get(tensor).and_then(GgufTensor::format)
    }

    fn bytes(&self, tensor: &str, shape: &[usize]) -> Result<Vec<u8>> {
        self.bytes(tensor, shape)
    }

    fn numbers(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.dequantize(tensor, shape)
    }
}

/// A header in the course of being read.
struct Header<'p> {
    path: &'p Path,
    reader: BufReader<File>,
    at: u64,
    len: u64,
    /// What has been read takes in memory, about.
    memory: u64,
}

impl Header<'_> {
    fn read(&mut self) -> Result<(BTreeMap<String, GgufValue>, BTreeMap<String, GgufTensor>)> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err(self.malformed("not a GGUF file"));
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(self.malformed(format!("GGUF version {version} is not 2 or 3")));
        }
        let n_tensors = self.count("tensors", MAX_ENTRIES, 8 + 4 + 8 + 4 + 8)?;
        let n_entries = self.count("metadata entries", MAX_ENTRIES, 8 + 4 + 1)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..n_entries {
            let key = self.name()?;
            self.takes(128)?;
            let tag = self.u32()?;
            let value = self.value(tag, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.malformed(format!("metadata `{key}` is there twice")));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(&GgufValue::Integer(n)) if (1..=1 << 20).contains(&n) && (n as u64).is_power_of_two() => n as u64,
            Some(_) => return Err(self.malformed("`general.alignment` is not a power of two up to 2^20")),
        };
        let mut tensors = BTreeMap::new();
        for _ in 0..n_tensors {
            let (name, tensor) = self.tensor()?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(self.malformed(format!("tensor `{name}` is there twice")));
            }
        }
        let start = self.at.next_multiple_of(alignment);
        for (name, tensor) in &mut tensors {
            let end = tensor.start.checked_add(start).and_then(|at| at.checked_add(tensor.n_bytes as u64));
            if tensor.start % alignment != 0 || end.is_none_or(|end| end > self.len) {
                let problem = format!(
                    "tensor `{name}`, {} bytes at offset {}, is unaligned or runs past the end of the file",
                    tensor.n_bytes, tensor.start
                );
                return Err(self.malformed(problem));
            }
            tensor.start += start;
        }
        let mut spans: Vec<_> = tensors.values().map(|tensor| (tensor.start, tensor.n_bytes as u64)).collect();
        spans.sort_unstable();
        if spans.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            return Err(self.malformed("tensors overlap"));
        }
        Ok((metadata, tensors))
    }

    /// One line of the tensor table; `start` still counts from the first tensor.
    fn tensor(&mut self) -> Result<(String, GgufTensor)> {
        let name = self.name()?;
        self.takes(256)?;
        let n_dims = self.u32()?;
        if n_dims == 0 || n_dims > MAX_DIMS {
            return Err(self.malformed(format!("tensor `{name}` has {n_dims} dimensions")));
        }
        let mut shape = Vec::with_capacity(n_dims as usize);
        for _ in 0..n_dims {
            shape.push(self.u64()?);
        }
        let tag = self.u32()?;
        let start = self.u64()?;
        let Some(dtype) = dtype(tag) else {
            return Err(self.malformed(format!("tensor `{name}` is of type {tag}, which cannot be read")));
        };
        let block = dtype.block_size() as u64;
        let n_bytes = shape
            .iter()
            .try_fold(1_u64, |product, &dim| product.checked_mul(dim))
            .filter(|_| shape[0] % block == 0)
            .and_then(|n_elements| (n_elements / block).checked_mul(dtype.type_size() as u64))
            .filter(|&n_bytes| n_bytes > 0 && n_bytes <= self.len);
        let Some(n_bytes) = n_bytes else {
            return Err(self.malformed(format!("tensor `{name}` cannot have the dimensions {shape:?}")));
        };
        shape.reverse();
        let shape = shape.into_iter().map(|dim| dim as usize).collect(); // Each is at most 32 × the file's length.
        Ok((name, GgufTensor { shape, dtype, start, n_bytes: n_bytes as usize }))
    }

    fn value(&mut self, tag: u32, depth: usize) -> Result<GgufValue> {
        Ok(match tag {
            6 => GgufValue::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => GgufValue::Bool(self.bytes::<1>()? != [0]),
            8 => GgufValue::Text(self.string()?),
            9 => self.array(depth)?,
            12 => GgufValue::Float(f64::from_le_bytes(self.bytes()?)),
            _ => GgufValue::Integer(self.integer(tag)?),
        })
    }

    fn integer(&mut self, tag: u32) -> Result<i128> {
        Ok(match tag {
            0 => u8::from_le_bytes(self.bytes()?).into(),
            1 => i8::from_le_bytes(self.bytes()?).into(),
            2 => u16::from_le_bytes(self.bytes()?).into(),
            3 => i16::from_le_bytes(self.bytes()?).into(),
            4 => u32::from_le_bytes(self.bytes()?).into(),
            5 => i32::from_le_bytes(self.bytes()?).into(),
            10 => u64::from_le_bytes(self.bytes()?).into(),
            11 => i64::from_le_bytes(self.bytes()?).into(),
            _ => return Err(self.malformed(format!("metadata is of unknown type {tag}"))),
        })
    }

    fn array(&mut self, depth: usize) -> Result<GgufValue> {
        let tag = self.u32()?;
        let smallest = match tag {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => return Err(self.malformed(format!("metadata is of unknown type {tag}"))),
        };
        let len = self.count("array elements", MAX_ARRAY_LEN, smallest)?;
        // The elements' size in memory, which may be eight times that in the file.
        self.takes(
            len * if tag == 9 {
                32
            } else if tag == 8 {
                24
            } else if matches!(tag, 6 | 12) {
                4
            } else {
                8
            },
        )?;
        Ok(match tag {
            6 => GgufValue::Floats(self.elements(len, |header| Ok(f32::from_le_bytes(header.bytes()?)))?),
            7 => GgufValue::Bools(self.elements(len, |header| Ok(header.bytes::<1>()? != [0]))?),
            8 => GgufValue::Texts(self.elements(len, Self::string)?),
            9 if depth < MAX_DEPTH => GgufValue::Arrays(self.elements(len, |header| header.array(depth + 1))?),
            9 => return Err(self.malformed("metadata is nested too deeply")),
            12 => GgufValue::Floats(self.elements(len, |header| Ok(f64::from_le_bytes(header.bytes()?) as f32))?),
            _ => GgufValue::Integers(self.elements(len, |header| {
                let wide = header.integer(tag)?;
                i64::try_from(wide).map_err(|_| header.malformed(format!("number {wide} is too large")))
            })?),
        })
    }

    /// So many elements, whose room has been asked for.
    fn elements<T>(&mut self, len: u64, element: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut elements = Vec::with_capacity(len as usize);
        for _ in 0..len {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// Refuses a header that takes too much memory.
    fn takes(&mut self, n_bytes: u64) -> Result<()> {
        self.memory += n_bytes;
        if self.memory > MAX_HEADER_MEMORY {
            return Err(self.malformed(format!("the header takes more than {} MB", MAX_HEADER_MEMORY >> 20)));
        }
        Ok(())
    }

    /// A number of things to come, each of at least `smallest` bytes.
    fn count(&mut self, what: &str, most: u64, smallest: u64) -> Result<u64> {
        let n = self.u64()?;
        if n > most || n.saturating_mul(smallest) > self.len - self.at {
            return Err(self.malformed(format!("{n} {what} do not fit into the file")));
        }
        Ok(n)
    }

    fn string(&mut self) -> Result<String> {
        let len = self.u64()?;
        if len > MAX_STRING_BYTES || len > self.len - self.at {
            return Err(self.malformed(format!("a text of {len} bytes does not fit into the file")));
        }
        self.takes(len.max(1).next_multiple_of(16) + 16)?; // As an allocator rounds it.
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        // Vocabularies in the wild hold tokens that are not UTF-8; they can never match a text, so any reading does.
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// The name of a tensor or an entry, which messages repeat.
    fn name(&mut self) -> Result<String> {
        let name = self.string()?;
        if name.len() as u64 > MAX_NAME_BYTES {
            return Err(self.malformed(format!("a name of {} bytes", name.len())));
        }
        Ok(name)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let after = self.at + bytes.len() as u64;
        if after > self.len.min(MAX_HEADER_BYTES) {
            return Err(self.malformed("the header is cut short, or longer than 48 MiB"));
        }
        self.reader.read_exact(bytes).map_err(|source| Error::Io { path: self.path.to_owned(), source })?;
        self.at = after;
        Ok(())
    }

    fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.to_owned(), problem: problem.into() }
    }
}

/// The tensor types that can be made `f32`, by their GGUF number.
fn dtype(tag: u32) -> Option<GgmlDType> {
    Some(match tag {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a file with the given metadata and one 2×32 tensor of zeros in Q8_0.
    fn small_file() -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(string("general.architecture"));
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(string("llama"));
        bytes.extend(string("llama.block_count"));
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend(string("tokens"));
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(string("a"));
        bytes.extend(string("é"));
        bytes.extend(string("w"));
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend(32_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        // Per row: scale 1.0 as f16, then 32 signed bytes.
        for row in 0..2_u8 {
            bytes.extend(0x3c00_u16.to_le_bytes());
            bytes.extend((0..32_u8).map(|i| i + row));
        }
        bytes
    }

    fn open(bytes: &[u8]) -> Result<GgufFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        GgufFile::open(path)
    }

    #[test]
    fn metadata_and_weights_read_back() {
        let file = open(&small_file()).unwrap();
        assert_eq!(file.text("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.u32("llama.block_count").unwrap(), Some(7));
        assert_eq!(file.texts("tokens").unwrap().unwrap(), ["a", "é"]);
        assert_eq!(file.u32("absent").unwrap(), None);
        assert!(file.bool("tokens").is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, small_file()).unwrap();
        let weights = GgufFile::open(path).unwrap().dequantize("w", &[2, 32]).unwrap();
        assert_eq!((weights[31], weights[32 + 31]), (31.0, 32.0));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_by_name() {
        let whole = small_file();
        for len in 0..whole.len() {
            match open(&whole[..len]) {
                Err(Error::Malformed { path, .. }) => assert!(path.ends_with("model.gguf")),
                other => panic!("cut at {len}: {other:?}"),
            }
        }
    }

    #[test]
    fn no_eight_hostile_bytes_anywhere_cause_a_panic_or_a_tensor_outside_of_the_file() {
        let whole = small_file();
        for at in 0..whole.len() - 8 {
            for hostile in [u64::MAX, u64::MAX / 2, 1 << 62, 1 << 40, 0] {
                let mut bytes = whole.clone();
                bytes[at..at + 8].copy_from_slice(&hostile.to_le_bytes());
                if let Ok(file) = open(&bytes) {
                    for tensor in file.tensors().values() {
                        assert!(tensor.start + tensor.n_bytes as u64 <= bytes.len() as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn dimensions_whose_product_overflows_are_refused() {
        let whole = small_file();
        let table = whole.windows(9).position(|bytes| bytes == [1, 0, 0, 0, 0, 0, 0, 0, b'w']).unwrap();
        let mut bytes = whole.clone();
        let dims = table + 9 + 4;
        bytes[dims..dims + 8].copy_from_slice(&(1_u64 << 33).to_le_bytes());
        bytes[dims + 8..dims + 16].copy_from_slice(&(1_u64 << 33).to_le_bytes());
        let problem = open(&bytes).unwrap_err().to_string();
        assert!(problem.contains("`w` cannot have the dimensions"), "{problem}");
    }
}
