//! Threads at a port that do what the test says.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyport_driver::{CompletionPort, PortConfig, PortCounters, WaitEnd, blocking};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// False under Wine: its port wakes threads first in, first out, and lets all of them run. What these tests show is only
/// run there.
pub(crate) fn shows_scheduling() -> bool {
    #[cfg(windows)]
    if let Some(version) = anyport_driver::machine::wine() {
        println!("not shown: Wine {version} has neither the concurrency value nor the order of threads");
        return false;
    }
    true
}

/// What a worker does with a packet.
#[derive(Debug)]
pub(crate) enum Task {
    /// Runs until it is let go.
    Run,
    /// Sleeps until it is let go, and says so first.
    SayAndSleep,
    /// Says so twice, one in the other.
    SayTwiceAndSleep,
    /// Sleeps until it is let go, and says nothing.
    Sleep(Bed),
    /// Ends the thread.
    Panic,
    /// Ends the thread in order.
    Return,
}

/// On what a worker sleeps.
#[derive(Debug)]
#[cfg_attr(
    not(any(target_os = "linux", windows)),
    allow(dead_code, reason = "where nobody is found asleep, nobody tries")
)]
pub(crate) enum Bed {
    Channel,
    Socket(std::net::TcpStream),
    Lock(Arc<Mutex<()>>),
}

#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) number: u32,
    pub(crate) task: Task,
}

/// A packet that was taken, and how to let go whoever has it.
pub(crate) struct Taken {
    pub(crate) worker: usize,
    pub(crate) number: u32,
    go: Arc<AtomicBool>,
    wake: Sender<()>,
}

impl Taken {
    pub(crate) fn let_go(self) {
        self.go.store(true, Ordering::Release);
        // A worker that does not sleep does not listen.
        let _ = self.wake.send(());
    }
}

/// Threads at a port.
pub(crate) struct Crew {
    pub(crate) port: Arc<CompletionPort<Packet>>,
    tell: Sender<Taken>,
    taken: Receiver<Taken>,
    threads: Vec<JoinHandle<WaitEnd>>,
}

impl Crew {
    /// A port with so many threads, which came to wait in the order of their numbers.
    pub(crate) fn new(config: PortConfig, threads: usize) -> Self {
        let (tell, taken) = channel();
        let port = Arc::new(CompletionPort::new(config).unwrap());
        let mut crew = Self { port, tell, taken, threads: Vec::new() };
        for count in 1..=threads {
            crew.add();
            crew.counters_when(|counters| counters.waiting == count);
        }
        crew
    }

    /// Only what is told counts as blocked.
    pub(crate) fn unwatched(concurrency: usize, threads: usize) -> Self {
        let config = PortConfig { concurrency, detect_blocked: false, ..PortConfig::default() };
        Self::new(config, threads)
    }

    pub(crate) fn add(&mut self) {
        let (port, tell, worker) = (Arc::clone(&self.port), self.tell.clone(), self.threads.len());
        self.threads.push(std::thread::spawn(move || {
            loop {
                let packet = match port.wait(None) {
                    Ok(packet) => packet,
                    Err(end) => return end,
                };
                let (wake, woken) = channel();
                let go = Arc::new(AtomicBool::new(false));
                let taken = Taken { worker, number: packet.number, go: Arc::clone(&go), wake };
                tell.send(taken).unwrap();
                let sleep = || woken.recv_timeout(PATIENCE).unwrap();
                match packet.task {
                    Task::Run => spin(&go),
                    Task::SayAndSleep => blocking(sleep),
                    Task::SayTwiceAndSleep => blocking(|| {
                        blocking(|| ());
                        sleep();
                    }),
                    Task::Sleep(Bed::Channel) => sleep(),
                    Task::Sleep(Bed::Socket(mut socket)) => {
                        std::io::Read::read_exact(&mut socket, &mut [0]).unwrap();
                    }
                    Task::Sleep(Bed::Lock(lock)) => drop(lock.lock().unwrap()),
                    Task::Panic => panic!("a worker panics on purpose"),
                    Task::Return => return WaitEnd::TimedOut,
                }
            }
        }));
    }

    pub(crate) fn post(&self, number: u32, task: Task) {
        self.port.try_post(Packet { number, task }).unwrap();
    }

    /// The next packet that a worker takes.
    pub(crate) fn next(&self) -> Taken {
        self.taken.recv_timeout(PATIENCE).expect("nobody took a packet")
    }

    /// What was taken so far and not asked for.
    pub(crate) fn taken_now(&self) -> Option<Taken> {
        self.taken.try_recv().ok()
    }

    pub(crate) fn counters_when(&self, enough: impl Fn(&PortCounters) -> bool) -> PortCounters {
        counters_when(&self.port, enough)
    }

    /// Closes the port; each worker must be told. Gives how they ended: an error for a panic.
    pub(crate) fn end(self) -> Vec<std::thread::Result<WaitEnd>> {
        self.port.close();
        self.threads.into_iter().map(JoinHandle::join).collect()
    }
}

/// The counters of a port once they are `enough`.
pub(crate) fn counters_when<T: Send>(
    port: &CompletionPort<T>,
    enough: impl Fn(&PortCounters) -> bool,
) -> PortCounters {
    let start = Instant::now();
    loop {
        let counters = port.counters();
        if enough(&counters) {
            return counters;
        }
        assert!(start.elapsed() < PATIENCE, "the counters stay at {counters:?}");
        std::thread::yield_now();
    }
}

/// Runs, without a pause that the system could take for sleep.
fn spin(until: &AtomicBool) {
    let start = Instant::now();
    while !until.load(Ordering::Acquire) {
        assert!(start.elapsed() < PATIENCE, "nobody let the worker go");
        std::thread::yield_now();
    }
}
