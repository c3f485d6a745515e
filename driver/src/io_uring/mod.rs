//! The io_uring driver.
//!
//! One ring a shard: single issuer, deferred task work. What a turn submits goes to the kernel in the same call
//! that waits. Accepted sockets live in the ring's own table ("direct descriptors"), so the limit on open files
//! does not count them. Receiving is one multishot operation a socket that takes a buffer from a shared ring
//! only when data is there.
//!
//! Accepting is one-shot accepts posted ahead, as AcceptEx servers do, and not one multishot accept: the kernel
//! reports the peer's address only to one-shot ones, and a socket in the ring's table cannot be asked for it
//! afterwards. From 6.10 on one of them waits, and brings as many more with it as stand in the queue (`accept`).
//!
//! | file | what |
//! |---|---|
//! | `ring` | entries in and out, the one system call |
//! | `buffers`, `memory` | the ring of receive buffers |
//! | `window` | how many of them the kernel is offered at a time |
//! | `guarded` | their memory in builds with guard pages (`docs/guard-pages.md`) |
//! | `socket` | what is kept of a socket, and the operations on it |
//! | `accept` | accepting and connecting |
//! | `accept_flags` | accepts that wait first, and such as do not wait |
//! | `file` | appending to files |
//! | `alarm` | the one timer of waits that end by themselves |
//! | `again` | cancelling again what a cancel missed |
//! | `check` | finding the resets that the kernel's receive misses |
//! | `tag` | what a completion is about |
//! | `probe` | what the kernel offers |

#![allow(unsafe_code, reason = "entries and buffers are shared with the kernel; each block says why it may")]

mod accept;
mod accept_flags;
mod again;
mod alarm;
mod buffers;
mod check;
mod file;
#[cfg(guard_pages)]
mod guarded;
mod memory;
mod probe;
mod ring;
mod sockaddr;
mod socket;
mod tag;
mod window;

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, SendBatch, Slab};
use io_uring::{cqueue, opcode, squeue, types};
use rustix::{event::EventfdFlags, io::Errno};

pub use probe::{Features, probe};

use self::{
    accept::Accepting,
    again::Ending,
    alarm::Alarm,
    buffers::Buffers,
    check::Checks,
    file::RingFile,
    ring::Ring,
    socket::{Descriptor, Line, Listening, Receiving, Shutdown, Socket},
    tag::Tag,
};
use crate::{
    COMPLETIONS_MAX, Driver, FILES_MAX,
    address::Address,
    files::helper::Helper,
    options::{DriverConfig, FileOptions, ListenOptions, SocketOptions},
    posting::Posting,
    probe::DriverKind,
    spin::Spin,
    types::{
        Completion, Detached, DetachedSocket, FileKey, Lease, Op, OpKind, Outcome, Received, SocketKey,
        Token, next_instance,
    },
    unix::{errno, socket as unix_socket},
    wake::Waker,
};

/// How long a dropped driver waits for the kernel to give everything back: a disk may take long, and what it is at cannot
/// be cancelled. Beyond it memory is leaked instead.
const JOIN_WAIT: Duration = Duration::from_secs(10);

/// A socket is received from one buffer at a time once a receive took so much, until one takes less than the second.
/// With one receive for all, the kernel fills many buffers before the first is looked at, and a stream of large messages
/// is copied out of memory that no cache has any more.
const BULKY_BYTES: u32 = 32 << 10;
const BULKY_STAYS_BYTES: u32 = 4 << 10;

/// More is not sent lazily: it may well find no room, and would be tried twice.
const LAZY_BYTES_MAX: usize = 64 << 10;

