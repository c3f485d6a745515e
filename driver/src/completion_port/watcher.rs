//! Finds threads that block without having said so, where the system tells what its threads do: on Linux.
//!
//! A thread of the watcher's own, asleep until packets wait although threads do; so an idle program, and one with enough
//! free threads, has no ticking. Awake, it looks every millisecond. A thread that took another packet since the last
//! look is at work, which costs nothing to see. One that has the same packet is looked up in `/proc`: it blocks if it
//! was asleep (state S or D) at two looks and has not run in between (CPU time and time slices). One that is merely not
//! scheduled is in state R, however long it stands still.

use std::{
    collections::HashMap,
    fs, io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{portable::Portable, schedule::Suspect};

/// Between two looks: a blocked thread is found at the third, after two to three of these.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The watcher of one port. Ended and joined on drop.
pub(super) struct Watcher {
    thread: Option<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
}

impl Watcher {
    pub(super) fn start<T: Send + 'static>(port: &Arc<Portable<T>>) -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let (port_watched, ends) = (Arc::clone(port), Arc::clone(&ended));
        let thread = thread::Builder::new()
            .name("anyport-watcher".into())
            .spawn(move || watch(&port_watched, &ends))?;
        port.watched_by(thread.thread().clone());
        Ok(Self { thread: Some(thread), ended })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It panics only over a bug that was told already.
            let _ = thread.join();
        }
    }
}

fn watch<T: Send>(port: &Portable<T>, ended: &AtomicBool) {
    let (mut tickets, mut suspects) = (Vec::new(), Vec::new());
    let mut looks = Looks::default();
    // A request that came before this thread was known is found at the first look.
    let mut awake = true;
    while !ended.load(Ordering::Acquire) {
        if awake {
            thread::park_timeout(LOOK_EVERY);
        } else {
            thread::park();
        }
        awake = port.lock().look(&mut tickets, &mut suspects);
        for (suspect, sleeps) in looks.judge(&suspects, what_it_does) {
            let mut schedule = port.lock();
            let wakes = schedule.seen(&suspect, sleeps);
            port.wake(schedule, wakes);
        }
    }
}

/// What the system says of a thread at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    /// In state S or D: it waits for something.
    asleep: bool,
    /// Time on a processor, in ns, and how often it was given one: it has run if either has changed.
    ran: (u64, u64),
}

/// What was seen of suspects at the last look.
#[derive(Default)]
struct Looks {
    last: HashMap<u64, Seen>,
    next: HashMap<u64, Seen>,
}

impl Looks {
    /// The suspects of whom something new is to be said, and whether they sleep.
    fn judge(&mut self, suspects: &[Suspect], look: impl Fn(i32) -> Option<Seen>) -> Vec<(Suspect, bool)> {
        let mut judged = Vec::new();
        for suspect in suspects {
            // A thread that has ended, or a system that does not tell: no reason to do anything.
            let Some(seen) = look(suspect.system_id) else { continue };
            let before = self.last.get(&suspect.ticket);
            let still = before.is_some_and(|before| before.asleep && seen.asleep && before.ran == seen.ran);
            if still != suspect.blocked && before.is_some() {
                judged.push((*suspect, still));
            }
            self.next.insert(suspect.ticket, seen);
        }
        mem::swap(&mut self.last, &mut self.next);
        self.next.clear();
        judged
    }
}

/// Asks the system about a thread of this process.
fn what_it_does(thread: i32) -> Option<Seen> {
    let folder = format!("/proc/self/task/{thread}");
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let asleep = is_asleep(&stat)?;
    let ran = match fs::read_to_string(format!("{folder}/schedstat")) {
        Ok(schedule) => ran_of_schedule(&schedule)?,
        // A kernel without these figures has coarser ones.
        Err(_) => ran_of_stat(&stat)?,
    };
    Some(Seen { asleep, ran })
}

/// The fields of `stat` after the name, which stands in brackets and may contain anything.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

