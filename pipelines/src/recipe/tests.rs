use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raglan_core::{
    Answer, Chunk, ChunkId, ChunkStore, ChunkVectors, ContentHash, Context, DenseVector, DocId, Document, Encoder,
    Error, ExampleSource, Format, Generator, Hit, LeftOut, LeftOutReason, Locator, Passage, PassageSetScorer, Query,
    QueryRewriter, Ranking, Result, Retriever, Timings, TokenUsage,
};

use super::*;
use crate::Ranked;

fn check(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::check(Path::new("r.toml"), text)
}

/// The recipe must be refused with exactly this message.
#[track_caller]
fn refused(text: &str, message: &str) {
    let error = check(text).expect_err("the recipe has a mistake");
    assert_eq!(error.to_string(), message);
}

/// The recipe must be refused at this place with a message that begins like this.
#[track_caller]
fn refused_at(text: &str, message: &str) {
    let error = check(text).expect_err("the recipe has a mistake").to_string();
    assert!(error.starts_with(message), "{error}");
}

/// A shipped recipe as it is written.
fn text(name: &str) -> &'static str {
    Recipe::shipped_text(name).expect("it is shipped")
}

#[test]
fn shipped_recipes_are_correct_and_spell_every_parameter() {
    let all: Vec<_> = Recipe::SHIPPED.iter().chain(Recipe::ABLATIONS).collect();
    let outputs = all.into_iter().map(|&(name, text)| {
        let recipe = check(text).unwrap_or_else(|error| panic!("{error}"));
        // Every line of the canonical form stands in the file, but for comments.
        let spelled: Vec<_> = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).collect();
        for line in recipe.to_string().lines() {
            assert!(spelled.contains(&line), "{name}: `{line}` is not spelled");
        }
        (name, recipe.output())
    });
    let answers = "ask ask-bm25 long-context self-ask ircot search-plan adaptive flare reorder examples \
                   rerank-answer-attention";
    for (name, output) in outputs {
        let expected = match name.trim_start_matches("ablations/") {
            name if answers.split(' ').any(|answer| answer == name) => Port::Answer,
            "code" | "focus" | "submodular" | "tree-search" => Port::Context,
            _ => Port::Ranking,
        };
        assert_eq!(output, expected, "{name}");
    }
}

#[test]
fn the_order_of_work_does_not_depend_on_the_order_of_text() {
    let recipe = Recipe::shipped("ask").unwrap();
    let names: Vec<_> = recipe.stages().iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["bm25", "dense", "fused", "relevant", "best", "context", "answer"]);
    assert_eq!(recipe.stages()[3].inputs, [Input::Stage(2), Input::Stage(0), Input::Stage(1)]);
}

#[test]
fn layout_comments_order_and_spelled_defaults_do_not_change_the_hash() {
    let hash = |text: &str| check(text).unwrap().hash();
    let hybrid = hash(text("hybrid"));
    let other_layout = "
        # The same graph.
        stage.fused = { input = [ 'bm25', 'dense', ], use = 'fuse', k = 1_0, weights = [5e-1, 0.50] }
        [stage]
        dense.use = 'dense'
        bm25.use = \"bm25\"
        bm25.k = 0x64
    ";
    let other_layout = other_layout.replace("stage.fused", "fused").replace("[stage]\n", "");
    let other_layout = format!("[stage]\n{other_layout}");
    assert_eq!(hash(&other_layout), hybrid);
    assert_ne!(hash(&text("hybrid").replace("k = 10\n", "k = 11\n")), hybrid);
    assert_ne!(hash(&text("hybrid").replace("[\"bm25\", \"dense\"]", "[\"dense\", \"bm25\"]")), hybrid);
}

#[test]
fn the_canonical_form_reads_back() {
    for (_, text) in Recipe::SHIPPED.iter().chain(Recipe::ABLATIONS) {
        let recipe = check(text).unwrap();
        let again = check(&recipe.to_string()).unwrap();
        assert_eq!(again, recipe);
        assert_eq!(again.hash(), recipe.hash());
    }
    let odd = GenerateSpec {
        system: "say \"no\"\\\n\tü\u{1}".to_owned(),
        temperature: 0.1,
        seed: i64::MAX as u64,
        ..GenerateSpec::default()
    };
    let mut recipe = RecipeBuilder::new();
    let words = recipe.add("ö a", Bm25Spec { k: 3, ..Bm25Spec::new() }, recipe.query());
    let context = recipe.add("read", ReadSpec {}, words);
    recipe.add("answer", odd.clone(), context);
    let recipe = recipe.build().unwrap();
    assert_eq!(recipe.stages()[2].spec, odd.into());
}

