//! Work off the shard's thread: done by the pool, and told where it was asked for.

mod desk;
mod simulated;

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use anyport_core::{
    SlabKey,
    planted::{Bug, planted},
};

pub(crate) use desk::Desk;

use crate::{
    handler::Handler,
    logic_pool::Work,
    remote::{Job, Mail},
    session::{Local, Session, Shard},
};

/// Why there is no result.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OffloadError {
    /// As much work waits as may ([`PoolConfig::queue_max`](crate::PoolConfig::queue_max)); this was not begun.
    Full,
    /// It panicked, with these words.
    Panicked(String),
    /// The engine ended before it began.
    Cancelled,
    /// The system has no threads for the pool.
    NoThreads(String),
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str(
                "too much offloaded work waits: turn requests away for the moment, or give Engine::pool more \
                 threads or a larger queue_max",
            ),
            Self::Panicked(words) => write!(f, "the offloaded work panicked: {words}"),
            Self::Cancelled => f.write_str("the engine ended before the offloaded work began"),
            Self::NoThreads(why) => {
                write!(f, "the pool's threads cannot be started ({why}): ask for fewer with Engine::pool")
            }
        }
    }
}

impl std::error::Error for OffloadError {}

/// What a service on a shard knows of its offloaded work. Results come in by the shard's own mailbox; refusals, of which
/// peers can cause as many as they like, do not: nothing would bound them there (R38).
pub(crate) struct Offloads<H: Handler> {
    desk: Arc<Desk>,
    /// Work that the pool took and whose result this shard has not taken yet.
    under_way: usize,
    /// Who is to hear, in the next turn at the latest, that there is no result: all of them, so that a turn leaves no
    /// more than it was asked for itself.
    refused: VecDeque<Job<H>>,
    /// Sessions that wait for results; empty for a service that offloads nothing.
    pending: HashMap<SlabKey, Pending>,
}

#[derive(Clone, Copy, Default)]
struct Pending {
    results: u32,
    /// The engine drains, and the session does so when it has its results.
    drains: bool,
}

impl<H: Handler> Offloads<H> {
    pub(crate) fn new(desk: Arc<Desk>) -> Self {
        Self { desk, under_way: 0, refused: VecDeque::new(), pending: HashMap::new() }
    }

