//! Runs the real binary. Everything is waited for by lines and ends, each with a deadline; nothing sleeps.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

/// The flag of Windows by this name.
#[cfg(windows)]
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

/// Far more than anything takes; a machine may be slow and shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);

/// A run of the program. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines,
    errors: Lines,
}

/// Lines as they come, and those that were read.
struct Lines {
    incoming: Receiver<String>,
    seen: String,
}

/// How a run is told to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    /// SIGINT, or Ctrl-C.
    Interrupt,
    /// SIGTERM, or Ctrl-Break.
    Terminate,
    /// At once, without being told.
    Kill,
}

impl Signal {
    /// Those that ask and that this system can send.
    pub(crate) fn asking() -> &'static [Self] {
        // Wine 8 has no Ctrl-Break: it is tried on Windows only.
        if is_wine() { &[Self::Interrupt] } else { &[Self::Interrupt, Self::Terminate] }
    }
}

/// True if this Windows is Wine's.
pub(crate) fn is_wine() -> bool {
    let findings = || run("doctor --json").expect(0).json()["findings"].clone();
    cfg!(windows) && findings().as_array().expect("a list").iter().any(|finding| finding["name"] == "wine")
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, incoming) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { incoming, seen: String::new() }
    }

    /// The next line; `None` at the end.
    fn next(&mut self, deadline: Instant) -> Option<String> {
        match self.incoming.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.seen.push_str(&line);
                self.seen.push('\n');
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("no line within {PATIENCE:?}; until then:\n{}", self.seen)
            }
        }
    }

    fn until(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline) {
                Some(line) if line.contains(part) => return line,
                Some(_) => {}
                None => panic!("it ended without `{part}`:\n{}", self.seen),
            }
        }
    }
}

/// The program with these arguments, separated by spaces.
pub(crate) fn command(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anyport"));
    command.args(arguments.split_whitespace()).env_remove("RUST_LOG");
    command
}

impl Process {
    pub(crate) fn start(arguments: &str) -> Self {
        Self::spawn(command(arguments))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        // A console of its own, without a window: what is sent to one run reaches no other.
        #[cfg(windows)]
        std::os::windows::process::CommandExt::creation_flags(&mut command, CREATE_NO_WINDOW);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let input = child.stdin.take();
        let output = Lines::of(child.stdout.take().expect("piped"));
        let errors = Lines::of(child.stderr.take().expect("piped"));
        Self { child, input, output, errors }
    }

    /// Waits for a line of standard output that contains `part`.
    pub(crate) fn until(&mut self, part: &str) -> String {
        self.output.until(part)
    }

    /// Waits for a line of standard error that contains `part`.
    pub(crate) fn until_error(&mut self, part: &str) -> String {
        self.errors.until(part)
    }

    /// Tells it to end.
    pub(crate) fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Kill => self.child.kill().expect("it can be killed"),
            Signal::Interrupt | Signal::Terminate => ask(self.child.id(), signal),
        }
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: &str) -> std::io::Result<()> {
        let input = self.input.as_mut().expect("its input was not ended");
        input.write_all(text.as_bytes())?;
        input.flush()
    }

    /// Ends its standard input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        // Errors first: they are what a run that does not end has to show.
        while self.errors.next(deadline).is_some() {}
        while self.output.next(deadline).is_some() {}
        let status = self.child.wait().expect("a child can be waited for");
        Ended {
            code: status.code(),
            output: std::mem::take(&mut self.output.seen),
            errors: std::mem::take(&mut self.errors.seen),
        }
    }

    /// Asks it to end, as a system or a person does, and waits for the end.
    pub(crate) fn terminate(mut self) -> Ended {
        self.signal(if cfg!(windows) { Signal::Interrupt } else { Signal::Terminate });
        self.end()
    }
}

/// Asks a process to end.
#[cfg(unix)]
pub(crate) fn ask(process: u32, signal: Signal) {
    let name = if signal == Signal::Interrupt { "INT" } else { "TERM" };
    let process = process.to_string();
    let status = Command::new("kill").args(["-s", name, &process]).status().expect("kill runs");
    assert!(status.success(), "kill -s {name} {process}: {status}");
}

/// Asks a process to end.
#[cfg(windows)]
fn ask(process: u32, signal: Signal) {
    use anyport::ConsoleKey;
    let key = if signal == Signal::Interrupt { ConsoleKey::CtrlC } else { ConsoleKey::CtrlBreak };
    // While it happens, whatever is written to the streams of this process would be lost.
    let _written_later = (std::io::stdout().lock(), std::io::stderr().lock());
    anyport::interrupt(process, key).expect("it has a console");
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; a test that failed must leave nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &str) -> Ended {
    Process::start(arguments).end()
}

impl Ended {
    /// Asserts the exit code, and shows everything if it is another.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Asserts that it failed with one line that begins with `error: ` and contains each part.
    #[track_caller]
    pub(crate) fn expect_error(self, code: i32, parts: &[&str]) -> Self {
        let ended = self.expect(code);
        let errors: Vec<_> = ended.errors.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{ended:#?}");
        for part in parts {
            assert!(errors[0].contains(part), "`{part}` is missing: {ended:#?}");
        }
        ended
    }

    /// The number in a row of the closing table; 0 if there is no such row.
    #[track_caller]
    pub(crate) fn row(&self, name: &str) -> u64 {
        let row = self.output.lines().find_map(|line| line.trim_start().strip_prefix(name));
        let digits = row.map(|rest| rest.trim().replace(',', ""));
        digits.map_or(0, |digits| digits.parse().unwrap_or_else(|_| panic!("`{name}` in {self:#?}")))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// An echo server on a port of its own.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: String,
    /// The lines before the one that says where it listens.
    pub(crate) driver: String,
}

impl Server {
    pub(crate) fn start(arguments: &str) -> Self {
        Self::start_on("127.0.0.1:0", arguments)
    }

    pub(crate) fn start_on(address: &str, arguments: &str) -> Self {
        Self::spawn(command(&format!("serve echo --listen {address} {arguments}")))
    }

    pub(crate) fn spawn(command: Command) -> Self {
        let mut process = Process::spawn(command);
        let driver = process.until("driver ");
        let line = process.until("listening on ");
        process.until("load it with");
        let address = line.split(' ').nth(2).expect("listening on ADDRESS").to_owned();
        Self { process, address, driver }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream
    }

    pub(crate) fn terminate(self) -> Ended {
        self.process.terminate()
    }
}

/// The drivers that this machine offers.
pub(crate) fn drivers() -> Vec<&'static str> {
    let best = run("doctor --json").expect(0).json()["driver"].clone();
    match best.as_str() {
        Some("io-uring") => vec!["io-uring", "readiness"],
        Some("iocp") => vec!["iocp"],
        _ => vec!["readiness"],
    }
}
