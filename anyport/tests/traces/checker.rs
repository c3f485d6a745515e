//! The checker, checked: a world that lies in one thing is found out, the report says what a person needs, and the
//! scripts reach everything that they are meant to reach.

use std::{cell::Cell, collections::BTreeMap, net::SocketAddr, rc::Rc};

use anyport::{CloseReason, FaultKind, SessionId};

use crate::{
    difference,
    handler::{Door, Event, Job, Whose},
    play::{Played, play},
    report,
    script::{Act, Script},
    simulated::Simulated,
    trace::parting,
    world::{Arrived, Peer, World},
};

/// Scripts that are drawn where one alone may not hold what is needed.
const SCRIPTS: u64 = 100;
/// Scripts for each lie.
const SCRIPTS_A_LIE: u64 = 40;

/// One thing in which a world differs from the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    /// One bit of a peer's bytes is another.
    Bit,
    /// The peer gets one byte more.
    Byte,
    /// Two frames of a session change places.
    Order,
    /// A reset is taken for an orderly end.
    Reason,
    /// The number of a kick is another.
    Number,
    /// The peer sees a reset instead of the end.
    End,
    /// A frame is told twice.
    Twice,
    /// An end is not told.
    Silence,
}

const LIES: [Lie; 8] =
    [Lie::Bit, Lie::Byte, Lie::Order, Lie::Reason, Lie::Number, Lie::End, Lie::Twice, Lie::Silence];

/// The simulator, and one lie, told once.
struct Liar {
    world: Simulated,
    lie: Lie,
    told: Rc<Cell<bool>>,
    held_back: Vec<(Whose, Event)>,
}

impl Liar {
    fn play(lie: Lie, script: &Script) -> (Played, bool) {
        let told = Rc::new(Cell::new(false));
        let world = Simulated::start(script.seed);
        let mut liar = Self { world, lie, told: Rc::clone(&told), held_back: Vec::new() };
        (play(script, &mut liar), told.get())
    }

    /// True once, and only for the lie that is told.
    fn lies(&self, lie: Lie) -> bool {
        self.lie == lie && !self.told.replace(true)
    }
}

impl World for Liar {
    fn begin(&mut self) {
        self.world.begin();
    }

    fn connect(&mut self, door: Door) -> SocketAddr {
        self.world.connect(door)
    }

    fn write(&mut self, peer: Peer, bytes: &[u8]) {
        self.world.write(peer, bytes);
    }

    fn half_close(&mut self, peer: Peer) {
        self.world.half_close(peer);
    }

    fn close(&mut self, peer: Peer) {
        self.world.close(peer);
    }

    fn reset(&mut self, peer: Peer) {
        self.world.reset(peer);
    }

    fn read(&mut self, peer: Peer, bytes: &mut Vec<u8>) -> Arrived {
        let arrived = self.world.read(peer, bytes);
        match arrived {
            Arrived::Bytes if self.lies(Lie::Bit) => {
                *bytes.last_mut().expect("there are bytes") ^= 1;
            }
            Arrived::Bytes if self.lies(Lie::Byte) => bytes.push(0),
            Arrived::End if self.lies(Lie::End) => return Arrived::Reset,
            _ => {}
        }
        arrived
    }

    fn next_event(&mut self) -> Option<(Whose, Event)> {
        if let Some(event) = self.held_back.pop() {
            return Some(event);
        }
        let (whose, event) = self.world.next_event()?;
        let told = match event {
            Event::Close(CloseReason::PeerReset) if self.lies(Lie::Reason) => {
                Event::Close(CloseReason::PeerClosed)
            }
            Event::Close(CloseReason::Kicked(number)) if self.lies(Lie::Number) => {
                Event::Close(CloseReason::Kicked(number + 1))
            }
            Event::Close(_) if self.lies(Lie::Silence) => return self.next_event(),
            Event::Frame { .. } if self.lies(Lie::Twice) => {
                self.held_back.push((whose, event));
                event
            }
            Event::Frame { .. } if self.lie == Lie::Order && !self.told.get() => {
                // Only if the next event is another frame of the same session, there is something to lie about.
                let next = self.world.next_event();
                match next {
                    Some((next_whose, next @ Event::Frame { .. }))
                        if next_whose == whose && next != event =>
                    {
                        self.told.set(true);
                        self.held_back.push((whose, event));
                        next
                    }
                    _ => {
                        self.held_back.extend(next);
                        event
                    }
                }
            }
            event => event,
        };
        Some((whose, told))
    }

    fn post(&mut self, door: Door, session: SessionId, job: Job) {
        self.world.post(door, session, job);
    }
}

/// A lie that the trace calls the same, because on this system it may be.
fn is_loose(lie: Lie) -> bool {
    cfg!(windows) && lie == Lie::Reason
}

#[test]
fn every_lie_is_found_out() {
    for lie in LIES {
        let (mut told, mut found) = (0, 0);
        for seed in 0..SCRIPTS_A_LIE {
            let script = Script::draw(seed);
            let (played, lied) = Liar::play(lie, &script);
            let differs = parting(&played.seen, &played.paper).is_some();
            assert!(lied || !differs, "{lie:?} was not told, and seed {seed} differs");
            told += u64::from(lied);
            found += u64::from(differs);
        }
        assert!(told >= SCRIPTS_A_LIE / 4, "{lie:?} could be told in {told} of {SCRIPTS_A_LIE} scripts only");
        if is_loose(lie) {
            assert_eq!(found, 0, "{lie:?} is lawful here");
        } else if lie == Lie::End {
            // Where bytes of the peer were on their way as the server closed, either end is right.
            assert!(found >= told * 3 / 4, "{lie:?} was told {told} times, and found {found} times");
        } else {
            assert_eq!(found, told, "{lie:?}");
        }
    }
}

