//! Reaching sessions from outside their shard.

use std::sync::Arc;

use anyport_core::{Frame, SessionId};
use anyport_driver::{Detached, PeerAddress, Waker};

use crate::{
    dialing::Places,
    group::{EditionOf, GroupInfo, Registry},
    handler::Handler,
    session::{Session, Shard},
    sync::{
        OnceLock,
        atomic::{Ordering, fence},
        mpsc::{Receiver, Sender, channel},
    },
};

type SessionJob<H> = Box<dyn FnOnce(&mut H, &mut Session<'_, H>) + Send>;
type ShardJob<H> = Box<dyn FnOnce(&mut H, &mut Shard<'_, H>) + Send>;

/// What comes into a shard from outside.
pub(crate) enum Job<H: Handler> {
    Session(SessionId, SessionJob<H>),
    Shard(ShardJob<H>),
    /// A connection that another shard accepted.
    Adopt(Detached, PeerAddress),
    /// What another shard published to groups that have members here.
    Edition(Box<EditionOf>),
}

/// The sending end of one shard's mailbox.
pub(crate) struct Mail<H: Handler> {
    sender: Sender<Job<H>>,
    /// Set once the shard has its driver.
    waker: Arc<OnceLock<Waker>>,
}

impl<H: Handler> Clone for Mail<H> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waker: Arc::clone(&self.waker) }
    }
}

/// The receiving end, until the shard takes it.
pub(crate) struct Mailbox<H: Handler> {
    receiver: Receiver<Job<H>>,
    waker: Arc<OnceLock<Waker>>,
}

impl<H: Handler> Mailbox<H> {
    /// The shard takes it: whoever posts from now on wakes its driver. What was posted before is there for the first
    /// look, which the shard must take without sleeping.
    pub(crate) fn open(self, waker: Waker) -> Receiver<Job<H>> {
        let _ = self.waker.set(waker);
        // With the fence of whoever finds no waker: either it finds one at its second look, or our first look finds
        // its job. Without both, each may miss the other (the model L1).
        fence(Ordering::SeqCst);
        self.receiver
    }
}

pub(crate) fn mailbox<H: Handler>() -> (Mail<H>, Mailbox<H>) {
    let (sender, receiver) = channel();
    let waker = Arc::new(OnceLock::new());
    (Mail { sender, waker: Arc::clone(&waker) }, Mailbox { receiver, waker })
}

impl<H: Handler> Mail<H> {
    /// False if the shard has ended.
    pub(crate) fn send(&self, job: Job<H>) -> bool {
        let sent = self.sender.send(job).is_ok();
        match self.waker.get() {
            Some(waker) => waker.wake(),
            None => self.wake_if_just_opened(),
        }
        sent
    }

    /// The shard is starting: it may be opening its mailbox at this moment.
    #[cold]
    fn wake_if_just_opened(&self) {
        fence(Ordering::SeqCst);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// Posts jobs to a service's shards and sessions from any thread. Cheap to clone; the only part of the API
/// that leaves its shard.
pub struct Remote<H: Handler> {
    pub(crate) shards: Arc<[Mail<H>]>,
    pub(crate) groups: Arc<Registry>,
    /// Room for connections that a client is told to open.
    pub(crate) places: Arc<Places>,
}

impl<H: Handler> Clone for Remote<H> {
    fn clone(&self) -> Self {
        let shards = Arc::clone(&self.shards);
        Self { shards, groups: Arc::clone(&self.groups), places: Arc::clone(&self.places) }
    }
}

impl<H: Handler> Remote<H> {
    /// Shards of the engine.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Runs `job` on the session's own shard, between its other events. A stale id runs nothing. Jobs of one
    /// poster to one shard run in the order in which they were posted.
    ///
    /// False if the engine has ended; true does not promise that the session is still there.
    pub fn post(
        &self,
        id: SessionId,
        job: impl FnOnce(&mut H, &mut Session<'_, H>) + Send + 'static,
    ) -> bool {
        self.shards.get(id.shard() as usize).is_some_and(|shard| shard.send(Job::Session(id, Box::new(job))))
    }

    /// Runs `job` on a shard. False if there is no such shard or the engine has ended.
    pub fn post_to_shard(
        &self,
        shard: usize,
        job: impl FnOnce(&mut H, &mut Shard<'_, H>) + Send + 'static,
    ) -> bool {
        self.shards.get(shard).is_some_and(|shard| shard.send(Job::Shard(Box::new(job))))
    }

    /// Publishes a message to the group of this name, if there is one, as [`Shard::publish`] does: on the first shard, so
    /// that messages of one poster stay in order. False if the engine has ended.
    pub fn publish(&self, group: &str, kind: u16, body: &[u8]) -> bool {
        let Some(group) = self.groups.find(group) else { return true };
        let body: Box<[u8]> = body.into();
        self.post_to_shard(0, move |_, shard| {
            shard.publish(&group, Frame { kind, body: &body });
        })
    }

    /// The groups that have members, by name, and what went through them.
    pub fn groups(&self) -> Vec<GroupInfo> {
        self.groups.infos()
    }
}
