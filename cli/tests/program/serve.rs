//! The server: how it starts, what it survives, how it ends.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
};

use crate::process::{PATIENCE, Server, Signal, drivers, run};

/// Sends and expects the same back.
#[track_caller]
fn echoes(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the server takes it");
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).expect("the server answers");
    assert_eq!(back, bytes);
}

/// Expects the server to close this connection without another byte.
#[track_caller]
fn is_closed(mut stream: &TcpStream) {
    let mut bytes = [0; 64];
    match stream.read(&mut bytes) {
        Ok(count) => assert_eq!(count, 0, "the server still answers"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

#[test]
fn it_says_what_it_is_and_what_to_do() {
    let server = Server::start("--shards 2");
    assert!(server.driver.starts_with("driver "), "{}", server.driver);
    let address = server.address.clone();
    let ended = server.terminate().expect(0);
    for part in [
        "2 shards".to_owned(),
        format!("listening on {address} (echo, raw)"),
        "Ctrl-C drains".to_owned(),
        format!("anyport bench echo --addr {address}"),
    ] {
        assert!(ended.output.contains(&part), "`{part}` is missing: {ended:#?}");
    }
}

#[test]
fn logic_threads_answer_for_the_shards() {
    for driver in drivers() {
        let server = Server::start(&format!("--driver {driver} --shards 2 --logic-threads 1"));
        for _ in 0..4 {
            echoes(&server.connect(), b"there and back");
        }
        let ended = server.terminate().expect(0);
        assert!(ended.output.contains("2 shards, 1 logic thread,"), "{ended:#?}");
    }
}

#[test]
fn a_signal_drains_and_the_summary_counts() {
    for &signal in Signal::asking() {
        for driver in drivers() {
            let mut server = Server::start(&format!("--driver {driver}"));
            let first = server.connect();
            echoes(&first, b"some bytes");
            let other = server.connect();
            echoes(&other, b"and more");
            drop(other);
            server.process.signal(signal);
            // Drained: the server ends its direction, and we end ours.
            is_closed(&first);
            first.shutdown(Shutdown::Both).ok();
            let ended = server.process.end().expect(0);
            assert!(ended.errors.contains("draining"), "{ended:#?}");
            let rows = ["sessions accepted", "frames received", "bytes received", "bytes sent"];
            assert_eq!(rows.map(|row| ended.row(row)), [2, 2, 18, 18], "{signal:?} {driver}: {ended:#?}");
            let closed = ended.row("closed: peer_closed") + ended.row("closed: drained");
            assert_eq!(closed, 2, "{signal:?} {driver}: {ended:#?}");
        }
    }
}

#[test]
fn a_second_signal_aborts() {
    let signal = *Signal::asking().last().expect("one at least");
    let mut server = Server::start("--drain-deadline 1000");
    let stays = server.connect();
    echoes(&stays, b"x");
    server.process.signal(signal);
    server.process.until_error("draining");
    // It waits for our end of the stream, which does not come.
    is_closed(&stays);
    server.process.signal(signal);
    let ended = server.process.end().expect(0);
    assert_eq!(ended.row("sessions accepted"), 1, "{ended:#?}");
}

#[test]
fn the_drain_deadline_ends_sessions_that_stay() {
    let server = Server::start("--drain-deadline 0.05");
    let stays = server.connect();
    echoes(&stays, b"x");
    server.terminate().expect(0);
}

#[test]
fn it_may_end_with_its_input() {
    let mut server = Server::start("--until-input-ends");
    echoes(&server.connect(), b"x");
    server.process.end_input();
    let ended = server.process.end().expect(0);
    assert_eq!(ended.row("sessions accepted"), 1, "{ended:#?}");
}

/// The ways to spread connections that a driver has.
fn spreads(driver: &str) -> &'static [&'static str] {
    if driver == "iocp" { &["auto", "hand-over"] } else { &["auto", "reuse-port", "hand-over"] }
}

#[test]
fn the_spread_is_told_and_one_that_cannot_be_is_refused() {
    for driver in drivers() {
        let chosen = if driver == "iocp" { "hand-over" } else { "reuse-port" };
        let ended = Server::start(&format!("--shards 2 --driver {driver}")).terminate().expect(0);
        assert!(ended.output.contains(&format!("spread by {chosen}")), "{driver}: {ended:#?}");
        if !spreads(driver).contains(&"reuse-port") {
            let serve = format!("serve echo --listen 127.0.0.1:0 --driver {driver} --spread reuse-port");
            run(&serve).expect_error(1, &["--spread reuse-port", driver, "hand-over"]);
        }
    }
}

#[test]
fn a_second_server_on_the_port_fails_though_shards_share_it() {
    for driver in drivers() {
        for spread in spreads(driver) {
            let server = Server::start(&format!("--shards 2 --driver {driver} --spread {spread}"));
            let address = &server.address;
            let other = run(&format!("serve echo --shards 2 --driver {driver} --listen {address}"));
            let other = other.expect_error(1, &[address, "choose another port"]);
            assert_eq!(other.errors.lines().count(), 1, "{other:#?}");
            echoes(&server.connect(), b"still here");
            server.terminate().expect(0);
        }
    }
}

#[test]
fn hand_over_serves_every_shard() {
    for driver in drivers() {
        let server = Server::start(&format!("--shards 3 --spread hand-over --driver {driver}"));
        let streams: Vec<_> = (0..9).map(|_| server.connect()).collect();
        for stream in &streams {
            echoes(stream, b"handed over");
        }
        drop(streams);
        let ended = server.terminate().expect(0);
        assert_eq!(ended.row("frames received"), 9, "{driver}: {ended:#?}");
    }
}

#[test]
fn bad_frames_close_only_their_session() {
    for driver in drivers() {
        let server = Server::start(&format!("--codec size-kind --frame-size-max 1024 --driver {driver}"));
        let good = server.connect();
        echoes(&good, &[6, 0, 1, 2, b'h', b'i']);
        let mut too_large = server.connect();
        too_large.write_all(&[1, 4, 0, 0]).expect("taken");
        is_closed(&too_large);
        let mut malformed = server.connect();
        malformed.write_all(&[3, 0, 0, 0]).expect("taken");
        is_closed(&malformed);
        // The largest that is allowed, in two pieces.
        let mut frame = vec![b'.'; 1024];
        frame[..4].copy_from_slice(&[0, 4, 7, 0]);
        let mut largest = server.connect();
        largest.write_all(&frame[..3]).expect("taken");
        largest.write_all(&frame[3..]).expect("taken");
        let mut back = vec![0; frame.len()];
        largest.read_exact(&mut back).expect("answered");
        assert_eq!(back, frame);
        echoes(&good, &[4, 0, 9, 9]);
        drop((good, largest));
        let ended = server.terminate().expect(0);
        let rows = ["sessions accepted", "closed: frame_too_large", "closed: malformed_frame"];
        assert_eq!(rows.map(|row| ended.row(row)), [4, 1, 1], "{driver}: {ended:#?}");
    }
}

#[test]
fn a_line_that_is_too_long_closes_only_its_session() {
    for driver in drivers() {
        let server = Server::start(&format!("--codec lines --frame-size-max 16 --driver {driver}"));
        let good = server.connect();
        // 15 bytes and the line end: the largest that is allowed.
        echoes(&good, b"fifteen letters\n");
        let mut endless = server.connect();
        endless.write_all(&[b'x'; 17]).expect("taken");
        is_closed(&endless);
        echoes(&good, b"\n");
        drop(good);
        let ended = server.terminate().expect(0);
        assert_eq!(ended.row("closed: frame_too_large"), 1, "{driver}: {ended:#?}");
    }
}

#[test]
fn one_session_too_many_is_closed_and_counted() {
    for driver in drivers() {
        let server = Server::start(&format!("--sessions-max 2 --shards 2 --driver {driver}"));
        let (first, second) = (server.connect(), server.connect());
        echoes(&first, b"one");
        echoes(&second, b"two");
        is_closed(&server.connect());
        echoes(&first, b"still here");
        drop((first, second));
        let ended = server.terminate().expect(0);
        let rows = ["sessions accepted", "closed: at_capacity"];
        assert_eq!(rows.map(|row| ended.row(row)), [3, 1], "{driver}: {ended:#?}");
    }
}

#[test]
fn idle_sessions_are_closed() {
    for driver in drivers() {
        let server = Server::start(&format!("--idle-timeout 0.2 --driver {driver}"));
        let idle = server.connect();
        idle.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        is_closed(&idle);
        let ended = server.terminate().expect(0);
        assert_eq!(ended.row("closed: idle_timeout"), 1, "{driver}: {ended:#?}");
    }
}

/// The options that protect a server do what they say, and what cannot be is refused.
#[test]
fn peers_are_bounded_as_typed() {
    let server = Server::start("--max-per-address 2 --accept-rate 1000 --shards 2");
    let (first, second) = (server.connect(), server.connect());
    echoes(&first, b"one");
    echoes(&second, b"two");
    is_closed(&server.connect());
    echoes(&first, b"still here");
    drop((first, second));
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("closed: too_many_from_address"), 1, "{ended:#?}");

    let server = Server::start(
        "--codec lines --handshake-timeout 0.2 --frame-timeout 60 --message-rate 5 --close-on-excess",
    );
    let silent = server.connect();
    silent.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    is_closed(&silent);
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("closed: handshake_timeout"), 1, "{ended:#?}");
}

