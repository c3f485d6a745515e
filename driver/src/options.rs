//! What can be set on a driver and on its sockets. Typed, units in the names.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyport_core::limits::InvalidLimit;

/// How a peer that fell silent is found: probes that a living one answers by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepAlive {
    /// Silence before the first probe (`TCP_KEEPIDLE`): 1 s to 32,767 s, in whole seconds, as the system counts.
    pub idle: Duration,
    /// From one probe to the next (`TCP_KEEPINTVL`): 1 s to 32,767 s, in whole seconds.
    pub interval: Duration,
    /// Probes that may stay unanswered (`TCP_KEEPCNT`): 1 to 127. On Windows always ten.
    pub probes: u32,
}

impl KeepAlive {
    /// Probes after so long a silence, then every sixth of it, six of them: a dead peer is found after twice the time.
    pub fn after(idle: Duration) -> Self {
        let interval = (idle / 6).max(Duration::from_secs(1));
        Self { idle, interval, probes: 6 }
    }
}

/// Options of a connection's socket. Over a Unix socket only the sizes of its buffers matter; the others are TCP's and
/// left out there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// `TCP_NODELAY`: do not hold small segments back. The engine gathers what a turn produces, so there is
    /// nothing for the system to wait for. Default true.
    pub no_delay: bool,
    /// `SO_KEEPALIVE` with these times. Default [`KeepAlive::after`] 60 s.
    pub keep_alive: Option<KeepAlive>,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged before the connection is reset; also bounds
    /// keep-alive. 1 ms to 24 days; the system's own, minutes, if `None`, the default. Linux only.
    pub user_timeout: Option<Duration>,
    /// A close throws away what the system has not sent yet and resets the connection (`SO_LINGER` of zero), instead
    /// of ending it in order. Leaves nothing in `TIME_WAIT`; the peer may lose the last bytes. Default false. A linger
    /// that waits is not offered: it would stop the whole shard, and a drain does what it is for.
    pub reset_on_close: bool,
    /// `SO_RCVBUF` in bytes, 1 to 1 GiB; the system's own sizing if `None`, the default. Linux doubles it, and bounds
    /// it by `net.core.rmem_max`.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF` in bytes, 1 to 1 GiB; the system's own sizing if `None`, the default. Linux doubles it, and bounds
    /// it by `net.core.wmem_max`.
    pub send_buffer_bytes: Option<usize>,
    /// The byte that tells routers how to treat packets: `IP_TOS`, of IPv6 `IPV6_TCLASS`. A code point (DSCP) stands in
    /// its upper six bits: `46 << 2` is Expedited Forwarding. The system's own if `None`, the default. Not on Windows.
    pub type_of_service: Option<u8>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            no_delay: true,
            keep_alive: Some(KeepAlive::after(Duration::from_mins(1))),
            user_timeout: None,
            reset_on_close: false,
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
            type_of_service: None,
        }
    }
}

/// Longest time that the system's seconds of a keep-alive hold.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(32_767);
/// Longest user time-out: milliseconds in 31 bits.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
/// Largest buffer of a socket.
const BUFFER_MAX: usize = 1 << 30;

impl SocketOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the option, its rule and the value seen.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        let wrong = |limit, rule, value: u128| {
            Err(InvalidLimit { limit, rule, value: usize::try_from(value).unwrap_or(usize::MAX) })
        };
        if let Some(KeepAlive { idle, interval, probes }) = self.keep_alive {
            let seconds = Duration::from_secs(1)..=KEEP_ALIVE_MAX;
            for (name, time) in [("keep_alive.idle", idle), ("keep_alive.interval", interval)] {
                if !seconds.contains(&time) {
                    return wrong(name, "(in milliseconds) must be from 1000 to 32767000", time.as_millis());
                }
            }
            if !(1..=127).contains(&probes) {
                return wrong("keep_alive.probes", "must be from 1 to 127", probes.into());
            }
        }
        if let Some(time) = self.user_timeout
            && !(Duration::from_millis(1)..=USER_TIMEOUT_MAX).contains(&time)
        {
            let rule = "(in milliseconds) must be from 1 to 2147483647";
            return wrong("user_timeout", rule, time.as_millis());
        }
        let buffers = [
            ("receive_buffer_bytes", self.receive_buffer_bytes),
            ("send_buffer_bytes", self.send_buffer_bytes),
        ];
        for (name, bytes) in buffers {
            if let Some(bytes) = bytes.filter(|bytes| !(1..=BUFFER_MAX).contains(bytes)) {
                return wrong(name, "must be from 1 to 1073741824", bytes as u128);
            }
        }
        Ok(())
    }

    /// Options that were asked for and that this system has not: they are left out. For a warning at the start.
    pub fn left_out(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.user_timeout.is_some() && cfg!(not(target_os = "linux")) {
            names.push("user_timeout");
        }
        if self.type_of_service.is_some() && cfg!(windows) {
            names.push("type_of_service");
        }
        if self.keep_alive.is_some_and(|probes| probes != KeepAlive::after(Duration::from_mins(1)))
            && cfg!(target_os = "openbsd")
        {
            names.push("the times of keep_alive");
        }
        names
    }
}

/// Options of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenOptions {
    /// Options that accepted connections inherit.
    pub socket: SocketOptions,
    /// Connections that the system keeps for us before they are accepted, at least one. Default 4096; Linux bounds it
    /// by `net.core.somaxconn`.
    pub backlog: u32,
    /// How listeners of one process share a port.
    pub port: PortSharing,
    /// `SO_REUSEADDR`: a server that ends can begin again while connections of its last life are still in `TIME_WAIT`.
    /// Default true. Windows needs no such thing, and never lets two servers have one port.
    pub reuse_address: bool,
    /// `IPV6_V6ONLY`: a listener at an IPv6 address takes no IPv4 connections. Default false: `[::]` takes both.
    pub ipv6_only: bool,
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
            reuse_address: true,
            ipv6_only: false,
            unix_mode: None,
            detachable: false,
        }
    }
}

impl ListenOptions {
    /// Checks the ranges, those of [`SocketOptions`] too.
    ///
    /// # Errors
    /// Names the option, its rule and the value seen.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        if self.backlog == 0 {
            return Err(InvalidLimit { limit: "backlog", rule: "must be at least 1", value: 0 });
        }
        if let Some(mode) = self.unix_mode.filter(|mode| *mode > 0o777) {
            let rule = "must be from 0 to 0o777 (511)";
            return Err(InvalidLimit { limit: "unix_mode", rule, value: mode as usize });
        }
        self.socket.validate()
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
    /// How long a wait looks again and again before it sleeps, after something happened: a processor's time for the
    /// time that sleeping and waking take. Zero, the default, sleeps at once; at most
    /// [`SPIN_MAX`](Self::SPIN_MAX), which is taken for what is above. Without effect in simulations.
    pub spin: Duration,
    /// Asks for receive memory of huge pages, which is resident from the first byte on, in pieces of 2 MiB. Default
    /// false. io_uring only, and only where the system gives them
    /// ([`machine::huge_pages_missing`](crate::machine::huge_pages_missing) says why not): elsewhere memory is as without it.
    pub huge_pages: bool,
}

impl DriverConfig {
    /// What holds unless it is set.
    pub const DEFAULT: Self = Self {
        sockets_max: 65_536,
        receive_memory_bytes: 4 << 20,
        receive_buffer_bytes: 64 << 10,
        spin: Duration::ZERO,
        huge_pages: false,
    };

    /// Longest [`spin`](Self::spin): beyond it, sleeping costs nothing that matters.
    pub const SPIN_MAX: Duration = Duration::from_millis(1);
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}
