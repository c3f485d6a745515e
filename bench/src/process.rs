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
    sys,
    workload::Role,
};

/// How to start a server that listens on an address.
#[derive(Clone, Copy, Debug)]
enum Launch {
    /// A server inside this program, by its names on the command line as an echo and as a fan-out, if it is both.
    Own { echo: Option<&'static str>, fanout: Option<&'static str> },
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
}

/// All servers. To compare another engine, add a line here (and, if it lives in this program, a file in
/// `server/`).
pub const SERVERS: [Server; 7] = [
    Server { name: BARE_URING, color: "#8b949e", launch: own("bare-uring", "bare-uring-fanout") },
    Server { name: BARE_EPOLL, color: "#6e7781", launch: own("bare-epoll", "bare-epoll-fanout") },
    Server { name: "anyport io-uring", color: "#1f6feb", launch: Launch::Anyport { driver: "io-uring" } },
    Server { name: "anyport readiness", color: "#58a6ff", launch: Launch::Anyport { driver: "readiness" } },
    Server { name: "anyport logic", color: "#3fb950", launch: Launch::AnyportLogic { driver: "io-uring" } },
    Server { name: "tokio", color: "#d29922", launch: own("tokio", "tokio-broadcast") },
    Server {
        name: "tokio mpsc",
        color: "#e3b341",
        launch: Launch::Own { echo: None, fanout: Some("tokio-mpsc") },
    },
];

const fn own(echo: &'static str, fanout: &'static str) -> Launch {
    Launch::Own { echo: Some(echo), fanout: Some(fanout) }
}

/// What a server may open beside its sessions: the listener, epoll or rings, timers, the descriptors it starts with.
const OWN_DESCRIPTORS: u64 = 32;

/// The servers that ratios refer to.
pub const BARE_URING: &str = "bare-uring";
pub const BARE_EPOLL: &str = "bare-epoll";

impl Server {
    /// False if it has nothing to do in this role.
    pub fn plays(&self, role: Role) -> bool {
        match self.launch {
            Launch::Own { echo, .. } if role == Role::Echo => echo.is_some(),
            Launch::Own { fanout, .. } => fanout.is_some(),
            Launch::Anyport { .. } => true,
            Launch::AnyportLogic { .. } => role == Role::Echo,
        }
    }

    /// How many sessions it can hold where a process may open so many descriptors.
    pub fn sessions_max(&self, descriptors_max: u64) -> u64 {
        let direct = match self.launch {
            Launch::Own { .. } => self.name == BARE_URING,
            Launch::Anyport { driver } | Launch::AnyportLogic { driver } => driver == "io-uring",
        };
        // Direct descriptors have a table of their own, which may be as long as that of the process.
        if direct { descriptors_max } else { descriptors_max.saturating_sub(OWN_DESCRIPTORS) }
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
    pub fn start(server: &Server, role: Role, index: u16, programs: &Programs) -> Result<Self> {
        Self::start_under(&[], server, role, index, programs)
    }

    /// As [`start`](Self::start), by another program: `under` stands before its command line. If there is one, the server
    /// also never takes the processor from us: it runs when we wait.
    pub fn start_under(
        under: &[OsString],
        server: &Server,
        role: Role,
        index: u16,
        programs: &Programs,
    ) -> Result<Self> {
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
