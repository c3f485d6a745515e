//! The servers that live in this program. Each runs in a process and a thread of its own, forever.

mod bare_epoll;
mod bare_epoll_fanout;
mod bare_uring;
mod bare_uring_fanout;
mod tokio;
mod tokio_fanout;

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener},
};

use crate::{
    error::{Context, Error, Result},
    sys,
};

/// Which server to run.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Kind {
    /// The fastest io_uring loop we know how to write.
    BareUring,
    /// The same by readiness: epoll, recv, send.
    BareEpoll,
    /// tokio as its documentation shows it, on one thread.
    Tokio,
    /// The io_uring loop, sending what arrives to all other connections.
    BareUringFanout,
    /// The epoll loop, likewise.
    BareEpollFanout,
    /// tokio likewise: one broadcast channel, to which every connection's task listens.
    TokioBroadcast,
    /// tokio likewise: a channel for each connection's task.
    TokioMpsc,
}

/// As anyport's.
const BACKLOG: u32 = 4096;

/// Serves until the process is killed.
pub fn run(kind: Kind, address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).map_err(|source| Error::Listen { address, source })?;
    sys::set_backlog(&listener, BACKLOG).context("listen")?;
    let address = listener.local_addr().context("getsockname")?;
    writeln!(io::stdout(), "listening on {address}").context("standard output")?;
    match kind {
        Kind::BareUring => bare_uring::run(&listener).context("bare-uring"),
        Kind::BareEpoll => bare_epoll::run(&listener).context("bare-epoll"),
        Kind::Tokio => tokio::run(listener).context("tokio"),
        Kind::BareUringFanout => bare_uring_fanout::run(&listener).context("bare-uring-fanout"),
        Kind::BareEpollFanout => bare_epoll_fanout::run(&listener).context("bare-epoll-fanout"),
        Kind::TokioBroadcast => tokio_fanout::run(listener, tokio_fanout::Way::Broadcast).context("tokio"),
        Kind::TokioMpsc => tokio_fanout::run(listener, tokio_fanout::Way::Mpsc).context("tokio"),
    }
}
