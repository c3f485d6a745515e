//! One service on one shard: completions in, handler calls, actions out.

mod call;
mod come;
mod deadlines;
mod dial;
mod drain;
mod end;
mod files;
mod flush;
mod jobs;
mod offline;
mod offload;
mod receive;
mod timers;
mod turns;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use anyport_core::{
    ChunkPool, CloseReason, Codec, FaultKind, Limits, SessionId, Slab, SlabKey, TimerWheel,
    connection::ReceiveEnd,
    planted::{Bug, planted},
    wheel,
};
use anyport_driver::{Address, Completion, Driver, Op, Outcome, Received, SocketKey, Token};

pub(crate) use offline::OfflineService;

use crate::{
    admission::Live,
    append_file::Files,
    audit::Audit,
    budget::Purse,
    counters::{Counters, Published},
    dialing::{Dialing, Places},
    error::{Error, Result},
    group::{GroupTable, Registry},
    handler::Handler,
    log_limit::LogLimit,
    offload::{Desk, Offloads},
    recent::Recent,
    remote::{Inbox, Mail},
    service::Role,
    session::{Backlogs, Local, Rules, TimerEvent, TimerTable},
    stop::Stop,
};

/// Slot index in the token of a listener: no session has it.
const LISTENER_INDEX: u32 = (1 << 24) - 1;

/// Service in the top byte, then slot index and generation: enough to find the session of a completion.
fn token(service: u8, key: SlabKey) -> Token {
    Token(u64::from(service) << 56 | u64::from(key.index) << 32 | u64::from(key.generation))
}

/// The service that a completion is for.
pub(crate) fn service_of(token: Token) -> usize {
    (token.0 >> 56) as usize
}

fn slot_of(token: Token) -> SlabKey {
    SlabKey { index: (token.0 >> 32) as u32 & LISTENER_INDEX, generation: token.0 as u32 }
}

/// A service on a shard, for the shard's loop: one virtual call per event enters here, below it everything is
/// concrete.
pub(crate) trait ServiceOnShard<D: Driver> {
    fn start(&mut self, io: &mut D) -> Result<Option<Address>>;
    fn set_now(&mut self, now: Instant);
    fn complete(&mut self, io: &mut D, completion: Completion);
    /// True if more jobs are waiting than one turn takes.
    fn run_jobs(&mut self, io: &mut D) -> bool;
    /// `stalled` tells that the shard could have no turn for a while.
    fn fire_timers(&mut self, stalled: bool);
    fn flush(&mut self, io: &mut D);
    /// When it has something to do by itself; possibly before the last turn.
    fn next_timer(&self) -> Option<Instant>;
    fn drain(&mut self, io: &mut D);
    fn abort(&mut self);
    fn is_finished(&self) -> bool;
    /// Takes no more jobs. True once all that were accepted have run.
    fn end_jobs(&mut self) -> bool;
    fn publish(&mut self);
    fn audit(&self) -> Audit;
}

/// What a service needs to come to life on a shard.
pub(crate) struct Birth<H: Handler> {
    pub(crate) handler: H,
    pub(crate) codec: H::Codec,
    pub(crate) limits: Limits,
    pub(crate) role: Role,
    pub(crate) shard: u8,
    pub(crate) service: u8,
    pub(crate) stop: Stop,
    pub(crate) jobs: Inbox<H>,
    /// Shards that this one hands accepted connections to; empty if each shard accepts its own.
    pub(crate) hand_to: Vec<Mail<H>>,
    /// Every shard's mailbox.
    pub(crate) mails: Vec<Mail<H>>,
    pub(crate) groups: Arc<Registry>,
    pub(crate) purse: Purse,
    /// Where work is handed to the pool.
    pub(crate) desk: Arc<Desk>,
    pub(crate) live: Arc<Live>,
    pub(crate) places: Arc<Places>,
    pub(crate) published: Arc<Published>,
    /// What waits before connecting again are drawn from.
    pub(crate) seed: u64,
    /// How many shards there are.
    pub(crate) shards: usize,
    pub(crate) recent: Arc<Recent>,
    pub(crate) now: Instant,
}

