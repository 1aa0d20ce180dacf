//! Prompts that are read with keys and values from before, on a small model with random weights whose tokens are bytes.

use std::path::Path;
use std::sync::Arc;

use raglan_core::{ChunkId, Context};
use raglan_generate::reuse::{KvKeeper, PassageOrder, Prefilled, ReuseMethod, fix_share, prefill};
use raglan_generate::{ChatGenerator, GenerateOptions, LanguageModel, PromptPiece};
use raglan_kv::{
    BlockKey, BlockPrecision, CacheLimits, ChunkCache, KvBlock, KvCache, TokensHash, open_block, write_block,
};
use raglan_model::{DecoderModel, Products, capture, model_hash};

use crate::byte_model;
use crate::passages::passage;

const TEXTS: [&str; 4] = [
    "Ada Lind is the head of the observatory in Tromsoe.",
    "She was born in 1962 and studied physics.",
    "The observatory closes at nine in the evening, except in winter.",
    "In winter it is open all night.",
];

pub fn load(n_layers: u32, products: Products) -> Arc<LanguageModel> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes.gguf");
    byte_model::write_layers(&path, n_layers);
    Arc::new(LanguageModel::load(path, 2, products).unwrap())
}

pub fn context(question: &str, order: &[usize]) -> Context {
    Context::new(question, order.iter().map(|&i| passage(i, TEXTS[i])).collect())
}

pub fn generator(model: &Arc<LanguageModel>) -> ChatGenerator {
    ChatGenerator::new(model.clone(), GenerateOptions { max_tokens: 24, ..GenerateOptions::default() }).unwrap()
}

pub fn pieces(model: &Arc<LanguageModel>, order: &[usize]) -> Vec<PromptPiece> {
    generator(model).prompt(&context("When does it close?", order)).unwrap().pieces
}

/// Reads tokens behind what a cache has; gives the logits after the last.
fn read(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
    let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
    let positions: Vec<u32> = (cache.next_position()..).take(tokens.len()).collect();
    let mut pass = model.begin_pass(cache, tokens, &positions, &slots).unwrap();
    pass.finish().unwrap();
    pass.logits(&[tokens.len() - 1]).unwrap()
}

/// The logits of an answer's first token when a prompt is read whole.
pub fn whole(model: &DecoderModel, pieces: &[PromptPiece]) -> Vec<f32> {
    let ids: Vec<u32> = pieces.iter().flat_map(|piece| &piece.ids).copied().collect();
    read(model, &mut model.cache(), &ids)
}

pub fn prefix(model: &DecoderModel, pieces: &[PromptPiece]) -> KvCache {
    let mut cache = model.cache();
    read(model, &mut cache, &pieces[0].ids);
    cache
}

/// The blocks of a prompt's passages behind its first piece.
pub fn blocks(model: &DecoderModel, pieces: &[PromptPiece]) -> Vec<Vec<KvBlock>> {
    let passages: Vec<&[u32]> = pieces.iter().filter(|p| p.passage.is_some()).map(|p| &*p.ids).collect();
    let prefix = (&prefix(model, pieces), &*pieces[0].ids);
    let blocks = capture(model, model_hash(model, "w"), prefix, &passages, BlockPrecision::F32).unwrap();
    blocks.into_iter().map(|block| vec![block]).collect()
}

fn by(method: &str, model: &DecoderModel, pieces: &[PromptPiece], blocks: &[Vec<KvBlock>]) -> Prefilled {
    prefill(model, &prefix(model, pieces), pieces, blocks, method.parse().unwrap(), false).unwrap()
}

pub fn logits(model: &DecoderModel, mut read_prompt: Prefilled) -> Vec<f32> {
    assert_eq!(read_prompt.cache.len() + 1, read_prompt.tokens.len());
    read(model, &mut read_prompt.cache, &read_prompt.tokens[read_prompt.tokens.len() - 1..])
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |most, (a, b)| if (a - b).abs() <= most { most } else { (a - b).abs() })
}

