//! Reaching sessions from outside their shard.
//!
//! | to | look at |
//! |---|---|
//! | run something there | [`post`](Remote::post) and its kin (`post.rs`) |
//! | get an answer back | [`ask`](Remote::ask) and its kin (`ask.rs`) |
//! | tell a group | [`publish`](Remote::publish) (`groups.rs`) |
//! | see and end sessions | [`sessions`](Remote::sessions), [`close`](Remote::close) (`list.rs`) |
//!
//! Below them, `mailbox.rs` is what a shard takes its jobs from, and `room.rs` bounds it.

mod answer;
mod ask;
mod groups;
mod list;
mod mailbox;
mod post;
mod room;

use std::sync::Arc;

pub use answer::{Answer, Answers, AskError};
pub(crate) use mailbox::{Inbox, Job, Mail, Mailbox, mailbox};
pub use post::PostError;

use crate::{dialing::Places, group::Registry, handler::Handler, recent::Recent};

/// Posts jobs to a service's shards and sessions from any thread. Cheap to clone; the only part of the API
/// that leaves its shard.
pub struct Remote<H: Handler> {
    pub(crate) shards: Arc<[Mail<H>]>,
    groups: Arc<Registry>,
    /// Room for connections that a client is told to open.
    pub(crate) places: Arc<Places>,
    /// The sessions that ended last, of each shard.
    recent: Arc<[Arc<Recent>]>,
}

impl<H: Handler> Clone for Remote<H> {
    fn clone(&self) -> Self {
        let Self { shards, groups, places, recent } = self;
        Self {
            shards: Arc::clone(shards),
            groups: Arc::clone(groups),
            places: Arc::clone(places),
            recent: Arc::clone(recent),
        }
    }
}

impl<H: Handler> Remote<H> {
    pub(crate) fn new(
        shards: Vec<Mail<H>>,
        groups: Arc<Registry>,
        places: Arc<Places>,
        recent: Vec<Arc<Recent>>,
    ) -> Self {
        Self { shards: shards.into(), groups, places, recent: recent.into() }
    }

    /// Shards of the engine.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }
}
