//! Running something on another thread's shard.

use std::{fmt, sync::Arc};

use anyport_core::SessionId;

use super::{Mail, Remote, mailbox::Job};
use crate::{
    handler::Handler,
    session::{Session, Shard},
};

/// Why a job was not accepted. It was dropped, and does not run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum PostError {
    /// As many jobs are waiting for that shard as [`mailbox_max_jobs`](crate::Limits::mailbox_max_jobs) allows.
    Full,
    /// That shard has ended, or there is none with this number.
    Ended,
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the shard's mailbox is full: post again later, or raise mailbox_max_jobs",
            Self::Ended => "the shard has ended, or there is none with this number",
        })
    }
}

impl std::error::Error for PostError {}

/// # Posting
/// A job that is accepted (`Ok`) runs before its shard ends, on its session or, if that has gone, not at all. Jobs of
/// one poster to one shard run in the order in which they were posted, between the events of a turn, and their
/// effects are those of any callback. A job that panics costs the session that it was for.
///
/// A mailbox holds [`mailbox_max_jobs`](crate::Limits::mailbox_max_jobs). When it is full, `post` and its kin wait
/// until the shard has taken some; `try_post` and its kin never wait. On the thread of a shard, of whichever engine,
/// waiting could mean waiting for oneself: there `post` does as `try_post`; so it does before the engine has started,
/// and beside a [simulated engine](crate::sim).
impl<H: Handler> Remote<H> {
    /// Runs `job` on the session's own shard, between its other events. A stale id runs nothing. Waits while the
    /// mailbox is full.
    ///
    /// # Errors
    /// If the shard has ended; or if the mailbox is full where waiting could dead-lock.
    pub fn post(
        &self,
        id: SessionId,
        job: impl FnOnce(&mut H, &mut Session<'_, H>) + Send + 'static,
    ) -> Result<(), PostError> {
        self.mail(id.shard() as usize)?.post(Job::Session(id, Box::new(job)))
    }

    /// As [`post`](Self::post), and never waits.
    ///
    /// # Errors
    /// If the shard has ended, or the mailbox is full.
    pub fn try_post(
        &self,
        id: SessionId,
        job: impl FnOnce(&mut H, &mut Session<'_, H>) + Send + 'static,
    ) -> Result<(), PostError> {
        self.mail(id.shard() as usize)?.try_post(Job::Session(id, Box::new(job)))
    }

    /// Runs `job` on a shard. Waits while the mailbox is full.
    ///
    /// # Errors
    /// If there is no such shard or it has ended; or if the mailbox is full where waiting could dead-lock.
    pub fn post_to_shard(
        &self,
        shard: usize,
        job: impl FnOnce(&mut H, &mut Shard<'_, H>) + Send + 'static,
    ) -> Result<(), PostError> {
        self.mail(shard)?.post(Job::Shard(Box::new(job)))
    }

    /// As [`post_to_shard`](Self::post_to_shard), and never waits.
    ///
    /// # Errors
    /// If there is no such shard, it has ended, or the mailbox is full.
    pub fn try_post_to_shard(
        &self,
        shard: usize,
        job: impl FnOnce(&mut H, &mut Shard<'_, H>) + Send + 'static,
    ) -> Result<(), PostError> {
        self.mail(shard)?.try_post(Job::Shard(Box::new(job)))
    }

    /// Runs `job` on every shard, once each. Waits while a mailbox is full.
    ///
    /// # Errors
    /// The first one. The job is posted to the other shards all the same.
    pub fn post_to_all(
        &self,
        job: impl Fn(&mut H, &mut Shard<'_, H>) + Send + Sync + 'static,
    ) -> Result<(), PostError> {
        let job = Arc::new(job);
        let post = |mail: &Mail<H>| {
            let job = Arc::clone(&job);
            mail.post(Job::Shard(Box::new(move |handler, shard| job(handler, shard))))
        };
        self.shards.iter().map(post).fold(Ok(()), Result::and)
    }

    /// Jobs that were refused because a mailbox was full, over all shards.
    pub fn jobs_refused(&self) -> u64 {
        self.shards.iter().map(Mail::refused).sum()
    }

    pub(super) fn mail(&self, shard: usize) -> Result<&Mail<H>, PostError> {
        self.shards.get(shard).ok_or(PostError::Ended)
    }
}
