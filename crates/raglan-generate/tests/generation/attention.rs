//! Where the model looks in the prompt that it answers from.

use std::ops::Range;
use std::sync::Arc;

use raglan_generate::reuse::{KvKeeper, PassageOrder, ReuseMethod};
use raglan_generate::{Error, GenerateOptions, PromptPiece};
use raglan_kv::{BlockPrecision, CacheLimits, ChunkCache};
use raglan_model::{Attending, DecoderModel, ForwardRows, ForwardSequence, Products, Want};

use crate::reuse::{context, generator, load};

/// What one forward over a whole prompt pays to each token of its passages, from the rows behind them.
fn plainly(model: &DecoderModel, pieces: &[PromptPiece], layers: Range<usize>) -> Vec<f32> {
    let mut ids = Vec::new();
    let mut ranges = Vec::new();
    for piece in pieces {
        let slots = ids.len()..ids.len() + piece.ids.len();
        ids.extend(&piece.ids);
        if piece.passage.is_some() {
            ranges.extend(slots.map(|slot| slot..slot + 1));
        }
    }
    let tail = ranges.last().unwrap().end;
    let rows: Vec<usize> = (tail..ids.len()).collect();
    let slots: Vec<usize> = (0..ids.len()).collect();
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let mut cache = model.cache();
    let forwarded = model.forward(&mut [ForwardSequence {
        rows: ForwardRows { tokens: &ids, positions: &positions, slots: &slots, ..ForwardRows::default() },
        cache: &mut cache,
        want: Want { attention: Some((&rows, &ranges)), ..Want::default() },
        attending: Attending::default(),
    }]);
    let attention = &forwarded.unwrap()[0].attention;
    let of_layer = attention.len() / model.config().n_layers;
    let counted = &attention[layers.start * of_layer..layers.end * of_layer];
    (0..ranges.len()).map(|i| counted.iter().skip(i).step_by(ranges.len()).sum::<f32>() / rows.len() as f32).collect()
}

#[test]
fn attention_is_that_of_one_forward_over_the_prompt() {
    let model = load(4, Products::F32);
    let generator = generator(&model);
    let asked = context("When does it close?", &[2, 0, 3]);
    let found = generator.passage_attention(&asked, 1..3).unwrap().unwrap();
    assert_eq!((found.shown.clone(), found.kv.clone()), (vec![0, 1, 2], None));
    let of_nothing = context("N/A", &[2, 0, 3]);
    let close = |got: &[f32], pieces: &[PromptPiece]| {
        let expected = plainly(&model.transformer, pieces, 1..3);
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(&expected).all(|(got, want)| (got - want).abs() <= 1e-4 * want.abs() + 1e-7));
    };
    close(&found.of_question, &generator.prompt(&asked).unwrap().pieces);
    close(found.of_nothing.as_ref().unwrap(), &generator.prompt(&of_nothing).unwrap().pieces);
    assert_eq!(found.lengths.iter().sum::<usize>(), found.of_question.len());
    let refused = generator.passage_attention(&asked, 2..5);
    assert!(matches!(refused, Err(Error::Option { option: "layers", .. })));
    // Nothing is read where there is nothing to look at.
    assert_eq!(generator.passage_attention(&context("When?", &[]), 0..4).unwrap(), None);
}

#[test]
fn a_question_before_the_passages_is_not_compared_with_nothing() {
    let model = load(2, Products::F32);
    let template = "{{ question }}\n{% for passage in passages %}{{ passage.heading }}: {{ passage.text }}\n{% endfor %}{{ question }}";
    let options = GenerateOptions { template: Some(template.to_owned()), max_tokens: 8, ..GenerateOptions::default() };
    let generator = raglan_generate::ChatGenerator::new(model.clone(), options).unwrap();
    let found = generator.passage_attention(&context("When?", &[0, 1]), 0..2).unwrap().unwrap();
    assert_eq!((found.shown, found.of_nothing), (vec![0, 1], None));
}

#[test]
fn the_answer_takes_over_what_was_read_to_rank() {
    let model = load(4, Products::Stored);
    let plain = generator(&model);
    let kept = |order: PassageOrder| {
        let chunks = ChunkCache::open(None, CacheLimits::default()).unwrap();
        let keeper = KvKeeper::new(ReuseMethod::Prefix, BlockPrecision::F16, Arc::new(chunks), "weights");
        generator(&model).keeping(keeper.ordered_by(order))
    };
    let asked = context("When does it close?", &[0, 1, 2, 3]);
    let generator = kept(PassageOrder::Rank);
    let found = generator.passage_attention(&asked, 0..4).unwrap().unwrap();
    assert_eq!(found.kv.unwrap().reused_tokens, 0);
    let answer = generator.answer(&asked, &mut |_| {}).unwrap();
    assert_eq!(answer.kv.unwrap().computed_tokens, 1);
    assert_eq!(answer.text, plain.answer(&asked, &mut |_| {}).unwrap().text);
    // The first passages keep their places, the others are computed; an order that may be chosen is the one read.
    let fewer = context("When does it close?", &[0, 1, 3]);
    let reordered = context("When does it close?", &[3, 1, 0, 2]);
    let computed = |order: PassageOrder, wanted| {
        let generator = kept(order);
        generator.passage_attention(&asked, 0..4).unwrap();
        let answer = generator.answer(wanted, &mut |_| {}).unwrap();
        (answer.kv.unwrap().computed_tokens, answer.tokens.prompt)
    };
    let (n_computed, n_prompt) = computed(PassageOrder::Rank, &fewer);
    assert!(1 < n_computed && n_computed < n_prompt * 2 / 3, "{n_computed} of {n_prompt}");
    assert_eq!(computed(PassageOrder::Shared, &reordered).0, 1);
}
