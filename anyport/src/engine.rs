//! The engine: services, shards, start and end.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyport_core::{Limits, SessionId, limits::InvalidLimit};
use anyport_driver::{
    Address, Driver, DriverChoice, DriverConfig, DriverKind, SocketOptions, Topology, machine,
    probe::{self, Chosen},
};

use crate::{
    admission::Live,
    budget::Budget,
    counters::{Counters, Published},
    dialing::{Orders, Places},
    error::{Error, Result},
    group::Registry,
    handler::Handler,
    logic_pool::{PoolConfig, PoolCounters},
    offload::Desk,
    placement::{Links, LogicPlan, LogicThread, Placement},
    recent::{Closed, Recent},
    relay_service::RelayTemplate,
    remote::{Mail, Mailbox, Remote, mailbox},
    service::{Client, Role, Server, ServiceKind, resolve},
    shard_loop::ShardLoop,
    stop::{Phase, Stop},
    template::{OnShard, ServiceTemplate, ShardBirth, Template},
};

/// How accepted connections are spread over the shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Spread {
    /// [`ReusePort`](Self::ReusePort) where the driver can, else [`HandOver`](Self::HandOver).
    #[default]
    Auto,
    /// Every shard listens on the port itself (`SO_REUSEPORT`), and the system chooses one by a hash of the
    /// connection's addresses. Nothing crosses shards. Windows has no such thing.
    ReusePort,
    /// The first shard accepts and hands connections to all in turn: exactly even, at the cost of a hop for
    /// each connection.
    HandOver,
}

impl Spread {
    /// What is done with this driver: never `Auto`.
    pub(crate) fn with(self, driver: DriverKind) -> Result<Self> {
        match (self, driver.shares_ports()) {
            (Self::HandOver, _) | (Self::Auto, false) => Ok(Self::HandOver),
            (Self::Auto | Self::ReusePort, true) => Ok(Self::ReusePort),
            (Self::ReusePort, false) => Err(Error::Spread { driver }),
        }
    }
}

/// An engine being set up. Services are added, then [`run`](Self::run) or [`start`](Self::start) brings it to
/// life.
pub struct Engine {
    pub(crate) shards: usize,
    choice: DriverChoice,
    pub(crate) config: DriverConfig,
    /// The place, in the order in which threads take processors, of the one that the first shard is bound to.
    pin: Option<usize>,
    pub(crate) spread: Spread,
    send_budget: Option<Arc<Budget>>,
    /// Given by the user; without it, the pool is there when it is needed.
    pub(crate) pool: Option<PoolConfig>,
    pub(crate) services: Vec<Service>,
    pub(crate) stop: Stop,
}

pub(crate) struct Service {
    kind: ServiceKind,
    pub(crate) template: Arc<dyn Template>,
    /// It listens at, or connects to, a Unix socket.
    unix: bool,
    /// Logic threads, if its handlers run on some.
    pub(crate) logic: Option<usize>,
    pub(crate) published: Vec<Arc<Published>>,
    pub(crate) recent: Vec<Arc<Recent>>,
}

impl Engine {
    /// An engine with one shard for each processor that the process may use.
    ///
    /// # Errors
    /// None at present; later set-up may need the system.
    pub fn new() -> Result<Self> {
        Ok(Self {
            shards: machine::processors().len().clamp(1, SessionId::SHARDS_MAX),
            choice: DriverChoice::Auto,
            config: DriverConfig::default(),
            pin: None,
            spread: Spread::default(),
            send_budget: None,
            pool: None,
            services: Vec::new(),
            stop: Stop::default(),
        })
    }

    /// How many shards, each with a thread of its own: 1 to 256. Set it before services are added.
    ///
    /// # Errors
    /// If the number is out of range.
    ///
    /// # Panics
    /// If a service was added already: its shards exist.
    pub fn shards(mut self, shards: usize) -> Result<Self> {
        assert!(self.services.is_empty(), "set the number of shards before adding services");
        if !(1..=SessionId::SHARDS_MAX).contains(&shards) {
            return Err(Error::Shards { shards });
        }
        self.shards = shards;
        Ok(self)
    }

