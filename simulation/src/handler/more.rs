//! What the handler does besides its streams: groups, messages that may be lost, timers of sessions, work off the
//! thread.

use std::{panic::resume_unwind, time::Duration};

use anyport::{
    CloseReason, Encode, Frame, OffloadError, Overflow, Reach, Sent, Session, SessionId, Shard, TimerKey,
};

use super::{Everything, GROUP_NAMES, SESSION_TIMERS, is_open};
use crate::{
    chance::Chance,
    ledger::{Alarm, Audience, GROUPS},
    stream::Wire,
};

impl<C: Wire> Everything<C> {
    // ---- groups, and messages that may be lost ----

    pub(super) fn join(&mut self, session: &mut Session<Self>, join: bool, chance: &mut Chance) {
        let Some(at) = session.state().record else { return };
        let (id, was_open) = (session.id(), is_open(session));
        let which = chance.below(GROUPS as u64) as usize;
        let group = session.shard().group(GROUP_NAMES[which]);
        let was_in = session.is_in(&group);
        let done = if join { session.join(&group) } else { session.leave(&group) };
        let mut ledger = self.shared.ledger();
        let known = ledger.records[at].groups.contains(&which);
        ledger.ensure(was_in == known, || format!("session {id} is in group {which}: {was_in}, not {known}"));
        let expected = if join { was_open && !known } else { known };
        ledger.ensure(done == expected, || format!("session {id}: a join ({join}) answered {done}"));
        match (join, done) {
            (true, true) => ledger.joined(at, which),
            (false, true) => ledger.left(at, which),
            _ => {}
        }
    }

    /// Publishes the handler's next stray.
    pub(super) fn publish(
        &mut self,
        shard: &mut Shard<Self>,
        service: u8,
        which: usize,
        except: Option<SessionId>,
        overflow: Overflow,
    ) {
        if !C::FRAMED {
            return;
        }
        let (publisher, number) = self.next_stray(service);
        let body = self.shared.messages.stray(publisher, number);
        let group = shard.group(GROUP_NAMES[which]);
        let frame = Frame { kind: 0, body: &body };
        {
            let mut ledger = self.shared.ledger();
            ledger.published(publisher, number, Audience::Group { service, group: which, except });
            let members = ledger.members(service as usize, which).to_vec();
            for at in members {
                if Some(ledger.records[at].id) != except {
                    ledger.stray_sent(at, publisher, number, overflow != Overflow::Close);
                }
            }
        }
        let reach = match except {
            Some(except) => shard.publish_except(&group, except, frame),
            None => shard.publish_with(&group, frame, overflow),
        };
        let mut ledger = self.shared.ledger();
        let members = ledger.members(service as usize, which).iter();
        let members = members.filter(|&&at| Some(ledger.records[at].id) != except).count();
        // On other shards some may have gone meanwhile.
        let ordered = ledger.ordered[service as usize];
        ledger.ensure(!ordered || reach == Reach::Members(members), || {
            format!("a message to {members} members of group {which} answered {reach:?}")
        });
    }

    pub(super) fn next_stray(&mut self, service: u8) -> (u16, u32) {
        self.published += 1;
        (u16::from(service) << 8 | self.shard as u16, self.published)
    }

    /// Sends a stray to one session.
    pub(super) fn send_loose(&mut self, session: &mut Session<Self>, overflow: Overflow) {
        let Some(at) = session.state().record else { return };
        if !C::FRAMED {
            return;
        }
        let (id, was_open) = (session.id(), is_open(session));
        let (before, marks) = (session.queued_bytes(), self.shared.limits.send);
        let (publisher, number) = self.next_stray(id.service());
        let body = self.shared.messages.stray(publisher, number);
        self.shared.ledger().published(publisher, number, Audience::One(id));
        if was_open {
            self.shared.ledger().stray_sent(at, publisher, number, true);
        }
        let frame = Frame { kind: 0, body: &body };
        let size = self.codec.split().1.encoded_size(&frame).expect("bodies are small enough");
        let sent = session.send_with(frame, overflow);
        let after = session.queued_bytes();
        self.shared.ledger().ensure(was_open != matches!(sent, Sent::Refused(_)), || {
            format!("session {id}, open: {was_open}; a message that may be lost was answered {sent:?}")
        });
        // An empty queue takes it, and so does one that was emptied for it.
        // A value that replaces a smaller one may be behind much that must arrive.
        let replaces = matches!(overflow, Overflow::Conflate { .. }) && after < before + size;
        let kept = after <= before.max(marks.high_water_bytes) || after == size || replaces;
        self.shared.ledger().ensure(kept, || {
            format!("session {id}: messages that may be lost filled the queue from {before} to {after} bytes")
        });
    }

