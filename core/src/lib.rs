//! The pure part of anyport: what a session does, without a socket, a clock, a thread or `unsafe`.
//!
//! Everything here is driven from outside and tested in any order of events:
//!
//! | module | idea |
//! |---|---|
//! | [`id`] | [`SessionId`]: shard, service, index and generation in 64 bits |
//! | [`slab`] | slots reused first-in first-out, generations, retired when a generation wraps |
//! | [`send`] | messages gathered in pooled chunks; one [`SendBatch`] is what a driver sends |
//! | [`codec`] | where frames begin and end: [`Raw`], [`Lines`], [`Delimiter`], [`Fixed`], [`LengthPrefix`], [`SizeKind`] |
//! | [`overflow`] | what is lost when a peer does not read, and how it is counted |
//! | [`reassembly`] | frames decoded in place, only a cut tail is copied |
//! | [`connection`] | the connection machine: inputs, commands, one output function |
//! | [`wheel`] | timers in a hierarchical wheel |
//! | [`rate`] | token buckets |
//! | [`fault`], [`reason`], [`limits`] | what went wrong, why a session ended, what is allowed |

#![forbid(unsafe_code)]

pub mod codec;
pub mod connection;
pub mod fault;
pub mod id;
pub mod limits;
pub mod overflow;
#[doc(hidden)]
pub mod planted;
pub mod rate;
pub mod reason;
pub mod reassembly;
pub mod send;
pub mod slab;
pub mod wheel;

pub use codec::{
    Codec, Decode, Decoded, Delimiter, Encode, Endian, Fixed, Frame, FrameError, InvalidLayout, KindWidth,
    LengthPrefix, LengthPrefixBuilder, LengthWidth, Lines, Raw, SizeKind,
};
pub use connection::{Action, Connection, State};
pub use fault::{Fault, FaultClass, FaultKind};
pub use id::SessionId;
pub use limits::{Limits, OnExcess, Rates, ReceiveRate, SendMarks};
pub use overflow::{Losses, Overflow};
pub use reason::{Blame, CloseReason};
pub use reassembly::Reassembly;
pub use send::{ChunkPool, Edition, Refusal, SendBatch, Sent};
pub use slab::{Slab, SlabKey};
pub use wheel::{TimerHandle, TimerWheel};
