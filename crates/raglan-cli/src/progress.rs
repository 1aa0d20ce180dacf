//! Progress on standard error: bars on a terminal, a few lines elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use raglan::model::registry;
use raglan::{IndexEvent, IndexProgress};

use crate::output::count;

/// Set by Ctrl-C: whoever works for long looks at it and ends in good order.
pub static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Shows the progress of downloads and of indexing.
pub struct Bars {
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
    chunks: AtomicUsize,
    embedded: AtomicUsize,
}

impl Bars {
    /// Bars, or nothing at all when `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, bar: Mutex::new(None), chunks: AtomicUsize::new(0), embedded: AtomicUsize::new(0) }
    }

    fn begin(&self, length: Option<u64>, template: &str, message: String) {
        if self.quiet {
            return;
        }
        if !std::io::stderr().is_terminal() {
            say!("{message}");
        }
        let bar = match length {
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::new_spinner(),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template(template).expect("the templates are sound");
        bar.set_style(style.progress_chars("━╸─"));
        bar.set_message(message);
        bar.enable_steady_tick(Duration::from_millis(200));
        self.replace(Some(bar));
    }

    fn replace(&self, bar: Option<ProgressBar>) {
        let mut slot = self.bar.lock().expect("no thread panics while it holds the bar");
        if let Some(old) = std::mem::replace(&mut *slot, bar) {
            old.finish_and_clear();
        }
    }

    fn with(&self, change: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = &*self.bar.lock().expect("no thread panics while it holds the bar") {
            change(bar);
        }
    }

    /// Shows a bar of so many things to be done.
    pub fn count(&self, n: usize, what: &str) {
        self.begin(Some(n as u64), "{msg} {bar:30} {pos}/{len} ETA {eta}", what.to_owned());
    }

    /// Shows how many of them are done.
    pub fn done(&self, n: usize) {
        self.with(|bar| bar.set_position(n as u64));
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.replace(None);
    }
}

impl registry::Progress for Bars {
    fn start(&self, what: &str, bytes: Option<u64>) {
        let template = match bytes {
            Some(_) => "{msg} {bar:30} {bytes}/{total_bytes} {eta}",
            None => "{msg} {spinner} {elapsed}",
        };
        self.begin(bytes, template, what.to_owned());
    }

    fn advance(&self, bytes: u64) {
        self.with(|bar| bar.inc(bytes));
    }

    fn finish(&self) {
        self.clear();
    }

    fn interrupted(&self) -> bool {
        STOP.load(Ordering::Relaxed)
    }
}

impl IndexProgress for Bars {
    fn event(&self, event: IndexEvent<'_>) {
        match event {
            IndexEvent::Walked { to_read: 0, .. } => {}
            IndexEvent::Walked { to_read, bytes, .. } => {
                self.begin(
                    Some(bytes),
                    "indexing {bar:30} {bytes}/{total_bytes}  {msg}  ETA {eta}",
                    format!("{} to read", count(to_read, "file")),
                );
            }
            IndexEvent::Read { bytes, chunks, files_done, files, .. } => {
                let chunks = self.chunks.fetch_add(chunks, Ordering::Relaxed) + chunks;
                let embedded = self.embedded.load(Ordering::Relaxed);
                self.with(|bar| {
                    bar.inc(bytes);
                    bar.set_message(format!("{files_done}/{files} files  {chunks} chunks, {embedded} embedded"));
                });
            }
            IndexEvent::Embedded { chunks } => {
                self.embedded.fetch_add(chunks, Ordering::Relaxed);
            }
            IndexEvent::Committed { .. } => {}
            IndexEvent::Merging { segments } => {
                self.begin(None, "{spinner} {msg}", format!("merging {}", count(segments, "segment")));
            }
        }
    }
}
