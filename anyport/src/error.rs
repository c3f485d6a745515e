//! What can go wrong while an engine is set up or run. Every message says what to do next.

use std::{fmt, io, path::PathBuf};

use anyport_core::limits::InvalidLimit;
use anyport_driver::{Address, DriverKind};

/// `Result` of setting up and running an engine.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of set-up or of the engine as a whole. A session's end is no error: it is a
/// [`CloseReason`](crate::CloseReason).
///
/// `Debug` shows the same text as `Display`: it is what a `main` that returns the error prints.
#[non_exhaustive]
pub enum Error {
    /// The address is not one.
    Address {
        /// What was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A limit is outside its range.
    Limit(InvalidLimit),
    /// The number of shards is outside its range.
    Shards {
        /// What was given.
        shards: usize,
    },
    /// The number of logic threads of a service is outside its range.
    LogicThreads {
        /// What was given.
        threads: usize,
    },
    /// More services than an engine can name.
    TooManyServices,
    /// There is nothing to run: no service was added.
    NoServices,
    /// The address cannot be listened on.
    Listen {
        /// Where.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// The driver cannot be had.
    Driver(io::Error),
    /// The driver cannot spread connections by [`Spread::ReusePort`](crate::Spread::ReusePort).
    Spread {
        /// Which.
        driver: DriverKind,
    },
    /// A service is at a Unix socket, which the driver has not.
    UnixSockets {
        /// Which driver.
        driver: DriverKind,
    },
    /// [`Spread::ReusePort`](crate::Spread::ReusePort) was asked for with a server at a Unix socket.
    UnixReusePort,
    /// The file cannot be opened to append to it, or its thread not be started.
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A shard's thread could not be started, or its driver failed while running.
    Shard {
        /// Which.
        shard: usize,
        /// What happened.
        source: io::Error,
    },
    /// The threads of the pool could not be started.
    Pool(io::Error),
    /// A logic thread could not be started, or could not go on.
    LogicThread {
        /// Which, among those of all services.
        thread: usize,
        /// What happened.
        source: io::Error,
    },
    /// The process already has a handler for termination signals.
    Signals(String),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, source } => {
                write!(f, "`{address}` is not an address ({source}): give HOST:PORT, like 127.0.0.1:7000, or unix:PATH")
            }
            Self::Limit(limit) => limit.fmt(f),
            Self::Shards { shards } => {
                write!(f, "an engine has 1 to {} shards, not {shards}", crate::SessionId::SHARDS_MAX)
            }
            Self::LogicThreads { threads } => {
                write!(f, "a service has 1 to {} logic threads, not {threads}", crate::SessionId::SHARDS_MAX)
            }
            Self::TooManyServices => {
                write!(f, "an engine has at most {} services", crate::SessionId::SERVICES_MAX)
            }
            Self::NoServices => f.write_str("the engine has no service: add one with `serve` or `connect`"),
            Self::Listen { address, source } => {
                write!(f, "cannot listen on {address}: {}", explain_listen(address, source))
            }
            Self::Driver(source) if is_short_of_files(source) => {
                write!(f, "cannot open what a shard needs: {source}: {MORE_FILES}")
            }
            Self::Driver(source) => source.fmt(f),
            Self::Spread { driver } => write!(
                f,
                "Spread::ReusePort needs listeners that share a port, which driver {driver} cannot have: choose \
                 Spread::Auto or Spread::HandOver"
            ),
            Self::UnixSockets { driver } => {
                write!(f, "Unix sockets are not supported by driver {driver}; use HOST:PORT")
            }
            Self::UnixReusePort => f.write_str(
                "Spread::ReusePort needs listeners that share a port, and a Unix socket has none: choose Spread::Auto, \
                 with which the first shard listens there and hands connections over",
            ),
            Self::File { path, source } => {
                let path = path.display();
                write!(f, "cannot append to {path}: {source}: {}", explain_file(source))
            }
            Self::Shard { shard, source } => write!(f, "shard {shard} failed: {source}"),
            Self::Pool(source) => write!(
                f,
                "cannot start the threads of the pool: {source}: ask for fewer with Engine::pool, or raise the \
                 limit on threads (ulimit -u)"
            ),
            Self::LogicThread { thread, source } => write!(f, "logic thread {thread} failed: {source}"),
            Self::Signals(what) => write!(f, "cannot handle termination signals: {what}"),
        }
    }
}

