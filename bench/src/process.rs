//! The table of servers, and one of them as a child process.

use std::{
    ffi::OsString,
    io::Read,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Context, Error, Result},
    server, sys,
    workload::{Role, Workload},
};

/// How to start a server that listens on an address.
#[derive(Clone, Copy, Debug)]
enum Launch {
    /// A server inside this program, by its names on the command line as an echo and as a fan-out, if it is both.
    Own { echo: Option<&'static str>, fanout: Option<&'static str> },
    /// C++ Asio, which this program compiles.
    Asio,
    /// The program of this project, with one of its drivers.
    Anyport { driver: &'static str },
    /// The same with its handlers on a logic thread, as an echo.
    AnyportLogic { driver: &'static str },
}

/// One column of the result.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub name: &'static str,
    /// In the picture.
    pub color: &'static str,
    launch: Launch,
    /// Measured only when it is named.
    pub on_request: bool,
}

impl Server {
    const fn new(name: &'static str, color: &'static str, launch: Launch) -> Self {
        Self { name, color, launch, on_request: false }
    }

    /// The bare io_uring loop with one thing done otherwise.
    const fn variant(name: &'static str, color: &'static str) -> Self {
        Self { name, color, launch: echo(name), on_request: true }
    }
}

/// All servers. To compare another engine, add a line here (and, if it lives in this program, a file in
/// `server/`).
pub const SERVERS: [Server; 19] = [
    Server::new(BARE_URING, "#8b949e", both("bare-uring", "bare-uring-fanout")),
    Server::new(BARE_EPOLL, "#6e7781", both("bare-epoll", "bare-epoll-fanout")),
    Server::new("anyport io-uring", "#1f6feb", Launch::Anyport { driver: "io-uring" }),
    Server::new("anyport readiness", "#58a6ff", Launch::Anyport { driver: "readiness" }),
    Server::new("anyport logic", "#3fb950", Launch::AnyportLogic { driver: "io-uring" }),
    Server::new("tokio", "#d29922", echo("tokio")),
    Server::new("tokio broadcast", "#d29922", fanout("tokio-broadcast")),
    Server::new("tokio broadcast gathered", "#e3b341", fanout("tokio-broadcast-gathered")),
    Server::new("tokio mpsc", "#9e6a03", fanout("tokio-mpsc")),
    Server::new("tokio mpsc gathered", "#f2cc60", fanout("tokio-mpsc-gathered")),
    Server::new("monoio", "#db61a2", echo("monoio")),
    Server::new("compio", "#a371f7", echo("compio")),
    Server::new(NET_IO, "#f85149", echo("net-io")),
    Server::new("Asio", "#39c5cf", Launch::Asio),
    Server::variant("ring-one-shot-receive", "#bc4c00"),
    Server::variant("ring-gathered-send", "#bf8700"),
    Server::variant("ring-zero-copy-send", "#1a7f37"),
    Server::variant("ring-cooperative-task-work", "#8250df"),
    Server::variant("ring-kernel-thread", "#cf222e"),
];

const fn both(echo: &'static str, fanout: &'static str) -> Launch {
    Launch::Own { echo: Some(echo), fanout: Some(fanout) }
}

const fn echo(echo: &'static str) -> Launch {
    Launch::Own { echo: Some(echo), fanout: None }
}

const fn fanout(fanout: &'static str) -> Launch {
    Launch::Own { echo: None, fanout: Some(fanout) }
}

/// What a server may open beside its sessions: the listener, epoll or rings, timers, the descriptors it starts with.
const OWN_DESCRIPTORS: u64 = 32;

/// A thread for each session, and of them not any number.
const NET_IO: &str = "net-io";

/// The servers that ratios refer to.
pub const BARE_URING: &str = "bare-uring";
pub const BARE_EPOLL: &str = "bare-epoll";

impl Server {
    /// False if it has nothing to do in this role.
    pub fn plays(&self, role: Role) -> bool {
        match self.launch {
            Launch::Own { echo, .. } if role == Role::Echo => echo.is_some(),
            Launch::Own { fanout, .. } => fanout.is_some(),
            Launch::Anyport { .. } | Launch::Asio => true,
            Launch::AnyportLogic { .. } => role == Role::Echo,
        }
    }

    /// How many sessions it can hold where a process may open so many descriptors.
    pub fn sessions_max(&self, descriptors_max: u64) -> u64 {
        let direct = match self.launch {
            Launch::Own { .. } if self.name == NET_IO => {
                return server::net_io::workers(descriptors_max).into();
            }
            Launch::Own { .. } => self.name == BARE_URING || self.on_request,
            Launch::Asio => false,
            Launch::Anyport { driver } | Launch::AnyportLogic { driver } => driver == "io-uring",
        };
        // Direct descriptors have a table of their own, which may be as long as that of the process.
        if direct { descriptors_max } else { descriptors_max.saturating_sub(OWN_DESCRIPTORS) }
    }

    /// True if each session has a thread. They wait for each other, which looks as if other processes disturbed them; and
    /// they are too many to count the system calls of each.
    pub fn has_many_threads(&self) -> bool {
        self.name == NET_IO
    }

    pub fn needs_asio(&self) -> bool {
        matches!(self.launch, Launch::Asio)
    }