    // ---- work off the thread ----

    pub(super) fn offload(&mut self, session: &mut Session<Self>, chance: &mut Chance) {
        let Some(at) = session.state().record else { return };
        let (id, number) = (session.id(), chance.next());
        let panics = chance.one_in(8);
        if session.is_open() {
            self.shared.ledger().records[at].results_due += 1;
        }
        session.offload(
            move || if panics { resume_unwind(Box::new("on purpose")) } else { number },
            move |handler, session, result| {
                let now_id = session.id();
                let mut ledger = handler.shared.ledger();
                let record = &mut ledger.records[at];
                let due = record.results_due;
                record.results_due = due.saturating_sub(1);
                let ended = record.closed.is_some();
                ledger
                    .ensure(now_id == id && !ended, || format!("a result for session {id} came to {now_id}"));
                let right = match &result {
                    Ok(got) => !panics && *got == number,
                    Err(OffloadError::Panicked(_)) => panics,
                    Err(OffloadError::Full) => true,
                    Err(OffloadError::Cancelled) => ledger.stopping.is_some(),
                    Err(_) => false,
                };
                ledger.ensure(right, || format!("session {id}: work came to {result:?}"));
                drop(ledger);
                handler.act(session, 8);
            },
        );
    }

    pub(super) fn offload_for_shard(shard: &mut Shard<Self>) {
        let index = shard.index();
        shard.offload(
            move || index,
            move |handler, shard, result| {
                let (index, wrong) = (shard.index(), result.is_ok_and(|of| of != shard.index()));
                handler
                    .shared
                    .ledger()
                    .ensure(!wrong, || format!("another shard's result came to shard {index}"));
                handler.act_on_shard(shard, 5);
            },
        );
    }

    // ---- the end of the engine ----

    pub(super) fn stop_within(&self, shard: &mut Shard<Self>, chance: &mut Chance) {
        {
            let mut ledger = self.shared.ledger();
            ledger.stopping.get_or_insert(CloseReason::Drained);
            ledger.hurried = true;
        }
        shard.stop_engine_within(Duration::from_millis(chance.pick(&[0, 1, 100, 10_000])));
    }

    // ---- timers of a session ----

    pub(super) fn set_session_timer(&mut self, session: &mut Session<Self>, chance: &mut Chance) {
        let timer = chance.below(SESSION_TIMERS) as u16;
        let longest = chance.pick(&[1, 1_000_000, 1_000_000_000, 100_000_000_000]);
        let after = Duration::from_nanos(1 + chance.below(longest));
        let every = (chance.one_in(3) && after > Duration::from_millis(1)).then_some(after);
        let was_open = is_open(session);
        match every {
            Some(every) => session.set_repeating_timer(TimerKey(timer), every),
            None => session.set_timer(TimerKey(timer), after),
        }
        let now = session.shard().now();
        if let (Some(at), true) = (session.state().record, was_open) {
            self.shared.ledger().records[at].alarms.insert(timer, Alarm { due: now + after, every });
        }
    }

    pub(super) fn cancel_session_timer(&mut self, session: &mut Session<Self>, timer: u16) {
        let (id, was_open) = (session.id(), is_open(session));
        let done = session.cancel_timer(TimerKey(timer));
        let Some(at) = session.state().record else { return };
        let mut ledger = self.shared.ledger();
        let was_set = ledger.records[at].alarms.remove(&timer).is_some();
        ledger.ensure(!was_open || done == was_set, || {
            format!("session {id}: timer {timer} was set: {was_set}, and to take it back answered {done}")
        });
    }

    /// Writes down what the engine says that the session lost.
    pub(crate) fn note_losses(&mut self, session: &mut Session<Self>) {
        let losses = session.losses().total();
        if let Some(at) = session.state().record {
            self.shared.ledger().records[at].losses = Some(losses);
        }
    }
}
