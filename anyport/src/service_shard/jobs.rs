//! What comes from outside the shard.

use anyport_core::{
    SessionId,
    planted::{Bug, planted},
};
use anyport_driver::Driver;

use super::ServiceShard;
use crate::{handler::Handler, remote::Job};

/// Jobs that one turn takes from a mailbox.
const JOBS_MAX: usize = 1024;

impl<H: Handler> ServiceShard<H> {
    pub(super) fn take_jobs<D: Driver>(&mut self, io: &mut D) -> bool {
        let jobs_max = if planted(Bug::JobsLeft) { 1 } else { JOBS_MAX };
        for _ in 0..jobs_max {
            let Some(job) = self.jobs.take() else { return false };
            self.local.counters.jobs += 1;
            match job {
                Job::Session(id, job) => {
                    let id = if planted(Bug::JobForAnother) { self.tenant_of(id) } else { id };
                    if self.is_ours(id) {
                        self.call(id.slot(), job);
                        self.local.mark(id.slot());
                    }
                }
                Job::Shard(job) => self.call_shard(job),
                Job::Edition(edition) => self.local.take_edition(&edition),
                Job::Adopt(detached, peer, place) => self.adopted(io, detached, peer, place),
            }
        }
        self.jobs.give_places_back();
        !planted(Bug::JobsLeft)
    }

    /// True if the id names a session of this service on this shard that has opened and not gone.
    pub(super) fn is_ours(&self, id: SessionId) -> bool {
        id.shard() == self.local.shard
            && id.service() == self.local.service
            && self.local.sessions.get(id.slot()).is_some_and(|slot| slot.opened)
    }

    /// Whoever has the slot now.
    pub(super) fn tenant_of(&mut self, id: SessionId) -> SessionId {
        let tenant = self.local.sessions.at_mut(id.slot().index).map(|(key, _)| key);
        tenant.map_or(id, |key| self.local.id(key))
    }
}
