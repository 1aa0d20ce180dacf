//! Files made to harm: they are refused by name, at once, and without much memory.
//!
//! Each is opened in a process of its own, whose largest memory is then known (on Linux).

use std::path::Path;
use std::process::Command;

use raglan_model::{Error, GgufFile, SafetensorsFile};

/// What the process may hold at most, itself included.
const LIMIT_KB: u64 = 64_000;
const FILE: &str = "RAGLAN_TEST_HOSTILE_FILE";

fn open(path: &Path) -> Result<(), Error> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => GgufFile::open(path).map(drop),
        _ => SafetensorsFile::open(path).map(drop),
    }
}

/// The other end of [`check`]; on its own it does nothing.
#[test]
fn opens_one_file_and_says_what_it_took() {
    let Some(path) = std::env::var_os(FILE) else { return };
    // On a processor, in nanoseconds, which other work on the machine does not lengthen.
    let worked = || -> Option<u64> {
        std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
    };
    let before = worked();
    let outcome = match open(Path::new(&path)) {
        Err(Error::Malformed { path, problem }) => {
            assert!(problem.len() < 2000, "{} bytes of message", problem.len());
            format!("refused `{}`: {problem}", path.display())
        }
        Err(other) => format!("another error: {other}"),
        Ok(()) => "accepted".to_owned(),
    };
    let ms = worked().zip(before).map(|(after, before)| (after - before) / 1_000_000);
    println!("{outcome} ({ms:?} ms)");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) {
        println!("{line}");
    }
}

/// The file is refused by its name within the memory; the time is printed.
#[track_caller]
fn check(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile_files::opens_one_file_and_says_what_it_took", "--nocapture"])
        .env(FILE, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    let refusal = said.lines().find(|line| line.starts_with("refused")).unwrap_or_else(|| panic!("{said}"));
    assert!(refusal.contains(name), "{refusal}");
    let peak =
        said.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    eprintln!("{refusal}; at most {peak:?} kB");
    assert!(peak.is_none_or(|peak| peak < LIMIT_KB), "{peak:?} kB: {refusal}");
}

fn safetensors(header: &[u8], n_tensor_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; n_tensor_bytes]].concat()
}

#[test]
fn safetensors_headers() {
    let name = "model.safetensors";
    check(name, &safetensors(&vec![b' '; 17 << 20], 0));
    check(name, &safetensors(&vec![b'['; 15 << 20], 0));
    check(name, &safetensors(&[&b"{\"__metadata__\":"[..], &vec![b'['; 15 << 20]].concat(), 0));
    check(name, &safetensors(&[&b"{\""[..], &vec![b'a'; 15 << 20], b"\":0}"].concat(), 0));
    check(name, &safetensors(&[&b"{\"w\":\""[..], &vec![b'a'; 15 << 20], b"\"}"].concat(), 0));
    let digits = vec![b'9'; 15 << 20];
    let number = [&b"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,0],\"shape\":["[..], &digits, b"]}}"].concat();
    check(name, &safetensors(&number, 0));
    let dims = "1,".repeat(7 << 20);
    check(name, &safetensors(format!("{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{dims}1]}}}}").as_bytes(), 0));
    // As many tensors as there is room for, all of nothing, then one that is there twice.
    let many: String =
        (0..250_000).map(|i| format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},")).collect();
    check(name, &safetensors(format!("{{{many}\"0\":0}}").as_bytes(), 0));
    let fewer: String = (0..130_000)
        .map(|i| format!("\"{i:060}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},"))
        .collect();
    check(name, &safetensors(format!("{{{fewer}\"0\":0}}").as_bytes(), 0));
}

#[test]
fn safetensors_indexes() {
    let name = "model.safetensors.index.json";
    let many: String = (0..250_000).map(|i| format!("\"{i:09}\":\"a.safetensors\",")).collect();
    check(name, format!("{{\"weight_map\":{{{many}\"0\":0}}}}").as_bytes());
    let shards: String = (0..100_000).map(|i| format!("\"{i}\":\"{i}.safetensors\",")).collect();
    check(name, format!("{{\"weight_map\":{{{shards}\"0\":0}}}}").as_bytes());
    check(name, &vec![b'['; 11 << 20]);
    check(name, &vec![b' '; 13 << 20]);
    check(name, b"{\"weight_map\":{\"w\":\"../../etc/a.safetensors\"}}");
}

/// A GGUF header of one entry, an array of `len` elements.
fn gguf(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(2_u64.to_le_bytes());
    for _ in 0..2 {
        bytes.extend(1_u64.to_le_bytes());
        bytes.push(b'a');
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(elements);
    }
    bytes
}

#[test]
fn gguf_headers() {
    let name = "model.gguf";
    let most = 4_000_000;
    check(name, &gguf(0, most, &vec![1; most as usize])); // Bytes, which become eight times as much.
    check(name, &gguf(4, most, &vec![1; 4 * most as usize]));
    check(name, &gguf(8, 3_000_000, &vec![0; 24_000_000])); // Texts of nothing.
    let one = [&1_u64.to_le_bytes()[..], b"a"].concat();
    check(name, &gguf(8, 1_500_000, &one.repeat(1_500_000)));
    let empty = [&0_u32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat();
    check(name, &gguf(9, 2_000_000, &empty.repeat(2_000_000))); // Arrays of nothing.
    let nested = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
    check(name, &gguf(9, 1, &nested.repeat(100_000)));
    check(name, &gguf(8, 1, &[&(16_u64 << 20).to_le_bytes()[..], &vec![b'a'; 16 << 20]].concat()));
    check(name, &gguf(8, u64::MAX, &[]));
    check(name, &gguf(8, 1, &u64::MAX.to_le_bytes()));
    let mut entries = b"GGUF".to_vec();
    entries.extend(3_u32.to_le_bytes());
    entries.extend(65_536_u64.to_le_bytes());
    entries.extend(0_u64.to_le_bytes());
    for i in 0..65_536_u64 {
        let long = format!("{i:0700}");
        entries.extend((long.len() as u64).to_le_bytes());
        entries.extend(long.as_bytes());
        entries.extend(1_u32.to_le_bytes());
        entries.extend(1_u64.to_le_bytes());
        entries.extend(0_u32.to_le_bytes());
        entries.extend(0_u64.to_le_bytes());
    }
    check(name, &entries);
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.gguf", "model.safetensors"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    assert!(matches!(GgufFile::open(folder.path().join("model.gguf")), Err(Error::Malformed { .. })));
    assert!(matches!(SafetensorsFile::open(folder.path()), Err(Error::Malformed { .. })));
}
