//! The world of the simulator: an engine and its peers on one thread, in virtual time.

use std::{
    net::SocketAddr,
    sync::mpsc::{Receiver, channel},
};

use anyport::{
    Remote, SessionId,
    sim::{SimEngine, SimNet, SimPeer},
};

use crate::{
    handler::{Door, Event, Job, Obedient, Setup, Whose},
    world::{Arrived, PATIENCE, Peer, World},
};

pub(crate) struct Simulated {
    engine: SimEngine,
    remotes: Vec<Remote<Obedient>>,
    told: Receiver<(Whose, Event)>,
    peers: Vec<Seen>,
}

/// A peer, and what has come for it that the script has not read yet.
struct Seen {
    peer: Option<SimPeer>,
    bytes: Vec<u8>,
}

impl Seen {
    fn take(&mut self) -> SimPeer {
        self.peer.take().expect("a script closes a peer once")
    }

    fn peer(&mut self) -> &mut SimPeer {
        self.peer.as_mut().expect("a script does nothing with a peer that it has closed")
    }
}

/// Takes what has come for every peer: a kernel's buffer would have room for it, and a server that waits for room
/// takes no frames.
fn pump(peers: &mut [Seen]) {
    for Seen { peer, bytes } in peers {
        if let Some(peer) = peer {
            peer.read(bytes);
        }
    }
}

impl Simulated {
    /// `seed` decides how the network cuts, delays and orders.
    pub(crate) fn start(seed: u64) -> Self {
        let (tell, told) = channel();
        let (engine, remotes) = Setup::of(seed).engine("10.0.0.1:0", &tell);
        Self { engine: engine.simulate(&SimNet::new(seed)).unwrap(), remotes, told, peers: Vec::new() }
    }

    /// Ends the engine in order, and looks whether it kept its rules.
    pub(crate) fn stop(mut self) {
        self.engine.check().unwrap();
        self.engine.stop().unwrap();
    }
}

impl World for Simulated {
    fn begin(&mut self) {
        self.peers.clear();
    }

    fn connect(&mut self, door: Door) -> SocketAddr {
        let to = self.engine.address(door as usize).unwrap();
        let peer = self.engine.net().connect(to).unwrap();
        let address = peer.local_address();
        self.peers.push(Seen { peer: Some(peer), bytes: Vec::new() });
        address
    }

    fn write(&mut self, peer: Peer, bytes: &[u8]) {
        let Self { engine, peers, .. } = self;
        let mut written = 0;
        let done = engine.run_until(PATIENCE, |_| {
            pump(peers);
            let seen = &mut peers[peer];
            written += seen.peer().write(&bytes[written..]);
            written == bytes.len() || seen.peer().is_reset()
        });
        assert!(done, "the server reads no more: {written} of {} bytes are written", bytes.len());
    }

    fn half_close(&mut self, peer: Peer) {
        self.peers[peer].peer().shutdown_write();
    }

    fn close(&mut self, peer: Peer) {
        self.peers[peer].take().close();
    }

    fn reset(&mut self, peer: Peer) {
        self.peers[peer].take().reset();
    }

    fn read(&mut self, peer: Peer, bytes: &mut Vec<u8>) -> Arrived {
        let Self { engine, peers, .. } = self;
        let mut arrived = Arrived::Nothing;
        engine.run_until(PATIENCE, |_| {
            pump(peers);
            let seen = &mut peers[peer];
            arrived = if !seen.bytes.is_empty() {
                bytes.append(&mut seen.bytes);
                Arrived::Bytes
            } else if seen.peer().is_reset() {
                Arrived::Reset
            } else if seen.peer().is_end_of_stream() {
                Arrived::End
            } else {
                return false;
            };
            true
        });
        arrived
    }

    fn next_event(&mut self) -> Option<(Whose, Event)> {
        let Self { engine, told, peers, .. } = self;
        let mut event = None;
        engine.run_until(PATIENCE, |_| {
            pump(peers);
            event = told.try_recv().ok();
            event.is_some()
        });
        event
    }

    fn post(&mut self, door: Door, session: SessionId, job: Job) {
        let posted = self.remotes[door as usize]
            .post(session, move |handler, session| job.run(handler, session))
            .is_ok();
        assert!(posted, "the engine has ended");
    }
}
