//! Termination signals end engines.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::{
    error::{Error, Result},
    stop::Stop,
};

/// Engines that end on the next signal. One handler serves the whole process.
static STOPS: Mutex<Vec<Stop>> = Mutex::new(Vec::new());
static HANDLER: OnceLock<std::result::Result<(), String>> = OnceLock::new();

/// Ends the engine on SIGINT, SIGTERM and SIGHUP, or Ctrl-C and its kin on Windows: the first drains, a second
/// aborts.
pub(crate) fn stop_on_termination(stop: &Stop) -> Result<()> {
    STOPS.lock().unwrap_or_else(PoisonError::into_inner).push(stop.clone());
    let installed = HANDLER.get_or_init(|| {
        ctrlc::set_handler(|| {
            for stop in STOPS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                stop.signal();
            }
        })
        .map_err(|error| error.to_string())
    });
    installed.clone().map_err(Error::Signals)
}
