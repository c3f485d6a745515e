//! A packet from one thread to another. Who posts counts how many were taken, and stops when too many are under way.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle, Thread},
};

use anyport::{CompletionPort, PortConfig};

use super::{
    Contender,
    job::{Jobs, Task},
};
use crate::error::Result;

pub fn contenders() -> Result<Vec<Box<dyn Contender>>> {
    Ok(vec![
        Box::new(Channel::new()),
        Box::new(Port::new("CompletionPort, 1 thread", 1, 1)),
        Box::new(Port::new("CompletionPort, 4 threads, 1 may run", 1, 4)),
        Box::new(Port::new("CompletionPort, 4 threads, 2 may run", 2, 4)),
        Box::new(Queue::new()),
        Box::new(Jobs::new()?),
        Box::new(Task::new()?),
    ])
}

/// How many were taken, and who waits to know. It is woken when all that it posted were: so that it costs every
/// contender the same.
#[derive(Default)]
pub(super) struct Taken {
    count: AtomicU64,
    until: AtomicU64,
    poster: Mutex<Option<Thread>>,
}

impl Taken {
    pub(super) fn one(&self) {
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.until.load(Ordering::SeqCst)
            && let Some(poster) = self.poster.lock().expect("nobody panics").as_ref()
        {
            poster.unpark();
        }
    }

    /// Posts `operations` in batches of `in_flight`, and waits for each batch.
    pub(super) fn drive(&self, operations: u32, in_flight: u32, mut post: impl FnMut()) {
        *self.poster.lock().expect("nobody panics") = Some(thread::current());
        let mut posted = self.count.load(Ordering::SeqCst);
        let end = posted + u64::from(operations);
        while posted < end {
            let until = end.min(posted + u64::from(in_flight));
            self.until.store(until, Ordering::SeqCst);
            while posted < until {
                post();
                posted += 1;
            }
            while self.count.load(Ordering::SeqCst) < until {
                thread::park();
            }
        }
    }
}

/// The standard library's channel, and one thread.
struct Channel {
    sender: Option<Sender<u64>>,
    taken: Arc<Taken>,
    thread: Option<JoinHandle<()>>,
}

impl Channel {
    fn new() -> Self {
        let (sender, receiver) = channel();
        let taken = Arc::<Taken>::default();
        let counts = Arc::clone(&taken);
        let thread = thread::spawn(move || receiver.into_iter().for_each(|_| counts.one()));
        Self { sender: Some(sender), taken, thread: Some(thread) }
    }
}

impl Contender for Channel {
    fn name(&self) -> &'static str {
        "std mpsc, 1 thread"
    }

    fn run(&mut self, operations: u32, in_flight: u32) {
        let sender = self.sender.as_ref().expect("it runs");
        self.taken.drive(operations, in_flight, || sender.send(1).expect("the thread is there"));
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ours.
struct Port {
    name: &'static str,
    port: Arc<CompletionPort<u64>>,
    taken: Arc<Taken>,
    threads: Vec<JoinHandle<()>>,
}

impl Port {
    fn new(name: &'static str, concurrency: usize, threads: usize) -> Self {
        let port = CompletionPort::new(PortConfig { concurrency, ..PortConfig::default() });
        let port = Arc::new(port.expect("the system has a thread"));
        let taken = Arc::<Taken>::default();
        let threads = (0..threads)
            .map(|_| {
                let (port, taken) = (Arc::clone(&port), Arc::clone(&taken));
                thread::spawn(move || {
                    while port.wait(None).is_ok() {
                        taken.one();
                    }
                })
            })
            .collect();
        Self { name, port, taken, threads }
    }
}

impl Contender for Port {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&mut self, operations: u32, in_flight: u32) {
        self.taken.drive(operations, in_flight, || self.port.post(1).expect("it is open"));
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.port.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What one writes by hand: a queue behind a lock, and four threads at a condition variable.
struct Queue {
    shared: Arc<(Mutex<Option<VecDeque<u64>>>, Condvar)>,
    taken: Arc<Taken>,
    threads: Vec<JoinHandle<()>>,
}

impl Queue {
    fn new() -> Self {
        let shared = Arc::new((Mutex::new(Some(VecDeque::new())), Condvar::new()));
        let taken = Arc::<Taken>::default();
        let threads = (0..4)
            .map(|_| {
                let (shared, taken) = (Arc::clone(&shared), Arc::clone(&taken));
                thread::spawn(move || {
                    let (queue, there) = &*shared;
                    let mut locked = queue.lock().expect("nobody panics");
                    while let Some(packets) = locked.as_mut() {
                        if packets.pop_front().is_some() {
                            drop(locked);
                            taken.one();
                            locked = queue.lock().expect("nobody panics");
                        } else {
                            locked = there.wait(locked).expect("nobody panics");
                        }
                    }
                })
            })
            .collect();
        Self { shared, taken, threads }
    }
}

impl Contender for Queue {
    fn name(&self) -> &'static str {
        "Mutex, VecDeque and Condvar, 4 threads"
    }

    fn run(&mut self, operations: u32, in_flight: u32) {
        let (queue, there) = &*self.shared;
        self.taken.drive(operations, in_flight, || {
            queue.lock().expect("nobody panics").as_mut().expect("it runs").push_back(1);
            there.notify_one();
        });
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let (queue, there) = &*self.shared;
        *queue.lock().expect("nobody panics") = None;
        there.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