    /// Work that the pool took and whose result this shard has not taken yet.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// The shard takes a result out of its mailbox.
    pub(crate) fn take_result(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// True if somebody is to hear of a refusal in the next turn.
    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    pub(crate) fn take_refused(&mut self) -> VecDeque<Job<H>> {
        std::mem::take(&mut self.refused)
    }

    /// The session has gone; its results are nobody's.
    #[inline]
    pub(crate) fn forget(&mut self, key: SlabKey) {
        if !self.pending.is_empty() {
            self.pending.remove(&key);
        }
    }

    /// True if the session waits for results: it is to drain when it has them.
    pub(crate) fn put_off_drain(&mut self, key: SlabKey) -> bool {
        let pending = self.pending.get_mut(&key);
        pending.map(|pending| pending.drains = true).is_some()
    }

    /// True if the session was to drain when it had its results. It does not wait for them any longer.
    pub(crate) fn drain_is_due(&mut self, key: SlabKey) -> bool {
        self.pending.get_mut(&key).is_some_and(|pending| std::mem::take(&mut pending.drains))
    }

    fn expect_result(&mut self, key: SlabKey) {
        self.pending.entry(key).or_default().results += 1;
    }

    /// One result less to wait for. Gives what is still waited for if the session is to drain after it.
    fn result_told(&mut self, key: SlabKey) -> Option<u32> {
        let pending = self.pending.get_mut(&key)?;
        pending.results = pending.results.saturating_sub(1);
        let Pending { results, drains } = *pending;
        if results == 0 {
            self.pending.remove(&key);
        }
        drains.then_some(results)
    }

    fn submit<T, W, F>(&mut self, work: W, tell: F, mail: Mail<H>)
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
        F: FnOnce(Result<T, OffloadError>) -> Job<H> + Send + 'static,
    {
        match self.desk.submit(Box::new(Offloaded { work, tell, mail })) {
            Ok(()) => self.under_way += 1,
            Err((work, why)) => {
                let work: Box<dyn Any> = work;
                let Ok(work) = work.downcast::<Offloaded<H, W, F>>() else {
                    unreachable!("it comes back as it was handed in")
                };
                self.refused.push_back((work.tell)(Err(why)));
            }
        }
    }
}

impl<H: Handler> Local<H> {
    /// This shard's own mailbox.
    fn own_mail(&self) -> Mail<H> {
        self.mails[self.shard as usize].clone()
    }
}

impl<H: Handler> Session<'_, H> {
    /// Runs `work` on a thread of the engine's [pool](crate::PoolConfig), where it may block and take its time; then
    /// `then` on this session's own thread, between its other events, with what came of it.
    ///
    /// - `then` runs exactly once, never inside this call, and only if it is still the same session. If that has gone,
    ///   `work` is done all the same, and nothing else: what is saved in [`on_close`](Handler::on_close) is saved.
    /// - Results come as they are ready, in any order, and not in the order of the calls.
    /// - If too much waits already, `then` gets [`Full`](OffloadError::Full); if `work` panics,
    ///   [`Panicked`](OffloadError::Panicked), and nothing else happens to anybody.
    /// - Frames go on coming meanwhile. A session that can do nothing before it has the result
    ///   [pauses](Session::pause), and resumes in `then`.
    /// - While the engine drains, a session that waits for results is not read from any more, and drains when it has
    ///   them, so that it can still answer; the drain deadline counts from the beginning.
    ///
    /// On the simulator, `work` runs on the thread that steps, some µs to ms of virtual time later.
    pub fn offload<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut H, &mut Session<'_, H>, Result<T, OffloadError>) + Send + 'static,
    ) {
        let (id, mail) = (self.id(), self.local.own_mail());
        self.local.offloads.expect_result(self.key);
        let tell = move |result| {
            let told = move |handler: &mut H, session: &mut Session<'_, H>| {
                then(handler, session, result);
                session.result_told();
            };
            Job::SessionResult(id, Box::new(told))
        };
        self.local.offloads.submit(work, tell, mail);
    }

    /// After the handler has had a result, and may have offloaded more.
    fn result_told(&mut self) {
        match self.local.offloads.result_told(self.key) {
            Some(0) => self.drain(),
            // The handler may have resumed it: nothing is read while the others are waited for.
            Some(_) => self.pause(),
            None => {}
        }
    }
}

impl<H: Handler> Shard<'_, H> {
    /// As [`Session::offload`], for work that is no session's. If the shard has ended, `then` does not run: it does not
    /// wait for results that no session waits for.
    pub fn offload<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut H, &mut Shard<'_, H>, Result<T, OffloadError>) + Send + 'static,
    ) {
        let mail = self.local.own_mail();
        let tell = move |result| {
            let told = move |handler: &mut H, shard: &mut Shard<'_, H>| then(handler, shard, result);
            Job::ShardResult(Box::new(told))
        };
        self.local.offloads.submit(work, tell, mail);
    }
}

/// Work on its way, and whom to tell.
struct Offloaded<H: Handler, W, F> {
    work: W,
    /// Makes a job of the result.
    tell: F,
    mail: Mail<H>,
}

impl<H, T, W, F> Work for Offloaded<H, W, F>
where
    H: Handler,
    W: FnOnce() -> T + Send + 'static,
    F: FnOnce(Result<T, OffloadError>) -> Job<H> + Send + 'static,
{
    fn run(self: Box<Self>) -> bool {
        let Self { work, tell, mail } = *self;
        let result =
            catch_unwind(AssertUnwindSafe(work)).map_err(|cause| OffloadError::Panicked(words(cause)));
        let in_order = result.is_ok();
        if in_order || !planted(Bug::PanickedWorkNotTold) {
            // False if the shard has ended: there is nobody to tell.
            mail.send(tell(result));
        }
        in_order
    }

    fn refuse(self: Box<Self>, why: OffloadError) {
        self.mail.send((self.tell)(Err(why)));
    }
}

/// What a panic said.
fn words(cause: Box<dyn Any + Send>) -> String {
    match cause.downcast::<String>() {
        Ok(words) => *words,
        Err(cause) => cause.downcast_ref::<&str>().map_or_else(String::new, |words| (*words).to_owned()),
    }
}