/// More than the buffers of both systems and the marks of the queue hold together.
const BYTES: usize = 24 << 20;

#[test]
fn a_peer_that_does_not_read_is_slowed_down_and_not_closed() {
    for driver in drivers() {
        let server = Server::start(&format!("--driver {driver}"));
        let mut stream = server.connect();
        let mut writing = stream.try_clone().expect("a second handle");
        let writer = std::thread::spawn(move || writing.write_all(&vec![b'z'; BYTES]));
        // Nothing is read until the server has answered what it can; then everything comes.
        let mut peeked = [0; 1];
        stream.peek(&mut peeked).expect("it answers");
        let mut read = 0;
        let mut bytes = vec![0; 64 << 10];
        while read < BYTES {
            let count = stream.read(&mut bytes).expect("it goes on");
            assert!(count > 0 && bytes[..count].iter().all(|&byte| byte == b'z'), "after {read} bytes");
            read += count;
        }
        writer.join().expect("the writer ends").expect("all was taken");
        drop(stream);
        let ended = server.terminate().expect(0);
        assert_eq!(ended.row("bytes sent"), BYTES as u64, "{driver}: {ended:#?}");
        assert_eq!(ended.row("closed: send_queue_full"), 0, "{driver}: {ended:#?}");
    }
}

/// Windows has no such drivers for them.
#[cfg(unix)]
#[test]
fn a_path_is_an_address_of_every_command() {
    use crate::process::Process;
    let socket =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.sock", std::process::id()));
    let address = format!("unix:{}", socket.display());
    for driver in drivers() {
        let server = Server::start_on(&address, &format!("--codec lines --driver {driver}"));
        assert_eq!(server.address, address);
        let load = format!("--addr {address} --driver {driver} --codec lines --connections 4 --json");
        for (bench, loader) in [("echo", "--warmup 0"), ("churn", "--warmup 0"), ("idle", "--threads 2")] {
            let ended = run(&format!("bench {bench} {load} {loader} --duration 0.2")).expect(0);
            assert_eq!(ended.json()["connections_lost"], serde_json::json!({}), "{bench}: {ended:#?}");
        }
        let mut client = Process::start(&format!("connect {address} --driver {driver} --wait 0.3"));
        client.write("through a file\n").expect("it reads");
        client.until("through a file");
        client.end_input();
        client.end().expect(0);
        server.terminate().expect(0);
    }
    run(&format!("connect {address}")).expect_error(1, &["no server answers at unix:"]);
}
