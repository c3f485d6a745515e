//! Talking to a service without a network.

use std::{fmt, io, time::Duration};

use anyport_driver::pipes::PipePeer;

use crate::{dialing::ConnectError, handler::Handler, remote::Remote};

/// One end of a session of an [offline](crate::Server::offline) service: what a client's socket is to a server.
///
/// It is read from and written to as a `TcpStream`, on any thread. Dropping it closes the connection, in order if
/// everything that came was read.
pub struct OfflinePeer(PipePeer);

impl OfflinePeer {
    /// Whether reads and writes that cannot be done now fail with `WouldBlock` instead of waiting. At first they wait.
    /// Whoever steps a simulated engine on the same thread must not wait.
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.0.set_nonblocking(nonblocking);
    }

    /// How long a read or a write waits at most, before it fails with `TimedOut`. Without bound at first.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.0.set_timeout(timeout);
    }

    /// Ends our direction after what was written; reading goes on.
    pub fn shutdown_write(&mut self) {
        self.0.shutdown_write();
    }
}

impl io::Read for OfflinePeer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl io::Write for OfflinePeer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for OfflinePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OfflinePeer").field(&self.0).finish()
    }
}

impl<H: Handler> Remote<H> {
    /// Opens a session of an [offline](crate::Server::offline) service, on the shard whose turn it is. Before the engine
    /// has started it waits for that.
    ///
    /// # Errors
    /// If the service is not offline, 4,096 wait to be accepted there already, or the engine has ended or is ending.
    pub fn open_offline(&self) -> Result<OfflinePeer, ConnectError> {
        self.open_offline_on(self.places.next_shard(self.shards()))
    }

    /// As [`open_offline`](Self::open_offline), on this shard.
    ///
    /// # Errors
    /// As [`open_offline`](Self::open_offline); and if there is no such shard.
    pub fn open_offline_on(&self, shard: usize) -> Result<OfflinePeer, ConnectError> {
        if self.places.hubs.is_empty() {
            return Err(ConnectError::NotOffline { kind: self.places.kind });
        }
        let hub = self.places.hubs.get(shard).ok_or(ConnectError::Ended)?;
        hub.connect().map(OfflinePeer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => ConnectError::Full,
            _ => ConnectError::Ended,
        })
    }
}