#[test]
fn the_report_says_how_to_see_the_difference_again_and_shows_it_in_few_steps() {
    let script =
        (0..SCRIPTS).map(Script::draw).find(|script| script.steps.len() > 100).expect("many are long");
    let liar = |script: &Script| Liar::play(Lie::Number, script).0;
    let first = difference("liar", &script, &liar(&script)).expect("somebody is thrown out in a long script");
    let text = report("liar", "io_uring", &script, &first, &liar);
    let command = format!("ANYPORT_SEED={} cargo test -p anyport --test traces io_uring", script.seed);
    assert!(text.contains(&command), "{text}");
    let small = text.split_once("of its").expect("it tells how many steps are left").1;
    let steps = small.lines().filter(|line| line.trim_start().starts_with("Step")).count();
    assert!(
        (1..=2).contains(&steps),
        "one session and its kick are enough, but {steps} steps are left:\n{text}"
    );
    let marked: Vec<_> = small.lines().filter(|line| line.starts_with("-->")).collect();
    assert!(!marked.is_empty(), "no line is marked:\n{text}");
    for line in marked {
        let (left, right) = line.split_once(" | ").expect("two columns");
        assert!(left.contains("kicked") && right.contains("kicked"), "the wrong line is marked:\n{text}");
        assert_ne!(left.trim_start_matches("--> ").trim(), right.trim(), "a line that is the same:\n{text}");
    }
}

#[test]
fn a_script_is_drawn_from_its_seed_alone_and_any_part_of_it_can_be_played() {
    for seed in 0..SCRIPTS {
        let (script, again) = (Script::draw(seed), Script::draw(seed));
        assert_eq!(script.steps, again.steps, "seed {seed}");
        for keep in 2..4 {
            let steps = script.steps.iter().step_by(keep).cloned().collect();
            let part = Script { seed, steps };
            let mut world = Simulated::start(seed);
            let Played { seen, paper } = play(&part, &mut world);
            assert_eq!(seen, paper, "each step of {keep}, seed {seed}");
            world.stop();
        }
    }
}

/// The sort of a line: without numbers and hashes.
fn sort_of(line: &str) -> String {
    let words: Vec<_> = line.split([',', '(', '{']).next().unwrap_or("").split(' ').collect();
    let is_number = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    if words[0] == "frame" {
        line[..line.find(',').expect("a frame's line has commas")].into()
    } else {
        words.into_iter().filter(|word| !is_number(word)).collect::<Vec<_>>().join(" ").trim().to_owned()
    }
}

#[test]
fn scripts_reach_every_frame_every_job_and_every_end() {
    let mut counts = BTreeMap::<String, usize>::new();
    let mut sessions = 0;
    for seed in 0..SCRIPTS {
        let script = Script::draw(seed);
        let mut world = Simulated::start(seed);
        for session in play(&script, &mut world).seen {
            sessions += 1;
            for line in session.lines {
                *counts.entry(sort_of(&line)).or_default() += 1;
            }
        }
        for step in &script.steps {
            let cut = matches!(step.act, Act::Write { cut: Some(_), .. });
            *counts.entry(format!("step with a cut: {cut}")).or_default() += 1;
        }
    }
    let mut wanted: Vec<_> = (0..=12).map(|kind| format!("frame of kind {kind}")).collect();
    wanted.extend(["open", "job Send", "job Kick", "job Drain", "step with a cut: true"].map(String::from));
    wanted.extend(["the end", "an end or a reset"].map(|end| format!("peer saw {end}")).into_iter().chain([
        "peer closed".into(),
        "peer reset it".into(),
        "peer received bytes".into(),
    ]));
    let unreachable = anyport::Fault::of(FaultKind::Unreachable);
    let reasons = [
        CloseReason::PeerClosed,
        CloseReason::PeerReset,
        CloseReason::MalformedFrame,
        CloseReason::FrameTooLarge,
        CloseReason::IdleTimeout,
        CloseReason::SendQueueFull,
        CloseReason::ReceiveFailed(unreachable),
        CloseReason::Drained,
        CloseReason::Stopped,
        CloseReason::HandlerPanicked,
        CloseReason::Kicked(0),
    ];
    for reason in reasons {
        let is_ours_to_merge = matches!(reason, CloseReason::PeerReset) && cfg!(windows);
        wanted.push(match reason {
            _ if is_ours_to_merge => "close: peer reset or peer closed".into(),
            CloseReason::ReceiveFailed(_) => "close: receive failed".into(),
            reason => sort_of(&format!("close: {reason}")),
        });
    }
    for what in &wanted {
        let count = counts.get(what).copied().unwrap_or(0);
        assert!(count >= 10, "`{what}` is reached {count} times in {sessions} sessions: {counts:#?}");
    }
    for what in counts.keys() {
        let may_be = wanted.contains(what) || what == "step with a cut: false";
        assert!(may_be, "`{what}` should not be reached: {counts:#?}");
    }
}
