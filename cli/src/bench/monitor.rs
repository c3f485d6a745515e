//! The main thread of a run: tells the loaders what to do when, and hears what became of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use anyport::{Client, Engine, FaultKind, Limits, Remote, Running, Shard, Stop};

use super::{
    crew::{Crew, Event, Loader, Seat, Station},
    progress::{Progress, Unit},
    spawn::processors,
    tally::Tally,
};
use crate::{
    args::Loading,
    exit::{Failure, Outcome},
    output::count,
    serve::driver_config,
};

/// How long all connections together may take to open.
const CONNECT_PATIENCE: Duration = Duration::from_mins(1);
/// How long after its end a run may go on sending what was due, and then wait for what is outstanding.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);
/// How long an interrupted run waits for what is outstanding.
const INTERRUPTED_PATIENCE: Duration = Duration::from_secs(1);
/// How long a loader may take to report when it is told to.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);

/// What a run is, but for what its loaders do.
pub(crate) struct Run<'a> {
    pub(crate) loading: &'a Loading,
    /// Addresses of the server, which share the connections.
    pub(crate) addresses: &'a [String],
    pub(crate) connections: u64,
    /// The loaders open their connections themselves, when it has begun.
    pub(crate) manual: bool,
    pub(crate) limits: Limits,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    /// What is due is still sent when the time is up.
    pub(crate) flush: bool,
    /// What the progress counts.
    pub(crate) unit: Unit,
    /// The command that starts a server for this load.
    pub(crate) server: &'static str,
    /// Is called when the time is up, before the loaders hear of it.
    pub(crate) time_is_up: &'a mut dyn FnMut(),
}

/// What became of a run.
pub(crate) struct Ended {
    pub(crate) tally: Tally,
    pub(crate) driver: String,
    /// The addresses of the server, as they are told.
    pub(crate) address: String,
    pub(crate) opened: u64,
    /// How long it took until all was ready.
    pub(crate) opening: Duration,
    /// For how long it was measured.
    pub(crate) measured: Duration,
    /// A signal ended it.
    pub(crate) cut_short: bool,
}

/// A run under way.
struct Conductor<'a, L: Loader> {
    run: Run<'a>,
    crew: Arc<Crew>,
    remotes: Vec<Remote<L>>,
    running: Running,
    events: Receiver<Event>,
}

/// Why waiting came to an end.
enum Waited {
    Until,
    Interrupted,
    AllLost,
    Attempted,
    Finished(Box<Tally>),
}

/// Opens the connections, runs, and gives the counts. `None` if a signal came before it began.
///
/// `make` makes a loader; there is one on each thread for each address.
pub(crate) fn run<L: Loader>(
    run: Run,
    codec: &L::Codec,
    make: impl Fn(Station) -> L + Clone + Send + Sync + 'static,
) -> Outcome<Option<Ended>> {
    run_knowing(run, codec, make, |_| {})
}

/// As [`run`]; before it starts, `know` is given the ways to the loaders, one for each address.
pub(crate) fn run_knowing<L: Loader>(
    run: Run,
    codec: &L::Codec,
    make: impl Fn(Station) -> L + Clone + Send + Sync + 'static,
    know: impl FnOnce(&[Remote<L>]),
) -> Outcome<Option<Ended>> {
    let (sender, events) = channel();
    let (threads, services) = (run.loading.threads as usize, run.addresses.len());
    let seats = threads * services;
    let crew = Arc::new(Crew::new(if run.manual { 0 } else { run.connections }, seats));
    let mut engine = Engine::new()?
        .shards(threads)?
        .driver(run.loading.common.driver.into())
        .driver_config(driver_config(run.connections))
        .spin(run.loading.common.spin())?
        .huge_pages(run.loading.common.huge_pages);
    if run.loading.common.pin {
        engine = engine.pin_shards_from(processors().saturating_sub(threads));
    }
    let mut remotes = Vec::new();
    for (service, address) in run.addresses.iter().enumerate() {
        let connections = share(run.connections as usize, service, services);
        let client = Client::to(address, codec.clone()).connections(connections).limits(run.limits);
        let client = if run.manual { client.manual() } else { client };
        let (crew, to_main, make) = (Arc::clone(&crew), sender.clone(), make.clone());
        let (warmup, end) = (run.warmup, run.warmup + run.duration);
        let make = move |shard| {
            let seat = Seat { index: service * threads + shard, count: seats };
            make(Station::new(seat, Arc::clone(&crew), to_main.clone(), warmup, end))
        };
        remotes.push(engine.add_client(client, make)?);
    }
    know(&remotes);
    interrupt_on_signal(sender, engine.stopper())?;
    let running = engine.start()?;
    let mut conductor = Conductor { run, crew, remotes, running, events };
    let ended = conductor.carry_out();
    if ended.is_ok() {
        // Connections end in order, so that the server counts them as closed by us.
        conductor.running.stopper().drain();
        conductor.running.wait()?;
    }
    ended
}

