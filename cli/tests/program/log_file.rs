//! `--log-file`: the log of a server, in a file that rotates.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use crate::process::{Server, command, run};

/// A folder that goes with its test. Its name has no space: arguments are split there.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anyport-log-{name}-{}", std::process::id()));
        // Process ids come again, and one that was killed left its folder.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("a folder for the test");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that logs to `path`, and more arguments.
fn server(path: &std::path::Path, arguments: &str) -> Server {
    let mut command = command(&format!("serve echo --listen 127.0.0.1:0 {arguments} --log-file"));
    command.arg(path);
    Server::spawn(command)
}

#[test]
fn the_log_goes_to_the_file_and_the_next_run_goes_on_there() {
    let folder = Folder::new("goes-on");
    let path = folder.file("server.log");
    for runs in 1..=2 {
        let ended = server(&path, "").terminate().expect(0);
        assert!(!ended.errors.contains("INFO"), "{ended:#?}");
        let log = std::fs::read_to_string(&path).expect("the log is there");
        let starts = log.lines().filter(|line| line.contains("INFO") && line.contains("driver "));
        assert_eq!(starts.count(), runs, "{log}");
        assert!(log.ends_with('\n'), "the last line is cut: {log}");
    }
}

#[test]
fn the_log_rotates_and_loses_no_line() {
    let folder = Folder::new("rotates");
    let path = folder.file("server.log");
    let server = server(&path, "-vv --log-rotate-bytes 500 --log-keep 1000");
    for _ in 0..50 {
        // One that goes before it is accepted may be no session at all: that it answers shows that it is one.
        let mut peer = server.connect();
        peer.write_all(b"x").expect("the server reads");
        peer.read_exact(&mut [0]).expect("the server answers");
    }
    let accepted = server.terminate().expect(0).row("sessions accepted");
    let old = std::fs::read_dir(&folder.0).expect("the folder").count() - 1;
    assert!(old > 5, "{old} old files");
    let files = (1..=old).map(|place| folder.file(&format!("server.log.{place}"))).chain([path]);
    let logs =
        files.map(|file| std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}")));
    let mut closed = 0;
    for log in logs {
        assert!(log.is_empty() || log.ends_with('\n'), "a line is cut: {log}");
        assert!(log.len() <= 500, "a file has {} bytes", log.len());
        closed += log.lines().filter(|line| line.contains("session ") && line.contains(" closed: ")).count();
    }
    assert_eq!(closed as u64, accepted);
}

#[test]
fn a_log_file_that_cannot_be_is_a_failure_that_says_what_to_do() {
    let folder = Folder::new("cannot-be");
    let mut command = command("serve echo --listen 127.0.0.1:0 --log-file");
    command.arg(folder.file("none").join("server.log"));
    let ended = crate::process::Process::spawn(command).end().expect(1);
    assert!(ended.errors.contains("its folder must exist"), "{ended:#?}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_costs_the_log_and_not_the_server() {
    let mut server = Server::start("-vv --log-file /dev/full");
    // Each leaves a line, and one of them is the first after the failure.
    for _ in 0..300 {
        // One that goes before it is accepted may be no session at all: that it answers shows that it is one.
        let mut peer = server.connect();
        peer.write_all(b"x").expect("the server reads");
        peer.read_exact(&mut [0]).expect("the server answers");
    }
    server.process.until_error("the log file takes no more lines");
    let ended = server.terminate().expect(1);
    assert_eq!(ended.row("sessions accepted"), 300, "{ended:#?}");
    assert!(ended.errors.contains("the log file has not all lines: no space"), "{ended:#?}");
}

#[test]
fn what_belongs_to_the_log_file_needs_one_and_only_servers_have_one() {
    for arguments in ["serve echo --log-keep 3", "serve echo --log-rotate-bytes 9", "doctor --log-file a"] {
        let ended = run(arguments).expect(2);
        assert!(ended.errors.contains("--log-"), "{arguments}: {ended:#?}");
    }
}