/// The driver. Needs Linux 6.1 (deferred task work); better from 6.12 on (incremental buffers).
pub struct IoUring {
    // Dropped in this order, after `drop` has joined what is in flight.
    ring: Ring,
    sockets: Slab<Socket>,
    accepting: Slab<Box<Accepting>>,
    buffers: Buffers,
    /// Receives that ran out of buffers, or took one and are to take another, oldest first.
    starved: VecDeque<SocketKey>,
    /// One did since the last wait.
    ran_out: bool,
    /// Outcomes that need no kernel, for the next wait.
    queued: VecDeque<Completion>,
    /// Sockets with a send that tells only of failure, and the kernel has been told or will be with the next call.
    lazy: Vec<SocketKey>,
    /// Some of them were more than one wait delivers.
    lazy_left: bool,
    /// Kernel completions being translated.
    scratch: Vec<cqueue::Entry>,
    /// Listeners of which accepts have completed.
    used_accepts: Vec<SocketKey>,
    /// Listeners that have fewer accepts posted than they want, for lack of something.
    short_of_accepts: Vec<SocketKey>,
    /// When the first of those that back off tries again.
    retry_at: Option<Instant>,
    /// Accepts that the kernel has, over all listeners: each will need a place.
    posted: usize,
    places: u32,
    /// Accepts can wait before they are tried (6.10).
    accepts_wait_first: bool,
    checks: Checks,
    alarm: Alarm,
    ending: Ending,
    files: Slab<Box<RingFile>>,
    /// Rotates files; started with the first time.
    helper: Option<Helper>,
    event: Arc<OwnedFd>,
    waker: Waker,
    spin: Spin,
    /// The time at the end of the last call into the kernel that a wait made, if there was one: the clock is read once a
    /// turn.
    waited_at: Option<Instant>,
}

