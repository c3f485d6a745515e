//! `anyport connect`: a connection for a person, or for a script.
//!
//! | file | what |
//! |---|---|
//! | `words` | messages as they are typed and printed |
//! | `line` | the session, and how the input's thread sends on it |
//! | `input` | what is sent: a pipe's lines, or a person's |
//! | `screen` | what is printed while somebody types |
//! | `modes` | the terminal as it was |

mod input;
mod line;
mod modes;
mod screen;
mod words;

use std::{
    io::{self, ErrorKind, IsTerminal},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use anyport::{
    Client, CloseReason, Codec, Engine, FaultKind, Limits, Lines, Raw, Remote, Running, SendMarks, SessionId,
    SizeKind,
};

use crate::{
    args::{CodecName, Connect},
    exit::{Failure, Outcome},
    framing::{length_prefix, zero_ended},
    output::remark,
    serve::{FRAME_SIZE_MAX, largest_frame},
};
use input::Terminal;
use line::{Event, Line, Shared, Sink, Speaker};
use modes::Modes;
use screen::Printer;

/// How long the last bytes may take to go out.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long the input may take to say that it has ended, too, when the peer has ended the connection.
const INPUT_GRACE: Duration = Duration::from_secs(1);
/// How long the terminal may take for what is left to be printed.
const PRINTER_GRACE: Duration = Duration::from_secs(1);
/// How often is looked whether the engine still runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Connects, sends the input, and prints what arrives.
pub(crate) fn run(options: &Connect) -> Outcome {
    let frame_size_max = options.frame_size_max.unwrap_or(FRAME_SIZE_MAX);
    match options.codec {
        CodecName::Raw => talk(options, &Raw),
        CodecName::Lines => talk(options, &Lines::new(frame_size_max as usize)),
        CodecName::Delimiter => talk(options, &zero_ended(frame_size_max as usize)),
        CodecName::LengthPrefix => talk(options, &length_prefix(frame_size_max as usize)?),
        CodecName::SizeKind => talk(options, &SizeKind::new(largest_frame(frame_size_max)?)),
    }
}

fn talk<C: Codec>(options: &Connect, codec: &C) -> Outcome {
    let (sender, events) = channel();
    let is_terminal = io::stdout().is_terminal();
    let terminal = if io::stdin().is_terminal() && is_terminal { Terminal::open() } else { None };
    let modes = Arc::new(if terminal.is_some() { Modes::of_now() } else { Modes::none() });
    let (terminal, sink) = match terminal {
        Some((terminal, screen, printer)) => (Some((terminal, printer)), Sink::Terminal(screen)),
        None => (None, Sink::Output { is_terminal }),
    };
    let shared = Arc::<Shared>::default();
    let mut engine = Engine::new()?.shards(1)?.driver(options.driver.into());
    let client =
        Client::to(&options.address, codec.clone()).limits(limits(codec.frame_size_max(), options.patience));
    let line = Mutex::new(Some(Line::new(options.codec, sink, Arc::clone(&shared), sender.clone())));
    // There is one shard, so that this is called once.
    let make = move |_| line.lock().unwrap_or_else(PoisonError::into_inner).take().expect("one shard");
    let remote = engine.add_client(client, make)?;
    end_on_signal(sender.clone(), Arc::clone(&modes))?;
    let mut running = engine.start()?;
    // It is disconnected when the thread that prints has ended.
    let (printing, printed) = channel();
    let talk = Talk { options, events, running: &running, remote, shared, modes: &modes, printing };
    let outcome = talk.run(terminal, sender);
    running.stopper().drain();
    let ended = running.wait();
    // The handler has gone, and its end of the screen with it: what is left is printed, if the terminal takes it.
    let _ = printed.recv_timeout(PRINTER_GRACE);
    modes.give_back();
    outcome.and(ended.map_err(Failure::from))
}

/// The first signal ends the session in order; a second does not wait for whatever stands still.
fn end_on_signal(events: Sender<Event>, modes: Arc<Modes>) -> Outcome {
    let again = AtomicBool::new(false);
    anyport::on_termination(move |_| {
        if again.swap(true, Ordering::Relaxed) {
            modes.give_back();
            // Without a word: standard error may be what stands still.
            std::process::exit(1);
        }
        // The main thread goes first only when it is done.
        let _ = events.send(Event::Interrupted);
    })?;
    Ok(())
}

/// Reading never pauses for what is not sent: a person wants to see the answers. Above the high mark the input waits, so
/// that the queue holds one message more at most. It is this program that loses its patience with the connect, a little
/// before the engine would.
fn limits(frame_size_max: usize, patience: Duration) -> Limits {
    let marks = SendMarks::default();
    let largest = if frame_size_max == usize::MAX { 16 << 20 } else { frame_size_max };
    Limits {
        drain_deadline: DRAIN_DEADLINE,
        send: SendMarks { queue_max_bytes: marks.queue_max_bytes + largest, ..marks },
        pause_reading_under_pressure: false,
        connect_timeout: patience + Duration::from_secs(1),
        ..Limits::default()
    }
}

struct Talk<'a, C: Codec> {
    options: &'a Connect,
    events: Receiver<Event>,
    running: &'a Running,
    remote: Remote<Line<C>>,
    shared: Arc<Shared>,
    modes: &'a Arc<Modes>,
    /// Held by the thread that prints.
    printing: Sender<()>,
}

