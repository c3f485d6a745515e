//! What can be set on a driver and on its sockets. Typed, units in the names.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

/// Options of a connection's socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// `TCP_NODELAY`: do not hold small segments back. The engine gathers what a turn produces, so there is
    /// nothing for the system to wait for. Default true.
    pub no_delay: bool,
    /// `SO_KEEPALIVE` with this idle time (`TCP_KEEPIDLE`), then a probe every sixth of it, six of them (on Windows
    /// every tenth, ten of them): a dead peer is found after twice the time. Default 60 s.
    pub keep_alive: Option<Duration>,
    /// `SO_RCVBUF` in bytes; the system's own sizing if `None`, the default.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF` in bytes; the system's own sizing if `None`, the default.
    pub send_buffer_bytes: Option<usize>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            no_delay: true,
            keep_alive: Some(Duration::from_mins(1)),
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
        }
    }
}

/// Options of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenOptions {
    /// Options that accepted connections inherit.
    pub socket: SocketOptions,
    /// Connections that the system keeps for us before they are accepted. Default 4096.
    pub backlog: u32,
    /// How listeners of one process share a port.
    pub port: PortSharing,
    /// Permissions of a Unix socket's file, as in `chmod` (`0o660`): who may write to it may connect. What the
    /// process's umask leaves if `None`, the default.
    pub unix_mode: Option<u32>,
    /// Accepted sockets will be taken out of the driver ([`detach`](crate::Driver::detach)): where the system
    /// has a cheaper kind of socket that cannot move, do not use it. Default false.
    pub detachable: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            socket: SocketOptions::default(),
            backlog: 4096,
            port: PortSharing::Alone,
            unix_mode: None,
            detachable: false,
        }
    }
}

/// How listeners share a port (`SO_REUSEPORT`). Windows has no such thing: there a listener is
/// [`Alone`](Self::Alone), also in the sense of `SO_EXCLUSIVEADDRUSE`, and hands connections over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortSharing {
    /// The port is this listener's alone.
    Alone,
    /// The first of several: fails if anyone else has the port, then lets [`Further`](Self::Further) ones in.
    First,
    /// Joins the listeners that share the port.
    Further,
}

/// Options of a file to append to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FileOptions {
    /// Nobody but the owner may read it (mode 600), if it is created here; else what the process's mask leaves of
    /// 666. Windows takes the rights of the folder. Default false.
    pub private: bool,
}

/// The name of an old file that was rotated: `path.1` is the youngest, and place 0 is the path itself.
pub fn numbered(path: &Path, place: u32) -> PathBuf {
    if place == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{place}"));
    name.into()
}

/// Sizes of a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriverConfig {
    /// Most sockets, listeners included. Bounded by the open-files limit. Default 65,536.
    pub sockets_max: u32,
    /// Memory for receive buffers, in bytes; only what is used becomes resident. Default 4 MiB.
    pub receive_memory_bytes: usize,
    /// Size of one receive buffer, in bytes: the most that one completion delivers. Default 64 KiB.
    pub receive_buffer_bytes: usize,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self { sockets_max: 65_536, receive_memory_bytes: 4 << 20, receive_buffer_bytes: 64 << 10 }
    }
}
