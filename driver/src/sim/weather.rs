//! What faults do to connections, and how they heal.

use std::time::Duration;

use anyport_core::{Fault, FaultKind, SlabKey};

use super::{
    chance::nanos,
    counts::FaultSite,
    events::Event,
    faults::{FaultClass, Faults, failure},
    net::{Net, Owner},
    random::Drawn,
};
use crate::types::OpKind;

/// What a fault does to the connection of an end.
type Strike = fn(&mut Net, SlabKey, Drawn);

/// What may go wrong with a step of bytes from end to end.
const STEP_FAULTS: [(FaultClass, Strike); 3] = [
    (FaultClass::Reset, |net, end, _| net.break_both(end, Fault::of(FaultKind::PeerReset))),
    (FaultClass::Silence, |net, end, _| net.fall_silent(end)),
    (FaultClass::Clog, Net::clog),
];

impl Net {
    // Steps between two ends.

    /// What goes wrong with a step between two ends that both exist: true if the step does not happen now.
    pub(super) fn step_faults(&mut self, end: SlabKey) -> bool {
        if self.end(end).clogged_until > self.now {
            return true;
        }
        for (class, strike) in STEP_FAULTS {
            if let Some(drawn) = self.fires(end, class, FaultSite::Network) {
                strike(self, end, drawn);
                return true;
            }
        }
        false
    }

    fn clog(&mut self, end: SlabKey, drawn: Drawn) {
        let until = self.later(drawn.up_to(nanos(self.chance.faults().clog_max)));
        let state = self.end_mut(end);
        state.clogged_until = until;
        state.step_scheduled = true;
        self.schedule_at(until, Event::Step(end));
    }

    fn fall_silent(&mut self, end: SlabKey) {
        let until = self.later(nanos(self.chance.faults().silence_timeout));
        let peer = self.end(end).peer;
        for end in [Some(end), peer].into_iter().flatten() {
            self.end_mut(end).silent_until = Some(until);
            self.schedule_at(until, Event::Timeout(end));
        }
    }

    /// An end that heard nothing for too long gives up.
    pub(super) fn give_up(&mut self, end: SlabKey) {
        let until = self.ends.get(end).and_then(|end| end.silent_until);
        if until.is_some_and(|until| until <= self.now) {
            self.break_end(end, Fault::new(FaultKind::TimedOut, 110));
        }
    }

    /// The connection is over at this end. What had arrived can still be read.
    pub(super) fn break_end(&mut self, end: SlabKey, fault: Fault) {
        let Some(state) = self.ends.get_mut(end) else { return };
        state.broken.get_or_insert(fault);
        state.outbox.clear();
        if state.owner == Owner::Nobody {
            self.free(end);
        } else {
            self.notify(end);
        }
    }

    /// The connection is over, at this end now and at the other one soon.
    pub(super) fn break_both(&mut self, end: SlabKey, fault: Fault) {
        let peer = self.end(end).peer;
        self.break_end(end, fault);
        if let Some(peer) = peer
            && self.end(peer).silent_until.is_none()
        {
            self.soon(peer, Event::Reset(peer));
        }
    }

    // Operations of drivers.

    fn fires(&mut self, end: SlabKey, class: FaultClass, site: FaultSite) -> Option<Drawn> {
        self.chance.fires(&mut self.ends.get_mut(end)?.dice, class, site)
    }

    /// An opportunity for an operation on an end to fail.
    pub(super) fn fails(&mut self, end: SlabKey, class: FaultClass, kind: OpKind) -> Option<Fault> {
        let drawn = self.fires(end, class, FaultSite::Op(kind))?;
        let (fault, breaks) = failure(class, drawn);
        if breaks {
            self.break_both(end, fault);
        }
        Some(fault)
    }

    /// An opportunity for an operation on an end to take its time: when it goes on.
    pub(super) fn lingers(
        &mut self,
        end: SlabKey,
        class: FaultClass,
        kind: OpKind,
        max: impl FnOnce(&Faults) -> Duration,
    ) -> Option<u64> {
        let dice = &mut self.ends.get_mut(end)?.dice;
        let time = self.chance.lasts(dice, class, FaultSite::Op(kind), max)?;
        Some(self.later(time))
    }

    /// An opportunity for a cancel to take effect later: when.
    pub(super) fn cancel_is_late(&mut self, end: SlabKey, kind: OpKind) -> Option<u64> {
        self.lingers(end, FaultClass::CancelLate, kind, |faults| faults.late_max)
    }

    /// An opportunity for a receive to fail: what ends it now. What breaks its connection comes after the data.
    pub(super) fn receive_faults(&mut self, end: SlabKey) -> Option<Fault> {
        let state = self.end(end);
        let has_ended = state.broken.is_some() || (state.read_ended && state.inbox.is_empty());
        let fault = if has_ended { None } else { self.fails(end, FaultClass::Receive, OpKind::Receive) };
        fault.filter(|_| self.end(end).broken.is_none())
    }

    /// An opportunity for accepting the oldest connection of a backlog to fail: how, and until when it rests.
    pub(super) fn accept_faults(&mut self, listener: SlabKey) -> Option<(Fault, u64)> {
        let end = self.listener(listener).backlog[0];
        let drawn = self.fires(end, FaultClass::Accept, FaultSite::Op(OpKind::Accept))?;
        let most = nanos(self.chance.faults().accept_rest_max).max(1);
        // Never at once: shortages are reported at a bounded rate.
        let least = most.div_ceil(50);
        let rest = least + drawn.next().up_to(most - least);
        Some((failure(FaultClass::Accept, drawn).0, self.later(rest)))
    }

    /// An opportunity for a drought, when a buffer would be given to an end. True if there is one now.
    pub(super) fn begins_drought(&mut self, driver: usize, end: SlabKey) -> bool {
        let until = self.lingers(end, FaultClass::Drought, OpKind::Receive, |faults| faults.drought_max);
        let Some(until) = until.filter(|until| *until > self.now) else { return false };
        self.drivers[driver].drought_until = until;
        self.schedule_at(until, Event::Rain { driver: driver as u32 });
        true
    }

    /// True while receives of the driver find no buffer.
    pub(super) fn is_drought(&self, driver: usize) -> bool {
        self.drivers[driver].drought_until > self.now
    }

    /// True once after a drought of the driver.
    pub(super) fn has_rained(&mut self, driver: usize) -> bool {
        std::mem::take(&mut self.drivers[driver].rained)
    }

    // The end of all that.

    /// No fault fires from now on, and what lasts is over: clogs, silences, droughts.
    pub(super) fn calm(&mut self) {
        self.chance.calm();
        let ends: Vec<SlabKey> = self.ends.iter().map(|(end, _)| end).collect();
        for end in ends {
            self.heal(end);
        }
        for port in &mut self.drivers {
            port.rained |= std::mem::take(&mut port.drought_until) > self.now;
        }
    }

    fn heal(&mut self, end: SlabKey) {
        let state = self.end_mut(end);
        if std::mem::take(&mut state.clogged_until) > 0 {
            state.step_scheduled = false;
        }
        if state.silent_until.take().is_some() && state.peer.is_none() {
            // The other end went while nothing reached this one.
            self.soon(end, Event::Reset(end));
        }
        self.step_soon(end);
    }
}