impl IoUring {
    /// A driver for the calling thread.
    ///
    /// # Errors
    /// If the kernel refuses a ring (`EPERM` in many containers, `ENOSYS`, `ENOMEM` from a small limit on locked
    /// memory) or lacks what the driver needs.
    pub fn new(config: DriverConfig) -> io::Result<Self> {
        let ring = Ring::new(!config.spin.is_zero())?;
        if !ring.has_wait_timeouts() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "io_uring of this kernel is too old (5.11)",
            ));
        }
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let sockets_max = config.sockets_max.clamp(1, tag::INDEX_MAX - 1);
        let (slots, places) = table(sockets_max, files.unwrap_or(u64::MAX));
        ring.submitter().register_files_sparse(slots)?;
        let buffers = Buffers::register(
            &ring.submitter(),
            next_instance(),
            config.receive_memory_bytes,
            config.receive_buffer_bytes,
            config.huge_pages,
        )?;
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let event = Arc::new(event);
        let signal = Arc::clone(&event);
        let waker = Waker::new(move || {
            rustix::io::write(&*signal, &1_u64.to_ne_bytes())?;
            Ok(())
        });
        let accepts_wait_first = ring.has_accepts_that_wait_first();
        let mut driver = Self {
            ring,
            sockets: Slab::new(places),
            accepting: Slab::new(tag::INDEX_MAX - 1),
            buffers,
            starved: VecDeque::new(),
            ran_out: false,
            queued: VecDeque::new(),
            lazy: Vec::new(),
            lazy_left: false,
            scratch: Vec::new(),
            used_accepts: Vec::new(),
            short_of_accepts: Vec::new(),
            posted: 0,
            retry_at: None,
            places,
            accepts_wait_first,
            checks: Checks::default(),
            alarm: Alarm::default(),
            ending: Ending::default(),
            files: Slab::new(FILES_MAX),
            helper: None,
            event,
            waker,
            spin: Spin::new(&config),
            waited_at: None,
        };
        driver.watch_wakes();
        Ok(driver)
    }

    /// Every write to the eventfd completes this poll once more; the counter is never read.
    fn watch_wakes(&mut self) {
        let poll = opcode::PollAdd::new(types::Fd(self.event.as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(Tag::Wake.plain());
        // SAFETY: the entry points at nothing; the eventfd lives as long as the driver.
        unsafe { self.ring.push(&poll) };
    }

    /// The open socket of a key, unless its close was submitted.
    fn open_socket(&mut self, key: SocketKey) -> Option<&mut Socket> {
        self.sockets.get_mut(key.0).filter(|socket| !socket.closing)
    }

    fn queue(&mut self, token: Token, outcome: Outcome) {
        self.queued.push_back(Completion { token, outcome });
    }

    // ---- submitting ----

    fn submit_receive(&mut self, token: Token, key: SocketKey) {
        match self.open_socket(key) {
            Some(socket) if socket.is_stream() && socket.receiving == Receiving::Idle => {
                socket.movable = false;
                socket.receive_token = token;
                match socket.end_found {
                    None => self.arm_receive(key),
                    Some(end) => self.queue(token, Outcome::Received(ended(end))),
                }
            }
            _ => self.queue(token, Outcome::Received(Received::Failed(INVALID))),
        }
    }

    fn arm_receive(&mut self, key: SocketKey) {
        let socket = self.sockets.get_mut(key.0).expect("a receive is armed on a socket that is there");
        socket.receiving = Receiving::Armed;
        socket.user_cancelled = false;
        let entry = socket.receive(key);
        // SAFETY: a receive points at nothing: the kernel takes a buffer of the registered ring.
        unsafe { self.ring.push(&entry) };
    }

    fn submit_send(&mut self, token: Token, key: SocketKey, mut batch: Box<SendBatch>) {
        match self.open_socket(key) {
            Some(socket) if socket.is_stream() && socket.batch.is_none() => {
                socket.movable = false;
                if batch.remaining() == 0 {
                    return self.queue(token, Outcome::Sent(batch, Ok(())));
                }
                if batch.is_lazy() {
                    // A gathered one may take several operations.
                    let small = batch.remaining() <= LAZY_BYTES_MAX && batch.single().is_some();
                    batch.set_lazy(small);
                }
                socket.send_token = token;
                socket.send_cancelled = false;
                socket.batch = Some(batch);
                let entry = socket.send(key);
                self.push_entry_of_send(key, &entry);
            }
            _ => self.queue(token, Outcome::Sent(batch, Err(INVALID))),
        }
    }

    fn push_send(&mut self, key: SocketKey) {
        let socket = self.sockets.get_mut(key.0).expect("a send is on a socket that is there");
        let entry = socket.send(key);
        self.push_entry_of_send(key, &entry);
    }

    fn push_entry_of_send(&mut self, key: SocketKey, entry: &squeue::Entry) {
        // SAFETY: batch, header and pieces are on the heap, owned by the socket's slot, and are neither
        // changed nor freed until the send's completion takes the batch out, or, of a lazy one, until the kernel has
        // taken the entry, which is when it ends.
        unsafe { self.ring.push_unowed(entry) };
        if Tag::is_lazy_send(entry.get_user_data()) {
            self.lazy.push(key);
        } else {
            self.ring.owe();
        }
    }

    fn submit_shutdown(&mut self, token: Token, key: SocketKey) {
        match self.open_socket(key) {
            Some(socket) if socket.is_stream() && socket.shutdown == Shutdown::None => {
                socket.movable = false;
                socket.shutdown = Shutdown::Waiting;
                socket.shutdown_token = token;
                self.push_shutdown(key);
            }
            _ => self.queue(token, Outcome::ShutDown(Err(INVALID))),
        }
    }

    /// Hands a shutdown to the kernel, once the send before it has ended.
    fn push_shutdown(&mut self, key: SocketKey) {
        let socket = self.sockets.get_mut(key.0).expect("a shutdown is on a socket that is there");
        if socket.shutdown != Shutdown::Waiting || socket.batch.is_some() {
            return;
        }
        socket.shutdown = Shutdown::InFlight;
        let entry = socket.shutdown(key);
        // SAFETY: a shutdown points at nothing.
        unsafe { self.ring.push(&entry) };
    }

    fn submit_close(&mut self, token: Token, key: SocketKey) {
        let Some(socket) = self.open_socket(key) else {
            return self.queue(token, Outcome::Closed(Err(INVALID)));
        };
        socket.closing = true;
        socket.close_token = token;
        if socket.is_busy() {
            let entry = socket.cancel_all();
            // SAFETY: a cancel points at nothing.
            unsafe { self.ring.push_unowed(&entry) };
            self.ending.note(key);
            self.give_up_starved(key);
            self.give_up_shutdown(key);
        }
        self.finish_close(key);
    }

    /// Frees a closing socket once nothing is in flight on it.
    fn finish_close(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key.0) else { return };
        if !socket.closing || socket.is_busy() {
            return;
        }
        let socket = self.sockets.remove(key.0).expect("looked up above");
        if let Descriptor::Direct(slot) = socket.descriptor {
            // SAFETY: a close points at nothing. The kernel chooses slots itself, so none is used before it
            // is free.
            unsafe { self.ring.push_unowed(&socket::close_direct(slot)) };
        }
        if let Some(listening) = socket.listening {
            for slot in listening.resting {
                self.accepting.remove(slot);
            }
            if let Some(token) = listening.posting.token {
                self.queue(token, Outcome::AcceptEnded(Fault::of(FaultKind::Cancelled)));
            }
        }
        self.queue(socket.close_token, Outcome::Closed(Ok(())));
        // A place is free now: listeners that ran short try again.
        self.top_up_accepts(true);
    }

    /// A receive that waits for a buffer is not the kernel's: it ends at once.
    fn give_up_starved(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key.0) else { return };
        if socket.receiving == Receiving::Starved {
            socket.receiving = Receiving::Idle;
            let token = socket.receive_token;
            self.queue(token, Outcome::Received(Received::Failed(CANCELLED)));
        }
    }

    /// Nor is a shutdown that waits for a send.
    fn give_up_shutdown(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key.0) else { return };
        if socket.shutdown == Shutdown::Waiting {
            socket.shutdown = Shutdown::None;
            let token = socket.shutdown_token;
            self.queue(token, Outcome::ShutDown(Err(CANCELLED)));
        }
    }

    /// Arms receives that ran dry, oldest first, while there are buffers.
    fn feed_starved(&mut self) {
        if std::mem::take(&mut self.ran_out) {
            self.buffers.ran_out();
        }
        let mut left = self.buffers.offered();
        while left > 0 {
            let Some(key) = self.starved.pop_front() else { return };
            // One that was given up meanwhile takes nobody's place: nothing would wake us for those behind it.
            if self.sockets.get(key.0).is_some_and(|socket| socket.receiving == Receiving::Starved) {
                self.arm_receive(key);
                left -= 1;
            }
        }
    }

    // ---- completions ----

    fn translate(&mut self, entry: &cqueue::Entry, out: &mut Vec<Completion>) {
        let (tag, key) = Tag::parse(entry.user_data());
        let more = cqueue::more(entry.flags());
        if tag.is_owed() && !more {
            self.ring.settle();
        }
        #[cfg(guard_pages)]
        guarded::refuse_freed(tag, entry.result());
        match tag {
            Tag::Receive => self.received(SocketKey(key), entry, more, out),
            Tag::Send => self.sent(SocketKey(key), entry.result(), out),
            Tag::Check => self.checked(SocketKey(key), entry.result()),
            Tag::Shutdown => self.shut_down(SocketKey(key), entry.result(), out),
            Tag::Accept => self.accepted(key, entry, out),
            Tag::Connect => self.connected(SocketKey(key), entry.result(), out),
            Tag::Wake if !more => self.watch_wakes(),
            // A lazy send's was looked at before.
            Tag::Wake | Tag::Ignored | Tag::LazySend => {}
            Tag::Alarm => self.alarm.note_rung(),
            Tag::Append => self.appended(FileKey(key), entry.result(), out),
            Tag::Sync => self.synced(FileKey(key), entry.result(), out),
            Tag::Over => self.over(FileKey(key), out),
            Tag::Install => unreachable!("waited for where it was submitted"),
        }
    }

    fn received(&mut self, key: SocketKey, entry: &cqueue::Entry, more: bool, out: &mut Vec<Completion>) {
        let result = outcome(entry.result());
        let buffer = cqueue::buffer_select(entry.flags());
        let buffer_more = cqueue::buffer_more(entry.flags());
        let socket = self.sockets.get_mut(key.0).expect("a slot is not freed while a receive is in flight");
        let token = socket.receive_token;
        let given_up = socket.closing || socket.receiving == Receiving::Cancelling;
        let gone = if socket.closing || socket.user_cancelled { None } else { socket.end_found };
        let gone = gone.map_or(Received::Failed(CANCELLED), ended);
        if !more {
            socket.receiving = Receiving::Idle;
        }
        let mut end = None;
        if let (Ok(1..), Some(buffer)) = (result, buffer) {
            let len = result.expect("matched above");
            let lease = self.buffers.lease(buffer, len, buffer_more);
            if more {
                self.checks.note(key, socket);
            }
            socket.bulky = if socket.bulky { len >= BULKY_STAYS_BYTES } else { len >= BULKY_BYTES };
            out.push(Completion { token, outcome: Outcome::Received(Received::Data(lease)) });
        } else if let Some(buffer) = buffer {
            self.buffers.unused(buffer, buffer_more);
        }
        match result {
            _ if more => {}
            Ok(0) => end = Some(Received::EndOfStream),
            Ok(_) | Err(Errno::CANCELED | Errno::NOBUFS | Errno::INTR | Errno::AGAIN) if given_up => {
                end = Some(gone);
            }
            // The engine comes first: it may want no more for now. And what was received is sent on while caches have it.
            Ok(1..) if self.sockets.get(key.0).is_some_and(|socket| socket.bulky) => self.put_off(key),
            // The kernel ended the stream for a reason of its own: it goes on.
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => self.arm_receive(key),
            Err(Errno::NOBUFS) => {
                self.put_off(key);
                self.ran_out = true;
            }
            Err(errno) => end = Some(Received::Failed(errno::fault(errno))),
        }
        if let Some(end) = end {
            out.push(Completion { token, outcome: Outcome::Received(end) });
        }
        if !more {
            self.finish_close(key);
        }
    }

    /// A receive is armed by the next wait, if there is a buffer.
    fn put_off(&mut self, key: SocketKey) {
        let socket = self.sockets.get_mut(key.0).expect("a slot is not freed while a receive is in flight");
        socket.receiving = Receiving::Starved;
        self.starved.push_back(key);
    }

    fn sent(&mut self, key: SocketKey, result: i32, out: &mut Vec<Completion>) {
        self.end_send(key, outcome(result).map(|count| count as usize), out);
    }

    fn end_send(&mut self, key: SocketKey, result: Result<usize, Errno>, out: &mut Vec<Completion>) {
        let socket = self.sockets.get_mut(key.0).expect("a slot is not freed while a send is in flight");
        let batch = socket.batch.as_deref_mut().expect("a send completed that was in flight");
        // What is left of it goes as any other: it waits for room.
        batch.set_lazy(false);
        if let Ok(count) = result {
            batch.advance(count);
        }
        let given_up = socket.closing || socket.send_cancelled;
        let outcome = match result {
            _ if batch.remaining() == 0 => Ok(()),
            // A cancelled send may have sent a part: the count is in the batch.
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) if given_up => Err(CANCELLED),
            Ok(1..) | Err(Errno::INTR | Errno::AGAIN) => return self.push_send(key),
            Ok(0) => Err(Fault::of(FaultKind::Other)),
            Err(errno) => Err(errno::fault(errno)),
        };
        let batch = socket.batch.take().expect("looked at above");
        out.push(Completion { token: socket.send_token, outcome: Outcome::Sent(batch, outcome) });
        if socket.closing {
            self.finish_close(key);
        } else if socket.shutdown == Shutdown::Waiting {
            self.push_shutdown(key);
        }
    }

    fn shut_down(&mut self, key: SocketKey, result: i32, out: &mut Vec<Completion>) {
        let socket = self.sockets.get_mut(key.0).expect("a slot is not freed while a shutdown is in flight");
        socket.shutdown = Shutdown::None;
        let result = outcome(result).map(|_| ()).map_err(errno::fault);
        out.push(Completion { token: socket.shutdown_token, outcome: Outcome::ShutDown(result) });
        self.finish_close(key);
    }

    // ---- waiting ----

    /// One call into the kernel, and what is complete after it. True if someone woke us.
    fn turn(&mut self, sleep: Sleep, completions: &mut Vec<Completion>) -> io::Result<bool> {
        let result = match sleep {
            Sleep::Until(end) if self.waker.fall_asleep() => {
                let timeout = end.and_then(|end| self.set_alarm(end));
                self.ring.flush_and_wait(timeout)
            }
            _ => self.ring.flush(),
        };
        let woken = self.waker.awake();
        self.waited_at = Some(Instant::now());
        result?;
        self.ending.note_submitted();
        let queued = self.queued.len().min(COMPLETIONS_MAX);
        if queued > 0 {
            completions.extend(self.queued.drain(..queued));
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        // One entry may be two outcomes: the last data of a receive, and its end.
        self.ring.take(&mut scratch, (COMPLETIONS_MAX - queued) / 2);
        self.end_lazy(&scratch, completions);
        for entry in &scratch {
            self.translate(entry, completions);
        }
        scratch.clear();
        self.scratch = scratch;
        Ok(woken)
    }

    /// The ends of sends that tell only of failure. Whatever the kernel has taken of them has ended, and well if no
    /// completion says otherwise. First of a wait: their memory is used again for what is answered to the others.
    fn end_lazy(&mut self, entries: &[cqueue::Entry], completions: &mut Vec<Completion>) {
        if self.lazy.is_empty() {
            return;
        }
        for entry in entries {
            if Tag::is_lazy_send(entry.user_data()) {
                let (_, key) = Tag::parse(entry.user_data());
                self.sent(SocketKey(key), entry.result(), completions);
            }
        }
        // What the kernel has not taken, or has said and we have not read, is for the next time.
        if !self.ring.is_read_out() {
            return;
        }
        let room = COMPLETIONS_MAX.saturating_sub(completions.len() + 2 * entries.len());
        let mut lazy = std::mem::take(&mut self.lazy);
        for key in lazy.drain(..lazy.len().min(room)) {
            // Not those that failed, and were handed over once more.
            let batch = self.sockets.get(key.0).and_then(|socket| socket.batch.as_deref());
            if let Some(batch) = batch.filter(|batch| batch.is_lazy()) {
                let sent = batch.remaining();
                self.end_send(key, Ok(sent), completions);
            }
        }
        self.lazy_left = !lazy.is_empty();
        self.lazy = lazy;
    }

    /// How a wait goes on that found nothing: it sleeps, or looks around for a while, without a system call until there is
    /// something. What was submitted is handed over first.
    fn sleep_or_look(&mut self, deadline: Option<Instant>) -> Sleep {
        let end = self.end_of_sleep(deadline);
        if !self.spin.goes_on_until(end) {
            return Sleep::Until(end);
        }
        if !self.ring.has_submissions() {
            while !self.ring.has_news() && !self.waker.is_notified() && self.spin.goes_on_until(end) {}
        }
        Sleep::No
    }

    /// Until when a wait may sleep: the caller's deadline, or when the driver itself has something to do.
    fn end_of_sleep(&self, deadline: Option<Instant>) -> Option<Instant> {
        let mut end = deadline;
        for own in [self.retry_at, self.checks.due(), self.ending.due(self.now())] {
            end = match (end, own) {
                (Some(end), Some(own)) => Some(end.min(own)),
                (end, own) => end.or(own),
            };
        }
        end
    }
}

