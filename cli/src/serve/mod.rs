//! `anyport serve`: a server, what it says when it starts, and what it counted when it ends.

mod chat;
mod echo;
mod fanout;

use std::{
    io::Read,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyport::{
    CloseReason, Counters, DriverConfig, Engine, Handler, Limits, Placement, Running, Server, Spread, Stop,
};

use crate::{
    args::{Hosting, Serve, SpreadName, typed},
    exit::{Failure, Outcome},
    output::{Table, count, grouped, remark, say},
};

/// Largest frame if nothing is asked for: all that the header of `size-kind` can say.
pub(crate) const FRAME_SIZE_MAX: u64 = 65_535;

/// Most sessions if nothing is asked for.
const SESSIONS_MAX: u64 = 100_000;

/// Runs a server until it is stopped.
pub(crate) fn serve(service: &Serve) -> Outcome {
    match service {
        Serve::Echo(options) => echo::echo(options),
        Serve::Chat(options) => chat::chat(options),
        Serve::Fanout(options) => fanout::fanout(options),
    }
}

/// What is served, and where.
struct Service<'a> {
    hosting: &'a Hosting,
    listen: &'a str,
    shards: Option<u64>,
    logic_threads: Option<u64>,
    spread: Spread,
    /// What it is, for the start lines.
    what: String,
    /// What to do with it, given its address.
    hints: &'a dyn Fn(&str) -> String,
}

impl Hosting {
    fn limits(&self) -> Limits {
        Limits {
            sessions_max: self.sessions_max.unwrap_or(SESSIONS_MAX) as usize,
            drain_deadline: self.drain_deadline,
            ..Limits::default()
        }
    }
}

fn run<H: Handler>(
    service: &Service,
    codec: H::Codec,
    limits: Limits,
    make: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Outcome {
    let hosting = service.hosting;
    let mut server = Server::bind(service.listen, codec).limits(limits);
    if let Some(threads) = service.logic_threads {
        server = server.placement(Placement::Logic { threads: threads as usize });
    }
    let mut engine = Engine::new()?
        .driver(hosting.common.driver.into())
        .driver_config(driver_config(hosting.sessions_max.unwrap_or(SESSIONS_MAX)))
        .spin(hosting.common.spin())?
        .huge_pages(hosting.common.huge_pages)
        .pin_shards(hosting.common.pin)
        .spread(service.spread);
    if let Some(shards) = service.shards {
        engine = engine.shards(shards as usize)?;
    }
    let engine = engine.serve(server, make)?;
    drain_on_signal(engine.stopper(), hosting.drain_deadline)?;
    if hosting.until_input_ends {
        drain_when_input_ends(engine.stopper())?;
    }
    let mut running = engine.start()?;
    check_room(hosting, &running)?;
    greet(service, &running)?;
    let ended = running.wait();
    say(summary(&running.counters(0)))?;
    Ok(ended?)
}

/// The largest frame of size and kind, if there can be one of this size.
pub(crate) fn largest_frame(size: u64) -> Outcome<u16> {
    let wrong =
        || Failure::Usage("--frame-size-max must be from 4 to 65535 with --codec size-kind".to_owned());
    u16::try_from(size).ok().filter(|size| *size >= 4).ok_or_else(wrong)
}

/// A driver that has room for every session, wherever the system puts it.
pub(crate) fn driver_config(sessions: u64) -> DriverConfig {
    let config = DriverConfig::default();
    let wanted = u32::try_from(sessions).unwrap_or(u32::MAX).saturating_add(16);
    DriverConfig { sockets_max: config.sockets_max.max(wanted), ..config }
}

/// More sessions than the system lets the process have were asked for: say so now, not when they come.
fn check_room(hosting: &Hosting, running: &Running) -> Outcome {
    let possible = running.sessions_possible();
    match hosting.sessions_max {
        // Both are of systems with such a limit: Windows has none.
        None if possible == 0 => Err(Failure::Run(
            "the limit on open files leaves no room for a session: raise it (ulimit -n)".to_owned(),
        )),
        Some(wanted) if wanted > possible => Err(Failure::Run(format!(
            "--sessions-max {wanted} is more than the {possible} sessions that the limit on open files allows with \
             driver {}: raise the limit (ulimit -n) or ask for fewer",
            running.driver().0,
        ))),
        _ => Ok(()),
    }
}

fn greet(service: &Service, running: &Running) -> Outcome {
    let (driver, reason) = running.driver();
    let address = running.address(0).map_or_else(|| service.listen.to_owned(), |address| address.to_string());
    let logic = match running.logic_threads() {
        0 => String::new(),
        threads => format!(", {}", count(threads as u64, "logic thread")),
    };
    say(format_args!(
        "driver {driver}: {reason}\n\
         {}{}, connections spread by {}, room for {} sessions\n\
         listening on {address} ({})\n\
         Ctrl-C drains and stops; a second one aborts\n\
         {}",
        count(running.shards() as u64, "shard"),
        logic,
        typed(SpreadName::from(running.spread())),
        grouped(running.sessions_possible().min(service.hosting.sessions_max.unwrap_or(SESSIONS_MAX))),
        service.what,
        (service.hints)(&address),
    ))
}

/// The first request to end drains, a second aborts. Installed before the start lines are printed: whoever has read
/// them may ask.
fn drain_on_signal(stop: Stop, deadline: Duration) -> Outcome {
    let again = AtomicBool::new(false);
    let handle = move |within: Option<Duration>| {
        if !again.swap(true, Ordering::Relaxed) {
            let (time, then) = match within {
                Some(within) => (within.min(deadline), "the system waits no longer"),
                None => (deadline, "once more aborts"),
            };
            remark(format_args!("draining, for at most {} s; {then}", time.as_secs_f64()));
        }
        stop.signal();
    };
    Ok(anyport::on_termination(handle)?)
}

fn drain_when_input_ends(stop: Stop) -> Outcome {
    let wait = move || {
        let mut input = std::io::stdin().lock();
        let mut bytes = [0; 512];
        // Whatever comes is thrown away; an error is an end, too.
        while input.read(&mut bytes).is_ok_and(|count| count > 0) {}
        stop.drain();
    };
    let thread = std::thread::Builder::new().name("input".to_owned()).spawn(wait);
    thread.map(drop).map_err(|error| Failure::Run(format!("cannot start a thread: {error}")))
}

fn summary(counters: &Counters) -> Table {
    let mut table = Table::default();
    table.row("sessions accepted", grouped(counters.accepted));
    for reason in CloseReason::ALL {
        let closed = counters.closed_for(reason);
        if closed > 0 {
            table.row(format!("  closed: {}", reason.name()), grouped(closed));
        }
    }
    if counters.accept_faults > 0 {
        table.row("accept faults", grouped(counters.accept_faults));
    }
    table.row("frames received", grouped(counters.frames_received));
    table.row("frames sent", grouped(counters.frames_sent));
    if counters.rate_pauses > 0 {
        table.row("reading paused by rates", grouped(counters.rate_pauses));
    }
    if counters.frames_refused > 0 {
        table.row("frames refused", grouped(counters.frames_refused));
    }
    table.row("bytes received", grouped(counters.bytes_received));
    table.row("bytes sent", grouped(counters.bytes_sent));
    table
}
