//! The servers that live in this program, and one that is compiled from C++. Each runs in a process of its own, forever;
//! all but one of them on one thread.

pub mod asio;
mod bare_epoll;
mod bare_epoll_fanout;
mod bare_uring;
mod bare_uring_fanout;
mod compio;
mod monoio;
pub mod net_io;
mod tokio;
mod tokio_fanout;

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener},
};

use self::{
    bare_uring::Variant,
    tokio_fanout::{Channels, Way},
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
    /// The same, with a receive for each message.
    RingOneShotReceive,
    /// The same, with SENDMSG in place of SEND.
    RingGatheredSend,
    /// The same, with `SEND_ZC`.
    RingZeroCopySend,
    /// The same, with task work that is not deferred to the call that waits.
    RingCooperativeTaskWork,
    /// The same, with a kernel thread that submits.
    RingKernelThread,
    /// The same by readiness: epoll, recv, send.
    BareEpoll,
    /// tokio as its documentation shows it, on one thread.
    Tokio,
    /// monoio as its documentation shows it, on one thread.
    Monoio,
    /// compio on one thread, with multishot accept and receive.
    Compio,
    /// net-io as its documentation shows it, with a thread for each connection.
    NetIo,
    /// The io_uring loop, sending what arrives to all other connections.
    BareUringFanout,
    /// The epoll loop, likewise.
    BareEpollFanout,
    /// tokio likewise: one broadcast channel, to which every connection's task listens.
    TokioBroadcast,
    /// The same, writing at once what waits in the channel.
    TokioBroadcastGathered,
    /// tokio likewise: a channel for each connection's task.
    TokioMpsc,
    /// The same, writing at once what waits in the channel.
    TokioMpscGathered,
}

/// As anyport's.
const BACKLOG: u32 = 4096;

/// Serves until the process is killed. `buffer_bytes` is of the buffer that a connection has for itself, in servers where
/// it has one.
pub fn run(kind: Kind, address: SocketAddr, buffer_bytes: usize) -> Result<()> {
    if let Kind::NetIo = kind {
        return net_io::run(address, buffer_bytes).context("net-io");
    }
    let listener = TcpListener::bind(address).map_err(|source| Error::Listen { address, source })?;
    sys::set_backlog(&listener, BACKLOG).context("listen")?;
    let address = listener.local_addr().context("getsockname")?;
    writeln!(io::stdout(), "listening on {address}").context("standard output")?;
    let tokio_fanout = |listener, channels, gathers| {
        tokio_fanout::run(listener, Way { channels, gathers }, buffer_bytes).context("tokio")
    };
    let ring = |variant| bare_uring::run(&listener, variant).context("io_uring loop");
    match kind {
        Kind::BareUring => ring(Variant::None),
        Kind::RingOneShotReceive => ring(Variant::OneShotReceive),
        Kind::RingGatheredSend => ring(Variant::GatheredSend),
        Kind::RingZeroCopySend => ring(Variant::ZeroCopySend),
        Kind::RingCooperativeTaskWork => ring(Variant::CooperativeTaskWork),
        Kind::RingKernelThread => ring(Variant::KernelThread),
        Kind::BareEpoll => bare_epoll::run(&listener).context("bare-epoll"),
        Kind::Tokio => tokio::run(listener, buffer_bytes).context("tokio"),
        Kind::Monoio => monoio::run(listener, buffer_bytes).context("monoio"),
        Kind::Compio => compio::run(listener, buffer_bytes).context("compio"),
        Kind::NetIo => unreachable!("it listens itself"),
        Kind::BareUringFanout => bare_uring_fanout::run(&listener).context("bare-uring-fanout"),
        Kind::BareEpollFanout => bare_epoll_fanout::run(&listener).context("bare-epoll-fanout"),
        Kind::TokioBroadcast => tokio_fanout(listener, Channels::One, false),
        Kind::TokioBroadcastGathered => tokio_fanout(listener, Channels::One, true),
        Kind::TokioMpsc => tokio_fanout(listener, Channels::Each, false),
        Kind::TokioMpscGathered => tokio_fanout(listener, Channels::Each, true),
    }
}
