//! The lines that the peer scripts read.

use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value, json};

/// Prints lines of one area.
pub struct Report {
    area: &'static str,
    threads: usize,
}

impl Report {
    /// Lines of `area`, measured with `threads` threads unless a line says otherwise.
    pub fn new(area: &'static str, threads: usize) -> Self {
        Self { area, threads }
    }

    /// Prints a line. `n` and `threads` among `params` stand beside them, as the peers print them.
    pub fn emit(&self, metric: &str, value: f64, unit: &str, params: Value) {
        let Value::Object(mut params) = params else { unreachable!("params are written as objects") };
        let mut line = Map::new();
        line.insert("area".into(), self.area.into());
        line.insert("system".into(), "raglan".into());
        line.insert("metric".into(), metric.into());
        line.insert("value".into(), value.into());
        line.insert("unit".into(), unit.into());
        line.insert("n".into(), params.remove("n").unwrap_or_else(|| json!(1)));
        line.insert("threads".into(), params.remove("threads").unwrap_or_else(|| json!(self.threads)));
        line.insert("params".into(), Value::Object(params));
        println!("{}", Value::Object(line));
    }
}

/// Runs `work`; returns what it gave, the wall seconds and the processor seconds of all threads.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64, f64) {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let result = work();
    (result, started.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

/// The smallest of the values that at least `p` percent of them do not exceed, as the peers define it; 0 of none.
pub fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    raglan::eval::percentile(values, p)
}

/// Bytes of all files below a folder.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Processor seconds of this process and all of its threads, where the system tells.
fn cpu_seconds() -> f64 {
    // Fields 14 and 15, counted from 1, after the command's name in parentheses.
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return 0.0 };
    let Some((_, fields)) = stat.rsplit_once(") ") else { return 0.0 };
    let ticks: f64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0 // The kernel reports in hundredths, whatever its own clock.
}

/// Has [`peak_rss_mb`] count from now on, where the system allows it.
pub fn forget_peak_rss() {
    // To write 5 there is to reset the high-water mark (`man 5 proc`); elsewhere the peak stays that of the process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory this process has held, in MB.
pub fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0);
    kib * 1024.0 / 1e6
}
