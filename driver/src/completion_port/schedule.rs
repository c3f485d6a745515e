//! Who gets which packet: the state of a port and its rules, without threads, clocks or locks.
//!
//! Between two calls this holds: **if a packet is queued and fewer threads run than may, nobody waits.** Each event can
//! break it for one packet and one thread at most, and [`settle`](Schedule::settle) mends it by handing the first packet
//! to the thread that came last. The packet is given along with the wake-up, as the kernel of Windows does: whoever is
//! woken has its packet, nobody can take it away meanwhile, and no wake-up is in vain.

use std::collections::VecDeque;

/// A place at the port; a thread has one from its first wait until it ends.
pub(crate) type Place = usize;

/// What a thread does, as far as the port can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Activity {
    /// It has no packet and does not wait for one.
    Away,
    /// It waits; `Thread::packet` is where one is put.
    Waiting,
    /// It has a packet, and counts.
    Running,
    /// It has a packet, blocks, and does not count. `told` that it does, or seen.
    Blocked { told: bool },
}

#[derive(Debug)]
struct Thread<T, W> {
    activity: Activity,
    /// The packet that it was handed and has not fetched yet.
    packet: Option<T>,
    /// Which packet it has, counted from the first one of the port: an older look at the thread says nothing about it.
    ticket: u64,
    /// By which it is woken.
    waker: W,
    /// The number by which the system knows it; 0 if the system tells nothing of its threads.
    system_id: i32,
}

/// Whom to wake once the lock is released.
#[derive(Debug)]
#[must_use]
pub(crate) struct Wakes<W> {
    /// It was handed a packet.
    pub(crate) one: Option<W>,
    /// The port is closed and empty: everybody who waited.
    pub(crate) all: Vec<W>,
    /// There is room in the queue, and somebody waits to post.
    pub(crate) room: bool,
    /// Packets wait behind running threads: somebody should look whether those really run.
    pub(crate) watcher: bool,
}

/// What became of a wait that begins.
#[derive(Debug)]
pub(crate) enum Entered<T> {
    Packet(T),
    Closed,
    /// It is on the stack; it waits until [`Schedule::fetch`] has something.
    Waits,
    /// It would have to wait, and was not to.
    Nothing,
}

/// What a waiting thread finds.
#[derive(Debug)]
pub(crate) enum Fetched<T> {
    Packet(T),
    Closed,
    Nothing,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoRoom {
    Full,
    Closed,
}

/// A thread that has the same packet as at the look before: it may block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Suspect {
    pub(crate) place: Place,
    pub(crate) ticket: u64,
    pub(crate) system_id: i32,
    /// It was seen blocked, and does not count now.
    pub(crate) blocked: bool,
}

/// Totals since the port was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Totals {
    pub(crate) posted: u64,
    pub(crate) refused: u64,
    pub(crate) replaced: u64,
    pub(crate) looks: u64,
}

/// The state of a port.
#[derive(Debug)]
pub(crate) struct Schedule<T, W> {
    concurrency: usize,
    queue_max: usize,
    /// First in, first out.
    queue: VecDeque<T>,
    threads: Vec<Option<Thread<T, W>>>,
    free: Vec<Place>,
    /// Threads that wait, the last one at the end.
    waiting: Vec<Place>,
    running: usize,
    blocked: usize,
    closed: bool,
    tickets: u64,
    /// Threads that wait for room.
    pub(crate) posters: usize,
    /// The watcher was asked to look, and has not said that it stopped.
    watched: bool,
    pub(crate) totals: Totals,
}

impl<T, W: Clone> Schedule<T, W> {
    pub(crate) fn new(concurrency: usize, queue_max: usize) -> Self {
        Self {
            concurrency: concurrency.max(1),
            queue_max: queue_max.max(1),
            queue: VecDeque::new(),
            threads: Vec::new(),
            free: Vec::new(),
            waiting: Vec::new(),
            running: 0,
            blocked: 0,
            closed: false,
            tickets: 0,
            posters: 0,
            watched: false,
            totals: Totals::default(),
        }
    }

