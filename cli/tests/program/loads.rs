//! The loads beside the echo's: each small and quick, with its figures, and its bad ends.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
};

use crate::process::{Ended, PATIENCE, Process, Server, Signal, command, drivers, run};

/// Asserts that nothing was lost, and gives the object.
#[track_caller]
fn all_right(ended: Ended) -> serde_json::Value {
    let object = ended.expect(0).json();
    assert_eq!(object["connections_lost"], serde_json::json!({}), "{object}");
    assert_eq!(object["cut_short"], false, "{object}");
    object
}

#[track_caller]
fn number(object: &serde_json::Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("{field} of {object}"))
}

/// The default of the send queue holds less than a message of the largest size and its line end.
#[test]
fn the_largest_message_fits_a_loader() {
    for load in ["idle", "churn --warmup 0"] {
        let ended = run(&format!(
            "bench {load} --spawn --size 1048576 --codec lines --connections 2 --duration 0.2 --json"
        ));
        assert_eq!(number(&all_right(ended), "unanswered"), 0, "{load}");
    }
}

// ---- echo, with connections that think ----

#[test]
fn connections_think_as_long_as_they_were_told_to() {
    for driver in drivers() {
        let object = all_right(run(&format!(
            "bench echo --spawn --driver {driver} --connections 50 --think 0.02..0.06 --duration 1 --warmup 0 --json"
        )));
        // 50 connections, one message each 0.04 s on the average.
        let count = object["latency_us"]["count"].as_u64().expect("a number");
        assert!((1100..1400).contains(&count), "{object}");
        assert_eq!((&object["seed"], &object["not_sent"]), (&1.into(), &0.into()), "{object}");
        assert_eq!(object["think_s"], serde_json::json!([0.02, 0.06]), "{object}");
        assert!(object["depth"].is_null() && object["rate"].is_null(), "{object}");
    }
}

#[test]
fn a_seed_thinks_the_same_on_any_number_of_threads() {
    let counts = [(7, 1), (7, 3), (8, 1)].map(|(seed, threads)| {
        let object = all_right(run(&format!(
            "bench echo --spawn --connections 9 --think 0.001..0.2 --seed {seed} --threads {threads} --duration 0.5 \
             --warmup 0 --json"
        )));
        object["latency_us"]["count"].as_u64().expect("a number")
    });
    assert_eq!(counts[0], counts[1]);
    assert_ne!(counts[0], counts[2]);
}

// ---- churn ----

#[test]
fn connections_come_and_go() {
    for driver in drivers() {
        for load in [
            "--connections 1",
            "--codec lines --connections 9 --threads 2 --size 3000",
            "--codec size-kind --connections 3 --size 1",
        ] {
            let ended = run(&format!(
                "bench churn --spawn --driver {driver} {load} --duration 1 --warmup 0.05 --json"
            ));
            let object = all_right(ended);
            let [cycles, opened, size] =
                ["cycles", "connections_opened", "size"].map(|field| number(&object, field));
            assert!(cycles > 0 && cycles <= opened, "{object}");
            assert_eq!(number(&object, "bytes_checked"), opened * size, "{object}");
            assert_eq!(object["unanswered"], 0, "{object}");
            assert_eq!((&object["latency_us"]["count"], &object["driver"]), (&cycles.into(), &driver.into()));
            assert!(object["connect_us"]["p50"].as_f64() <= object["latency_us"]["max"].as_f64(), "{object}");
        }
    }
}

#[test]
fn every_cycle_is_a_session_of_the_server_that_ended_in_order() {
    let server = Server::start("--shards 2");
    let ended = run(&format!("bench churn --addr {} --duration 0.3 --warmup 0 --json", server.address));
    let opened = number(&all_right(ended), "connections_opened");
    let ended = server.terminate().expect(0);
    assert_eq!(
        ["sessions accepted", "closed: peer_closed"].map(|row| ended.row(row)),
        [opened; 2],
        "{ended:#?}"
    );
}

#[test]
fn cycles_are_due_at_a_rate() {
    let ended =
        run("bench churn --spawn --connections 20 --threads 2 --rate 300 --duration 0.5 --warmup 0.1 --json");
    let object = all_right(ended);
    let count = object["latency_us"]["count"].as_u64().expect("a number");
    assert!((148..=152).contains(&count), "{object}");
    assert_eq!((&object["rate"], &object["not_sent"]), (&300.into(), &0.into()), "{object}");
}

#[test]
fn the_table_of_a_churn_has_its_rows() {
    let ended = run("bench churn --spawn --connections 2 --duration 0.2 --warmup 0").expect(0);
    for row in ["cycles/s", "cycle p50", "connect p99", "bytes checked"] {
        assert!(ended.output.contains(row), "`{row}` is missing: {ended:#?}");
    }
    assert!(ended.row("connections opened") > 0, "{ended:#?}");
}

