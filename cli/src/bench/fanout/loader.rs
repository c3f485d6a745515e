//! The loader of `bench fanout`: members that check every line, and publishers that wait until all members have one.
//!
//! Connections are numbered over all loaders: the first ones publish, the others only listen.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyport::{
    CloseReason, ConnectFailure, Frame, Handler, Lines, Reconnect, Sent, Session, SessionId, Shard, TimerKey,
};

use super::{
    Pace, Plan,
    line::{self, name, said_by},
    tracks::Tracks,
};
use crate::bench::{
    crew::{Loader, Station},
    pattern::{Pattern, Start},
    schedule::{DUE_PER_TURN, Schedule, Share, Timetable},
};

/// Lines may be due.
const DUE: TimerKey = TimerKey(0);
/// Others may have finished.
const LOOK: TimerKey = TimerKey(1);
const LOOK_AFTER: Duration = Duration::from_millis(1);

/// One connection.
#[derive(Default)]
pub(crate) struct Link {
    /// Its number over all loaders.
    number: u64,
    /// It is in the room.
    ready: bool,
    /// For a member: the next line of each publisher.
    next: Box<[u64]>,
}

/// A publisher on this loader.
struct Publisher {
    session: SessionId,
    sent: u64,
    /// Lines that all members have.
    delivered: u64,
    finished: bool,
}

/// One loader.
pub(crate) struct FanoutLoader {
    station: Station,
    plan: Plan,
    pattern: Arc<Pattern>,
    tracks: Arc<Tracks>,
    links: u64,
    members: u64,
    publishers: Vec<Publisher>,
    schedule: Option<Schedule>,
    /// For each publisher and each place of its window: members here that have the line there.
    here: Box<[u64]>,
    /// What the lines of publishers begin with.
    prefix: String,
    room: String,
    line: Vec<u8>,
}

impl FanoutLoader {
    pub(crate) fn new(station: Station, plan: Plan, pattern: Arc<Pattern>, tracks: Arc<Tracks>) -> Self {
        let prefix = name(plan.run, 'p', 0);
        Self {
            station,
            plan,
            pattern,
            tracks,
            links: 0,
            members: 0,
            publishers: Vec::new(),
            schedule: None,
            here: vec![0; (plan.publishers * plan.window) as usize].into(),
            prefix: prefix.trim_end_matches('0').to_owned(),
            room: format!("r{}", plan.run),
            line: Vec::new(),
        }
    }

    fn is_publisher(&self, number: u64) -> bool {
        number < self.plan.publishers
    }

    /// The place, among this loader's publishers, of one that is on it.
    fn place_here(&self, publisher: u64) -> Option<usize> {
        let (seats, index) = (self.station.seat.count as u64, self.station.seat.index as u64);
        (publisher % seats == index).then_some((publisher / seats) as usize)
    }

    // ---- coming in ----

    fn name(&self, number: u64) -> String {
        name(self.plan.run, if self.is_publisher(number) { 'p' } else { 'm' }, number)
    }

    /// The chat says something itself.
    fn told(&mut self, session: &mut Session<Self>, text: &str) {
        let Link { number, ready, .. } = *session.state();
        if text.starts_with("sorry") {
            let text = format!("the chat refused what {} asked for: {text}", self.name(number));
            return self.station.wrong(session, text);
        }
        let Some(what) = text.strip_prefix("you are ").filter(|_| !ready) else { return };
        if what == self.name(number) {
            session.send(format!("/join {}", self.room).as_bytes());
        } else if what.strip_prefix("in ").and_then(|what| what.split(' ').next()) == Some(&self.room) {
            let next = if self.is_publisher(number) { 0 } else { self.plan.publishers };
            let link = session.state();
            link.ready = true;
            link.next = vec![0; next as usize].into();
            self.station.attempted();
        }
    }

    // ---- publishing ----

    /// Sends a publisher's next line, which counts from `at_ns`. False if it cannot.
    fn send(&mut self, shard: &mut Shard<Self>, place: usize, at_ns: u64) -> bool {
        let publisher = &mut self.publishers[place];
        let Some(mut session) = shard.session(publisher.session).filter(|_| !publisher.finished) else {
            return false;
        };
        let number = self.station.seat.global(place as u64);
        let under_way = self.tracks.place(number, publisher.sent);
        line::write(&mut self.line, &self.pattern, number, publisher.sent, at_ns, self.plan.filler());
        self.tracks.leaves(under_way);
        if let Sent::Refused(_) = session.send(&self.line) {
            return false;
        }
        publisher.sent += 1;
        self.station.tally.sent += 1;
        true
    }