    // ---- packets ----

    /// Queues a packet, and hands it over if somebody may run.
    pub(crate) fn post(&mut self, packet: T) -> Result<Wakes<W>, (T, NoRoom)> {
        if let Err(why) = self.room() {
            return Err((packet, why));
        }
        self.totals.posted += 1;
        self.queue.push_back(packet);
        Ok(self.settle())
    }

    /// Whether a packet would be taken.
    pub(crate) fn room(&self) -> Result<(), NoRoom> {
        match () {
            () if self.closed => Err(NoRoom::Closed),
            () if self.queue.len() >= self.queue_max => Err(NoRoom::Full),
            () => Ok(()),
        }
    }

    /// No packet is taken any more. Those that are queued still are handed out.
    pub(crate) fn close(&mut self) -> Wakes<W> {
        self.closed = true;
        self.settle()
    }

    /// Takes out what is queued, in order.
    pub(crate) fn take_queued(&mut self) -> (VecDeque<T>, Wakes<W>) {
        let queued = std::mem::take(&mut self.queue);
        (queued, self.settle())
    }

    // ---- threads ----

    /// A thread comes to the port for the first time.
    pub(crate) fn sit(&mut self, waker: W, system_id: i32) -> Place {
        let thread = Thread { activity: Activity::Away, packet: None, ticket: 0, waker, system_id };
        if let Some(place) = self.free.pop() {
            self.threads[place] = Some(thread);
            place
        } else {
            self.threads.push(Some(thread));
            self.threads.len() - 1
        }
    }

    /// A thread ends, or goes to another port. What it had does not count any more.
    pub(crate) fn leave(&mut self, place: Place) -> Wakes<W> {
        self.stop_running(place);
        let thread = self.threads[place].take();
        self.free.push(place);
        let waits = thread.is_some_and(|thread| thread.activity == Activity::Waiting);
        assert!(!waits, "a thread left while it waited");
        self.settle()
    }

    /// A thread waits: what it did before is over. `patient` tells that it may wait for what comes later.
    pub(crate) fn wait(&mut self, place: Place, patient: bool) -> (Entered<T>, Wakes<W>) {
        self.stop_running(place);
        let entered = if self.running < self.concurrency
            && let Some(packet) = self.queue.pop_front()
        {
            self.run(place);
            Entered::Packet(packet)
        } else if self.closed && self.queue.is_empty() {
            Entered::Closed
        } else if patient {
            self.thread(place).activity = Activity::Waiting;
            self.waiting.push(place);
            Entered::Waits
        } else {
            Entered::Nothing
        };
        (entered, self.settle())
    }

    /// What a waiting thread was handed.
    pub(crate) fn fetch(&mut self, place: Place) -> Fetched<T> {
        let thread = self.thread(place);
        if let Some(packet) = thread.packet.take() {
            return Fetched::Packet(packet);
        }
        if thread.activity == Activity::Waiting { Fetched::Nothing } else { Fetched::Closed }
    }

    /// A waiting thread does not wait any longer.
    pub(crate) fn give_up(&mut self, place: Place) {
        let thread = self.thread(place);
        if thread.activity == Activity::Waiting {
            thread.activity = Activity::Away;
            self.waiting.retain(|waiting| *waiting != place);
        }
    }

    /// A running thread says that it will block.
    pub(crate) fn begin_block(&mut self, place: Place) -> Wakes<W> {
        match self.thread(place).activity {
            Activity::Running => self.block(place, true),
            Activity::Blocked { .. } => self.thread(place).activity = Activity::Blocked { told: true },
            Activity::Away | Activity::Waiting => {}
        }
        self.settle()
    }

    /// A thread that said so has come back. The number of those that run may be above the concurrency now.
    pub(crate) fn end_block(&mut self, place: Place) {
        if let Activity::Blocked { told: true } = self.thread(place).activity {
            self.unblock(place);
        }
    }

