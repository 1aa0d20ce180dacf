//! The command line.

mod evaluation;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use raglan::MetadataCondition;
use raglan::core::Format;

pub use evaluation::{
    AnswersArgs, BeirCommand, ChunkingCommand, DEFAULT_DEPTH, EvalCommand, EvalDiffCommand, EvalReportCommand,
    EvalRunCommand, FramesCommand, KiltCommand, KvCommand, LongContextCommand, PagesArgs, TuneCommand,
};

/// Ask a folder of documents: index it, search it, and get answers with sources you can check. Offline.
#[derive(Parser)]
#[command(name = "raglan", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  raglan ask -f manuals \"How long is the warranty?\"
  raglan index manuals --exclude '*.log'
  raglan search -f manuals warranty -k 5 --json

Settings come from flags, then RAGLAN_* variables, then raglan.toml in this folder or above, then the
user's raglan.toml, then what the index remembers, then defaults; `raglan --print-config` shows each with its source.")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Args, Clone)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Folder of the index, when it is not `.raglan` in the folder of documents
    #[arg(long, global = true, value_name = "DIR")]
    pub index: Option<String>,
    /// Folder of downloaded models
    #[arg(long, global = true, value_name = "DIR")]
    pub cache: Option<String>,
    /// Never touch the network
    #[arg(long, global = true)]
    pub offline: bool,
    /// Threads to use, up to 1024; 0 means one a processor
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    pub threads: Option<String>,
    /// How exactly models multiply: stored, f32, bf16 or int8
    #[arg(long, global = true, value_name = "KIND")]
    pub precision: Option<String>,
    /// Where encoders and language models compute: cpu, cuda, or auto (cuda where it is there)
    #[arg(long, global = true, value_name = "NAME")]
    pub device: Option<String>,
    /// Where language models compute, if not where encoders do: cpu, cuda or auto
    #[arg(long, global = true, value_name = "NAME")]
    pub generator_device: Option<String>,
    /// What models multiply with: raglan or candle
    #[arg(long, global = true, value_name = "NAME")]
    pub backend: Option<String>,
    /// Weights of tokens for queries without inference: a model's published idf.json
    #[arg(long, global = true, value_name = "FILE")]
    pub sparse_weights: Option<String>,
    /// Memory that indexing may use for texts and vectors under way, such as 2GiB
    #[arg(long, global = true, value_name = "SIZE")]
    pub max_memory: Option<String>,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on standard error
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Write what was done, and how long it took, into this file: spans of OpenTelemetry, a line of OTLP/JSON each
    #[arg(long, global = true, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print every setting with its value and source, and stop
    #[arg(long, global = true)]
    pub print_config: bool,
}

/// What to do.
#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in the life of the process")]
pub enum Command {
    /// Bring the index of a folder up to date
    #[command(after_help = "Examples:
  raglan index manuals
  raglan index . --include '*.md' --embedder none
  raglan index manuals --kv top=500
  raglan index manuals --rebuild --chunk-tokens 128")]
    Index(IndexCommand),
    /// Answer a question from a folder, with sources
    #[command(after_help = "Examples:
  raglan ask -f manuals \"How long is the warranty?\"
  raglan ask -f manuals --json \"How long is the warranty?\" > answer.json
  raglan ask -f manuals            (asks for questions until an empty line or Ctrl-D)")]
    Ask(AskCommand),
    /// Find passages
    #[command(
        after_help = "The index is searched as it is: files that changed since are found by their old text until `raglan index`
or `raglan ask` brings it up to date.

Bytes are those of the file where it is plain text in UTF-8; of other files (`text bytes`, in JSON
`\"span_of\": \"text\"`) they are those of the text that was extracted, which `raglan chunks` shows.

Examples:
  raglan search -f manuals warranty period
  raglan search -f manuals --path 'eu/**' --format pdf --after 2024-01-01 warranty --json"
    )]
    Search(SearchCommand),
    /// List the chunks of the index or of one document
    Chunks(ChunksCommand),
    /// Compute the keys and values of passages before questions need them
    #[command(after_help = "`raglan ask` takes them over with --kv naive, focus, link or blend.

