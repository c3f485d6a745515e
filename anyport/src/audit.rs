//! What must hold of a service on a shard between two turns. The simulator looks; no path of a message does.

use anyport_core::{CloseReason, State};

use crate::{handler::Handler, session::Local};

/// What one service on one shard holds, and the first thing that is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Slots that are taken: sessions, and connections that are being opened.
    pub(crate) slots: usize,
    /// Send batches that are queued or in flight.
    pub(crate) batches: usize,
    /// Timers and time-outs that are set.
    pub(crate) timers: usize,
    /// What breaks a rule.
    pub(crate) breach: Option<String>,
}

impl Audit {
    pub(crate) fn of<H: Handler>(local: &Local<H>, listens: bool, ready: usize) -> Self {
        let (slots, batches, timers) = (local.sessions.len(), local.pool.batches_out(), local.wheel.len());
        let mut audit = Self { slots, batches, timers, breach: None };
        audit.breach = audit.find(local, listens, ready).err();
        audit
    }

    fn find<H: Handler>(&self, local: &Local<H>, listens: bool, ready: usize) -> Result<(), String> {
        ensure(listens, || "its listener is gone, and it is not ending".to_owned())?;
        ensure(local.dirty.is_empty(), || format!("{} sessions were not flushed", local.dirty.len()))?;
        // What `on_start` opens is opened in the first turn.
        if local.now > local.started {
            local.files.audit()?;
        }
        let (mut opened, mut batches, mut held) = (0, 0, 0);
        for (key, slot) in local.sessions.iter() {
            let id = local.id(key);
            let connection = &slot.connection;
            let fails = |what: &str| Err(format!("session {id} in {connection:?}: {what}"));
            if let Err(what) = connection.audit() {
                return fails(what);
            }
            if slot.dirty {
                return fails("it is marked, and in no list of marked ones");
            }
            if slot.decoder.is_none() {
                return fails("its decoder is out between turns");
            }
            if connection.queued_bytes() > local.limits.send.queue_max_bytes {
                return fails("its queue is above queue_max_bytes");
            }
            if slot.backlog.is_some() && connection.wants_frames() {
                return fails("it wants frames, and has some that were not delivered");
            }
            if slot.pressure_rose
                || (slot.pressure_told && !connection.under_pressure() && connection.is_open())
            {
                return fails("its handler was not told of a change of pressure");
            }
            if slot.reassembly.buffered() > 0 && connection.state() == State::Connecting {
                return fails("it has bytes before it is connected");
            }
            let rate_held = slot.watch.as_ref().is_some_and(|watch| watch.rate_held);
            held += usize::from(connection.is_open() && connection.is_held() && !rate_held);
            opened += usize::from(slot.opened);
            batches += connection.batches();
        }
        ensure(batches == self.batches, || {
            format!("{} batches are out of the pool, and the sessions hold {batches}", self.batches)
        })?;
        local.audit_groups()?;
        ensure(held <= ready, || format!("{held} sessions are held back, and {ready} wait for a turn"))?;
        let counters = &local.counters;
        ensure(counters.sessions == opened as u64, || {
            format!("the counter says {} sessions, and {opened} are open", counters.sessions)
        })?;
        let began = counters.accepted + counters.connected;
        let ended = counters.closed_total();
        // A connection that was closed while it connected counts as connected, and never opens.
        let clients = counters.connected;
        ensure(began >= ended + counters.sessions && began <= ended + counters.sessions + clients, || {
            format!("{began} connections began, {ended} ended, and {} are open", counters.sessions)
        })?;
        let refusals = CloseReason::ALL.into_iter().filter(|reason| reason.is_refusal());
        let refused: u64 = refusals.map(|reason| counters.closed_for(reason)).sum();
        ensure(refused <= counters.accepted, || format!("{refused} were refused of {}", counters.accepted))
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
