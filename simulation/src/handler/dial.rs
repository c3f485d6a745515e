//! What the handler of a client does about its connections, and when each of them may be opened again.

use std::time::{Duration, Instant};

use anyport::{ConnectError, ConnectFailure, Reconnect, Session, Shard};

use super::{Everything, Mine};
use crate::{chance::Chance, plan::Dial, stream::Wire};

/// Times that each handler lets a connection be opened again in good weather: else it would never come to rest.
const AGAIN_IN_CALM: u32 = 4;

/// When a connection that ended, or could not be opened, is tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    /// Not before.
    pub(crate) from: Instant,
    /// It must be: nothing gives it up meanwhile.
    pub(crate) must: bool,
}

impl<C: Wire> Everything<C> {
    pub(super) fn connect(&mut self, shard: &mut Shard<Self>) {
        let is_manual = self.number == 1 && self.shared.dial == Dial::Manual;
        let wanted = self.shared.ledger().want();
        let connected = shard.connect_with(None, Mine::wanted(wanted));
        let mut ledger = self.shared.ledger();
        let (is_ending, live, most) = (self.is_ending, ledger.open[1], self.shared.limits.sessions_max);
        let right = match &connected {
            Ok(_) => is_manual && !is_ending && live < most,
            Err(ConnectError::NotManual { .. }) => !is_manual,
            // Those that connect, and those that close, count as well.
            Err(ConnectError::AtCapacity { .. }) => is_manual,
            Err(ConnectError::Ended) => is_manual && is_ending,
            Err(_) => false,
        };
        ledger.ensure(right, || {
            format!(
                "to connect answered {connected:?}, {live} sessions of {most} are open, ending: {is_ending}"
            )
        });
        if connected.is_err() {
            ledger.unwant(wanted);
        }
    }

    pub(super) fn reconnect_now(&mut self, shard: &mut Shard<Self>) {
        let waiting = shard.reconnect_now();
        let (index, shards, now) = (shard.index(), self.shared.shards, shard.now());
        let mut ledger = self.shared.ledger();
        let is_client = self.number == 1;
        ledger.ensure(waiting == 0 || is_client, || format!("{waiting} connections of a server waited"));
        if is_client {
            ledger.hurried_connections(index, shards, now);
        }
    }

    pub(super) fn set_reconnect(&mut self, session: &mut Session<Self>, chance: &mut Chance) {
        let follows = follows(chance);
        session.set_reconnect(follows);
        session.state().follows = Some(follows);
        let is_closed = {
            let record = session.state().record;
            let ledger = self.shared.ledger();
            record.is_some_and(|at| ledger.records[at].closed.is_some())
        };
        if is_closed {
            self.seat_ended(session);
        }
    }

    /// A session of the client opened: in time, and with what it was asked for with.
    pub(super) fn seat_opened(&mut self, session: &mut Session<Self>) {
        let (index, wanted, now) =
            (session.connection_index(), session.state().wanted, session.shard().now());
        let id = session.id();
        let mut ledger = self.shared.ledger();
        ledger.ensure(index.is_some() == (self.number == 1), || {
            format!("session {id} is connection {index:?} of its client")
        });
        if let Some(index) = index {
            ledger.tried_again(index, now, "opened");
        }
        if let Some(wanted) = wanted {
            let known = ledger.unwant(wanted);
            ledger.ensure(known, || format!("session {id} is a second one for the same request"));
        }
    }

    /// A session of the client ended. What was said about its connection last counts.
    pub(super) fn seat_ended(&mut self, session: &mut Session<Self>) {
        let Some(index) = session.connection_index() else { return };
        let now = session.shard().now();
        if self.shared.ledger().calm && !self.again_in_calm() {
            session.set_reconnect(Reconnect::Never);
            session.state().follows = Some(Reconnect::Never);
        }
        let follows = session.state().follows.unwrap_or(Reconnect::AsConfigured);
        let next = self.next(follows, now);
        let is_manual = self.shared.dial == Dial::Manual;
        self.shared.ledger().tries_again(index, next, is_manual);
    }

    fn again_in_calm(&mut self) -> bool {
        self.again_in_calm += 1;
        self.again_in_calm <= AGAIN_IN_CALM && !self.shared.ledger().leaving
    }

    /// When a connection comes back that ended now.
    fn next(&self, follows: Reconnect, now: Instant) -> Option<Next> {
        match follows {
            Reconnect::Never => None,
            Reconnect::After(wait) => Some(Next { from: now + wait, must: true }),
            Reconnect::AsConfigured => match self.shared.dial {
                Dial::Again(backoff) => {
                    Some(Next { from: now + backoff.first, must: backoff.budget.is_none() })
                }
                Dial::Once | Dial::Manual => None,
            },
        }
    }

    pub(super) fn connect_failed(&mut self, shard: &mut Shard<Self>, failure: &ConnectFailure) -> Reconnect {
        let now = shard.now();
        let connection = failure.connection;
        let is_manual = self.shared.dial == Dial::Manual;
        {
            let mut ledger = self.shared.ledger();
            ledger.connect_failed += 1;
            ledger.tell(now, || format!("connecting to {} failed: {}", failure.to, failure.fault));
            ledger.tried_again(connection, now, "failed");
            let right = match (failure.next, self.shared.dial) {
                (Some(next), Dial::Again(backoff)) => next >= backoff.first && next <= backoff.cap,
                (None, Dial::Again(backoff)) => backoff.budget.is_some_and(|most| failure.attempt >= most),
                (next, Dial::Once | Dial::Manual) => next.is_none(),
            };
            ledger.ensure(right && failure.attempt > 0, || format!("{failure:?} does not follow the rules"));
            // If the handler panics, this counts.
            let next = failure.next.map(|wait| Next { from: now + wait, must: true });
            ledger.tries_again(connection, next, is_manual);
        }
        self.act_on_shard(shard, 3);
        let calm = self.shared.ledger().calm;
        let mut chance = Chance::new(self.shared.seed ^ 0xd1a1, self.calls << 16 | connection as u64);
        let decision = match calm {
            true if !self.again_in_calm() => Reconnect::Never,
            false if chance.one_in(4) => follows(&mut chance),
            _ => Reconnect::AsConfigured,
        };
        let next = match decision {
            Reconnect::Never => None,
            Reconnect::After(wait) => Some(Next { from: now + wait, must: true }),
            Reconnect::AsConfigured => failure.next.map(|wait| Next { from: now + wait, must: true }),
        };
        self.shared.ledger().tries_again(connection, next, is_manual);
        decision
    }
}

/// What the handler decides, at random.
fn follows(chance: &mut Chance) -> Reconnect {
    match chance.below(3) {
        0 => Reconnect::AsConfigured,
        1 => Reconnect::After(Duration::from_millis(chance.pick(&[0, 1, 1_000]))),
        _ => Reconnect::Never,
    }
}
