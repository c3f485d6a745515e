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

use anyport_core::{ChunkPool, Fault, FaultKind};
use anyport_driver::{
    Completion, Driver, DriverChoice, DriverConfig, DriverKind, Op, Outcome, Token, Waker, probe,
};

use super::{Action, AppendFile, AppendRefusal, Appended, FileEvent, Machine};
use crate::error::{Error, Result};

/// The driver has one file and no socket.
const CONFIG: DriverConfig = DriverConfig {
    sockets_max: 8,
    receive_memory_bytes: 4 << 10,
    receive_buffer_bytes: 4 << 10,
    ..DriverConfig::DEFAULT
};

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
    /// Bytes that the thread has taken out, and the disk has not taken yet.
    taken_bytes: usize,
    closing: bool,
    /// The file has closed, with all that was queued unless there was a failure.
    closed: bool,
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
    /// Before which of them a new file begins; their number for one behind all of them.
    rotations: VecDeque<usize>,
}

impl State {
    /// Nothing can be appended any more; what was not taken yet is lost as well.
    fn fail(&mut self, fault: Fault, lost_bytes: u64) {
        let waiting = std::mem::take(&mut self.records);
        self.failure = Some(fault);
        self.lost_bytes = lost_bytes + waiting.bytes.len() as u64;
    }
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
        let waiting = state.records.bytes.len() + state.taken_bytes;
        if record.len() > self.shared.queue_max_bytes.saturating_sub(waiting) {
            return refused(AppendRefusal::Full);
        }
        let records = &mut state.records;
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
        let mut state = self.shared.lock();
        let records = &mut state.records;
        // Asked for twice between two records it is one, as many times as it is asked.
        if records.rotations.back() != Some(&records.ends.len()) {
            records.rotations.push_back(records.ends.len());
        }
        drop(state);
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
    /// file has all that was queued; not if its thread ended before it closed.
    pub fn close(&self, within: Duration) -> bool {
        self.shared.ask_to_close();
        let until = Instant::now().checked_add(within);
        let mut state = self.shared.lock();
        while !state.over {
            // A time that no clock reaches is none.
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
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
        if let Err(error) = io.wait(None, &mut completions) {
            log::error!("the thread of {} cannot go on: {error}", file.path.display());
            return;
        }
        for Completion { outcome, .. } in completions.drain(..) {
            if matches!(outcome, Outcome::FileClosed(_)) {
                shared.lock().closed = true;
                return;
            }
            writer.see(outcome);
        }
    }
}

/// Whoever waits for the close hears of the end, also of one by a panic or a driver that failed: what was queued is lost
/// then.
struct SayOver<'a>(&'a Shared);

impl Drop for SayOver<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if !state.closed && state.failure.is_none() {
            let taken = state.taken_bytes as u64;
            state.fail(Fault::of(FaultKind::Other), taken);
        }
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
        let closing = state.closing;
        state.taken_bytes = self.taken.bytes.len();
        drop(state);
        let mut begin = 0;
        for (nth, end) in self.taken.ends.drain(..).enumerate() {
            if self.taken.rotations.pop_front_if(|rotation| *rotation == nth).is_some() {
                self.machine.rotate(now);
            }
            // The shared state has the same bound as the machine, which is empty: what one takes the other does.
            let _ = self.machine.append(&self.taken.bytes[begin..end], now, &mut self.pool);
            begin = end;
        }
        self.taken.bytes.clear();
        if self.taken.rotations.pop_front().is_some() {
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
        state.taken_bytes = self.machine.queued_bytes();
        match event {
            Some(FileEvent::Failed { fault, lost_bytes }) => state.fail(fault, lost_bytes),
            Some(FileEvent::Rotated) => state.not_rotated = None,
            Some(FileEvent::NotRotated(fault)) => state.not_rotated = Some(fault),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use anyport_driver::sim::SimNet;

    use super::*;

    /// A log without a thread, and the thread's half of it.
    fn log(file: &AppendFile) -> LogFile {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            over: Condvar::new(),
            refused: AtomicU64::new(0),
            waker: SimNet::new(1).driver(CONFIG).waker(),
            queue_max_bytes: file.queue_max_bytes,
        });
        LogFile { _handles: Arc::new(CloseOnDrop(Arc::clone(&shared))), shared }
    }

    fn writer<'a>(log: &'a LogFile, file: &AppendFile) -> Writer<'a> {
        let machine = Machine::new(file, Instant::now());
        Writer { shared: &log.shared, machine, pool: ChunkPool::new(), taken: Records::default() }
    }

    #[test]
    fn a_thread_that_ended_early_is_a_failure() {
        let file = AppendFile::at("a");
        let log = log(&file);
        log.append(b"taken ");
        let mut writer = writer(&log, &file);
        writer.take(Instant::now());
        log.append(b"waits");
        drop(SayOver(&log.shared));
        assert!(!log.close(Duration::MAX), "what was queued is not in the file");
        assert_eq!(log.failure(), Some((Fault::of(FaultKind::Other), 11)));
    }

    #[test]
    fn a_close_may_wait_for_ever() {
        let log = log(&AppendFile::at("a"));
        std::thread::scope(|scope| {
            let closes = scope.spawn(|| log.close(Duration::MAX));
            while !log.shared.lock().closing {
                std::thread::yield_now();
            }
            log.shared.lock().closed = true;
            drop(SayOver(&log.shared));
            assert!(closes.join().unwrap());
        });
    }

    #[test]
    fn a_rotation_comes_between_the_records_before_it_and_those_after_it() {
        let file = AppendFile::at("a");
        let log = log(&file);
        let mut writer = writer(&log, &file);
        log.rotate();
        log.append(b"one ");
        log.rotate();
        log.rotate();
        log.append(b"two");
        log.append(b" three");
        log.rotate();
        writer.take(Instant::now());
        let mut text = String::new();
        while let Some(action) = writer.machine.poll() {
            let outcome = match action {
                Action::Append(mut batch) => {
                    batch.slices().for_each(|piece| text.push_str(std::str::from_utf8(piece).unwrap()));
                    batch.advance(batch.remaining());
                    Outcome::Appended(batch, Ok(()))
                }
                Action::Rotate => {
                    text.push('|');
                    Outcome::Rotated(Ok(()))
                }
                other => panic!("{other:?}"),
            };
            writer.see(outcome);
        }
        assert_eq!(text, "|one |two three|");
        writer.take(Instant::now());
        assert!(writer.machine.poll().is_none(), "each was asked for once");
    }

    #[test]
    fn what_the_disk_has_not_taken_counts_against_the_bound() {
        let file = AppendFile::at("a").queue_max_bytes(10);
        let log = log(&file);
        let mut writer = writer(&log, &file);
        assert_eq!(log.append(b"123456"), Appended::Queued);
        writer.take(Instant::now());
        let Some(Action::Append(mut batch)) = writer.machine.poll() else { panic!("an append") };
        assert_eq!(log.append(b"78901"), Appended::Refused(AppendRefusal::Full));
        assert_eq!(log.append(b"7890"), Appended::Queued);
        batch.advance(6);
        writer.see(Outcome::Appended(batch, Ok(())));
        assert_eq!(log.append(b"123456"), Appended::Queued);
        assert_eq!((log.append(b"7"), log.refused()), (Appended::Refused(AppendRefusal::Full), 2));
    }
}
