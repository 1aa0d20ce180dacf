//! The `raglan` command: index a folder, search it, ask it, and check what it says.
//!
//! Results go to standard output, progress and messages to standard error. The exit status is 0 on success, 1 when
//! nothing was found or a check failed, and 2 on an error.
#![forbid(unsafe_code)]

/// Says something on standard error. Where nobody can hear it, the work goes on.
macro_rules! say {
    ($($message:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($message)*);
    }};
}

mod args;
mod commands;
mod output;
mod progress;
mod session;
mod settings;
mod trace_file;

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;
use clap::{CommandFactory, Parser};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use args::{Cli, Command};
use session::Session;

/// How a command ended.
pub enum Outcome {
    /// It did what it was asked.
    Success,
    /// Nothing was found, or a check failed.
    Nothing,
    /// It was stopped, and what there is until then was given; what there is of how much.
    Interrupted(String),
}

fn main() -> ExitCode {
    // Not a command: nobody is to find it in the help or among suggestions.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == session::READ_WORKER) {
        raglan::ingest::worker_main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return told_usage(&usage),
    };
    let json = cli.global.json;
    end_when_output_fails();
    let trace = cli.global.trace.clone();
    let outcome = log(&cli.global).and_then(|()| run(cli));
    if let (Some(path), Some(problem)) = (trace, trace_file::problem()) {
        say!("warning: the trace in `{}` is not whole: {problem}", path.display());
    }
    match outcome {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Nothing) => ExitCode::from(1),
        Ok(Outcome::Interrupted(told)) => {
            say!("{} interrupted; {told}", console::style("error:").for_stderr().red().bold());
            ExitCode::from(2)
        }
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if json {
                let chain: Vec<_> = error.chain().map(ToString::to_string).collect();
                let _ = output::json(&serde_json::json!({ "error": told(&error), "causes": chain }));
            }
            say!("{} {}", console::style("error:").for_stderr().red().bold(), told(&error));
            ExitCode::from(2)
        }
    }
}

/// Sends events to standard error, as `RAGLAN_LOG` says, and spans into the file of `--trace`.
fn log(global: &args::Global) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RAGLAN_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false).with_filter(filter);
    let trace = global.trace.as_deref().map(trace_file::layer).transpose()?;
    tracing_subscriber::registry().with(lines).with(trace).init();
    Ok(())
}

/// Help and version are asked for; anything else is a mistake in the command line, told as JSON too where that is wanted.
fn told_usage(usage: &clap::Error) -> ExitCode {
    if usage.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
        let text = usage.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let _ = output::json(&serde_json::json!({ "error": first, "causes": [first] }));
    }
    let _ = usage.print(); // There is nowhere left to say that this failed.
    ExitCode::from(if usage.use_stderr() { 2 } else { 0 })
}

fn run(cli: Cli) -> Result<Outcome> {
    let Cli { global, command } = cli;
    if let Some(Command::Completions { shell }) = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "raglan", &mut script);
        print!("{}", String::from_utf8_lossy(&script));
        return Ok(Outcome::Success);
    }
    check_cpu_form()?;
    stop_on_ctrl_c()?;
    let print_config = global.print_config;
    let Some(command) = command else {
        if print_config {
            let mut session = Session::new(global, Vec::new())?;
            if let Ok(index) = session.index_folder(&args::FolderArgs { folder: None }) {
                session.inherit(&index, false);
            }
            return commands::print_config(&session);
        }
        Cli::command().print_help()?;
        return Ok(Outcome::Nothing);
    };
    let _span = tracing::info_span!("raglan", command = command.name()).entered();
    let mut session = Session::new(global, command.settings())?;
    if let Ok(Some(index)) = commands::index_of(&session, &command) {
        session.inherit(&index, matches!(command, Command::Index(_)));
    }
    if print_config {
        return commands::print_config(&session);
    }
    match command {
        Command::Index(command) => commands::index::run(&session, &command),
        Command::Ask(command) => commands::ask::run(&session, &command),
        Command::Search(command) => commands::search::run(&session, &command),
        Command::Chunks(command) => commands::chunks::run(&session, &command),
        Command::Questions(command) => commands::questions::run(&session, &command),
        Command::Warm(command) => commands::warm::run(&session, &command),
        Command::Status(folder) => commands::status::run(&session, &folder),
        Command::Verify(command) => commands::verify::run(&session, &command),
        Command::Gc(folder) => commands::gc::run(&session, &folder),
        Command::Explain(command) => commands::explain::run(&session, &command),
        Command::Models(command) => commands::models::run(&session, &command),
        Command::Eval(command) => commands::eval::run(&mut session, &command),
        Command::Check(command) => commands::check::run(&session, &command),
        Command::Run(command) => commands::run::run(&session, &command),
        Command::Tune(command) => commands::tune::run(&session, &command),
        Command::Doctor(folder) => commands::doctor::run(&session, &folder),
        Command::Completions { .. } => unreachable!("it was served above"),
    }
}

/// The first Ctrl-C asks for an end in good order; the second ends at once, which harms nothing either.
fn stop_on_ctrl_c() -> Result<()> {
    ctrlc::set_handler(|| {
        if progress::STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        say!("\nstopping in good order; Ctrl-C once more to stop at once");
    })?;
    Ok(())
}

/// The error with its causes, each said once: some errors quote the error below them.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.contains(&cause) {
            told += if told.is_empty() { "" } else { ": " };
            told += &cause;
        }
    }
    told
}

/// Refuses a `RAGLAN_CPU` that names no form of the kernels, which would otherwise be as if it were not there.
fn check_cpu_form() -> Result<()> {
    use raglan::kernels::device::CpuForm;
    let Some(asked) = std::env::var_os("RAGLAN_CPU").filter(|name| !name.is_empty()) else { return Ok(()) };
    let names = CpuForm::ALL.map(CpuForm::name);
    let is_known = asked.to_str().is_some_and(|asked| names.contains(&asked));
    anyhow::ensure!(is_known, "setting `RAGLAN_CPU` = `{}` can be {}", asked.display(), names.join(", "));
    Ok(())
}

/// `println!` panics when it cannot write. When the reader of a pipe has gone, as with `raglan chunks | head`, that is
/// an end like any other; a full disk is an error.
fn end_when_output_fails() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if let Some(problem) = message.strip_prefix("failed printing to stdout: ") {
            if problem.contains("Broken pipe") {
                std::process::exit(0);
            }
            let _ = writeln!(std::io::stderr(), "error: the results cannot be written: {problem}");
            std::process::exit(2);
        }
        usual(panic);
    }));
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no such file").context("a.toml: no such file").context("reading settings");
        assert_eq!(told(&error), "reading settings: a.toml: no such file");
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
