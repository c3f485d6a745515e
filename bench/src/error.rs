//! What can go wrong, and who is to blame.

use std::{fmt, io, net::SocketAddr};

/// The outcome of everything in this program that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the program, or one workload, stopped.
#[derive(Debug)]
pub enum Error {
    /// A server could not listen: most often the port is taken.
    Listen { address: SocketAddr, source: io::Error },
    /// A program could not be started or built.
    Start { program: String, reason: String },
    /// A server ended by itself; the last of what it wrote to standard error follows.
    Died { server: String, status: String, stderr: String },
    /// A server does not accept connections in time.
    Deaf { server: String, waited_s: u64, stderr: String },
    /// A server answers connections, but not rightly or not in time.
    Server { server: String, fault: Fault },
    /// A system call of our own failed.
    System { what: &'static str, source: io::Error },
    /// The arguments do not fit together or do not fit this machine.
    Usage(String),
}

/// What the loader saw a server do wrong.
#[derive(Debug)]
pub enum Fault {
    /// The connection could not be made.
    Connect { errno: i32 },
    /// The connection broke.
    Broke { connection: u32, operation: &'static str, errno: i32 },
    /// The server closed a connection that should have stayed open.
    Closed { connection: u32 },
    /// The echo differs from what was sent.
    WrongByte { connection: u32, offset: u64, sent: u8, received: u8 },
    /// More came back than was sent.
    TooMuch { connection: u32, sent: u64, received: u64 },
    /// Nothing came for so long that we gave up.
    Silent { waited_s: u64, outstanding: u64 },
    /// A system call of the loader failed.
    Loader { what: &'static str, source: io::Error },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |errno: i32| io::Error::from_raw_os_error(errno);
        match self {
            Self::Connect { errno } => write!(f, "cannot connect: {}", name(*errno)),
            Self::Broke { connection, operation, errno } => {
                write!(f, "{operation} on connection {connection}: {}", name(*errno))
            }
            Self::Closed { connection } => write!(f, "closed connection {connection} before the loader did"),
            Self::WrongByte { connection, offset, sent, received } => write!(
                f,
                "wrong echo on connection {connection} at byte {offset}: sent {sent:#04x}, got {received:#04x}"
            ),
            Self::TooMuch { connection, sent, received } => {
                write!(f, "connection {connection} returned {received} bytes for {sent} sent")
            }
            Self::Silent { waited_s, outstanding } => {
                write!(f, "silent for {waited_s} s with {outstanding} bytes or connections outstanding")
            }
            Self::Loader { what, source } => write!(f, "loader: {what}: {source}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "port in use: cannot listen on {address}: {source}")
            }
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Start { program, reason } => write!(f, "cannot start {program}: {reason}"),
            Self::Died { server, status, stderr } => {
                write!(f, "server {server} died ({status}); its standard error:\n{}", or_nothing(stderr))
            }
            Self::Deaf { server, waited_s, stderr } => write!(
                f,
                "server {server} accepted no connection within {waited_s} s; its standard error:\n{}",
                or_nothing(stderr)
            ),
            Self::Server { server, fault } => write!(f, "server {server}: {fault}"),
            Self::System { what, source } => write!(f, "{what}: {source}"),
            Self::Usage(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

fn or_nothing(text: &str) -> &str {
    if text.trim().is_empty() { "  (nothing)" } else { text.trim_end() }
}

/// Names the system call in front of its error.
pub trait Context<T> {
    fn context(self, what: &'static str) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &'static str) -> Result<T> {
        self.map_err(|source| Error::System { what, source })
    }
}
