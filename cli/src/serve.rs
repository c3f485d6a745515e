//! `anyport serve`: a server, what it says when it starts, and what it counted when it ends.

use std::{
    io::Read,
    marker::PhantomData,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyport::{
    CloseReason, Codec, Counters, DriverConfig, Engine, Frame, Handler, Limits, Lines, Raw, Running,
    SendMarks, Server, Session, SizeKind, Stop,
};

use crate::{
    args::{CodecName, ServeEcho, SpreadName, typed},
    exit::{Failure, Outcome},
    output::{Table, count, grouped, remark, say},
};

/// Largest frame if nothing is asked for: all that the header of `size-kind` can say.
pub(crate) const FRAME_SIZE_MAX: u64 = 65_535;

/// Most sessions if nothing is asked for.
const SESSIONS_MAX: u64 = 100_000;

/// Runs an echo server until it is stopped.
pub(crate) fn echo(options: &ServeEcho) -> Outcome {
    let frame_size_max = options.frame_size_max.unwrap_or(FRAME_SIZE_MAX) as usize;
    match options.codec {
        CodecName::Raw if options.frame_size_max.is_some() => {
            let text = "--frame-size-max means nothing to --codec raw: choose lines or size-kind";
            Err(Failure::Usage(text.to_owned()))
        }
        CodecName::Raw => run(options, Raw),
        CodecName::Lines => run(options, Lines::new(frame_size_max)),
        CodecName::SizeKind => run(options, SizeKind::new(largest_frame(frame_size_max as u64)?)),
    }
}

/// The largest frame of size and kind, if there can be one of this size.
pub(crate) fn largest_frame(size: u64) -> Outcome<u16> {
    let wrong =
        || Failure::Usage("--frame-size-max must be from 4 to 65535 with --codec size-kind".to_owned());
    u16::try_from(size).ok().filter(|size| *size >= 4).ok_or_else(wrong)
}

/// Sends every frame back, with its kind.
struct Echo<C>(PhantomData<C>);

impl<C: Codec> Handler for Echo<C> {
    type State = ();
    type Codec = C;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send_frame(frame);
    }
}

fn run<C: Codec>(options: &ServeEcho, codec: C) -> Outcome {
    let limits = limits(options, codec.frame_size_max());
    let server = Server::bind(&options.listen, codec).limits(limits);
    let mut engine = Engine::new()?
        .driver(options.common.driver.into())
        .driver_config(driver_config(options.sessions_max.unwrap_or(SESSIONS_MAX)))
        .pin_shards(options.common.pin)
        .spread(options.spread.into());
    if let Some(shards) = options.shards {
        engine = engine.shards(shards as usize)?;
    }
    let engine = engine.serve(server, |_shard| Echo::<C>(PhantomData))?;
    drain_on_signal(engine.stopper(), options.drain_deadline)?;
    if options.until_input_ends {
        drain_when_input_ends(engine.stopper())?;
    }
    let mut running = engine.start()?;
    check_room(options, &running)?;
    greet(options, &running)?;
    let ended = running.wait();
    say(summary(&running.counters(0)))?;
    Ok(ended?)
}

fn limits(options: &ServeEcho, frame_size_max: usize) -> Limits {
    let marks = SendMarks::default();
    // Reading stops above the high mark, so the queue holds at most that and one frame more: a peer that asks
    // faster than it reads is slowed down and never closed for it. Raw frames are no larger than what one
    // receive delivers.
    let largest = if frame_size_max == usize::MAX { 0 } else { frame_size_max };
    Limits {
        sessions_max: options.sessions_max.unwrap_or(SESSIONS_MAX) as usize,
        idle_timeout: options.idle_timeout,
        drain_deadline: options.drain_deadline,
        send: SendMarks { queue_max_bytes: marks.queue_max_bytes + largest, ..marks },
        ..Limits::default()
    }
}

/// A driver that has room for every session, wherever the system puts it.
pub(crate) fn driver_config(sessions: u64) -> DriverConfig {
    let config = DriverConfig::default();
    let wanted = u32::try_from(sessions).unwrap_or(u32::MAX).saturating_add(16);
    DriverConfig { sockets_max: config.sockets_max.max(wanted), ..config }
}

/// More sessions than the system lets the process have were asked for: say so now, not when they come.
fn check_room(options: &ServeEcho, running: &Running) -> Outcome {
    let possible = running.sessions_possible();
    match options.sessions_max {
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

fn greet(options: &ServeEcho, running: &Running) -> Outcome {
    let (driver, reason) = running.driver();
    let address = running.address(0).map_or_else(|| options.listen.clone(), |address| address.to_string());
    let codec = typed(options.codec);
    let load = match options.codec {
        CodecName::Raw => String::new(),
        _ => format!(" --codec {codec}"),
    };
    say(format_args!(
        "driver {driver}: {reason}\n\
         {}, connections spread by {}, room for {} sessions\n\
         listening on {address} (echo, {codec})\n\
         Ctrl-C drains and stops; a second one aborts\n\
         load it with: anyport bench echo --addr {address}{load}",
        count(running.shards() as u64, "shard"),
        typed(SpreadName::from(running.spread())),
        grouped(running.sessions_possible().min(options.sessions_max.unwrap_or(SESSIONS_MAX))),
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
    if counters.frames_refused > 0 {
        table.row("frames refused", grouped(counters.frames_refused));
    }
    table.row("bytes received", grouped(counters.bytes_received));
    table.row("bytes sent", grouped(counters.bytes_sent));
    table
}
