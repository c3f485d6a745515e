//! The loader of `bench churn`: lanes, each of which opens one connection after the other.

use std::{
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};

use anyport::{CloseReason, Codec, ConnectFailure, Frame, Handler, Reconnect, Session, Shard, TimerKey};

use super::Plan;
use crate::bench::{
    crew::{Loader, Station},
    pattern::{Pattern, Start},
    schedule::{DUE_PER_TURN, Schedule, Share, Timetable},
};

const DUE: TimerKey = TimerKey(0);

/// One connection.
#[derive(Default)]
pub(crate) struct Link {
    /// Its number over all loaders.
    number: u64,
    /// When it began, or was due, in nanoseconds from the start.
    at_ns: u64,
    /// When it was opened.
    opens_ns: u64,
    /// Payload bytes that came back.
    received: u64,
}

/// One loader.
pub(crate) struct ChurnLoader<C> {
    station: Station,
    plan: Plan,
    pattern: Arc<Pattern>,
    /// Lanes of this loader, and those with a connection.
    lanes: u64,
    busy: u64,
    /// Cycles begun.
    begun: u64,
    schedule: Option<Schedule>,
    codec: PhantomData<C>,
}

impl<C: Codec> ChurnLoader<C> {
    pub(crate) fn new(station: Station, plan: Plan, pattern: Arc<Pattern>) -> Self {
        let (index, count) = (station.seat.index as u64, station.seat.count as u64);
        let lanes = plan.lanes / count + u64::from(index < plan.lanes % count);
        Self { station, plan, pattern, lanes, busy: 0, begun: 0, schedule: None, codec: PhantomData }
    }

    // ---- cycles ----

    /// Begins a cycle, which counts from `at_ns`. False if there can be no connection now.
    fn open(&mut self, shard: &mut Shard<Self>, at_ns: u64, now_ns: u64) -> bool {
        let number = self.station.seat.global(self.begun);
        let link = Link { number, at_ns, opens_ns: now_ns, received: 0 };
        if shard.connect_with(None, link).is_err() {
            return false;
        }
        self.begun += 1;
        self.busy += 1;
        true
    }

    /// Begins what is to begin now, as far as there are lanes.
    fn go_on(&mut self, shard: &mut Shard<Self>) {
        let now_ns = self.station.now_ns(shard.now());
        while self.station.sending && self.busy < self.lanes {
            let at_ns = match &mut self.schedule {
                Some(schedule) => schedule.owed(0, self.begun),
                None => (now_ns < self.station.end_ns).then_some(now_ns),
            };
            let Some(at_ns) = at_ns else { return };
            if !self.open(shard, at_ns, now_ns) {
                return;
            }
            let late = &mut self.station.tally.late_max_ns;
            *late = (*late).max(now_ns.saturating_sub(at_ns));
        }
    }

    /// Open loop: makes cycles due and has them begun; sees to it that it is called again in the next turn.
    fn deal(&mut self, shard: &mut Shard<Self>) {
        let now_ns = self.station.now_ns(shard.now());
        let until_ns = now_ns.min(self.last_ns());
        for _ in 0..DUE_PER_TURN {
            if self.schedule.as_mut().and_then(|schedule| schedule.next(until_ns)).is_none() {
                break;
            }
        }
        self.go_on(shard);
        if self.station.sending && (now_ns < self.station.end_ns || self.owed() > 0) {
            shard.set_timer(DUE, Duration::ZERO);
        }
        self.report_if_done();
    }

    /// The last moment at which a cycle may be due.
    fn last_ns(&self) -> u64 {
        self.station.end_ns.saturating_sub(1)
    }

    /// Cycles that are due and were not begun.
    fn owed(&self) -> u64 {
        self.schedule.as_ref().map_or(0, |schedule| schedule.owed_count(0, self.begun, self.last_ns()))
    }

    /// A cycle is over.
    fn finished(&mut self, link: &Link, now_ns: u64) {
        self.station.tally.answered += 1;
        self.station.done(self.station.tally.answered);
        let in_time = self.station.is_measured(now_ns);
        self.station.tally.done += u64::from(in_time);
        let counts = if self.schedule.is_some() { self.station.is_measured(link.at_ns) } else { in_time };
        if counts {
            self.station.tally.record(now_ns.saturating_sub(link.at_ns));
        }
    }

    // ---- the end ----

    fn report_if_done(&mut self) {
        let owes = self.station.sending && self.owed() > 0;
        if self.station.finishing && !self.station.reported && self.busy == 0 && !owes {
            self.report();
        }
    }

    fn report(&mut self) {
        self.station.tally.unanswered += self.busy;
        self.station.tally.not_sent = self.owed();
        self.station.report();
    }
}

impl<C: Codec> Loader for ChurnLoader<C> {
    fn begin(&mut self, shard: &mut Shard<Self>, start: Instant) {
        self.station.begin(start);
        let Some(rate) = self.plan.rate else { return self.go_on(shard) };
        let seat = self.station.seat;
        let part = Share { seat, connections: 1, connections_total: seat.count as u64 };
        self.schedule = Some(Schedule::Even(Timetable::new(rate, part)));
        self.deal(shard);
    }

    fn finish(&mut self, shard: &mut Shard<Self>, now: bool) {
        self.station.finish(shard.now(), now);
        self.report_if_done();
    }

    fn stop_sending(&mut self, _shard: &mut Shard<Self>) {
        self.station.sending = false;
        self.report_if_done();
    }

    fn give_up(&mut self, _shard: &mut Shard<Self>) {
        if !self.station.reported {
            self.report();
        }
    }
}

impl<C: Codec> Handler for ChurnLoader<C> {
    type State = Link;
    type Codec = C;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let now_ns = self.station.now_ns(session.shard().now());
        let Link { number, opens_ns, .. } = *session.state();
        self.station.opened();
        if self.station.is_measured(now_ns) {
            self.station.tally.connecting.saturating_record(now_ns.saturating_sub(opens_ns).max(1));
        }
        session.send(self.pattern.slice(Start::of(number), 0, self.plan.size));
    }

    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        self.busy -= 1;
        self.station.failed_for_all(failure);
        Reconnect::Never
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        if self.station.reported {
            return;
        }
        let size = self.plan.size as u64;
        let Link { number, received, .. } = *session.state();
        if let Err(difference) = self.pattern.check(Start::of(number), received, &frame) {
            let text = format!("what came back is not what was sent: connection {number}, {difference}");
            return self.station.wrong(session, text);
        }
        let received = received + frame.len() as u64;
        session.state().received = received;
        self.station.tally.bytes_checked += frame.len() as u64;
        if received > size {
            let text = format!("{received} bytes came back of {size} that were sent on connection {number}");
            self.station.wrong(session, text);
        } else if received == size {
            // Our end of the stream, then the server's: a cycle is over when both have ended.
            session.drain();
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        if self.station.reported {
            return;
        }
        let now_ns = self.station.now_ns(session.shard().now());
        self.busy -= 1;
        if reason == CloseReason::Drained && session.state().received == self.plan.size as u64 {
            self.station.closed();
            let link = std::mem::take(session.state());
            self.finished(&link, now_ns);
        } else {
            self.station.lost_one(reason);
        }
        self.go_on(&mut session.shard());
        self.report_if_done();
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, _timer: TimerKey) {
        self.deal(shard);
    }
}