#[test]
fn templates_are_cut_at_passages_and_pieces_add_up() {
    let model = load(1, Products::F32);
    let prompt = generator(&model).prompt(&context("When?", &[2, 0, 1])).unwrap();
    assert_eq!(
        prompt.pieces.iter().map(|piece| piece.passage).collect::<Vec<_>>(),
        [None, Some(0), None, Some(1), None, Some(2), None]
    );
    let texts: Vec<String> = prompt.pieces.iter().map(|piece| model.tokenizer.decode(&piece.ids).unwrap()).collect();
    assert_eq!(texts[3], " notes/0.md\nAda Lind is the head of the observatory in Tromsoe.");
    assert_eq!(texts[4], "\n\n[3]");
    assert!(texts[0].ends_with("[1]") && texts[6].contains("When?"));
    assert_eq!(prompt.ids(), model.tokenizer.encode_prompt(&prompt.text).unwrap().ids);
    // A passage's tokens are the same wherever it stands.
    assert_eq!(prompt.pieces[3].ids, pieces(&model, &[0])[1].ids);
    // A template that changes a passage is one piece.
    let template = Some("{% for p in passages %}{{ p.text | upper }}{% endfor %}{% for p in passages %}{{ p.text }}{% endfor %}{{ question }}".to_owned());
    let options = GenerateOptions { template, max_tokens: 24, ..GenerateOptions::default() };
    let other = ChatGenerator::new(model, options).unwrap().prompt(&context("When?", &[0, 1])).unwrap();
    assert_eq!(other.pieces.len(), 1);
}

#[test]
fn what_is_computed_whole_is_the_whole_to_the_bit() {
    for products in [Products::F32, Products::Stored] {
        let model = load(4, products);
        let model = &model;
        let pieces = pieces(model, &[0, 1, 2, 3]);
        let transformer = &model.transformer;
        let (expected, blocks) = (whole(transformer, &pieces), blocks(transformer, &pieces));
        for method in ["full", "prefix", "random=1", "link=1000", "blend=1", "focus=1", "cache-craft=inf"] {
            let read = by(method, transformer, &pieces, &blocks);
            let n: usize = pieces.iter().filter(|piece| piece.passage.is_some()).map(|piece| piece.ids.len()).sum();
            assert_eq!(read.cost.passage_tokens, n);
            assert!(logits(transformer, read) == expected, "{method}");
        }
        // Without blocks every method is the whole.
        let none = vec![Vec::new(); 4];
        for method in ["naive", "focus=0.1", "blend=0.1", "link=3", "parallel=0.9,0.9", "cache-craft=1"] {
            let read = by(method, transformer, &pieces, &none);
            assert_eq!((read.cost.reused_tokens, read.cost.recomputed_share), (0, 0.0));
            assert!(logits(transformer, read) == expected, "{method}");
        }
    }
}

#[test]
fn a_first_passage_is_exact_and_others_come_nearer_the_more_is_computed() {
    let model = load(4, Products::F32);
    let transformer = &model.transformer;
    let one = pieces(&model, &[2]);
    let read = by("naive", transformer, &one, &blocks(transformer, &one));
    assert_eq!((read.cost.recomputed_share, read.cost.reused_tokens), (0.0, one[1].ids.len()));
    assert!(logits(transformer, read) == whole(transformer, &one));
    let pieces = pieces(&model, &[0, 1, 2, 3]);
    let (expected, blocks) = (whole(transformer, &pieces), blocks(transformer, &pieces));
    let naive = distance(&logits(transformer, by("naive", transformer, &pieces, &blocks)), &expected);
    assert!(naive > 1e-3, "{naive}");
    for method in ["focus=0.5", "blend=0.5", "random=0.5", "link=16"] {
        let read = by(method, transformer, &pieces, &blocks);
        assert!((0.2..=0.8).contains(&read.cost.recomputed_share), "{method}: {}", read.cost.recomputed_share);
        let distance = distance(&logits(transformer, read), &expected);
        assert!(distance > 0.0 && distance <= 1.5 * naive, "{method}: {distance} and {naive}");
    }
    let focus = distance(&logits(transformer, by("focus=0.9", transformer, &pieces, &blocks)), &expected);
    assert!(focus < naive, "{focus} and {naive}");
}

