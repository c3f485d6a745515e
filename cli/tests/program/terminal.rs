//! The client on a terminal, as a person uses it. The terminal is a pair of a master, which is the person, and a slave.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags},
    pty::OpenptFlags,
    termios::{LocalModes, tcgetattr},
};

use crate::{
    connect::peer,
    process::{PATIENCE, Server, Signal, ask, command},
};

/// A run on a terminal. Killed when dropped.
struct Person {
    child: Child,
    keys: File,
    terminal: File,
    shown: Receiver<Vec<u8>>,
    /// What was waited for, and what came before it; what came after it.
    seen: String,
    fresh: String,
    state: PathBuf,
}

impl Person {
    /// The client, with this terminal for all that `streams` does not redirect.
    fn connect(name: &str, arguments: &str, streams: impl FnOnce(&mut Command)) -> Self {
        let state = std::env::temp_dir().join(format!("anyport-{}-{name}", std::process::id()));
        let keys = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a master");
        rustix::pty::grantpt(&keys).expect("it is ours");
        rustix::pty::unlockpt(&keys).expect("it can be opened");
        let path = rustix::pty::ptsname(&keys, Vec::new()).expect("a name");
        let terminal = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
        let terminal = File::from(terminal.expect("a slave"));
        let mut command = command(&format!("connect {arguments}"));
        let slave = || Stdio::from(terminal.try_clone().expect("a second handle"));
        command.stdin(slave()).stdout(slave()).stderr(slave());
        command.env("XDG_STATE_HOME", &state).env("TERM", "xterm");
        streams(&mut command);
        let child = command.spawn().expect("the program starts");
        let keys = File::from(keys);
        let mut screen = keys.try_clone().expect("a second handle");
        let (sender, shown) = channel();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, terminal, shown, seen: String::new(), fresh: String::new(), state }
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until the terminal shows this, after what was waited for before.
    #[track_caller]
    fn sees(&mut self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.fresh.find(part) {
                self.seen.extend(self.fresh.drain(..at + part.len()));
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let bytes = self.shown.recv_timeout(left).unwrap_or_else(|error| {
                panic!("`{part}` was not shown: {error}:\n{}\n----\n{}", self.seen, self.fresh)
            });
            self.fresh.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    /// What it does with what is typed.
    fn modes(&self) -> LocalModes {
        tcgetattr(&self.terminal).expect("it is a terminal").local_modes
    }

    /// Waits until a line is edited.
    #[track_caller]
    fn is_editing(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.modes().intersects(TYPED) {
            assert!(Instant::now() < deadline, "no line is edited");
            std::thread::yield_now();
        }
    }

    /// Waits for the end of the program.
    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
    }
}

/// Begins a line that is edited.
const PROMPT: &str = "\x1b[?2004h";

/// What a terminal does while no line is edited: it echoes, and gives whole lines.
const TYPED: LocalModes = LocalModes::ECHO.union(LocalModes::ICANON);

/// Ctrl-D.
const END: &str = "\x04";

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

/// The line editor takes what is to be printed only while it reads keys; the shard, which sends the line that was typed,
/// must not wait for it.
#[test]
fn lines_are_typed_while_lines_arrive() {
    const LINES: usize = 300;
    let (heard, typed) = channel();
    let (address, thread) = peer(move |stream| {
        let over = Arc::new(AtomicBool::new(false));
        let (mut talking, until) = (stream.try_clone().expect("a second handle"), Arc::clone(&over));
        let talker = std::thread::spawn(move || {
            // Two at a time, so that one finds the other's place taken.
            while !until.load(Ordering::Relaxed) && talking.write_all(b"this\nand that\n").is_ok() {}
            talking.shutdown(std::net::Shutdown::Write)
        });
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            heard.send(line).expect("the test listens");
        }
        over.store(true, Ordering::Relaxed);
        // The client may have gone first.
        let _ = talker.join().expect("it ends");
    });
    let mut person = Person::connect("flood", &address.to_string(), |_| {});
    person.sees("* connected to");
    person.sees("and that");
    let screen = std::mem::replace(&mut person.shown, channel().1);
    let watching = std::thread::spawn(move || while screen.recv().is_ok() {});
    for number in 0..LINES {
        person.types(&format!("line {number}\r"));
        let line = typed.recv_timeout(PATIENCE).expect("it is sent");
        assert_eq!(line, format!("line {number}"));
    }
    person.types(END);
    assert_eq!(person.ended().code(), Some(0));
    thread.join().expect("the peer is content");
    drop(person);
    watching.join().expect("the screen ends");
}

