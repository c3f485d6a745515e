//! A driver for threads that do no I/O of their own: what they submit crosses to I/O shards in batches, and so
//! does what becomes of it.
//!
//! Two halves and a link between them. [`Relay`] is the half on the logic thread: one more driver, which keeps the
//! whole contract, so that everything above works on it as on any other. It has a link to each of the I/O shards, and
//! each of its sockets lives on one. [`RelayEnd`] is the half on an I/O shard: it carries out on the real driver what
//! the relay was asked for. Many relays may have ends on one shard, beside services that have nothing to do with it.
//!
//! ```text
//!  logic thread               link                 I/O shard
//!  ServiceShard ── Relay ══ orders ═══════► RelayEnd ── io_uring, readiness, IOCP, Sim
//!                        ◄═══════ news ════
//! ```
//!
//! - **Batches.** All orders of one wait cross together, and all news of one turn: one short lock and at most one
//!   wake for each. The other side is woken by a system call only if it sleeps ([`Waker`](crate::Waker)).
//! - **Bytes** are copied once, from the real driver's buffer into one that crosses with the news; the engine looks at
//!   them there. When the leases on a buffer have come back, it returns with the next orders.
//! - **Credit.** Of each link, [`receive_memory_bytes`](crate::DriverConfig::receive_memory_bytes) may be under way.
//!   What arrives for a logic thread that does not keep up is kept by its socket, beyond that memory, and receiving on
//!   that socket is cancelled until buffers come back. When twice the memory is kept, every socket of the relay stops
//!   receiving, so that no more is kept than arrives until the cancels take effect. Then sockets go on in the order in
//!   which they ran dry or stopped (sentence 4). Other logic threads of the shard notice nothing.
//! - **The end of one half** is the end of all that it held: a relay that is dropped closes its sockets, and one whose
//!   I/O shard has gone ends everything on that link with a fault.

mod end;
mod lane;
mod logic;
mod pump;
#[cfg(all(test, not(loom)))]
mod tests;
mod wire;

pub use end::RelayEnd;
pub use logic::Relay;
pub use pump::{Parked, Pump, Stepped};

use self::{
    lane::{Receiver, Sender},
    wire::{News, Order},
};

/// The logic thread's side of a link, until a [`Relay`] takes it.
pub struct RelaySeat {
    orders: Sender<Order>,
    news: Receiver<News>,
}

/// The I/O shard's side of a link, until a [`RelayEnd`] takes it.
pub struct EndSeat {
    orders: Receiver<Order>,
    news: Sender<News>,
}

/// A link between a logic thread and an I/O shard.
pub fn link() -> (RelaySeat, EndSeat) {
    let (to_end, orders) = lane::lane();
    let (to_relay, news) = lane::lane();
    (RelaySeat { orders: to_end, news }, EndSeat { orders, news: to_relay })
}
