//! Reading in child processes that can be killed.
//!
//! Parent and child speak over one socket, which is the child's standard input; its standard output leads nowhere, so
//! that a library that prints cannot disturb the talk. A request is a [`Request`] and the file's content, each behind
//! its length; a reply is the postcard form of the outcome behind its length.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use encoding_rs::Encoding;
use raglan_core::{Format, ParsedDocument};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::encoding::Decoded;
use crate::read::{read_with_time_limit, timed_out};
use crate::sniff::Sniffed;
use crate::{Limits, SkipReason};

/// What the parent waits beyond the file's own time before it kills a worker that does not answer.
const GRACE: Duration = Duration::from_secs(2);
/// How much of what a worker says on its standard error is kept.
const LAST_WORDS: usize = 16 << 10;

#[derive(Serialize, Deserialize)]
struct Request {
    format: Format,
    /// The label of the encoding that the content was decoded from; none for content that is bytes.
    encoding: Option<String>,
    limits: Limits,
}

/// Worker processes, as many as are reading at once.
pub(crate) struct Workers {
    program: PathBuf,
    args: Vec<String>,
    n_workers: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Worker>,
    n_busy: usize,
}

impl Workers {
    pub fn new(program: PathBuf, args: Vec<String>, n_workers: usize) -> Self {
        Self { program, args, n_workers, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Reads in an idle worker, a new one, or the first to become idle.
    pub fn read(&self, sniffed: Sniffed, limits: &Limits) -> Result<ParsedDocument, SkipReason> {
        let idle = {
            let mut state = self.state();
            while state.n_busy >= self.n_workers {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.n_busy += 1;
            state.idle.pop()
        };
        let (outcome, worker) = self.read_with(idle, sniffed, limits);
        let mut state = self.state();
        state.n_busy -= 1;
        state.idle.extend(worker);
        self.changed.notify_one();
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is sound whatever a thread that panicked did: it is only counted and pushed to.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome, and the worker if it can be used again.
    fn read_with(
        &self,
        idle: Option<Worker>,
        sniffed: Sniffed,
        limits: &Limits,
    ) -> (Result<ParsedDocument, SkipReason>, Option<Worker>) {
        let mut worker = match idle.map_or_else(|| Worker::start(&self.program, &self.args), Ok) {
            Ok(worker) => worker,
            Err(error) => {
                let problem = format!("cannot start the reader process `{}`: {error}", self.program.display());
                return (Err(SkipReason::Crashed { problem }), None);
            }
        };
        match worker.ask(sniffed, limits) {
            // A worker whose reader did not end in time still has the thread.
            Ok(Err(reason @ SkipReason::TimedOut { .. })) => {
                worker.kill();
                (Err(reason), None)
            }
            Ok(outcome) => (outcome, Some(worker)),
            Err(error) => (Err(worker.post_mortem(&error, limits)), None),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in self.state().idle.drain(..) {
            worker.kill();
        }
    }
}

struct Worker {
    child: Child,
    socket: UnixStream,
    last_words: Arc<Mutex<VecDeque<u8>>>,
    listener: JoinHandle<()>,
}

impl Worker {
    fn start(program: &PathBuf, args: &[String]) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let mut child = Command::new(program)
            .args(args)
            // A backtrace would push the first words out of the last.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stderr = child.stderr.take().expect("standard error is piped");
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let heard = Arc::clone(&last_words);
        let listener = thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok(n @ 1..) = stderr.read(&mut buffer) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend(&buffer[..n]);
                let excess = heard.len().saturating_sub(LAST_WORDS);
                heard.drain(..excess);
            }
        });
        Ok(Self { child, socket, last_words, listener })
    }

    /// One request and its reply; an error says that the worker is lost.
    fn ask(&mut self, sniffed: Sniffed, limits: &Limits) -> io::Result<Result<ParsedDocument, SkipReason>> {
        let (format, encoding, content) = match sniffed {
            Sniffed::Bytes(format, bytes) => (format, None, bytes),
            Sniffed::Text(format, decoded) => {
                (format, Some(decoded.encoding.name().to_owned()), decoded.text.into_bytes())
            }
        };
        let request = postcard::to_stdvec(&Request { format, encoding, limits: *limits }).map_err(io::Error::other)?;
        let mut timed = Timed { socket: &self.socket, deadline: Instant::now() + limits.time + GRACE };
        send(&mut timed, &request)?;
        send(&mut timed, &content)?;
        drop(content);
        // Blocks and marks take more room than their text where the text is short lines.
        let reply = receive(&mut timed, limits.text_bytes.saturating_mul(16).saturating_add(1 << 20))?;
        postcard::from_bytes(&reply).map_err(io::Error::other)
    }

    fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.listener.join();
    }

