//! Ctrl-C while sessions are open.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use crate::{
    party::{counted, serve, server_drivers},
    process::Signal,
};

const SESSIONS: u64 = 100;

#[test]
fn ctrl_c_drains_the_sessions_that_are_open() {
    for driver in server_drivers() {
        let mut server = serve(&driver);
        let mut streams: Vec<_> = (0..SESSIONS).map(|_| server.connect()).collect();
        for stream in &mut streams {
            stream.write_all(b"open").expect("the server takes it");
            let mut back = [0; 4];
            stream.read_exact(&mut back).expect("the server answers");
            assert_eq!(&back, b"open");
        }
        server.process.signal(Signal::Interrupt);
        server.process.until_error("draining");
        for stream in &mut streams {
            // In order: the end of the stream, not a reset.
            assert_eq!(stream.read(&mut [0]).expect("its end of the stream"), 0);
            stream.shutdown(Shutdown::Write).expect("our end of the stream");
        }
        let counted = counted(&server.process.end());
        assert_eq!((counted.accepted, counted.closed("drained")), (SESSIONS, SESSIONS), "{counted:?}");
        assert_eq!((counted.bytes_received, counted.bytes_sent), (4 * SESSIONS, 4 * SESSIONS), "{counted:?}");
    }
}
