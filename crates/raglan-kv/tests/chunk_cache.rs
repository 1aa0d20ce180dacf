//! Blocks on disk and what becomes of them.

use std::fs;
use std::path::Path;

use raglan_core::ChunkId;
use raglan_kernels::{RotaryEmbedding, RotaryPairs, RotaryScaling};
use raglan_kv::{
    BlockKey, BlockPrecision, BlockStatistics, CacheLimits, ChunkCache, Error, Eviction, KvArena, KvBlock, KvCache,
    KvPrecision, KvShape, LayerRotary, TokensHash, open_block, write_block,
};

const SHAPE: KvShape = KvShape { n_layers: 3, n_kv_heads: 2, head_dim: 8 };
const MODEL: &str = "model";

struct Rotary(RotaryEmbedding);

impl LayerRotary for Rotary {
    fn rotary(&self, _: usize) -> &RotaryEmbedding {
        &self.0
    }
}

fn rotary() -> Rotary {
    Rotary(RotaryEmbedding::new(8, 10_000.0, RotaryPairs::Halves, &RotaryScaling::None).unwrap())
}

/// A block of made-up numbers, computed at position 3.
fn block(tokens: &[u32], behind: &str, precision: BlockPrecision) -> KvBlock {
    let mut cache = KvArena::new(SHAPE, KvPrecision::F32).cache();
    cache.leave(tokens.len(), 3).unwrap();
    for layer in 0..3 {
        for (slot, &token) in tokens.iter().enumerate() {
            let numbers = |by: f32| (0..16).map(move |i| ((token as f32 + i as f32 * by) * 0.7 + layer as f32).sin());
            cache.write(layer, slot, &numbers(1.3).collect::<Vec<_>>(), &numbers(2.1).collect::<Vec<_>>());
        }
    }
    let key = BlockKey {
        tokens: TokensHash::of(tokens),
        behind: TokensHash::of_text(behind),
        model: TokensHash::of_text(MODEL),
    };
    let statistics = BlockStatistics {
        seen: tokens.iter().map(|&token| token as f32 / 10.0).collect(),
        neighbours: vec![(TokensHash::of(&[1]), 0.5), (TokensHash::of(&[2]), 0.25)],
        outside: 0.125,
        inside: 2.0,
    };
    KvBlock::from_cache(&cache, 0..tokens.len(), SHAPE, precision, &rotary()).unwrap().described(key, statistics)
}

/// All numbers of a block in a cache.
fn numbers(block: &KvBlock) -> Vec<f32> {
    let mut cache: KvCache = KvArena::new(SHAPE, KvPrecision::F32).cache();
    cache.append(block, 11, &rotary()).unwrap();
    let widen = |slice| match slice {
        raglan_kernels::KvSlice::F32(numbers) => numbers.to_vec(),
        raglan_kernels::KvSlice::F16(_) => unreachable!("the arena is in single precision"),
    };
    let runs = (0..3).flat_map(|layer| cache.runs(layer, 0..cache.len()).collect::<Vec<_>>());
    runs.flat_map(|run| [widen(run.keys), widen(run.values)].concat()).collect()
}

fn limits() -> CacheLimits {
    CacheLimits { variants: 2, ..CacheLimits::default() }
}

fn open(folder: &Path, limits: CacheLimits) -> ChunkCache {
    ChunkCache::open(Some(folder.to_owned()), limits).unwrap()
}

fn variants(cache: &ChunkCache, chunk: u32, tokens: &[u32]) -> Vec<KvBlock> {
    cache.variants(ChunkId(chunk), TokensHash::of(tokens), TokensHash::of_text(MODEL))
}