Example:
  raglan warm -f manuals && raglan ask -f manuals --kv focus \"How long is the warranty?\"")]
    Warm(WarmCommand),
    /// Write questions that passages answer, before anybody asks them
    #[command(after_help = "The stage `questions` of a recipe finds passages by the file's questions, and `rewrite` by
`meta-knowledge` takes the file that --topics makes. A language model reads every passage: that takes long.

Examples:
  raglan questions -f manuals --out questions.jsonl -n 3 --round-trip 1
  raglan questions -f manuals --out knowledge.json --topics 'safety,warranty,cleaning'")]
    Questions(QuestionsCommand),
    /// Show what the index holds
    Status(FolderArgs),
    /// Check the index, or the quotes of an answer against the files
    #[command(after_help = "Examples:
  raglan verify -f manuals
  raglan verify -f manuals --answer answer.json")]
    Verify(VerifyCommand),
    /// Remove files that the index no longer needs, or the indexes that evaluations made
    #[command(after_help = "Examples:
  raglan gc -f manuals --kv
  raglan gc --evaluations

With --evaluations, no index of documents is touched: what goes are the indexes of collections and pages that `raglan eval`
and `raglan tune` keep in the cache. The next evaluation makes its own anew; one that runs now should end first.")]
    Gc(GcCommand),
    /// Show how a query finds a chunk or document, or why it does not
    #[command(after_help = "It explains what `raglan search` does; `--recipe ask` explains what `raglan ask` does.

Examples:
  raglan explain -f manuals \"warranty period\" eu/terms.pdf
  raglan explain -f manuals \"warranty period\" 1042")]
    Explain(ExplainCommand),
    /// List, fetch and check models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Measure
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Check a recipe without loading anything
    #[command(after_help = "Examples:
  raglan check my-recipe.toml
  raglan check hybrid --set bm25.k=50 --format toml
  raglan check ask --graph svg > ask.svg
  raglan check --schema > recipe.schema.json")]
    Check(CheckCommand),
    /// Find out on your own questions how many passages, demonstrations and calls a budget is best spent on
    #[command(after_help = "Examples:
  raglan tune --path questions.jsonl --index manuals/.raglan --budget-tokens 2000 --limit 50
  raglan tune --path musique --recipe hybrid --budget-seconds 3 --passages 0,1,5 --demonstrations 0,1 --calls 1