/// Whatever ends the program while a line is being typed: the terminal is as it was, and the lines are remembered.
#[test]
fn a_signal_gives_the_terminal_back() {
    for peer_ends in [false, true] {
        let (go_on, told) = channel();
        let (address, thread) = peer(move |mut stream| {
            stream.read_exact(&mut [0; 6]).expect("a line");
            if !peer_ends {
                told.recv_timeout(PATIENCE).expect("the test goes on");
            }
        });
        let mut person = Person::connect("signal", &address.to_string(), |_| {});
        let before = person.modes();
        assert!(before.contains(TYPED), "{before:?}");
        person.sees(PROMPT);
        person.is_editing();
        person.types("hello\r");
        person.sees(if peer_ends { "press Enter to leave" } else { PROMPT });
        // The next prompt may have come before that.
        person.is_editing();
        ask(person.child.id(), Signal::Terminate);
        go_on.send(()).unwrap_or_else(|_| assert!(peer_ends));
        assert_eq!(person.ended().code(), Some(0));
        assert_eq!(person.modes(), before);
        person.sees("\x1b[?2004l");
        let history = std::fs::read_to_string(person.state.join("anyport/history")).expect("a history");
        assert!(history.ends_with("hello\n"), "{history}");
        thread.join().expect("the peer is content");
    }
}

/// Nobody reads what is printed, as under a pager: the first signal cannot end it in order, the second ends it.
#[test]
fn a_second_signal_does_not_wait() {
    let (address, thread) = peer(|mut stream| {
        // More than a pipe holds.
        let line = ["x".repeat(60_000).as_bytes(), b"\n"].concat();
        // Until the client has gone: with a reset, because it has not read all.
        let _ = stream.write_all(&line.repeat(4));
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (mut reads, writes) = std::io::pipe().expect("a pipe");
    let mut person = Person::connect("pager", &address.to_string(), move |command| {
        command.stdout(writes);
    });
    reads.read_exact(&mut [0]).expect("something is printed");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = person.child.try_wait().expect("a child can be waited for") {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        ask(person.child.id(), Signal::Terminate);
    };
    assert_eq!(status.code(), Some(1));
    thread.join().expect("the peer is content");
}

#[test]
fn what_cannot_be_sent_is_told_and_the_next_line_is() {
    let server = Server::start("--codec delimiter");
    let arguments = format!("{} --codec delimiter", server.address);
    let mut person = Person::connect("malformed", &arguments, |_| {});
    person.sees(PROMPT);
    // Pasted: as it is.
    person.types("\x1b[200~a\0b\x1b[201~\r");
    person.sees("* not sent: it holds what ends a message");
    person.sees(PROMPT);
    person.types("good\r");
    person.sees("good\r\n");
    person.types(END);
    assert_eq!(person.ended().code(), Some(0));
    assert_eq!(server.terminate().expect(0).row("frames received"), 1);
}

#[test]
fn enter_leaves_whatever_a_line_is_to_be() {
    let (address, thread) = peer(drop);
    let mut person = Person::connect("enter", &format!("{address} --codec size-kind"), |_| {});
    person.sees("press Enter to leave");
    person.types("\r");
    assert_eq!(person.ended().code(), Some(0));
    thread.join().expect("the peer is content");
}

/// Lines may come from a pipe: what the peer says is shown on a terminal all the same.
#[test]
fn a_terminal_that_is_only_shown_gets_no_commands() {
    let server = Server::start("--codec lines");
    let (reads, mut writes) = std::io::pipe().expect("a pipe");
    let arguments = format!("{} --wait 1000", server.address);
    let mut person = Person::connect("shown", &arguments, move |command| {
        command.stdin(reads);
    });
    writes.write_all(b"\x1b[2J\n").expect("it reads");
    person.sees("\\u{1b}[2J\r\n");
    assert!(!person.seen.contains('\u{1b}'), "{:?}", person.seen);
    ask(person.child.id(), Signal::Terminate);
    assert_eq!(person.ended().code(), Some(0));
}