    /// Most bytes that the send queues of all sessions of all services may hold together, from 64 KiB. When they are used
    /// up, those sessions of the service and shard that needs room are closed (`SendBudget`) that read least, in favour of
    /// its others. Without it, only the limits of sessions and services hold. Set it before services are added.
    ///
    /// # Errors
    /// If it is out of range.
    ///
    /// # Panics
    /// If a service was added already.
    pub fn send_budget(mut self, bytes: usize) -> Result<Self> {
        assert!(self.services.is_empty(), "set the send budget before adding services");
        if bytes < Limits::SEND_BUDGET_MIN_BYTES {
            let rule = "must be at least 65536";
            return Err(InvalidLimit { limit: "send_budget", rule, value: bytes }.into());
        }
        self.send_budget = Some(Budget::new(bytes));
        Ok(self)
    }

    /// Sizes of the pool that [`Session::offload`](crate::Session::offload) hands work to. Its threads start with the
    /// engine then; without this, they start with the first work, and an engine that offloads nothing has none.
    ///
    /// # Errors
    /// If there are fewer threads than may run at once, or `queue_max` is zero.
    pub fn pool(mut self, config: PoolConfig) -> Result<Self> {
        config.validate()?;
        self.pool = Some(config);
        Ok(self)
    }

    /// Which driver to use. Default: the best that works here.
    pub fn driver(mut self, choice: DriverChoice) -> Self {
        self.choice = choice;
        self
    }

    /// Sizes of each shard's driver.
    pub fn driver_config(mut self, config: DriverConfig) -> Self {
        self.config = config;
        self
    }

    /// How long a shard, or a logic thread, that has nothing to do looks for more before it sleeps: at most 1 ms; zero,
    /// the default, sleeps at once. It does so once after the last event: an engine that is idle sleeps. For messages that
    /// come one at a time, at the cost of a processor's time; see docs/placement.md for what it gains. It is a size of the
    /// driver ([`DriverConfig::spin`]): a later [`driver_config`](Self::driver_config) sets it anew.
    ///
    /// # Errors
    /// If it is longer.
    pub fn spin(mut self, spin: Duration) -> Result<Self> {
        if spin > DriverConfig::SPIN_MAX {
            let value = usize::try_from(spin.as_micros()).unwrap_or(usize::MAX);
            let rule = "(in microseconds) must be from 0 to 1000";
            return Err(InvalidLimit { limit: "spin", rule, value }.into());
        }
        self.config.spin = spin;
        Ok(self)
    }

    /// Asks for receive memory of huge pages (2 MiB), on io_uring: see [`DriverConfig::huge_pages`], which this sets, and
    /// docs/placement.md for what it gained: nothing that was measured. If there are none, a warning says why, and memory is
    /// as without it.
    pub fn huge_pages(mut self, huge_pages: bool) -> Self {
        self.config.huge_pages = huge_pages;
        self
    }

    /// Binds each shard to a processor of those allowed to the process, and logic threads to what is left: one for each
    /// core first, node of memory by node, as `anyport doctor` shows (docs/placement.md). What a shard uses is
    /// allocated by its own thread, on its own node therefore. Where the system does not bind threads, this does nothing,
    /// and a warning says so.
    pub fn pin_shards(mut self, pin: bool) -> Self {
        self.pin = pin.then_some(0);
        self
    }

    /// As [`pin_shards`](Self::pin_shards), but the first shard takes the processor at place `first` in that order: two engines on one machine need not share processors.
    pub fn pin_shards_from(mut self, first: usize) -> Self {
        self.pin = Some(first);
        self
    }

