//! What a session is watched for beyond idleness: deadlines for whole frames, and rates. Only services that ask for one
//! of them have it, each session one box.

use anyport_core::{
    CloseReason, Limits, OnExcess, TimerHandle, TimerWheel,
    planted::{Bug, planted},
    rate::{Bucket, Flow},
    wheel,
};

/// No tick: nothing is due.
pub(crate) const NEVER: u64 = u64::MAX;

/// What a service watches its sessions for, in ticks and buckets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Ticks from the open to the first whole frame; 0 if it is not watched.
    handshake_ticks: u64,
    /// Ticks from a frame's first byte to its last; 0 if it is not watched.
    frame_ticks: u64,
    /// Ticks of a window, 0 if it is not watched, and the bytes that must come in one.
    window_ticks: u64,
    window_bytes: u64,
    messages: Option<Flow>,
    bytes: Option<Flow>,
    on_excess: OnExcess,
}

impl Rules {
    /// The rules of these limits, if there are any.
    pub(crate) fn of(limits: &Limits) -> Option<Box<Self>> {
        let Limits { handshake_timeout, frame_timeout, receive_rate_min, rates, .. } = *limits;
        let watches = handshake_timeout.is_some() || frame_timeout.is_some() || receive_rate_min.is_some();
        if !watches && !rates.are_set() {
            return None;
        }
        let flow = |per_second: u32| {
            let burst = u128::from(per_second) * rates.burst.as_nanos() / 1_000_000_000;
            Flow::new(per_second, u32::try_from(burst).unwrap_or(u32::MAX))
        };
        let window_bytes = receive_rate_min
            .map_or(0, |rate| u128::from(rate.bytes_per_second) * rate.window.as_nanos() / 1_000_000_000);
        Some(Box::new(Self {
            handshake_ticks: handshake_timeout.map_or(0, wheel::ticks_up),
            frame_ticks: frame_timeout.map_or(0, wheel::ticks_up),
            window_ticks: receive_rate_min.map_or(0, |rate| wheel::ticks_up(rate.window)),
            window_bytes: u64::try_from(window_bytes).unwrap_or(u64::MAX).max(1),
            messages: rates.messages_per_second.map(flow),
            bytes: rates.bytes_per_second.map(flow),
            on_excess: rates.on_excess,
        }))
    }

    pub(crate) fn on_excess(&self) -> OnExcess {
        self.on_excess
    }
}

/// One of the deadlines of a session. Each has one entry in the wheel at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deadline {
    Handshake,
    Frame,
    Window,
}

impl Deadline {
    const ALL: [Self; 3] = [Self::Handshake, Self::Frame, Self::Window];

    /// Why a session ends that misses it.
    pub(crate) fn reason(self) -> CloseReason {
        match self {
            Self::Handshake => CloseReason::HandshakeTimeout,
            Self::Frame => CloseReason::FrameTimeout,
            Self::Window => CloseReason::TooSlow,
        }
    }
}

/// A deadline's tick, [`NEVER`] while there is none, and its entry in the wheel. The entry is at that tick or before,
/// and moved when it fires.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: u64,
    entry: Option<TimerHandle>,
}

/// What one session is watched for.
#[derive(Debug)]
pub(crate) struct Watch {
    due: [Due; Deadline::ALL.len()],
    /// Bytes that came in this window.
    window_bytes: u64,
    /// Tick since which it is not read from, [`NEVER`] while it is.
    deaf_since: u64,
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Not read from because of its rates.
    pub(crate) rate_held: bool,
    /// The entry in the wheel that ends that.
    pub(crate) rate_resume: Option<TimerHandle>,
}

/// What a deadline's entry in the wheel comes to when it fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fired {
    /// Nothing: there is no such deadline now, or it stands still.
    Nothing,
    /// The deadline is later: an entry at that tick.
    Later(u64),
    /// It is missed.
    Missed,
}

impl Watch {
    /// Of a session that opens at tick `now`.
    pub(crate) fn new(rules: &Rules, now: u64) -> Self {
        let full = |flow: Option<Flow>| flow.map(|flow| Bucket::full(&flow, now));
        let mut watch = Self {
            due: [Due { at: NEVER, entry: None }; Deadline::ALL.len()],
            window_bytes: 0,
            deaf_since: NEVER,
            messages: full(rules.messages),
            bytes: full(rules.bytes),
            rate_held: false,
            rate_resume: None,
        };
        if rules.handshake_ticks > 0 && !planted(Bug::HandshakeWaits) {
            watch.due[Deadline::Handshake as usize].at = after(now, rules.handshake_ticks);
        }
        watch
    }

    /// The next deadline that needs an entry in the wheel, and its tick.
    pub(crate) fn next_without_entry(&self) -> Option<(Deadline, u64)> {
        Deadline::ALL.into_iter().find_map(|deadline| {
            let due = &self.due[deadline as usize];
            let needed = due.at != NEVER && due.entry.is_none() && self.deaf_since == NEVER;
            needed.then_some((deadline, due.at))
        })
    }