pub(crate) struct ServiceShard<H: Handler> {
    handler: H,
    local: Local<H>,
    role: Role,
    listener: Option<SocketKey>,
    jobs: Inbox<H>,
    hand_to: Vec<Mail<H>>,
    next_hand: usize,
    /// Sessions of the service over all shards.
    live: Arc<Live>,
    fired: Vec<TimerEvent>,
    /// Empty, with the room of the sessions that were flushed last: `Local::dirty` of the next pass.
    settled: Vec<SlabKey>,
    frame_size_max: usize,
    idle_ticks: u64,
    /// Deadlines and rates, if there are any.
    rules: Option<Box<Rules>>,
    /// Number of this turn.
    turn: u16,
    /// Sessions that had more than the last turn took, first in, first out.
    ready: VecDeque<SlabKey>,
    /// Somebody waits for the end of a send that the driver may leave for later: the next wait must not sleep.
    held_up: bool,
    /// After a stall, nobody misses a deadline before this tick.
    grace_until: u64,
    /// No other grace begins before this tick.
    no_grace_until: u64,
    ending: bool,
    /// Nothing is waited for any more.
    aborted: bool,
    closed_changed: bool,
    log_limit: LogLimit,
    published: Arc<Published>,
    /// Sessions that ended last.
    recent: Arc<Recent>,
}

impl<H: Handler> ServiceShard<H> {
    pub(crate) fn new(birth: Birth<H>) -> Self {
        let Birth { handler, codec, limits, role, shard, service, stop, jobs, .. } = birth;
        let Birth { hand_to, mails, groups, purse, desk, live, places, published, recent, .. } = birth;
        let Birth { seed, shards, now, .. } = birth;
        let mut pool = ChunkPool::new();
        pool.set_allowance(purse.allowance());
        let dialing = match &role {
            Role::Client(orders) => {
                let at = (shard as usize, shards);
                Some(Box::new(Dialing::new(orders.clone(), places, at, seed, now)))
            }
            Role::Server { .. } => None,
        };
        Self {
            handler,
            frame_size_max: codec.frame_size_max(),
            rules: Rules::of(&limits),
            turn: 0,
            ready: VecDeque::new(),
            held_up: false,
            grace_until: 0,
            no_grace_until: 0,
            idle_ticks: limits.idle_timeout.map_or(0, wheel::ticks_up),
            local: Local {
                sessions: Slab::new(SessionId::INDEX_MAX),
                dirty: Vec::new(),
                scratch: Vec::new(),
                backlogs: Backlogs::default(),
                pool,
                wheel: TimerWheel::new(),
                timers: TimerTable::default(),
                timers_set: 0,
                files: Files::new(),
                limits,
                groups: GroupTable::new(groups, &codec),
                codec,
                counters: Counters::default(),
                started: now,
                now,
                tick: 0,
                shard,
                service,
                stop,
                mails,
                purse,
                fattest: None,
                dialing,
                offloads: Offloads::new(desk),
            },
            role,
            listener: None,
            jobs,
            hand_to,
            next_hand: 0,
            live,
            fired: Vec::new(),
            ending: false,
            aborted: false,
            settled: Vec::new(),
            closed_changed: true,
            log_limit: LogLimit::default(),
            published,
            recent,
        }
    }

    fn listener_token(&self) -> Token {
        token(self.local.service, SlabKey { index: LISTENER_INDEX, generation: 0 })
    }

    pub(super) fn for_each_key(&mut self, mut each: impl FnMut(&mut Self, SlabKey)) {
        for index in 0..self.local.sessions.index_end() {
            if let Some((key, _)) = self.local.sessions.at_mut(index) {
                each(self, key);
            }
        }
    }

    /// True if the service has ended: nothing of it is left but files.
    pub(super) fn is_over_but_for_files(&self) -> bool {
        self.ending && self.listener.is_none() && self.local.sessions.is_empty()
    }

    /// True if this shard is one that listens.
    pub(super) fn accepts(&self) -> bool {
        matches!(self.role, Role::Server { .. }) && (self.hand_to.is_empty() || self.local.shard == 0)
    }
}