    /// How connections are spread over the shards.
    pub fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// Adds a server. `make` makes the handler of a shard, on that shard's thread; it is given the shard's
    /// number.
    ///
    /// # Errors
    /// If the address is none, a limit is out of range, or there are too many services.
    pub fn serve<H: Handler>(
        mut self,
        server: Server<H::Codec>,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Self> {
        self.add_server(server, make)?;
        Ok(self)
    }

    /// As [`serve`](Self::serve), and gives a handle by which other threads reach the service's sessions.
    ///
    /// # Errors
    /// As for [`serve`](Self::serve).
    pub fn add_server<H: Handler>(
        &mut self,
        server: Server<H::Codec>,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Remote<H>> {
        server.limits.validate()?;
        server.listen.validate()?;
        warn_of_what_is_left_out(&server.address, &server.listen.socket);
        let (kind, address) = if server.offline {
            // A name for the driver of the pipes, which asks for none.
            (ServiceKind::Offline, Address::Unix("offline".into()))
        } else {
            (ServiceKind::Server, resolve(&server.address)?)
        };
        let role = Role::Server { address, listen: server.listen };
        self.add(kind, role, server.placement, server.codec, server.limits, make)
    }

    /// Adds a client.
    ///
    /// # Errors
    /// As for [`serve`](Self::serve).
    pub fn connect<H: Handler>(
        mut self,
        client: Client<H::Codec>,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Self> {
        self.add_client(client, make)?;
        Ok(self)
    }

    /// As [`connect`](Self::connect), and gives a handle by which other threads reach the service's sessions.
    ///
    /// # Errors
    /// As for [`serve`](Self::serve).
    pub fn add_client<H: Handler>(
        &mut self,
        client: Client<H::Codec>,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Remote<H>> {
        client.limits.validate()?;
        client.options.validate()?;
        warn_of_what_is_left_out(&client.addresses.join(", "), &client.options);
        if !client.manual && client.connections > client.limits.sessions_max {
            let rule = "must not be below the client's connections";
            return Err(
                InvalidLimit { limit: "sessions_max", rule, value: client.limits.sessions_max }.into()
            );
        }
        if let Some(backoff) = &client.backoff {
            backoff.validate()?;
        }
        let targets = client.addresses.iter().map(|address| resolve(address)).collect::<Result<Vec<_>>>()?;
        if targets.is_empty() {
            resolve("")?;
        }
        let orders = Orders::of(&client, targets);
        let kind = orders.kind();
        let role = Role::Client(orders);
        self.add(kind, role, client.placement, client.codec, client.limits, make)
    }

    fn add<H: Handler>(
        &mut self,
        kind: ServiceKind,
        role: Role,
        placement: Placement,
        codec: H::Codec,
        limits: Limits,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Remote<H>> {
        if self.services.len() >= SessionId::SERVICES_MAX {
            return Err(Error::TooManyServices);
        }
        let shards = placement.threads(self.shards)?;
        let logic = matches!(placement, Placement::Logic { .. }).then_some(shards);
        let (mails, mailboxes): (Vec<Mail<H>>, Vec<Mailbox<H>>) =
            (0..shards).map(|_| mailbox(limits.mailbox_max_jobs)).unzip();
        let published: Vec<_> = (0..shards).map(|_| Arc::<Published>::default()).collect();
        let groups = Registry::new(shards);
        let of_service = limits.service_queue_max_bytes.map(Budget::new);
        let budgets = of_service.into_iter().chain(self.send_budget.clone()).collect();
        let unix = role.is_unix() && kind != ServiceKind::Offline;
        let live = Arc::<Live>::default();
        let places = Arc::new(Places::new(kind, limits.sessions_max, Arc::clone(&live), shards));
        let recent: Vec<_> = (0..shards).map(|_| Arc::new(Recent::new(limits.recent_closed_max))).collect();
        let template = ServiceTemplate {
            make,
            codec,
            limits,
            role,
            service: self.services.len() as u8,
            shards,
            stop: self.stop.clone(),
            mails: mails.clone(),
            mailboxes: mailboxes.into_iter().map(|mailbox| Mutex::new(Some(mailbox))).collect(),
            groups: Arc::clone(&groups),
            budgets,
            live: Arc::clone(&live),
            places: Arc::clone(&places),
            published: published.clone(),
            recent: recent.clone(),
        };
        self.services.push(Service {
            kind,
            template: Arc::new(template),
            unix,
            logic,
            published,
            recent: recent.clone(),
        });
        Ok(Remote::new(mails, groups, places, recent))
    }

    /// A handle that ends the engine from any thread, before or after it has started.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Runs until the process is [asked to end](crate::on_termination) (the first request drains, a second
    /// aborts), a [`Stop`], or a failure.
    ///
    /// # Errors
    /// As for [`start`](Self::start); or if a shard fails while running.
    #[cfg(feature = "signals")]
    pub fn run(self) -> Result<()> {
        let _while_it_runs = crate::signals::stop_on_termination(&self.stop)?;
        self.start()?.join()
    }

    /// How connections are spread with this driver; an error if a service cannot be had with it, or not so.
    pub(crate) fn spread_with(&self, driver: DriverKind) -> Result<Spread> {
        let listens_at_path = |service: &Service| service.unix && service.kind == ServiceKind::Server;
        if self.services.iter().any(|service| service.unix) && !driver.has_unix_sockets() {
            return Err(Error::UnixSockets { driver });
        }
        if self.spread == Spread::ReusePort && self.shards > 1 && self.services.iter().any(listens_at_path) {
            return Err(Error::UnixReusePort);
        }
        self.spread.with(driver)
    }

    /// Starts the shards. When this returns, every server is listening.
    ///
    /// # Errors
    /// If there is no service, the driver cannot be had or cannot spread connections as asked, an address cannot
    /// be listened on, or a thread, the pool's included, cannot be started. Nothing is left running then.
    pub fn start(self) -> Result<Running> {
        if self.services.is_empty() {
            return Err(Error::NoServices);
        }
        let open_files = machine::raise_open_files();
        let chosen = probe::choose(self.choice, self.config).map_err(Error::Driver)?;
        log::info!("driver {}: {}", chosen.kind, chosen.reason);
        let spread = self.spread_with(chosen.kind)?;
        if self.config.huge_pages
            && let Some(why) = machine::huge_pages_missing(chosen.kind)
        {
            log::warn!("huge pages were asked for, and there are none: {why}");
        }
        log::debug!("open files: {open_files:?}");
        let seed = any_number();
        let (templates, mut logic) = self.place(seed);
        let placing = self.pin.map(|first| Topology::here().place(self.shards, logic.len(), first));
        let hands_over = spread == Spread::HandOver && self.shards > 1;
        let possible = probe::connections_possible(chosen.kind, self.config, self.shards, hands_over);
        let desk = Desk::with_threads(self.pool.unwrap_or_default());
        if self.pool.is_some() {
            desk.start().map_err(Error::Pool)?;
        }
        let mut running = Running {
            chosen,
            spread,
            possible,
            stop: self.stop,
            desk: Arc::new(desk),
            threads: Vec::new(),
            logic: Vec::new(),
            joined: (0, 0),
            addresses: vec![None; templates.len()],
            kinds: self.services.iter().map(|service| service.kind).collect(),
            recent: self.services.iter().map(|service| service.recent.clone()).collect(),
            published: self.services.into_iter().map(|service| service.published).collect(),
        };
        for shard in 0..self.shards {
            let pin = placing.as_ref().and_then(|placing| placing.shards.get(shard).copied());
            let plan = ShardPlan {
                shard,
                kind: running.chosen.kind,
                config: self.config,
                hands_over,
                pin,
                templates: templates.clone(),
                addresses: running.addresses.clone(),
                stop: running.stop.clone(),
                seed,
                desk: Arc::clone(&running.desk),
            };
            match plan.spawn() {
                Ok((thread, addresses)) => {
                    running.threads.push(thread);
                    for (known, bound) in running.addresses.iter_mut().zip(addresses) {
                        *known = known.take().or(bound);
                    }
                }
                Err(error) => {
                    // The shards that run wait for their logic threads: those that will never be say so.
                    drop(logic);
                    return Err(running.give_up(error));
                }
            }
        }
        while let Some(plan) = logic.pop_front() {
            let bound = running.addresses[plan.service].clone();
            let pin = placing.as_ref().and_then(|placing| placing.logic[plan.number]);
            match plan.spawn(bound, Arc::clone(&running.desk), pin) {
                Ok(thread) => running.logic.push(thread),
                Err(error) => {
                    drop(logic);
                    return Err(running.give_up(error));
                }
            }
        }
        Ok(running)
    }

    /// What shards are built from, and the logic threads of the services that have some.
    pub(crate) fn place(&self, seed: u64) -> (Vec<Arc<dyn Template>>, VecDeque<LogicPlan>) {
        let mut plans = VecDeque::new();
        let template = |(number, service): (usize, &Service)| -> Arc<dyn Template> {
            let Some(threads) = service.logic else { return Arc::clone(&service.template) };
            let links = Links::new(threads, self.shards);
            for (thread, seats) in links.relays.into_iter().enumerate() {
                plans.push_back(LogicPlan {
                    number: plans.len(),
                    thread,
                    service: number,
                    template: Arc::clone(&service.template),
                    seats,
                    config: self.config,
                    stop: self.stop.clone(),
                    seed,
                });
            }
            Arc::new(RelayTemplate::new(number, service.template.listens(), self.config, links.ends))
        };
        let templates = self.services.iter().enumerate().map(template).collect();
        (templates, plans)
    }
}

/// What one shard is told.
pub(crate) struct ShardPlan {
    pub(crate) shard: usize,
    pub(crate) kind: DriverKind,
    pub(crate) config: DriverConfig,
    pub(crate) hands_over: bool,
    pub(crate) pin: Option<usize>,
    pub(crate) templates: Vec<Arc<dyn Template>>,
    /// Addresses that the shards before this one have bound.
    pub(crate) addresses: Vec<Option<Address>>,
    pub(crate) stop: Stop,
    /// What chance is drawn from.
    pub(crate) seed: u64,
    pub(crate) desk: Arc<Desk>,
}

type ShardThread = JoinHandle<Result<()>>;
type Started = Result<Vec<Option<Address>>>;

/// Binds the calling thread, before it allocates anything: its memory is near then.
pub(crate) fn pin_thread(processor: Option<usize>, what: &str, number: usize) {
    if let Some(processor) = processor
        && let Err(error) = machine::pin_thread(processor)
    {
        log::warn!("{what} {number} is not bound to processor {processor}: {error}");
    }
}

impl ShardPlan {
    /// Starts the thread and waits until its services listen.
    fn spawn(self) -> Result<(ShardThread, Vec<Option<Address>>)> {
        let shard = self.shard;
        let fail = |source| Error::Shard { shard, source };
        let (tell, told) = channel();
        let thread = std::thread::Builder::new()
            .name(format!("anyport-shard-{shard}"))
            .spawn(move || self.run(&tell))
            .map_err(fail)?;
        match told.recv() {
            Ok(Ok(addresses)) => Ok((thread, addresses)),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(fail(std::io::Error::other("its thread ended while it started"))),
        }
    }

    fn run(self, tell: &Sender<Started>) -> Result<()> {
        let _others = AbortOnPanic(self.stop.clone());
        pin_thread(self.pin, "shard", self.shard);
        match self.kind {
            #[cfg(target_os = "linux")]
            DriverKind::IoUring => {
                let driver = anyport_driver::io_uring::IoUring::new(self.config);
                self.drive(driver, tell, |template, birth| template.on_io_uring(birth))
            }
            #[cfg(unix)]
            DriverKind::Readiness => {
                let driver = anyport_driver::readiness::Readiness::new(self.config);
                self.drive(driver, tell, |template, birth| template.on_readiness(birth))
            }
            #[cfg(windows)]
            DriverKind::Iocp => {
                let driver = anyport_driver::iocp::Iocp::new(self.config);
                self.drive(driver, tell, |template, birth| template.on_iocp(birth))
            }
            kind => unreachable!("no service runs on {kind} in a thread"),
        }
    }

    fn drive<D: Driver>(
        self,
        driver: std::io::Result<D>,
        tell: &Sender<Started>,
        build: impl Fn(&dyn Template, &ShardBirth) -> OnShard<D>,
    ) -> Result<()> {
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => {
                let _ = tell.send(Err(Error::Driver(error)));
                return Ok(());
            }
        };
        let mut shard = self.build(driver, build);
        match shard.start() {
            Ok(addresses) => {
                let _ = tell.send(Ok(addresses));
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                return Ok(());
            }
        }
        let result = shard.run(self.shard);
        if let Err(error) = &result {
            log::error!("{error}; the engine stops");
            self.stop.abort();
        }
        result
    }
}

impl ShardPlan {
    /// The shard with its services, not started.
    pub(crate) fn build<D: Driver>(
        &self,
        driver: D,
        build: impl Fn(&dyn Template, &ShardBirth) -> OnShard<D>,
    ) -> ShardLoop<D> {
        let on_shard = |(template, address): (&Arc<dyn Template>, &Option<Address>)| {
            let birth = ShardBirth {
                shard: self.shard,
                hands_over: self.hands_over,
                bound: address.clone(),
                now: driver.now(),
                seed: self.seed,
                waker: driver.waker(),
                desk: Arc::clone(&self.desk),
            };
            build(&**template, &birth)
        };
        let services = self.templates.iter().zip(&self.addresses).map(on_shard).collect();
        ShardLoop::new(driver, services, self.stop.clone())
    }
}

/// Options that the system has not are left out, and that is said.
fn warn_of_what_is_left_out(address: &str, options: &SocketOptions) {
    for option in options.left_out() {
        log::warn!("{address}: this system has no socket option {option}: it is left out");
    }
}

/// A number that differs from process to process.
fn any_number() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// A shard that panics takes the engine down: its sessions are lost, and the others must not wait for it.
pub(crate) struct AbortOnPanic(pub(crate) Stop);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort();
        }
    }
}

/// An engine whose shards are running. Dropping it aborts.
#[derive(Debug)]
pub struct Running {
    chosen: Chosen,
    spread: Spread,
    possible: u64,
    stop: Stop,
    desk: Arc<Desk>,
    threads: Vec<ShardThread>,
    logic: Vec<LogicThread>,
    /// Shards and logic threads that were joined.
    joined: (usize, usize),
    addresses: Vec<Option<Address>>,
    kinds: Vec<ServiceKind>,
    published: Vec<Vec<Arc<Published>>>,
    recent: Vec<Vec<Arc<Recent>>>,
}

impl Running {
    /// The driver that was taken, and why.
    pub fn driver(&self) -> (DriverKind, &str) {
        (self.chosen.kind, &self.chosen.reason)
    }

