//! The client without a terminal, as a script uses it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::channel,
    thread::JoinHandle,
    time::Duration,
};

use socket2::SockRef;

use crate::process::{Ended, PATIENCE, Process, Server, Signal, drivers, run};

/// Runs the client with this input, to its end.
fn connect(address: &str, arguments: &str, input: &str) -> Ended {
    let mut process = Process::start(&format!("connect {address} {arguments}"));
    // A client that has ended already takes no more.
    let _ = process.write(input);
    process.end_input();
    process.end()
}

/// Runs the client with this input until it has printed this line, which is the last.
fn answered(address: &str, arguments: &str, input: &str, last: &str) -> Ended {
    let mut process = Process::start(&format!("connect {address} --wait 1000 {arguments}"));
    process.write(input).expect("it reads");
    process.end_input();
    process.until(last);
    process.signal(Signal::Interrupt);
    process.end()
}

/// A peer that does something to one connection.
pub(crate) fn peer(serve: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the client connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        serve(stream);
    });
    (address, thread)
}

#[test]
fn lines_come_back_in_their_order() {
    for driver in drivers() {
        let server = Server::start(&format!("--codec lines --driver {driver}"));
        // A line end of Windows, and none at the end of the input.
        let input = "first\r\nsecond with spaces\n\nlast é";
        let ended = answered(&server.address, &format!("--driver {driver}"), input, "last é").expect(0);
        assert_eq!(ended.output, "first\nsecond with spaces\n\nlast é\n", "{driver}: {ended:#?}");
        assert_eq!(ended.errors, "", "{driver}");
        let counted = server.terminate().expect(0);
        assert_eq!(counted.row("closed: peer_closed"), 1, "{driver}: {counted:#?}");
    }
}

#[test]
fn kinds_are_typed_and_printed_as_text_or_digits() {
    let server = Server::start("--codec size-kind");
    let input = "0 hello you\n65535 #00ff\n7\n8 #61\n";
    let ended = answered(&server.address, "--codec size-kind", input, "8 a").expect(0);
    assert_eq!(ended.output, "0 hello you\n65535 #00ff\n7 \n8 a\n", "{ended:#?}");
}

#[test]
fn other_framings_carry_lines_too() {
    for codec in ["delimiter", "length-prefix"] {
        let server = Server::start(&format!("--codec {codec}"));
        let ended = answered(&server.address, &format!("--codec {codec}"), "one\n\ntwo", "two").expect(0);
        assert_eq!(ended.output, "one\n\ntwo\n", "{codec}: {ended:#?}");
        assert_eq!(server.terminate().expect(0).row("closed: peer_closed"), 1, "{codec}");
    }
}

