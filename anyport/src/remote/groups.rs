//! Groups, from outside.

use anyport_core::Frame;

use super::Remote;
use crate::{group::GroupInfo, handler::Handler};

/// # Groups
impl<H: Handler> Remote<H> {
    /// Publishes a message to the group of this name, if there is one, as [`Shard::publish`](crate::Shard::publish)
    /// does: on the first shard, so that messages of one poster stay in order. False if the job was
    /// [not accepted](crate::PostError).
    pub fn publish(&self, group: &str, kind: u16, body: &[u8]) -> bool {
        let Some(group) = self.groups.find(group) else { return true };
        let body: Box<[u8]> = body.into();
        let posted = self.post_to_shard(0, move |_, shard| {
            shard.publish(&group, Frame { kind, body: &body });
        });
        posted.is_ok()
    }

    /// The groups that have members, by name, and what went through them.
    pub fn groups(&self) -> Vec<GroupInfo> {
        self.groups.infos()
    }
}