#[test]
fn blocks_in_files_give_the_bits_of_those_in_memory() {
    let model = load(4, Products::Stored);
    let transformer = &model.transformer;
    let pieces = pieces(&model, &[3, 1, 0]);
    let in_memory = blocks(transformer, &pieces);
    let folder = tempfile::tempdir().unwrap();
    let in_files: Vec<Vec<KvBlock>> = (0..in_memory.len())
        .map(|i| {
            let path = folder.path().join(i.to_string());
            write_block(&path, &in_memory[i][0]).unwrap();
            vec![open_block(&path).unwrap()]
        })
        .collect();
    for method in ["naive", "focus=0.2", "blend=0.2", "link=4", "parallel=0.9,0.8"] {
        let expected = logits(transformer, by(method, transformer, &pieces, &in_memory));
        assert!(logits(transformer, by(method, transformer, &pieces, &in_files)) == expected, "{method}");
    }
    // A file that is damaged meanwhile is an error, no other answer.
    std::fs::OpenOptions::new().write(true).open(folder.path().join("1")).unwrap().set_len(3000).unwrap();
    assert!(
        prefill(transformer, &prefix(transformer, &pieces), &pieces, &in_files, ReuseMethod::Naive, false).is_err()
    );
}

#[test]
fn one_context_at_its_own_temperature_is_the_usual_attention() {
    let model = load(4, Products::F32);
    let transformer = &model.transformer;
    let one = pieces(&model, &[2]);
    let blocks = blocks(transformer, &one);
    let expected = whole(transformer, &one);
    let got = logits(transformer, by("parallel=1,1", transformer, &one, &blocks));
    assert!(distance(&got, &expected) <= 1e-3, "{}", distance(&got, &expected));
    let cooler = logits(transformer, by("parallel=0.7,0.9", transformer, &one, &blocks));
    assert!(distance(&cooler, &expected) > 1e-3);
}

/// The blocks of a prompt's passages as they are in it, with what was seen of their attention.
fn seen_blocks(model: &DecoderModel, pieces: &[PromptPiece]) -> Vec<KvBlock> {
    let passages: Vec<&PromptPiece> = pieces.iter().filter(|piece| piece.passage.is_some()).collect();
    let none = vec![Vec::new(); passages.len()];
    let method = ReuseMethod::CacheCraft { alpha: 1.0 };
    let captured = prefill(model, &prefix(model, pieces), pieces, &none, method, true).unwrap();
    let statistics = captured.statistics.as_ref().unwrap();
    let block = |(i, piece): (usize, &&PromptPiece)| {
        let slots = captured.passages[i].clone();
        let block = KvBlock::from_cache(&captured.cache, slots, model.kv_shape(), BlockPrecision::F32, model);
        let key = BlockKey { tokens: TokensHash::of(&piece.ids), ..BlockKey::default() };
        block.unwrap().described(key, statistics[i].clone().unwrap())
    };
    passages.iter().enumerate().map(block).collect()
}

