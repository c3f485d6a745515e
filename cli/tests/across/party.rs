//! Which program serves, which one loads, and what the server says when it ends.

use std::{collections::BTreeMap, process::Command};

use crate::process::{Ended, Process, Server, Signal, command, drivers};

/// The program that this variable names, or the one that was just built. The flag tells whether it is a foreign one.
fn program(variable: &str) -> (Command, bool) {
    let named = std::env::var(variable).unwrap_or_default();
    let mut words = named.split_whitespace();
    let Some(first) = words.next() else { return (command(""), false) };
    let mut command = Command::new(first);
    command.args(words).env_remove("RUST_LOG");
    (command, true)
}

/// The drivers to serve with, as arguments: all that this machine offers, or what a foreign program takes by itself.
pub(crate) fn server_drivers() -> Vec<String> {
    match program("ANYPORT_SERVER") {
        (_, true) => vec![String::new()],
        (_, false) => drivers().iter().map(|driver| format!("--driver {driver}")).collect(),
    }
}

/// Whether another program serves than the one that was just built: its system may say otherwise of a reset.
pub(crate) fn server_is_foreign() -> bool {
    program("ANYPORT_SERVER").1
}

/// Whether one of the programs is another than the one that was just built.
pub(crate) fn a_side_is_foreign() -> bool {
    server_is_foreign() || program("ANYPORT_LOADER").1
}

/// An echo server of the program that serves.
pub(crate) fn serve(arguments: &str) -> Server {
    let (mut command, _) = program("ANYPORT_SERVER");
    let for_windows = is_for_windows(&command);
    command.args(["serve", "echo", "--listen", "127.0.0.1:0"]).args(arguments.split_whitespace());
    let server = Server::spawn(command);
    println!("serves: {}", server.driver);
    // Falling back unseen would test something else.
    assert_eq!(server.driver.starts_with("driver iocp"), for_windows, "{}", server.driver);
    server
}

/// A run of `bench echo` of the program that loads, to its end, and its object.
#[track_caller]
pub(crate) fn load(server: &Server, arguments: &str) -> serde_json::Value {
    let mut starts = 0;
    let (ended, for_windows) = loop {
        let (mut command, _) = program("ANYPORT_LOADER");
        let for_windows = is_for_windows(&command);
        command
            .args(["bench", "echo", "--addr", &server.address, "--json"])
            .args(arguments.split_whitespace());
        let ended = Process::spawn(command).end();
        starts += 1;
        if !for_windows || !lost_wine(&ended) || starts == STARTS_MAX {
            break (ended, for_windows);
        }
        println!("Wine's server went as the program began: once more");
    };
    let object = ended.expect(0).json();
    assert_eq!(object["driver"] == "iocp", for_windows, "{object}");
    object
}

/// A program that begins as Wine's server ends, which it does when its last program has, is ended by Wine. What it had
/// sent before that would be missed: the server counts.
const STARTS_MAX: u32 = 3;

fn lost_wine(ended: &Ended) -> bool {
    ended.code == Some(1) && ended.output.is_empty() && ended.errors.starts_with("wine client error:")
}

fn is_for_windows(command: &Command) -> bool {
    let arguments = command.get_args().chain([command.get_program()]);
    arguments.into_iter().any(|word| word.to_string_lossy().ends_with(".exe"))
}

/// What a server counted.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) accepted: u64,
    /// Ends of sessions, by reason.
    pub(crate) closed: BTreeMap<String, u64>,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

/// Sends Ctrl-C, waits for the end, and asserts that every session that was opened has ended.
#[track_caller]
pub(crate) fn stop(mut server: Server) -> Counted {
    server.process.signal(Signal::Interrupt);
    counted(&server.process.end())
}

/// What the server counted, after every session that was opened has ended.
#[track_caller]
pub(crate) fn counted(ended: &Ended) -> Counted {
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.errors.contains("draining"), "it ended otherwise than by Ctrl-C: {ended:#?}");
    let names = ended.output.lines().filter_map(|line| line.trim_start().strip_prefix("closed: "));
    let names = names.filter_map(|rest| rest.split_whitespace().next());
    let closed = names.map(|name| (name.to_owned(), ended.row(&format!("closed: {name}")))).collect();
    let counted = Counted {
        accepted: ended.row("sessions accepted"),
        closed,
        bytes_received: ended.row("bytes received"),
        bytes_sent: ended.row("bytes sent"),
    };
    println!("{counted:?}");
    assert_eq!(counted.closed.values().sum::<u64>(), counted.accepted, "sessions are left over: {ended:#?}");
    assert_eq!(ended.row("accept faults"), 0, "{ended:#?}");
    counted
}

impl Counted {
    /// Sessions that ended for this reason.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.closed.get(reason).copied().unwrap_or_default()
    }
}