impl<D: Driver, H: Handler> ServiceOnShard<D> for ServiceShard<H> {
    fn start(&mut self, io: &mut D) -> Result<Option<Address>> {
        self.call_shard(Handler::on_start);
        match self.role.clone() {
            Role::Server { address, listen } => {
                if !self.accepts() {
                    return Ok(None);
                }
                let (listener, bound) =
                    io.listen(&address, &listen).map_err(|source| Error::Listen { address, source })?;
                self.listener = Some(listener);
                io.submit(self.listener_token(), Op::Accept { listener });
                Ok(Some(bound))
            }
            Role::Client(_) => {
                self.dial(io);
                Ok(None)
            }
        }
    }

    fn set_now(&mut self, now: Instant) {
        self.local.set_now(now);
        self.held_up = false;
        self.turn = self.turn.wrapping_add(1);
    }

    fn complete(&mut self, io: &mut D, Completion { token, outcome }: Completion) {
        let key = slot_of(token);
        match outcome {
            Outcome::Received(Received::Data(lease)) => self.received(io, key, lease),
            Outcome::Sent(batch, result) => self.sent(key, batch, result),
            Outcome::Received(Received::EndOfStream) => self.receive_ended(key, ReceiveEnd::EndOfStream),
            Outcome::Received(Received::Failed(fault)) => self.receive_ended(key, ReceiveEnd::Failed(fault)),
            Outcome::Accepted(accepted) => self.accepted(io, accepted),
            Outcome::Connected(result) => self.connected(key, result),
            Outcome::AcceptFaulted(fault) => {
                self.local.counters.accept_faults += 1;
                if planted(Bug::DeafAfterEarlyReset) && fault.kind == FaultKind::PeerReset {
                    self.listener = None;
                }
                let text = || format!("cannot accept for the moment: {fault}");
                self.log_limit.note(self.local.now, text);
            }
            Outcome::ShutDown(Err(_)) if planted(Bug::ShutdownFaultDropped) => {}
            Outcome::ShutDown(_) => {
                self.local.slot(key).connection.handle_shut_down();
                self.local.mark(key);
            }
            Outcome::Closed(_) if key.index == LISTENER_INDEX => {}
            Outcome::Closed(_) => {
                self.local.slot(key).connection.handle_closed();
                self.local.mark(key);
            }
            Outcome::AcceptEnded(_) => self.listener = None,
            Outcome::Appended(batch, result) => self.appended(key, batch, result),
            Outcome::Synced(result) => self.synced(key, result),
            Outcome::Rotated(result) => self.rotated(key, result),
            Outcome::FileClosed(_) => self.file_closed(key),
        }
    }

    fn run_jobs(&mut self, io: &mut D) -> bool {
        self.take_jobs(io)
    }

    fn fire_timers(&mut self, stalled: bool) {
        if stalled {
            self.begin_grace();
        }
        self.advance_wheel();
    }

    fn flush(&mut self, io: &mut D) {
        self.dial(io);
        self.release_ready();
        self.flush_sessions(io);
        if !self.local.files.dirty.is_empty() {
            self.flush_files(io);
            // What handlers did when they were told of files. What they asked of files then waits for the next turn.
            self.flush_sessions(io);
        }
        self.end_files();
    }

    fn next_timer(&self) -> Option<Instant> {
        self.due_at()
    }

    fn drain(&mut self, io: &mut D) {
        self.begin_end(io);
    }

    fn abort(&mut self) {
        self.aborted = true;
        self.hurry_files();
        self.for_each_key(|this, key| {
            this.local.slot(key).connection.abort(CloseReason::Stopped);
            this.local.mark(key);
        });
    }

    fn is_finished(&self) -> bool {
        self.is_over_but_for_files() && self.local.files.are_over()
    }

    fn end_jobs(&mut self) -> bool {
        self.jobs.close()
    }

    fn publish(&mut self) {
        self.local.lower_allowance();
        self.local.counters.turns += 1;
        self.local.counters.jobs_refused = self.jobs.refused();
        self.published.publish(&self.local.counters, std::mem::take(&mut self.closed_changed));
    }

    fn audit(&self) -> Audit {
        Audit::of(&self.local, self.listener.is_some() || self.ending || !self.accepts(), self.ready.len())
    }
}
