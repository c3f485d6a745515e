//! Groups, from outside.

use anyport_core::Frame;

use super::{PostError, Remote};
use crate::{
    group::{Group, GroupInfo},
    handler::Handler,
    session::Shard,
};

/// # Groups
impl<H: Handler> Remote<H> {
    /// The group of this name; made if there is none. Keep the handle where messages are published: looking a name up takes
    /// a lock that the shards share.
    pub fn group(&self, name: &str) -> Group {
        self.groups.group(name)
    }

    /// Publishes a message to a group, as [`Shard::publish`](crate::Shard::publish) does: on the first shard, so that
    /// messages of one poster stay in order. Waits while that shard's mailbox is full, as [`post`](Self::post) does. What
    /// the codec cannot carry is counted (`frames_refused`) and goes to nobody.
    ///
    /// # Errors
    /// If the shard has ended; or if the mailbox is full where waiting could dead-lock.
    ///
    /// # Panics
    /// If the group is of another service.
    pub fn publish(&self, group: &Group, kind: u16, body: &[u8]) -> Result<(), PostError> {
        self.post_to_shard(0, self.publishing(group, kind, body))
    }

    /// As [`publish`](Self::publish), and never waits.
    ///
    /// # Errors
    /// If the shard has ended, or the mailbox is full.
    ///
    /// # Panics
    /// If the group is of another service.
    pub fn try_publish(&self, group: &Group, kind: u16, body: &[u8]) -> Result<(), PostError> {
        self.try_post_to_shard(0, self.publishing(group, kind, body))
    }

    fn publishing(
        &self,
        group: &Group,
        kind: u16,
        body: &[u8],
    ) -> impl FnOnce(&mut H, &mut Shard<'_, H>) + Send + use<H> {
        // Here, where it says who is wrong: on the shard it would be a job that panics.
        group.assert_of(&self.groups);
        let (group, body): (_, Box<[u8]>) = (group.clone(), body.into());
        move |_, shard| {
            let _ = shard.publish(&group, Frame { kind, body: &body });
        }
    }

    /// The groups that have members, by name, and what went through them.
    pub fn groups(&self) -> Vec<GroupInfo> {
        self.groups.infos()
    }
}