    /// Why the worker was lost.
    fn post_mortem(mut self, error: &io::Error, limits: &Limits) -> SkipReason {
        if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
            self.kill();
            return timed_out(limits);
        }
        // The socket is closed by the end of the process, which the kill can only hasten.
        thread::sleep(Duration::from_millis(20));
        let ended = self.child.try_wait().ok().flatten();
        let _ = self.child.kill();
        let status = ended.or_else(|| self.child.wait().ok());
        let _ = self.listener.join();
        let heard = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let heard: Vec<u8> = heard.iter().copied().collect();
        let heard = String::from_utf8_lossy(&heard);
        let signal = status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status));
        // No one but the system kills a worker that is reading, and it does so for want of memory.
        let is_killed = ended.is_some() && signal == Some(Signal::KILL.as_raw());
        if heard.contains("memory allocation of") || is_killed {
            return SkipReason::OutOfMemory { limit: limits.memory_bytes };
        }
        let problem = if heard.contains("overflowed its stack") {
            "stack overflow".to_owned()
        } else {
            status.map_or_else(|| error.to_string(), |status| format!("the reader process ended with {status}"))
        };
        SkipReason::Crashed { problem }
    }
}

/// A socket whose every read and write ends at the deadline.
struct Timed<'a> {
    socket: &'a UnixStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

fn send(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    to.write_all(&(message.len() as u64).to_le_bytes())?;
    to.write_all(message)
}

fn receive(from: &mut impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > limit {
        return Err(io::Error::other("the message is too long"));
    }
    let mut message = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    if from.take(length).read_to_end(&mut message)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}

/// Serves a [`ReaderPool`](crate::ReaderPool) as its child process until the pool is gone, and ends the process.
///
/// A program that gives [`Isolation::Worker`](crate::Isolation::Worker) with itself as the program calls this, and
/// nothing before it, when it is run with the arguments named there. Standard input must be the pool's socket.
pub fn worker_main() -> ! {
    // A panic is an outcome here, and goes back as such; running out of memory is told from other ends by its words.
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(io::stderr(), "{panic}");
    }));
    let served = io::stdin().as_fd().try_clone_to_owned().and_then(|socket| serve(UnixStream::from(socket)));
    std::process::exit(i32::from(served.is_err()))
}

fn serve(mut socket: UnixStream) -> io::Result<()> {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let mut limited = false;
    loop {
        let request = match receive(&mut socket, 1 << 20) {
            Ok(request) => request,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let request: Request = postcard::from_bytes(&request).map_err(io::Error::other)?;
        if !limited {
            limit_memory(request.limits.memory_bytes)?;
            limited = true;
        }
        let content = receive(&mut socket, u64::MAX)?;
        let sniffed = match request.encoding {
            None => Sniffed::Bytes(request.format, content),
            Some(label) => {
                let encoding = Encoding::for_label(label.as_bytes()).ok_or(io::ErrorKind::InvalidData)?;
                let text = String::from_utf8(content).map_err(io::Error::other)?;
                Sniffed::Text(request.format, Decoded { text, encoding })
            }
        };
        let outcome = read_with_time_limit(sniffed, &request.limits);
        send(&mut socket, &postcard::to_stdvec(&outcome).map_err(io::Error::other)?)?;
    }
}

/// Bounds this process's address space to what it has now and `bytes` more.
fn limit_memory(bytes: u64) -> io::Result<()> {
    /// Stacks and arenas of threads, reserved and hardly used.
    const SLACK: u64 = 320 << 20;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix("kB"));
    let size = size.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) << 10;
    let wanted = size.saturating_add(bytes).saturating_add(SLACK);
    let maximum = getrlimit(Resource::As).maximum;
    let current = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    Ok(setrlimit(Resource::As, Rlimit { current: Some(current), maximum })?)
}
