//! The main thread of a run: tells the shards what to do when, and hears what became of it.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use anyport::{Client, Codec, Engine, FaultKind, Remote, Running, Shard, Stop};

use super::{
    loader::{Event, Loader, Mistake, Shared, Wrong},
    plan::{Pace, Plan},
    progress::Progress,
    spawn::processors,
    tally::Tally,
};
use crate::{
    args::BenchEcho,
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
/// How long a shard may take to report when it is told to.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);

/// What became of a run.
pub(crate) struct Ended {
    pub(crate) tally: Tally,
    pub(crate) plan: Plan,
    pub(crate) driver: String,
    pub(crate) opened: u64,
    /// For how long it was measured.
    pub(crate) measured: Duration,
    /// A signal ended it.
    pub(crate) cut_short: bool,
}

/// A run under way.
struct Run<C: Codec> {
    shared: Arc<Shared>,
    remote: Remote<Loader<C>>,
    running: Running,
    events: Receiver<Event>,
    address: String,
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
pub(crate) fn run<C: Codec>(
    options: &BenchEcho,
    plan: Plan,
    codec: C,
    address: &str,
) -> Outcome<Option<Ended>> {
    let (sender, events) = channel();
    let shared = Arc::new(Shared::new(plan));
    let threads = plan.threads as usize;
    let mut engine = Engine::new()?
        .shards(threads)?
        .driver(options.common.driver.into())
        .driver_config(driver_config(plan.connections));
    if options.common.pin {
        engine = engine.pin_shards_from(processors().saturating_sub(threads));
    }
    let client = Client::to(address, codec).connections(plan.connections as usize).limits(plan.limits());
    let (of_shards, to_main) = (Arc::clone(&shared), sender.clone());
    let make = move |shard| Loader::new(shard, Arc::clone(&of_shards), to_main.clone());
    let remote = engine.add_client(client, make)?;
    interrupt_on_signal(sender, engine.stopper())?;
    let running = engine.start()?;
    let mut run = Run { shared, remote, running, events, address: address.to_owned() };
    let ended = run.carry_out();
    if ended.is_ok() {
        // Connections end in order, so that the server counts them as closed by us.
        run.running.stopper().drain();
        run.running.wait()?;
    }
    ended
}

/// The first request to end ends the run early, a second one at once.
fn interrupt_on_signal(sender: Sender<Event>, stop: Stop) -> Outcome {
    let handle = move |_within| {
        static AGAIN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        if AGAIN.swap(true, std::sync::atomic::Ordering::Relaxed) {
            stop.abort();
        }
        let _ = sender.send(Event::Interrupted);
    };
    Ok(anyport::on_termination(handle)?)
}

impl<C: Codec> Run<C> {
    fn carry_out(&mut self) -> Outcome<Option<Ended>> {
        if !self.connect()? {
            return Ok(None);
        }
        let plan = self.shared.plan;
        let start = Instant::now();
        self.each_shard(move |loader, shard| loader.begin(shard, start));
        let waited = self.watch(start, start + plan.end())?;
        let cut_short = matches!(waited, Waited::Interrupted);
        let now = !matches!(waited, Waited::Until);
        let end = Instant::now().saturating_duration_since(start).min(plan.end());
        self.each_shard(move |loader, shard| loader.finish(shard, now));
        let open = matches!(plan.pace, Pace::Open { .. });
        let tally = self.collect(match (cut_short, open) {
            (true, _) => [Duration::ZERO, INTERRUPTED_PATIENCE, REPORT_PATIENCE],
            (_, true) => [FLUSH_PATIENCE, FLUSH_PATIENCE, REPORT_PATIENCE],
            // A closed loop sends nothing after its end: there is nothing to flush.
            (_, false) => [Duration::ZERO, FLUSH_PATIENCE, REPORT_PATIENCE],
        })?;
        let (driver, _) = self.running.driver();
        Ok(Some(Ended {
            tally,
            plan,
            driver: driver.to_string(),
            opened: self.shared.opened(),
            measured: end.saturating_sub(plan.warmup),
            cut_short,
        }))
    }

    fn each_shard(&self, tell: impl Fn(&mut Loader<C>, &mut Shard<Loader<C>>) + Clone + Send + 'static) {
        for shard in 0..self.remote.shards() {
            let tell = tell.clone();
            // A shard that is gone is found by the next wait.
            self.remote.post_to_shard(shard, move |loader, shard| tell(loader, shard));
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
            Event::Wrong(wrong) => Err(Failure::Run(describe(&wrong))),
        }
    }

    /// Waits until every connection is open. False if a signal came first.
    fn connect(&mut self) -> Outcome<bool> {
        let deadline = Instant::now() + CONNECT_PATIENCE;
        let waited = loop {
            // Connections that end while others still open are counted, and reported at the end.
            match self.wait(deadline)? {
                Waited::AllLost | Waited::Finished(_) => {}
                waited => break waited,
            }
        };
        match waited {
            Waited::Interrupted => Ok(false),
            Waited::Attempted if self.shared.first_failure().is_none() => Ok(true),
            _ => Err(Failure::Run(self.not_connected())),
        }
    }

    fn not_connected(&self) -> String {
        let (address, opened, wanted) = (&self.address, self.shared.opened(), self.shared.plan.connections);
        let Some(failure) = self.shared.first_failure() else {
            return format!(
                "only {opened} of {} to {address} opened within {} s",
                count(wanted, "connection"),
                CONNECT_PATIENCE.as_secs()
            );
        };
        let advice = match failure.fault.kind {
            FaultKind::Refused if opened == 0 => {
                return format!(
                    "no server answers at {address} (connection refused): start one with `anyport serve echo` or \
                     add --spawn"
                );
            }
            FaultKind::NoDescriptors if cfg!(windows) => ": choose fewer --connections",
            FaultKind::NoDescriptors => ": `ulimit -n` shows the limit; or choose fewer --connections",
            FaultKind::AddressNotAvailable | FaultKind::AddressInUse => {
                ": no local port is left for this address; choose fewer --connections"
            }
            _ => "",
        };
        let fault = failure.fault;
        format!("only {opened} of {} to {address} opened: {fault}{advice}", count(wanted, "connection"))
    }

    /// Shows the progress until a time, a signal, or the loss of every connection.
    fn watch(&mut self, start: Instant, until: Instant) -> Outcome<Waited> {
        let mut progress = Progress::new(start);
        while self.shared.live() > 0 {
            match self.wait(until.min(progress.next()))? {
                Waited::Until if Instant::now() >= until => return Ok(Waited::Until),
                Waited::Interrupted => return Ok(Waited::Interrupted),
                _ => {}
            }
            progress.show(&self.shared);
        }
        Ok(Waited::AllLost)
    }

    /// Gathers every shard's tally. Those that take too long are told to stop sending, then to give up.
    fn collect(&mut self, patience: [Duration; 3]) -> Outcome<Tally> {
        let mut sum = Tally::new();
        let mut missing = self.remote.shards();
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
                0 => self.each_shard(Loader::stop_sending),
                _ => self.each_shard(Loader::give_up),
            }
        }
        Err(Failure::Run("the loader's threads do not answer; this is a bug".to_owned()))
    }
}

fn describe(wrong: &Wrong) -> String {
    let Wrong { shard, connection, message, what } = wrong;
    let what = match what {
        Mistake::Byte(difference) => format!(
            "byte {} of its stream: expected {:#04x}, seen {:#04x}",
            difference.position, difference.expected, difference.seen
        ),
        Mistake::Size { expected, seen } => format!("expected {expected} bytes, seen {seen}"),
        Mistake::Kind { expected, seen } => format!("expected kind {expected}, seen {seen}"),
        Mistake::Surplus { sent, seen } => format!("{seen} bytes came back of {sent} that were sent"),
    };
    format!(
        "what came back is not what was sent: connection {connection} of thread {shard}, message {message}, {what}"
    )
}