#[test]
fn raw_sends_every_byte_and_no_other() {
    let long = "x".repeat(1 << 20);
    for input in ["two\nlines\n", "GET / HTTP/1.0\r\n\r\n", "no end", "\r\0\n\n\r", &long] {
        let (sender, received) = channel();
        let (address, thread) = peer(move |mut stream| {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("the end");
            sender.send(bytes).expect("the test listens");
        });
        // However short the wait for answers is: all of the input is sent before the end.
        connect(&address.to_string(), "--codec raw --wait 0", input).expect(0);
        let bytes = received.recv_timeout(PATIENCE).expect("it came");
        assert!(bytes == input.as_bytes(), "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(100)]));
        thread.join().expect("the peer is content");
    }
}

#[test]
fn raw_prints_what_comes() {
    let server = Server::start("");
    let ended = answered(&server.address, "--codec raw", "two\r\nlines\n", "lines").expect(0);
    // The test reads lines, whatever their end.
    assert_eq!(ended.output, "two\nlines\n", "{ended:#?}");
}

#[test]
fn input_of_any_length_waits_for_a_peer_that_is_slower() {
    const LINES: u64 = 6000;
    let server = Server::start("--codec lines");
    let rest = "x".repeat(500);
    let lines: Vec<_> = (0..LINES).map(|number| format!("{number} {rest}\n")).collect();
    let input = lines.concat();
    let ended = answered(&server.address, "", &input, &format!("{} x", LINES - 1)).expect(0);
    assert!(ended.output == input, "{} bytes of {} came back", ended.output.len(), input.len());
}

#[test]
fn what_the_peer_says_is_printed_before_anything_is_sent() {
    let (address, thread) = peer(|mut stream| {
        stream.write_all(b"your name?\n").expect("taken");
        let mut name = [0; 4];
        stream.read_exact(&mut name).expect("a name");
        stream.write_all(&[b"hello ", &name[..]].concat()).expect("taken");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the end");
        assert!(rest.is_empty(), "{rest:?}");
    });
    let mut client = Process::start(&format!("connect {address} --wait 0.2"));
    client.until("your name?");
    client.write("ann\n").expect("it reads");
    client.until("hello ann");
    client.end_input();
    assert_eq!(client.end().expect(0).errors, "");
    thread.join().expect("the peer is content");
}

#[test]
fn the_peers_end_is_told_and_no_failure() {
    for input_ends in [true, false] {
        let (address, thread) = peer(|mut stream| {
            stream.read_exact(&mut [0; 5]).expect("a line");
            stream.write_all(b"bye\n").expect("taken");
        });
        let mut client = Process::start(&format!("connect {address} --wait 1000"));
        client.write("quit\n").expect("it reads");
        if input_ends {
            client.end_input();
        }
        let ended = client.end().expect(0);
        assert_eq!(ended.output, "bye\n", "{ended:#?}");
        assert!(ended.errors.contains(&format!("{address} ended the connection")), "{ended:#?}");
        thread.join().expect("the peer is content");
    }
}

#[test]
fn a_reset_is_a_failure_with_its_reason() {
    let (address, thread) = peer(|mut stream| {
        stream.read_exact(&mut [0; 3]).expect("a line");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger can be set");
    });
    let ended = connect(&address.to_string(), "--wait 1000", "hi\n");
    ended.expect_error(1, &[&address.to_string(), "ended: peer reset"]);
    thread.join().expect("the peer is content");
}

#[test]
fn a_line_that_cannot_be_sent_is_named() {
    let server = Server::start("--codec size-kind");
    let size_kind = |input: &str| connect(&server.address, "--codec size-kind --wait 1000", input);
    size_kind("7 good\nhello\n").expect_error(1, &["line 2 of the input", "begins with its kind"]);
    size_kind("7 #0\n").expect_error(1, &["line 1 of the input", "hexadecimal"]);
    size_kind(&format!("7 {}\n", "x".repeat(65_532))).expect_error(1, &["line 1 of the input", "longer"]);
    let server = Server::start("--codec delimiter");
    connect(&server.address, "--codec delimiter --wait 1000", "good\na\0b\n")
        .expect_error(1, &["line 2 of the input", "ends a message"]);
}

#[test]
fn no_server_and_no_address_are_told() {
    connect("127.0.0.1:1", "", "").expect_error(1, &["no server answers at 127.0.0.1:1", "refused"]);
    for (arguments, part) in [
        ("connect nonsense", "`nonsense` is not an address"),
        ("connect 127.0.0.1:70000", "127.0.0.1:70000"),
        ("connect 127.0.0.1:1 --codec size-kind --frame-size-max 3", "from 4 to 65535"),
    ] {
        run(arguments).expect_error(2, &[part]);
    }
}

#[test]
fn a_signal_ends_it_in_order() {
    let server = Server::start("--codec lines");
    let mut client = Process::start(&format!("connect {}", server.address));
    client.write("here\n").expect("it reads");
    client.until("here");
    client.signal(Signal::Interrupt);
    client.end().expect(0);
    let counted = server.terminate().expect(0);
    assert_eq!(counted.row("closed: peer_closed"), 1, "{counted:#?}");
}