impl Drop for IoUring {
    /// Cancels everything and waits until the kernel has given every buffer back.
    fn drop(&mut self) {
        let builder = types::CancelBuilder::any().all();
        // Silent: a completion of its own would end the wait below, every time.
        let cancel = opcode::AsyncCancel2::new(builder).build().flags(squeue::Flags::SKIP_SUCCESS);
        let cancel = cancel.user_data(Tag::Ignored.plain());
        let until = Instant::now() + JOIN_WAIT;
        while self.ring.owed() > 0 && Instant::now() < until {
            // Again each time: what was cancelled may have been replaced by what was queued behind it.
            // SAFETY: a cancel points at nothing.
            unsafe { self.ring.push_unowed(&cancel) };
            if self.ring.flush_and_wait(Some(Duration::from_millis(100))).is_err() {
                break;
            }
            let mut entries = Vec::new();
            self.ring.take(&mut entries, usize::MAX);
            for entry in entries {
                let (tag, _) = Tag::parse(entry.user_data());
                #[cfg(guard_pages)]
                guarded::refuse_freed(tag, entry.result());
                if tag.is_owed() && !cqueue::more(entry.flags()) {
                    self.ring.settle();
                }
            }
        }
        if self.ring.owed() > 0 {
            // The kernel may still write: memory that is never freed is the lesser evil.
            let keep = (
                std::mem::replace(&mut self.sockets, Slab::new(1)),
                std::mem::replace(&mut self.accepting, Slab::new(1)),
                std::mem::replace(&mut self.files, Slab::new(1)),
                self.buffers.leak(),
            );
            std::mem::forget(keep);
        }
    }
}