#[test]
fn ports_that_do_not_fit_are_shown() {
    refused(
        "[stage.ranks]\nuse = \"bm25\"\n\n[stage.say]\nuse = \"generate\"\ninput = [\"ranks\"]\n",
        "r.toml:6:10: `say` takes a Context, but `ranks` gives a Ranking; put a `read` stage between them
  |
6 | input = [\"ranks\"]
  |          ^^^^^^^",
    );
    refused_at(
        "stage.c = { use = 'read', input = 'query' }",
        "r.toml:1:35: `c` takes a Ranking, but `query` gives a Query; put a retriever such as `bm25` between them",
    );
    refused_at(
        "[stage.a]\nuse='bm25'\n[stage.b]\nuse='read'\ninput='a'\n[stage.c]\nuse='generate'\ninput='b'\n\
         [stage.d]\nuse='read'\ninput='c'",
        "r.toml:11:7: `d` takes a Ranking, but `c` gives an Answer\n",
    );
}

#[test]
fn judges_have_parameters_with_defaults_and_limits() {
    let parse = |rest: &str| {
        let text = format!("[stage.a]\nuse = 'bm25'\n[stage.b]\nuse = 'rerank'\ninput = 'a'\n{rest}");
        Recipe::check(Path::new("r.toml"), &text)
    };
    let recipe = parse("by = 'first'\nwindow = 6").unwrap();
    let StageSpec::Rerank(spec) = &recipe.stages()[1].spec else { panic!("it is one") };
    assert_eq!((spec.window, spec.step, spec.depth, spec.k), (6, 6, 20, 100));
    assert_eq!(Recipe::check(Path::new("r.toml"), &recipe.to_string()).unwrap(), recipe);
    for wrong in ["", "by = 'first'\nwindow = 27", "by = 'first'\nwindow = 6\nstep = 7", "by = 'cross-encoder'"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    assert!(parse("by = 'cross-encoder'\nmodel = 'some/folder'").is_ok());
    // What is said for another judge is refused, and what is usual may be spelled for any.
    for (wrong, told) in [
        ("by = 'yes-no'\nkeep = true", "`keep` is for `query-likelihood` and `in-context`; `yes-no` does not use it"),
        ("by = 'query-likelihood'\nn_layers = 3", "`n_layers` is for `in-context` and `answer-attention`"),
        ("by = 'listwise'\nchildren = 3", "`children` is for `setwise`; `listwise` does not use it"),
    ] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert!(parse("by = 'in-context'\nkeep = true\nn_layers = 3").is_ok());
    assert!(parse("by = 'yes-no'\nkeep = false\nn_layers = 0\nwindow = 20").is_ok());
}

#[test]
fn misspelled_words_get_the_nearest_one() {
    refused_at("stage.a.use = 'bm-25'", "r.toml:1:15: no stage kind `bm-25`; did you mean `bm25`?");
    refused_at(
        "[stage.a]\nuse = 'xyz'",
        &format!("r.toml:2:7: no stage kind `xyz`; there are {}", StageSpec::KINDS.join(", ")),
    );
    refused_at(
        "[stage.a]\nuse = 'generate'\ninput = 'b'\ntemprature = 1",
        "r.toml:4:1: no parameter of `generate` `temprature`; did you mean `temperature`?",
    );
    refused_at(
        "[stage.dense]\nuse = 'dense'\n[stage.a]\nuse = 'read'\ninput = 'dens'",
        "r.toml:5:9: no stage `dens`; did you mean `dense`?",
    );
    refused_at("[stages.a]\nuse = 'bm25'", "r.toml:1:2: no table `stages`; did you mean `stage`?");
    refused_at(
        "stage.a = { use = 'dense', mode = 'exakt' }",
        "r.toml:1:35: no dense mode `exakt`; did you mean `exact`?",
    );
    let fuse = "stage.a.use='bm25'\nstage.b.use='dense'\nstage.f={use='fuse',input=['a','b'],";
    refused_at(&format!("{fuse}method='rff'}}"), "r.toml:3:44: no fusion method `rff`");
    refused_at(&format!("{fuse}method='z-score',k0=60}}"), "r.toml:3:54: no parameter of `fuse` `k0`");
    refused_at(&format!("{fuse}method='z-score',minima=[0,0]}}"), "r.toml:3:54: no parameter of `fuse` `minima`");
    refused_at(&format!("{fuse}weights=[0,0.0]}}"), "r.toml:3:45: `weights` must have one above 0");
}

#[test]
fn a_fusion_method_is_changed_alone() {
    let fuse = |rest: &str| {
        check(&format!("stage.a.use='bm25'\nstage.b.use='dense'\nstage.f={{use='fuse',input=['a','b'],{rest}}}"))
            .unwrap()
    };
    for method in Fusion::NAMES {
        let recipe = fuse(&format!("method='{method}',minima=[]"));
        assert_eq!(recipe, fuse(&format!("method='{method}'")));
        assert!(!recipe.to_string().contains("minima"), "{recipe}");
    }
    assert!(fuse("minima=[0,-1]").to_string().contains("minima = ["));
}

#[test]
fn a_long_line_is_cut_around_the_mistake() {
    let before = "['a',".to_owned() + &"'long',".repeat(1000);
    let text = format!("stage.a = {{ use = 'bm25', x = {before}'z'], kk = 1, y = {before}'z'] }}");
    let error = check(&text).unwrap_err();
    assert!(error.line_text.chars().count() < 200, "{}", error.line_text);
    let marked: String = error.line_text.chars().skip(error.text_column - 1).take(error.width).collect();
    let whole: String = text.chars().skip(error.column - 1).take(error.width).collect();
    assert_eq!(marked, whole);
    let told = error.to_string();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[3].find('^').map(|at| lines[3][..at].chars().count()), Some(error.text_column + 3), "{told}");
}

#[test]
fn values_of_the_wrong_type_or_size_are_refused() {
    refused_at("[stage.a]\nuse = 'bm25'\nk = '10'", "r.toml:3:5: `k` is a whole number, not a string");
    refused_at("[stage.a]\nuse = 'bm25'\nk = 0", "r.toml:3:5: `k` must be from 1 to ");
    refused_at("[stage.a]\nuse = 'bm25'\nk = -1", "r.toml:3:5: `k` must be from 1 to 4294967295\n");
    refused_at("[stage.a]\nuse = 'bm25'\nk = 99999999999999999999999999", "r.toml:3:5: `k` must be");
    refused_at("[stage.a]\nuse = 7", "r.toml:2:7: `use` is a string, not a whole number");
    refused_at(
        "[stage.a]\nuse = 'generate'\ninput = 'x'\ntop_p = 0",
        "r.toml:4:9: `top_p` must be from just above 0 to 1",
    );
    let generate = "[stage.a]\nuse = 'generate'\ninput = 'x'\n";
    refused_at(&format!("{generate}temperature = -0.5"), "r.toml:4:15: `temperature` must be from 0 to 100");
    refused_at(&format!("{generate}max_tokens = 0"), "r.toml:4:14: `max_tokens` must be from 1 to ");
    refused_at(
        &format!("{generate}context_tokens = 256\n[stage.x]\nuse='read'\ninput='y'\n[stage.y]\nuse='bm25'"),
        "r.toml:4:18: `context_tokens` must be more than `max_tokens`, 256, or 0",
    );
    refused_at("[stage.a]\nuse = 'generate'\ninput = 'x'\nmin_p = nan", "r.toml:4:9: `min_p` must be from 0 to 1");
    let fuse = "stage.a.use='bm25'\nstage.b.use='dense'\n[stage.f]\nuse='fuse'\ninput=['a','b']\n";
    refused_at(&format!("{fuse}weights=[1.0]"), "r.toml:6:9: `weights` needs 2 numbers");
    refused_at(&format!("{fuse}weights=[1.0, -1]"), "r.toml:6:15: `weights` must be a finite number of at least 0");
    refused_at(&format!("{fuse}minima=[inf, 0]"), "r.toml:6:9: `minima` must be a finite number");
    refused_at("stage = 3", "r.toml:1:9: `stage` is a table, not a whole number");
}

#[test]
fn what_is_missing_is_named() {
    refused_at("", "r.toml:1:1: the recipe has no `[stage.NAME]`");
    refused_at("[stage]", "r.toml:1:");
    refused_at("[stage.a]\nk = 1", "r.toml:1:8: `a` has no `use`");
    refused_at("[stage.a]\nuse = 'read'", "r.toml:1:8: `a` has no `input`");
    refused_at("stage.a.use='bm25'\n[stage.b]\nuse='gate'\ninput='a'", "r.toml:2:8: `b` has no `min_scores`");
}

#[test]
fn a_recipe_is_a_graph_without_circles_with_one_result() {
    refused_at(
        "[stage.a]\nuse='select'\ninput='c'\n[stage.b]\nuse='select'\ninput='a'\n[stage.c]\nuse='select'\ninput='b'",
        "r.toml:3:7: stages go in a circle: a → b → c → a\n",
    );
    refused_at("[stage.a]\nuse='select'\ninput='a'", "r.toml:3:7: stages go in a circle: a → a\n");
    refused_at(
        "stage.x.use='bm25'\nstage.y.use='dense'",
        "r.toml:1:7: `x` is used by no stage, and neither is `y`: a recipe has one result",
    );
    refused_at(
        "stage.a.use='bm25'\n[stage.f]\nuse='fuse'\ninput='a'",
        "r.toml:4:7: `f` takes at least 2 inputs, not 1",
    );
    refused_at("stage.a.use='bm25'\n[stage.f]\nuse='fuse'\ninput=['a','a']", "r.toml:4:12: `input` has `a` twice");
    refused_at("stage.query.use='bm25'", "r.toml:1:7: `query` is what the questions are called");
}

#[test]
fn syntax_errors_and_doubled_keys_have_a_place() {
    refused_at("[stage.a]\nuse = \n", "r.toml:2:");
    refused_at("[stage.a]\nuse = 'bm25'\nuse = 'bm25'", "r.toml:3:1:");
    refused_at("[stage.é]\nuse = 'bm25'", "r.toml:1:");
}

#[test]
fn the_mark_stands_below_tabs_and_wide_letters() {
    refused(
        "stage = { 'é' = {\tuse = 'bm26' } }",
        "r.toml:1:25: no stage kind `bm26`; did you mean `bm25`?
  |
1 | stage = { 'é' = {\tuse = 'bm26' } }
  |                  \t      ^^^^^^",
    );
}

#[test]
fn checking_is_fast() {
    let best = (0..5).map(|_| {
        let start = Instant::now();
        check(text("ask")).unwrap();
        start.elapsed()
    });
    assert!(best.min().unwrap() < Duration::from_millis(5));
}

#[test]
fn the_number_of_results_reaches_every_stage_that_limits_it() {
    let hybrid = Recipe::shipped("hybrid").unwrap();
    let ks = |recipe: &Recipe| -> Vec<usize> {
        let k = |stage: &RecipeStage| *stage.spec.clone().parameter_mut::<usize>("k").expect("all limit the number");
        recipe.stages().iter().map(k).collect()
    };
    assert_eq!(ks(&hybrid.clone().with_k(3)), [100, 100, 3]);
    assert_eq!(ks(&hybrid.clone().with_k(500)), [500, 500, 500]);
    let rrf = hybrid.with_fusion(&Fusion::RECIPROCAL_RANK);
    assert!(rrf.to_string().contains("method = \"reciprocal-rank\"\nk0 = 60.0\nweights = [1.0, 1.0]"));
}

/// A retriever that finds the same chunks whatever is asked.
struct Always(Vec<(u32, f32)>);

impl Retriever for Always {
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
        let hits = || self.0.iter().map(|&(id, score)| Hit::new(ChunkId(id), score)).collect();
        queries.iter().map(|_| Ranking::best(hits(), k)).collect()
    }
}

