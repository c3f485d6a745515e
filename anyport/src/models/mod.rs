//! Concurrency models of the engine: loom runs each under every order of events with at most three preemptions.
//!
//! What runs here is the engine itself: its turn, mailboxes, stop, counters and session slots. Only the driver is a
//! model's ([`anyport_driver::model`]). docs/concurrency.md says what each model shows; `bash .ci/loom` runs them.

mod admission;
mod counters;
mod ending;
mod mailbox;
mod room;
mod sharing;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use anyport_core::{CloseReason, Frame, Limits, Raw, SessionId};
use anyport_driver::{
    Driver, ListenOptions,
    model::driver::{Connections, ModelDriver, Notice},
};

use crate::{
    admission::Live,
    budget::Purse,
    counters::{Counters, Published},
    dialing::Places,
    group::Registry,
    handler::Handler,
    logic_pool::PoolConfig,
    offload::Desk,
    recent::Recent,
    remote::{Mail, Mailbox, Remote, mailbox},
    service::{Role, ServiceKind},
    service_shard::{Birth, ServiceShard},
    session::Session,
    shard_loop::ShardLoop,
    stop::Stop,
};

/// What happened to sessions, in order. Not seen by loom: it must not order what it watches.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Event>>>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Opened(SessionId),
    /// A job ran, on this session if it was posted to one.
    Ran(u8, Option<SessionId>),
    Sent,
    /// So many of a poster's jobs were accepted.
    Accepted(usize),
    Closed(SessionId, CloseReason),
}

impl Log {
    fn note(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    fn count(&self, counts: impl Fn(&Event) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| counts(event)).count()
    }

    /// The jobs that ran, in order.
    fn ran(&self) -> Vec<u8> {
        let events = self.0.lock().unwrap();
        events
            .iter()
            .filter_map(|event| if let Event::Ran(job, _) = event { Some(*job) } else { None })
            .collect()
    }

    fn opened(&self) -> usize {
        self.count(|event| matches!(event, Event::Opened(_)))
    }

    /// Each session that opened has closed, once and last.
    fn assert_balanced(&self) {
        let events = self.0.lock().unwrap();
        for event in events.iter() {
            let Event::Opened(id) = *event else { continue };
            let ends =
                events.iter().filter(|event| matches!(event, Event::Closed(closed, _) if *closed == id));
            assert_eq!(ends.count(), 1, "{id} of {events:?}");
        }
    }
}

/// A handler that notes what happens.
struct Probe {
    log: Log,
    kicks: Kicks,
    stops_at: Option<usize>,
}

/// Which sessions the handler throws out as soon as they open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kicks {
    None,
    First,
    All,
}

impl Handler for Probe {
    type State = ();
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        self.log.note(Event::Opened(session.id()));
        if self.kicks == Kicks::All || (self.kicks == Kicks::First && session.id() == first_session()) {
            session.kick(1);
        }
        if self.stops_at.is_some_and(|sessions| self.log.opened() == sessions) {
            session.shard().stop_engine();
        }
    }

    fn on_frame(&mut self, _: &mut Session<Self>, _: Frame) {
        unreachable!("the peers of a model send nothing")
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        self.log.note(Event::Closed(session.id(), reason));
    }
}

/// The id of the first session of the first shard.
fn first_session() -> SessionId {
    SessionId::new(0, 0, anyport_core::SlabKey { index: 0, generation: 1 })
}

/// What a shard of a model meets.
#[derive(Clone, Copy)]
struct Plan {
    notice: Notice,
    /// Peers that connect at once, and then one after the other.
    peers: (usize, usize),
    kicks: Kicks,
    /// The handler stops the engine when so many sessions have opened on all shards.
    stops_at: Option<usize>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { notice: Notice::Always, peers: (0, 0), kicks: Kicks::None, stops_at: None }
    }
}

/// An engine of a model: what its shards share.
struct World {
    stop: Stop,
    live: Arc<Live>,
    mails: Vec<Mail<Probe>>,
    groups: Arc<Registry>,
    mailboxes: Vec<Option<Mailbox<Probe>>>,
    published: Vec<Arc<Published>>,
    connections: Connections,
    log: Log,
    sessions_max: usize,
    /// The first shard accepts for all.
    hands_over: bool,
}

