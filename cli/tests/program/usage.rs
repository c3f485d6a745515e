//! What is typed wrongly, and output that nobody reads.

use std::{net::TcpListener, process::Stdio};

#[cfg(unix)]
use crate::process::Process;
use crate::process::{command, run};

#[test]
fn wrong_command_lines_exit_with_2() {
    for arguments in [
        "",
        "--frobnicate",
        "serve",
        "serve echo --shards 0",
        "serve echo --shards 300",
        "serve echo --driver kqueue",
        "serve echo --codec json",
        "serve echo --sessions-max 0",
        "serve echo --sessions-max 1048577",
        "serve echo --idle-timeout 0",
        "serve echo --drain-deadline -1",
        "serve echo --codec lines --frame-size-max 0",
        "bench",
        "bench echo --connections 0",
        "bench echo --connections 100001",
        "bench echo --size 0",
        "bench echo --size 16777217",
        "bench echo --depth 0",
        "bench echo --depth 4097",
        "bench echo --duration 0",
        "bench echo --duration NaN",
        "bench echo --duration 1e30",
        "bench echo --warmup -1",
        "bench echo --rate 0",
        "bench echo --rate 5 --depth 2",
        "bench echo --addr 127.0.0.1:1 --spawn",
        "bench echo --threads 257",
        "bench echo --think 1",
        "bench echo --think 2..1",
        "bench echo --think 0.1..0.2 --rate 5",
        "bench echo --think 0.1..0.2 --depth 5",
        "bench echo --seed 5",
        "bench idle --connections 100001",
        "bench idle --depth 5",
        "bench idle --addr 127.0.0.1:1 --spawn",
        "bench churn --connections 10001",
        "bench churn --depth 2",
        "bench churn --addr 127.0.0.1:1 --spawn",
        "bench fanout --members 0",
        "bench fanout --publishers 1001",
        "bench fanout --size 23",
        "bench fanout --size 1001",
        "bench fanout --rate 5 --depth 2",
        "bench fanout --addr 127.0.0.1:1 --spawn",
        "serve chat --login-timeout 0",
        "serve chat --queue-max 100",
        "serve chat --message-rate -1",
        "serve chat --shards 2",
        "connect",
        "connect 127.0.0.1:1 --codec json",
        "connect 127.0.0.1:1 --patience 0",
        "doctor --jason",
    ] {
        let ended = run(arguments).expect(2);
        assert!(ended.output.is_empty() && !ended.errors.contains("panicked"), "{arguments}: {ended:#?}");
    }
}

#[test]
fn what_the_parser_cannot_see_is_one_line_and_2() {
    for (arguments, part) in [
        ("serve echo --listen nonsense", "`nonsense` is not an address"),
        ("serve echo --listen 127.0.0.1:70000", "127.0.0.1:70000"),
        ("serve echo --frame-size-max 100", "means nothing to --codec raw"),
        ("serve echo --codec size-kind --frame-size-max 3", "from 4 to 65535"),
        ("serve echo --codec length-prefix --frame-size-max 3", "at least 4"),
        ("serve echo --codec size-kind --frame-size-max 65536", "from 4 to 65535"),
        ("bench echo --addr nonsense", "`nonsense` is not an address"),
        ("bench echo --codec size-kind --size 65532", "at most 65531"),
        ("bench echo --threads 65 --connections 64", "more than --connections"),
        ("bench echo --addr 127.0.0.1:1 --addr nonsense", "`nonsense` is not an address"),
        ("bench idle --codec size-kind --size 65532", "at most 65531"),
        ("serve chat nonsense", "`nonsense` is not an address"),
        ("bench fanout --addr nonsense", "`nonsense` is not an address"),
        ("bench fanout --threads 7 --members 5", "more than the members"),
        ("bench fanout --publishers 1000 --members 20000", "under way"),
        ("bench churn --codec size-kind --size 65532", "at most 65531"),
        ("bench churn --threads 65 --connections 64", "more than --connections"),
        ("bench idle --threads 65 --connections 64", "more than --connections"),
        ("bench echo --size 16777216 --depth 4096", "in flight"),
        ("bench echo --connections 100000 --size 1 --depth 4096", "in flight"),
    ] {
        let ended = run(arguments).expect_error(2, &[part]);
        assert_eq!(ended.errors.lines().count(), 1, "{ended:#?}");
    }
}

