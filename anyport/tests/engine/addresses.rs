//! Addresses of all kinds: IPv6, and paths of Unix sockets.

use std::sync::mpsc::channel;

use anyport::{DriverChoice, Engine, Limits, Lines, Server};

use crate::support::{Bed, Echo, Event, Nobody, PATIENCE, Peer, assert_refused, has_ipv6, placed};

fn an_ipv6_server_takes_ipv4_unless_it_is_told_not_to(driver: DriverChoice) {
    if !has_ipv6() {
        return;
    }
    let nobody = Nobody::new();
    for (only, port) in [(false, 0), (true, nobody.address().port())] {
        let (tell, _told) = channel();
        let server = Server::bind(format!("[::]:{port}"), Lines::default());
        let server = server.ipv6_only(only).placement(placed(1));
        let engine = Engine::new().unwrap().shards(1).unwrap().driver(driver);
        let running = engine.serve(server, move |_| Echo::new(tell.clone())).unwrap().start().unwrap();
        let port = running.address(0).unwrap().port();
        let mut six = Peer::connect(([0_u16, 0, 0, 0, 0, 0, 0, 1], port).into());
        six.send(b"six\n");
        six.expect(b"six\n");
        if only {
            assert_refused(nobody.address());
        } else {
            let mut four = Peer::connect(([127, 0, 0, 1], port).into());
            four.send(b"four\n");
            four.expect(b"four\n");
        }
        drop(six);
        running.stop().unwrap();
    }
}

fn options_outside_their_range_are_named(driver: DriverChoice) {
    let engine = || Engine::new().unwrap().driver(driver);
    let (tell, _told) = channel();
    let options = anyport::SocketOptions { send_buffer_bytes: Some(0), ..Default::default() };
    let server = Server::bind("127.0.0.1:0", Lines::default()).socket_options(options);
    let make = tell.clone();
    let error = engine().serve(server, move |_| Echo::new(make.clone())).err().unwrap().to_string();
    assert_eq!(error, "limit send_buffer_bytes must be from 1 to 1073741824, but is 0");
    let server = Server::bind("127.0.0.1:0", Lines::default()).backlog(0);
    let error = engine().serve(server, move |_| Echo::new(tell.clone())).err().unwrap().to_string();
    assert_eq!(error, "limit backlog must be at least 1, but is 0");
}

/// A session tells who connected: it has an address or not.
fn a_peers_address_is_that_of_its_socket(driver: DriverChoice) {
    let (tell, told) = channel();
    let bed = Bed::start(driver, 1, Lines::default(), Limits::default(), move |_| Echo::new(tell.clone()));
    let peer = bed.peer();
    let local = peer.0.local_addr().unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Event::Open));
    let (ask, answer) = channel();
    bed.remote
        .post_to_shard(0, move |_, shard| {
            shard.for_each(|session| ask.send(session.peer_address()).unwrap());
        })
        .unwrap();
    let address = answer.recv_timeout(PATIENCE).unwrap();
    assert_eq!((address.socket(), address.ip()), (Some(local), Some(local.ip())));
    assert_eq!(address.to_string(), local.to_string());
    bed.running.stop().unwrap();
}

on_every_driver! {
    an_ipv6_server_takes_ipv4_unless_it_is_told_not_to
    a_peers_address_is_that_of_its_socket
}

on_every_driver_once! {
    options_outside_their_range_are_named
}

#[cfg(windows)]
#[test]
fn windows_says_that_it_has_no_unix_sockets() {
    let (tell, _told) = channel();
    let server = Server::bind("unix:C:/x.sock", Lines::default());
    let engine = Engine::new().unwrap().serve(server, move |_| Echo::new(tell.clone())).unwrap();
    let error = engine.start().err().unwrap().to_string();
    assert_eq!(error, "Unix sockets are not supported by driver iocp; use HOST:PORT");
}

#[cfg(unix)]
mod unix {
    use std::{
        io::{Read, Write},
        os::unix::{fs::PermissionsExt, net::UnixStream},
        path::PathBuf,
        sync::mpsc::{Receiver, Sender, channel},
    };

    use anyport::{
        Client, CloseReason, DriverChoice, Engine, Frame, Handler, Lines, PeerAddress, Server, Session,
        Spread,
    };

    use crate::support::{Echo, Folder, PATIENCE, placed};

    /// A path where nothing is yet.
    struct Place(Folder);

    impl Place {
        fn new() -> Self {
            Self(Folder::new())
        }

        fn path(&self) -> PathBuf {
            self.0.file("s.sock")
        }