#[test]
fn cycles_that_the_server_ends_are_lost_and_named() {
    let server = Server::start("--sessions-max 1");
    let address = &server.address;
    let ended = run(&format!("bench churn --addr {address} --connections 3 --duration 0.2 --warmup 0"));
    ended.expect_error(1, &["some connections", address, "were lost", "cycles"]);
}

#[test]
fn a_server_that_dies_ends_a_churn() {
    let mut server = Server::start("");
    let mut bench =
        Process::start(&format!("bench churn --addr {} --connections 2 --duration 1000", server.address));
    bench.until_error("cycles/s");
    server.process.signal(*Signal::asking().last().expect("one at least"));
    bench.end().expect_error(1, &["connections to", &server.address, "one could not be opened"]);
}

// ---- idle ----

#[test]
fn idle_sessions_are_held_and_answer_at_the_end() {
    for driver in drivers() {
        for codec in ["raw", "lines", "delimiter", "length-prefix", "size-kind"] {
            let object = all_right(run(&format!(
                "bench idle --spawn --driver {driver} --codec {codec} --connections 300 --size 100 --duration 0.2 \
                 --threads 2 --json"
            )));
            assert_eq!([number(&object, "answered"), number(&object, "connections_opened")], [300, 300]);
            assert_eq!(object["unanswered"], 0, "{object}");
            // Once at the beginning, once at the end.
            assert_eq!(number(&object, "bytes_checked"), 2 * 300 * 100, "{object}");
            assert_eq!(object["latency_us"]["count"], 300, "{object}");
            if cfg!(unix) {
                assert!(object["server_bytes"]["before"].as_u64() > Some(100_000), "{object}");
                let bytes = object["session_bytes"].as_f64().expect("a number");
                assert!(bytes < 20_000.0, "{object}");
            }
        }
    }
}

#[test]
fn the_table_of_idle_sessions_has_its_rows() {
    let ended = run("bench idle --spawn --connections 20 --duration 0.1").expect(0);
    assert_eq!(["sessions held", "answered at the end"].map(|row| ended.row(row)), [20, 20]);
    if cfg!(unix) {
        assert!(ended.output.contains("memory of a session, bytes"), "{ended:#?}");
    }
}

#[test]
fn idle_sessions_that_the_server_closes_are_a_failure() {
    let server = Server::start("--idle-timeout 0.2");
    let address = &server.address;
    // Whatever closes them, the run does not wait for its end.
    let ended = run(&format!("bench idle --addr {address} --connections 5 --duration 1000"));
    ended.expect_error(1, &["all connections", address, "5 of 5", "close idle sessions"]);
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("closed: idle_timeout"), 5, "{ended:#?}");
}

#[test]
fn fewer_sessions_than_asked_for_are_a_failure() {
    let server = Server::start("--sessions-max 3");
    let address = &server.address;
    let ended = run(&format!("bench idle --addr {address} --connections 5 --duration 0.1"));
    ended.expect_error(1, &["some connections", "2 of 5", "room for fewer"]);
}

/// Linux and Windows have all of 127.0.0.0/8.
#[cfg(not(any(target_os = "macos", target_os = "freebsd")))]
#[test]
fn several_addresses_of_a_server_share_the_connections() {
    let server = Server::start_on("0.0.0.0:0", "");
    let port = server.address.rsplit(':').next().expect("a port");
    let addresses = [1, 2, 3].map(|last| format!("--addr 127.0.0.{last}:{port}")).join(" ");
    for load in ["idle --connections 7", "echo --connections 7 --warmup 0", "echo --rate 500 --connections 7"]
    {
        let object = all_right(run(&format!("bench {load} {addresses} --threads 2 --duration 0.2 --json")));
        assert_eq!(number(&object, "connections_opened"), 7, "{object}");
    }
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("sessions accepted"), 21, "{ended:#?}");
}

// ---- fanout ----

#[track_caller]
fn all_delivered(ended: Ended) -> serde_json::Value {
    let object = all_right(ended);
    let [lines, members, size] = ["lines", "members", "size"].map(|field| number(&object, field));
    assert!(lines > 0, "{object}");
    assert_eq!(number(&object, "bytes_checked"), lines * members * size, "{object}");
    assert_eq!(object["undelivered"], 0, "{object}");
    object
}

#[test]
fn every_member_is_sent_every_line() {
    for driver in drivers() {
        for load in [
            "--members 1 --size 24",
            "--members 60 --publishers 3 --depth 4",
            "--members 5 --publishers 4 --threads 3 --depth 2",
            "--members 4 --depth 60 --size 1000",
        ] {
            let ended = run(&format!(
                "bench fanout --spawn --driver {driver} {load} --duration 0.3 --warmup 0.05 --json"
            ));
            let object = all_delivered(ended);
            assert_eq!(object["driver"], driver, "{object}");
            assert!(number(&object, "deliveries") > 0, "{object}");
        }
    }
}

