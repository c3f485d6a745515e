//! A server of the loader's own: another process of this program, which ends with the loader.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use crate::{
    args::{CodecName, Common, Loading, typed},
    exit::{Failure, Outcome},
};

/// How long a server may take to listen, and to end beyond its own drain deadline.
const PATIENCE: Duration = Duration::from_secs(30);

/// The flag of Windows by this name.
#[cfg(windows)]
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;

/// The running server. Its standard input is held open: when this process ends in whatever manner, the input
/// ends, and the server drains.
pub(crate) struct Spawned {
    child: Child,
    lines: Receiver<String>,
    address: SocketAddr,
}

/// A server to be started: its command line but for where it listens.
pub(crate) struct ServerCommand {
    arguments: Vec<String>,
    /// The option that says where; none if it stands by itself.
    listen: Option<&'static str>,
    connections: u64,
}

/// Connections that one address of a server gets: the ports that Linux gives to clients are 28,232, and some of them
/// may be in use.
const CONNECTIONS_PER_ADDRESS: u64 = 20_000;

impl Spawned {
    /// Runs a load against a server that is started for it, or against one that is there. The load is given the
    /// addresses and the number of the process.
    pub(crate) fn with(
        server: Option<ServerCommand>,
        addresses: &[String],
        load: impl FnOnce(&[String], Option<u32>) -> Outcome,
    ) -> Outcome {
        let Some(command) = server else { return load(addresses, None) };
        let server = Self::start(&command)?;
        let ended = load(&server.addresses(command.connections), Some(server.child.id()));
        // What went wrong in the run matters more than what goes wrong afterwards.
        match ended {
            Ok(()) => server.stop(),
            failure => failure,
        }
    }

    /// As many addresses of the server as so many connections need.
    fn addresses(&self, connections: u64) -> Vec<String> {
        let port = self.address.port();
        let addresses = connections.div_ceil(CONNECTIONS_PER_ADDRESS);
        (1..=addresses).map(|last| format!("127.0.0.{last}:{port}")).collect()
    }

    /// Starts the server and waits until it listens.
    fn start(server: &ServerCommand) -> Outcome<Self> {
        let fail = |what: String| Failure::Run(format!("cannot start a server: {what}"));
        let program = std::env::current_exe().map_err(|error| fail(error.to_string()))?;
        let mut command = Command::new(program);
        // Only who needs more than one address listens on more than one.
        let host = if server.connections > CONNECTIONS_PER_ADDRESS { "0.0.0.0:0" } else { "127.0.0.1:0" };
        let host = server.listen.map(|option| [option, host].join("=")).unwrap_or(host.to_owned());
        command.args(&server.arguments).args([&host, "--until-input-ends"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C on a terminal goes to a whole group: the server must outlive the loader's last questions.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        // Windows sends Ctrl-C to all on the console but those that lead a group; Ctrl-Break goes to all.
        #[cfg(windows)]
        std::os::windows::process::CommandExt::creation_flags(&mut command, CREATE_NEW_PROCESS_GROUP);
        let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
        let output = child.stdout.take().expect("its output is a pipe");
        let lines = match read_lines(output) {
            Ok(lines) => lines,
            Err(error) => {
                end(&mut child);
                return Err(fail(error.to_string()));
            }
        };
        let Some(address) = listening(&lines) else {
            end(&mut child);
            return Err(fail("it did not say where it listens; its own message is above".to_owned()));
        };
        Ok(Self { child, lines, address })
    }

    /// Drains the server and waits for its end.
    fn stop(mut self) -> Outcome {
        drop(self.child.stdin.take());
        // Its output ends when it does; what it says until then is its summary.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        match self.child.try_wait_for(PATIENCE) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Failure::Run(format!("the server that was started ended badly: {status}"))),
            None => Err(Failure::Run("the server that was started did not end in time".to_owned())),
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Kills it if it still runs; either way nothing of it is left.
fn end(child: &mut Child) {
    if let Ok(None) = child.try_wait() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

trait WaitFor {
    /// Waits for a process that is about to end.
    fn try_wait_for(&mut self, patience: Duration) -> Option<std::process::ExitStatus>;
}

impl WaitFor for Child {
    fn try_wait_for(&mut self, patience: Duration) -> Option<std::process::ExitStatus> {
        const STEP: Duration = Duration::from_millis(5);
        for _ in 0..patience.as_millis() / STEP.as_millis() {
            match self.try_wait() {
                Ok(None) => std::thread::sleep(STEP),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
        None
    }
}

/// A server for loads whose messages come back.
pub(crate) fn echo_server(
    loading: &Loading,
    codec: CodecName,
    frame_size: usize,
    connections: u64,
) -> ServerCommand {
    let mut arguments = vec!["serve".to_owned(), "echo".to_owned()];
    let mut set = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    set("--codec", typed(codec));
    set("--shards", server_shards(loading.threads).to_string());
    if codec != CodecName::Raw {
        set("--frame-size-max", frame_size.max(64).to_string());
    }
    if connections > SESSIONS_UNASKED {
        set("--sessions-max", connections.to_string());
    }
    set_common(&mut arguments, loading.common);
    ServerCommand { arguments, listen: Some("--listen"), connections }
}

/// A chat in which nobody says too much, and `under_way` bytes may be on their way to each member.
pub(crate) fn chat_server(loading: &Loading, connections: u64, under_way: u64) -> ServerCommand {
    let mut arguments = vec!["serve".to_owned(), "chat".to_owned()];
    let mut set = |name: &str, value: u64| arguments.extend([name.to_owned(), value.to_string()]);
    set("--message-rate", 0);
    set("--queue-max", (4 * under_way).max(256 << 10));
    if connections > SESSIONS_UNASKED {
        set("--sessions-max", connections);
    }
    set_common(&mut arguments, loading.common);
    ServerCommand { arguments, listen: None, connections }
}

/// Sessions up to which a server takes what the system allows, and is not asked for so many: it would refuse to start
/// if the system has fewer.
const SESSIONS_UNASKED: u64 = 1000;

fn set_common(arguments: &mut Vec<String>, common: Common) {
    arguments.extend(["--driver".to_owned(), typed(common.driver)]);
    if common.pin {
        arguments.push("--pin".to_owned());
    }
    if common.huge_pages {
        arguments.push("--huge-pages".to_owned());
    }
    if common.spin_us > 0 {
        arguments.extend(["--spin-us".to_owned(), common.spin_us.to_string()]);
    }
}

/// Processors of this process.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The server takes the processors that the loader leaves.
fn server_shards(threads: u64) -> usize {
    processors().saturating_sub(threads as usize).clamp(1, 256)
}

/// Passes the lines of a process on, so that they can be waited for with a deadline.
fn read_lines(output: ChildStdout) -> std::io::Result<Receiver<String>> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("server-output".to_owned()).spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn listening(lines: &Receiver<String>) -> Option<SocketAddr> {
    const LINES_MAX: usize = 16;
    for _ in 0..LINES_MAX {
        let line = lines.recv_timeout(PATIENCE).ok()?;
        if let Some(rest) = line.strip_prefix("listening on ") {
            return rest.split(' ').next()?.parse().ok();
        }
    }
    None
}