    // ---- the watcher ----

    /// Threads that have the same packet as at the look before, whose tickets are in `before`; and what to compare with
    /// next time. `None` if there is nothing to look for: the watcher sleeps until it is asked again.
    #[cfg_attr(
        any(not(target_os = "linux"), loom),
        allow(dead_code, reason = "only Linux can be asked what its threads do")
    )]
    pub(crate) fn look(&mut self, before: &mut Vec<u64>, suspects: &mut Vec<Suspect>) -> bool {
        suspects.clear();
        if !self.is_stuck() {
            self.watched = false;
            before.clear();
            return false;
        }
        self.totals.looks += 1;
        before.resize(self.threads.len(), 0);
        for (place, (thread, before)) in self.threads.iter().zip(before).enumerate() {
            let Some(thread) = thread else { continue };
            let blocked = match thread.activity {
                Activity::Running => false,
                Activity::Blocked { told: false } => true,
                _ => continue,
            };
            if *before == thread.ticket {
                let Thread { ticket, system_id, .. } = *thread;
                suspects.push(Suspect { place, ticket, system_id, blocked });
            }
            *before = thread.ticket;
        }
        true
    }

    /// A thread was seen to sleep (or to run again), while it had the packet of the suspect.
    #[cfg_attr(
        any(not(target_os = "linux"), loom),
        allow(dead_code, reason = "only Linux can be asked what its threads do")
    )]
    pub(crate) fn seen(&mut self, suspect: &Suspect, sleeps: bool) -> Wakes<W> {
        if let Some(Some(thread)) = self.threads.get(suspect.place)
            && thread.ticket == suspect.ticket
        {
            match thread.activity {
                Activity::Running if sleeps => self.block(suspect.place, false),
                Activity::Blocked { told: false } if !sleeps => self.unblock(suspect.place),
                _ => {}
            }
        }
        self.settle()
    }

    /// Packets wait although threads do.
    fn is_stuck(&self) -> bool {
        !self.queue.is_empty() && !self.waiting.is_empty()
    }

    // ---- counts ----

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    pub(crate) fn blocked(&self) -> usize {
        self.blocked
    }

    // ---- the rule ----

    /// Hands the first packet to the last thread if it may run; lets everybody go if nothing will come any more.
    fn settle(&mut self) -> Wakes<W> {
        let mut wakes = Wakes { one: None, all: Vec::new(), room: false, watcher: false };
        if self.running < self.concurrency
            && let Some(&place) = self.waiting.last()
            && let Some(packet) = self.queue.pop_front()
        {
            self.waiting.pop();
            self.run(place);
            let thread = self.thread(place);
            thread.packet = Some(packet);
            wakes.one = Some(thread.waker.clone());
        }
        debug_assert!(!self.is_stuck() || self.running >= self.concurrency, "somebody waits in vain");
        if self.closed && self.queue.is_empty() {
            for place in std::mem::take(&mut self.waiting) {
                let thread = self.thread(place);
                thread.activity = Activity::Away;
                wakes.all.push(thread.waker.clone());
            }
        }
        wakes.room = self.posters > 0 && self.room() != Err(NoRoom::Full);
        if self.is_stuck() && !self.watched {
            self.watched = true;
            wakes.watcher = true;
        }
        wakes
    }

    fn run(&mut self, place: Place) {
        self.tickets += 1;
        let ticket = self.tickets;
        // Only because somebody blocks.
        self.totals.replaced += u64::from(self.running + self.blocked >= self.concurrency);
        let thread = self.thread(place);
        thread.activity = Activity::Running;
        thread.ticket = ticket;
        self.running += 1;
    }

    fn stop_running(&mut self, place: Place) {
        let thread = self.thread(place);
        match std::mem::replace(&mut thread.activity, Activity::Away) {
            Activity::Running => self.running -= 1,
            Activity::Blocked { .. } => self.blocked -= 1,
            Activity::Away | Activity::Waiting => {}
        }
    }

    fn block(&mut self, place: Place, told: bool) {
        self.thread(place).activity = Activity::Blocked { told };
        self.running -= 1;
        self.blocked += 1;
    }

    fn unblock(&mut self, place: Place) {
        self.thread(place).activity = Activity::Running;
        self.blocked -= 1;
        self.running += 1;
    }

    fn thread(&mut self, place: Place) -> &mut Thread<T, W> {
        self.threads[place].as_mut().expect("a thread keeps its place until it leaves")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    type Port = Schedule<u32, char>;

    /// A port at which threads sit whose wakers are their letters.
    fn port(concurrency: usize, threads: &str) -> Port {
        let mut port = Port::new(concurrency, 4);
        for (place, letter) in threads.chars().enumerate() {
            assert_eq!(port.sit(letter, 0), place);
        }
        port
    }

    fn waits(port: &mut Port, place: Place) {
        assert!(matches!(port.wait(place, true).0, Entered::Waits), "{port:?}");
    }

    fn takes(port: &mut Port, place: Place, packet: u32) {
        assert!(matches!(port.wait(place, true).0, Entered::Packet(taken) if taken == packet), "{port:?}");
    }

    fn fetches(port: &mut Port, place: Place, packet: u32) {
        assert!(matches!(port.fetch(place), Fetched::Packet(fetched) if fetched == packet), "{port:?}");
    }

    #[test]
    fn the_first_packet_goes_to_the_last_thread() {
        let mut port = port(2, "abc");
        (0..3).for_each(|place| waits(&mut port, place));
        assert_eq!(port.post(1).unwrap().one, Some('c'));
        assert_eq!(port.post(2).unwrap().one, Some('b'));
        assert_eq!(port.post(3).unwrap().one, None);
        fetches(&mut port, 1, 2);
        fetches(&mut port, 2, 1);
        // Whoever runs takes the next one itself.
        takes(&mut port, 1, 3);
        assert_eq!((port.running(), port.waiting(), port.queued()), (2, 1, 0));
    }

    #[test]
    fn whoever_blocks_is_replaced_and_whoever_comes_back_is_one_too_many_for_a_while() {
        let mut port = port(1, "abc");
        (0..3).for_each(|place| waits(&mut port, place));
        assert_eq!(port.post(1).unwrap().one, Some('c'));
        let posted = port.post(2).unwrap();
        assert!(posted.one.is_none() && posted.watcher);
        assert!(!port.post(3).unwrap().watcher, "it was asked already");
        assert_eq!(port.begin_block(2).one, Some('b'));
        assert_eq!((port.running(), port.blocked(), port.totals.replaced), (1, 1, 1));
        port.end_block(2);
        assert_eq!((port.running(), port.blocked()), (2, 0));
        // Nobody new is woken, and it falls again: the first that waits gets nothing, although a packet is there.
        waits(&mut port, 2);
        assert_eq!((port.running(), port.queued()), (1, 1));
        takes(&mut port, 1, 3);
    }

    #[test]
    fn a_thread_that_leaves_makes_place() {
        let mut port = port(1, "ab");
        waits(&mut port, 0);
        waits(&mut port, 1);
        assert_eq!(port.post(1).unwrap().one, Some('b'));
        assert!(port.post(2).unwrap().one.is_none());
        assert_eq!(port.leave(1).one, Some('a'));
        assert_eq!(port.running(), 1);
        // Its place is given to the next.
        assert_eq!(port.sit('d', 0), 1);
    }

    #[test]
    fn giving_up_leaves_the_stack_but_not_a_packet() {
        let mut port = port(1, "abc");
        (0..3).for_each(|place| waits(&mut port, place));
        port.give_up(1);
        assert_eq!(port.post(1).unwrap().one, Some('c'));
        // It gave up too late: it has a packet.
        port.give_up(2);
        fetches(&mut port, 2, 1);
        assert_eq!((port.waiting(), port.running()), (1, 1));
    }

    #[test]
    fn a_closed_port_gives_what_it_has_and_then_lets_everybody_go() {
        let mut port = port(1, "abc");
        (0..3).for_each(|place| waits(&mut port, place));
        assert_eq!(port.post(1).unwrap().one, Some('c'));
        let _ = port.post(2).unwrap();
        assert!(port.close().all.is_empty(), "a packet is still to be taken");
        assert_eq!(port.post(3).unwrap_err(), (3, NoRoom::Closed));
        let (taken, wakes) = port.wait(2, true);
        assert!(matches!(taken, Entered::Packet(1 | 2)));
        assert_eq!(wakes.all, ['a', 'b']);
        assert!(matches!(port.fetch(0), Fetched::Closed));
        assert!(matches!(port.wait(2, true).0, Entered::Closed));
    }

    #[test]
    fn taking_the_queue_out_of_a_closed_port_lets_everybody_go() {
        let mut port = port(1, "ab");
        waits(&mut port, 0);
        waits(&mut port, 1);
        for packet in 1..=3 {
            let _ = port.post(packet).unwrap();
        }
        let _ = port.close();
        let (queued, wakes) = port.take_queued();
        assert_eq!((queued, wakes.all), (VecDeque::from([2, 3]), vec!['a']));
    }

    #[test]
    fn a_full_queue_refuses_and_says_when_there_is_room() {
        let mut port = port(1, "a");
        for packet in 1..=4 {
            let _ = port.post(packet).unwrap();
        }
        assert_eq!(port.post(5).unwrap_err(), (5, NoRoom::Full));
        port.posters = 1;
        let (taken, wakes) = port.wait(0, true);
        assert!(matches!(taken, Entered::Packet(1)) && wakes.room);
        assert_eq!(port.totals.posted, 4);
    }

    #[test]
    fn only_a_packet_that_is_old_makes_a_suspect_and_an_old_look_says_nothing() {
        let mut port = port(1, "ab");
        waits(&mut port, 0);
        waits(&mut port, 1);
        for packet in 1..=3 {
            let _ = port.post(packet).unwrap();
        }
        let (mut before, mut suspects) = (Vec::new(), Vec::new());
        assert!(
            port.look(&mut before, &mut suspects) && suspects.is_empty(),
            "the first look only remembers"
        );
        assert!(port.look(&mut before, &mut suspects));
        let suspect = suspects[0];
        assert_eq!((suspect.place, suspect.blocked), (1, false));
        takes(&mut port, 1, 2);
        assert!(port.seen(&suspect, true).one.is_none(), "that was another packet");
        assert!(port.look(&mut before, &mut suspects) && suspects.is_empty());
        assert!(port.look(&mut before, &mut suspects));
        assert_eq!(port.seen(&suspects[0], true).one, Some('a'));
        assert_eq!((port.running(), port.blocked(), port.totals.replaced), (1, 1, 1));
        // Nothing waits any more: no need to look, and the next need is told again.
        assert!(!port.look(&mut before, &mut suspects));
    }

    #[test]
    fn who_was_seen_asleep_and_runs_again_counts_again() {
        let mut port = port(1, "abc");
        (0..3).for_each(|place| waits(&mut port, place));
        for packet in 1..=4 {
            let _ = port.post(packet).unwrap();
        }
        let (mut before, mut suspects) = (Vec::new(), Vec::new());
        port.look(&mut before, &mut suspects);
        port.look(&mut before, &mut suspects);
        let _ = port.seen(&suspects[0], true);
        port.look(&mut before, &mut suspects);
        let back = suspects.iter().find(|suspect| suspect.blocked).expect("it still is one");
        assert!(port.seen(back, false).one.is_none());
        assert_eq!((port.running(), port.blocked()), (2, 0));
    }
}