    /// How connections are spread over the shards: what [`Spread::Auto`] came to, or what was asked for.
    pub fn spread(&self) -> Spread {
        self.spread
    }

    /// About how many sessions the system's limits allow, whatever `sessions_max` says: with most drivers the
    /// limit on open files.
    pub fn sessions_possible(&self) -> u64 {
        self.possible
    }

    /// The IP address and port at which a service listens, by the order in which services were added. `None` for
    /// clients, and for services at Unix sockets: see [`listens_at`](Self::listens_at).
    pub fn address(&self, service: usize) -> Option<SocketAddr> {
        self.listens_at(service)?.ip()
    }

    /// Where a service listens, by the order in which services were added. `None` for clients.
    pub fn listens_at(&self, service: usize) -> Option<&Address> {
        self.addresses.get(service)?.as_ref()
    }

    /// Kinds of the services, in the order in which they were added.
    pub fn kinds(&self) -> &[ServiceKind] {
        &self.kinds
    }

    /// Shards.
    pub fn shards(&self) -> usize {
        self.threads.len() + self.joined.0
    }

    /// Logic threads, of all services.
    pub fn logic_threads(&self) -> usize {
        self.logic.len() + self.joined.1
    }

    /// Counters of a service, summed over its shards. Zeros if there is no such service.
    pub fn counters(&self, service: usize) -> Counters {
        Published::sum(self.published.get(service))
    }