/// A store in which chunk `n` says `text n`.
struct Numbered;

impl ChunkStore for Numbered {
    fn chunks(&self, ids: &[ChunkId]) -> Result<Vec<Chunk>> {
        let chunk = |&id: &ChunkId| {
            let text = format!("text {}", id.0);
            Chunk { id, doc: DocId(0), span: 0..text.len(), text, locator: Locator::default(), n_tokens: 2 }
        };
        Ok(ids.iter().map(chunk).collect())
    }

    fn chunks_of(&self, _: DocId) -> Result<Vec<Chunk>> {
        Ok(vec![])
    }

    fn document(&self, id: DocId) -> Result<Arc<Document>> {
        Ok(Arc::new(Document {
            id,
            path: "a.txt".to_owned(),
            hash: ContentHash([0; 32]),
            size: 0,
            mtime_ns: 0,
            format: Format::PlainText,
            reader: "text/1".to_owned(),
            encoding: None,
            title: None,
            metadata: std::collections::BTreeMap::default(),
        }))
    }
}

/// A generator that repeats its passages.
struct Repeat;

impl Generator for Repeat {
    fn generate(&self, contexts: &[Context], on_text: &mut dyn FnMut(usize, &str)) -> Result<Vec<Result<Answer>>> {
        let answer = |(i, context): (usize, &Context)| {
            let texts: Vec<_> = context.passages.iter().map(|passage| passage.chunk.text.clone()).collect();
            on_text(i, &texts.join("; "));
            if texts.is_empty() {
                return Err(Error::Invalid { what: "context", problem: "it has no passage".to_owned() });
            }
            Ok(Answer {
                question: context.question.clone(),
                text: texts.join("; "),
                sentences: vec![],
                steps: vec![],
                gathered: vec![],
                sources: vec![],
                left_out: context.left_out.clone(),
                timings: Timings::default(),
                tokens: TokenUsage::default(),
                kv: None,
            })
        };
        Ok(contexts.iter().enumerate().map(answer).collect())
    }
}

