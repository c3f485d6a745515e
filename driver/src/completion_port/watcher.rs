//! Finds threads that block without having said so, where the system tells what its threads do: on Linux.
//!
//! A thread of the watcher's own, asleep until packets wait although threads do; so an idle program, and one with enough
//! free threads, has no ticking. Awake, it looks every millisecond. A thread that took another packet since the last
//! look is at work, which costs nothing to see. One that has the same packet is looked up in `/proc`: it blocks if it
//! has not run since the look before (CPU time and time slices) and is asleep (state S or D). One that is merely not
//! scheduled is in state R, however long it stands still.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    mem,
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
            .spawn(crate::machine::unbound(move || watch(&port_watched, &ends)))?;
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
        for (suspect, sleeps) in looks.judge(&suspects, &Proc) {
            let mut schedule = port.lock();
            let wakes = schedule.seen(&suspect, sleeps);
            port.wake(schedule, wakes);
        }
    }
}

/// Time on a processor, in ns, and how often a thread was given one: it has run if either has changed.
type Ran = (u64, u64);

/// What suspects had run at the last look, by their tickets.
#[derive(Default)]
struct Looks {
    last: HashMap<u64, Ran>,
    next: HashMap<u64, Ran>,
}

impl Looks {
    /// The suspects of whom something new is to be said, and whether they sleep.
    fn judge(&mut self, suspects: &[Suspect], system: &impl System) -> Vec<(Suspect, bool)> {
        let mut judged = Vec::new();
        for suspect in suspects {
            // A thread that has ended, or a system that does not tell: no reason to do anything.
            let Some(ran) = system.ran(suspect.system_id) else { continue };
            // To fall asleep it would have had to run, and to go on after that as well: nothing else needs asking about
            // one that stands still, but whether it stands asleep, once.
            if let Some(before) = self.last.get(&suspect.ticket) {
                let stands = *before == ran;
                let sleeps = stands && (suspect.blocked || system.is_asleep(suspect.system_id) == Some(true));
                if sleeps != suspect.blocked {
                    judged.push((*suspect, sleeps));
                }
            }
            self.next.insert(suspect.ticket, ran);
        }
        mem::swap(&mut self.last, &mut self.next);
        self.next.clear();
        judged
    }
}

/// What can be asked about a thread of this process.
trait System {
    fn ran(&self, thread: i32) -> Option<Ran>;
    /// In state S or D: it waits for something.
    fn is_asleep(&self, thread: i32) -> Option<bool>;
}

struct Proc;

impl System for Proc {
    fn ran(&self, thread: i32) -> Option<Ran> {
        match read(thread, "schedstat") {
            Ok(schedule) => ran_of_schedule(&schedule),
            // A kernel without these figures has coarser ones.
            Err(_) => ran_of_stat(&read(thread, "stat").ok()?),
        }
    }

    fn is_asleep(&self, thread: i32) -> Option<bool> {
        is_asleep(&read(thread, "stat").ok()?)
    }
}

/// The kernel writes such a file for whoever reads it, and in one piece; what is cut off is not looked at.
fn read(thread: i32, file: &str) -> io::Result<String> {
    let mut text = [0; 512];
    let length = fs::File::open(format!("/proc/self/task/{thread}/{file}"))?.read(&mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// The fields of `stat` after the name, which stands in brackets and may contain anything.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

fn is_asleep(stat: &str) -> Option<bool> {
    Some(matches!(fields(stat)?.next()?, "S" | "D"))
}

/// User and system time, in ticks of the system.
fn ran_of_stat(stat: &str) -> Option<Ran> {
    let mut times = fields(stat)?.skip(11);
    Some((times.next()?.parse().ok()?, times.next()?.parse().ok()?))
}

/// Time on a processor and time slices; the time in between, spent waiting for one, changes without running.
fn ran_of_schedule(schedule: &str) -> Option<Ran> {
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
        let this = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(Proc.is_asleep(this), Some(false));
        assert!(Proc.ran(this).unwrap() > (0, 0));
        let (tell, told) = std::sync::mpsc::channel();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let waits = thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            gone.recv().unwrap_err();
        });
        let id = told.recv().unwrap();
        while !Proc.is_asleep(id).unwrap() {
            thread::yield_now();
        }
        drop(go);
        waits.join().unwrap();
        assert_eq!((Proc.ran(id), Proc.is_asleep(id)), (None, None));
    }

    /// A system with one thread.
    struct One {
        ran: Ran,
        asleep: bool,
    }

    impl System for One {
        fn ran(&self, _: i32) -> Option<Ran> {
            Some(self.ran)
        }

        fn is_asleep(&self, _: i32) -> Option<bool> {
            Some(self.asleep)
        }
    }

    fn suspect(ticket: u64, blocked: bool) -> Suspect {
        Suspect { place: 0, ticket, system_id: 1, blocked }
    }

    #[test]
    fn who_sleeps_and_has_not_run_is_blocked_and_nobody_else() {
        let judge = |now: One, blocked| {
            let mut looks = Looks::default();
            let before = One { ran: (5, 1), asleep: true };
            assert!(looks.judge(&[suspect(1, blocked)], &before).is_empty(), "one look is none");
            looks.judge(&[suspect(1, blocked)], &now).first().map(|(_, sleeps)| *sleeps)
        };
        assert_eq!(judge(One { ran: (5, 1), asleep: true }, false), Some(true));
        assert_eq!(judge(One { ran: (5, 1), asleep: true }, true), None, "that is known");
        // Not scheduled: it stands still, and does not sleep. Or it has run, and sleeps again.
        for (ran, asleep) in [((5, 1), false), ((6, 1), true), ((5, 2), true)] {
            assert_eq!(judge(One { ran, asleep }, false), None, "{ran:?}");
        }
        for ran in [(6, 1), (5, 2)] {
            assert_eq!(judge(One { ran, asleep: true }, true), Some(false), "{ran:?}");
        }
    }

    #[test]
    fn three_looks_are_a_few_milliseconds() {
        assert!(LOOK_EVERY * 3 <= Duration::from_millis(5), "sentence 4 promises a few");
    }

    #[test]
    fn a_look_at_another_packet_is_forgotten() {
        let mut looks = Looks::default();
        let asleep = One { ran: (5, 1), asleep: true };
        looks.judge(&[suspect(1, false)], &asleep);
        assert!(looks.judge(&[suspect(2, false)], &asleep).is_empty());
        assert!(looks.judge(&[], &asleep).is_empty());
        assert!(looks.judge(&[suspect(2, false)], &asleep).is_empty());
    }
}