#[test]
fn a_block_comes_back_from_its_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for precision in [BlockPrecision::F32, BlockPrecision::F16, BlockPrecision::Bf16, BlockPrecision::Int8] {
        for n_tokens in [0, 1, 3, 70] {
            let tokens: Vec<u32> = (0..n_tokens).collect();
            let written = block(&tokens, "before", precision);
            let path = folder.path().join(format!("{precision:?}-{n_tokens}.kv"));
            write_block(&path, &written).unwrap();
            let read = open_block(&path).unwrap();
            assert!(!read.is_resident() && written.is_resident());
            assert_eq!((read.key(), read.statistics()), (written.key(), written.statistics()));
            assert_eq!((read.start(), read.n_bytes()), (written.start(), written.n_bytes()));
            assert_eq!((read.n_tokens(), read.start()), (tokens.len(), if tokens.is_empty() { 0 } else { 3 }));
            assert_eq!(numbers(&read), numbers(&written));
            assert_eq!(numbers(&read.resident().unwrap()), numbers(&written));
            // Nothing may have been seen.
            let unseen = written.clone().described(BlockKey::default(), BlockStatistics::default());
            let path = path.with_extension("unseen");
            write_block(&path, &unseen).unwrap();
            let read = open_block(&path).unwrap();
            assert_eq!((read.statistics(), numbers(&read)), (unseen.statistics(), numbers(&written)));
        }
    }
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.kv");
    write_block(&path, &block(&[1, 2, 3], "before", BlockPrecision::F16)).unwrap();
    let sound = fs::read(&path).unwrap();
    let attempt = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        open_block(&path).and_then(|block| block.resident().map(|_| ()))
    };
    assert!(attempt(&sound).is_ok());
    for len in 0..sound.len() {
        let error = attempt(&sound[..len]).unwrap_err();
        assert!(matches!(&error, Error::Damaged { path: named, .. } if *named == path), "{len} bytes: {error}");
    }
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x41;
        // Only the padding behind the header and in layers of three tokens may change unnoticed, and layers are summed.
        if let Ok(()) = attempt(&bytes) {
            let header_end: usize = 104 + 4 * 3 + 20 * 2 + 8 * 3 + 8;
            assert!((header_end..header_end.next_multiple_of(64)).contains(&at), "byte {at}");
        }
    }
    assert!(attempt(&[&sound[..], &[0]].concat()).is_err());
    assert!(attempt(b"").is_err());
}

#[test]
fn blocks_are_found_by_chunk_tokens_and_model_by_every_process() {
    let folder = tempfile::tempdir().unwrap();
    let kv = folder.path().join("kv");
    let cache = open(&kv, limits());
    cache.insert(ChunkId(7), block(&[1, 2], "a", BlockPrecision::F16));
    cache.insert(ChunkId(8), block(&[1, 2], "a", BlockPrecision::F16));
    assert!(!kv.exists()); // Nothing is written before it is asked for.
    cache.flush().unwrap();
    cache.insert(ChunkId(7), block(&[1, 2], "b", BlockPrecision::F16));
    for (process, n) in [(&cache, 2), (&open(&kv, limits()), 1)] {
        assert_eq!(variants(process, 7, &[1, 2]).len(), n);
        assert_eq!(variants(process, 8, &[1, 2]).len(), 1);
        assert!(variants(process, 7, &[1, 3]).is_empty() && variants(process, 9, &[1, 2]).is_empty());
        assert!(process.variants(ChunkId(7), TokensHash::of(&[1, 2]), TokensHash::of_text("another")).is_empty());
    }
    // The worst makes room for a third.
    let used = variants(&cache, 7, &[1, 2])[0].key().to_owned();
    cache.used(ChunkId(7), &used, 1000);
    cache.insert(ChunkId(7), block(&[1, 2], "c", BlockPrecision::F16));
    let left = variants(&cache, 7, &[1, 2]);
    assert!(left.len() == 2 && left.iter().any(|block| *block.key() == used));
    cache.missed(ChunkId(9));
    cache.flush().unwrap();
    let usage = open(&kv, limits()).usage();
    assert_eq!((usage.blocks, usage.hits, usage.misses, usage.saved_tokens), (3, 1, 1, 1000));
    // What another process removed is gone, and so are damaged files.
    let other = open(&kv, limits());
    assert_eq!(other.retain(&|chunk| chunk == ChunkId(7)).unwrap(), 1);
    let again = open(&kv, limits());
    assert!(variants(&again, 8, &[1, 2]).is_empty());
    for file in fs::read_dir(&kv).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "kv") {
            fs::write(path, b"RAGLANKV and then rubbish").unwrap();
        }
    }
    assert!(variants(&open(&kv, limits()), 7, &[1, 2]).is_empty());
    assert_eq!(open(&kv, limits()).usage().blocks, 0);
}

