use super::*;

/// A file of a header and the bytes behind it.
fn file(header: &str, tensors: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), tensors].concat()
}

fn open(bytes: &[u8]) -> Result<SafetensorsFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    SafetensorsFile::open(path)
}

/// The file is refused, by its name, with these words.
#[track_caller]
fn refused(bytes: &[u8], words: &str) {
    match open(bytes) {
        Err(Error::Malformed { path, problem }) => {
            assert!(path.ends_with("model.safetensors"));
            assert!(problem.contains(words), "{problem}");
            assert!(problem.len() < 1000, "{} bytes", problem.len());
        }
        other => panic!("{other:?}"),
    }
}

fn entry(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

/// A file of one tensor of twelve bytes.
fn with(entry: &str) -> Vec<u8> {
    file(&format!("{{{entry}}}"), &[0; 12])
}

#[test]
fn tensors_read_back_in_every_floating_type() {
    let (a, b) = (entry("a", "F32", "[2,1]", 0, 8), entry("b", "BF16", "[2]", 8, 12));
    let (c, d) = (entry("c", "F16", "[]", 12, 14), entry("d", "F64", "[1]", 14, 22));
    let header =
        format!(r#"{{"__metadata__":{{"format":"pt"}},{d},{a},{},{c},{b}}}   "#, entry("i", "I8", "[1]", 22, 23));
    let mut bytes = Vec::new();
    bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
    bytes.extend([0x3f80u16, 0xc040].iter().flat_map(|x| x.to_le_bytes())); // 1, -3
    bytes.extend(0x3c00u16.to_le_bytes()); // 1
    bytes.extend(0.25f64.to_le_bytes());
    bytes.push(7);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), file(&header, &bytes)).unwrap();
    let file = SafetensorsFile::open(folder.path()).unwrap();
    assert_eq!(file.tensors().keys().collect::<Vec<_>>(), ["a", "b", "c", "d", "i"]);
    assert_eq!(file.tensors()["i"].dtype, SafetensorsType::I8);
    assert_eq!(file.tensor_f32("a", &[2, 1]).unwrap(), [1.5, -2.0]);
    assert_eq!(file.tensor_f32("b", &[2]).unwrap(), [1.0, -3.0]);
    assert_eq!(file.tensor_bf16("b", &[2]).unwrap(), Some(vec![0x3f80, 0xc040]));
    assert_eq!(file.tensor_bf16("a", &[2, 1]).unwrap(), None);
    assert_eq!(file.tensor_f32("c", &[]).unwrap(), [1.0]);
    assert_eq!(file.tensor_f32("d", &[1]).unwrap(), [0.25]);
    for (name, shape) in [("a", &[1, 2][..]), ("i", &[1]), ("absent", &[1])] {
        assert!(matches!(file.tensor_f32(name, shape), Err(Error::Malformed { .. })));
    }
}

#[test]
fn what_is_not_finite_is_refused_when_it_is_read() {
    for (dtype, bytes) in [("F32", f32::NAN.to_le_bytes().to_vec()), ("BF16", vec![0, 0, 0x80, 0x7f])] {
        let shape = format!("[{}]", if dtype == "F32" { 1 } else { 2 });
        let folder = tempfile::tempdir().unwrap();
        let header = format!("{{{}}}", entry("w", dtype, &shape, 0, 4));
        std::fs::write(folder.path().join("model.safetensors"), file(&header, &bytes)).unwrap();
        let file = SafetensorsFile::open(folder.path()).unwrap();
        let shape = file.tensors()["w"].shape.clone();
        assert!(file.tensor_f32("w", &shape).unwrap_err().to_string().contains("not a finite number"));
        assert!(dtype == "F32" || file.tensor_bf16("w", &shape).is_err());
    }
}

#[test]
fn a_tensor_lies_in_the_file_and_alone() {
    assert!(open(&with(&entry("w", "F32", "[3]", 0, 12))).is_ok());
    for (shape, start, end) in [
        ("[4]", 0, 16),                        // past the end
        ("[3]", u64::MAX - 11, u64::MAX),      // far past it
        ("[3]", 12, 0),                        // backwards
        ("[2]", 0, 12),                        // of another length
        ("[4294967296,4294967296,16]", 0, 12), // 2⁶⁸ numbers
        ("[4611686018427387904]", 0, 12),      // 2⁶⁴ bytes
        ("[18446744073709551615,0]", 0, 12),   // nothing
    ] {
        refused(&with(&entry("w", "F32", shape, start, end)), "cannot lie at bytes");
    }
    let two = |a: (u64, u64), b: (u64, u64)| {
        let tensor = |name, (start, end)| entry(name, "U8", &format!("[{}]", end - start), start, end);
        with(&format!("{},{}", tensor("a", a), tensor("b", b)))
    };
    assert!(open(&two((4, 12), (0, 4))).is_ok());
    for (a, b) in [((0, 8), (4, 12)), ((0, 12), (0, 12)), ((0, 4), (6, 12)), ((2, 6), (6, 12)), ((0, 4), (4, 11))] {
        refused(&two(a, b), "overlap, or leave a gap");
    }
}