    /// A deadline has this entry in the wheel.
    pub(crate) fn keep_entry(&mut self, deadline: Deadline, entry: TimerHandle) {
        self.due[deadline as usize].entry = Some(entry);
    }

    /// The session ends: nothing of it stays in the wheel.
    pub(crate) fn clear<K: Copy>(&mut self, wheel: &mut TimerWheel<K>) {
        let entries = self.due.iter_mut().filter_map(|due| due.entry.take());
        for entry in entries.chain(self.rate_resume.take()) {
            wheel.cancel(entry);
        }
    }

    // ---- what happens ----

    /// Bytes arrived at tick `now`.
    pub(crate) fn received(&mut self, rules: &Rules, now: u64, bytes: usize) {
        self.window_bytes = self.window_bytes.saturating_add(bytes as u64);
        if let (Some(bucket), Some(flow)) = (&mut self.bytes, &rules.bytes) {
            bucket.charge(flow, now, u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// The handler was given `frames`; of the next one, so many bytes have come.
    pub(crate) fn delivered(&mut self, rules: &Rules, now: u64, frames: u32, cut_bytes: usize) {
        if let (Some(bucket), Some(flow)) = (&mut self.messages, &rules.messages) {
            bucket.charge(flow, now, frames);
        }
        let [handshake, frame, window] = &mut self.due;
        if frames > 0 {
            handshake.at = NEVER;
        }
        if cut_bytes == 0 {
            (frame.at, window.at) = (NEVER, NEVER);
            return;
        }
        // The first byte of the frame that is cut now came with these.
        if frames > 0 || (frame.at == NEVER && window.at == NEVER) || planted(Bug::FrameTimeMoves) {
            self.window_bytes = cut_bytes as u64;
            window.at = if rules.window_ticks > 0 { after(now, rules.window_ticks) } else { NEVER };
            frame.at = if rules.frame_ticks > 0 { after(now, rules.frame_ticks) } else { NEVER };
        }
    }

    /// Frames that may be given to the handler at tick `now`. Where excess closes, that is one more than the rate allows:
    /// only a whole frame shows that there is one too many.
    pub(crate) fn frames_allowed(&mut self, rules: &Rules, now: u64) -> u32 {
        let (Some(bucket), Some(flow)) = (&mut self.messages, &rules.messages) else { return u32::MAX };
        bucket.tokens(flow, now).saturating_add(u32::from(rules.on_excess == OnExcess::Close))
    }

    /// Ticks until its rates allow a portion more; 0 if they are not exceeded. `waiting` says that something waits for
    /// the handler.
    pub(crate) fn ticks_to_wait(&mut self, rules: &Rules, now: u64, waiting: bool) -> u64 {
        let waiting = waiting && rules.on_excess == OnExcess::PauseReading;
        let mut ticks = 0;
        for (bucket, flow, least) in
            [(&mut self.messages, &rules.messages, u32::from(waiting)), (&mut self.bytes, &rules.bytes, 0)]
        {
            if let (Some(bucket), Some(flow)) = (bucket, flow)
                && (bucket.tokens(flow, now) < least || bucket.is_in_debt())
            {
                ticks = ticks.max(bucket.ticks_until(flow, flow.portion()).max(1));
            }
        }
        ticks
    }

    /// It is not read from any more, or again. Deadlines stand still meanwhile: its peer could not meet them.
    pub(crate) fn set_deaf(&mut self, now: u64, deaf: bool) {
        if deaf {
            self.deaf_since = self.deaf_since.min(now);
            return;
        }
        let since = std::mem::replace(&mut self.deaf_since, NEVER);
        for due in &mut self.due {
            if since != NEVER && due.at != NEVER {
                due.at = due.at.saturating_add(now.saturating_sub(since));
            }
        }
    }

    /// The entry of a deadline fires at tick `now`; nothing is missed before `grace_until`. Who is told
    /// [`Fired::Later`] sets another one.
    pub(crate) fn fired(&mut self, rules: &Rules, deadline: Deadline, now: u64, grace_until: u64) -> Fired {
        let due = &mut self.due[deadline as usize];
        due.entry = None;
        // What stands still has an entry again when it goes on.
        if due.at == NEVER || self.deaf_since != NEVER {
            return Fired::Nothing;
        }
        if due.at <= now && deadline == Deadline::Window && self.window_bytes >= rules.window_bytes {
            self.window_bytes = 0;
            due.at = after(now, rules.window_ticks);
        }
        if due.at <= now && now >= grace_until {
            return Fired::Missed;
        }
        Fired::Later(if due.at <= now { grace_until } else { due.at })
    }
}

/// The tick at which something is due that began in the tick `now`: at its very end, perhaps.
fn after(now: u64, ticks: u64) -> u64 {
    now.saturating_add(ticks).saturating_add(1).min(NEVER - 1)
}
