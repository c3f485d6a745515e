//! Playing a script on a world.
//!
//! Kernels differ lawfully in when things happen. So a script is played such that this cannot be seen: what could
//! race with the next step of the same session is awaited before that step, and where even this leaves two
//! outcomes that are both right, the step is not taken or the trace calls them the same. Between sessions nothing
//! is awaited: they run into each other as they please.
//!
//! The player keeps, for each session, what must come of the steps so far ([`Paper`]). It needs that in order to know
//! what to wait for; and every kernel is held against it, too.

use std::net::SocketAddr;

use anyport::{CloseReason, SessionId};

use crate::{
    handler::{CLOSE_REASONS, Command, Door, Event, FRAME_BYTES_MAX, Job, NARROW_SESSIONS_MAX},
    script::{Act, End, SLOTS_MAX, Script, Step},
    trace::{Loose, PeerEnd, SessionTrace, Trace},
    world::{Arrived, Peer, World},
};

/// Most bytes of answers on their way to a peer. Twice as many must fit into the server's send queue: a peer can have
/// bytes that the server still counts.
const ANSWERS_BYTES_MAX: usize = 24 << 10;
/// Most bytes written to a paused session: they must fit into the smallest buffer of a socket.
const PAUSED_BYTES_MAX: usize = 1500;

/// What a script came to on a world, and what should have come of it.
pub(crate) struct Played {
    pub(crate) seen: Vec<SessionTrace>,
    pub(crate) paper: Vec<SessionTrace>,
}

/// Plays the script.
pub(crate) fn play(script: &Script, world: &mut dyn World) -> Played {
    world.begin();
    let mut player = Player { world, sides: Vec::new(), slots: [None; SLOTS_MAX as usize] };
    let steps = script.steps.iter().try_for_each(|step| player.step(step));
    // Who is stuck says so in its trace; what else the script holds has no meaning then.
    let _ = steps.and_then(|()| (0..player.sides.len()).try_for_each(|side| player.finish(side)));
    let traces = |trace: fn(&Side) -> &Trace| {
        let named = player.sides.iter().enumerate();
        named
            .map(|(nth, side)| trace(side).told(format!("session {nth}, {:?}", side.door), side.loose))
            .collect()
    };
    Played { seen: traces(|side| &side.seen), paper: traces(|side| &side.paper) }
}

/// Something that must have come did not: the side's trace says so.
struct Stuck;
type Going = Result<(), Stuck>;

/// Where a session is, as far as the script can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// The server ends it in order: it sends what it has, then ends its stream, and waits for the peer's end.
    Draining,
    /// The server ends it, or refused it: the peer has only to see that.
    Ending,
    /// The peer closed or reset it: the server has only to see that.
    Left,
    /// Both have seen its end.
    Over,
}

/// A session, from both sides.
struct Side {
    door: Door,
    /// Of the world's peers; also its place among the sides.
    peer: Peer,
    address: SocketAddr,
    phase: Phase,
    id: Option<SessionId>,
    /// The server does not read until a job resumes it.
    paused: bool,
    /// What was written meanwhile.
    gated: Vec<(Command, u64)>,
    gated_bytes: usize,
    /// A frame of which a part was written, and its other part.
    cut: Option<(Command, u64, Vec<u8>)>,
    /// Bytes were written that no handler sees.
    unseen: bool,
    loose: Loose,
    seen: Trace,
    paper: Trace,
}

impl Side {
    /// Notes what a command must come to, now or when the session is resumed.
    fn expect(&mut self, command: Command, salt: u64) {
        if self.paused {
            self.gated.push((command, salt));
            return;
        }
        self.paper.events.push(command.event(salt));
        self.paper.bytes.extend(command.answer(salt));
        self.paused = command == Command::Pause;
    }

    fn expect_close(&mut self, reason: CloseReason) {
        self.paper.events.push(Event::Close(reason));
    }

    /// Bytes of answers that may still be on their way, or wait for the session to be resumed.
    fn answers_out(&self) -> usize {
        let gated: usize = self.gated.iter().map(|(command, _)| command.answer_bytes()).sum();
        gated + self.paper.bytes.len().saturating_sub(self.seen.bytes.len())
    }

    /// True if the server was sent something whose arrival nobody can await.
    fn holds_unseen(&self) -> bool {
        self.unseen || self.cut.is_some()
    }
}