Measures every combination, fits the model of DRAG, and names the best that costs no more. The first questions serve as
demonstrations and are not asked.")]
    Tune(TuneCommand),
    /// Run a recipe on questions, and print what its last stage gives
    #[command(after_help = "With --json, one line a question. Examples:
  raglan run hybrid -f manuals \"How long is the warranty?\"
  raglan run my-recipe.toml -f manuals --questions questions.txt --json > found.jsonl")]
    Run(RunCommand),
    /// Look at the machine, the models and the index
    Doctor(FolderArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  raglan completions bash > ~/.local/share/bash-completion/completions/raglan")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The folder of documents whose index is meant.
#[derive(Args, Clone)]
pub struct FolderArgs {
    /// Folder of documents; without it, the nearest folder from here upwards that has an index
    #[arg(short, long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Which files are read and how they are cut.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Indexing (remembered by the index; later runs go on with them)")]
pub struct IndexingArgs {
    /// Read files that .gitignore or .ignore exclude too
    #[arg(long)]
    pub no_ignore: bool,
    /// Read hidden files too
    #[arg(long)]
    pub hidden: bool,
    /// Read only files that match this glob; may be given several times; '' lifts what the index remembers
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out files that match this glob; may be given several times; '' lifts what the index remembers
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Dense encoder: a model name or path, or `none` for BM25 only
    #[arg(long, value_name = "MODEL")]
    pub embedder: Option<String>,
    /// Learned sparse encoder beside it, such as splade-tiny, or `none`; an index that lacks its vectors gets them
    #[arg(long, value_name = "MODEL")]
    pub sparse: Option<String>,
    /// Most words of a chunk's learned sparse vector, the heaviest; 0: all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub sparse_words: Option<String>,
    /// Words of less weight are left out of chunks' learned sparse vectors
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub sparse_min_weight: Option<String>,
    /// What the sparse encoder makes of logits: log1p or log1p-twice; as the model's files say when not given
    #[arg(long, value_name = "KIND")]
    pub sparse_activation: Option<String>,
    /// Encoder of token vectors for late interaction, such as all-minilm-l6-v2, or `none`; likewise
    #[arg(long, value_name = "MODEL")]
    pub late: Option<String>,
    /// Count n-grams by this language model's tokenizer, or `none`; likewise
    #[arg(long, value_name = "MODEL", num_args = 0..=1, require_equals = true, default_missing_value = "smollm2-135m-instruct")]
    pub ngrams: Option<String>,
    /// Join chunks by the entities that they name: `rules`, a language model, or `none`; likewise
    #[arg(long, value_name = "WAY", num_args = 0..=1, require_equals = true, default_missing_value = "rules")]
    pub graph: Option<String>,
    /// How the dense encoder pools: mean, cls, last_token or max; otherwise as the model's files say
    #[arg(long, value_name = "KIND")]
    pub pooling: Option<String>,
    /// Keep this many of each dense vector's first coordinates, for Matryoshka models; 0: all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub truncate_dim: Option<String>,
    /// How encoders read chunks that are longer than their models do: refuse, windows, grouped:N, recurrent:N, interpolated:N, raised-base:N, self-extend:N
    #[arg(long, value_name = "WAY")]
    pub long_inputs: Option<String>,
    /// Read each chunk in windows of lines, for code: LINES/STEP or LINES/STEP/max
    #[arg(long, value_name = "WINDOWS")]
    pub line_windows: Option<String>,
    /// How documents are cut: structure, tokens or sentences
    #[arg(long, value_name = "KIND")]
    pub chunker: Option<String>,
    /// Most tokens of a chunk, by the encoder's own count
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub chunk_tokens: Option<String>,
    /// Tokens that a chunk repeats from the one before
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub chunk_overlap: Option<String>,
    /// Whether a chunk is embedded below the line of its headings
    #[arg(long, value_name = "BOOL")]
    pub prefix_headings: Option<String>,
    /// Language of stemming and stop words, or `none`
    #[arg(long, value_name = "NAME")]
    pub language: Option<String>,
    /// Larger files are skipped
    #[arg(long, value_name = "SIZE")]
    pub max_file_size: Option<String>,
    /// Files with more extracted text are skipped
    #[arg(long, value_name = "SIZE")]
    pub max_text_size: Option<String>,
    /// A file that takes longer to read is skipped
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub file_seconds: Option<String>,
}

/// `raglan index`
#[derive(Args)]
pub struct IndexCommand {
    /// Folder of documents
    #[arg(value_name = "FOLDER", default_value = ".")]
    pub folder: PathBuf,
    /// Read everything again; settings that are not given are those of the old index
    #[arg(long)]
    pub rebuild: bool,
    /// Fail when a file was skipped
    #[arg(long)]
    pub strict: bool,
    /// Compute keys and values of passages too, before questions need them: all, or top=N, the N that questions found
    /// most often, then in the order of the index; as far as setting `kv-disk` reaches
    #[arg(long, value_name = "WHICH")]
    pub kv: Option<WarmPassages>,
    /// Language model of --kv: a model name, or the path of a GGUF file or a folder of safetensors
    #[arg(long, value_name = "MODEL", requires = "kv")]
    pub generator: Option<String>,
    /// How --kv keeps them: f32, f16, bf16 or int8
    #[arg(long, value_name = "KIND", requires = "kv")]
    pub kv_precision: Option<String>,
    /// Which files are read and how they are cut.
    #[command(flatten)]
    pub indexing: IndexingArgs,
}

/// Of which passages keys and values are computed before questions need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmPassages {
    /// Of all.
    All,
    /// Of so many.
    Top(usize),
}

impl WarmPassages {
    /// The most passages.
    pub fn limit(self) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Top(n) => n,
        }
    }
}

