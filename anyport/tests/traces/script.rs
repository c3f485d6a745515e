//! A script: what peers do, step by step, and what they tell the server to do. Drawn from a seed.

use crate::handler::{CLOSE_REASONS, Command, Door, Job};

/// Most sessions at a time.
pub(crate) const SLOTS_MAX: u64 = 8;
/// Most steps of a script.
const STEPS_MAX: u64 = 200;

/// One step: a peer does something, or a job is sent to its session. A step that makes no sense where its session
/// is then does nothing, so that any selection of a script's steps is a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Whose step: a place that holds one session at a time.
    pub(crate) slot: usize,
    pub(crate) act: Act,
    /// Makes the bytes of this step differ from those of others.
    pub(crate) salt: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    /// Ends the session that was there, if there was one, and opens another.
    Connect(Door),
    /// Several frames in one write; of the last one only so many bytes, and the rest with the next write.
    Write {
        commands: Vec<Command>,
        cut: Option<u16>,
    },
    /// What ends the session, and so many bytes behind it in the same write.
    End {
        by: End,
        trailing: u16,
    },
    HalfClose,
    Close,
    /// `unseen`: directly behind something whose arrival nobody can see.
    Reset {
        unseen: bool,
    },
    Post(Job),
    /// Waits until everything so far has had its effect.
    Settle,
}

/// What a peer writes to have the server end the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    By(Command),
    /// A header that no frame has.
    Garbage,
    /// A header that announces too much.
    Oversized,
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) steps: Vec<Step>,
}

impl Script {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut draw = Draw { state: seed };
        let slots = draw.between(1, SLOTS_MAX);
        let length = draw.between(5, STEPS_MAX);
        // What is likely to have an open session: most steps should make sense.
        let mut open = [false; SLOTS_MAX as usize];
        let steps = (0..length).map(|_| {
            let slot = draw.between(0, slots - 1) as usize;
            let act = if open[slot] { draw.act() } else { Act::Connect(draw.door()) };
            let ends = match &act {
                Act::Connect(door) => matches!(door, Door::Kicking | Door::Panicking),
                Act::End { .. } | Act::HalfClose | Act::Close | Act::Reset { .. } => !draw.one_in(3),
                Act::Post(job) => !matches!(job, Job::Send { .. } | Job::Resume),
                Act::Write { .. } | Act::Settle => false,
            };
            open[slot] = !ends;
            Step { slot, act, salt: draw.next() }
        });
        Self { seed, steps: steps.collect() }
    }
}

/// `SplitMix64`: every seed is good, and gives the same script on every machine.
struct Draw {
    state: u64,
}

impl Draw {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both possible.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.between(1, times) == 1
    }

    /// Often small, at times up to `most`.
    fn size(&mut self, most: u64) -> u16 {
        let most = if self.one_in(4) { most } else { most.min(64) };
        self.between(0, most) as u16
    }

    fn door(&mut self) -> Door {
        if self.one_in(3) { Door::ALL[self.between(1, 5) as usize] } else { Door::Plain }
    }

    fn act(&mut self) -> Act {
        match self.between(0, 99) {
            0..=54 => {
                let commands: Vec<_> = (0..self.between(1, 4)).map(|_| self.command()).collect();
                let cut = self.one_in(4).then(|| self.between(1, 5000) as u16);
                Act::Write { commands, cut }
            }
            55..=64 => {
                Act::End { by: self.end(), trailing: if self.one_in(4) { self.size(3000) } else { 0 } }
            }
            65..=68 => Act::HalfClose,
            69..=72 => Act::Close,
            73..=76 => Act::Reset { unseen: self.one_in(4) },
            77..=92 => Act::Post(self.job()),
            93..=95 => Act::Connect(self.door()),
            _ => Act::Settle,
        }
    }

    fn command(&mut self) -> Command {
        match self.between(0, 19) {
            0..=5 => Command::Note { len: self.size(6000) },
            6..=11 => Command::Echo { len: self.size(6000) },
            12..=14 => Command::Burst { count: self.between(1, 20) as u16, size: self.size(250) },
            15..=16 => Command::Pause,
            17..=18 => Command::PauseFor { micros: self.size(2000) },
            _ => Command::PanicAtClose,
        }
    }

    fn end(&mut self) -> End {
        match self.between(0, 8) {
            0 => End::By(Command::Drain),
            1 => End::By(Command::AnswerAndDrain { size: self.size(8000) }),
            2 => End::By(Command::Kick { number: self.between(0, 999) as u16 }),
            3 => End::By(Command::AnswerAndKick { size: self.size(8000) }),
            4 => End::By(Command::Close { reason: self.between(0, CLOSE_REASONS.len() as u64 - 1) as u8 }),
            5 => End::By(Command::Panic),
            6 => End::By(Command::Overflow),
            7 => End::Garbage,
            _ => End::Oversized,
        }
    }

    fn job(&mut self) -> Job {
        match self.between(0, 9) {
            0..=3 => Job::Send { size: self.size(8000) },
            4 => Job::Kick { number: self.between(0, 999) as u16 },
            5 => Job::Drain,
            _ => Job::Resume,
        }
    }
}
