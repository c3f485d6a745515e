//! What comes from outside the shard.

use anyport_core::{
    SessionId,
    planted::{Bug, planted},
};
use anyport_driver::Driver;

use super::ServiceShard;
use crate::{handler::Handler, remote::Job};

/// Jobs that one turn takes from a mailbox, besides the results of work that was under way when it began.
const JOBS_MAX: usize = 1024;

impl<H: Handler> ServiceShard<H> {
    pub(super) fn take_jobs<D: Driver>(&mut self, io: &mut D) -> bool {
        // What these refuse again waits for the next turn.
        if self.local.offloads.has_refused() {
            for job in self.local.offloads.take_refused() {
                self.run_job(io, job);
            }
        }
        let more = self.take_mail(io);
        more || self.local.offloads.has_refused()
    }

    /// Results are taken as fast as sessions can ask for them, or they would pile up (R38); who asks for more in each of
    /// them gets that in a later turn.
    fn take_mail<D: Driver>(&mut self, io: &mut D) -> bool {
        let mut jobs_left = if planted(Bug::JobsLeft) { 1 } else { JOBS_MAX };
        let mut results_left = if planted(Bug::JobsLeft) { 0 } else { self.local.offloads.under_way() };
        while jobs_left > 0 {
            let Some(job) = self.jobs.take() else { return false };
            let is_result = matches!(job, Job::SessionResult(..) | Job::ShardResult(_));
            if is_result {
                self.local.offloads.take_result();
            }
            let left = if is_result && results_left > 0 { &mut results_left } else { &mut jobs_left };
            *left -= 1;
            self.run_job(io, job);
        }
        self.jobs.give_places_back();
        !planted(Bug::JobsLeft)
    }

    fn run_job<D: Driver>(&mut self, io: &mut D, job: Job<H>) {
        self.local.counters.jobs += 1;
        match job {
            Job::Session(id, job) | Job::SessionResult(id, job) => {
                let id = if planted(Bug::JobForAnother) { self.tenant_of(id) } else { id };
                if self.is_ours(id) {
                    self.call(id.slot(), job);
                    self.local.mark(id.slot());
                }
            }
            Job::Shard(job) | Job::ShardResult(job) => self.call_shard(job),
            Job::Edition(edition) => self.local.take_edition(&edition),
            Job::Adopt(detached, peer, place) => self.adopted(io, detached, peer, place),
        }
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
