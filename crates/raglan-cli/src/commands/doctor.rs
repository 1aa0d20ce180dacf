//! `raglan doctor`

use anyhow::Result;
use console::style;
use raglan::ComputeDevice;
use raglan::model::registry::State;
use serde::Serialize;

use crate::args::FolderArgs;
use crate::output::bytes;
use crate::session::Session;
use crate::{Outcome, output};

/// A thing that was looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    /// Whether it works; nothing where it is only told.
    ok: Option<bool>,
    found: String,
}

pub fn run(session: &Session, folder: &FolderArgs) -> Result<Outcome> {
    let mut findings = Vec::new();
    let mut tell = |what, ok, found| findings.push(Finding { what, ok, found });
    tell("version", None, env!("CARGO_PKG_VERSION").to_owned());
    tell(
        "processor",
        None,
        format!(
            "{} threads in use; kernels for {}; {}",
            session.threads,
            raglan::kernels::device::CpuForm::best().name(),
            raglan::kernels::device::cpu_features().join(" ")
        ),
    );
    tell("memory", None, memory());
    for listing in session.models.cache().list() {
        let ok = match listing.state {
            State::Present => Some(true),
            State::Absent => None,
            State::Damaged { .. } => Some(false),
        };
        tell("model", ok, format!("{}: {}", listing.entry.name, listing.state));
    }
    tell("pip", None, pip());
    let models = session.models.settings();
    let is_wanted = [Some(models.device), models.language_model_device].contains(&Some(ComputeDevice::Cuda));
    match gpu() {
        (found, gpu) if !is_wanted => tell("gpu", found, gpu),
        (Some(true), gpu) => tell("gpu", Some(true), gpu),
        (_, gpu) => {
            let remedy =
                "the settings compute on it: `raglan --print-config` says which; take `cpu` or `auto` for them";
            tell("gpu", Some(false), format!("{gpu}; {remedy}"));
        }
    }
    let (found, library) = onnxruntime(session);
    tell("onnxruntime", found, library);
    // One that was asked for by name must be there.
    let absent = folder.folder.is_some().then_some(false);
    match session.index_folder(folder) {
        Err(error) => tell("index", absent, error.to_string()),
        Ok(index) => match raglan::store::verify(&index) {
            Ok(report) if report.is_clean() => {
                tell(
                    "index",
                    Some(true),
                    format!("{}: clean, {}", index.display(), output::count(report.chunks_checked, "chunk")),
                );
            }
            Ok(report) => {
                let first = &report.problems[0];
                let found =
                    format!("{} problems, first `{}`: {}", report.problems.len(), first.path.display(), first.problem);
                tell("index", Some(false), found);
            }
            Err(error) => tell("index", absent, error.to_string()),
        },
    }
    let sound = findings.iter().all(|finding| finding.ok != Some(false));
    if session.json {
        output::json(&findings)?;
    } else {
        for finding in &findings {
            let mark = match finding.ok {
                Some(true) => style("ok").green(),
                Some(false) => style("!!").red().bold(),
                None => style("--").dim(),
            };
            println!("{mark} {:12} {}", finding.what, finding.found);
        }
    }
    Ok(if sound { Outcome::Success } else { Outcome::Nothing })
}

/// Memory in all and free, where the system tells.
fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = |name: &str| {
        let kib = text.lines().find_map(|line| line.strip_prefix(name))?.trim().trim_end_matches(" kB");
        kib.parse::<u64>().ok().map(|kib| bytes(kib * 1024))
    };
    match (line("MemTotal:"), line("MemAvailable:")) {
        (Some(total), Some(available)) => format!("{total}, of which {available} available"),
        _ => "unknown on this system".to_owned(),
    }
}

/// What runs pip here, which fetches the default models.
fn pip() -> String {
    let version = std::process::Command::new("python3").args(["-m", "pip", "--version"]).output();
    match version {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split(" from ").next().unwrap_or_default().trim().to_owned()
        }
        _ => "not found; it is needed only to fetch the default models".to_owned(),
    }
}

#[cfg(feature = "cuda")]
fn gpu() -> (Option<bool>, String) {
    match raglan::kernels::device::cuda_devices() {
        Ok(devices) if devices.is_empty() => (None, "no driver with a device found".to_owned()),
        Ok(devices) => (Some(true), devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        Err(error) => (None, error.to_string()),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu() -> (Option<bool>, String) {
    let driver =
        library("libcuda.so.1").map_or("no driver found".to_owned(), |path| format!("driver at {}", path.display()));
    (None, format!("{driver}; this raglan was built without `--features cuda`"))
}

fn onnxruntime(session: &Session) -> (Option<bool>, String) {
    match raglan::onnx::find_onnx_runtime(session.models.settings().onnx_runtime.as_deref()) {
        Some(path) if path.is_file() => (None, path.display().to_string()),
        Some(path) => (Some(false), format!("`{}` is not a file", path.display())),
        None => (None, "not found (ORT_DYLIB_PATH names it); needed only for models in ONNX".to_owned()),
    }
}

/// Where the loader would find a library.
#[cfg(not(feature = "cuda"))]
fn library(name: &str) -> Option<std::path::PathBuf> {
    let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let folders = std::env::split_paths(&listed).chain(usual.iter().map(std::path::PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.exists())
}
