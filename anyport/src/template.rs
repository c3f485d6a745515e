//! A service before it is on any shard.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use anyport_core::Limits;
use anyport_driver::{Address, Driver, ListenOptions, options::PortSharing};

use crate::{
    admission::Live,
    budget::{Budget, Purse},
    counters::Published,
    dialing::Places,
    group::Registry,
    handler::Handler,
    offload::Desk,
    recent::Recent,
    remote::{Mail, Mailbox},
    service::{Role, ServiceKind},
    service_shard::{Birth, OfflineService, ServiceOnShard, ServiceShard},
    stop::Stop,
};

/// What a shard tells a template.
pub(crate) struct ShardBirth {
    pub(crate) shard: usize,
    /// The first shard accepts for all.
    pub(crate) hands_over: bool,
    pub(crate) bound: Option<Address>,
    pub(crate) now: Instant,
    /// What chance is drawn from: the simulator's seed, or any number.
    pub(crate) seed: u64,
    pub(crate) waker: anyport_driver::Waker,
    pub(crate) desk: Arc<Desk>,
}

pub(crate) type OnShard<D> = Box<dyn ServiceOnShard<D>>;

/// A service before it is on any shard. One method for each driver, because the choice is made at run time and
/// everything below it is concrete.
pub(crate) trait Template: Send + Sync {
    #[cfg(target_os = "linux")]
    fn on_io_uring(&self, birth: &ShardBirth) -> OnShard<anyport_driver::io_uring::IoUring>;
    #[cfg(unix)]
    fn on_readiness(&self, birth: &ShardBirth) -> OnShard<anyport_driver::readiness::Readiness>;
    #[cfg(windows)]
    fn on_iocp(&self, birth: &ShardBirth) -> OnShard<anyport_driver::iocp::Iocp>;
    fn on_sim(&self, birth: &ShardBirth) -> OnShard<anyport_driver::sim::Sim>;
    /// On a logic thread.
    fn on_relay(&self, birth: &ShardBirth) -> OnShard<anyport_driver::relay::Relay>;
    /// Where it listens, if it does.
    fn listens(&self) -> Option<(Address, ListenOptions)> {
        None
    }
}

/// True if the first of several shards accepts for all whatever the spread: listeners cannot share a path.
pub(crate) fn one_listens(address: &Address, shards: usize) -> bool {
    address.is_unix() && shards > 1
}

/// How a listener of one of several shards shares its address with the others.
pub(crate) fn share_port(
    address: &mut Address,
    listen: &mut ListenOptions,
    birth: &ShardBirth,
    hands_over: bool,
    shards: usize,
) {
    if let Some(bound) = &birth.bound {
        address.clone_from(bound);
    }
    listen.detachable = hands_over;
    listen.port = match birth.bound {
        _ if hands_over || shards == 1 => PortSharing::Alone,
        None => PortSharing::First,
        Some(_) => PortSharing::Further,
    };
}

pub(crate) struct ServiceTemplate<H: Handler, F> {
    pub(crate) make: F,
    pub(crate) codec: H::Codec,
    pub(crate) limits: Limits,
    pub(crate) role: Role,
    pub(crate) service: u8,
    pub(crate) shards: usize,
    pub(crate) stop: Stop,
    pub(crate) mails: Vec<Mail<H>>,
    pub(crate) mailboxes: Vec<Mutex<Option<Mailbox<H>>>>,
    pub(crate) groups: Arc<Registry>,
    pub(crate) budgets: Vec<Arc<Budget>>,
    pub(crate) live: Arc<Live>,
    pub(crate) places: Arc<Places>,
    pub(crate) published: Vec<Arc<Published>>,
    pub(crate) recent: Vec<Arc<Recent>>,
}

impl<H: Handler, F: Fn(usize) -> H + Send + Sync> ServiceTemplate<H, F> {
    /// True if the first shard accepts for all that do their I/O themselves. Who has no network shares nothing.
    fn hands_over(&self, birth: &ShardBirth) -> bool {
        let by_path = matches!(&self.role, Role::Server { address, .. } if one_listens(address, self.shards));
        self.places.kind != ServiceKind::Offline && (birth.hands_over || by_path)
    }

    fn build(&self, birth: &ShardBirth, hands_over: bool) -> ServiceShard<H> {
        let shard = birth.shard;
        let mailbox = self.mailboxes[shard].lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let mailbox = mailbox.expect("a shard is built once");
        let mut role = self.role.clone();
        match &mut role {
            Role::Server { address, listen } => {
                share_port(address, listen, birth, hands_over, self.shards);
            }
            Role::Client(orders) => {
                let connections = &mut orders.connections;
                // The first shards take one more each when it does not divide.
                let (each, over) = (*connections / self.shards, *connections % self.shards);
                *connections = each + usize::from(shard < over);
            }
        }
        ServiceShard::new(Birth {
            handler: (self.make)(shard),
            codec: self.codec.clone(),
            limits: self.limits,
            role,
            shard: shard as u8,
            service: self.service,
            stop: self.stop.clone(),
            jobs: mailbox.open(birth.waker.clone()),
            hand_to: if hands_over { self.mails.clone() } else { Vec::new() },
            mails: self.mails.clone(),
            groups: Arc::clone(&self.groups),
            purse: Purse::new(self.budgets.clone(), self.shards),
            desk: Arc::clone(&birth.desk),
            live: Arc::clone(&self.live),
            places: Arc::clone(&self.places),
            published: Arc::clone(&self.published[shard]),
            seed: birth.seed
                ^ (u64::from(self.service) << 8 | shard as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            shards: self.shards,
            recent: Arc::clone(&self.recent[shard]),
            now: birth.now,
        })
    }
}

impl<H: Handler, F: Fn(usize) -> H + Send + Sync> ServiceTemplate<H, F> {
    /// The service on a shard, on the shard's driver or on one of its own.
    fn place<D: Driver>(&self, birth: &ShardBirth, hands_over: bool) -> OnShard<D> {
        match self.places.hubs.get(birth.shard) {
            Some(hub) => {
                Box::new(OfflineService::new(self.build(birth, hands_over), hub, birth.waker.clone()))
            }
            None => Box::new(self.build(birth, hands_over)),
        }
    }
}

impl<H: Handler, F: Fn(usize) -> H + Send + Sync> Template for ServiceTemplate<H, F> {
    #[cfg(target_os = "linux")]
    fn on_io_uring(&self, birth: &ShardBirth) -> OnShard<anyport_driver::io_uring::IoUring> {
        self.place(birth, self.hands_over(birth))
    }

    #[cfg(unix)]
    fn on_readiness(&self, birth: &ShardBirth) -> OnShard<anyport_driver::readiness::Readiness> {
        self.place(birth, self.hands_over(birth))
    }

    #[cfg(windows)]
    fn on_iocp(&self, birth: &ShardBirth) -> OnShard<anyport_driver::iocp::Iocp> {
        self.place(birth, self.hands_over(birth))
    }

    fn on_sim(&self, birth: &ShardBirth) -> OnShard<anyport_driver::sim::Sim> {
        self.place(birth, self.hands_over(birth))
    }

    fn on_relay(&self, birth: &ShardBirth) -> OnShard<anyport_driver::relay::Relay> {
        // The shards hand connections over already.
        self.place(birth, false)
    }

    fn listens(&self) -> Option<(Address, ListenOptions)> {
        match &self.role {
            Role::Server { address, listen } if self.places.kind != ServiceKind::Offline => {
                Some((address.clone(), *listen))
            }
            Role::Server { .. } | Role::Client(_) => None,
        }
    }
}
