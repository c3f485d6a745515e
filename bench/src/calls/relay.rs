//! What a Windows program calls, from the log that Wine writes of every call into a system library (`WINEDEBUG=+relay`).
//!
//! On Windows the functions `Nt...` of ntdll are the system calls: each is one entry into the kernel, and every other
//! function gets there through one of them. Wine is built of the same layers, so that its log shows, for each call of
//! the program (`WSARecv`), which system calls that would be (`NtDeviceIoControlFile`).
//!
//! Writing the log makes the server slower by far. So it is asked in waves, each of which waits until it sleeps.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use super::{Round, counters::Counts};
use crate::{
    error::{Context, Error, Result},
    load::{Load, Until},
    sys,
    workload::Workload,
};

/// Wine's first start in a new folder takes long, and a logged one is slow.
const START_MAX_S: u64 = 120;
/// No line of the log for so long means that the server sleeps.
const QUIET: Duration = Duration::from_millis(30);
const QUIET_MAX_S: u64 = 30;
/// Of the lines that are no calls: what the program says, and why it died.
const WORDS_KEPT: usize = 20;

/// Functions of ntdll that are named like system calls and are none on Windows: they read a page that the kernel
/// shares with every process.
const NO_SYSTEM_CALLS: [&str; 3] = ["NtQueryPerformanceCounter", "NtGetTickCount", "NtQuerySystemTime"];

/// A server under Wine whose calls are logged. Dropping it kills it.
pub struct Relay {
    address: SocketAddrV4,
    child: Child,
    log: Arc<Mutex<Log>>,
}

impl Relay {
    /// Starts `PROGRAM serve echo` on one shard, and waits until it listens and sleeps.
    pub fn start(program: &Path, server_cpu: usize) -> Result<Self> {
        let failed = |reason: String| Error::Start { program: "wine".into(), reason };
        let wine = || Command::new("wine");
        // The first program also starts Windows' services, whose calls would fill the log.
        let services =
            wine().args(["cmd", "/c", "exit"]).env("WINEDEBUG", "-all").stdin(Stdio::null()).status();
        services.map_err(|error| failed(format!("{error}; Debian has it as `wine wine64`")))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("choosing a port")?;
        let port = listener.local_addr().context("getsockname")?.port();
        drop(listener);
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut server = wine();
        server
            .arg(program)
            .args(["serve", "echo", "--shards", "1", "--listen", &address.to_string()])
            .env("WINEDEBUG", "+relay,+pid")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        sys::tie_to_us(&mut server, server_cpu);
        let mut child = server.spawn().map_err(|error| failed(error.to_string()))?;
        let log = Arc::default();
        let pipe = child.stderr.take().ok_or_else(|| failed("no pipe for its log".into()))?;
        let writer = Arc::clone(&log);
        thread::spawn(move || read_log(pipe, &writer));
        let mut relay = Self { address, child, log };
        relay.await_listening()?;
        Ok(relay)
    }

    /// Opens the connections of a workload.
    pub fn open(&mut self, workload: Workload) -> Result<Load> {
        let load = Load::open(self.address, workload);
        self.blame(load)
    }

    /// Counts some waves: all connections send, and again only when all answers are there and the server sleeps.
    pub fn waves(&mut self, load: &mut Load, waves: u32) -> Result<Round> {
        self.await_quiet()?;
        self.log().begin();
        let mut messages = 0;
        for _ in 0..waves {
            let visit = load.visit(Until::Once);
            messages += self.blame(visit)?.operations;
            self.await_quiet()?;
        }
        Ok(Round { messages, counts: self.log().counts(), cpu_us: None, disturbed: 0.0 })
    }

