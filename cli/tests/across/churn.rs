//! Many short connections that end in every way; then every place in the server must be free again.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    party::{serve, server_drivers, server_is_foreign, stop},
    process::{PATIENCE, Server},
};

const THREADS: u64 = 8;
/// Connections of each thread, one after the other, in every way in turn.
const CONNECTIONS: u64 = 30 * WAYS.len() as u64;
/// Room in the server: more than the threads take at a time, however late it sees their ends.
const ROOM: usize = 200;

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All was answered; we end our direction and wait for the other end.
    InOrder,
    /// We end our direction at once after sending; the answer must come all the same.
    HalfClosed,
    /// All was answered, and we are gone.
    Dropped,
    /// All was answered; then a reset.
    Reset,
    /// A reset while something is under way, perhaps before the server has accepted the connection.
    ResetAtOnce,
}

const WAYS: [Way; 5] = [Way::InOrder, Way::HalfClosed, Way::Dropped, Way::Reset, Way::ResetAtOnce];

/// How many connections ended in each way.
const EACH: u64 = THREADS * CONNECTIONS / WAYS.len() as u64;

/// What connection `number` sends: from one byte to more than one receive delivers.
fn message(number: u64) -> Vec<u8> {
    let size = 1 + (number * 7919) % 40_000;
    (0..size).map(|at| (at * 31 + number * 17 + (at >> 8)) as u8).collect()
}

/// One connection from its beginning to its end.
fn connect_and_end(server: &str, number: u64, way: Way) {
    let mut stream = TcpStream::connect(server).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let message = message(number);
    stream.write_all(&message).expect("the server takes it");
    if way == Way::HalfClosed {
        stream.shutdown(Shutdown::Write).expect("our end of the stream");
    }
    if way != Way::ResetAtOnce {
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).expect("the server answers");
        assert!(back == message, "connection {number}: what came back is not what was sent");
    }
    match way {
        Way::InOrder => end_in_order(&stream),
        Way::HalfClosed => is_ended(&stream),
        Way::Dropped => {}
        Way::Reset | Way::ResetAtOnce => {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger can be set");
        }
    }
}

/// Ends our direction, and waits for the end of the other.
fn end_in_order(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("our end of the stream");
    is_ended(stream);
}

fn is_ended(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0]).expect("the end of the stream, not a reset"), 0, "a byte too many");
}

/// A connection that is served; `None` if the server has no room.
fn enter(server: &Server) -> Option<TcpStream> {
    let mut stream = server.connect();
    let mut back = [0];
    let answer = stream.write_all(b"!").and_then(|()| stream.read(&mut back));
    match answer {
        Ok(1) => Some(stream),
        Ok(_) => None,
        Err(error) => {
            let gone = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe];
            assert!(gone.contains(&error.kind()), "{error}");
            None
        }
    }
}

/// Takes every place in the server; returns how often there was none. The server sees some ends late: it is asked
/// until it has seen them all.
fn fill(server: &Server) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    let (mut streams, mut refused) = (Vec::new(), 0);
    while streams.len() < ROOM {
        assert!(Instant::now() < deadline, "{} of {ROOM} places are not free again", ROOM - streams.len());
        match enter(server) {
            Some(stream) => streams.push(stream),
            None => refused += 1,
        }
    }
    // A place that was freed twice would be one too many.
    assert!(enter(server).is_none(), "there was more room than {ROOM}");
    streams.iter().for_each(end_in_order);
    refused + 1
}

#[test]
fn connections_that_end_in_every_way_leave_nothing_behind() {
    for driver in server_drivers() {
        let server = serve(&format!("{driver} --sessions-max {ROOM}"));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let address = server.address.as_str();
                scope.spawn(move || {
                    for (at, way) in (0..CONNECTIONS).zip(WAYS.into_iter().cycle()) {
                        connect_and_end(address, thread * CONNECTIONS + at, way);
                    }
                });
            }
        });
        let refused = fill(&server);
        let counted = stop(server);

        // Every place was free: what was counted before the end is all there was.
        let (in_order, resets) = (3 * EACH + ROOM as u64, EACH..=2 * EACH);
        let [closed, reset, full] =
            ["peer_closed", "peer_reset", "at_capacity"].map(|name| counted.closed(name));
        assert_eq!(closed + reset + full, counted.accepted, "{counted:?}");
        assert_eq!(full, refused, "{counted:?}");
        assert!(resets.contains(&(closed + reset - in_order)), "{counted:?}");
        if server_is_foreign() {
            // Not every system tells a reset from an end when nobody was reading at that moment.
            assert!(closed >= in_order, "{counted:?}");
        } else {
            assert_eq!(closed, in_order, "{counted:?}");
        }
    }
}