fn parts(stage: &RecipeStage) -> Result<Part> {
    Ok(match stage.spec {
        StageSpec::Bm25(_) => Part::Retriever(Arc::new(Always(vec![(1, 12.0), (2, 8.0), (3, 4.0)]))),
        StageSpec::Dense(_) => Part::Retriever(Arc::new(Always(vec![(3, 0.9), (1, 0.5), (4, 0.1)]))),
        StageSpec::Read(_) => Part::Store(Arc::new(Numbered)),
        _ => Part::Generator(Arc::new(Repeat)),
    })
}

#[test]
fn a_bound_recipe_answers_and_keeps_what_each_stage_gave() {
    let pipeline = Recipe::shipped("ask").unwrap().bind(parts).unwrap();
    let mut streamed = String::new();
    let runs = pipeline.trace(vec!["q".into()], &mut |i, text| streamed += &format!("{i}: {text}")).unwrap();
    let ports: Vec<_> = runs.iter().map(|run| run.output.port()).collect();
    let rankings = [Port::Ranking; 5];
    assert_eq!(ports, [&rankings[..], &[Port::Context, Port::Answer]].concat());
    let Value::Answers(answers) = &runs[6].output else { panic!("the last stage answers") };
    let answer = answers[0].as_ref().unwrap();
    assert_eq!(answer.text, "text 1; text 3; text 2"); // By min-max: 0.75, 0.5, 0.25.
    assert_eq!(answer.left_out, [LeftOut { chunk: ChunkId(4), reason: LeftOutReason::Irrelevant }]);
    assert_eq!(streamed, "0: text 1; text 3; text 2");
}

#[test]
fn the_recipe_and_the_stages_composed_by_hand_give_the_same() {
    use crate::{Stage, fuse, gate, generate, read, retrieve, select, stage};

    let (bm25, dense) = (Always(vec![(1, 12.0), (2, 8.0), (3, 4.0)]), Always(vec![(3, 0.9), (1, 0.5), (4, 0.1)]));
    let by_hand = retrieve(&bm25, 100)
        .both(retrieve(&dense, 100))
        .then(stage("fuse", |lists: (Vec<_>, Vec<_>)| {
            let fused = fuse(Fusion::MIN_MAX, 10).depth(100).weights([0.5, 0.5]).run(lists.clone())?;
            Ok((fused, vec![lists.0, lists.1]))
        }))
        .then(gate([8.0, 0.25]))
        .then(select(3))
        .then(read(&Numbered))
        .then(generate(&Repeat));
    let queries: Vec<Query> = vec!["a".into(), "b".into()];
    let by_recipe = Recipe::shipped("ask").unwrap().bind(parts).unwrap().run(queries.clone()).unwrap();
    let Value::Answers(by_recipe) = by_recipe else { panic!("the last stage answers") };
    let unwrapped = |answers: Vec<Result<Answer>>| answers.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(unwrapped(by_recipe), unwrapped(by_hand.run(queries).unwrap()));
}

#[test]
fn a_part_that_does_not_fit_is_refused() {
    let result = Recipe::shipped("bm25").unwrap().bind(|_| Ok::<_, Error>(Part::Store(Arc::new(Numbered))));
    let error = result.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "recipe: stage `bm25` needs a retriever, not a store");
}