    /// What the pool does, and has done. Zeros for an engine that has offloaded nothing.
    pub fn pool_counters(&self) -> PoolCounters {
        self.desk.counters()
    }

    /// The sessions of a service that ended last, the very last one first: up to
    /// [`recent_closed_max`](Limits::recent_closed_max) of each shard. None if there is no such service.
    pub fn recently_closed(&self, service: usize) -> Vec<Closed> {
        self.recent.get(service).map(|shards| Recent::of_all(shards)).unwrap_or_default()
    }

    /// A handle that ends the engine from any thread.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// True once every shard and logic thread has ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().chain(&self.logic).all(JoinHandle::is_finished)
    }

    /// Waits for the end, and stays to be asked for the final counters.
    ///
    /// # Errors
    /// The first failure of a shard.
    pub fn wait(&mut self) -> Result<()> {
        self.join_threads()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The first failure of a shard.
    pub fn join(mut self) -> Result<()> {
        self.join_threads()
    }

    fn join_threads(&mut self) -> Result<()> {
        let panicked = || std::io::Error::other("its thread panicked; this is a bug");
        let mut first = Ok(());
        // Whoever asks how many there are is still told.
        self.joined = (self.shards(), self.logic_threads());
        // They end in this order.
        for (thread, handle) in self.logic.drain(..).enumerate() {
            let result = handle.join();
            first =
                first.and(result.unwrap_or_else(|_| Err(Error::LogicThread { thread, source: panicked() })));
        }
        for (shard, handle) in self.threads.drain(..).enumerate() {
            let result = handle.join();
            first = first.and(result.unwrap_or_else(|_| Err(Error::Shard { shard, source: panicked() })));
        }
        // Last: what sessions offloaded as they ended is done, too.
        self.desk.stop(self.stop.phase() == Phase::Abort, self.stop.ends_at());
        first
    }

    /// It could not start: what runs ends.
    fn give_up(self, error: Error) -> Error {
        self.stop.abort();
        let _ = self.join();
        error
    }

    /// Drains, then waits for the end.
    ///
    /// # Errors
    /// The first failure of a shard.
    pub fn stop(self) -> Result<()> {
        self.stop.drain();
        self.join()
    }

    /// Drains for `within` at most, then waits for the end: [`Stop::drain_within`].
    ///
    /// # Errors
    /// The first failure of a shard.
    pub fn stop_within(self, within: Duration) -> Result<()> {
        self.stop.drain_within(within);
        self.join()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.stop.abort();
            if let Err(error) = self.join_threads() {
                log::error!("{error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_as_the_driver_can() {
        for driver in [DriverKind::IoUring, DriverKind::Readiness] {
            for (asked, done) in [
                (Spread::Auto, Spread::ReusePort),
                (Spread::ReusePort, Spread::ReusePort),
                (Spread::HandOver, Spread::HandOver),
            ] {
                assert_eq!(asked.with(driver).unwrap(), done, "{asked:?} with {driver}");
            }
        }
        for asked in [Spread::Auto, Spread::HandOver] {
            assert_eq!(asked.with(DriverKind::Iocp).unwrap(), Spread::HandOver, "{asked:?}");
        }
        let text = Spread::ReusePort.with(DriverKind::Iocp).unwrap_err().to_string();
        for part in ["driver iocp", "Spread::ReusePort", "Spread::Auto"] {
            assert!(text.contains(part), "`{part}` is missing: {text}");
        }
    }
}