impl<C: Codec> Talk<'_, C> {
    fn run(self, terminal: Option<(Terminal, Printer)>, sender: Sender<Event>) -> Outcome {
        let Some(session) = self.opened()? else { return Ok(()) };
        let speaker = Speaker { remote: self.remote.clone(), session, shared: Arc::clone(&self.shared) };
        let (codec, on_terminal) = (self.options.codec, terminal.is_some());
        if on_terminal {
            remark(format_args!("* connected to {}; Ctrl-D ends", self.options.address));
        }
        let terminal = match terminal {
            Some((terminal, printer)) => {
                self.print(printer, session, sender.clone())?;
                Some(terminal)
            }
            None => None,
        };
        let modes = Arc::clone(self.modes);
        let input = move || {
            let sent = match terminal {
                Some(mut terminal) => {
                    let sent = terminal.talk(codec, &speaker);
                    modes.forget();
                    sent
                }
                None if codec == CodecName::Raw => input::send_bytes(io::stdin().lock(), &speaker),
                None => input::send_all(codec, io::stdin().lock(), &speaker),
            };
            // The main thread goes first if the connection has ended.
            let _ = sender.send(Event::InputEnded(sent));
        };
        start_thread("input", input)?;
        let outcome = self.until_the_end(on_terminal);
        // Whatever the reason, the session ends in order if it still can.
        let _ = self.remote.post(session, |_, session| session.drain());
        outcome
    }

    /// Starts the thread that prints above the line that is being typed.
    fn print(&self, printer: Printer, session: SessionId, events: Sender<Event>) -> Outcome {
        let (remote, printing) = (self.remote.clone(), self.printing.clone());
        start_thread("printer", move || {
            // If the session has gone, there is nothing to read from any more.
            let relieved = || {
                let _ = remote.post(session, |line, session| line.relieved(session));
            };
            if let Err(error) = printer.run(relieved) {
                // The main thread goes first only when it is done.
                let _ = events.send(Event::OutputEnded(error));
            }
            drop(printing);
        })
    }

    /// Waits for the connection. `None` if a signal came first.
    fn opened(&self) -> Outcome<Option<SessionId>> {
        let (address, patience) = (&self.options.address, self.options.patience);
        match self.next(Some(Instant::now() + patience))? {
            Some(Event::Opened(session)) => Ok(Some(session)),
            Some(Event::Failed(failure)) if failure.fault.kind == FaultKind::Refused => {
                Err(Failure::Run(format!(
                    "no server answers at {address} (connection refused): is it running, and is this its address?"
                )))
            }
            Some(Event::Failed(failure)) => {
                Err(Failure::Run(format!("cannot connect to {address}: {}", failure.fault)))
            }
            None => Err(Failure::Run(format!(
                "{address} does not answer within {} s: is the address right, and does a firewall let it through?",
                patience.as_secs_f64()
            ))),
            Some(_) => Ok(None),
        }
    }

    /// The next event, until a time. `None` when it has come.
    fn next(&self, until: Option<Instant>) -> Outcome<Option<Event>> {
        loop {
            let now = Instant::now();
            let wait = until.map_or(LOOK_EVERY, |until| until.saturating_duration_since(now).min(LOOK_EVERY));
            match self.events.recv_timeout(wait) {
                Ok(event) => return Ok(Some(event)),
                Err(RecvTimeoutError::Timeout) if self.running.is_finished() => {
                    return Err(Failure::Run("the engine has stopped".to_owned()));
                }
                Err(_) if until.is_some_and(|until| Instant::now() >= until) => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// Waits until the connection has ended, or all is said and nothing comes any more.
    fn until_the_end(&self, on_terminal: bool) -> Outcome {
        let mut deadline = None;
        let mut seen = 0;
        loop {
            match self.next(deadline)? {
                Some(Event::Closed(reason)) => return self.closed(reason, deadline.is_some(), on_terminal),
                Some(Event::InputEnded(Ok(()))) if on_terminal => return Ok(()),
                Some(Event::InputEnded(Ok(()))) => seen = self.shared.arrived.load(Ordering::Relaxed),
                Some(Event::InputEnded(Err(text))) => return Err(Failure::Run(text)),
                Some(Event::OutputEnded(error)) => return Err(output_ended(&error)),
                Some(Event::Interrupted) => return Ok(()),
                Some(Event::Opened(_) | Event::Failed(_)) => continue,
                None => {
                    let arrived = self.shared.arrived.load(Ordering::Relaxed);
                    if std::mem::replace(&mut seen, arrived) == arrived {
                        return Ok(());
                    }
                }
            }
            // The input has ended: each look that finds something new is followed by another.
            deadline = Some(Instant::now() + self.options.wait);
        }
    }

    /// The connection has ended, and not by us.
    fn closed(&self, reason: CloseReason, input_ended: bool, on_terminal: bool) -> Outcome {
        let address = &self.options.address;
        let in_order = matches!(reason, CloseReason::PeerClosed | CloseReason::Drained);
        if on_terminal {
            // The handler has told it. It is the input's thread that gives the terminal back.
            while !matches!(self.next(None)?, Some(Event::InputEnded(_) | Event::Interrupted)) {}
        }
        if !in_order {
            return Err(Failure::Run(format!("the connection to {address} ended: {reason}")));
        }
        if !on_terminal {
            remark(format_args!("{address} ended the connection"));
        }
        if !input_ended && !on_terminal {
            // A line that comes now cannot be sent, and that is an error; silence is none.
            let until = Instant::now() + INPUT_GRACE;
            while let Some(event) = self.next(Some(until))? {
                match event {
                    Event::InputEnded(sent) => return sent.map_err(Failure::Run),
                    Event::Interrupted => break,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Outcome {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map(drop).map_err(|error| Failure::Run(format!("cannot start a thread: {error}")))
}

fn output_ended(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Run(format!("cannot write to standard output: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patience_with_a_connect_is_the_one_that_was_typed() {
        for patience in [Duration::from_millis(1), Duration::from_mins(5)] {
            assert!(limits(100, patience).connect_timeout > patience);
        }
    }
}