impl World {
    fn new(shards: usize) -> Self {
        Self::with_room(shards, 10)
    }

    /// With mailboxes for so many jobs each.
    fn with_room(shards: usize, jobs_max: usize) -> Self {
        let (mails, mailboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| mailbox(jobs_max)).unzip();
        Self {
            stop: Stop::default(),
            live: Arc::default(),
            mails,
            groups: Registry::new(shards),
            mailboxes: mailboxes.into_iter().map(Some).collect(),
            published: (0..shards).map(|_| Arc::default()).collect(),
            connections: Connections::default(),
            log: Log::default(),
            sessions_max: 10,
            hands_over: false,
        }
    }

    fn remote(&self) -> Remote<Probe> {
        Remote::new(self.mails.clone(), Arc::clone(&self.groups), self.places(), Vec::new())
    }

    /// Nobody is told to connect.
    fn places(&self) -> Arc<Places> {
        Arc::new(Places::new(
            ServiceKind::Server,
            self.sessions_max,
            Arc::clone(&self.live),
            self.mails.len(),
        ))
    }

    /// What the shard's thread is to run, from start to end.
    fn shard(&mut self, shard: usize, plan: Plan) -> impl FnOnce() + Send + 'static {
        let build = self.build(shard, plan);
        move || turn_until_the_end(build())
    }

    /// What makes the shard, on its own thread.
    fn build(
        &mut self,
        shard: usize,
        plan: Plan,
    ) -> impl FnOnce() -> ShardLoop<ModelDriver> + Send + 'static {
        let mailbox = self.mailboxes[shard].take().expect("a shard is built once");
        let hand_to = if self.hands_over { self.mails.clone() } else { Vec::new() };
        let (stop, live, log) = (self.stop.clone(), Arc::clone(&self.live), self.log.clone());
        let published = Arc::clone(&self.published[shard]);
        let (places, shards) = (self.places(), self.mails.len());
        let (mails, groups) = (self.mails.clone(), Arc::clone(&self.groups));
        let (connections, sessions_max) = (self.connections.clone(), self.sessions_max);
        move || {
            let mut driver = ModelDriver::new(plan.notice, &connections, plan.peers.0, plan.peers.1);
            let sent = log.clone();
            driver.on_send(move |batch| {
                let bytes = batch.slices().flatten().copied().collect::<Vec<_>>();
                assert_eq!(bytes, sharing::MESSAGE, "what a session sends");
                sent.note(Event::Sent);
            });
            let service = ServiceShard::new(Birth {
                handler: Probe { log, kicks: plan.kicks, stops_at: plan.stops_at },
                codec: Raw,
                limits: Limits { sessions_max, ..Limits::default() },
                role: Role::Server {
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into(),
                    listen: ListenOptions::default(),
                },
                shard: shard as u8,
                service: 0,
                stop: stop.clone(),
                jobs: mailbox.open(driver.waker()),
                hand_to,
                desk: Arc::new(Desk::with_threads(PoolConfig::default())),
                mails,
                groups,
                purse: Purse::new(Vec::new(), 1),
                live,
                published,
                recent: Arc::new(Recent::new(0)),
                places,
                seed: 0,
                shards,
                now: driver.now(),
            });
            ShardLoop::new(driver, vec![Box::new(service)], stop)
        }
    }

    /// Sessions and connections after the end of every shard.
    fn assert_all_over(&self) {
        self.log.assert_balanced();
        // What is lost keeps its place, too.
        let (opened, closed) = self.connections.counts();
        assert_eq!(opened, closed, "connections that were lost");
        assert_eq!(self.live.now(), 0, "sessions that are still counted");
    }

    /// What the shards counted, as they published it last.
    fn counted(&self) -> Counters {
        let mut sum = Counters::default();
        for published in &self.published {
            sum.add(&published.read());
        }
        sum
    }
}

fn turn_until_the_end(mut shard: ShardLoop<ModelDriver>) {
    shard.start().expect("a model can listen");
    shard.run(0).expect("a model's driver does not fail");
}
