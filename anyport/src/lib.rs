//! A session server engine on completion I/O.
//!
//! You write a [`Handler`]: what happens when a session opens, when a frame arrives, when it closes. The engine
//! does everything between the kernel and that: io_uring where it is allowed, epoll or kqueue elsewhere, a
//! completion port on Windows, one shard a processor, framing, send queues that gather, limits, backpressure,
//! drain, counters.
//!
//! ```no_run
//! use anyport::prelude::*;
//!
//! struct Echo;
//! impl Handler for Echo {
//!     type State = ();
//!     type Codec = Raw;
//!     fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) { session.send(&frame); }
//! }
//! fn main() -> anyport::Result<()> {
//!     Engine::new()?.serve(Server::bind("0.0.0.0:7000", Raw), |_shard| Echo)?.run()
//! }
//! ```
//!
//! | to | look at |
//! |---|---|
//! | answer events | [`Handler`], [`Session`], [`Shard`] |
//! | frame messages | [`Raw`], [`Lines`], [`Delimiter`], [`Fixed`], [`LengthPrefix`], [`SizeKind`], or your own [`Codec`] |
//! | allow and forbid | [`Limits`], [`SendMarks`], [`SocketOptions`] |
//! | speak to many at once; choose what a slow peer may lose | [`Group`], [`Shard::publish`], [`Overflow`] |
//! | do something later, or again and again | [`Session::set_timer`], [`Shard::set_repeating_timer`] |
//! | turn frames into typed messages | [`Message`], [`Router`] |
//! | know why a session ended | [`CloseReason`], [`Counters`] |
//! | reach a session from another thread, ask it, look at all | [`Remote`] |
//! | append to a file without waiting for a disk | [`AppendFile`], [`Shard::append`], [`LogFile`] |
//! | open connections, once, when told, or again and again | [`Client`], [`Backoff`] |
//! | run handlers on threads of their own | [`Placement`] |
//! | call what blocks, or computes for long | [`Session::offload`], [`PoolConfig`], [`CompletionPort`] |
//! | start and stop | [`Engine`], [`Running`], [`Stop`] |

#![forbid(unsafe_code)]

mod admission;
mod append_file;
mod audit;
mod backoff;
mod budget;
mod connect;
mod counters;
mod dialing;
pub mod doctor;
mod engine;
mod error;
mod group;
mod handler;
mod info;
mod log_limit;
mod logic_pool;
mod message;
#[cfg(all(loom, test))]
mod models;
mod offline;
mod offload;
mod on_shard;
mod placement;
mod recent;
mod relay_service;
mod remote;
mod router;
mod service;
mod service_shard;
mod session;
mod shard_loop;
#[cfg(feature = "signals")]
mod signals;
pub mod sim;
mod stop;
mod sync;
mod template;

/// For the simulation, which must find what is planted.
#[cfg(planted_bugs)]
#[doc(hidden)]
pub use anyport_core::planted;
pub use anyport_core::{
    Blame, CloseReason, Codec, Decode, Decoded, Encode, Fault, FaultClass, FaultKind, Frame, FrameError,
    Limits, Lines, Losses, OnExcess, Overflow, Rates, Raw, ReceiveRate, Refusal, SendMarks, Sent, SessionId,
    SizeKind, State, limits::InvalidLimit,
};
/// Framing beyond what everybody needs.
pub use anyport_core::{
    Delimiter, Endian, Fixed, InvalidLayout, KindWidth, LengthPrefix, LengthPrefixBuilder, LengthWidth,
};
/// For tests of programs: Windows has no `kill -INT`.
#[cfg(windows)]
#[doc(hidden)]
pub use anyport_driver::machine::{ConsoleKey, interrupt};
pub use anyport_driver::{
    Address, DriverChoice, DriverConfig, DriverKind, KeepAlive, PeerAddress, SocketOptions, numbered,
};
/// Threads that take packets: what the pool stands on, and of use without an engine.
pub use anyport_driver::{CompletionPort, PortConfig, PortCounters, PortError, WaitEnd, blocking};

pub use append_file::{AppendFile, AppendRefusal, Appended, FileEvent, FileId, LogFile};
pub use backoff::Backoff;
pub use counters::Counters;
pub use dialing::ConnectError;
pub use engine::{Engine, Running, Spread};
pub use error::{Error, Result};
pub use group::{Group, GroupInfo, Reach};
pub use handler::{ConnectFailure, Handler, Pressure, Reconnect, TimerKey};
pub use info::{SessionInfo, Traffic};
pub use logic_pool::{PoolConfig, PoolCounters};
pub use message::{Message, MessageError};
pub use offline::OfflinePeer;
pub use offload::OffloadError;
pub use placement::Placement;
pub use recent::Closed;
pub use remote::{Answer, Answers, AskError, PostError, Remote};
pub use router::Router;
pub use service::{Client, Server, ServiceKind};
pub use session::{Session, Shard};
#[cfg(feature = "signals")]
pub use signals::on_termination;
pub use stop::Stop;

/// The code of the page is compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sending.md")]
struct Sending;

/// What most handlers need.
pub mod prelude {
    pub use crate::{
        Client, CloseReason, Engine, Frame, Group, Handler, Limits, Lines, Overflow, Pressure, Raw, Sent,
        Server, Session, SessionId, Shard, SizeKind, TimerKey,
    };
}
