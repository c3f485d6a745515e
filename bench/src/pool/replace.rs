//! How long it takes until a thread that blocks is replaced, and what looking for such threads costs.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyport::{CompletionPort, PortConfig, blocking};

use super::nanoseconds;
use crate::{
    error::{Context, Result},
    stats::Spread,
    sys::Scheduled,
};

/// How long the watcher is watched.
const WATCHED: Duration = Duration::from_secs(1);

enum Packet {
    /// Sleeps until the other end of the channel goes.
    Sleep { says_so: bool, until: Receiver<()> },
    /// Tells when it was taken.
    Tell(Sender<Instant>),
    /// Computes until it is told to end.
    Compute(Arc<AtomicBool>),
}

/// A port on which one of two threads may run.
struct Port {
    port: Arc<CompletionPort<Packet>>,
    threads: Vec<JoinHandle<()>>,
}

impl Port {
    fn new() -> Result<Self> {
        let port = CompletionPort::new(PortConfig { concurrency: 1, ..PortConfig::default() });
        let port = Arc::new(port.context("starting the watcher")?);
        let work = |port: Arc<CompletionPort<Packet>>| {
            while let Ok(packet) = port.wait(None) {
                match packet {
                    Packet::Sleep { says_so, until } => {
                        let _ = if says_so { blocking(|| until.recv()) } else { until.recv() };
                    }
                    Packet::Tell(taken) => taken.send(Instant::now()).expect("somebody waits for it"),
                    Packet::Compute(over) => while !over.load(Ordering::Relaxed) {},
                }
            }
        };
        let threads = (0..2).map(|_| {
            std::thread::spawn({
                let port = Arc::clone(&port);
                move || work(port)
            })
        });
        Ok(Self { threads: threads.collect(), port })
    }

    fn post(&self, packet: Packet) {
        self.port.try_post(packet).expect("there is room");
    }

    fn settle(&self, waiting: usize) {
        while self.port.counters().waiting != waiting {
            std::thread::yield_now();
        }
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

/// From the post of a packet to another thread having it, while the first one sleeps; in ms.
pub fn times(rounds: u32, says_so: bool) -> Result<Option<Spread>> {
    let port = Port::new()?;
    let times = (0..rounds).map(|_| {
        port.settle(2);
        let (wake, until) = channel();
        port.post(Packet::Sleep { says_so, until });
        port.settle(1);
        let (tell, taken) = channel();
        let posted = Instant::now();
        port.post(Packet::Tell(tell));
        let taken = taken.recv().expect("it is taken");
        drop(wake);
        nanoseconds(taken - posted) / 1e6
    });
    Ok(Spread::of(times))
}

/// Processor time of the watcher while a thread computes and packets wait, as a share of one processor, and its looks a
/// second.
pub fn watcher() -> Result<(f64, f64)> {
    let port = Port::new()?;
    port.settle(2);
    let over = Arc::new(AtomicBool::new(false));
    port.post(Packet::Compute(Arc::clone(&over)));
    let (tell, _taken) = channel();
    port.post(Packet::Tell(tell));
    let (looks, spent, start) = (port.port.counters().looks, watchers()?, Instant::now());
    std::thread::sleep(WATCHED);
    let (spent, passed) = (watchers()? - spent, start.elapsed());
    let looks = (port.port.counters().looks - looks) as f64;
    over.store(true, Ordering::Relaxed);
    port.settle(2);
    Ok((spent as f64 / nanoseconds(passed), looks / passed.as_secs_f64()))
}

/// Processor time of all watchers of this process, in ns.
fn watchers() -> Result<u64> {
    let mut spent = 0;
    for thread in fs::read_dir("/proc/self/task").context("threads of this process")?.flatten() {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if name.starts_with("anyport-watcher") {
            spent += Scheduled::of(thread.path().join("schedstat")).context("a thread's time")?.cpu_ns;
        }
    }
    Ok(spent)
}