    fn await_listening(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed().as_secs() < START_MAX_S {
            self.check_alive()?;
            if TcpStream::connect(self.address).is_ok() {
                return self.await_quiet();
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(Error::Deaf { server: self.name(), waited_s: START_MAX_S, stderr: self.log().words() })
    }

    /// Waits until the log stands still.
    fn await_quiet(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut seen = (self.log().lines, start);
        while start.elapsed().as_secs() < QUIET_MAX_S {
            thread::sleep(Duration::from_millis(2));
            let lines = self.log().lines;
            if lines != seen.0 {
                seen = (lines, Instant::now());
            } else if seen.1.elapsed() >= QUIET {
                return self.check_alive();
            }
        }
        Err(Error::Usage(format!("{} did not fall asleep within {QUIET_MAX_S} s", self.name())))
    }

    fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("waitpid")? {
            None => Ok(()),
            Some(status) => Err(Error::Died {
                server: self.name(),
                status: status.to_string(),
                stderr: self.log().words(),
            }),
        }
    }

    /// A fault seen from outside: if the server died, its own last words say more.
    fn blame<T>(&mut self, result: std::result::Result<T, crate::error::Fault>) -> Result<T> {
        result.or_else(|fault| {
            thread::sleep(QUIET);
            self.check_alive()?;
            Err(Error::Server { server: self.name(), fault })
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn name(&self) -> String {
        "anyport under Wine".into()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Both fail only if the process is gone, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_log(pipe: impl Read, log: &Mutex<Log>) {
    let mut reader = BufReader::with_capacity(1 << 20, pipe);
    let mut line = Vec::new();
    while let Ok(1..) = reader.read_until(b'\n', &mut line) {
        let mut log = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        log.take(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}

/// What was read of the log.
#[derive(Default)]
struct Log {
    lines: u64,
    /// By process and thread, as Wine names them: the functions it is in, the outermost first.
    threads: BTreeMap<String, Vec<String>>,
    /// By process: system calls since the last `begin`, by the function that the program called.
    calls: BTreeMap<String, BTreeMap<String, u64>>,
    words: Vec<String>,
}

impl Log {
    /// Takes a line such as `0020:0024:Call ws2_32.WSARecv(00000038,...) ret=14000179c`.
    fn take(&mut self, line: &str) {
        self.lines += 1;
        let mut parts = line.splitn(3, ':');
        let (Some(process), Some(thread), Some(event)) = (parts.next(), parts.next(), parts.next()) else {
            return self.say(line);
        };
        let function = |event: &str| event.trim_start().split('(').next().unwrap_or_default().to_owned();
        let place = format!("{process}:{thread}");
        if let Some(function) = event.strip_prefix("Call ").map(function) {
            let stack = self.threads.entry(place).or_default();
            if let Some(call) = system_call(&function) {
                let name = caller(stack).unwrap_or(call).to_owned();
                *self.calls.entry(process.to_owned()).or_default().entry(name).or_default() += 1;
            }
            stack.push(function);
        } else if let Some(function) = event.strip_prefix("Ret ").map(function) {
            let stack = self.threads.entry(place).or_default();
            // A function left by a jump is on top of the one that returns.
            if let Some(at) = stack.iter().rposition(|open| *open == function) {
                stack.truncate(at);
            }
        } else {
            self.say(line);
        }
    }

    fn say(&mut self, line: &str) {
        if self.words.len() == WORDS_KEPT {
            self.words.remove(0);
        }
        self.words.push(line.to_owned());
    }

    fn words(&self) -> String {
        self.words.join("\n")
    }

    fn begin(&mut self) {
        self.calls.clear();
    }

    /// Of the process that received: Windows' own services are in the log too.
    fn counts(&self) -> Counts {
        let server = self.calls.values().find(|calls| calls.contains_key("WSARecv"));
        let by_name = server.cloned().unwrap_or_default();
        Counts { total: by_name.values().sum(), by_name }
    }
}

/// The name of a function that is a system call on Windows.
fn system_call(function: &str) -> Option<&str> {
    let name = function.strip_prefix("ntdll.").filter(|name| name.starts_with("Nt"))?;
    (!NO_SYSTEM_CALLS.contains(&name)).then_some(name)
}

/// The function of a library above ntdll that a system call is made for; none if the program calls ntdll itself.
fn caller(stack: &[String]) -> Option<&str> {
    let function = stack.iter().rev().find(|function| !function.starts_with("ntdll."))?;
    let (_, name) = function.split_once('.')?;
    // What every thread begins in.
    (name != "BaseThreadInitThunk").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as Wine 8 writes them.
    const LOG: &str = "\
0020:0024:Call KERNEL32.BaseThreadInitThunk(00000000,140001400,00000000) ret=17005a1b7
0020:0024:Call ws2_32.WSARecv(00000038,0021f890,00000001,0021f888,0021f88c,0021fad0,00000000) ret=14000179c
0020:0024:Call ntdll.NtDeviceIoControlFile(00000038,00000000,00000000,0021fad0,0021fad0,100120334) ret=370f7b5aa
0020:0024:Ret  ntdll.NtDeviceIoControlFile() retval=00000103 ret=370f7b5aa
0020:0024:Ret  ws2_32.WSARecv() retval=ffffffff ret=14000179c
0020:0024:Call KERNEL32.QueryPerformanceCounter(0021fa00) ret=140001111
0020:0024:Call ntdll.NtQueryPerformanceCounter(0021fa00,00000000) ret=7b0011
0020:0024:Ret  ntdll.NtQueryPerformanceCounter() retval=00000000 ret=7b0011
0020:0024:Ret  KERNEL32.QueryPerformanceCounter() retval=00000001 ret=140001111
0010:0014:Call ntdll.NtReadFile(00000038) ret=7b0011
0020:0024:Call ntdll.NtWaitForAlertByThreadId(00000000) ret=140009999
0020:0024:Call ntdll.RtlFreeHeap(00000000) ret=140009999
";

    #[test]
    fn system_calls_are_counted_by_what_the_program_called() {
        let mut log = Log::default();
        LOG.lines().for_each(|line| log.take(line));
        let counts = log.counts();
        let named: Vec<_> = counts.by_name.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(named, [("NtWaitForAlertByThreadId", 1), ("WSARecv", 1)]);
        assert_eq!((counts.total, log.lines), (2, 12));
    }

    #[test]
    fn words_of_the_program_are_kept_and_bounded() {
        let mut log = Log::default();
        for number in 0..100 {
            log.take(&format!("anyport: word {number}"));
        }
        assert_eq!(log.words().lines().count(), WORDS_KEPT);
        assert!(log.words().ends_with("word 99"));
    }
}
