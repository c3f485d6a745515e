//! Servers that echo wrongly, to see that the loader sees it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::JoinHandle,
};

use crate::process::{Ended, PATIENCE, run};

/// Serves one connection with `answer`, which is given each chunk and the position of its first byte.
fn serve_one(
    mut answer: impl FnMut(&mut TcpStream, u64, &[u8]) + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the loader connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let mut position = 0;
        let mut bytes = vec![0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            answer(&mut stream, position, &bytes[..count]);
            position += count as u64;
        }
    });
    (address, thread)
}

fn load(arguments: &str, answer: impl FnMut(&mut TcpStream, u64, &[u8]) + Send + 'static) -> Ended {
    let (address, server) = serve_one(answer);
    let ended =
        run(&format!("bench echo --addr {address} --connections 1 --duration 1 --warmup 0 {arguments}"));
    server.join().expect("the server ends with its connection");
    ended
}

/// Echoes, but hands each byte with its position to `change`, which says what to send for it.
fn echo_changed(
    change: impl Fn(u64, u8) -> Vec<u8> + Send + 'static,
) -> impl FnMut(&mut TcpStream, u64, &[u8]) + Send + 'static {
    move |stream, position, bytes| {
        let back: Vec<u8> =
            bytes.iter().zip(position..).flat_map(|(&byte, position)| change(position, byte)).collect();
        // The loader may have seen enough and gone.
        let _ = stream.write_all(&back);
    }
}

const NOT_WHAT_WAS_SENT: &str = "what came back is not what was sent";

#[test]
fn a_changed_byte_is_seen_with_its_place() {
    let ended = load("", echo_changed(|position, byte| vec![if position == 1000 { !byte } else { byte }]));
    let parts = [NOT_WHAT_WAS_SENT, "connection 0", "message 15", "byte 1000 of", "expected 0x", "seen 0x"];
    ended.expect_error(1, &parts);
}

#[test]
fn a_lost_byte_is_seen() {
    let ended = load(
        "--depth 8",
        echo_changed(|position, byte| if position == 700 { Vec::new() } else { vec![byte] }),
    );
    ended.expect_error(1, &[NOT_WHAT_WAS_SENT, "expected 0x"]);
}

#[test]
fn doubled_bytes_are_seen() {
    let ended = load("", echo_changed(|position, byte| vec![byte; if position == 64 { 2 } else { 1 }]));
    ended.expect_error(1, &[NOT_WHAT_WAS_SENT]);
}

#[test]
fn more_than_was_sent_is_seen() {
    // Messages as long as the pattern's period are all alike: only their number tells.
    let mut held = Vec::new();
    let ended = load("--size 65521 --rate 1", move |stream, _, bytes| {
        held.extend_from_slice(bytes);
        if held.len() == 65_521 {
            let _ = stream.write_all(&held.repeat(2));
        }
    });
    ended.expect_error(1, &[NOT_WHAT_WAS_SENT, "bytes came back of 65521 that were sent"]);
}

#[test]
fn messages_in_another_order_are_seen() {
    let mut held = Vec::new();
    let ended = load("--codec lines --depth 4 --size 10", move |stream, _, bytes| {
        held.extend_from_slice(bytes);
        if held.len() >= 44 {
            let (first, others) = held.split_at(11);
            let _ = stream.write_all(&[others, first].concat());
            held.clear();
        }
    });
    ended.expect_error(1, &[NOT_WHAT_WAS_SENT]);
}

#[test]
fn another_kind_or_size_is_seen() {
    let ended = load("--codec size-kind --size 6", |stream, position, bytes| {
        let mut back = bytes.to_vec();
        if position == 0 {
            back[2] ^= 1;
        }
        let _ = stream.write_all(&back);
    });
    ended.expect_error(1, &[NOT_WHAT_WAS_SENT, "expected kind 0, seen 1"]);
    let ended = load("--codec lines --size 6", |stream, _, _| {
        let _ = stream.write_all(b"1234567\n");
    });
    ended.expect_error(1, &["is not what was sent: ", "expected 6 bytes"]);
}

#[test]
fn silence_is_a_failure() {
    let ended = load("--depth 3", |_, _, _| {});
    ended.expect_error(1, &["3 messages", "did not come back", "--codec raw"]);
}