    pub fn needs_anyport(&self) -> bool {
        matches!(self.launch, Launch::Anyport { .. } | Launch::AnyportLogic { .. })
    }
}

/// Where the programs are, and how they are started.
#[derive(Debug)]
pub struct Programs {
    pub own: PathBuf,
    pub anyport: Option<PathBuf>,
    pub asio: Option<PathBuf>,
    /// Put at the end of anyport's command line.
    pub anyport_arguments: Vec<String>,
    pub server_cpu: usize,
    /// The first of the servers' ports; without it the kernel chooses.
    pub port_first: Option<u16>,
}

/// Builds the program of this project; returns its path.
pub fn build_anyport(root: &Path) -> Result<PathBuf> {
    let failed = |reason: String| Error::Start { program: "cargo build -p anyport-cli".into(), reason };
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "-p", "anyport-cli", "--message-format=json-render-diagnostics"])
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}; --skip-anyport compares the others", output.status)));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "anyport")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| failed("it built no program named anyport".into()))
}

/// A server that listens. Dropping it kills it.
pub struct Running {
    pub name: &'static str,
    pub address: SocketAddrV4,
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
}

const START_MAX_S: u64 = 10;
/// A server that cannot listen says so within this time.
const START_SETTLE: Duration = Duration::from_millis(30);
/// Of each server's standard error.
const STDERR_KEPT_BYTES: usize = 16 * 1024;

impl Running {
    /// Starts a server and waits until it accepts connections.
    pub fn start(server: &Server, workload: Workload, index: u16, programs: &Programs) -> Result<Self> {
        Self::start_under(&[], server, workload, index, programs)
    }

    /// As [`start`](Self::start), by another program: `under` stands before its command line. If there is one, the server
    /// also never takes the processor from us: it runs when we wait.
    pub fn start_under(
        under: &[OsString],
        server: &Server,
        workload: Workload,
        index: u16,
        programs: &Programs,
    ) -> Result<Self> {
        let role = workload.role();
        let buffer_bytes = workload.buffer_bytes().to_string();
        let port = match programs.port_first {
            Some(first) => first.checked_add(index).ok_or(Error::Usage("the ports end at 65535".into()))?,
            None => unused_port().context("choosing a port")?,
        };
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut command = match server.launch {
            Launch::Own { echo, fanout } => {
                let kind = if role == Role::Echo { echo } else { fanout };
                let kind = kind.ok_or(Error::Usage(format!("{} plays another role", server.name)))?;
                let mut command = Command::new(&programs.own);
                command.args(["server", kind, "--listen", &address.to_string()]);
                command.args(["--buffer-bytes", &buffer_bytes]);
                command
            }
            Launch::Asio => {
                let program =
                    programs.asio.as_ref().ok_or(Error::Usage("no path of Asio's server".into()))?;
                let mut command = Command::new(program);
                let name = if role == Role::Echo { "echo" } else { "fanout" };
                command.args([name, &port.to_string(), &buffer_bytes]);
                command
            }
            Launch::Anyport { driver } | Launch::AnyportLogic { driver } => {
                let program = programs.anyport.as_ref().ok_or(Error::Usage("no path of anyport".into()))?;
                let mut command = Command::new(program);
                let service = if role == Role::Echo { "echo" } else { "fanout" };
                command.args(["serve", service, "--listen", &address.to_string()]);
                command.args(["--shards", "1", "--driver", driver]).args(&programs.anyport_arguments);
                if matches!(server.launch, Launch::AnyportLogic { .. }) {
                    command.args(["--logic-threads", "1"]);
                }
                command
            }
        };
        if let [program, arguments @ ..] = under {
            let mut outer = Command::new(program);
            outer.args(arguments).arg(command.get_program()).args(command.get_args());
            sys::let_us_go_first(&mut outer);
            command = outer;
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        sys::tie_to_us(&mut command, programs.server_cpu);
        let mut child = command.spawn().map_err(|error| Error::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            reason: error.to_string(),
        })?;
        let stderr = Arc::default();
        if let Some(pipe) = child.stderr.take() {
            let kept = Arc::clone(&stderr);
            thread::spawn(move || keep_last(pipe, &kept));
        }
        let mut running = Self { name: server.name, address, child, stderr };
        running.await_listening()?;
        Ok(running)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn await_listening(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed().as_secs() < START_MAX_S {
            self.check_alive()?;
            if TcpStream::connect(self.address).is_ok() {
                thread::sleep(START_SETTLE);
                return self.check_alive();
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(Error::Deaf { server: self.name.into(), waited_s: START_MAX_S, stderr: self.stderr() })
    }

    /// An error if the process has ended, with the reason it gave.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("waitpid")? {
            None => Ok(()),
            Some(status) => {
                // The reader of the pipe needs a moment to see its end.
                thread::sleep(START_SETTLE);
                Err(Error::Died {
                    server: self.name.into(),
                    status: status.to_string(),
                    stderr: self.stderr(),
                })
            }
        }
    }

    fn stderr(&self) -> String {
        let kept = self.stderr.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        String::from_utf8_lossy(&kept).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the process is gone, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, so that the server never blocks on a full pipe, and keeps the last part.
fn keep_last(mut pipe: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(STDERR_KEPT_BYTES);
        kept.drain(..excess);
    }
}

fn unused_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
