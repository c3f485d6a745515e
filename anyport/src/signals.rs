//! Requests to end end engines.

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use crate::{
    error::{Error, Result},
    stop::Stop,
};

/// Engines that end on the next request. One handler serves the whole process.
static STOPS: Mutex<Vec<Stop>> = Mutex::new(Vec::new());
static HANDLER: OnceLock<std::result::Result<(), String>> = OnceLock::new();

/// An engine that ends on the next request, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Registered(Stop);

impl Drop for Registered {
    fn drop(&mut self) {
        stops().retain(|stop| !stop.is(&self.0));
    }
}

fn stops() -> MutexGuard<'static, Vec<Stop>> {
    STOPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the engine when the process is asked to end: the first request drains, a second aborts.
pub(crate) fn stop_on_termination(stop: &Stop) -> Result<Registered> {
    stops().push(stop.clone());
    let registered = Registered(stop.clone());
    let installed = HANDLER.get_or_init(|| {
        install(|_| {
            for stop in stops().iter() {
                stop.signal();
            }
        })
    });
    installed.clone().map_err(Error::Signals)?;
    Ok(registered)
}

/// Calls `handler` each time the process is asked to end, on a thread of its own: at SIGINT, SIGTERM and SIGHUP, or
/// at Ctrl-C and Ctrl-Break on Windows. Call [`Stop::signal`] in it. [`Engine::run`](crate::Engine::run) has such
/// a handler itself; this is for programs that use [`Engine::start`](crate::Engine::start).
///
/// When the console's window is closed, the user logs off, or the machine shuts down, Windows ends the process
/// within about five seconds, and nobody can ask twice. The handler is called twice then: at once, and 3.5 s later.
/// Each time it is told how long the system will wait, so that a drain may be no longer than that; `None` is as
/// long as you like. A process that has ended its work by then just ends. One that was started at the head of a
/// group of its own gets no Ctrl-C there, but Ctrl-Break.
///
/// # Errors
/// If the process already has a handler, or the system does not take it.
pub fn on_termination(handler: impl Fn(Option<Duration>) + Send + Sync + 'static) -> Result<()> {
    install(handler).map_err(Error::Signals)
}

#[cfg(unix)]
fn install(handler: impl Fn(Option<Duration>) + Send + 'static) -> std::result::Result<(), String> {
    ctrlc::set_handler(move || handler(None)).map_err(|error| error.to_string())
}

#[cfg(windows)]
fn install(handler: impl Fn(Option<Duration>) + Send + Sync + 'static) -> std::result::Result<(), String> {
    anyport_driver::machine::on_console_end(handler).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_has_ended_is_not_held() {
        let (first, second) = (Stop::default(), Stop::default());
        let is_there = |wanted: &Stop| stops().iter().any(|stop| stop.is(wanted));
        let registered = stop_on_termination(&first).unwrap();
        let other = stop_on_termination(&second).unwrap();
        assert!(is_there(&first) && is_there(&second));
        drop(registered);
        assert!(!is_there(&first) && is_there(&second));
        drop(other);
        assert!(!is_there(&second));
    }
}