/// A recipe of all kinds that have stages inside of them.
const AROUND: &str = "
[stage.kept]
use = 'cached'
input = 'query'
[stage.kept.do.words]
use = 'bm25'
[stage.kept.do.way]
use = 'branch'
input = 'words'
measure = 'score'
at_least = 10
[stage.kept.do.way.then.first]
use = 'select'
input = 'input'
k = 1
[stage.kept.do.way.else.meaning]
use = 'dense'
[stage.cheap]
use = 'budget'
input = 'kept'
tokens = 1000
[stage.cheap.do.sure]
use = 'fallback'
input = 'input'
measure = 'results'
at_least = 2
[stage.cheap.do.sure.try.strict]
use = 'gate'
input = 'input'
min_scores = [0.4]
[stage.again]
use = 'retry'
input = 'cheap'
[stage.again.do.shorter]
use = 'loop'
input = 'input'
until = 'margin'
at_least = 100
times = 2
[stage.again.do.shorter.do.less]
use = 'select'
input = 'input'
k = 2
";

/// Finds good hits for questions that begin with `good`, and poor ones for others; counts the questions.
struct Moody(std::sync::atomic::AtomicUsize);

impl Retriever for Moody {
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
        self.0.fetch_add(queries.len(), std::sync::atomic::Ordering::Relaxed);
        let hits = |query: &Query| {
            let best = if query.text.starts_with("good") { 20.0 } else { 2.0 };
            vec![Hit::new(ChunkId(1), best), Hit::new(ChunkId(2), 1.0)]
        };
        queries.iter().map(|query| Ranking::best(hits(query), k)).collect()
    }
}

#[test]
fn questions_go_their_ways_through_stages_inside_of_stages() {
    let recipe = check(AROUND).unwrap_or_else(|error| panic!("{error}"));
    let moody = Arc::new(Moody(0.into()));
    let pipeline = recipe.bind(|stage| match stage.spec {
        StageSpec::Bm25(_) => Ok::<_, Error>(Part::Retriever(moody.clone())),
        _ => parts(stage),
    });
    let pipeline = pipeline.unwrap();
    let run = |texts: &[&str]| {
        let Value::Rankings(found) = pipeline.run(texts.iter().map(|&text| text.into()).collect()).unwrap() else {
            panic!("the recipe ends in a ranking")
        };
        let ids = |ranked: &Ranked| ranked.ranking.ids().iter().map(|id| id.0).collect::<Vec<_>>();
        found.iter().map(ids).collect::<Vec<_>>()
    };
    // A good question keeps its first hit; another is asked by meaning, which gives 3 (0.9), 1 (0.5), 4 (0.1).
    assert_eq!(run(&["bad", "good", "worse"]), [vec![3, 1], vec![1], vec![3, 1]]);
    assert_eq!(run(&["good", "bad"]), [vec![1], vec![3, 1]]);
    assert_eq!(moody.0.load(std::sync::atomic::Ordering::Relaxed), 3, "the second batch was kept");
}

#[test]
fn stages_inside_of_stages_have_a_canonical_form_too() {
    let recipe = check(AROUND).unwrap();
    let again = check(&recipe.to_string()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((again.hash(), &again), (recipe.hash(), &recipe));
    assert!(recipe.to_string().contains("[stage.kept.do.way.else.meaning]\nuse = \"dense\"\ninput = \"query\""));
    assert_ne!(check(&AROUND.replace("k = 1\n", "k = 3\n")).unwrap().hash(), recipe.hash());
    let limited = recipe.with_k(5);
    let (mut last, mut inner) = (0, 0);
    for stage in limited.all_stages() {
        match &stage.spec {
            StageSpec::Select(spec) if stage.name == "less" => last = spec.k,
            StageSpec::Select(spec) => inner = spec.k,
            _ => {}
        }
    }
    assert_eq!((last, inner), (5, 5));
}

#[test]
fn answers_that_fail_fall_back_and_streams_keep_their_places() {
    let text = "
        stage.words.use = 'bm25'
        stage.context = { use = 'read', input = 'words' }
        [stage.say]
        use = 'fallback'
        input = 'context'
        [stage.say.try]
        none = { use = 'gate', input = 'found', min_scores = [1e6] }
        found.use = 'bm25'
        nothing = { use = 'read', input = 'none' }
        fails = { use = 'generate', input = 'nothing' }
        [stage.say.else]
        works = { use = 'generate', input = 'input' }
    ";
    let pipeline = check(text).unwrap_or_else(|error| panic!("{error}")).bind(parts).unwrap();
    let mut streamed = Vec::new();
    let runs =
        pipeline.trace(vec!["a".into(), "b".into()], &mut |i, text| streamed.push((i, text.to_owned()))).unwrap();
    let Some(StageRun { output: Value::Answers(answers), .. }) = runs.last() else { panic!("it answers") };
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().text == "text 1; text 2; text 3"));
    let last = streamed.iter().filter(|(_, text)| !text.is_empty()).map(|(i, _)| *i).collect::<Vec<_>>();
    assert_eq!(last, [0, 1]);
}

#[test]
fn a_spent_budget_leaves_questions_without_answers() {
    let text = "
        stage.words.use = 'bm25'
        stage.context = { use = 'read', input = 'words' }
        [stage.say]
        use = 'budget'
        input = 'context'
        tokens = 10
        do.answer = { use = 'generate', input = 'input' }
    ";
    let expensive = Part::Generator(Arc::new(Costs(15)));
    let bind = |stage: &RecipeStage| match stage.spec {
        StageSpec::Generate(_) => Ok::<_, Error>(expensive.clone()),
        _ => parts(stage),
    };
    let pipeline = check(text).unwrap_or_else(|error| panic!("{error}")).bind(bind).unwrap();
    let Value::Answers(answers) = pipeline.run(vec!["a".into(), "b".into(), "c".into()]).unwrap() else { panic!() };
    // Three questions share 30 tokens; two cost 15 each.
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert!(matches!(answers[2], Err(Error::BudgetSpent)));
}

/// A generator whose answers cost so many tokens.
struct Costs(usize);