#[test]
fn cache_craft_goes_on_with_what_the_question_looks_at() {
    const N_LAYERS: usize = 5;
    let model = load(N_LAYERS as u32, Products::F32);
    let transformer = &model.transformer;
    // One passage is so much longer that it gets most of the attention of weights that were drawn.
    let written = |long: bool, order: &[usize]| {
        let mut context = context("When does it close?", order);
        for passage in context.passages.iter_mut().filter(|passage| long && passage.chunk.id == ChunkId(10)) {
            passage.chunk.text = TEXTS[0].repeat(6);
        }
        generator(&model).prompt(&context).unwrap().pieces
    };
    for long in [false, true] {
        let blocks = seen_blocks(transformer, &written(long, &[0, 1, 2]));
        let pieces = written(long, &[2, 1, 0]);
        let variants: Vec<_> = blocks.iter().rev().map(|block| vec![block.clone()]).collect();
        let read = by("cache-craft=0.5", transformer, &pieces, &variants);
        let hashes: Vec<TokensHash> = variants.iter().map(|variants| variants[0].key().tokens).collect();
        let chosen = |i: usize| {
            let share = fix_share(0.5, variants[i][0].statistics(), &hashes[..i]);
            (share * variants[i][0].n_tokens() as f32).ceil() as usize
        };
        let (all, focused): (usize, usize) = ((0..3).map(chosen).sum(), chosen(2));
        assert!(focused > 0 && focused < all);
        // It shows in three layers; from then on only tokens of the passage that is looked at are computed.
        let computed = if long { 3 * all + (N_LAYERS - 3) * focused } else { N_LAYERS * all };
        let n_tokens: usize = blocks.iter().map(KvBlock::n_tokens).sum();
        let share = computed as f32 / (n_tokens * N_LAYERS) as f32;
        assert!((read.cost.recomputed_share - share).abs() <= 1e-6, "{long}: {} {share}", read.cost.recomputed_share);
        assert_eq!(read.cost.computed_tokens, all + read.tokens.len() - 1 - n_tokens - pieces[0].ids.len());
        assert!(logits(transformer, read).iter().all(|logit| logit.is_finite()));
    }
}

#[test]
fn cache_craft_computes_what_lost_its_neighbours() {
    let model = load(4, Products::F32);
    let transformer = &model.transformer;
    let first = pieces(&model, &[0, 1, 2]);
    let blocks = seen_blocks(transformer, &first);
    for (i, block) in blocks.iter().enumerate() {
        let statistics = block.statistics();
        assert_eq!((statistics.neighbours.len(), statistics.seen.len()), (i, block.n_tokens()));
        let paid: f32 = statistics.neighbours.iter().map(|(_, paid)| paid).sum();
        assert!((paid - statistics.seen.iter().sum::<f32>()).abs() <= 1e-3);
        assert!((i == 0) == (paid == 0.0));
    }
    let variants = |order: &[usize]| order.iter().map(|&i| vec![blocks[i].clone()]).collect::<Vec<_>>();
    // As it was: nothing to do, and nothing lost.
    let again = by("cache-craft=1", transformer, &first, &variants(&[0, 1, 2]));
    assert_eq!(again.cost.recomputed_share, 0.0);
    assert!(logits(transformer, again) == whole(transformer, &first));
    // The other way round, all but the last lost something.
    let turned = pieces(&model, &[2, 1, 0]);
    let read = by("cache-craft=1", transformer, &turned, &variants(&[2, 1, 0]));
    assert!((0.3..1.0).contains(&read.cost.recomputed_share), "{}", read.cost.recomputed_share);
    let less = by("cache-craft=0.2", transformer, &turned, &variants(&[2, 1, 0]));
    assert!(less.cost.recomputed_share < read.cost.recomputed_share);
}

fn keeping(model: &Arc<LanguageModel>, method: &str, folder: &Path) -> ChatGenerator {
    let chunks = ChunkCache::open(Some(folder.to_owned()), CacheLimits::default()).unwrap();
    let keeper = KvKeeper::new(method.parse().unwrap(), BlockPrecision::F16, Arc::new(chunks), "weights");
    generator(model).keeping(keeper)
}