    /// Open loop: sends what a publisher owes, as far as its window allows.
    fn catch_up(&mut self, shard: &mut Shard<Self>, place: usize, now_ns: u64) {
        while self.station.sending {
            let Publisher { sent, delivered, .. } = self.publishers[place];
            if sent - delivered >= self.plan.window {
                return;
            }
            let owed = self.schedule.as_mut().and_then(|schedule| schedule.owed(place as u64, sent));
            let Some(due_ns) = owed else { return };
            if !self.send(shard, place, due_ns) {
                return;
            }
            let late = &mut self.station.tally.late_max_ns;
            *late = (*late).max(now_ns.saturating_sub(due_ns));
        }
    }

    /// Open loop: makes lines due and has them sent; sees to it that it is called again in the next turn.
    fn deal(&mut self, shard: &mut Shard<Self>) {
        let now_ns = self.station.now_ns(shard.now());
        let until_ns = now_ns.min(self.last_ns());
        for _ in 0..DUE_PER_TURN {
            let next = self.schedule.as_mut().and_then(|schedule| schedule.next(until_ns));
            let Some(place) = next else { break };
            self.catch_up(shard, place, now_ns);
        }
        if self.station.sending && (now_ns < self.station.end_ns || self.is_behind()) {
            shard.set_timer(DUE, Duration::ZERO);
        }
    }

    /// The last moment at which a line may be due.
    fn last_ns(&self) -> u64 {
        self.station.end_ns.saturating_sub(1)
    }

    fn is_behind(&self) -> bool {
        self.schedule.as_ref().is_some_and(|schedule| schedule.is_behind(self.last_ns()))
    }

    /// Lines that a publisher owes.
    fn owed(&self, place: usize) -> u64 {
        let sent = self.publishers[place].sent;
        self.schedule.as_ref().map_or(0, |schedule| schedule.owed_count(place as u64, sent, self.last_ns()))
    }

    /// All members have the next line of a publisher: its order is theirs.
    fn delivered(&mut self, shard: &mut Shard<Self>, place: usize) {
        self.publishers[place].delivered += 1;
        let now_ns = self.station.now_ns(shard.now());
        if self.schedule.is_some() {
            self.catch_up(shard, place, now_ns);
        } else if self.station.sending && now_ns < self.station.end_ns {
            self.send(shard, place, now_ns);
        }
    }

    // ---- members ----

    /// A member was sent something that a person said. The error says in what way it was wrong.
    fn take(&mut self, session: &mut Session<Self>, text: &[u8]) -> Result<(), String> {
        let now_ns = self.station.now_ns(session.shard().now());
        let link = session.state();
        let strange = || format!("what no publisher sent: {}", String::from_utf8_lossy(text));
        let (publisher, said) = said_by(&self.prefix, text).ok_or_else(strange)?;
        let next = link.next.get_mut(publisher as usize).ok_or_else(strange)?;
        let parsed = line::parse(said).ok_or_else(strange)?;
        let number = *next;
        if parsed.number != number as u32 {
            let seen = parsed.number;
            return Err(format!("line {seen} of publisher {publisher}, and not line {number}"));
        }
        let filler = self.plan.filler();
        if parsed.filler.len() != filler {
            let seen = parsed.filler.len();
            return Err(format!("{seen} bytes in line {number} of publisher {publisher}, and not {filler}"));
        }
        let position = number * filler as u64;
        let compared = self.pattern.check(Start::of(publisher), position, parsed.filler);
        compared.map_err(|difference| format!("of publisher {publisher} {difference}"))?;
        *next += 1;
        self.station.tally.answered += 1;
        self.station.tally.bytes_checked += said.len() as u64;
        self.record(parsed.at_ns, now_ns);
        let place = self.tracks.place(publisher, number);
        self.here[place] += 1;
        if self.here[place] == self.members {
            self.here[place] = 0;
            if self.tracks.arrived(place) {
                self.pass_on(&mut session.shard(), publisher);
            }
        }
        Ok(())
    }