/// Which codes say that no more files or sockets can be opened: `EMFILE` and `ENFILE` have these numbers on every
/// Unix, and `WSAEMFILE` and `WSAENOBUFS` are what Windows says.
const SHORT_OF_FILES: [i32; 2] = if cfg!(windows) { [10_024, 10_055] } else { [23, 24] };

const MORE_FILES: &str = if cfg!(windows) {
    "Windows has no memory for more sockets; close programs that hold many"
} else {
    "raise the limit on open files (ulimit -n)"
};

const FORBIDDEN_PORT: &str = if cfg!(windows) {
    "another program has the port for itself, or Windows keeps it (`netsh interface ipv4 show excludedportrange \
     protocol=tcp` lists those); choose another port"
} else {
    "the system forbids it"
};

fn is_short_of_files(source: &io::Error) -> bool {
    source.raw_os_error().is_some_and(|code| SHORT_OF_FILES.contains(&code))
}

fn explain_listen(address: &Address, source: &io::Error) -> String {
    let is_low = address.ip().is_some_and(|address| address.port() < 1024);
    let advice = match source.kind() {
        io::ErrorKind::AddrInUse if address.is_unix() => {
            "stop the program that listens there, or choose another path"
        }
        io::ErrorKind::NotFound if address.is_unix() => "make the folder, or choose another path",
        io::ErrorKind::PermissionDenied if address.is_unix() => {
            "the system forbids it; choose a folder that this user may write to"
        }
        // What these say is whole.
        io::ErrorKind::Unsupported | io::ErrorKind::AlreadyExists | io::ErrorKind::InvalidInput
            if source.raw_os_error().is_none() =>
        {
            return source.to_string();
        }
        io::ErrorKind::AddrInUse => "stop the program that uses it, or choose another port",
        io::ErrorKind::AddrNotAvailable => {
            "it is not an address of this machine; 0.0.0.0 listens on all of them"
        }
        io::ErrorKind::PermissionDenied if cfg!(unix) && is_low => {
            "ports below 1024 need privilege; choose one from 1024 up, or grant CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::PermissionDenied => FORBIDDEN_PORT,
        _ if is_short_of_files(source) => MORE_FILES,
        _ => "see `anyport doctor`",
    };
    format!("{source}: {advice}")
}

fn explain_file(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "its folder must exist; make it, or name another one"
        }
        io::ErrorKind::PermissionDenied => "the user that runs this must be allowed to write there",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on the disk",
        _ if is_short_of_files(source) => MORE_FILES,
        _ => "name another file",
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address { source, .. }
            | Self::Listen { source, .. }
            | Self::Driver(source)
            | Self::File { source, .. }
            | Self::Pool(source)
            | Self::LogicThread { source, .. }
            | Self::Shard { source, .. } => Some(source),
            Self::Limit(limit) => Some(limit),
            _ => None,
        }
    }
}

impl From<InvalidLimit> for Error {
    fn from(limit: InvalidLimit) -> Self {
        Self::Limit(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_said_is_the_source() {
        let said = || io::Error::other("it said so");
        let errors = [
            Error::Driver(said()),
            Error::Pool(said()),
            Error::Shard { shard: 0, source: said() },
            Error::LogicThread { thread: 0, source: said() },
            Error::File { path: "a".into(), source: said() },
        ];
        for error in errors {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            assert_eq!(source.as_deref(), Some("it said so"), "{error}");
        }
    }
}
