//! The loads beside the echo's: each small and quick, with its figures, and its bad ends.

use crate::process::{Ended, Server, drivers, run};

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

// ---- idle ----

#[test]
fn idle_sessions_are_held_and_answer_at_the_end() {
    for driver in drivers() {
        for codec in ["raw", "lines", "size-kind"] {
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