impl FromStr for WarmPassages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("top=").map(str::parse) {
            None if text == "all" => Ok(Self::All),
            Some(Ok(n)) => Ok(Self::Top(n)),
            _ => Err(format!("`{text}` is neither all nor top=N")),
        }
    }
}

/// Which documents a question is about.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Only documents whose path matches this pattern, as in .gitignore (`*.md`, `sub/`, `/a/**/*.txt`); may be given
    /// several times
    #[arg(long, value_name = "GLOB")]
    pub path: Vec<String>,
    /// Only documents of this format, such as pdf; may be given several times
    #[arg(long, value_name = "FORMAT")]
    pub format: Vec<Format>,
    /// Only documents modified at this time or later, such as 2024-01-31 or 2024-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub after: Option<String>,
    /// Only documents modified before this time
    #[arg(long, value_name = "TIME")]
    pub before: Option<String>,
    /// Only documents with this metadata, such as author=Ada; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub meta: Vec<MetadataCondition>,
}

/// `raglan search`
#[derive(Args)]
pub struct SearchCommand {
    /// Which index.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// The words to look for, or a question
    #[arg(required = true, value_name = "QUERY")]
    pub query: Vec<String>,
    /// How many results
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub k: Option<String>,
    /// Recipe: a shipped name (hybrid, bm25, dense) or a TOML file
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// A parameter of the recipe, such as bm25.k=50; may be given several times
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    pub set: Vec<String>,
    /// How rankings are fused: min-max, z-score, distribution-based, reciprocal-rank or auto
    #[arg(long, value_name = "METHOD")]
    pub fusion: Option<String>,
    /// Which documents.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// `raglan ask`
#[derive(Args)]
pub struct AskCommand {
    /// Which index; it is brought up to date first.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// The question; without one, questions are read until an empty line
    #[arg(value_name = "QUESTION")]
    pub question: Vec<String>,
    /// Answer from the index as it is, without looking at the folder
    #[arg(long)]
    pub no_update: bool,
    /// Print the prompt instead of an answer
    #[arg(long)]
    pub show_prompt: bool,
    /// Recipe: a shipped name or a TOML file whose last stage generates
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// A parameter of the recipe, such as bm25.k=50; may be given several times
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    pub set: Vec<String>,
    /// Language model: a model name, or the path of a GGUF file or a folder of safetensors
    #[arg(long, value_name = "MODEL")]
    pub generator: Option<String>,
    /// How keys and values that are kept beside the index are used: full (not at all), prefix, focus=SHARE and others;
    /// `raglan eval kv` compares them
    #[arg(long, value_name = "METHOD")]
    pub kv: Option<String>,
    /// How they are kept: f32, f16, bf16 or int8
    #[arg(long, value_name = "KIND")]
    pub kv_precision: Option<String>,
    /// Order in which the prompt shows passages: rank, or shared, which puts those first that an earlier one began with
    #[arg(long, value_name = "ORDER")]
    pub kv_order: Option<String>,
    /// Share of the questions on which a method that changes answers is tested
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub kv_shadow: Option<String>,
    /// Mean divergence of its last tests, in nats a token, above which it is not used
    #[arg(long, value_name = "NATS", allow_negative_numbers = true)]
    pub kv_drift: Option<String>,
    /// Which of a long prompt's keys answers attend to: full, or one of sinks, snapkv, quest, razor, retrieval with
    /// =BUDGET, a number of keys or a share such as 0.05
    #[arg(long, value_name = "POLICY")]
    pub attention: Option<String>,
    /// Read beyond the language model's context, S times as far: none, linear=S, ntk=S or yarn=S
    #[arg(long, value_name = "WAY")]
    pub rope_scaling: Option<String>,
    /// How it decodes.
    #[command(flatten)]
    pub decoding: DecodingArgs,
    /// Which documents.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Which files are read and how they are cut.
    #[command(flatten)]
    pub indexing: IndexingArgs,
}

/// How the language model decodes.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Decoding")]
pub struct DecodingArgs {
    /// Most tokens of an answer
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_tokens: Option<String>,
    /// Most tokens of prompt and answer together; the model's own context is a limit too
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub context_tokens: Option<String>,
    /// From 0, which is greedy decoding, to 100
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<String>,
    /// Sample among this many tokens; 0: all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub top_k: Option<String>,
    /// Sample among the likeliest tokens of this total probability, above 0 and up to 1
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<String>,
    /// Sample among tokens at least this likely, relative to the likeliest, from 0 to 1
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<String>,
    /// From 0.01 to 100; 1 is none
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repetition_penalty: Option<String>,
    /// Seed of sampling
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<String>,
}

/// `raglan warm`
#[derive(Args)]
pub struct WarmCommand {
    /// Which index.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// At most so many passages: those that questions found most often, then in the order of the index
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Language model: a model name, or the path of a GGUF file or a folder of safetensors
    #[arg(long, value_name = "MODEL")]
    pub generator: Option<String>,
    /// How they are kept: f32, f16, bf16 or int8
    #[arg(long, value_name = "KIND")]
    pub kv_precision: Option<String>,
}

/// `raglan questions`
#[derive(Args)]
pub struct QuestionsCommand {
    /// Which index.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// The file that is written: one JSON object a line; with --topics, one JSON object
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Questions for a passage: 8, or 3 with --topics, unless said
    #[arg(short = 'n', long, value_name = "N")]
    pub number: Option<usize>,
    /// Keep questions that find their passage among the first K by the index's vectors; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub round_trip: usize,
    /// Read only the first passages
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// How freely questions are drawn; 0 takes the likeliest, and one a passage then
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f32,
    /// Seed of the sampling
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Write meta-knowledge instead: questions with answers, by these topics, and what each topic is about
    #[arg(long, value_name = "TOPICS", value_delimiter = ',')]
    pub topics: Vec<String>,
    /// Language model: a model name, or the path of a GGUF file or a folder of safetensors
    #[arg(long, value_name = "MODEL")]
    pub generator: Option<String>,
}

/// `raglan gc`
#[derive(Args)]
pub struct GcCommand {
    /// Which index.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Remove the keys and values of language models too; they are made anew as answers need them
    #[arg(long)]
    pub kv: bool,
    /// Remove the indexes that evaluations keep in the cache, and nothing else
    #[arg(long, conflicts_with_all = ["folder", "kv"])]
    pub evaluations: bool,
}

/// `raglan chunks`
#[derive(Args)]
pub struct ChunksCommand {
    /// Which index.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Path of a document relative to the folder; without it, all documents
    #[arg(value_name = "DOCUMENT")]
    pub document: Option<String>,
}

/// `raglan verify`
#[derive(Args)]
pub struct VerifyCommand {
    /// Which index.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Check the quotes of this answer, as written by `raglan ask --json`
    #[arg(long, value_name = "FILE")]
    pub answer: Option<PathBuf>,
    /// Ask the graph and the codes for stored vectors, and compare with exact search
    #[arg(long, conflicts_with = "answer")]
    pub recall: bool,
    /// How many vectors `--recall` asks for
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count, requires = "recall", conflicts_with = "answer")]
    pub sample: usize,
}