#[test]
fn the_second_question_finds_what_the_first_left() {
    let model = load(4, Products::Stored);
    let ask = |generator: &ChatGenerator, question: &str, order: &[usize]| {
        generator.answer(&context(question, order), &mut |_| {}).unwrap()
    };
    let exact = ask(&generator(&model), "When does it close?", &[0, 1, 2]);
    assert!(exact.kv.is_none());
    for method in ["naive", "focus=0.1", "blend=0.1", "link=4", "cache-craft=0.5", "parallel=1,1", "random=0.1"] {
        let folder = tempfile::tempdir().unwrap();
        let first = keeping(&model, method, folder.path());
        let answer = ask(&first, "When does it close?", &[0, 1, 2]);
        let kv = answer.kv.clone().unwrap();
        assert_eq!((kv.hits, kv.misses, answer.text.clone()), (0, 3, exact.text.clone()), "{method}");
        first.remember().unwrap();
        // The same prompt once more begins as one that was computed whole.
        let again = ask(&first, "When does it close?", &[0, 1, 2]);
        let kv = again.kv.unwrap();
        assert_eq!((again.text, &*kv.method, kv.computed_tokens), (exact.text.clone(), "prefix", 1), "{method}");
        // Another process, another order, another question, one passage more.
        let second = keeping(&model, method, folder.path());
        let answer = ask(&second, "Who is she?", &[2, 3, 0, 1]);
        let kv = answer.kv.unwrap();
        assert_eq!((kv.hits, kv.misses), (3, 1), "{method}");
        assert!(kv.reused_tokens > 100 && kv.computed_tokens < answer.tokens.prompt, "{method}: {kv:?}");
        second.remember().unwrap();
        let usage = second.keeper().unwrap().chunks().usage();
        assert!(usage.blocks >= 4 && usage.hits == 3 && usage.misses == 4 && usage.saved_tokens > 0, "{usage:?}");
        // What is asked again is found without a chunk's block, since the whole text is known.
        let again = ask(&second, "Who is she?", &[2, 3, 0, 1]);
        assert!(again.kv.unwrap().hits == 4 || method.starts_with("cache-craft"), "{method}");
    }
}

#[test]
fn prefixes_are_exact_and_shared() {
    let model = load(4, Products::Stored);
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeping(&model, "prefix", folder.path());
    let plain = generator(&model);
    let mut reused = Vec::new();
    for (question, order) in [
        ("When?", vec![0, 1, 2]),
        ("When?", vec![0, 1, 2]),
        ("Who is it?", vec![0, 1, 2]),
        ("Who?", vec![0, 2]),
        ("Who?", vec![1]),
    ] {
        let context = context(question, &order);
        let (got, expected) =
            (keeper.answer(&context, &mut |_| {}).unwrap(), plain.answer(&context, &mut |_| {}).unwrap());
        assert_eq!(got.text, expected.text);
        let kv = got.kv.unwrap();
        assert_eq!(kv.reused_tokens + kv.computed_tokens, got.tokens.prompt);
        reused.push(kv.reused_tokens);
    }
    assert!(
        reused[0] == 0 && reused[1] > reused[2] && reused[2] > reused[3] && reused[3] > reused[4] && reused[4] > 0,
        "{reused:?}"
    );
}

#[test]
fn another_process_takes_over_exactly_what_stood_behind_the_same() {
    let model = load(4, Products::Stored);
    let folder = tempfile::tempdir().unwrap();
    let plain = generator(&model);
    let ask = |keeper: &ChatGenerator, question: &str, order: &[usize]| {
        let context = context(question, order);
        let answer = keeper.answer(&context, &mut |_| {}).unwrap();
        assert_eq!(answer.text, plain.answer(&context, &mut |_| {}).unwrap().text, "{question} {order:?}");
        let kv = answer.kv.unwrap();
        assert_eq!(kv.reused_tokens + kv.computed_tokens, answer.tokens.prompt);
        (kv.hits, kv.misses)
    };
    let first = keeping(&model, "prefix", folder.path());
    assert_eq!(ask(&first, "When?", &[0, 1, 2]), (0, 3));
    let remembered = first.remember().unwrap();
    assert_eq!((remembered.blocks, remembered.block_tokens), (3, 0));
    assert_eq!(first.remember().unwrap(), Default::default());
    for (order, expected) in [
        (&[0, 1, 2][..], (3, 0)),
        (&[0, 1, 3], (2, 1)),
        (&[0, 2, 1], (1, 2)), // Behind another text.
        (&[1, 0, 2], (0, 3)),
        (&[0], (1, 0)),
    ] {
        assert_eq!(ask(&keeping(&model, "prefix", folder.path()), "Who is she?", order), expected, "{order:?}");
    }
    // Memory has the first passage, files the others.
    let mixed = keeping(&model, "prefix", folder.path());
    assert_eq!(ask(&mixed, "Where?", &[0, 3]), (1, 1));
    assert_eq!(ask(&mixed, "Who is she?", &[0, 1, 2]), (3, 0));
    // What would not be bit for bit is not kept.
    let bytes = tempfile::tempdir().unwrap();
    let chunks = ChunkCache::open(Some(bytes.path().to_owned()), CacheLimits::default()).unwrap();
    let keeper = KvKeeper::new(ReuseMethod::Prefix, BlockPrecision::Int8, Arc::new(chunks), "weights");
    let inexact = generator(&model).keeping(keeper);
    assert_eq!((ask(&inexact, "When?", &[0, 1]), inexact.remember().unwrap().blocks), ((0, 2), 0));
    // A file that is damaged ends the run before it.
    let second = format!("{}-", passage(1, TEXTS[1]).chunk.id.0);
    let mut n_damaged = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with(&second) {
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 9;
            bytes[last] ^= 0x40;
            std::fs::write(&path, bytes).unwrap();
            n_damaged += 1;
        }
    }
    assert!(n_damaged > 0);
    assert_eq!(ask(&keeping(&model, "prefix", folder.path()), "Who is she?", &[0, 1, 2]), (1, 2));
}