    /// Tells a publisher, wherever it is, that all members have its next line.
    fn pass_on(&mut self, shard: &mut Shard<Self>, publisher: u64) {
        if let Some(place) = self.place_here(publisher) {
            return self.delivered(shard, place);
        }
        let seat = (publisher % self.station.seat.count as u64) as usize;
        if let Some(remote) = self.tracks.remote() {
            // A loader that has ended sends nothing more.
            let _ = remote.post_to_shard(seat, move |loader, shard| {
                if let Some(place) = loader.place_here(publisher) {
                    loader.delivered(shard, place);
                }
            });
        }
    }

    #[inline]
    fn record(&mut self, at_ns: u64, now_ns: u64) {
        if !self.station.has_begun() {
            return;
        }
        let in_time = self.station.is_measured(now_ns);
        self.station.tally.done += u64::from(in_time);
        let counts = if self.schedule.is_some() { self.station.is_measured(at_ns) } else { in_time };
        if counts {
            self.station.tally.record(now_ns.saturating_sub(at_ns));
        }
    }

    // ---- the end ----

    /// Publishers that owe nothing finish; when all have, and all lines are here, it reports.
    fn settle(&mut self, shard: &mut Shard<Self>) {
        if !self.station.finishing || self.station.reported {
            return;
        }
        for place in 0..self.publishers.len() {
            let ends = !self.station.sending || self.owed(place) == 0;
            let publisher = &mut self.publishers[place];
            if ends && !std::mem::replace(&mut publisher.finished, true) {
                self.tracks.finish(publisher.sent);
            }
        }
        let lines = self.tracks.lines(self.plan.publishers);
        if lines.is_some_and(|lines| self.station.tally.answered >= lines * self.members) {
            self.report();
        } else {
            shard.set_timer(LOOK, LOOK_AFTER);
        }
    }

    fn report(&mut self) {
        self.station.tally.not_sent = (0..self.publishers.len()).map(|place| self.owed(place)).sum();
        self.station.report();
    }
}

impl Loader for FanoutLoader {
    fn begin(&mut self, shard: &mut Shard<Self>, start: Instant) {
        self.station.begin(start);
        let connections = self.publishers.len() as u64;
        if connections == 0 {
            return;
        }
        match self.plan.pace {
            Pace::Closed { depth } => {
                let now_ns = self.station.now_ns(shard.now());
                for place in 0..self.publishers.len() {
                    for _ in 0..depth {
                        self.send(shard, place, now_ns);
                    }
                }
            }
            Pace::Open { rate } => {
                let part =
                    Share { seat: self.station.seat, connections, connections_total: self.plan.publishers };
                self.schedule = Some(Schedule::Even(Timetable::new(rate, part)));
                self.deal(shard);
            }
        }
    }

    fn finish(&mut self, shard: &mut Shard<Self>, now: bool) {
        self.station.finish(shard.now(), now);
        self.settle(shard);
    }

    fn stop_sending(&mut self, shard: &mut Shard<Self>) {
        self.station.sending = false;
        self.settle(shard);
    }

    fn give_up(&mut self, _shard: &mut Shard<Self>) {
        if !self.station.reported {
            self.report();
        }
    }
}

impl Handler for FanoutLoader {
    type State = Link;
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        let number = self.station.seat.global(self.links);
        self.links += 1;
        session.state().number = number;
        if self.is_publisher(number) {
            let session = session.id();
            self.publishers.push(Publisher { session, sent: 0, delivered: 0, finished: false });
        } else {
            self.members += 1;
        }
        self.station.opened();
        session.send(format!("/nick {}", self.name(number)).as_bytes());
    }

    fn on_connect_failed(&mut self, _shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        self.station.failed(failure);
        Reconnect::AsConfigured
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        if self.station.reported {
            return;
        }
        if let Some(text) = frame.strip_prefix(b"* ") {
            return self.told(session, &String::from_utf8_lossy(text));
        }
        let number = session.state().number;
        if self.is_publisher(number) {
            return;
        }
        match self.take(session, &frame) {
            Ok(()) => self.station.done(self.station.tally.answered),
            Err(what) => {
                let text =
                    format!("what was delivered is not what was sent: member {number} was sent {what}");
                self.station.wrong(session, text);
            }
        }
    }

    fn on_close(&mut self, session: &mut Session<Self>, reason: CloseReason) {
        if self.station.reported {
            return;
        }
        if !session.state().ready {
            self.station.attempted();
        }
        self.station.lost_for_all(reason);
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, timer: TimerKey) {
        match timer {
            DUE => self.deal(shard),
            _ => self.settle(shard),
        }
    }
}