        fn address(&self) -> String {
            format!("unix:{}", self.path().display())
        }

        fn connect(&self) -> UnixStream {
            let stream = UnixStream::connect(self.path()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        }
    }

    fn ask(stream: &mut UnixStream, line: &str) {
        stream.write_all(line.as_bytes()).unwrap();
        let mut got = vec![0; line.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, line.as_bytes());
    }

    fn engine(driver: DriverChoice, shards: usize) -> Engine {
        Engine::new().unwrap().shards(shards).unwrap().driver(driver)
    }

    fn echo() -> impl Fn(usize) -> Echo<Lines> {
        let (tell, _) = channel();
        move |_| Echo::new(tell.clone())
    }

    fn shards_share_a_path_evenly_and_the_file_goes_with_the_server(driver: DriverChoice) {
        let place = Place::new();
        let server = Server::bind(place.address(), Lines::default()).unix_mode(0o600).placement(placed(3));
        let mut engine = engine(driver, 3);
        let remote = engine.add_server(server, echo()).unwrap();
        let running = engine.start().unwrap();
        assert_eq!(running.address(0), None, "it has no IP address");
        assert_eq!(running.listens_at(0).unwrap().to_string(), place.address());
        let mode = std::fs::metadata(place.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut peers: Vec<_> = (0..30).map(|_| place.connect()).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            ask(peer, &format!("line {number}\n"));
        }
        for shard in 0..3 {
            let (tell, told) = channel();
            remote
                .post_to_shard(shard, move |_, shard| {
                    shard.for_each(|session| assert_eq!(session.peer_address(), PeerAddress::Unix));
                    tell.send(shard.sessions()).unwrap();
                })
                .unwrap();
            assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 10);
        }
        drop(peers);
        running.stop().unwrap();
        assert!(!place.path().exists());
    }

    fn a_live_servers_path_is_not_taken_and_a_dead_ones_is(driver: DriverChoice) {
        let place = Place::new();
        let dead = std::os::unix::net::UnixListener::bind(place.path()).unwrap();
        let start = || {
            let server = Server::bind(place.address(), Lines::default()).placement(placed(1));
            engine(driver, 1).serve(server, echo()).unwrap().start()
        };
        let text = start().err().unwrap().to_string();
        assert!(text.contains("in use") && text.contains("stop the program that listens there"), "{text}");
        drop(dead);
        let running = start().unwrap();
        ask(&mut place.connect(), "hello\n");
        running.stop().unwrap();
        std::fs::write(place.path(), "no socket").unwrap();
        let text = start().err().unwrap().to_string();
        assert!(text.contains("no socket"), "{text}");
        assert!(place.path().exists());
    }

    fn sharing_a_path_by_the_system_is_an_error(driver: DriverChoice) {
        let place = Place::new();
        let server = Server::bind(place.address(), Lines::default());
        let asked = engine(driver, 2).spread(Spread::ReusePort).serve(server, echo()).unwrap();
        let text = asked.start().err().unwrap().to_string();
        assert!(text.contains("Spread::Auto"), "{text}");
    }

    /// Says hello, and tells what it was answered.
    struct Caller(Sender<String>);

    impl Handler for Caller {
        type State = ();
        type Codec = Lines;

        fn on_open(&mut self, session: &mut Session<Self>) {
            session.send(b"hello");
        }

        fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
            let text = String::from_utf8_lossy(frame.body).into_owned();
            self.0.send(format!("{text} from {}", session.peer_address())).unwrap();
            session.close(CloseReason::Drained);
        }
    }

    fn a_client_reaches_a_server_at_a_path(driver: DriverChoice) {
        let place = Place::new();
        let (tell, told): (_, Receiver<String>) = channel();
        let mut engine = engine(driver, 2);
        engine
            .add_server(Server::bind(place.address(), Lines::default()).placement(placed(2)), echo())
            .unwrap();
        let remote = engine.add_client(
            Client::to(place.address(), Lines::default()).manual().placement(placed(2)),
            move |_| Caller(tell.clone()),
        );
        let running = engine.start().unwrap();
        remote.unwrap().connect().unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "hello from unix");
        running.stop().unwrap();
    }

    on_every_driver! {
        shards_share_a_path_evenly_and_the_file_goes_with_the_server
        a_live_servers_path_is_not_taken_and_a_dead_ones_is
        a_client_reaches_a_server_at_a_path
    }

    on_every_driver_once! {
        sharing_a_path_by_the_system_is_an_error
    }
}