#[test]
fn headers_that_are_none_are_refused() {
    let good = entry("w", "F32", "[3]", 0, 12);
    for header in [
        "",
        "null",
        "[]",
        "{",
        "{} {}",
        r#"{"w":7}"#,
        r#"{"w":{"dtype":"F32","shape":[3]}}"#,
        r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12,12]}}"#,
        r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,-12]}}"#,
        r#"{"w":{"dtype":"F32","shape":[3.5],"data_offsets":[0,12]}}"#,
        r#"{"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,3],"data_offsets":[0,12]}}"#,
        r#"{"w":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,12]}}"#,
        r#"{"w":{"dtype":"F31","shape":[3],"data_offsets":[0,12]}}"#,
        r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12],"more":0}}"#,
        r#"{"w":{"dtype":"F32","dtype":"F32","shape":[3],"data_offsets":[0,12]}}"#,
        &format!("{{{good},{good}}}"),
        &format!("{{{}}}", good.replace('w', &"w".repeat(1000))),
    ] {
        refused(&file(header, &[0; 12]), "");
    }
    refused(&file(&format!("{{{}", "\"a\":[".repeat(1000)), &[]), "");
    let mut foreign = with(&good);
    foreign[10] = 0xff;
    refused(&foreign, "utf-8");
    refused(b"", "0 bytes");
    refused(&[0xff; 64], "a header of 18446744073709551615 bytes");
    refused(&file(&"[".repeat(1 << 20), &[]), "");
}

#[test]
fn a_file_cut_anywhere_or_with_more_behind_it_is_refused() {
    let whole = with(&entry("w", "F32", "[3]", 0, 12));
    for len in 0..whole.len() {
        refused(&whole[..len], "");
    }
    refused(&[&whole[..], &[0]].concat(), "gap");
}

struct Shards(tempfile::TempDir);

impl Shards {
    fn new(weight_map: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let index = format!(r#"{{"metadata":{{"total_size":16}},"weight_map":{weight_map}}}"#);
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        for (shard, name, x) in [("one", "a", 1.0f32), ("two", "b", 2.0)] {
            let bytes = file(&format!("{{{}}}", entry(name, "F32", "[1]", 0, 4)), &x.to_le_bytes());
            std::fs::write(folder.path().join(format!("{shard}.safetensors")), bytes).unwrap();
        }
        Self(folder)
    }

    #[track_caller]
    fn refused(&self, words: &str) {
        match SafetensorsFile::open(self.0.path()) {
            Err(Error::Malformed { path, problem }) => {
                assert!(path.ends_with("model.safetensors.index.json"));
                assert!(problem.contains(words), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn shards_read_as_one() {
    let shards = Shards::new(r#"{"b":"two.safetensors","a":"one.safetensors"}"#);
    let file = SafetensorsFile::open(shards.0.path()).unwrap();
    assert_eq!(file.tensors().len(), 2);
    assert_eq!((file.tensor_f32("a", &[1]).unwrap(), file.tensor_f32("b", &[1]).unwrap()), (vec![1.0], vec![2.0]));
    std::fs::remove_file(shards.0.path().join("two.safetensors")).unwrap();
    match SafetensorsFile::open(shards.0.path()) {
        Err(Error::Io { path, .. }) => assert!(path.ends_with("two.safetensors")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_index_names_files_beside_it_that_hold_its_tensors() {
    for shard in ["../one.safetensors", "/one.safetensors", "", "..", "a/one.safetensors", "one", "c:one.safetensors"] {
        Shards::new(&format!(r#"{{"a":"{shard}"}}"#)).refused("not the name of a safetensors file beside it");
    }
    Shards::new(r#"{"a":"one.safetensors\u0000.safetensors"}"#).refused("not the name");
    Shards::new(r#"{"a":"two.safetensors"}"#).refused("its file has no tensor `a`");
    Shards::new(r#"{"a":"one.safetensors","a":"one.safetensors"}"#).refused("tensor `a` is there twice");
    Shards::new(r#"{}, "weight_map": {}"#).refused("duplicate field");
    Shards::new("[]").refused("expected an object");
    let shards = Shards::new("{}");
    std::fs::write(shards.0.path().join("model.safetensors.index.json"), "{}").unwrap();
    shards.refused("there is no `weight_map`");
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(SafetensorsFile::open(folder.path()), Err(Error::Io { .. })));
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert!(matches!(SafetensorsFile::open(folder.path()), Err(Error::Malformed { .. })));
}

#[test]
fn no_bytes_changed_anywhere_cause_a_panic_or_a_tensor_outside_of_the_file() {
    let (a, b) = (entry("a", "F32", "[2,1]", 0, 8), entry("b", "BF16", "[2]", 8, 12));
    let whole = file(&format!(r#"{{"__metadata__":{{}},{a},{b}}}"#), &[0; 12]);
    let words: [&[u8]; 12] =
        [b"{", b"}", b"[", b"]", b"\"", b",", b":", b"-1", b"1e9", b"99999999999999999999", b"null", b"\xff\x00"];
    let mut seed = 1u64;
    let mut below = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let mut n_sound = 0;
    for _ in 0..4000 {
        let mut bytes = whole.clone();
        for _ in 0..=below(3) {
            let at = below(bytes.len());
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => drop(bytes.splice(at..at, words[below(words.len())].iter().copied())),
                2 => drop(bytes.splice(at..(at + 1 + below(8)).min(bytes.len()), [])),
                _ => bytes[at] = b'0' + below(10) as u8,
            }
        }
        if below(2) == 0 {
            // A length that fits what follows, so that the header itself is read.
            let n = (bytes.len() as u64).saturating_sub(20).to_le_bytes();
            bytes.splice(..8.min(bytes.len()), n);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = SafetensorsFile::open(path) {
            n_sound += 1;
            for (name, tensor) in file.tensors() {
                assert!(tensor.start + tensor.n_bytes <= bytes.len() as u64);
                let _ = file.tensor_f32(name, &tensor.shape);
                let _ = file.tensor_bf16(name, &tensor.shape);
            }
        }
    }
    assert!(n_sound > 10, "{n_sound} could be opened: the changes are too coarse");
}