#[test]
fn what_saved_least_or_was_used_longest_ago_goes_first() {
    for (eviction, left) in [(Eviction::Value, [0, 2]), (Eviction::LeastRecentlyUsed, [1, 2])] {
        let folder = tempfile::tempdir().unwrap();
        let n_bytes = block(&[0, 1], "a", BlockPrecision::F16).n_bytes() as u64;
        let header = 256; // Of these blocks.
        let limits = CacheLimits { disk_bytes: 2 * (n_bytes + header) + 1, eviction, ..limits() };
        let cache = open(folder.path(), limits);
        for chunk in 0..3 {
            cache.insert(ChunkId(chunk), block(&[chunk, 1], "a", BlockPrecision::F16));
        }
        let used = |chunk: u32, saved| {
            let found = variants(&cache, chunk, &[chunk, 1]);
            cache.used(ChunkId(chunk), found[0].key(), saved);
        };
        used(0, 500);
        used(1, 1);
        used(2, 400);
        cache.flush().unwrap();
        let found: Vec<u32> = (0..3).filter(|&chunk| !variants(&cache, chunk, &[chunk, 1]).is_empty()).collect();
        assert_eq!(found, left, "{eviction:?}");
    }
}

#[test]
fn memory_holds_what_fits_and_without_a_folder_nothing_else_is_there() {
    let n_bytes = block(&[0, 1], "a", BlockPrecision::F16).n_bytes() as u64;
    let limits = CacheLimits { memory_bytes: 2 * n_bytes, ..limits() };
    let cache = ChunkCache::open(None, limits).unwrap();
    for chunk in 0..5 {
        cache.insert(ChunkId(chunk), block(&[chunk], "a", BlockPrecision::F16));
    }
    cache.flush().unwrap();
    assert_eq!((0..5).filter(|&chunk| !variants(&cache, chunk, &[chunk]).is_empty()).count(), 2);
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), limits);
    for chunk in 0..5 {
        cache.insert(ChunkId(chunk), block(&[chunk], "a", BlockPrecision::F16));
    }
    cache.flush().unwrap();
    let resident =
        |cache: &ChunkCache| (0..5).filter(|&chunk| variants(cache, chunk, &[chunk])[0].is_resident()).count();
    assert_eq!(resident(&cache), 2);
    let other = open(folder.path(), limits);
    assert_eq!(resident(&other), 0);
    let first = variants(&other, 0, &[0]).remove(0);
    assert_eq!(numbers(&other.keep_resident(ChunkId(0), &first).unwrap()), numbers(&first));
    assert_eq!(resident(&other), 1);
}

#[test]
fn a_shortened_record_of_uses_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), limits());
    for chunk in 0..3 {
        cache.insert(ChunkId(chunk), block(&[chunk, 1], "a", BlockPrecision::F16));
    }
    for (chunk, saved, n) in [(0, 5, 40), (1, 9, 100), (0, 5, 1), (2, 7, 3)] {
        let found = variants(&cache, chunk, &[chunk, 1]);
        (0..n).for_each(|_| cache.used(ChunkId(chunk), found[0].key(), saved));
    }
    (0..50).for_each(|_| cache.missed(ChunkId(7)));
    cache.flush().unwrap();
    let of = |cache: &ChunkCache| (cache.usage(), cache.asked());
    let (before, len) =
        (of(&open(folder.path(), limits())), || fs::metadata(folder.path().join("uses.tsv")).unwrap().len());
    assert_eq!(before.1, [(1, 100), (7, 50), (0, 41), (2, 3)].map(|(chunk, n)| (ChunkId(chunk), n)));
    assert_eq!((before.0.hits, before.0.misses, before.0.saved_tokens), (144, 50, 41 * 5 + 900 + 21));
    let long = len();
    for _ in 0..2 {
        cache.shorten_uses().unwrap();
        assert!(len() < long / 10);
        assert_eq!(of(&open(folder.path(), limits())), before);
    }
    // What goes first is still the one that was used longest ago.
    let limits = CacheLimits { disk_bytes: 1, eviction: Eviction::LeastRecentlyUsed, ..limits() };
    let room = CacheLimits { disk_bytes: fs::metadata(files(folder.path())[0].clone()).unwrap().len(), ..limits };
    let other = open(folder.path(), room);
    other.flush().unwrap();
    assert!(!variants(&other, 2, &[2, 1]).is_empty() && files(folder.path()).len() == 1);
    // Uses of blocks that are gone are left out, the sums stay.
    other.shorten_uses().unwrap();
    assert_eq!(open(folder.path(), room).usage().hits, 144);
    // A record that has grown too long is shortened when it is read.
    let one = variants(&other, 2, &[2, 1]).remove(0);
    (0..20_000).for_each(|_| other.used(ChunkId(2), one.key(), 1));
    other.flush().unwrap();
    assert!(len() > 1 << 20);
    assert_eq!(open(folder.path(), room).usage().hits, 20_144);
    assert!(len() < 1000);
    assert_eq!(other.clear().unwrap(), 1);
    assert_eq!(of(&open(folder.path(), room)), (Default::default(), Vec::new()));
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "kv")).collect()
}

