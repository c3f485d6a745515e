//! The echo servers that live in this program. Each runs in a process and a thread of its own, forever.

mod bare_epoll;
mod bare_uring;
mod tokio;

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener},
};

use crate::error::{Context, Error, Result};

/// Which server to run.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Kind {
    /// The fastest io_uring loop we know how to write.
    BareUring,
    /// The same by readiness: epoll, recv, send.
    BareEpoll,
    /// tokio as its documentation shows it, on one thread.
    Tokio,
}

/// Serves until the process is killed.
pub fn run(kind: Kind, address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).map_err(|source| Error::Listen { address, source })?;
    let address = listener.local_addr().context("getsockname")?;
    writeln!(io::stdout(), "listening on {address}").context("standard output")?;
    match kind {
        Kind::BareUring => bare_uring::run(&listener).context("bare-uring"),
        Kind::BareEpoll => bare_epoll::run(&listener).context("bare-epoll"),
        Kind::Tokio => tokio::run(listener).context("tokio"),
    }
}