#[test]
fn lines_are_due_at_a_rate() {
    let ended = run(
        "bench fanout --spawn --members 10 --publishers 2 --threads 2 --rate 400 --duration 0.5 --warmup 0.1 --json",
    );
    let object = all_delivered(ended);
    // Due in the half second, give or take one at each end, to ten members.
    let count = object["latency_us"]["count"].as_u64().expect("a number");
    assert!((1980..=2020).contains(&count), "{object}");
    assert_eq!((&object["rate"], &object["not_sent"]), (&400.into(), &0.into()), "{object}");
}

#[test]
fn the_table_of_a_fanout_has_its_rows() {
    let ended = run("bench fanout --spawn --members 3 --duration 0.2 --warmup 0").expect(0);
    for row in ["deliveries/s", "lines/s", "latency p99.9", "bytes checked"] {
        assert!(ended.output.contains(row), "`{row}` is missing: {ended:#?}");
    }
    assert_eq!(ended.row("lines delivered"), 3 * ended.row("lines published"), "{ended:#?}");
    assert_eq!(ended.row("connections opened"), 4, "{ended:#?}");
}

#[test]
fn two_fanouts_share_a_chat() {
    let server = Server::spawn(command("serve chat 127.0.0.1:0 --message-rate 0"));
    let load = format!("bench fanout --addr {} --members 5 --duration 0.3 --warmup 0 --json", server.address);
    let runs = [Process::start(&load), Process::start(&load)];
    for run in runs {
        all_delivered(run.end());
    }
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("sessions accepted"), 12, "{ended:#?}");
}

#[test]
fn members_that_are_thrown_out_are_a_failure() {
    // Two of six have no place.
    let server = Server::spawn(command("serve chat 127.0.0.1:0 --sessions-max 4"));
    let ended = run(&format!("bench fanout --addr {} --members 5 --duration 1000", server.address));
    ended.expect_error(1, &["connections", &server.address, "2 of 6"]);
}

/// A chat for one member and one publisher, which hands `change` each line that was published, and its number.
fn wrong_chat(change: impl Fn(usize, &str) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        let mut people: Vec<_> = (0..2)
            .map(|_| {
                let (mut stream, _) = listener.accept().expect("the loader connects");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
                let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
                let mut asked = |what: &str| {
                    let line = lines.next().expect("a line").expect("a line");
                    line.strip_prefix(what).expect("what is asked first").to_owned()
                };
                let name = asked("/nick ");
                writeln!(stream, "* you are {name}").expect("taken");
                let room = asked("/join ");
                writeln!(stream, "* you are in {room} with 1 others").expect("taken");
                (name, stream, lines)
            })
            .collect();
        people.sort_by(|one, other| one.0.cmp(&other.0));
        let [(_, member, _), (name, _, lines)] = &mut people[..] else { unreachable!("there are two") };
        for (number, line) in lines.map_while(Result::ok).enumerate() {
            // The loader may have seen enough and gone.
            let _ = member.write_all(change(number, &format!("{name}: {line}\n")).as_bytes());
        }
    });
    address
}

#[test]
fn lines_that_are_lost_doubled_or_changed_are_seen() {
    let fanout = |change: fn(usize, &str) -> String| {
        let address = wrong_chat(change);
        run(&format!("bench fanout --addr {address} --members 1 --depth 4 --duration 0.3 --warmup 0"))
    };
    fanout(|_, line| line.to_owned()).expect(0);
    let not_what_was_sent = "what was delivered is not what was sent: member 1 was sent";
    let lost = fanout(|number, line| if number == 7 { String::new() } else { line.to_owned() });
    lost.expect_error(1, &[not_what_was_sent, "line 8 of publisher 0, and not line 7"]);
    let doubled = fanout(|number, line| line.repeat(if number == 5 { 2 } else { 1 }));
    doubled.expect_error(1, &[not_what_was_sent, "line 5 of publisher 0, and not line 6"]);
    let cut = fanout(|number, line| if number == 3 { line.replace('\n', "x\n") } else { line.to_owned() });
    cut.expect_error(1, &[not_what_was_sent, "43 bytes in line 3"]);
    let changed = fanout(|number, line| match number {
        2 => format!("{}\u{1}\n", &line[..line.len() - 2]),
        _ => line.to_owned(),
    });
    changed.expect_error(1, &[not_what_was_sent, "of publisher 0 byte 125 of its stream", "seen 0x01"]);
    let stranger = fanout(|_, line| line.replacen('p', "q", 1));
    stranger.expect_error(1, &[not_what_was_sent, "what no publisher sent"]);
}

#[test]
fn another_server_than_a_chat_is_no_chat() {
    let server = Server::start("--codec lines");
    let ended = run(&format!("bench fanout --addr {} --members 2 --duration 1", server.address));
    ended.expect_error(1, &["what no publisher sent: /nick"]);
}