/// `raglan explain`
#[derive(Args)]
pub struct ExplainCommand {
    /// Which index.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// The query
    #[arg(value_name = "QUERY")]
    pub query: String,
    /// Number of a chunk or path of a document
    #[arg(value_name = "CHUNK-OR-PATH")]
    pub target: String,
    /// Recipe: a shipped name or a TOML file; without it, that of `raglan search`
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// A parameter of the recipe, such as bm25.k=50; may be given several times
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    pub set: Vec<String>,
}

/// `raglan models`
#[derive(Subcommand)]
pub enum ModelsCommand {
    /// List the models that raglan knows, and which of them are here
    List,
    /// Fetch models that are missing or damaged: by name, as `hf:owner/repo[@rev]/file` or `file:path`; without a name, the
    /// defaults
    Pull {
        /// Model names or references
        #[arg(value_name = "MODEL")]
        models: Vec<String>,
    },
    /// Print the folder of a model
    Path {
        /// Model name
        model: String,
    },
    /// Check the files of models against their checksums; without a name, all that are here
    Verify {
        /// Model names
        #[arg(value_name = "MODEL")]
        models: Vec<String>,
    },
}

/// `raglan check`
#[derive(Args)]
pub struct CheckCommand {
    /// Recipe: a shipped name or a TOML file
    #[arg(value_name = "RECIPE", required_unless_present_any = ["schema", "reference"])]
    pub recipe: Option<String>,
    /// A parameter of the recipe, such as bm25.k=50; may be given several times
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    pub set: Vec<String>,
    /// How to print
    #[arg(long, default_value = "text")]
    pub format: CheckFormat,
    /// Draw the recipe instead
    #[arg(long, value_name = "KIND")]
    pub graph: Option<GraphFormat>,
    /// Print the JSON Schema of recipes, by which editors complete and check them
    #[arg(long, conflicts_with_all = ["recipe", "graph"])]
    pub schema: bool,
    /// Print what recipes may say, as Markdown
    #[arg(long, conflicts_with_all = ["recipe", "graph", "schema"])]
    pub reference: bool,
}

