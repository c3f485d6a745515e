//! What a user adds to an engine: servers and clients.

use std::net::ToSocketAddrs;

use anyport_core::{Codec, Limits};
use anyport_driver::{Address, ListenOptions, SocketOptions};

use crate::{
    backoff::Backoff,
    dialing::Orders,
    error::{Error, Result},
    placement::Placement,
};

/// The kinds of service, under the names of the C++ engines that anyport grew from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ServiceKind {
    /// Accepts connections.
    Server,
    /// Opens connections at the start.
    Client,
    /// Opens connections when it is told to ([`Client::manual`]).
    ClientManual,
    /// Opens connections at the start, and again when they end ([`Client::reconnect`]).
    ClientAutoReconnect,
    /// Has sessions with whoever is in the same process, without a network ([`Server::offline`]).
    Offline,
}

/// A service that accepts connections.
#[derive(Clone, Debug)]
pub struct Server<C> {
    pub(crate) address: String,
    pub(crate) codec: C,
    pub(crate) limits: Limits,
    pub(crate) listen: ListenOptions,
    pub(crate) offline: bool,
    pub(crate) placement: Placement,
}

impl<C: Codec> Server<C> {
    /// Listens on `address`: `HOST:PORT`, where port 0 lets the system choose, or `unix:PATH`. Checked when the server
    /// is added.
    pub fn bind(address: impl Into<String>, codec: C) -> Self {
        Self {
            address: address.into(),
            codec,
            limits: Limits::default(),
            listen: ListenOptions::default(),
            offline: false,
            placement: Placement::Shard,
        }
    }

    /// Listens nowhere: sessions are opened by [`Remote::open_offline`](crate::Remote::open_offline), and the other end
    /// is in the same process. Bots and tests reach the handler so by the code that serves everybody else: framing,
    /// limits, queues, timers, close reasons. It runs in any engine, beside services with a network.
    pub fn offline(codec: C) -> Self {
        Self { offline: true, ..Self::bind("offline", codec) }
    }

    /// Sets what the service allows.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where its handlers run. Default: on the shards.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the options that accepted connections inherit.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.listen.socket = options;
        self
    }

    /// `SO_REUSEADDR`: begin again while connections of the last life are still in `TIME_WAIT`. Default true.
    pub fn reuse_address(mut self, reuse: bool) -> Self {
        self.listen.reuse_address = reuse;
        self
    }

    /// `IPV6_V6ONLY`: a server at an IPv6 address takes no IPv4 connections. Default false: `[::]` takes both.
    pub fn ipv6_only(mut self, only: bool) -> Self {
        self.listen.ipv6_only = only;
        self
    }

    /// Permissions of the Unix socket's file, as in `chmod` (`0o660`): who may write to it may connect. Without it the
    /// process's umask decides. TCP has none.
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.listen.unix_mode = Some(mode);
        self
    }

    /// Connections that the system keeps before they are accepted. Default 4096; Linux bounds it by
    /// `net.core.somaxconn`.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.listen.backlog = connections;
        self
    }
}

/// A service that opens connections: when the engine starts and once, unless [`manual`](Self::manual) or
/// [`reconnect`](Self::reconnect) say otherwise.
#[derive(Clone, Debug)]
pub struct Client<C> {
    pub(crate) addresses: Vec<String>,
    pub(crate) codec: C,
    pub(crate) limits: Limits,
    pub(crate) options: SocketOptions,
    pub(crate) connections: usize,
    pub(crate) manual: bool,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) placement: Placement,
}

impl<C: Codec> Client<C> {
    /// One connection to `address`, `HOST:PORT` or `unix:PATH`. Checked when the client is added.
    pub fn to(address: impl Into<String>, codec: C) -> Self {
        Self::to_any([address], codec)
    }

    /// As [`to`](Self::to), with several addresses that are tried in turn: each attempt that fails goes on to the next.
    /// Connections begin with different ones. A client that does not [`reconnect`](Self::reconnect) tries each once.
    ///
    /// Names are looked up once, when the client is added, and the first address of each is taken: looking up waits,
    /// and a shard must not.
    pub fn to_any(addresses: impl IntoIterator<Item = impl Into<String>>, codec: C) -> Self {
        Self {
            addresses: addresses.into_iter().map(Into::into).collect(),
            codec,
            limits: Limits::default(),
            options: SocketOptions::default(),
            connections: 1,
            manual: false,
            backoff: None,
            placement: Placement::Shard,
        }
    }

    /// Opens nothing at the start, whatever [`connections`](Self::connections) says, but when it is told to:
    /// [`Shard::connect`](crate::Shard::connect), [`Remote::connect`](crate::Remote::connect). Sessions are ended as
    /// any others, by drain or close.
    pub fn manual(mut self) -> Self {
        self.manual = true;
        self
    }

    /// Opens a connection again that could not be opened, or has ended, whatever the reason; unless the handler decides
    /// otherwise ([`on_connect_failed`](crate::Handler::on_connect_failed),
    /// [`Session::set_reconnect`](crate::Session::set_reconnect)). Nothing is opened once the engine is asked to end.
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// How many connections to open, spread over the shards.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets what the service allows.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where its handlers run. Default: on the shards.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the options of the connections.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.options = options;
        self
    }
}

/// What a service does on a shard, without its codec and handler.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Server { address: Address, listen: ListenOptions },
    Client(Orders),
}

impl Role {
    /// True if it is about a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        match self {
            Self::Server { address, .. } => address.is_unix(),
            Self::Client(orders) => orders.targets.iter().any(Address::is_unix),
        }
    }
}

/// The first address that the text names: a path after `unix:`, or what the system's resolver says of HOST:PORT.
pub(crate) fn resolve(address: &str) -> Result<Address> {
    let fail = |source| Error::Address { address: address.to_owned(), source };
    if Address::unix_path(address).is_some() {
        return address.parse().map_err(fail);
    }
    let mut found = address.to_socket_addrs().map_err(fail)?;
    found
        .next()
        .map(Address::Ip)
        .ok_or_else(|| fail(std::io::Error::new(std::io::ErrorKind::NotFound, "no address found")))
}
