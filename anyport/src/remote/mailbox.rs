//! A shard's mailbox: what comes from other threads, in the order in which each of them sent it.

use std::sync::Arc;

use anyport_core::SessionId;
use anyport_driver::{Detached, PeerAddress, Waker};

use super::{post::PostError, room::Room};
use crate::{
    admission::PlaceTaken,
    group::EditionOf,
    handler::Handler,
    on_shard,
    session::{Session, Shard},
    sync::{
        OnceLock,
        atomic::{Ordering, fence},
        mpsc::{Receiver, Sender, channel},
    },
};

pub(crate) type SessionJob<H> = Box<dyn FnOnce(&mut H, &mut Session<'_, H>) + Send>;
pub(crate) type ShardJob<H> = Box<dyn FnOnce(&mut H, &mut Shard<'_, H>) + Send>;

/// Jobs that a shard takes before it tells those who wait for room.
const TAKEN_AT_ONCE: usize = 64;

/// What comes into a shard from outside.
pub(crate) enum Job<H: Handler> {
    Session(SessionId, SessionJob<H>),
    Shard(ShardJob<H>),
    /// What came of work that a session offloaded, or a shard.
    SessionResult(SessionId, SessionJob<H>),
    ShardResult(ShardJob<H>),
    /// A connection that another shard accepted, and its place.
    Adopt(Detached, PeerAddress, PlaceTaken),
    /// What another shard published to groups that have members here.
    Edition(Arc<EditionOf>),
}

/// A job on its way.
struct Letter<H: Handler> {
    job: Job<H>,
    /// It has a place in the mailbox's room, which the shard gives back.
    has_place: bool,
}

/// The sending end of one shard's mailbox.
pub(crate) struct Mail<H: Handler> {
    sender: Sender<Letter<H>>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Set once the shard has its driver.
    waker: OnceLock<Waker>,
    room: Room,
}

impl<H: Handler> Clone for Mail<H> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), shared: Arc::clone(&self.shared) }
    }
}

/// The receiving end, until the shard takes it.
pub(crate) struct Mailbox<H: Handler> {
    receiver: Receiver<Letter<H>>,
    shared: Arc<Shared>,
}

/// A mailbox for `jobs_max` posted jobs. What shards send each other takes no place in it.
pub(crate) fn mailbox<H: Handler>(jobs_max: usize) -> (Mail<H>, Mailbox<H>) {
    let (sender, receiver) = channel();
    let shared = Arc::new(Shared { waker: OnceLock::new(), room: Room::new(jobs_max) });
    (Mail { sender, shared: Arc::clone(&shared) }, Mailbox { receiver, shared })
}

impl<H: Handler> Mailbox<H> {
    /// The shard takes it: whoever posts from now on wakes its driver. What was posted before is there for the first
    /// look, which the shard must take without sleeping.
    pub(crate) fn open(self, waker: Waker) -> Inbox<H> {
        let _ = self.shared.waker.set(waker);
        // With the fence of whoever finds no waker: either it finds one at its second look, or our first look finds
        // its job. Without both, each may miss the other (the model L1).
        fence(Ordering::SeqCst);
        Inbox { receiver: self.receiver, shared: self.shared, taken: 0, closed: false }
    }
}

impl<H: Handler> Mail<H> {
    /// For what the engine itself sends: it takes no place and is never refused. False if the shard has ended.
    pub(crate) fn send(&self, job: Job<H>) -> bool {
        self.deliver(Letter { job, has_place: false })
    }

    /// For what users post: refused if there is no room.
    pub(crate) fn try_post(&self, job: Job<H>) -> Result<(), PostError> {
        self.shared.room.take_place()?;
        self.deliver_placed(job)
    }

    /// As [`try_post`](Self::try_post), and waits for room where that cannot dead-lock: not on a shard's thread, and
    /// not before there is a shard that could make room.
    pub(crate) fn post(&self, job: Job<H>) -> Result<(), PostError> {
        if on_shard::is_here() || self.shared.waker.get().is_none() {
            return self.try_post(job);
        }
        self.shared.room.wait_for_place()?;
        self.deliver_placed(job)
    }

    /// Posted jobs that were refused for want of room.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.room.refused()
    }

    fn deliver_placed(&self, job: Job<H>) -> Result<(), PostError> {
        // A shard that ends in order takes all that has a place: this fails only if it was lost in a panic.
        if self.deliver(Letter { job, has_place: true }) { Ok(()) } else { Err(PostError::Ended) }
    }

    fn deliver(&self, letter: Letter<H>) -> bool {
        let sent = self.sender.send(letter).is_ok();
        match self.shared.waker.get() {
            Some(waker) => waker.wake(),
            None => self.wake_if_just_opened(),
        }
        sent
    }

    /// The shard is starting: it may be opening its mailbox at this moment.
    #[cold]
    fn wake_if_just_opened(&self) {
        fence(Ordering::SeqCst);
        if let Some(waker) = self.shared.waker.get() {
            waker.wake();
        }
    }
}

/// The shard's end of its mailbox.
pub(crate) struct Inbox<H: Handler> {
    receiver: Receiver<Letter<H>>,
    shared: Arc<Shared>,
    /// Places of jobs that were taken, and not given back yet.
    taken: usize,
    closed: bool,
}

impl<H: Handler> Inbox<H> {
    /// The next job, if there is one.
    pub(crate) fn take(&mut self) -> Option<Job<H>> {
        let Ok(letter) = self.receiver.try_recv() else {
            self.give_places_back();
            return None;
        };
        self.taken += usize::from(letter.has_place);
        if self.taken >= TAKEN_AT_ONCE {
            self.give_places_back();
        }
        Some(letter.job)
    }

    /// Makes room for as many as were taken. At the end of a turn.
    pub(crate) fn give_places_back(&mut self) {
        if self.taken > 0 {
            self.shared.room.give_back(std::mem::take(&mut self.taken));
        }
    }

    /// Posted jobs that were refused for want of room.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.room.refused()
    }

    /// Takes no more jobs, and says whether all that were accepted before have been taken. If not, one that is
    /// still on its way wakes the shard.
    pub(crate) fn close(&mut self) -> bool {
        if !std::mem::replace(&mut self.closed, true) {
            self.shared.room.close();
        }
        self.give_places_back();
        self.shared.room.is_empty()
    }
}

impl<H: Handler> Drop for Inbox<H> {
    /// Whoever waits for room hears that there is none to come, though the shard ended in a panic.
    fn drop(&mut self) {
        self.close();
    }
}
