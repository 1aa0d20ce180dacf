//! Words of `raglan eval` and `raglan tune`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use raglan::kv::BlockPrecision;
use raglan::{Approach, KvCalibrated};

use super::count;

/// `raglan eval`
#[derive(Subcommand)]
pub enum EvalCommand {
    /// Score a run against judgements, as trec_eval -c does
    #[command(after_help = "Examples:
  raglan eval run --run bm25.trec --qrels scifact/qrels/test.tsv
  raglan eval run --run a.trec --qrels a.qrels --metrics ndcg@10,rprec,hole@10 --per-query")]
    Run(EvalRunCommand),
    /// Compare two results, or two runs with judgements, query by query
    #[command(after_help = "Examples:
  raglan eval diff bm25.json hybrid.json
  raglan eval diff a.trec b.trec --qrels scifact/qrels/test.tsv --metric recall@100")]
    Diff(EvalDiffCommand),
    /// Render result files as report.md and report.html with plots
    #[command(after_help = "Example:
  raglan eval report results/*.json --out report")]
    Report(EvalReportCommand),
    /// Recall, precision and IoU of chunkers on documents with marked reference passages
    Chunking(ChunkingCommand),
    /// What a recipe finds in a collection in the layout of BEIR, and how well
    #[command(after_help = "Example:
  raglan eval beir --path scifact --recipe hybrid --out results/hybrid

The collection's index is kept in the cache, so that another recipe starts at once; --fresh makes it anew.")]
    Beir(BeirCommand),
    /// How near ways to reuse passages' keys and values come to computing prompts in full, and how fast they are
    #[command(after_help = "Examples:
  raglan eval kv --path musique.jsonl.gz --limit 100 --out results/musique
  raglan eval kv --set two-chunks --method naive,random=0.1,focus=0.1
  raglan eval kv --path musique.jsonl.gz --workload --requests 200 --method naive,focus
  raglan eval kv --path musique.jsonl.gz --calibrate cache-craft && raglan ask --kv cache-craft \"How long?\"

A line of a file has question, answers and ctxs, each with title and text. Methods: full, prefix, naive, random=SHARE,
link=TOKENS, blend=SHARE, cache-craft=ALPHA, parallel=TEMPERATURE,SCALE, focus=SHARE.")]
    Kv(KvCommand),
    /// How well and how fast answers come from long texts when they attend to a part of the keys
    #[command(
        name = "longcontext",
        after_help = "Examples:
  raglan eval longcontext --lengths 2048,4096 --policy full,quest=0.05,retrieval=0.05
  raglan eval longcontext --tasks all --lengths 1024 --limit 3 --out results/ruler
  raglan eval longcontext --path leval-quality.jsonl.gz --lengths 8000 --limit 20
  raglan eval longcontext --rope-scaling yarn=2 --lengths 12000 --tasks passkey --policy full
  raglan eval longcontext --path book.txt --perplexity --lengths 4096,32768 --policy full,sinks=1024"
    )]
    LongContext(LongContextCommand),
    /// Pages found and answers given to KILT's questions: R-precision, and answers that count only with the right pages
    #[command(after_help = "Examples:
  raglan eval kilt --path nq-dev-kilt.jsonl --pages kilt_knowledgesource.json --index wiki --approach retrieval,single=5
  raglan eval kilt --path musique --recipe hybrid --approach single=5,self-ask=3x4,ircot=4x4 --out results/musique

A line of the questions has id, input and output, a list of answers with their provenance. A folder in BEIR's layout, with
answers.jsonl or without, brings its own pages. Pages are read as they come, and indexing them goes on after an interruption.")]
    Kilt(KiltCommand),
    /// Answers to FRAMES' questions, which need several pages: without pages, in one step, in several, with the right pages
    #[command(after_help = "Examples:
  raglan eval frames --path frames.jsonl --approach closed-book
  raglan eval frames --path frames.jsonl --pages pages/ --approach closed-book,single=2,single=4,oracle=8,plan=5x5x10

Pages are a folder of .txt and .md files named like the pages, a dump in lines of JSON, or MediaWiki's XML; or `--index DIR`
names an index of them. Right pages are known by the titles in their addresses.")]
    Frames(FramesCommand),
}

/// `raglan eval kv`
#[derive(Args)]
pub struct KvCommand {
    /// Lines of questions with passages, plain, .gz or .zst, or a folder in BEIR's layout with answers.jsonl
    #[arg(long, value_name = "PATH", required_unless_present = "set", conflicts_with = "set")]
    pub path: Option<PathBuf>,
    /// Questions that are made: single, two-chunks, pronoun, contradiction or permutations
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Text file, or folder of them, that made questions' passages are taken from
    #[arg(long, value_name = "PATH", requires = "set")]
    pub filler: Option<PathBuf>,
    /// Methods, separated by commas; `all` are the usual ones
    #[arg(long, value_name = "NAMES", default_value = "all")]
    pub method: String,
    /// What stands before passages when they are captured, separated by commas: alone, prefix, context
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "prefix")]
    pub capture: Vec<String>,
    /// Neighbours that are another prompt's when a passage is captured in context, as a share; 0 is the default of the
    /// permutations, 0.5 elsewhere
    #[arg(long, value_name = "SHARE")]
    pub replaced: Option<f32>,
    /// Ask only the first questions
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Passages of a prompt
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub passages: usize,
    /// Cut passages that are longer
    #[arg(long, value_name = "N")]
    pub passage_tokens: Option<usize>,
    /// Tokens of the continuation that is compared
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub tokens: usize,
    /// How blocks keep numbers: f32, f16, bf16 or int8
    #[arg(long, value_name = "KIND", default_value_t)]
    pub blocks: BlockPrecision,
    /// Read blocks from files that the system was asked to drop from its memory
    #[arg(long)]
    pub cold: bool,
    /// Language model: a model name, or the path of a GGUF file or a folder of safetensors
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Ask the questions again and again, the first most often, and count the tokens that are computed
    #[arg(long, conflicts_with_all = ["cold", "out", "calibrate"])]
    pub workload: bool,
    /// Requests of the workload
    #[arg(long, value_name = "N", default_value_t = 200, requires = "workload")]
    pub requests: usize,
    /// The workload's question of rank R is asked in proportion to 1 / R^EXPONENT
    #[arg(long, value_name = "EXPONENT", default_value_t = 1.0, requires = "workload")]
    pub zipf: f64,
    /// Share of the workload's requests whose passages come in another order than the question's own
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, requires = "workload")]
    pub reordered: f64,
    /// Orders in which the workload's prompts show passages, separated by commas: rank, shared
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "rank", requires = "workload")]
    pub order: Vec<String>,
    /// Begin a process for each request of the workload: memory has nothing, and the index folder what was kept
    #[arg(long, requires = "workload")]
    pub restart: bool,
    /// Choose the parameters of cache-craft or parallel on every second question, measure them on the others, and write
    /// them down for `raglan ask --kv METHOD`
    #[arg(long, value_name = "METHOD", conflicts_with_all = ["method", "cold", "out"])]
    pub calibrate: Option<KvCalibrated>,
    /// Decides what is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Folder for kv.json and kv.html; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `raglan eval longcontext`
#[derive(Args)]
pub struct LongContextCommand {
    /// Questions about long texts: lines of L-Eval (.jsonl) or a list of RULER (.json), plain, .gz or .zst; without it,
    /// tasks are made
    #[arg(long, value_name = "FILE")]
    pub path: Option<PathBuf>,
    /// Tasks that are made, separated by commas; `all` of them: passkey, niah_single_1 to _3, niah_multikey_1 to _3,
    /// niah_multivalue, niah_multiquery, vt, cwe, fwe
    #[arg(long, value_name = "NAMES", default_value = "passkey,niah_single_1", conflicts_with = "path")]
    pub tasks: String,
    /// Tokens of prompt and answer together, separated by commas; texts from a file lose their middle
    #[arg(long, value_name = "LENGTHS", value_delimiter = ',', default_value = "2048")]
    pub lengths: Vec<usize>,
    /// Policies, separated by commas: full, and sinks, snapkv, quest, razor, retrieval with =BUDGET, a number of keys or a
    /// share such as 0.05; `all` are all of them with a share of 0.25 and of 0.05; razor-random=BUDGET, as many heads as
    /// `razor` has, but drawn, is there to compare with
    #[arg(long, value_name = "NAMES", default_value = "all")]
    pub policy: String,
    /// Questions of each task and length
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub limit: usize,
    /// Fewer tokens of an answer than the task has
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// Instead of answers, how well the last 512 tokens of the file's texts, or of a .txt or .md, are foretold; `sinks` also
    /// beyond the model's context. They are the same tokens at all lengths
    #[arg(long, requires = "path", conflicts_with = "tokens")]
    pub perplexity: bool,
    /// Language model: a model name, or the path of a GGUF file or a folder of safetensors
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Read beyond the model's context, S times as far: none, linear=S, ntk=S or yarn=S
    #[arg(long, value_name = "WAY")]
    pub rope_scaling: Option<String>,
    /// Decides what is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Folder for longcontext.json and longcontext.html; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `raglan eval kilt`
#[derive(Args)]
pub struct KiltCommand {
    /// Questions in KILT's format, plain, .gz or .zst, or a folder in BEIR's layout
    #[arg(long, value_name = "PATH")]
    pub path: PathBuf,
    #[command(flatten)]
    pub answers: AnswersArgs,
    #[command(flatten)]
    pub pages: PagesArgs,
}

/// `raglan eval frames`
#[derive(Args)]
pub struct FramesCommand {
    /// Questions: .tsv, .parquet or .jsonl, the first and the last also .gz or .zst
    #[arg(long, value_name = "FILE")]
    pub path: PathBuf,
    #[command(flatten)]
    pub answers: AnswersArgs,
    #[command(flatten)]
    pub pages: PagesArgs,
}

/// How questions are answered, and what is said of it.
#[derive(Args)]
pub struct AnswersArgs {
    /// Ways to answer, separated by commas: retrieval, closed-book, single=K, oracle=K, self-ask=STEPSxK, ircot=STEPSxK,
    /// plan=STEPSxQUERIESxK, adaptive=PROBABILITY, flare=K, refusing=K
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "single=5")]
    pub approach: Vec<Approach>,
    /// Language model that judges answers, beside the comparison of words
    #[arg(long, value_name = "MODEL")]
    pub judge: Option<String>,
}

/// `raglan tune`
#[derive(Args)]
pub struct TuneCommand {
    /// Questions with answers, in KILT's format, plain, .gz or .zst, or a folder in BEIR's layout with answers.jsonl
    #[arg(long, value_name = "PATH")]
    pub path: PathBuf,
    /// Numbers of passages to try; besides, the fit always measures one call with nothing shown, with one passage, and
    /// with one demonstration
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "0,1,2,5,10")]
    pub passages: Vec<usize>,
    /// Numbers of demonstrations to try
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "0,1,2")]
    pub demonstrations: Vec<usize>,
    /// Numbers of calls to try: one reads once, more ask follow-up questions first
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1,3", value_parser = calls)]
    pub calls: Vec<usize>,
    #[command(flatten)]
    pub pages: PagesArgs,
}

/// A length of time.
fn seconds(text: &str) -> Result<f64, String> {
    let parsed =
        text.parse().ok().filter(|&seconds: &f64| seconds > 0.0 && Duration::try_from_secs_f64(seconds).is_ok());
    parsed.ok_or_else(|| "must be a number of seconds above 0".to_owned())
}

/// How often a model is called.
fn calls(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "must be a whole number of at least 1".to_owned())
}

/// What answers from pages are made with.
#[derive(Args)]
pub struct PagesArgs {
    /// Pages to put into the index: a dump (.jsonl, .json, .xml, each also .gz or .zst), a ZIM file, or a folder of .txt and
    /// .md
    #[arg(long, value_name = "PATH")]
    pub pages: Option<PathBuf>,
    /// Recipe that finds pages: a shipped name or a TOML file
    #[arg(long, value_name = "RECIPE", default_value = "bm25")]
    pub recipe: String,
    /// Change a parameter of the recipe, such as fuse.k=20; may be given several times
    #[arg(long, value_name = "STAGE.KEY=VALUE")]
    pub set: Vec<String>,
    /// Chunks that each search ranks
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub depth: usize,
    /// Ask only the first questions
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub answer_tokens: usize,
    /// Tokens of prompt and reply together; the model's context is a limit too
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub prompt_tokens: usize,
    /// Words of each passage
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub passage_words: usize,
    /// Tokens that a question may cost over all calls
    #[arg(long, value_name = "N")]
    pub budget_tokens: Option<usize>,
    /// Seconds that a question may take, looked at before each call of the model; when they are up it is answered from
    /// what was found, or not at all where the model was not called yet
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub budget_seconds: Option<f64>,
    /// Language model that answers: a model name, or the path of a GGUF file or a folder of safetensors
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Folder for the result; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Documents that `raglan eval beir` takes of each query's list.
pub const DEFAULT_DEPTH: usize = 100;

/// `raglan eval beir`
#[derive(Args)]
pub struct BeirCommand {
    /// Folder with corpus.jsonl, queries.jsonl and qrels/, each also .gz or .zst
    #[arg(long, value_name = "DIR", required_unless_present = "dataset", conflicts_with = "dataset")]
    pub path: Option<PathBuf>,
    /// A collection that BEIR publishes, such as scifact; downloaded the first time
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Recipe: a shipped name or a TOML file
    #[arg(long, value_name = "RECIPE", default_value = "hybrid")]
    pub recipe: String,
    /// A parameter of the recipe, such as bm25.k=50; may be given several times
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    pub set: Vec<String>,
    /// Which judgements: the name of a file in qrels/
    #[arg(long, value_name = "NAME", default_value = "test")]
    pub split: String,
    /// Folder for result.json and the run of each stage
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How many documents the recipe's last stage gives a query, whatever its own k says
    #[arg(long, value_name = "N", default_value_t = DEFAULT_DEPTH, value_parser = count)]
    pub depth: usize,
    /// Further metrics, separated by commas, such as map,p@5
    #[arg(long, value_name = "METRICS", value_delimiter = ',')]
    pub metrics: Vec<String>,
    /// Ask only the first queries
    #[arg(long, value_name = "N", value_parser = count)]
    pub limit: Option<usize>,
    /// Let each query look only among the documents that are judged for it, as collections for rerankers want
    #[arg(long)]
    pub judged: bool,
    /// Make the collection's index anew
    #[arg(long)]
    pub fresh: bool,
}

/// `raglan eval run`
#[derive(Args)]
pub struct EvalRunCommand {
    /// Run: TREC's six columns, plain, .gz or .zst, or .parquet
    #[arg(long, value_name = "FILE")]
    pub run: PathBuf,
    /// Judgements: TREC's four columns, BEIR's .tsv, each plain, .gz or .zst, or .parquet
    #[arg(long, value_name = "FILE")]
    pub qrels: PathBuf,
    /// What to compute: ndcg, recall, p, map, mrr, rprec, success, r_cap, hole, with @K
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "ndcg@10,map,mrr@10,p@10,recall@100")]
    pub metrics: Vec<String>,
    /// Leave out documents whose id is the query's, as BEIR does
    #[arg(long)]
    pub remove_own_ids: bool,
    /// Print every query's values too
    #[arg(long)]
    pub per_query: bool,
}

/// `raglan eval diff`
#[derive(Args)]
pub struct EvalDiffCommand {
    /// Result file, or a run when judgements are given
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// What to compare with it
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Judgements, if A and B are runs
    #[arg(long, value_name = "FILE")]
    pub qrels: Option<PathBuf>,
    /// What to compare by
    #[arg(long, value_name = "NAME", default_value = "ndcg@10")]
    pub metric: String,
    /// How many of the most changed queries to print
    #[arg(short, value_name = "N", default_value_t = 10)]
    pub n: usize,
}

/// `raglan eval report`
#[derive(Args)]
pub struct EvalReportCommand {
    /// Result files
    #[arg(value_name = "RESULT", required = true)]
    pub results: Vec<PathBuf>,
    /// Folder for report.md and report.html; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What to sort and compare by
    #[arg(long, value_name = "NAME", default_value = "ndcg@10")]
    pub metric: String,
}

/// `raglan eval chunking`
#[derive(Args)]
pub struct ChunkingCommand {
    /// Folder with `corpora/` and `questions.jsonl[.gz]`
    #[arg(long, value_name = "DIR")]
    pub path: PathBuf,
    /// Chunkers to compare: structure, tokens, sentences; without one, all
    #[arg(long, value_name = "KIND")]
    pub chunker: Vec<String>,
    /// Most tokens of a chunk; may be given several times
    #[arg(long, value_name = "N")]
    pub chunk_tokens: Vec<usize>,
    /// Chunks retrieved for each question
    #[arg(short, long, default_value_t = 5)]
    pub k: usize,
}
