//! The load generator against the server: every driver, every codec, both loops, and bad ends.

use crate::process::{Ended, Process, Server, Signal, command, drivers, is_wine, run};

/// A short run against a server.
fn bench(server: &Server, arguments: &str) -> Ended {
    let address = &server.address;
    run(&format!("bench echo --addr {address} --duration 0.3 --warmup 0.05 --json {arguments}"))
}

/// Asserts that all came back and was right.
#[track_caller]
fn all_right(ended: Ended) -> serde_json::Value {
    let object = ended.expect(0).json();
    let bytes = object["bytes_checked"].as_u64().expect("a number");
    assert!(bytes > 0 && bytes.is_multiple_of(object["size"].as_u64().expect("a number")), "{object}");
    assert_eq!(object["unanswered"], 0, "{object}");
    assert_eq!(object["connections_lost"], serde_json::json!({}), "{object}");
    object
}

#[test]
fn every_driver_echoes_every_codec() {
    for driver in drivers() {
        for codec in ["raw", "lines", "delimiter", "length-prefix", "size-kind"] {
            let common = format!("--driver {driver} --codec {codec}");
            let server = Server::start(&format!("{common} --shards 2"));
            let object = all_right(bench(&server, &format!("{common} --connections 8 --depth 4 --size 100")));
            assert_eq!((&object["driver"], &object["codec"]), (&driver.into(), &codec.into()), "{object}");
            let ended = server.terminate().expect(0);
            assert_eq!(ended.row("sessions accepted"), 8, "{common}: {ended:#?}");
            let (received, sent) = (ended.row("bytes received"), ended.row("bytes sent"));
            assert!(received == sent && received >= object["bytes_checked"].as_u64().unwrap(), "{ended:#?}");
        }
    }
}

#[test]
fn messages_of_any_size_come_back_whole() {
    for driver in drivers() {
        for load in [
            "--codec raw --size 1 --depth 64",
            "--codec raw --size 300001 --depth 3 --threads 2",
            "--codec lines --size 1",
            "--codec lines --size 200000 --depth 2",
            "--codec size-kind --size 1 --depth 256",
            "--codec size-kind --size 65531 --depth 4",
        ] {
            let ended = run(&format!(
                "bench echo --spawn --driver {driver} --connections 3 --duration 0.2 --warmup 0 --json {load}"
            ));
            all_right(ended);
        }
    }
}

#[test]
fn a_path_with_spaces_is_no_obstacle_to_a_server_of_its_own() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("a path with spaces");
    std::fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join(format!("any port{}", std::env::consts::EXE_SUFFIX));
    // A run before this one may have left it.
    let _ = std::fs::remove_file(&program);
    // Linux does not start a file that another thread's child has open for writing, as it may have a copy; Windows
    // does not remove a link to a program that runs.
    let original = command("").get_program().to_owned();
    if cfg!(windows) {
        std::fs::copy(original, &program).expect("a copy of the program");
    } else {
        std::fs::hard_link(original, &program).expect("a link to the program");
    }
    let mut bench = std::process::Command::new(&program);
    bench.args("bench echo --spawn --connections 2 --duration 0.1 --warmup 0 --json".split(' '));
    all_right(Process::spawn(bench).end());
}

#[test]
fn the_object_has_the_fields_that_the_help_lists() {
    let object = all_right(run(
        "bench echo --spawn --connections 4 --threads 2 --depth 2 --duration 0.2 --warmup 0 --json",
    ));
    for field in [
        "connections",
        "size",
        "depth",
        "threads",
        "seconds",
        "messages",
        "messages_per_second",
        "megabytes_per_second",
        "bytes_checked",
        "connections_opened",
        "unanswered",
    ] {
        assert!(object[field].is_number(), "{field} of {object}");
    }
    for field in ["count", "min", "mean", "p50", "p90", "p99", "p999", "max"] {
        assert!(object["latency_us"][field].is_number(), "latency_us.{field} of {object}");
    }
    assert_eq!((&object["cut_short"], &object["connections"]), (&false.into(), &4.into()));
    assert!(object["rate"].is_null() && object["not_sent"].is_null(), "{object}");
}