/// How `raglan check` prints.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum CheckFormat {
    /// For people
    Text,
    /// The canonical recipe
    Toml,
    /// For programs, as with --json
    Json,
}

/// How `raglan check` draws.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum GraphFormat {
    /// A Mermaid flow chart
    Mermaid,
    /// An image
    Svg,
}

/// `raglan run`
#[derive(Args)]
pub struct RunCommand {
    /// Recipe: a shipped name or a TOML file
    #[arg(value_name = "RECIPE")]
    pub recipe: String,
    /// Questions; without one, and without --questions, each line of standard input is one
    #[arg(value_name = "QUESTION")]
    pub question: Vec<String>,
    /// A file with a question a line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "question")]
    pub questions: Option<PathBuf>,
    /// Which index.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// A parameter of the recipe, such as bm25.k=50; may be given several times
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    pub set: Vec<String>,
    /// Language model of `generate`: a model name, or the path of a GGUF file or a folder of safetensors
    #[arg(long, value_name = "MODEL")]
    pub generator: Option<String>,
    /// How many tokens an answer may have, and the rest of decoding.
    #[command(flatten)]
    pub decoding: DecodingArgs,
    /// Which documents.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// Settings as the command line gives them: key and value, where it was given.
pub type Flags = Vec<(&'static str, Option<String>)>;

impl Command {
    /// What the command is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Index(_) => "index",
            Self::Ask(_) => "ask",
            Self::Search(_) => "search",
            Self::Chunks(_) => "chunks",
            Self::Questions(_) => "questions",
            Self::Warm(_) => "warm",
            Self::Status(_) => "status",
            Self::Verify(_) => "verify",
            Self::Gc(_) => "gc",
            Self::Explain(_) => "explain",
            Self::Models(_) => "models",
            Self::Eval(_) => "eval",
            Self::Check(_) => "check",
            Self::Run(_) => "run",
            Self::Tune(_) => "tune",
            Self::Doctor(_) => "doctor",
            Self::Completions { .. } => "completions",
        }
    }

