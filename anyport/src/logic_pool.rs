//! Threads for work that would hold a shard up: calls that block, and computing that takes long.
//!
//! A [`CompletionPort`] with threads on it: as many run at once as its concurrency says, and one that blocks is replaced.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyport_core::limits::InvalidLimit;
use anyport_driver::{CompletionPort, PortConfig, PortError, machine};

use crate::offload::OffloadError;

/// Threads besides those that may run at once, unless the configuration says how many there are.
const RESERVE: usize = 16;
/// What threads that have nothing to do need to end, and may take when the time is up already.
const MOMENT: Duration = Duration::from_millis(200);

/// Sizes of the pool that work is offloaded to ([`Session::offload`](crate::Session::offload)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PoolConfig {
    /// Threads that may run at once; 0, the default, is one for each processor (4 on the simulator).
    pub concurrency: usize,
    /// Threads in all. More than `concurrency`: the others take over from those that block. 0, the default, is
    /// `concurrency` and 16 more.
    pub threads: usize,
    /// Work that may wait for a thread. From 1; default 4,096. What is above is refused
    /// ([`OffloadError::Full`]).
    pub queue_max: usize,
    /// How long an engine that ends, all its sessions gone, waits for work that was accepted. Default 10 s. Then what
    /// has not begun is dropped, and threads that still work are left behind; both are logged. An engine that is
    /// aborted drops what has not begun at once; one that is to end within a time
    /// ([`Stop::drain_within`](crate::Stop::drain_within)) waits no longer than until then.
    pub stop_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { concurrency: 0, threads: 0, queue_max: 4096, stop_timeout: Duration::from_secs(10) }
    }
}

impl PoolConfig {
    pub(crate) fn validate(&self) -> Result<(), InvalidLimit> {
        if self.threads != 0 && self.threads < self.concurrency {
            let rule = "must not be below the pool's concurrency";
            return Err(InvalidLimit { limit: "threads", rule, value: self.threads });
        }
        if self.queue_max == 0 {
            return Err(InvalidLimit { limit: "queue_max", rule: "must be above zero", value: 0 });
        }
        Ok(())
    }

    /// With every number said.
    pub(crate) fn resolved(self, processors: usize) -> Self {
        let concurrency = if self.concurrency == 0 { processors.max(1) } else { self.concurrency };
        let threads = if self.threads == 0 { concurrency + RESERVE } else { self.threads };
        // Asked for fewer threads than there are processors: as many may run.
        Self { concurrency: concurrency.min(threads), threads, ..self }
    }
}

/// What a pool is doing, and has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PoolCounters {
    /// Work that waits for a thread.
    pub queued: usize,
    /// Threads that work, and are not known to block.
    pub running: usize,
    /// Threads that work, and block. Always 0 on Windows, which does not tell.
    pub blocked: usize,
    /// Work that was done, also by a panic.
    pub done: u64,
    /// Of that, what panicked.
    pub panicked: u64,
    /// Work that was refused, because the queue was full or the engine had ended.
    pub refused: u64,
    /// Work that was accepted and never begun, because the engine ended.
    pub cancelled: u64,
    /// Work begun only because another thread blocked. Always 0 on Windows.
    pub replaced: u64,
}

/// What a thread of the pool does.
pub(crate) trait Work: Any + Send {
    /// Does it, and tells whom it concerns. False if it panicked, which stays in here.
    fn run(self: Box<Self>) -> bool;
    /// It will not be done.
    fn refuse(self: Box<Self>, why: OffloadError);
}

pub(crate) type Packet = Box<dyn Work>;

/// The threads, and what they have in common.
pub(crate) struct LogicPool {
    port: Arc<CompletionPort<Packet>>,
    crew: Arc<Crew>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop_timeout: Duration,
    cancelled: AtomicU64,
}

/// What the threads of a pool tell it.
#[derive(Default)]
struct Crew {
    alive: Mutex<usize>,
    gone: Condvar,
    done: AtomicU64,
    panicked: AtomicU64,
}

