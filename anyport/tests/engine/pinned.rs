//! Engines whose threads are bound to processors.

use std::{
    sync::mpsc::{Sender, channel},
    thread::available_parallelism,
};

use anyport::{DriverChoice, Engine, Frame, Handler, Lines, Server, Session, Shard};

use crate::support::{PATIENCE, Peer, own_address, placed};

on_every_driver! {
    who_is_bound_serves_and_does_not_bind_the_pool
}

/// Tells how many processors its thread may use, and those of the pool.
struct Bound {
    tell: Sender<(usize, usize)>,
}

impl Handler for Bound {
    type State = ();
    type Codec = Lines;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        let here = available_parallelism().unwrap().get();
        // The first work: this thread starts the pool.
        shard.offload(
            || available_parallelism().unwrap().get(),
            move |bound, _, in_pool| bound.tell.send((here, in_pool.unwrap())).unwrap(),
        );
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send_frame(frame);
    }
}

fn who_is_bound_serves_and_does_not_bind_the_pool(driver: DriverChoice) {
    let (tell, told) = channel();
    // From any place on, also one that no machine has.
    let engine = Engine::new().unwrap().shards(1).unwrap().driver(driver).pin_shards_from(1_000_001);
    let server = Server::bind(own_address().to_string(), Lines::default()).placement(placed(1));
    let running = engine.serve(server, move |_| Bound { tell: tell.clone() }).unwrap().start().unwrap();
    let (bound, in_pool) = told.recv_timeout(PATIENCE).unwrap();
    if cfg!(target_os = "linux") {
        assert_eq!(bound, 1, "it is not bound");
    }
    assert_eq!(in_pool, available_parallelism().unwrap().get());
    let mut peer = Peer::connect(running.address(0).unwrap());
    peer.send(b"hello\n");
    peer.expect(b"hello\n");
    running.stop().unwrap();
}
