//! What a user adds to an engine: servers and clients.

use std::net::ToSocketAddrs;

use anyport_core::{Codec, Limits};
use anyport_driver::{Address, ListenOptions, SocketOptions};

use crate::error::{Error, Result};

/// The kinds of service, under the names of the C++ engines that anyport grew from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ServiceKind {
    /// Accepts connections.
    Server,
    /// Opens connections at the start.
    Client,
}

/// A service that accepts connections.
#[derive(Clone, Debug)]
pub struct Server<C> {
    pub(crate) address: String,
    pub(crate) codec: C,
    pub(crate) limits: Limits,
    pub(crate) listen: ListenOptions,
}

impl<C: Codec> Server<C> {
    /// Listens on `address`: `HOST:PORT`, where port 0 lets the system choose, or `unix:PATH`. Checked when the server
    /// is added.
    pub fn bind(address: impl Into<String>, codec: C) -> Self {
        Self { address: address.into(), codec, limits: Limits::default(), listen: ListenOptions::default() }
    }

    /// Sets what the service allows.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the options that accepted connections inherit.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.listen.socket = options;
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

/// A service that opens connections when the engine starts. One that fails or ends is not opened again.
#[derive(Clone, Debug)]
pub struct Client<C> {
    pub(crate) address: String,
    pub(crate) codec: C,
    pub(crate) limits: Limits,
    pub(crate) options: SocketOptions,
    pub(crate) connections: usize,
}

impl<C: Codec> Client<C> {
    /// One connection to `address`, `HOST:PORT` or `unix:PATH`. Checked when the client is added.
    pub fn to(address: impl Into<String>, codec: C) -> Self {
        Self {
            address: address.into(),
            codec,
            limits: Limits::default(),
            options: SocketOptions::default(),
            connections: 1,
        }
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
    Client { address: Address, options: SocketOptions, connections: usize },
}

impl Role {
    /// True if it is about a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        match self {
            Self::Server { address, .. } | Self::Client { address, .. } => address.is_unix(),
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