/// Whether a call into the kernel may wait.
#[derive(Clone, Copy)]
enum Sleep {
    No,
    /// Without bound for `None`.
    Until(Option<Instant>),
}

/// How long the table of sockets is, which may not be longer than that of the process, and how many sockets the driver
/// takes. A listener is a socket that needs no slot of the table: with one of them, every slot can hold a session.
fn table(sockets_max: u32, open_files_max: u64) -> (u32, u32) {
    let slots = u64::from(sockets_max).min(open_files_max) as u32;
    (slots, sockets_max.min(slots.saturating_add(1)))
}

/// How a receive ends when a check has found its end.
fn ended(end: Result<(), Fault>) -> Received {
    match end {
        Ok(()) => Received::EndOfStream,
        Err(fault) => Received::Failed(fault),
    }
}

const INVALID: Fault = Fault::of(FaultKind::InvalidSocket);
const CANCELLED: Fault = Fault::of(FaultKind::Cancelled);

/// A completion's result: a number, or an error code.
fn outcome(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

impl Driver for IoUring {
    fn kind(&self) -> DriverKind {
        DriverKind::IoUring
    }

    fn listen(&mut self, address: &Address, options: &ListenOptions) -> io::Result<(SocketKey, Address)> {
        let unix_socket::Listening { socket, bound, file } =
            unix_socket::listen(address, options, unix_socket::Mode::Blocking)?;
        // Of Unix sockets the kernel does not say whether more wait.
        let line = if self.accepts_wait_first && matches!(bound, Address::Ip(_)) {
            Line::Known { watched: false, crowded: false }
        } else {
            Line::Unknown
        };
        let (posting, resting) = (Posting::new(), Vec::new());
        let listening = Listening { posting, line, resting, detachable: options.detachable, file };
        let socket = Socket::new(Descriptor::Plain(socket), Some(Box::new(listening)));
        match self.sockets.insert(socket) {
            Ok(key) => Ok((SocketKey(key), bound)),
            Err(_) => Err(Errno::MFILE.into()),
        }
    }

    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<SocketKey, Fault> {
        self.open_to_connect(address, options)
    }

    fn open_file(&mut self, path: &Path, options: &FileOptions) -> io::Result<(FileKey, u64)> {
        self.open_to_append(path, *options)
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Receive { socket } => self.submit_receive(token, socket),
            Op::Send { socket, batch } => self.submit_send(token, socket, batch),
            Op::Shutdown { socket } => self.submit_shutdown(token, socket),
            Op::Close { socket } => self.submit_close(token, socket),
            Op::Accept { listener } => self.submit_accept(token, listener),
            Op::Connect { socket } => self.submit_connect(token, socket),
            Op::Append { file, batch } => self.submit_append(token, file, batch),
            Op::Sync { file } => self.submit_sync(token, file),
            Op::Rotate { file, keep } => self.submit_rotate(token, file, keep),
            Op::CloseFile { file } => self.submit_close_file(token, file),
        }
    }

    fn cancel(&mut self, socket: SocketKey, kind: OpKind) {
        let Some(state) = self.open_socket(socket) else { return };
        match kind {
            OpKind::Receive if state.receiving == Receiving::Cancelling => state.user_cancelled = true,
            OpKind::Receive if state.receiving == Receiving::Armed => {
                state.receiving = Receiving::Cancelling;
                state.user_cancelled = true;
                // SAFETY: a cancel points at nothing.
                unsafe { self.ring.push_unowed(&socket::cancel(Tag::Receive.with(socket.0))) };
                self.ending.note(socket);
            }
            OpKind::Receive => self.give_up_starved(socket),
            OpKind::Send if state.batch.is_some() && !state.send_cancelled => {
                state.send_cancelled = true;
                // SAFETY: a cancel points at nothing.
                unsafe { self.ring.push_unowed(&socket::cancel(Tag::Send.with(socket.0))) };
                self.ending.note(socket);
            }
            _ => {}
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let deadline = match timeout {
            Some(Duration::ZERO) => Some(self.now()),
            // Beyond what the clock can say is without bound.
            Some(timeout) => Instant::now().checked_add(timeout),
            None => None,
        };
        self.wait_until(deadline, completions)
    }

    fn wait_until(&mut self, deadline: Option<Instant>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let before = completions.len();
        let is_due = |now: Instant| deadline.is_some_and(|deadline| deadline <= now);
        loop {
            self.replace_accepts();
            self.retry_accepts();
            self.check_quiet_sockets();
            self.cancel_again();
            self.feed_starved();
            self.collect_rotated();
            let quiet = self.queued.is_empty()
                && !is_due(self.now())
                && !self.ring.has_completions()
                && !self.lazy_left;
            // Of those that were armed now, some may have nothing to receive: then the next ones have their turn.
            let idle = quiet && (self.starved.is_empty() || self.buffers.offered() == 0);
            let sleep = if idle { self.sleep_or_look(deadline) } else { Sleep::No };
            let woken = self.turn(sleep, completions)?;
            let over = !quiet || is_due(self.now());
            // What is left are completions of the driver's own doing, and its own timer.
            let something = woken || completions.len() > before;
            if something || over {
                self.spin.note(something);
                return Ok(());
            }
        }
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.buffers.bytes(lease)
    }

    fn recycle(&mut self, lease: Lease) {
        self.buffers.recycle(lease);
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    #[inline]
    fn now(&self) -> Instant {
        // Until the first wait a shard starts, which may take its time.
        self.waited_at.unwrap_or_else(Instant::now)
    }

    fn detach(&mut self, socket: SocketKey) -> Option<Detached> {
        let state = self.open_socket(socket).filter(|state| state.movable)?;
        let descriptor = match &state.descriptor {
            Descriptor::Direct(slot) => {
                let slot = *slot;
                Some(self.install(slot).ok()?)
            }
            Descriptor::Plain(_) => None,
        };
        let state = self.sockets.remove(socket.0)?;
        match (descriptor, state.descriptor) {
            (Some(plain), Descriptor::Direct(slot)) => {
                // SAFETY: a close points at nothing; the socket lives on in the plain descriptor.
                unsafe { self.ring.push_unowed(&socket::close_direct(slot)) };
                // Now: as long as the slot is there, a close of the descriptor ends nothing.
                self.ring.flush().ok()?;
                Some(Detached(DetachedSocket::Descriptor(plain)))
            }
            (_, Descriptor::Plain(plain)) => Some(Detached(DetachedSocket::Descriptor(plain))),
            (None, Descriptor::Direct(_)) => unreachable!("installed above"),
        }
    }

    fn adopt(&mut self, detached: Detached) -> Option<SocketKey> {
        let DetachedSocket::Descriptor(fd) = detached.0 else { return None };
        // Operations on a non-blocking socket would fail instead of waiting.
        rustix::io::ioctl_fionbio(&fd, false).ok()?;
        let socket = Socket { movable: true, ..Socket::new(Descriptor::Plain(fd), None) };
        self.sockets.insert(socket).ok().map(SocketKey)
    }

    fn sockets(&self) -> usize {
        self.sockets.len()
    }

    fn files(&self) -> usize {
        self.files.len()
    }

    fn leases_out(&self) -> usize {
        self.buffers.leases_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_its_first_wait_its_time_is_the_clocks() {
        let mut driver = IoUring::new(DriverConfig { sockets_max: 8, ..DriverConfig::DEFAULT }).unwrap();
        let clock = Instant::now();
        assert!(driver.now() >= clock);
        driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        let waited_at = driver.now();
        assert!(waited_at >= clock);
        while Instant::now() == waited_at {}
        assert_eq!(driver.now(), waited_at, "the clock is read once a turn");
    }

    #[test]
    fn a_listener_takes_no_slot_from_a_session() {
        assert_eq!(table(100_016, 20_000), (20_000, 20_001));
        assert_eq!(table(64, 20_000), (64, 64), "no more sockets than were asked for");
        assert_eq!(table(64, u64::MAX), (64, 64));
    }
}