struct Player<'a> {
    world: &'a mut dyn World,
    sides: Vec<Side>,
    /// The side at each place of the script.
    slots: [Option<usize>; SLOTS_MAX as usize],
}

impl Player<'_> {
    fn step(&mut self, step: &Step) -> Going {
        let Step { slot, act, salt } = step;
        if let Act::Connect(door) = act {
            return self.connect(*slot, *door);
        }
        let Some(side) = self.slots[*slot] else { return Ok(()) };
        match (act, self.sides[side].phase) {
            (Act::Settle, _) => self.settle(side),
            (Act::Write { commands, cut }, Phase::Open) => self.write(side, commands, *cut, *salt),
            (Act::Write { commands, .. }, Phase::Draining) => {
                // Discarded: the session ends, and only the peer's end is awaited.
                let wire: Vec<_> = commands.iter().flat_map(|command| command.wire(*salt)).collect();
                self.world.write(self.sides[side].peer, &wire);
                self.sides[side].unseen = true;
                Ok(())
            }
            (Act::End { by, trailing }, Phase::Open) => self.end(side, *by, *trailing, *salt),
            (Act::HalfClose, Phase::Open | Phase::Draining) => self.half_close(side),
            (Act::Close, Phase::Open | Phase::Draining) => self.close(side),
            (Act::Reset { unseen }, Phase::Open | Phase::Draining) => self.reset(side, *unseen),
            (Act::Post(Job::Resume), Phase::Open) => self.resume(side),
            (Act::Post(job), Phase::Open) => self.post(side, *job),
            (Act::Post(Job::Kick { number }), Phase::Draining) => self.kick_while_draining(side, *number),
            _ => Ok(()),
        }
    }

    // ---- what peers do ----

    fn connect(&mut self, slot: usize, door: Door) -> Going {
        if let Some(side) = self.slots[slot] {
            self.finish(side)?;
        }
        let mut phase = match door {
            Door::Plain | Door::Greeting | Door::Narrow => Phase::Open,
            Door::Farewell => Phase::Draining,
            Door::Kicking | Door::Panicking => Phase::Ending,
        };
        if door == Door::Narrow && self.inside_narrow()? >= NARROW_SESSIONS_MAX {
            phase = Phase::Ending;
        }
        let address = self.world.connect(door);
        let side = self.sides.len();
        self.slots[slot] = Some(side);
        self.sides.push(Side {
            door,
            peer: side,
            address,
            phase,
            id: None,
            paused: false,
            gated: Vec::new(),
            gated_bytes: 0,
            cut: None,
            unseen: false,
            loose: Loose::default(),
            seen: Trace::default(),
            paper: Trace::default(),
        });
        let refused = door == Door::Narrow && phase == Phase::Ending;
        let paper = &mut self.sides[side].paper;
        if !refused {
            paper.events.push(Event::Open(SessionId::from_bits(0)));
            paper.bytes = door.greeting();
        }
        match door {
            Door::Kicking => self.sides[side].expect_close(CloseReason::Kicked(3)),
            Door::Panicking => self.sides[side].expect_close(CloseReason::HandlerPanicked),
            // Whether there is room for the next one must be certain.
            Door::Narrow if refused => return self.finish(side),
            Door::Narrow => return self.settle(side),
            Door::Plain | Door::Greeting | Door::Farewell => {}
        }
        Ok(())
    }

    /// How many sessions are inside the narrow door, once those that end there have ended.
    fn inside_narrow(&mut self) -> Result<usize, Stuck> {
        let mut inside = 0;
        for side in 0..self.sides.len() {
            match self.sides[side] {
                Side { door: Door::Narrow, phase: Phase::Open | Phase::Draining, .. } => inside += 1,
                Side { door: Door::Narrow, phase: Phase::Ending | Phase::Left, .. } => self.finish(side)?,
                _ => {}
            }
        }
        Ok(inside)
    }

    fn write(&mut self, side: usize, commands: &[Command], cut: Option<u16>, salt: u64) -> Going {
        if matches!(self.sides[side].cut, Some((Command::Pause, ..))) {
            self.complete_cut(side)?;
        }
        let commands = up_to_pause(commands, salt);
        let with_salts =
            || commands.iter().enumerate().map(|(nth, command)| (*command, salt.wrapping_add(nth as u64)));
        let wires: Vec<_> = with_salts().map(|(command, salt)| command.wire(salt)).collect();
        let bytes: usize = wires.iter().map(Vec::len).sum();
        let completed = self.sides[side].cut.as_ref().map_or(0, |(command, ..)| command.answer_bytes());
        let answers = commands.iter().map(|command| command.answer_bytes()).sum::<usize>() + completed;
        let too_many = |side: &Side| side.answers_out() + answers > ANSWERS_BYTES_MAX;
        let rest = self.sides[side].cut.as_ref().map_or(0, |(.., rest)| rest.len());
        let is_paused = self.sides[side].paused;
        if is_paused && self.sides[side].gated_bytes + rest + bytes > PAUSED_BYTES_MAX
            || too_many(&self.sides[side])
        {
            self.resume_fully(side)?;
            self.settle(side)?;
        }
        let this = &mut self.sides[side];
        let mut wire = this.take_cut();
        let last = commands.len() - 1;
        for ((nth, (command, salt)), mut frame) in with_salts().enumerate().zip(wires) {
            let part = cut.map_or(frame.len(), usize::from);
            if nth == last && part < frame.len() {
                this.cut = Some((command, salt, frame.split_off(part)));
            } else {
                this.expect(command, salt);
            }
            wire.extend(frame);
        }
        if this.paused {
            this.gated_bytes += wire.len();
        }
        let peer = this.peer;
        self.world.write(peer, &wire);
        Ok(())
    }

    fn end(&mut self, side: usize, by: End, trailing: u16, salt: u64) -> Going {
        self.complete_cut(side)?;
        self.resume_fully(side)?;
        // What has to arrive does so before: an abrupt end may cost it. A drain costs nothing, but its answer counts.
        let in_order = matches!(by, End::By(Command::Drain | Command::AnswerAndDrain { .. }));
        if !in_order || self.sides[side].answers_out() > ANSWERS_BYTES_MAX / 2 {
            self.settle(side)?;
        }
        let (mut wire, reason) = match by {
            End::Garbage => (vec![(salt % 4) as u8, 0, 7, 7], CloseReason::MalformedFrame),
            End::Oversized => {
                let [low, high] = (FRAME_BYTES_MAX + 1).to_le_bytes();
                (vec![low, high, 0, 0], CloseReason::FrameTooLarge)
            }
            End::By(command) => (command.wire(salt), reason_of(command)),
        };
        wire.extend(std::iter::repeat_n(0xEE, trailing.into()));
        let this = &mut self.sides[side];
        if let End::By(command) = by {
            this.expect(command, salt);
        }
        if in_order {
            this.phase = Phase::Draining;
            this.unseen |= trailing > 0;
        } else {
            this.expect_close(reason);
            this.phase = Phase::Ending;
            // A socket that is closed with something unread sends a reset, and whether it is read before is chance.
            this.loose.end |= trailing > 0;
        }
        let peer = this.peer;
        self.world.write(peer, &wire);
        Ok(())
    }

    fn half_close(&mut self, side: usize) -> Going {
        if self.sides[side].paused {
            // A job is for a session that is known, and follows the frame that paused it.
            self.settle(side)?;
        }
        self.world.half_close(self.sides[side].peer);
        // A session that is not read from may see the end at once or when it is resumed, so it is resumed.
        self.resume_fully(side)?;
        let this = &mut self.sides[side];
        this.expect_close(this.reason_of_leaving(CloseReason::PeerClosed));
        this.phase = Phase::Ending;
        Ok(())
    }

    fn close(&mut self, side: usize) -> Going {
        let gated = &self.sides[side].gated;
        if gated.iter().any(|(command, _)| command.answer_bytes() > 0) {
            self.resume_fully(side)?;
        }
        // What is unread when a peer closes makes it a reset.
        if self.sides[side].paused || self.sides[side].answers_out() > 0 {
            self.settle(side)?;
        }
        self.world.close(self.sides[side].peer);
        self.resume_fully(side)?;
        let this = &mut self.sides[side];
        this.leave(PeerEnd::Closed, CloseReason::PeerClosed);
        Ok(())
    }

    fn reset(&mut self, side: usize, with_unseen: bool) -> Going {
        // A reset may overtake what was sent before it, and takes what has not been read.
        if !self.sides[side].gated.is_empty() {
            self.resume_fully(side)?;
        }
        self.settle(side)?;
        if self.sides[side].holds_unseen() && !with_unseen {
            if self.sides[side].phase == Phase::Draining {
                return self.close(side);
            }
            self.complete_cut(side)?;
            self.resume_fully(side)?;
            self.settle(side)?;
        }
        if with_unseen {
            // Half a frame, and the reset behind it: io_uring misses a reset that arrives together with data.
            let this = &self.sides[side];
            let note = || Command::Note { len: FRAME_BYTES_MAX - 100 }.wire(0);
            let frame = this.cut.as_ref().map_or_else(note, |(.., rest)| rest.clone());
            let half = if this.paused { PAUSED_BYTES_MAX } else { usize::MAX };
            let half = half.min(frame.len() - 1);
            // A session that drains discards frames, too: there a whole stream of them can be under way.
            let before = if this.phase == Phase::Draining { note().repeat(8) } else { Vec::new() };
            self.world.write(this.peer, &[&before, &frame[..half]].concat());
        }
        let this = &mut self.sides[side];
        let was_paused = std::mem::take(&mut this.paused);
        this.loose.reason = true;
        this.leave(PeerEnd::WasReset, CloseReason::PeerReset);
        let (peer, door, id) = (this.peer, this.door, this.id);
        self.world.reset(peer);
        if was_paused {
            // Sending finds the reset, too; which of the two is first does not matter.
            let id = id.expect("it was settled");
            self.world.post(door, id, Job::ResumeAndSend { size: 100 });
        }
        // The system may give its port to the next peer.
        self.settle(side)
    }

    // ---- jobs ----

    fn post(&mut self, side: usize, job: Job) -> Going {
        self.settle(side)?;
        let this = &mut self.sides[side];
        this.paper.events.push(Event::Job(job));
        this.paper.bytes.extend(job.answer());
        match job {
            Job::Send { .. } => {}
            Job::Kick { number } => {
                this.loose.end |= !this.gated.is_empty() || this.holds_unseen();
                this.expect_close(CloseReason::Kicked(number));
                this.phase = Phase::Ending;
            }
            Job::Drain => {
                this.unseen |= !this.gated.is_empty() || this.holds_unseen();
                this.phase = Phase::Draining;
            }
            Job::Resume | Job::ResumeAndSend { .. } => unreachable!("steps of their own"),
        }
        if this.phase != Phase::Open {
            // They are never delivered.
            (this.paused, this.gated, this.cut) = (false, Vec::new(), None);
        }
        self.tell(side, job);
        self.settle(side)
    }

    /// The first cause stays the reason.
    fn kick_while_draining(&mut self, side: usize, number: u16) -> Going {
        self.settle(side)?;
        let job = Job::Kick { number };
        let this = &mut self.sides[side];
        this.paper.events.push(Event::Job(job));
        this.loose.end |= this.holds_unseen();
        this.expect_close(CloseReason::Drained);
        this.phase = Phase::Ending;
        self.tell(side, job);
        Ok(())
    }

    fn tell(&mut self, side: usize, job: Job) {
        let Side { door, id, .. } = self.sides[side];
        self.world.post(door, id.expect("a session is settled before it is sent a job"), job);
    }

    /// Resumes the session, if it is paused; what was written meanwhile may pause it again.
    fn resume(&mut self, side: usize) -> Going {
        if self.sides[side].paused {
            // The job must not overtake the frame that paused it.
            self.settle(side)?;
            self.tell(side, Job::Resume);
            let this = &mut self.sides[side];
            (this.paused, this.gated_bytes) = (false, 0);
            for (command, salt) in std::mem::take(&mut this.gated) {
                this.expect(command, salt);
            }
        }
        Ok(())
    }

    /// Resumes the session until all that was written to it is delivered.
    fn resume_fully(&mut self, side: usize) -> Going {
        while self.sides[side].paused {
            self.resume(side)?;
        }
        Ok(())
    }

    fn complete_cut(&mut self, side: usize) -> Going {
        if self.sides[side].cut.is_some() {
            self.resume_fully(side)?;
            if self.sides[side].answers_out() > 0 {
                self.settle(side)?;
            }
            let wire = self.sides[side].take_cut();
            self.world.write(self.sides[side].peer, &wire);
        }
        Ok(())
    }

    // ---- waiting ----

    /// Brings the session to its end, and waits until both sides have seen it.
    fn finish(&mut self, side: usize) -> Going {
        match self.sides[side].phase {
            Phase::Over => return Ok(()),
            Phase::Open => self.close(side)?,
            Phase::Draining | Phase::Ending => {
                while self.sides[side].seen.end.is_none() {
                    self.read(side)?;
                }
                let this = &mut self.sides[side];
                this.paper.end = Some(PeerEnd::SawEnd);
                if this.phase == Phase::Draining {
                    this.expect_close(CloseReason::Drained);
                }
                let peer = this.peer;
                self.world.close(peer);
            }
            Phase::Left => {}
        }
        self.settle(side)?;
        self.sides[side].phase = Phase::Over;
        self.slots.iter_mut().filter(|slot| **slot == Some(side)).for_each(|slot| *slot = None);
        Ok(())
    }

    /// Waits until the handler was told, and the peer has got, all that they must have by now.
    fn settle(&mut self, side: usize) -> Going {
        // First what a peer has to read: a server that has no room for more takes no frames.
        while self.sides[side].seen.bytes.len() < self.sides[side].paper.bytes.len()
            && self.sides[side].seen.end.is_none()
        {
            self.read(side)?;
        }
        while self.sides[side].seen.events.len() < self.sides[side].paper.events.len()
            && !matches!(self.sides[side].seen.events.last(), Some(Event::Close(_)))
        {
            let Some((whose, event)) = self.world.next_event() else {
                self.sides[side].seen.stuck = Some("the handler was told no more");
                return Err(Stuck);
            };
            // What a script before this one left behind is nobody's.
            if let Some(side) = self.sides.iter_mut().rfind(|side| (side.door, side.address) == whose) {
                if let Event::Open(id) = event {
                    side.id = Some(id);
                }
                side.seen.events.push(event);
            }
        }
        if self.sides[side].id.is_none() && !self.sides[side].paper.events.is_empty() {
            self.sides[side].seen.stuck = Some("it closed without having opened");
            return Err(Stuck);
        }
        Ok(())
    }

    fn read(&mut self, side: usize) -> Going {
        let this = &mut self.sides[side];
        match self.world.read(this.peer, &mut this.seen.bytes) {
            Arrived::Bytes => {}
            Arrived::End => this.seen.end = Some(PeerEnd::SawEnd),
            Arrived::Reset => this.seen.end = Some(PeerEnd::SawReset),
            Arrived::Nothing => {
                this.seen.stuck = Some("the peer got no more, and no end");
                return Err(Stuck);
            }
        }
        Ok(())
    }
}

