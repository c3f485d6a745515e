//! The system's descriptors: none leaks, none is inherited, running out of them is survived.
//!
//! These cases count what their process has open, so each runs in a process of its own.

use std::{os::fd::AsFd, process::Command};

use anyport_driver::{Driver, FaultKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bed::{Bed, CLOSED, Peer, Seen, World, pattern};

/// Set in the process that a case started for itself.
const ALONE: &str = "ANYPORT_CASE_ALONE";

/// Runs `case` in a process of its own: this test, started again.
pub(crate) fn alone<W: World>(name: &str, case: impl FnOnce()) {
    alone_in::<W>("descriptors", name, "", case);
}

/// As `alone`, for a case of any theme; `shell` runs before, in a shell that becomes the process.
pub(crate) fn alone_in<W: World>(theme: &str, name: &str, shell: &str, case: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return case();
    }
    let suite = std::env::current_exe().expect("the path of the suite");
    let output = Command::new("sh")
        .args(["-c", &format!("{shell}\nexec \"$0\" \"$@\"")])
        .arg(suite)
        .args([&format!("{}::{theme}::{name}", W::module()), "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .expect("the suite starts again");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "alone it failed:\n{text}");
    assert!(text.contains("1 passed"), "alone it did not run:\n{text}");
}

/// What this process has open, standard streams included.
pub(crate) fn open_descriptors() -> Vec<String> {
    let mut open: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .expect("a Linux system")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let target = std::fs::read_link(&path).ok()?;
            Some(format!("{} -> {}", path.display(), target.display()))
        })
        // The directory that is being read.
        .filter(|entry| !entry.contains("/fd ") && !entry.ends_with("/fd"))
        .collect();
    open.sort();
    open
}

pub(crate) fn s01_every_descriptor_is_closed_again<W: World>(seed: u64) {
    alone::<W>("s01_every_descriptor_is_closed_again", || {
        let before = open_descriptors();
        for round in 0..3 {
            let mut bed = Bed::<W>::new(seed);
            let outside = bed.world.listen(crate::bed::V4);
            let address = crate::bed::PeerListener::local_address(&outside);
            let mut pairs = bed.pairs(20);
            for (at, (socket, client)) in pairs.iter_mut().enumerate() {
                bed.receive(*socket);
                bed.connect(address);
                client.feed(&pattern(seed, 1_000));
                if at % 2 == 0 {
                    let close = bed.close(*socket);
                    assert_eq!(bed.end(close), CLOSED);
                }
            }
            if round == 0 {
                bed.settle();
            }
            let detached = bed.pair();
            drop(bed.driver().detach(detached.0).expect("it is idle"));
        }
        assert_eq!(open_descriptors(), before);
    });
}

pub(crate) fn s01_a_closed_socket_gives_its_descriptor_back<W: World>(seed: u64) {
    alone::<W>("s01_a_closed_socket_gives_its_descriptor_back", || {
        let mut bed = Bed::<W>::new(seed);
        let door = bed.door();
        let before = open_descriptors().len();
        for _ in 0..3 {
            for (socket, client) in bed.pairs(30) {
                bed.receive(socket);
                let close = bed.close(socket);
                assert_eq!(bed.end(close), CLOSED);
                client.close();
            }
            assert_eq!(open_descriptors().len(), before);
        }
        assert_eq!(bed.end_of(door.accept), None);
    });
}

/// What a child process has open, the directory that it lists included.
fn open_in_a_child() -> String {
    let output = Command::new("ls").arg("/proc/self/fd").output().expect("ls runs");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn s01_a_child_process_inherits_nothing<W: World>(seed: u64) {
    alone::<W>("s01_a_child_process_inherits_nothing", || {
        let before = open_in_a_child();
        let mut bed = Bed::<W>::new(seed);
        let outside = bed.world.listen(crate::bed::V4);
        let pairs = bed.pairs(5);
        let (_, connect) = bed.connect(crate::bed::PeerListener::local_address(&outside));
        bed.end(connect);
        for (socket, _) in &pairs {
            bed.receive(*socket);
        }
        bed.settle();
        assert_eq!(open_in_a_child(), before);
    });
}

pub(crate) fn s07_accept_survives_running_out_of_descriptors<W: World>(seed: u64) {
    const CLIENTS: usize = 8;
    const SPARE: u64 = 3;
    alone::<W>("s07_accept_survives_running_out_of_descriptors", || {
        let mut bed = Bed::<W>::new(seed);
        let door = bed.door();
        // The peers have their descriptors before the limit is lowered.
        let waiting: Vec<_> = (0..CLIENTS).map(|_| new_socket()).collect();
        let limit = getrlimit(Resource::Nofile);
        let highest = open_numbers().max().expect("something is open");
        // Holes below the limit would count as free as well.
        let _filled = fill_holes(highest);
        setrlimit(Resource::Nofile, Rlimit { current: Some(highest + 1 + SPARE), maximum: limit.maximum })
            .expect("a limit can be lowered");
        let mut clients: Vec<_> = waiting
            .into_iter()
            .map(|socket| {
                socket.connect(&door.address.into()).expect("the backlog has room");
                socket.set_nonblocking(true).expect("a socket can be non-blocking");
                std::net::TcpStream::from(socket)
            })
            .collect();
        // A driver whose sockets have no descriptors of the process does not notice the limit.
        bed.until("all accepted, or a shortage", |bed| {
            let short = Seen::AcceptFaulted(FaultKind::NoDescriptors);
            bed.accepted(door.accept).len() == CLIENTS || bed.count(door.accept, |seen| seen == short) > 0
        });
        bed.settle();
        assert_eq!(bed.end_of(door.accept), None);
        let accepted = bed.accepted(door.accept).len();
        if accepted < CLIENTS {
            // One closes, one more gets in, by itself.
            let socket = bed.accepted(door.accept)[0].socket;
            let close = bed.close(socket);
            assert_eq!(bed.end(close), CLOSED);
            bed.until("one more", |bed| bed.accepted(door.accept).len() > accepted);
        }
        setrlimit(Resource::Nofile, limit).expect("a soft limit can be raised to the hard one");
        bed.until("everyone, now that there is room", |bed| bed.accepted(door.accept).len() == CLIENTS);
        let last = bed.accepted(door.accept)[CLIENTS - 1];
        let at =
            clients.iter().position(|client| last.peer == client.local_address()).expect("it is one of ours");
        let mut received = Vec::new();
        bed.send(last.socket, b"welcome");
        bed.until("the welcome", |_| {
            clients[at].read(100, &mut received);
            received == b"welcome"
        });
    });
}

fn new_socket() -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket")
}

/// The numbers of what is open.
fn open_numbers() -> impl Iterator<Item = u64> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("a Linux system");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Opens something in every hole below `highest`.
fn fill_holes(highest: u64) -> Vec<std::os::fd::OwnedFd> {
    let mut filled = Vec::new();
    for _ in open_numbers().count()..=highest as usize {
        filled.push(std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor"));
    }
    filled
}
