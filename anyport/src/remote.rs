//! Reaching sessions from outside their shard.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, Sender, channel},
    },
};

use anyport_core::SessionId;
use anyport_driver::{Detached, Waker};

use crate::{
    handler::Handler,
    session::{Session, Shard},
};

type SessionJob<H> = Box<dyn FnOnce(&mut H, &mut Session<'_, H>) + Send>;
type ShardJob<H> = Box<dyn FnOnce(&mut H, &mut Shard<'_, H>) + Send>;

/// What comes into a shard from outside.
pub(crate) enum Job<H: Handler> {
    Session(SessionId, SessionJob<H>),
    Shard(ShardJob<H>),
    /// A connection that another shard accepted.
    Adopt(Detached, SocketAddr),
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
    pub(crate) receiver: Receiver<Job<H>>,
    pub(crate) waker: Arc<OnceLock<Waker>>,
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
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
        sent
    }
}

/// Posts jobs to a service's shards and sessions from any thread. Cheap to clone; the only part of the API
/// that leaves its shard.
pub struct Remote<H: Handler> {
    pub(crate) shards: Arc<[Mail<H>]>,
}

impl<H: Handler> Clone for Remote<H> {
    fn clone(&self) -> Self {
        Self { shards: Arc::clone(&self.shards) }
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
}
