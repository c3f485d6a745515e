//! Groups: rooms, topics, everyone who watches one thing.
//!
//! What is published in a turn is encoded once, into a log of the shard's turn. When the turn ends, the log becomes an
//! *edition* that every member's queue refers to: a member who keeps up gets all of a turn's messages in one send,
//! without a copy of them. Members on other shards get the same edition by one message a shard. What a member does not
//! read is held against its own limits, as with any other message.

mod deliver;
mod edition;
mod registry;
mod shard;

use std::{fmt, sync::Arc};

use anyport_core::{Losses, Refusal};

pub(crate) use edition::{Edition, EditionOf};
pub(crate) use registry::Registry;
use registry::Shared;
pub(crate) use shard::{GroupTable, Memberships};

/// A group of sessions of one service, on any of its shards. Cheap to clone; a handle keeps the name, not the members.
///
/// Comes from [`Shard::group`](crate::Shard::group) or [`Remote::group`](crate::Remote::group). A group lives as long as somebody holds a handle or is in it.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
}

impl Group {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Sessions in it, over all shards.
    pub fn members(&self) -> usize {
        self.shared.members()
    }

    /// What an operator wants to know of it.
    pub fn info(&self) -> GroupInfo {
        self.shared.info()
    }
}

impl Group {
    /// # Panics
    /// If it is of another service.
    pub(crate) fn assert_of(&self, registry: &Arc<Registry>) {
        assert!(self.shared.is_of(registry), "group `{}` is of another service", self.name());
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Group {}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name()).field("members", &self.members()).finish()
    }
}

/// A group and what went through it since it was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Sessions in it now, over all shards.
    pub members: usize,
    /// Messages published to it.
    pub published: u64,
    /// Messages queued for its members and not lost since: each message once for each member.
    pub delivered: u64,
    /// Of its messages, those that members were not sent, each once for each member. Whatever they made room for, they are
    /// counted here.
    pub losses: Losses,
}

/// What became of a message to a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// It goes to so many sessions at the end of the turn.
    Members(usize),
    /// To nobody.
    Refused(Refusal),
}