#[test]
fn the_open_loop_keeps_its_rate_and_counts_from_the_due_time() {
    for driver in drivers() {
        let object = all_right(run(&format!(
            "bench echo --spawn --driver {driver} --connections 7 --rate 2000 --duration 0.5 --warmup 0.1 --json"
        )));
        // Due in the half second, give or take one at each end.
        let count = object["latency_us"]["count"].as_u64().expect("a number");
        assert!((998..=1002).contains(&count), "{object}");
        assert_eq!((&object["rate"], &object["not_sent"]), (&2000.into(), &0.into()), "{object}");
        assert!(object["depth"].is_null() && object["late_max_us"].is_number(), "{object}");
    }
}

#[test]
fn an_open_loop_beyond_the_servers_power_says_so() {
    // Nothing echoes a hundred gigabytes a second, nor Wine ten; what is in flight must come back within seconds, also on
    // a machine that is busy.
    let size = if cfg!(windows) { 10_000 } else { 100_000 };
    let ended = run(&format!(
        "bench echo --spawn --connections 2 --size {size} --rate 1000000 --duration 0.2 --warmup 0 --json"
    ));
    let ended = ended.expect(0);
    assert!(ended.errors.contains("the server fell behind"), "{ended:#?}");
    let object = ended.json();
    assert!(object["not_sent"].as_u64() > Some(0) && object["unanswered"] == 0, "{object}");
}

#[test]
fn the_table_has_its_rows() {
    let ended = run("bench echo --spawn --connections 2 --duration 0.2 --warmup 0").expect(0);
    for row in [
        "messages/s",
        "MB/s",
        "latency p50",
        "latency p90",
        "latency p99,",
        "latency p99.9",
        "latency max",
        "connections opened",
        "connections lost",
        "bytes checked",
    ] {
        assert!(ended.output.contains(row), "`{row}` is missing: {ended:#?}");
    }
}

#[test]
fn a_signal_cuts_it_short_with_the_results_so_far() {
    let mut bench = Process::start("bench echo --spawn --connections 2 --duration 1000 --warmup 0");
    bench.until_error("messages/s");
    bench.signal(Signal::Interrupt);
    let ended = bench.end().expect(0);
    assert!(ended.errors.contains("cut short") && ended.output.contains("cut short"), "{ended:#?}");
    assert!(ended.row("connections opened") == 2 && ended.row("bytes checked") > 0, "{ended:#?}");
}

#[test]
fn a_server_that_dies_is_a_failure_with_counts() {
    let asked = *Signal::asking().last().expect("one at least");
    // The server process of Wine 8 keeps a socket open for ever, with nobody to read it, if its owner was killed in
    // the middle of a receive.
    let killed = if is_wine() { asked } else { Signal::Kill };
    for (signal, pace) in [(killed, "--depth 2"), (asked, "--depth 2"), (killed, "--rate 1000")] {
        let mut server = Server::start("");
        let address = &server.address;
        let load = format!("bench echo --addr {address} --connections 4 --duration 1000 --warmup 0 {pace}");
        let mut bench = Process::start(&load);
        bench.until_error("messages/s");
        server.process.signal(signal);
        let parts = ["all connections", address, "were lost: 4 of 4", "had come back"];
        let ended = bench.end().expect_error(1, &parts);
        assert_eq!(ended.row("connections lost"), 4, "{signal:?} {pace}: {ended:#?}");
    }
}

#[test]
fn connections_beyond_the_servers_capacity_are_lost_and_named() {
    let server = Server::start("--sessions-max 2");
    let ended = bench(&server, "--connections 5").expect_error(1, &["some connections", "3 of 5"]);
    let object = ended.json();
    assert!(object["bytes_checked"].as_u64() > Some(0), "{object}");
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("closed: at_capacity"), 3, "{ended:#?}");
}

/// Windows has no such limit.
#[cfg(unix)]
#[test]
fn too_few_descriptors_are_named() {
    for driver in drivers() {
        let server = Server::start("");
        let mut shell = std::process::Command::new("sh");
        let program = command("").get_program().to_owned();
        let script = "ulimit -n 40; exec \"$0\" \"$@\"";
        shell.arg("-c").arg(script).arg(program).args(["bench", "echo", "--addr", &server.address]);
        shell.args(["--driver", driver, "--connections", "100", "--duration", "0.1"]);
        let ended = Process::spawn(shell).end();
        ended.expect_error(1, &["of 100 connections", "opened: no free descriptor", "--connections"]);
    }
}

#[test]
fn several_threads_share_the_connections() {
    let ended = run(
        "bench echo --spawn --connections 5 --threads 3 --duration 0.2 --warmup 0 --pin --codec lines --json",
    );
    assert_eq!(all_right(ended)["connections_opened"], 5);
}