#[test]
fn room_is_what_the_budget_leaves() {
    let folder = tempfile::tempdir().unwrap();
    for precision in [BlockPrecision::F32, BlockPrecision::F16, BlockPrecision::Int8] {
        let path = folder.path().join("a.kv");
        let tokens: Vec<u32> = (0..70).collect();
        let unseen = block(&tokens, "a", precision).described(BlockKey::default(), BlockStatistics::default());
        write_block(&path, &unseen).unwrap();
        let (len, most) = (fs::metadata(&path).unwrap().len(), precision.file_bytes(70, SHAPE));
        assert!(len <= most && most < len + 1000, "{precision}: {len} {most}");
        fs::remove_file(path).unwrap();
    }
    let cache = open(folder.path(), CacheLimits { disk_bytes: 100_000, ..limits() });
    assert_eq!(cache.room().unwrap(), 100_000);
    let block = block(&[1, 2, 3], "a", BlockPrecision::F16);
    let n_bytes = block.n_bytes() as u64;
    cache.insert(ChunkId(1), block);
    assert_eq!(cache.room().unwrap(), 100_000 - n_bytes);
    cache.flush().unwrap();
    let left = cache.room().unwrap();
    assert!((100_000 - n_bytes - 1000..100_000 - n_bytes).contains(&left), "{left}");
}

/// A process that writes blocks and uses, started by the test below.
#[test]
fn a_process_that_writes() {
    let (Ok(folder), Ok(number)) = (std::env::var("RAGLAN_KV_FOLDER"), std::env::var("RAGLAN_KV_PROCESS")) else {
        return;
    };
    let number: u32 = number.parse().unwrap();
    let n_bytes = block(&[0, 1], "a", BlockPrecision::F16).n_bytes() as u64;
    // Room for some thirty blocks, so that the processes evict each other's.
    let limits = CacheLimits { disk_bytes: 30 * n_bytes, ..limits() };
    for round in 0..20 {
        let cache = open(Path::new(&folder), limits);
        for chunk in 0..8 {
            // Half of the chunks are everyone's.
            let chunk = if chunk < 4 { chunk } else { 100 * (number + 1) + 8 * round + chunk };
            match &variants(&cache, chunk, &[chunk, 1])[..] {
                [] => {
                    cache.missed(ChunkId(chunk));
                    cache.insert(ChunkId(chunk), block(&[chunk, 1], "a", BlockPrecision::F16));
                }
                [found, ..] => {
                    // Another process may have evicted it since, but never spoiled it.
                    if let Ok(resident) = found.resident() {
                        assert_eq!(numbers(&resident), numbers(&block(&[chunk, 1], "a", BlockPrecision::F16)));
                    }
                    cache.used(ChunkId(chunk), found.key(), 2);
                }
            }
        }
        cache.flush().unwrap();
        if round % 5 == number {
            cache.shorten_uses().unwrap();
        }
    }
}

#[test]
fn several_processes_write_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..4)
        .map(|number| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "a_process_that_writes", "--nocapture"]);
            command.env("RAGLAN_KV_FOLDER", folder.path()).env("RAGLAN_KV_PROCESS", format!("{number}"));
            command.stdout(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let cache = open(folder.path(), limits());
    let usage = cache.usage();
    assert_eq!(usage.hits + usage.misses, 4 * 20 * 8); // No use was lost.
    assert_eq!(usage.saved_tokens, 2 * usage.hits);
    assert!(
        usage.hits > 0
            && usage.blocks > 0
            && usage.bytes <= 30 * block(&[0, 1], "a", BlockPrecision::F16).n_bytes() as u64
    );
    // What is there is whole, and nothing else was left behind.
    for path in files(folder.path()) {
        open_block(&path).unwrap().resident().unwrap();
    }
    let others: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".kv"))
        .collect();
    assert!(others.iter().all(|name| ["uses.tsv", "uses.lock"].contains(&name.as_str())), "{others:?}");
}