    /// The settings among the command's options.
    pub fn settings(&self) -> Flags {
        match self {
            Self::Index(command) => {
                let mut flags = command.indexing.settings();
                flags.push(("generator", command.generator.clone()));
                flags.push(("kv-precision", command.kv_precision.clone()));
                flags
            }
            Self::Ask(command) => {
                let mut flags = command.indexing.settings();
                flags.extend(command.decoding.settings());
                flags.push(("recipe", command.recipe.clone()));
                flags.push(("generator", command.generator.clone()));
                flags.push(("kv", command.kv.clone()));
                flags.push(("kv-order", command.kv_order.clone()));
                flags.push(("kv-precision", command.kv_precision.clone()));
                flags.push(("kv-shadow", command.kv_shadow.clone()));
                flags.push(("kv-drift", command.kv_drift.clone()));
                flags.push(("attention", command.attention.clone()));
                flags.push(("rope-scaling", command.rope_scaling.clone()));
                flags
            }
            Self::Questions(command) => vec![("generator", command.generator.clone())],
            Self::Warm(command) => {
                vec![("generator", command.generator.clone()), ("kv-precision", command.kv_precision.clone())]
            }
            Self::Search(command) => {
                vec![("k", command.k.clone()), ("recipe", command.recipe.clone()), ("fusion", command.fusion.clone())]
            }
            Self::Explain(command) => vec![("recipe", command.recipe.clone())],
            Self::Run(command) => {
                let mut flags = command.decoding.settings();
                flags.push(("generator", command.generator.clone()));
                flags
            }
            Self::Eval(EvalCommand::Kv(command)) => vec![("generator", command.model.clone())],
            Self::Tune(command) => vec![("generator", command.pages.model.clone())],
            Self::Eval(EvalCommand::Kilt(command)) => vec![("generator", command.pages.model.clone())],
            Self::Eval(EvalCommand::Frames(command)) => vec![("generator", command.pages.model.clone())],
            Self::Eval(EvalCommand::LongContext(command)) => {
                vec![("generator", command.model.clone()), ("rope-scaling", command.rope_scaling.clone())]
            }
            _ => Vec::new(),
        }
    }
}

impl Global {
    /// The settings among the options of every command.
    pub fn settings(&self) -> Flags {
        vec![
            ("index", self.index.clone()),
            ("cache", self.cache.clone()),
            ("offline", self.offline.then(|| "true".to_owned())),
            ("threads", self.threads.clone()),
            ("precision", self.precision.clone()),
            ("device", self.device.clone()),
            ("generator-device", self.generator_device.clone()),
            ("backend", self.backend.clone()),
            ("sparse-weights", self.sparse_weights.clone()),
            ("max-memory", self.max_memory.clone()),
        ]
    }
}

impl IndexingArgs {
    fn settings(&self) -> Flags {
        vec![
            ("ignore-files", self.no_ignore.then(|| "false".to_owned())),
            ("hidden", self.hidden.then(|| "true".to_owned())),
            ("include", globs(&self.include)),
            ("exclude", globs(&self.exclude)),
            ("embedder", self.embedder.clone()),
            ("sparse", self.sparse.clone()),
            ("sparse-words", self.sparse_words.clone()),
            ("sparse-min-weight", self.sparse_min_weight.clone()),
            ("sparse-activation", self.sparse_activation.clone()),
            ("late", self.late.clone()),
            ("ngrams", self.ngrams.clone()),
            ("graph", self.graph.clone()),
            ("pooling", self.pooling.clone()),
            ("truncate-dim", self.truncate_dim.clone()),
            ("long-inputs", self.long_inputs.clone()),
            ("line-windows", self.line_windows.clone()),
            ("chunker", self.chunker.clone()),
            ("chunk-tokens", self.chunk_tokens.clone()),
            ("chunk-overlap", self.chunk_overlap.clone()),
            ("prefix-headings", self.prefix_headings.clone()),
            ("language", self.language.clone()),
            ("max-file-size", self.max_file_size.clone()),
            ("max-text-size", self.max_text_size.clone()),
            ("file-seconds", self.file_seconds.clone()),
        ]
    }
}

/// The globs one a line, if there are any.
fn globs(globs: &[String]) -> Option<String> {
    (!globs.is_empty()).then(|| globs.join("\n"))
}

impl DecodingArgs {
    fn settings(&self) -> Flags {
        vec![
            ("max-tokens", self.max_tokens.clone()),
            ("context-tokens", self.context_tokens.clone()),
            ("temperature", self.temperature.clone()),
            ("top-k", self.top_k.clone()),
            ("top-p", self.top_p.clone()),
            ("min-p", self.min_p.clone()),
            ("repetition-penalty", self.repetition_penalty.clone()),
            ("seed", self.seed.clone()),
        ]
    }
}

/// A number of things of which there is at least one.
fn count(text: &str) -> Result<usize, String> {
    const MOST: usize = 1_000_000_000;
    text.parse()
        .ok()
        .filter(|count| (1..=MOST).contains(count))
        .ok_or_else(|| format!("expected a whole number from 1 to {MOST}"))
}
