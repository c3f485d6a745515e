//! A file that any thread appends to: for a logger.
//!
//! The threads put their records into a buffer, and a thread of the file's own takes them out, all that there are at a
//! time, and hands them to a driver. So a record costs its thread a lock for the time of a copy, and no disk.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    time::{Duration, Instant},
};

use anyport_core::{ChunkPool, Fault};
use anyport_driver::{
    Completion, Driver, DriverChoice, DriverConfig, DriverKind, Op, Outcome, Token, Waker, probe,
};

use super::{Action, AppendFile, AppendRefusal, Appended, FileEvent, Machine};
use crate::error::{Error, Result};

/// The driver has one file and no socket.
const CONFIG: DriverConfig =
    DriverConfig { sockets_max: 8, receive_memory_bytes: 4 << 10, receive_buffer_bytes: 4 << 10 };

const TOKEN: Token = Token(0);

/// A file that any thread appends to: cheap to clone, never waited for. It needs no engine, and outlives those that
/// there are.
///
/// ```no_run
/// use std::time::Duration;
/// use anyport::{AppendFile, LogFile};
/// let log = LogFile::open(AppendFile::at("server.log").rotate_at_bytes(10 << 20))?;
/// let from_anywhere = log.clone();
/// std::thread::spawn(move || from_anywhere.append(b"a whole line\n"));
/// // At the end of the program:
/// assert!(log.close(Duration::from_secs(5)), "the disk did not take all of the log");
/// # Ok::<(), anyport::Error>(())
/// ```
///
/// When the last clone is dropped, the file closes by itself, with all that was queued; a program that ends at once
/// after that does not wait for it, so [`close`](Self::close) it.
#[derive(Clone)]
pub struct LogFile {
    shared: Arc<Shared>,
    /// Closes the file with the last clone.
    _handles: Arc<CloseOnDrop>,
}

struct Shared {
    state: Mutex<State>,
    over: Condvar,
    refused: AtomicU64,
    waker: Waker,
    queue_max_bytes: usize,
}

#[derive(Default)]
struct State {
    records: Records,
    rotate: bool,
    closing: bool,
    /// The thread has ended.
    over: bool,
    failure: Option<Fault>,
    not_rotated: Option<Fault>,
    lost_bytes: u64,
}

/// Records, one behind the other, and where each ends.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    ends: VecDeque<usize>,
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.ask_to_close();
    }
}

impl Shared {
    /// No code of others runs while it is locked: a panic cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask_to_close(&self) {
        self.lock().closing = true;
        self.waker.wake();
    }
}

impl LogFile {
    /// Opens a file with the best driver of this machine, and starts its thread.
    ///
    /// # Errors
    /// If the file cannot be opened, there is no driver, or the thread cannot be started.
    pub fn open(file: AppendFile) -> Result<Self> {
        Self::open_on(file, DriverChoice::Auto)
    }

    /// As [`open`](Self::open), with this driver.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_on(file: AppendFile, driver: DriverChoice) -> Result<Self> {
        let path = file.path.clone();
        let fail = |source| Error::File { path: path.clone(), source };
        let chosen = probe::choose(driver, CONFIG).map_err(Error::Driver)?;
        let (tell, told) = channel();
        let run = move || run_on(chosen.kind, &file, &tell);
        std::thread::Builder::new().name("anyport-log".to_owned()).spawn(run).map_err(fail)?;
        let ended = || io::Error::other("its thread ended while it started");
        let shared = told.recv().map_err(|_| fail(ended()))?.map_err(fail)?;
        Ok(Self { _handles: Arc::new(CloseOnDrop(Arc::clone(&shared))), shared })
    }

    /// Queues a record, a whole line for instance: records of different threads do not mix.
    pub fn append(&self, record: &[u8]) -> Appended {
        let refused = |refusal| {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            Appended::Refused(refusal)
        };
        let mut state = self.shared.lock();
        if let Some(fault) = state.failure {
            return refused(AppendRefusal::Failed(fault));
        }
        if state.closing {
            return refused(AppendRefusal::NotOpen);
        }
        let records = &mut state.records;
        if record.len() > self.shared.queue_max_bytes.saturating_sub(records.bytes.len()) {
            return refused(AppendRefusal::Full);
        }
        let was_empty = records.ends.is_empty();
        records.bytes.extend_from_slice(record);
        records.ends.push_back(records.bytes.len());
        drop(state);
        if was_empty {
            self.shared.waker.wake();
        }
        Appended::Queued
    }

    /// Begins a new file after what was queued so far: for a signal that asks for one.
    pub fn rotate(&self) {
        self.shared.lock().rotate = true;
        self.shared.waker.wake();
    }

    /// Records that were refused.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Why nothing is appended any more, if it has failed, and how many bytes were lost with that.
    pub fn failure(&self) -> Option<(Fault, u64)> {
        let state = self.shared.lock();
        state.failure.map(|fault| (fault, state.lost_bytes))
    }

    /// Why the last rotation did not happen, if it did not: the file grows.
    pub fn not_rotated(&self) -> Option<Fault> {
        self.shared.lock().not_rotated
    }

    /// Closes the file after what was queued, for every clone, and waits for that, at most for `within`. True if the
    /// file has all that was queued.
    pub fn close(&self, within: Duration) -> bool {
        self.shared.ask_to_close();
        let until = Instant::now() + within;
        let mut state = self.shared.lock();
        while !state.over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.over.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.failure.is_none()
    }
}