/// How many of `whole` are the part of one of `parts`.
fn share(whole: usize, part: usize, parts: usize) -> usize {
    whole / parts + usize::from(part < whole % parts)
}

/// The first request to end ends the run early, a second one at once.
fn interrupt_on_signal(sender: Sender<Event>, stop: Stop) -> Outcome {
    let handle = move |_within| {
        static AGAIN: AtomicBool = AtomicBool::new(false);
        if AGAIN.swap(true, Ordering::Relaxed) {
            stop.abort();
        }
        let _ = sender.send(Event::Interrupted);
    };
    Ok(anyport::on_termination(handle)?)
}

impl<L: Loader> Conductor<'_, L> {
    fn carry_out(&mut self) -> Outcome<Option<Ended>> {
        let opening = Instant::now();
        if !self.connect(opening)? {
            return Ok(None);
        }
        let opening = opening.elapsed();
        let start = Instant::now();
        let length = self.run.warmup + self.run.duration;
        self.each_loader(move |loader, shard| loader.begin(shard, start));
        let waited = self.watch(start, start + length)?;
        if self.crew.first_failure().is_some() {
            return Err(Failure::Run(self.not_connected()));
        }
        let cut_short = matches!(waited, Waited::Interrupted);
        let now = !matches!(waited, Waited::Until);
        let end = Instant::now().saturating_duration_since(start).min(length);
        (self.run.time_is_up)();
        self.each_loader(move |loader, shard| loader.finish(shard, now));
        let tally = self.collect(match (cut_short, self.run.flush) {
            (true, _) => [Duration::ZERO, INTERRUPTED_PATIENCE, REPORT_PATIENCE],
            (_, true) => [FLUSH_PATIENCE, FLUSH_PATIENCE, REPORT_PATIENCE],
            // A closed loop sends nothing after its end: there is nothing to flush.
            (_, false) => [Duration::ZERO, FLUSH_PATIENCE, REPORT_PATIENCE],
        })?;
        let (driver, _) = self.running.driver();
        Ok(Some(Ended {
            tally,
            driver: driver.to_string(),
            address: self.address(),
            opened: self.crew.opened(),
            opening,
            measured: end.saturating_sub(self.run.warmup),
            cut_short,
        }))
    }

    fn address(&self) -> String {
        self.run.addresses.join(", ")
    }

    fn each_loader(&self, tell: impl Fn(&mut L, &mut Shard<L>) + Clone + Send + 'static) {
        for remote in &self.remotes {
            for shard in 0..remote.shards() {
                let tell = tell.clone();
                // A shard that is gone is found by the next wait.
                let _ = remote.post_to_shard(shard, move |loader, shard| tell(loader, shard));
            }
        }
    }

    /// Waits for the next event, or until a time.
    fn wait(&mut self, until: Instant) -> Outcome<Waited> {
        let event = match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                if self.running.is_finished() {
                    self.running.wait()?;
                    return Err(Failure::Run("the loader was stopped".to_owned()));
                }
                return Ok(Waited::Until);
            }
        };
        match event {
            Event::Attempted => Ok(Waited::Attempted),
            Event::AllLost => Ok(Waited::AllLost),
            Event::Interrupted => Ok(Waited::Interrupted),
            Event::Finished(tally) => Ok(Waited::Finished(tally)),
            Event::Wrong(text) => Err(Failure::Run(text)),
        }
    }

    /// Waits until every connection is ready. False if a signal came first.
    fn connect(&mut self, start: Instant) -> Outcome<bool> {
        if self.run.manual {
            return Ok(true);
        }
        let deadline = start + CONNECT_PATIENCE;
        let mut progress = Progress::new(start, self.run.warmup, self.run.unit);
        let waited = loop {
            // Connections that end while others still open are counted, and reported at the end.
            match self.wait(deadline.min(progress.next()))? {
                Waited::Until if Instant::now() >= deadline => break Waited::Until,
                Waited::Until => progress.show_opening(&self.crew),
                Waited::AllLost | Waited::Finished(_) => {}
                waited => break waited,
            }
        };
        match waited {
            Waited::Interrupted => Ok(false),
            Waited::Attempted if self.crew.first_failure().is_none() => Ok(true),
            _ => Err(Failure::Run(self.not_connected())),
        }
    }

    fn not_connected(&self) -> String {
        let (address, opened, wanted) = (self.address(), self.crew.opened(), self.crew.wanted());
        let server = self.run.server;
        let Some(failure) = self.crew.first_failure() else {
            let ready = if opened == wanted { "were ready" } else { "opened" };
            return format!(
                "only {opened} of {} to {address} {ready} within {} s; does `{server}` run there?",
                count(wanted, "connection"),
                CONNECT_PATIENCE.as_secs()
            );
        };
        let advice = match failure.fault.kind {
            FaultKind::Refused if opened == 0 => {
                return format!(
                    "no server answers at {address} (connection refused): start one with `{server}` or add --spawn"
                );
            }
            FaultKind::NoDescriptors if cfg!(windows) => ": choose fewer --connections",
            FaultKind::NoDescriptors => ": `ulimit -n` shows the limit; or choose fewer --connections",
            FaultKind::AddressNotAvailable | FaultKind::AddressInUse => {
                ": no local port is left for this address; choose fewer --connections, or give several --addr of the \
                 server"
            }
            _ => "",
        };
        let fault = failure.fault;
        if self.run.manual {
            return format!(
                "after {opened} connections to {address}, one could not be opened: {fault}{advice}"
            );
        }
        format!("only {opened} of {} to {address} opened: {fault}{advice}", count(wanted, "connection"))
    }

    /// Shows the progress until a time, a signal, or the loss of every connection.
    fn watch(&mut self, start: Instant, until: Instant) -> Outcome<Waited> {
        let mut progress = Progress::new(start, self.run.warmup, self.run.unit);
        while !self.crew.is_over() {
            match self.wait(until.min(progress.next()))? {
                Waited::Until if Instant::now() >= until => return Ok(Waited::Until),
                Waited::Interrupted => return Ok(Waited::Interrupted),
                _ => {}
            }
            progress.show(&self.crew);
        }
        Ok(Waited::AllLost)
    }

    /// Gathers every loader's tally. Those that take too long are told to stop sending, then to give up.
    fn collect(&mut self, patience: [Duration; 3]) -> Outcome<Tally> {
        let mut sum = Tally::new();
        let mut missing: usize = self.remotes.iter().map(Remote::shards).sum();
        for (step, patience) in patience.into_iter().enumerate() {
            let deadline = Instant::now() + patience;
            while missing > 0 && Instant::now() < deadline {
                if let Waited::Finished(tally) = self.wait(deadline)? {
                    sum.add(&tally);
                    missing -= 1;
                }
            }
            if missing == 0 {
                return Ok(sum);
            }
            match step {
                0 => self.each_loader(L::stop_sending),
                _ => self.each_loader(L::give_up),
            }
        }
        Err(Failure::Run("the loader's threads do not answer; this is a bug".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn parts_add_up_to_the_whole() {
        for (whole, parts) in [(10, 3), (2, 5), (20_001, 2)] {
            let sum: usize = (0..parts).map(|part| share(whole, part, parts)).sum();
            assert_eq!(sum, whole, "{whole} in {parts}");
        }
    }
}
