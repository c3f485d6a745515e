//! Which driver this machine offers, and why.

use std::{fmt, io};

use crate::options::DriverConfig;

/// The drivers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum DriverKind {
    /// Linux io_uring.
    IoUring,
    /// epoll or kqueue.
    Readiness,
    /// Windows completion ports.
    Iocp,
    /// The simulator.
    Sim,
    /// Links to the drivers of other threads.
    Relay,
    /// Connections in memory.
    Pipes,
}

impl DriverKind {
    /// True if several listeners can share a port ([`PortSharing`](crate::options::PortSharing)): Windows has no
    /// such thing.
    pub fn shares_ports(self) -> bool {
        match self {
            Self::IoUring | Self::Readiness | Self::Sim => true,
            Self::Iocp | Self::Pipes => false,
            Self::Relay => cfg!(not(windows)),
        }
    }

    /// True if it can listen at paths and connect to them ([`Address::Unix`](crate::Address::Unix)).
    pub fn has_unix_sockets(self) -> bool {
        self != Self::Iocp && !(self == Self::Relay && cfg!(windows))
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io-uring",
            Self::Readiness => "readiness",
            Self::Iocp => "iocp",
            Self::Sim => "sim",
            Self::Relay => "relay",
            Self::Pipes => "pipes",
        })
    }
}

/// What the user asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DriverChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// io_uring, or an error that says why not.
    IoUring,
    /// Readiness: epoll or kqueue.
    Readiness,
    /// Windows completion ports.
    Iocp,
}

/// A driver that works here, and why it was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Which.
    pub kind: DriverKind,
    /// Why, in one line.
    pub reason: String,
}

/// Takes the best driver that works, or the one that was asked for.
///
/// # Errors
/// If the driver that was asked for does not work here; the error says why and what to do.
pub fn choose(choice: DriverChoice, config: DriverConfig) -> io::Result<Chosen> {
    let chosen = |kind, reason: &str| Ok(Chosen { kind, reason: reason.to_owned() });
    match choice {
        DriverChoice::Auto if cfg!(windows) => {
            chosen(DriverKind::Iocp, "this is Windows, whose own model it is")
        }
        DriverChoice::Auto => Ok(match try_io_uring(config) {
            Ok(reason) => Chosen { kind: DriverKind::IoUring, reason },
            Err(error) => Chosen { kind: DriverKind::Readiness, reason: explain_refusal(&error) },
        }),
        DriverChoice::IoUring if cfg!(not(target_os = "linux")) => {
            Err(elsewhere("io-uring", "io_uring is of Linux"))
        }
        DriverChoice::IoUring => match try_io_uring(config) {
            Ok(_) => chosen(DriverKind::IoUring, "it was asked for"),
            Err(error) => Err(io::Error::new(error.kind(), explain_refusal(&error))),
        },
        DriverChoice::Readiness if cfg!(unix) => chosen(DriverKind::Readiness, "it was asked for"),
        DriverChoice::Readiness => Err(elsewhere("readiness", "it needs epoll or kqueue")),
        DriverChoice::Iocp if cfg!(windows) => chosen(DriverKind::Iocp, "it was asked for"),
        DriverChoice::Iocp => Err(elsewhere("iocp", "completion ports are of Windows")),
    }
}

fn elsewhere(driver: &str, why: &str) -> io::Error {
    let text = format!("this system has no driver {driver}: {why}: leave the choice to `auto`");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

#[cfg(target_os = "linux")]
fn try_io_uring(config: DriverConfig) -> io::Result<String> {
    // On a thread of its own: what the kernel still does for a ring that is gone would interrupt blocking
    // calls of the thread that made it.
    let features = std::thread::spawn(move || crate::io_uring::probe(config));
    let features = features.join().map_err(|_| io::Error::other("the probe panicked; this is a bug"))??;
    let buffers =
        if features.incremental_buffers { "with incremental buffers" } else { "with whole buffers" };
    Ok(format!("the kernel offers io_uring {buffers}"))
}

#[cfg(not(target_os = "linux"))]
fn try_io_uring(_: DriverConfig) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no io_uring"))
}

/// Sockets that are the process's own beside its sessions: standard streams, and for each shard a listener, a queue
/// of the system and a waker.
const OTHER_FILES: (u64, u64) = (8, 4);

/// About how many connections the limits of the system allow to `shards` drivers of this kind. `detachable` as in
/// [`ListenOptions`](crate::ListenOptions).
pub fn connections_possible(kind: DriverKind, config: DriverConfig, shards: usize, detachable: bool) -> u64 {
    let shards = shards as u64;
    let files = crate::machine::open_files().soft.unwrap_or(u64::MAX);
    // A listener is one of a driver's sockets.
    let sockets = u64::from(config.sockets_max).saturating_sub(1).min(files).saturating_mul(shards);
    match kind {
        DriverKind::Sim | DriverKind::Relay | DriverKind::Pipes => u64::MAX,
        DriverKind::Iocp => sockets,
        // Each ring has a table of its own, as long as that of the process; the listener is not in it.
        DriverKind::IoUring if !detachable => sockets,
        DriverKind::IoUring | DriverKind::Readiness => {
            let (process, each) = OTHER_FILES;
            sockets.min(files.saturating_sub(process + each * shards))
        }
    }
}

/// Why io_uring cannot be had, and what would change it.
#[cfg(not(target_os = "linux"))]
pub fn explain_refusal(error: &io::Error) -> String {
    error.to_string()
}

/// Why io_uring cannot be had, and what would change it.
#[cfg(target_os = "linux")]
pub fn explain_refusal(error: &io::Error) -> String {
    let switched_off = crate::machine::io_uring_disabled().filter(|&value| value > 0);
    let hint = match (error.kind(), switched_off) {
        (io::ErrorKind::PermissionDenied, Some(value)) => {
            format!("kernel.io_uring_disabled is {value}; set it to 0 to allow it")
        }
        (io::ErrorKind::PermissionDenied, None) => {
            "a seccomp profile forbids it, as containers' default ones do; allow io_uring_setup, io_uring_enter \
             and io_uring_register in the profile"
                .to_owned()
        }
        (io::ErrorKind::OutOfMemory, _) => "raise the limit on locked memory (ulimit -l)".to_owned(),
        (io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput, _) => {
            "it needs Linux 6.1 or later".to_owned()
        }
        _ => "see `anyport doctor`".to_owned(),
    };
    format!("io_uring is refused: {error}: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_of_another_system_is_refused_with_what_to_do() {
        let others = if cfg!(windows) {
            &[(DriverChoice::IoUring, "io-uring"), (DriverChoice::Readiness, "readiness")][..]
        } else {
            &[(DriverChoice::Iocp, "iocp")]
        };
        for &(choice, name) in others {
            let text = choose(choice, DriverConfig::default()).unwrap_err().to_string();
            assert!(text.contains(&format!("no driver {name}:")) && text.contains("`auto`"), "{text}");
        }
    }

    #[test]
    fn what_auto_takes_can_be_asked_for() {
        let chosen = choose(DriverChoice::Auto, DriverConfig::default()).unwrap();
        let choice = match chosen.kind {
            DriverKind::IoUring => DriverChoice::IoUring,
            DriverKind::Readiness => DriverChoice::Readiness,
            DriverKind::Iocp => DriverChoice::Iocp,
            DriverKind::Sim | DriverKind::Relay | DriverKind::Pipes => panic!("nobody asked for it"),
        };
        assert_eq!(choose(choice, DriverConfig::default()).unwrap().kind, chosen.kind);
    }
}