fn is_asleep(stat: &str) -> Option<bool> {
    Some(matches!(fields(stat)?.next()?, "S" | "D"))
}

/// User and system time, in ticks of the system.
fn ran_of_stat(stat: &str) -> Option<(u64, u64)> {
    let mut times = fields(stat)?.skip(11);
    Some((times.next()?.parse().ok()?, times.next()?.parse().ok()?))
}

/// Time on a processor and time slices; the time in between, spent waiting for one, changes without running.
fn ran_of_schedule(schedule: &str) -> Option<(u64, u64)> {
    let mut figures = schedule.split_ascii_whitespace();
    let (time, _waited, slices) = (figures.next()?, figures.next()?, figures.next()?);
    Some((time.parse().ok()?, slices.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        let stat = "1234 (a) name (of ours) S 1 2 3 0 -1 4194368 5 6 7 8 900 71 12 13 20 0";
        assert_eq!(is_asleep(stat), Some(true));
        assert_eq!(ran_of_stat(stat), Some((900, 71)));
        assert_eq!(is_asleep(&stat.replace(") S", ") D")), Some(true));
        for state in ["R", "T", "t", "Z", "X", "I"] {
            assert_eq!(is_asleep(&stat.replace(") S", &format!(") {state}"))), Some(false), "{state}");
        }
        assert_eq!(is_asleep("cut off (na"), None);
        assert_eq!(ran_of_schedule("100200300 55 7\n"), Some((100_200_300, 7)));
        assert_eq!(ran_of_schedule("100"), None);
    }

    #[test]
    fn this_thread_runs_and_one_that_waits_sleeps() {
        let seen = what_it_does(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        assert!(!seen.asleep && seen.ran > (0, 0));
        let (tell, told) = std::sync::mpsc::channel();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let waits = thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            gone.recv().unwrap_err();
        });
        let id = told.recv().unwrap();
        while !what_it_does(id).unwrap().asleep {
            thread::yield_now();
        }
        drop(go);
        waits.join().unwrap();
        assert_eq!(what_it_does(id), None);
    }

    fn suspect(ticket: u64, blocked: bool) -> Suspect {
        Suspect { place: 0, ticket, system_id: 1, blocked }
    }

    #[test]
    fn asleep_twice_without_running_is_blocked_and_anything_else_is_not() {
        let asleep = Seen { asleep: true, ran: (5, 1) };
        let judge = |before: Seen, now: Seen, blocked| {
            let mut looks = Looks::default();
            assert!(looks.judge(&[suspect(1, blocked)], |_| Some(before)).is_empty(), "one look is none");
            let judged = looks.judge(&[suspect(1, blocked)], |_| Some(now));
            judged.first().map(|(_, sleeps)| *sleeps)
        };
        assert_eq!(judge(asleep, asleep, false), Some(true));
        assert_eq!(judge(asleep, asleep, true), None, "that is known");
        for moved in
            [Seen { asleep: false, ..asleep }, Seen { ran: (6, 1), ..asleep }, Seen { ran: (5, 2), ..asleep }]
        {
            assert_eq!(judge(asleep, moved, false), None, "{moved:?}");
            assert_eq!(judge(asleep, moved, true), Some(false), "{moved:?}");
        }
        // Not scheduled: it stands still, and is no sleeper.
        let starved = Seen { asleep: false, ran: (5, 1) };
        assert_eq!(judge(starved, starved, false), None);
    }

    #[test]
    fn a_look_at_another_packet_is_forgotten() {
        let mut looks = Looks::default();
        let asleep = |_| Some(Seen { asleep: true, ran: (5, 1) });
        looks.judge(&[suspect(1, false)], asleep);
        assert!(looks.judge(&[suspect(2, false)], asleep).is_empty());
        assert!(looks.judge(&[], asleep).is_empty());
        assert!(looks.judge(&[suspect(2, false)], asleep).is_empty());
    }
}