#[test]
fn help_tells_the_exit_codes_and_version_the_version() {
    for arguments in [
        "--help",
        "serve echo --help",
        "bench echo --help",
        "bench idle --help",
        "connect --help",
        "serve chat --help",
        "bench fanout --help",
    ] {
        assert!(run(arguments).expect(0).output.contains("Exit codes:"), "{arguments}");
    }
    let version = run("--version").expect(0).output;
    assert_eq!(version, format!("anyport {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn doctor_prints_a_table_or_an_object() {
    let table = run("doctor").expect(0).output;
    assert!(table.contains("processors") && table.contains("\ndriver "), "{table}");
    let object = run("doctor --json").expect(0).json();
    assert!(object["reason"].is_string(), "{object}");
    for finding in object["findings"].as_array().expect("a list of findings") {
        for field in ["name", "value", "verdict", "advice"] {
            assert!(finding[field].is_string(), "{field} of {finding}");
        }
    }
}

/// Runs the program with an output whose reader is gone.
fn run_unread(arguments: &str) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = command(arguments);
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn();
    // The command holds the writer, too.
    drop(command);
    let ended = child.expect("the program starts").wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(!errors.contains("panicked") && !errors.contains("error"), "{arguments}: {errors}");
    assert_eq!(ended.status.code(), Some(0), "{arguments}: {errors}");
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    run_unread("doctor");
    run_unread("doctor --json");
    run_unread("--help");
    run_unread("serve echo --listen 127.0.0.1:0");
    run_unread("bench echo --spawn --connections 2 --duration 0.1 --warmup 0");
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let mut command = command("doctor");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let ended = command.stdout(full).stderr(Stdio::piped()).output().expect("it runs");
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{errors}");
    assert!(errors.starts_with("error: cannot write to standard output"), "{errors}");
}

#[test]
fn an_address_in_use_or_of_another_machine_is_one_line_and_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    run(&format!("serve echo --listen {address}")).expect_error(1, &[&address, "choose another port"]);
    run("serve echo --listen 192.0.2.1:0").expect_error(1, &["192.0.2.1", "not an address of this machine"]);
}

#[test]
fn a_driver_of_another_system_is_one_line_that_says_what_to_do() {
    let other = if cfg!(windows) { "readiness" } else { "iocp" };
    for command in ["serve echo --listen 127.0.0.1:0", "bench echo --addr 127.0.0.1:1"] {
        let ended = run(&format!("{command} --driver {other}"));
        let ended = ended.expect_error(1, &[&format!("no driver {other}"), "`auto`"]);
        assert_eq!((ended.errors.lines().count(), ended.output.as_str()), (1, ""), "{ended:#?}");
    }
}

#[test]
fn no_server_is_one_line_that_says_what_to_do() {
    // No port that the system gives to clients: one of 64 connections could meet itself there.
    for load in ["echo", "idle", "churn"] {
        let ended = run(&format!("bench {load} --addr 127.0.0.1:1 --duration 1"));
        let parts = ["no server answers at", "(connection refused)", "`anyport serve echo`", "--spawn"];
        let ended = ended.expect_error(1, &parts);
        // Windows asks a port for seconds before it says that nobody answers: there may be progress.
        assert_eq!(ended.output, "");
    }
}

/// The program with a limit on open files: Windows has none.
#[cfg(unix)]
fn run_limited(open_files: u32, arguments: &str) -> crate::process::Ended {
    let mut limited = std::process::Command::new("sh");
    let script = format!("ulimit -n {open_files}; exec \"$0\" {arguments}");
    limited.args(["-c", &script, env!("CARGO_BIN_EXE_anyport")]).env_remove("RUST_LOG");
    Process::spawn(limited).end()
}

#[cfg(unix)]
#[test]
fn too_few_descriptors_are_told_with_the_limit_and_what_to_do() {
    let serve = "serve echo --listen 127.0.0.1:0 --shards 2 --driver readiness";
    let parts = ["--sessions-max 500", "the 84 sessions", "driver readiness", "ulimit -n"];
    run_limited(100, &format!("{serve} --sessions-max 500")).expect_error(1, &parts);
    run_limited(16, serve).expect_error(1, &["no room for a session", "ulimit -n"]);
    run_limited(6, serve).expect_error(1, &["ulimit -n"]);
}