impl Side {
    /// The other part of a cut frame, which is then complete.
    fn take_cut(&mut self) -> Vec<u8> {
        let Some((command, salt, rest)) = self.cut.take() else { return Vec::new() };
        self.expect(command, salt);
        rest
    }

    /// Why the session ends, if the peer ends it like this now.
    fn reason_of_leaving(&self, reason: CloseReason) -> CloseReason {
        if self.phase == Phase::Draining { CloseReason::Drained } else { reason }
    }

    fn leave(&mut self, how: PeerEnd, reason: CloseReason) {
        self.expect_close(self.reason_of_leaving(reason));
        self.phase = Phase::Left;
        self.seen.end.get_or_insert(how);
        self.paper.end = Some(how);
    }
}

/// Without what a paused session's buffers might not hold: nobody reads them, and the peer would wait.
fn up_to_pause(commands: &[Command], salt: u64) -> &[Command] {
    let Some(pause) = commands.iter().position(|command| *command == Command::Pause) else { return commands };
    let (first, behind) = commands.split_at(pause + 1);
    let bytes: usize = behind.iter().map(|command| command.wire(salt).len()).sum();
    if bytes > PAUSED_BYTES_MAX { first } else { commands }
}

fn reason_of(command: Command) -> CloseReason {
    match command {
        Command::Kick { number } => CloseReason::Kicked(number),
        Command::AnswerAndKick { .. } => CloseReason::Kicked(4),
        Command::Close { reason } => CLOSE_REASONS[reason as usize],
        Command::Panic => CloseReason::HandlerPanicked,
        Command::Overflow => CloseReason::SendQueueFull,
        _ => CloseReason::Drained,
    }
}