impl Generator for Costs {
    fn generate(&self, contexts: &[Context], on_text: &mut dyn FnMut(usize, &str)) -> Result<Vec<Result<Answer>>> {
        let mut answers = Repeat.generate(contexts, on_text)?;
        for answer in answers.iter_mut().flatten() {
            answer.tokens.prompt = self.0;
        }
        Ok(answers)
    }
}

#[test]
fn mistakes_inside_of_stages_have_a_place() {
    let branch = "stage.a.use='bm25'\n[stage.b]\nuse='branch'\ninput='a'\nmeasure='score'\nat_least=1\n";
    refused_at(branch, "r.toml:2:8: `b` has no `then.NAME`");
    refused_at(&format!("{branch}then.c={{use='slect',input='input'}}"), "r.toml:7:13: no stage kind `slect`; did");
    refused_at(
        &format!("{branch}then.c={{use='read',input='input'}}"),
        "r.toml:2:8: `else` of `b` gives a Ranking, not a Context",
    );
    refused_at(
        &format!("{branch}then.c={{use='generate',input='input'}}"),
        "r.toml:7:30: `c` takes a Context, but `input` gives a Ranking; put a `read` stage between them",
    );
    refused_at(
        &format!("{branch}then.c={{use='select',input='a'}}"),
        "r.toml:7:28: no stage `a`; there are query, input",
    );
    refused_at(
        &format!("{}then.c={{use='select',input='input'}}", branch.replace("score", "support")),
        "r.toml:5:9: `measure` = `support` is a measure of Answer, not of Ranking",
    );
    refused_at(
        "stage.a.use='bm25'\n[stage.l]\nuse='loop'\ninput='a'\nuntil='score'\nat_least=1\ntimes=3\n\
         do.r={use='read',input='input'}",
        "r.toml:8:1: `do` of `l` gives a Context, not a Ranking",
    );
    refused_at("stage.a = { use = 'select', input = 'input' }", "r.toml:1:37: no stage `input`; there is query");
    refused_at(
        "stage.input.use='bm25'",
        "r.toml:1:7: `input` is what the input of a recipe inside of a stage is called",
    );
}

#[test]
fn settings_from_outside_reach_into_stages_and_have_a_place() {
    let with = |settings: &[&str]| Recipe::check_with(Path::new("r.toml"), AROUND, settings);
    let expected = check(&AROUND.replace("k = 1\n", "k = 7\n").replace("'score'", "'margin'")).unwrap();
    let settings = ["kept.do.way.then.first.k=7", "stage.kept.do.way.measure = margin"];
    assert_eq!(with(&settings).unwrap_or_else(|error| panic!("{error}")), expected);
    let refused = |setting: &str| with(&[setting]).unwrap_err().to_string().lines().next().unwrap().to_owned();
    assert_eq!(refused("cheap.tokens=-1"), "--set:1:14: `tokens` must be from 0 to 4294967295");
    assert_eq!(refused("cheep.tokens=1"), "--set:1:1: no stage `cheep`; did you mean `cheap`?");
    assert_eq!(refused("cheap.token=1"), "--set:1:7: no parameter of `budget` `token`; did you mean `tokens`?");
    assert_eq!(
        refused("cheap=1"),
        "--set:1:7: `cheap` is a stage, whose parameters are `STAGE.KEY`, not a whole number"
    );
    assert!(refused("cheap.tokens").starts_with("--set:1:"));
    assert!(refused("cheap.tokens=[1").starts_with("--set:1:"));
}