impl std::fmt::Debug for LogFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("LogFile")
            .field("queued_bytes", &state.records.bytes.len())
            .field("failure", &state.failure)
            .finish_non_exhaustive()
    }
}

// ---- the thread ----

type Started = io::Result<Arc<Shared>>;

fn run_on(kind: DriverKind, file: &AppendFile, tell: &Sender<Started>) {
    match kind {
        #[cfg(target_os = "linux")]
        DriverKind::IoUring => run(anyport_driver::io_uring::IoUring::new(CONFIG), file, tell),
        #[cfg(unix)]
        DriverKind::Readiness => run(anyport_driver::readiness::Readiness::new(CONFIG), file, tell),
        #[cfg(windows)]
        DriverKind::Iocp => run(anyport_driver::iocp::Iocp::new(CONFIG), file, tell),
        kind => unreachable!("no file is written on {kind} in a thread"),
    }
}

fn run<D: Driver>(driver: io::Result<D>, file: &AppendFile, tell: &Sender<Started>) {
    let opened = driver.and_then(|mut io| {
        let (key, length) = io.open_file(&file.path, &file.options)?;
        Ok((io, key, length))
    });
    let (mut io, key, length) = match opened {
        Ok(opened) => opened,
        // Whoever opens it waits for this.
        Err(error) => return drop(tell.send(Err(error))),
    };
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        over: Condvar::new(),
        refused: AtomicU64::new(0),
        waker: io.waker(),
        queue_max_bytes: file.queue_max_bytes,
    });
    let mut machine = Machine::new(file, io.now());
    machine.opened(length);
    let _ = tell.send(Ok(Arc::clone(&shared)));
    let _over = SayOver(&shared);
    let mut writer = Writer { shared: &shared, machine, pool: ChunkPool::new(), taken: Records::default() };
    let mut completions = Vec::new();
    loop {
        writer.take(io.now());
        if let Some(action) = writer.machine.poll() {
            let op = match action {
                Action::Append(batch) => Op::Append { file: key, batch },
                Action::Sync => Op::Sync { file: key },
                Action::Rotate => Op::Rotate { file: key, keep: file.keep },
                Action::Close => Op::CloseFile { file: key },
            };
            io.submit(TOKEN, op);
        }
        if io.wait(None, &mut completions).is_err() {
            return;
        }
        for Completion { outcome, .. } in completions.drain(..) {
            if matches!(outcome, Outcome::FileClosed(_)) {
                return;
            }
            writer.see(outcome);
        }
    }
}

/// Whoever waits for the close hears of the end, also of one by a panic.
struct SayOver<'a>(&'a Shared);

impl Drop for SayOver<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.over, state.closing) = (true, true);
        self.0.over.notify_all();
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    machine: Machine,
    pool: ChunkPool,
    /// Memory for records, in turn with that of the shared state.
    taken: Records,
}

impl Writer<'_> {
    /// Gives what the threads have left there to the machine, once that has done what it had.
    fn take(&mut self, now: Instant) {
        if !self.machine.is_at_rest() {
            return;
        }
        let mut state = self.shared.lock();
        std::mem::swap(&mut self.taken, &mut state.records);
        let (rotate, closing) = (std::mem::take(&mut state.rotate), state.closing);
        drop(state);
        let mut begin = 0;
        for end in self.taken.ends.drain(..) {
            // The shared state has the same bound as the machine, which is empty: what one takes the other does.
            let _ = self.machine.append(&self.taken.bytes[begin..end], now, &mut self.pool);
            begin = end;
        }
        self.taken.bytes.clear();
        if rotate {
            self.machine.rotate(now);
        }
        if closing {
            self.machine.close();
        }
    }

    fn see(&mut self, outcome: Outcome) {
        let event = match outcome {
            Outcome::Appended(batch, result) => self.machine.appended(batch, result, &mut self.pool),
            Outcome::Synced(result) => Some(self.machine.synced(result, &mut self.pool)),
            Outcome::Rotated(result) => Some(self.machine.rotated(result)),
            other => unreachable!("nothing else was submitted: {other:?}"),
        };
        let mut state = self.shared.lock();
        match event {
            Some(FileEvent::Failed { fault, lost_bytes }) => {
                let waiting = std::mem::take(&mut state.records);
                state.failure = Some(fault);
                state.lost_bytes = lost_bytes + waiting.bytes.len() as u64;
            }
            Some(FileEvent::Rotated) => state.not_rotated = None,
            Some(FileEvent::NotRotated(fault)) => state.not_rotated = Some(fault),
            _ => {}
        }
    }
}
