//! The world of a real driver: an engine on threads of its own, and peers on this machine's sockets.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use anyport::{DriverChoice, Remote, Running, SessionId};
use socket2::{Domain, Socket, Type};

use crate::{
    handler::{Door, Event, Job, Obedient, SMALL_SOCKET_BYTES, Setup, Whose},
    world::{Arrived, Peer, World},
};

/// More than a script has on its way to a server.
const SEND_BUFFER_BYTES: usize = 128 << 10;

pub(crate) struct Sockets {
    setup: Setup,
    engine: Running,
    remotes: Vec<Remote<Obedient>>,
    told: Receiver<(Whose, Event)>,
    peers: Vec<Option<TcpStream>>,
    patience: Duration,
}

impl Sockets {
    pub(crate) fn start(driver: DriverChoice, setup: Setup, patience: Duration) -> Self {
        let (tell, told) = channel();
        let (engine, remotes) = setup.engine("127.0.0.1:0", &tell);
        Self {
            setup,
            engine: engine.driver(driver).start().unwrap(),
            remotes,
            told,
            peers: Vec::new(),
            patience,
        }
    }

    /// Ends the engine in order: whatever a script left behind would keep it from that.
    pub(crate) fn stop(self) {
        self.engine.stop().unwrap();
    }

    fn peer(&mut self, peer: Peer) -> &mut TcpStream {
        self.peers[peer].as_mut().expect("a script does nothing with a peer that it has closed")
    }

    fn take(&mut self, peer: Peer) -> TcpStream {
        self.peers[peer].take().expect("a script closes a peer once")
    }
}

impl World for Sockets {
    fn begin(&mut self) {
        self.peers.clear();
    }

    fn connect(&mut self, door: Door) -> SocketAddr {
        let to = self.engine.address(door as usize).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if self.setup != Setup::Usual {
            // Sends to it go out in parts; what it sends itself never waits for a server that waits for it.
            socket.set_recv_buffer_size(SMALL_SOCKET_BYTES).unwrap();
            socket.set_send_buffer_size(SEND_BUFFER_BYTES).unwrap();
        }
        socket.connect(&to.into()).unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"));
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(self.patience)).unwrap();
        stream.set_write_timeout(Some(self.patience)).unwrap();
        let address = stream.local_addr().unwrap();
        self.peers.push(Some(stream));
        address
    }

    fn write(&mut self, peer: Peer, bytes: &[u8]) {
        // A failure is that of a connection that the server has ended: reading tells.
        let _ = self.peer(peer).write_all(bytes);
    }

    fn half_close(&mut self, peer: Peer) {
        let _ = self.peer(peer).shutdown(std::net::Shutdown::Write);
    }

    fn close(&mut self, peer: Peer) {
        drop(self.take(peer));
    }

    fn reset(&mut self, peer: Peer) {
        let stream = self.take(peer);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn read(&mut self, peer: Peer, bytes: &mut Vec<u8>) -> Arrived {
        let mut buffer = [0; 16 << 10];
        match self.peer(peer).read(&mut buffer) {
            Ok(0) => Arrived::End,
            Ok(count) => {
                bytes.extend_from_slice(&buffer[..count]);
                Arrived::Bytes
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Arrived::Reset,
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Arrived::Nothing,
                _ => panic!("reading from the server: {error}"),
            },
        }
    }

    fn next_event(&mut self) -> Option<(Whose, Event)> {
        self.told.recv_timeout(self.patience).ok()
    }

    fn post(&mut self, door: Door, session: SessionId, job: Job) {
        let posted = self.remotes[door as usize]
            .post(session, move |handler, session| job.run(handler, session))
            .is_ok();
        assert!(posted, "the engine has ended");
    }
}
