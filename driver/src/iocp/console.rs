//! How Windows asks a program of the console to end: events that call a routine of the process, on a thread of
//! their own.
//!
//! Ctrl-C and Ctrl-Break are requests and no more. When the window is closed, the user logs off or the machine
//! shuts down, Windows ends the process as soon as the routine has returned, and after about five seconds in any
//! case: the routine must not return while the program is still ending in order. It need not be told of that
//! end: with the process, the thread of the routine goes too.
//!
//! Wine 8 can be made to send Ctrl-C and nothing else: it knows no Ctrl-Break, and no way was found to have it
//! close a console. The tests of the program send Ctrl-Break where the system can; the answers to the other
//! events are tested below, by calling what Windows would call.

use std::{
    io,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use windows_sys::{
    Win32::System::Console::{
        ATTACH_PARENT_PROCESS, AttachConsole, CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT,
        CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT, FreeConsole, GenerateConsoleCtrlEvent, GetStdHandle,
        STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetConsoleCtrlHandler, SetStdHandle,
    },
    core::BOOL,
};

/// What a program may take to end in order once Windows is closing it.
const DRAIN_TIME: Duration = Duration::from_millis(3_500);
/// What it may take after the second request. Both together are less than the five seconds of Windows.
const ABORT_TIME: Duration = Duration::from_secs(1);

const HANDLED: BOOL = 1;
const NOT_OURS: BOOL = 0;

type Handler = dyn Fn(Option<Duration>) + Send + Sync;

static HANDLER: OnceLock<Box<Handler>> = OnceLock::new();

/// See [`machine::on_console_end`](crate::machine::on_console_end).
pub(crate) fn on_end(handler: impl Fn(Option<Duration>) + Send + Sync + 'static) -> io::Result<()> {
    if HANDLER.set(Box::new(handler)).is_err() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the process has a handler already"));
    }
    register(routine)
}

fn register(routine: unsafe extern "system" fn(u32) -> BOOL) -> io::Result<()> {
    // SAFETY: the routine is a function of this program: it is there as long as the process.
    match unsafe { SetConsoleCtrlHandler(Some(routine), 1) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What Windows calls.
unsafe extern "system" fn routine(event: u32) -> BOOL {
    HANDLER.get().map_or(NOT_OURS, |handler| answer(event, handler, thread::sleep))
}

/// The answer to an event. Windows goes on as soon as it is given.
fn answer(event: u32, handler: &Handler, wait: impl Fn(Duration)) -> BOOL {
    match event {
        CTRL_C_EVENT | CTRL_BREAK_EVENT => handler(None),
        CTRL_CLOSE_EVENT | CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT => {
            handler(Some(DRAIN_TIME));
            wait(DRAIN_TIME);
            // Nobody can ask a second time, so we do.
            handler(Some(ABORT_TIME));
            wait(ABORT_TIME);
        }
        _ => return NOT_OURS,
    }
    HANDLED
}

/// See [`machine::interrupt`](crate::machine::interrupt).
pub(crate) fn interrupt(process: u32, key: ConsoleKey) -> io::Result<()> {
    /// Only one at a time: the console is the whole process's.
    static ATTACHED: Mutex<()> = Mutex::new(());
    static IGNORED: OnceLock<()> = OnceLock::new();

    let _one = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
    if IGNORED.set(()).is_ok() {
        register(ignore)?;
    }
    let streams = [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE];
    // SAFETY: the call takes a plain number.
    let handles = streams.map(|stream| unsafe { GetStdHandle(stream) });
    // SAFETY: the call changes nothing but the console of this process.
    let had_console = unsafe { FreeConsole() } != 0;
    let sent = send(process, key);
    // SAFETY: as above.
    unsafe { FreeConsole() };
    if had_console {
        // SAFETY: as above. If the parent has none any more, we stay without.
        unsafe { AttachConsole(ATTACH_PARENT_PROCESS) };
    }
    // The streams of the process were put on each console on the way.
    for (stream, handle) in streams.into_iter().zip(handles) {
        // SAFETY: the handle is what the process had there before.
        unsafe { SetStdHandle(stream, handle) };
    }
    sent
}

fn send(process: u32, key: ConsoleKey) -> io::Result<()> {
    let event = match key {
        ConsoleKey::CtrlC => CTRL_C_EVENT,
        ConsoleKey::CtrlBreak => CTRL_BREAK_EVENT,
    };
    // SAFETY: the call changes nothing but the console of this process.
    if unsafe { AttachConsole(process) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call takes plain numbers; group 0 is everyone on the console.
    if unsafe { GenerateConsoleCtrlEvent(event, 0) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whoever sends an event is on the console and gets it too.
unsafe extern "system" fn ignore(event: u32) -> BOOL {
    if matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT) { HANDLED } else { NOT_OURS }
}

/// Keys of the console that ask a program to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConsoleKey {
    /// Ctrl-C: programs may be started such that they do not get it.
    CtrlC,
    /// Ctrl-Break: everyone gets it.
    CtrlBreak,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Eq, Debug)]
    enum Step {
        Asked(Option<Duration>),
        Waited(Duration),
    }

    fn steps(event: u32) -> (BOOL, Vec<Step>) {
        static STEPS: Mutex<Vec<Step>> = Mutex::new(Vec::new());
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap();
        let note = |step| STEPS.lock().unwrap().push(step);
        let answer =
            answer(event, &move |within| note(Step::Asked(within)), move |time| note(Step::Waited(time)));
        (answer, std::mem::take(&mut *STEPS.lock().unwrap()))
    }

    #[test]
    fn a_key_asks_once_and_returns() {
        for event in [CTRL_C_EVENT, CTRL_BREAK_EVENT] {
            assert_eq!(steps(event), (HANDLED, vec![Step::Asked(None)]));
        }
    }

    #[test]
    fn a_close_asks_twice_and_returns_only_when_both_had_their_time() {
        for event in [CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT] {
            let expected = vec![
                Step::Asked(Some(DRAIN_TIME)),
                Step::Waited(DRAIN_TIME),
                Step::Asked(Some(ABORT_TIME)),
                Step::Waited(ABORT_TIME),
            ];
            assert_eq!(steps(event), (HANDLED, expected));
        }
        assert!(DRAIN_TIME + ABORT_TIME < Duration::from_secs(5), "Windows ends the process after 5 s");
    }

    #[test]
    fn other_events_are_left_to_others() {
        assert_eq!(steps(77), (NOT_OURS, vec![]));
    }
}