#[test]
fn what_was_computed_behind_blocks_is_not_taken_for_exact() {
    let model = load(4, Products::Stored);
    let folder = tempfile::tempdir().unwrap();
    let craft = keeping(&model, "cache-craft=0.5", folder.path());
    craft.answer(&context("When?", &[1, 0]), &mut |_| {}).unwrap();
    craft.remember().unwrap();
    // Passage 2 is computed behind blocks of the others, which stood the other way round.
    let craft = keeping(&model, "cache-craft=0.5", folder.path());
    let kv = craft.answer(&context("When?", &[0, 1, 2]), &mut |_| {}).unwrap().kv.unwrap();
    assert!(kv.hits > 0 && kv.misses > 0, "{kv:?}");
    craft.remember().unwrap();
    let exact = keeping(&model, "prefix", folder.path());
    let asked = context("Who is she?", &[0, 1, 2]);
    let answer = exact.answer(&asked, &mut |_| {}).unwrap();
    assert_eq!(answer.text, generator(&model).answer(&asked, &mut |_| {}).unwrap().text);
    assert!(answer.kv.unwrap().hits < 2);
    // What was computed in the first prompt was exact, and serves the other method.
    let answer = exact.answer(&context("Who is she?", &[1, 0]), &mut |_| {}).unwrap();
    assert_eq!(answer.kv.unwrap().hits, 2);
}

#[test]
fn passages_that_an_earlier_prompt_began_with_come_first() {
    let model = load(4, Products::Stored);
    let folder = tempfile::tempdir().unwrap();
    let ordered = |order: PassageOrder| {
        let chunks = ChunkCache::open(Some(folder.path().to_owned()), CacheLimits::default()).unwrap();
        let keeper = KvKeeper::new(ReuseMethod::Prefix, BlockPrecision::F16, Arc::new(chunks), "weights");
        generator(&model).keeping(keeper.ordered_by(order))
    };
    let mut taken_over = Vec::new();
    for order in [PassageOrder::Rank, PassageOrder::Shared] {
        let generator = ordered(order);
        generator.answer(&context("When?", &[0, 1, 2]), &mut |_| {}).unwrap();
        let mut wanted = context("Who is she?", &[3, 2, 0, 1]);
        wanted.passages.iter_mut().zip([0.9, 0.8, 0.7, 0.6]).for_each(|(passage, score)| passage.score = score);
        let answer = generator.answer(&wanted, &mut |_| {}).unwrap();
        // Numbers are those of the prompt; scores stay with their passages.
        let sources: Vec<(&str, f32)> = answer.sources.iter().map(|source| (&*source.path, source.score)).collect();
        let mut of_rank = vec![("notes/3.md", 0.9), ("notes/2.md", 0.8), ("notes/0.md", 0.7), ("notes/1.md", 0.6)];
        if order == PassageOrder::Shared {
            of_rank = vec![of_rank[2], of_rank[3], of_rank[1], of_rank[0]];
        }
        assert_eq!(sources, of_rank);
        taken_over.push(answer.kv.unwrap().reused_tokens);
        // The order is that of the exact prompt, so the answer is its answer.
        let as_shown: Vec<usize> = if order == PassageOrder::Shared { vec![0, 1, 2, 3] } else { vec![3, 2, 0, 1] };
        let plain = self::generator(&model).answer(&context("Who is she?", &as_shown), &mut |_| {}).unwrap();
        assert_eq!(answer.text, plain.text);
    }
    let pieces = pieces(&model, &[0, 1, 2, 3]);
    let shared: usize = pieces[..6].iter().map(|piece| piece.ids.len()).sum();
    let first = pieces[0].ids.len();
    // In the order of rank only the first piece is shared, and how the paths of passages begin.
    assert!((first..first + 10).contains(&taken_over[0]), "{taken_over:?}");
    assert!((shared..shared + 10).contains(&taken_over[1]), "{taken_over:?} {shared}");
}

