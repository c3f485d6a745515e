//! The loader of `bench idle`: asks each session once when it opens, and once when the time is up.

use std::{marker::PhantomData, sync::Arc, time::Instant};

use anyport::{CloseReason, Codec, ConnectFailure, Frame, Handler, Reconnect, Sent, Session, Shard};

use super::Plan;
use crate::bench::{
    crew::{Loader, Station},
    pattern::{Pattern, Start},
};

/// One connection.
#[derive(Default)]
pub(crate) struct Link {
    /// Its number among those of all loaders.
    number: u64,
    /// Payload bytes that were sent, and that came back.
    sent: u64,
    received: u64,
    /// It is ready, or was lost: the main thread knows of it.
    counted: bool,
}

/// One loader.
pub(crate) struct IdleLoader<C> {
    station: Station,
    plan: Plan,
    pattern: Arc<Pattern>,
    links: u64,
    /// Sessions that were asked at the end and have not answered.
    outstanding: u64,
    asked_ns: u64,
    codec: PhantomData<C>,
}

impl<C: Codec> IdleLoader<C> {
    pub(crate) fn new(station: Station, plan: Plan, pattern: Arc<Pattern>) -> Self {
        Self { station, plan, pattern, links: 0, outstanding: 0, asked_ns: 0, codec: PhantomData }
    }

    /// Sends a session's next message. False if it is ending.
    fn ask(&self, session: &mut Session<Self>) -> bool {
        let Link { number, sent, .. } = *session.state();
        let body = self.pattern.slice(Start::of(number), sent, self.plan.size);
        if let Sent::Refused(_) = session.send(body) {
            return false;
        }
        session.state().sent += self.plan.size as u64;
        true
    }

    fn report_if_done(&mut self) {
        if self.station.finishing && !self.station.reported && self.outstanding == 0 {
            self.station.report();
        }
    }
}

impl<C: Codec> Loader for IdleLoader<C> {
    fn begin(&mut self, _shard: &mut Shard<Self>, start: Instant) {
        self.station.begin(start);
    }

    /// However it ends, every session is asked.
    fn finish(&mut self, shard: &mut Shard<Self>, now: bool) {
        self.station.finish(shard.now(), now);
        self.asked_ns = self.station.now_ns(shard.now());
        shard.for_each(|session| {
            if self.ask(session) {
                self.outstanding += 1;
            }
        });
        self.report_if_done();
    }

    fn stop_sending(&mut self, _shard: &mut Shard<Self>) {}

    fn give_up(&mut self, _shard: &mut Shard<Self>) {
        if !self.station.reported {
            self.station.tally.unanswered += self.outstanding;
            self.station.report();
        }
    }
}

impl<C: Codec> Handler for IdleLoader<C> {
    type State = Link;
    type Codec = C;

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.state().number = self.station.seat.global(self.links);
        self.links += 1;
        self.station.opened();
        self.ask(session);
    }

    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        self.station.failed(failure);
        Reconnect::AsConfigured
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        if self.station.reported {
            return;
        }
        let now = session.shard().now();
        let Link { number, sent, received, counted } = *session.state();
        if let Err(difference) = self.pattern.check(Start::of(number), received, &frame) {
            let text = format!("what came back is not what was sent: connection {number}, {difference}");
            return self.station.wrong(session, text);
        }
        let received = received + frame.len() as u64;
        if received > sent {
            let text = format!("{received} bytes came back of {sent} that were sent on connection {number}");
            return self.station.wrong(session, text);
        }
        session.state().received = received;
        self.station.tally.bytes_checked += frame.len() as u64;
        if received < sent {
            return;
        }
        if !counted {
            session.state().counted = true;
            return self.station.attempted();
        }
        self.outstanding -= 1;
        self.station.tally.answered += 1;
        self.station.tally.record(self.station.now_ns(now).saturating_sub(self.asked_ns));
        self.report_if_done();
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        if self.station.reported {
            return;
        }
        let Link { sent, received, counted, .. } = *session.state();
        if !counted {
            self.station.attempted();
        } else if received < sent {
            self.outstanding -= 1;
            self.station.tally.unanswered += 1;
        }
        self.station.lost(reason);
        self.report_if_done();
    }
}
