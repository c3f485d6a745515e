//! net-io: its blocking handler, as its documentation shows. A connection has a thread of a pool for itself.
//!
//! What it says about itself decides how many it can hold: a worker for each connection, at most 4,096 of them, and
//! three descriptors for each; one connection more is refused with a reset. Its limits stay on, widened so that none of them ends a connection of the loader.

use std::{io, net::SocketAddr, time::Duration};

use net_io::{
    AllowAll, Limits, ListenOptions, ListenerSpec, MinRate, NetError, PrefixPolicy, ServerBuilder,
    TcpConnection, TcpOptions,
};

use super::BACKLOG;
use crate::sys;

/// The most workers that it allows.
const WORKERS_MAX: u64 = 4096;
/// What it wants to have beside those of connections and workers.
const OWN_DESCRIPTORS: u64 = 32;
/// Between two visits of the loader nobody says anything.
const SILENCE_MAX: Duration = Duration::from_secs(3600);
/// For each worker it asks for at least so much; it takes it only when its own buffers are used, which a handler does not
/// do.
const BUDGET_BYTES: u64 = 2 * 64 * 1024;

/// As many as it allows where a process may open so many descriptors: each takes one for its connection, and two.
pub fn workers(descriptors_max: u64) -> u16 {
    (descriptors_max.saturating_sub(OWN_DESCRIPTORS) / 3).min(WORKERS_MAX) as u16
}

/// Listens and serves. Its server listens itself, which sets the options that accepted sockets inherit.
pub fn run(address: SocketAddr, buffer_bytes: usize) -> io::Result<()> {
    let workers = workers(sys::raise_descriptor_limit()?);
    serve(address, workers, buffer_bytes).map_err(io::Error::other)
}

fn serve(address: SocketAddr, workers: u16, buffer_bytes: usize) -> Result<(), NetError> {
    let limits = Limits::builder()
        // All connections of the loader come from few addresses.
        .max_per_source(u32::from(workers), PrefixPolicy::DEFAULT)
        .idle_timeout(SILENCE_MAX)
        .read_timeout(SILENCE_MAX)
        .min_rate(MinRate::off())
        .buffer_budget(u64::from(workers) * BUDGET_BYTES)
        .build()?;
    let options = ListenOptions::new().backlog(BACKLOG).tcp_options(TcpOptions::new().nodelay(true));
    let server = ServerBuilder::new()
        .listener(ListenerSpec::tcp_with(address, options))
        .workers(workers)
        .limits(limits)
        .handler(move |connection: &mut TcpConnection| echo(connection, buffer_bytes))
        .gate(AllowAll)
        .build()?;
    server.open_door()?;
    server.wait_for_stop();
    Ok(())
}

fn echo(connection: &mut TcpConnection, buffer_bytes: usize) -> Result<(), NetError> {
    let mut buffer = vec![0; buffer_bytes];
    loop {
        let count = connection.recv(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        connection.send_all(&buffer[..count])?;
    }
}