#[test]
fn included_recipes_are_changed_stage_by_stage() {
    let folder = std::env::temp_dir().join(format!("raglan-include-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write(
        "base.toml",
        "include = 'hybrid'\n[stage.bm25]\nk = 50\n[stage.best]\nuse = 'select'\ninput = 'fused'\nk = 0",
    );
    write("round.toml", "include = ['round.toml']");
    let load = |text: &str| Recipe::check(&folder.join("r.toml"), text);
    let good = "include = ['base.toml']\n[stage.best]\nuse = 'select'\ninput = 'fused'\nk = 3";
    let recipe = load(good).unwrap_or_else(|error| panic!("{error}"));
    let expected = text("hybrid").replacen("k = 100", "k = 50", 1);
    assert_eq!(recipe, check(&format!("{expected}\n[stage.best]\nuse='select'\ninput='fused'\nk=3")).unwrap());
    let error = load("include = 'base.toml'").unwrap_err();
    assert_eq!((error.path.as_path(), error.line, error.column), (folder.join("base.toml").as_path(), 7, 5));
    assert!(load("include = 'round.toml'").unwrap_err().to_string().contains("cannot be included: it includes itself"));
    let missing = load("include = 'none.toml'").unwrap_err().to_string();
    assert!(missing.contains(":1:11: `none.toml` cannot be included: "), "{missing}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_reference_tells_of_every_kind() {
    let kinds = KindReference::all();
    assert!(kinds.iter().map(|kind| kind.name).eq(StageSpec::KINDS));
    assert!(StageSpec::KINDS.is_sorted());
    for parameter in kinds.iter().flat_map(|kind| &kind.parameters) {
        assert!(parameter.doc.ends_with('.') && !parameter.values.is_empty(), "{parameter:?}");
    }
    let fuse = kinds.iter().find(|kind| kind.name == "fuse").unwrap();
    let names: Vec<_> = fuse.parameters.iter().map(|parameter| parameter.name).collect();
    assert_eq!(names, ["method", "minima", "k0", "weights", "depth", "k"]);
}

#[test]
fn the_queries_of_a_question_are_asked_together_and_fused() {
    let text = "
        stage.parts.use = 'split'
        [stage.found]
        use = 'each'
        input = 'parts'
        k = 2
        do.words = { use = 'bm25', input = 'input' }
        do.best = { use = 'select', input = 'words', k = 1 }
    ";
    let recipe = check(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(check(&recipe.to_string()).unwrap(), recipe);
    let moody = Arc::new(Moody(0.into()));
    let pipeline = recipe.bind(|_| Ok::<_, Error>(Part::Retriever(moody.clone()))).unwrap();
    let Value::Rankings(found) = pipeline.run(vec!["good one? bad one?".into(), "bad".into()]).unwrap() else {
        panic!()
    };
    assert_eq!((found[0].ranking.len(), found[1].ranking.len()), (1, 1));
    assert_eq!(found[0].query.text, "good one? bad one?");
    assert_eq!(moody.0.load(std::sync::atomic::Ordering::Relaxed), 4); // Itself, its two sentences, and the other.
    refused_at(
        &text.replace(
            "do.best = { use = 'select', input = 'words', k = 1 }",
            "do.c = { use = 'read', input = 'words' }",
        ),
        "r.toml:7:9: `do` of `found` gives a Context, not a Ranking",
    );
}

#[test]
fn a_graph_built_in_rust_is_the_recipe_that_it_exports() {
    let mut built = RecipeBuilder::new();
    let query = built.query();
    let kept = built.around("kept", CachedSpec::new(), query, |kept, _| {
        let words = kept.add("words", Bm25Spec::new(), kept.query());
        let way = BranchSpec::new(Measure::Score, 10.0);
        kept.branch(
            "way",
            way,
            words,
            |then, found| then.add("first", SelectSpec { k: 1 }, found),
            |other, _| other.add("meaning", DenseSpec::new(), other.query()),
        )
    });
    let cheap = built.around("cheap", BudgetSpec { tokens: 1000, ..BudgetSpec::new() }, kept, |cheap, found| {
        let spec = FallbackSpec { at_least: 2.0, ..FallbackSpec::new() };
        let strict = |first: &mut RecipeBuilder, found| first.add("strict", GateSpec::new(vec![0.4]), found);
        cheap.fallback("sure", spec, found, strict, |_, found| found)
    });
    built.around("again", RetrySpec::new(), cheap, |again, found| {
        let rounds = LoopSpec::new(Measure::Margin, 100.0, 2);
        again.repeat("shorter", rounds, found, |round, found| round.add("less", SelectSpec { k: 2 }, found))
    });
    let built = built.build().unwrap_or_else(|error| panic!("{error}"));
    // The text says that the whole `cached` stage takes the questions; in Rust its inner stages say so themselves.
    assert_eq!(built.to_string(), check(AROUND).unwrap().to_string());
    assert_eq!(built.hash(), check(&built.to_string()).unwrap().hash());
}

#[test]
fn what_the_compiler_does_not_see_is_found_when_a_graph_is_built() {
    let mut twice = RecipeBuilder::new();
    twice.add("a", Bm25Spec::new(), twice.query());
    twice.add("a", DenseSpec::new(), twice.query());
    assert!(matches!(*twice.build().unwrap_err().problem, RecipeProblem::Syntax { .. }));

    let mut foreign = RecipeBuilder::new();
    let other = RecipeBuilder::new();
    foreign.add("a", Bm25Spec::new(), other.query());
    assert!(matches!(*foreign.build().unwrap_err().problem, RecipeProblem::UnknownWord { .. }));

    let mut inner = RecipeBuilder::new();
    inner.around("kept", CachedSpec::new(), inner.query(), |kept, query| {
        let words = kept.add("words", Bm25Spec::new(), query);
        kept.add("best", SelectSpec::new(), words);
        words // But `best` is what comes last.
    });
    assert!(matches!(*inner.build().unwrap_err().problem, RecipeProblem::UnknownWord { .. }));

    let mut k = RecipeBuilder::new();
    k.add("a", Bm25Spec { k: 0, ..Bm25Spec::new() }, k.query());
    assert!(matches!(*k.build().unwrap_err().problem, RecipeProblem::OutOfRange { .. }));
}

#[test]
fn the_schema_knows_every_key_of_the_shipped_recipes_and_no_other() {
    let schema = Recipe::schema();
    let texts = Recipe::SHIPPED.iter().map(|(_, text)| *text).chain([AROUND]);
    for text in texts {
        for stage in check(text).unwrap().all_stages() {
            let properties = &schema["$defs"][stage.spec.kind()]["properties"];
            let mut lines = parameter::Lines::default();
            stage.spec.write(&mut lines);
            let keys = lines.0.lines().map(|line| line.split_once(" = ").unwrap().0);
            for key in keys.chain(["use", "input"]).chain(stage.spec.bodies().iter().copied()) {
                assert!(properties[key].is_object(), "`{}` has no `{key}`", stage.spec.kind());
            }
        }
    }
    let bm25 = &schema["$defs"]["bm25"];
    assert_eq!(bm25["additionalProperties"], false);
    assert_eq!(
        bm25["properties"]["b"].to_string(),
        concat!(
            r#"{"type":"number","minimum":0.0,"maximum":1.0,"#,
            r#""description":"How much a chunk's length counts.","default":0.75}"#
        )
    );
    assert_eq!(schema["$defs"]["dense"]["properties"]["mode"]["enum"][4], "one-bit");
}

#[test]
fn the_written_reference_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("KINDS.md");
    let expected = format!(
        "# Kinds of stages\n\nEvery recipe is made of these. This file is written by a test; \
         `RAGLAN_WRITE_REFERENCE=1 cargo test -p raglan-pipeline` writes it anew.\n\n{}",
        Recipe::reference().trim_end()
    ) + "\n";
    if std::env::var_os("RAGLAN_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), expected);
}

#[test]
fn pictures_show_every_stage_and_edge() {
    let recipe = check(AROUND).unwrap();
    let mermaid = recipe.mermaid();
    assert!(mermaid.contains("subgraph s0do[\"kept: do\"]"), "{mermaid}");
    assert!(mermaid.contains("  query -->|Query| s0do_0\n"), "{mermaid}");
    assert!(mermaid.contains("  s0do_1 -->|Ranking| s0do_1then_0\n"), "{mermaid}");
    assert_eq!(
        mermaid.matches("-->").count(),
        recipe.all_stages().iter().map(|stage| stage.inputs.len()).sum::<usize>()
    );
    let svg = recipe.svg();
    let blocks = svg.matches("<rect ").count() - 1; // One is the background.
    // Each recipe has a block for what it takes: the whole, and the bodies that have stages.
    let stages = recipe.all_stages();
    let bodies = stages.iter().flat_map(|stage| &stage.bodies).filter(|body| !body.stages().is_empty());
    assert_eq!(blocks, stages.len() + 1 + bodies.count());
    let odd = check("stage.'a\"<b>&' = { use = 'bm25' }").unwrap();
    assert!(odd.svg().contains("a&quot;&lt;b&gt;&amp;") && !odd.mermaid().contains("a\""));
}

/// Asks the same in capitals, and shows, encodes and scores by the length of a text.
struct Helps;

impl QueryRewriter for Helps {
    fn rewrite(&self, questions: &[&str]) -> Result<Vec<Vec<String>>> {
        Ok(questions.iter().map(|question| vec![format!("good {question}")]).collect())
    }
}

impl ExampleSource for Helps {
    fn examples(&self, questions: &[&str], n: usize) -> Result<Vec<String>> {
        Ok(questions.iter().map(|question| format!("{n} like {question}")).collect())
    }
}

impl Encoder for Helps {
    type Vector = DenseVector;

    fn encode_queries(&self, queries: &[&str]) -> Result<Vec<DenseVector>> {
        queries.iter().map(|text| DenseVector::new(vec![text.len() as f32, 1.0])).collect()
    }

    fn encode_passages(&self, passages: &[&str]) -> Result<Vec<DenseVector>> {
        self.encode_queries(passages)
    }
}

impl PassageSetScorer for Helps {
    fn scores(&self, _: &str, lists: &[Vec<&Passage>]) -> Result<Vec<f32>> {
        Ok(lists.iter().map(|list| list.len() as f32 / 9.0).collect())
    }
}

impl ChunkVectors for Helps {
    fn vectors(&self, ids: &[ChunkId]) -> Result<Vec<DenseVector>> {
        ids.iter().map(|id| DenseVector::new(vec![1.0, id.0 as f32])).collect()
    }
}

#[test]
fn what_helps_searching_and_reading_is_a_stage() {
    let text = "
        stage.texts = { use = 'rewrite', by = 'paraphrases' }
        stage.found = { use = 'each', input = 'texts', do.words = { use = 'bm25', input = 'input' } }
        stage.asked = { use = 'questions', file = 'q.jsonl' }
        stage.gated = { use = 'gated-dense' }
        stage.all = { use = 'fuse', input = ['found', 'asked', 'gated'] }
        stage.read = { use = 'read', input = 'all' }
        stage.focus = { use = 'focus', input = 'read' }
        stage.list = { use = 'tree-search', input = 'focus' }
        stage.cover = { use = 'submodular', input = 'list' }
        stage.order = { use = 'reorder', input = 'cover', order = 'best-last' }
        stage.shown = { use = 'examples', input = 'order', file = 'e.jsonl', n = 2 }
    ";
    let recipe = check(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(check(&recipe.to_string()).unwrap(), recipe);
    let moody = Arc::new(Moody(0.into()));
    let pipeline = recipe.bind(|stage| {
        Ok::<_, Error>(match stage.spec.part() {
            PartKind::Retriever => Part::Retriever(moody.clone()),
            PartKind::Store => Part::Store(Arc::new(Numbered)),
            PartKind::Vectors => Part::Vectors(Arc::new(Helps)),
            PartKind::Rewriter => Part::Rewriter(Arc::new(Helps)),
            PartKind::Examples => Part::Examples(Arc::new(Helps)),
            PartKind::Encoder => Part::Encoder(Arc::new(Helps)),
            _ => Part::Scorer(Arc::new(Helps)),
        })
    });
    let Value::Contexts(found) = pipeline.unwrap().run(vec!["why".into()]).unwrap() else { panic!() };
    assert_eq!(moody.0.load(std::sync::atomic::Ordering::Relaxed), 4); // The question thrice, and its other text.
    assert_eq!((found[0].question.as_str(), found[0].examples.as_str()), ("why", "2 like why"));
    let ids: Vec<u32> = found[0].passages.iter().map(|passage| passage.chunk.id.0).collect();
    assert_eq!(ids, [2, 1]);
    for (text, problem) in [
        ("stage.a = { use = 'rewrite' }", "r.toml:1:7: `a` has no `by`"),
        ("stage.a = { use = 'rewrite', by = 'meta-knowledge' }", "r.toml:1:7: `a` has no `file`"),
        ("stage.a = { use = 'rewrite', by = 'hyde' }", "r.toml:1:35: no way to rewrite `hyde`"),
    ] {
        refused_at(text, problem);
    }
}