#[test]
fn a_chunk_that_reads_otherwise_or_another_model_finds_nothing() {
    let model = load(2, Products::Stored);
    let folder = tempfile::tempdir().unwrap();
    let first = keeping(&model, "naive", folder.path());
    first.answer(&context("When?", &[0, 1]), &mut |_| {}).unwrap();
    first.remember().unwrap();
    let mut changed = context("When?", &[0, 1]);
    changed.passages[0].chunk.text.push_str(" Or was.");
    let kv = keeping(&model, "naive", folder.path()).answer(&changed, &mut |_| {}).unwrap().kv.unwrap();
    assert_eq!((kv.hits, kv.misses), (1, 1));
    let other = load(3, Products::Stored);
    let kv =
        keeping(&other, "naive", folder.path()).answer(&context("When?", &[0, 1]), &mut |_| {}).unwrap().kv.unwrap();
    assert_eq!((kv.hits, kv.misses), (0, 2));
}

#[test]
fn several_questions_at_once_get_the_answers_of_each_alone() {
    let model = load(4, Products::Stored);
    let folder = tempfile::tempdir().unwrap();
    let warm = keeping(&model, "focus=0.1", folder.path());
    warm.answer(&context("When?", &[0, 1, 2, 3]), &mut |_| {}).unwrap();
    warm.remember().unwrap();
    let asked = [context("When?", &[3, 1]), context("Who is she?", &[1, 0, 2]), context("Where?", &[2])];
    let together = warm.answers(&asked, &mut |_, _| {}).unwrap();
    for (context, together) in asked.iter().zip(together) {
        let alone = keeping(&model, "focus=0.1", folder.path()).answer(context, &mut |_| {}).unwrap();
        let together = together.unwrap();
        assert_eq!((alone.text, alone.kv), (together.text, together.kv));
    }
}

#[test]
fn a_block_that_was_damaged_is_computed_again() {
    let model = load(4, Products::Stored);
    let folder = tempfile::tempdir().unwrap();
    let asked = context("When does it close?", &[2, 0, 1]);
    let first = keeping(&model, "naive", folder.path());
    first.answer(&asked, &mut |_| {}).unwrap();
    first.remember().unwrap();
    let blocks: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "kv"))
        .collect();
    assert_eq!(blocks.len(), 3);
    // The last layer of each, which is read when answers are: headers are sound.
    for path in &blocks[..2] {
        let mut bytes = std::fs::read(path).unwrap();
        let last = bytes.len() - 9;
        bytes[last] ^= 0x40;
        std::fs::write(path, bytes).unwrap();
    }
    let second = keeping(&model, "naive", folder.path());
    let kv = second.answer(&asked, &mut |_| {}).unwrap().kv.unwrap();
    assert_eq!((kv.hits, kv.misses), (1, 2));
    second.remember().unwrap();
    let kv = keeping(&model, "naive", folder.path()).answer(&asked, &mut |_| {}).unwrap().kv.unwrap();
    assert_eq!((kv.hits, kv.misses), (3, 0));
}