impl LogicPool {
    /// Starts the threads.
    pub(crate) fn start(config: PoolConfig) -> io::Result<Self> {
        let config = config.resolved(machine::processors().len());
        let port = CompletionPort::new(PortConfig {
            concurrency: config.concurrency,
            queue_max_packets: config.queue_max,
            ..PortConfig::default()
        })?;
        let pool = Self {
            port: Arc::new(port),
            crew: Arc::default(),
            threads: Mutex::default(),
            stop_timeout: config.stop_timeout,
            cancelled: AtomicU64::new(0),
        };
        for number in 0..config.threads {
            if let Err(error) = pool.add_thread(number) {
                pool.stop(true);
                return Err(error);
            }
        }
        Ok(pool)
    }

    fn add_thread(&self, number: usize) -> io::Result<()> {
        let (port, crew) = (Arc::clone(&self.port), Alive::one_more(&self.crew));
        let thread = std::thread::Builder::new().name(format!("anyport-pool-{number}"));
        // A shard that is bound starts them with its first work: they run beside it.
        let work = machine::unbound(move || crew.work(&port));
        lock(&self.threads).push(thread.spawn(work)?);
        Ok(())
    }

    /// Hands work to a thread. Never waits.
    pub(crate) fn submit(&self, work: Packet) -> Result<(), PortError<Packet>> {
        self.port.try_post(work)
    }

    /// Ends the threads: when they have done what was accepted, or at the time-out. `at_once` drops what has not begun.
    /// Doing it twice is doing it once.
    pub(crate) fn stop(&self, at_once: bool) {
        self.stop_until(at_once, None);
    }

    /// As [`stop`](Self::stop), and at this time at the latest.
    pub(crate) fn stop_until(&self, at_once: bool, latest: Option<Instant>) {
        let left = latest.map(|latest| latest.saturating_duration_since(Instant::now()).max(MOMENT));
        let timeout = left.unwrap_or(Duration::MAX).min(self.stop_timeout);
        self.port.close();
        if at_once {
            self.cancel_queued();
        }
        let all_gone = self.crew.wait_until_gone(timeout);
        if !all_gone {
            self.cancel_queued();
            let counters = self.port.counters();
            let still = counters.running + counters.blocked;
            log::error!(
                "{still} threads of the pool still work {timeout:?} after the end of the engine; they are left behind"
            );
        }
        for thread in lock(&self.threads).drain(..).filter(|thread| all_gone || thread.is_finished()) {
            // What it does is caught.
            let _ = thread.join();
        }
    }

    fn cancel_queued(&self) {
        let queued = self.port.take_queued();
        if !queued.is_empty() {
            log::warn!(
                "{} pieces of offloaded work had not begun when the engine ended; they are dropped",
                queued.len()
            );
            self.cancelled.fetch_add(queued.len() as u64, Ordering::Relaxed);
            for work in queued {
                work.refuse(OffloadError::Cancelled);
            }
        }
    }

    pub(crate) fn counters(&self) -> PoolCounters {
        let port = self.port.counters();
        PoolCounters {
            queued: port.queued,
            running: port.running,
            blocked: port.blocked,
            done: self.crew.done.load(Ordering::Relaxed),
            panicked: self.crew.panicked.load(Ordering::Relaxed),
            refused: port.refused,
            cancelled: self.cancelled.load(Ordering::Relaxed),
            replaced: port.replaced,
        }
    }
}

