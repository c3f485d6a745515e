//! The phases of a stop, on every driver.

use std::{
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use anyport::{CloseReason, DriverChoice, Frame, Handler, Limits, Lines, SendMarks, Session, Shard};

use crate::support::{Bed, Event, Events, assert_refused};

on_every_driver! {
    a_last_message_is_sent_before_the_drain
    sessions_go_on_for_their_grace
    the_hard_end_comes_though_nobody_reads
}

/// More than systems, and links to logic threads, keep for one who does not read.
const MUCH: usize = 32 << 20;

/// Says goodbye, and echoes.
struct Polite {
    tell: Sender<Event>,
    much: Arc<[u8]>,
}

impl Handler for Polite {
    type State = ();
    type Codec = Lines;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        match &*frame {
            b"fill" => {
                for _ in 0..2 {
                    session.send_shared(Arc::clone(&self.much));
                }
            }
            _ => {
                session.send(&frame);
            }
        }
    }

    fn on_drain(&mut self, _shard: &mut Shard<Self>) {
        self.tell.send(Event::Other("drain")).unwrap();
    }

    fn on_session_drain(&mut self, session: &mut Session<Self>) {
        session.send(b"goodbye");
    }

    fn on_close(&mut self, _session: &mut Session<Self>, reason: CloseReason) {
        self.tell.send(Event::Close(reason)).unwrap();
    }
}

fn polite(driver: DriverChoice, shards: usize, limits: Limits) -> (Bed<Polite>, Events) {
    let (tell, events) = Events::new();
    let much: Arc<[u8]> = vec![b'y'; MUCH].into();
    let make = move |_| Polite { tell: tell.clone(), much: Arc::clone(&much) };
    let bed = Bed::start(driver, shards, Lines::default(), limits, make);
    (bed, events)
}

fn a_last_message_is_sent_before_the_drain(driver: DriverChoice) {
    let (bed, events) = polite(driver, 2, Limits::default());
    let mut peers: Vec<_> = (0..8).map(|_| bed.peer()).collect();
    bed.counters_when(|counters| counters.sessions == 8);
    bed.running.stopper().drain();
    for peer in &mut peers {
        assert_eq!(peer.rest(), b"goodbye\n");
    }
    drop(peers);
    bed.running.join().unwrap();
    drop(bed.remote);
    let all = events.rest();
    let count = |wanted: &Event| all.iter().filter(|event| *event == wanted).count();
    assert_eq!((count(&Event::Other("drain")), count(&Event::Close(CloseReason::Drained))), (2, 8));
}

fn sessions_go_on_for_their_grace(driver: DriverChoice) {
    // It ends when the last session has gone, long before the grace is over.
    let limits = Limits { drain_grace: Duration::from_hours(1), ..Limits::default() };
    let (bed, events) = polite(driver, 1, limits);
    let (address, mut peer) = (bed.address(), bed.peer());
    bed.counters_when(|counters| counters.sessions == 1);
    bed.running.stopper().drain();
    peer.expect(b"goodbye\n");
    peer.send(b"one more\n");
    peer.expect(b"one more\n");
    drop(peer);
    bed.running.join().unwrap();
    assert_eq!((events.next(), events.next_close()), (Event::Other("drain"), CloseReason::PeerClosed));
    assert_refused(address);
}

fn the_hard_end_comes_though_nobody_reads(driver: DriverChoice) {
    let send = SendMarks { queue_max_bytes: 3 * MUCH, ..SendMarks::default() };
    let limits = Limits { drain_deadline: Duration::from_hours(1), send, ..Limits::default() };
    let (bed, events) = polite(driver, 2, limits);
    let mut deaf: Vec<_> = (0..4).map(|_| bed.peer()).collect();
    for peer in &mut deaf {
        peer.send(b"fill\n");
    }
    bed.counters_when(|counters| counters.frames_received == 4);
    bed.running.stop_within(Duration::from_millis(50)).unwrap();
    drop(bed.remote);
    let closes: Vec<_> = events.rest().into_iter().filter(|event| matches!(event, Event::Close(_))).collect();
    assert_eq!(closes, vec![Event::Close(CloseReason::Stopped); 4]);
    drop(deaf);
}