impl Crew {
    /// True if all threads ended in time.
    fn wait_until_gone(&self, timeout: Duration) -> bool {
        let until = Instant::now().checked_add(timeout);
        let mut alive = lock(&self.alive);
        while *alive > 0 {
            // A time that no clock reaches is none.
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            alive = self.gone.wait_timeout(alive, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// A thread of the crew, from before its start to its end.
struct Alive(Arc<Crew>);

impl Alive {
    fn one_more(crew: &Arc<Crew>) -> Self {
        *lock(&crew.alive) += 1;
        Self(Arc::clone(crew))
    }

    fn work(&self, port: &CompletionPort<Packet>) {
        while let Ok(work) = port.wait(None) {
            // Telling the result may panic as well: what is dropped there is the user's.
            let in_order = catch_unwind(AssertUnwindSafe(|| work.run())).unwrap_or(false);
            self.0.panicked.fetch_add(u64::from(!in_order), Ordering::Relaxed);
            self.0.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        *lock(&self.0.alive) -= 1;
        self.0.gone.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Job<F>(F, Sender<Option<OffloadError>>);

    impl<F: FnOnce() + Send + 'static> Work for Job<F> {
        fn run(self: Box<Self>) -> bool {
            let ended = catch_unwind(AssertUnwindSafe(self.0));
            let _ = self.1.send(None);
            ended.is_ok()
        }

        fn refuse(self: Box<Self>, why: OffloadError) {
            self.1.send(Some(why)).unwrap();
        }
    }

    type Told = Receiver<Option<OffloadError>>;

    fn job(work: impl FnOnce() + Send + 'static) -> (Packet, Told) {
        let (tell, told) = channel();
        (Box::new(Job(work, tell)), told)
    }

    fn small(stop_timeout: Duration) -> LogicPool {
        let config = PoolConfig { concurrency: 1, threads: 1, queue_max: 2, stop_timeout };
        LogicPool::start(config).unwrap()
    }

    fn submit(pool: &LogicPool, work: impl FnOnce() + Send + 'static) -> Told {
        let (job, told) = job(work);
        assert!(pool.submit(job).is_ok());
        told
    }

    /// A pool whose only thread works until it is let go.
    fn busy(stop_timeout: Duration) -> (LogicPool, Sender<()>) {
        let pool = small(stop_timeout);
        let (go, gone) = channel::<()>();
        let (tell, told) = channel();
        submit(&pool, move || {
            tell.send(()).unwrap();
            let _ = gone.recv();
        });
        told.recv_timeout(PATIENCE).unwrap();
        (pool, go)
    }

    #[test]
    fn sizes_are_checked_and_have_defaults() {
        let config = PoolConfig::default();
        config.validate().unwrap();
        let resolved = config.resolved(4);
        assert_eq!((resolved.concurrency, resolved.threads), (4, 4 + RESERVE));
        let two = PoolConfig { threads: 2, ..config }.resolved(8);
        assert_eq!((two.concurrency, two.threads), (2, 2));
        for wrong in
            [PoolConfig { concurrency: 3, threads: 2, ..config }, PoolConfig { queue_max: 0, ..config }]
        {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_was_accepted_is_done_before_the_end() {
        let pool =
            LogicPool::start(PoolConfig { concurrency: 2, threads: 4, ..PoolConfig::default() }).unwrap();
        let told: Vec<_> = (0..200).map(|_| submit(&pool, || ())).collect();
        pool.stop(false);
        assert!(told.iter().all(|told| told.try_recv() == Ok(None)));
        assert_eq!((pool.counters().done, pool.counters().cancelled), (200, 0));
        let (late, told) = job(|| unreachable!("the pool has ended"));
        assert!(matches!(pool.submit(late), Err(PortError::Closed(_))));
        assert!(told.try_recv().is_err());
        pool.stop(true);
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let pool = small(PATIENCE);
        for _ in 0..5 {
            submit(&pool, || panic!("on purpose")).recv_timeout(PATIENCE).unwrap();
        }
        submit(&pool, || ()).recv_timeout(PATIENCE).unwrap();
        pool.stop(false);
        assert_eq!((pool.counters().done, pool.counters().panicked), (6, 5));
    }

    #[test]
    fn a_full_pool_refuses() {
        let (pool, go) = busy(PATIENCE);
        let (first, second) = (submit(&pool, || ()), submit(&pool, || ()));
        assert!(matches!(pool.submit(job(|| ()).0), Err(PortError::Full(_))));
        assert_eq!((pool.counters().queued, pool.counters().refused), (2, 1));
        drop(go);
        assert_eq!((first.recv_timeout(PATIENCE), second.recv_timeout(PATIENCE)), (Ok(None), Ok(None)));
        pool.stop(false);
    }

    #[test]
    fn an_abort_cancels_what_has_not_begun() {
        let (pool, go) = busy(PATIENCE);
        let queued = submit(&pool, || unreachable!("it was cancelled"));
        std::thread::scope(|scope| {
            scope.spawn(|| pool.stop(true));
            assert_eq!(queued.recv_timeout(PATIENCE), Ok(Some(OffloadError::Cancelled)));
            drop(go);
        });
        assert_eq!((pool.counters().done, pool.counters().cancelled), (1, 1));
    }

    #[test]
    fn who_does_not_end_in_time_is_left_behind() {
        let (pool, go) = busy(Duration::from_millis(1));
        let queued = submit(&pool, || unreachable!("it was cancelled"));
        pool.stop(false);
        assert_eq!(queued.try_recv(), Ok(Some(OffloadError::Cancelled)));
        assert_eq!(pool.counters().done, 0);
        drop(go);
    }
}
