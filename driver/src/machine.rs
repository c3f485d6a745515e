//! What there is to know and to set about the machine: limits, processors, the kernel's own switches.

use std::io;
#[cfg(windows)]
use std::time::Duration;

use crate::probe::DriverKind;

/// The limit on open files of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFiles {
    /// What holds now; `None` is unlimited.
    pub soft: Option<u64>,
    /// To what it may be raised without privilege.
    pub hard: Option<u64>,
}

/// The limit on open files.
#[cfg(unix)]
pub fn open_files() -> OpenFiles {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    OpenFiles { soft: limit.current, hard: limit.maximum }
}

/// The limit on open files: Windows has none but memory.
#[cfg(windows)]
pub fn open_files() -> OpenFiles {
    OpenFiles { soft: None, hard: None }
}

/// Raises the limit on open files as far as the system lets this process; gives what holds now. Servers do
/// this because the usual soft limit of 1,024 is one for programs that use `select`.
#[cfg(unix)]
pub fn raise_open_files() -> OpenFiles {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Where the system refuses (macOS, with an unlimited maximum), the soft limit stays as it is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    open_files()
}

/// Raises the limit on open files: Windows has none but memory.
#[cfg(windows)]
pub fn raise_open_files() -> OpenFiles {
    open_files()
}

/// Binds the calling thread to one processor.
///
/// # Errors
/// If the processor does not exist or is not among those allowed to the process, or the OS cannot bind.
#[cfg(target_os = "linux")]
pub fn pin_thread(processor: usize) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    if processor >= CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such processor"));
    }
    let before = sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set)?;
    BOUND.set(BOUND.get().or(Some(before)));
    Ok(())
}

#[cfg(target_os = "linux")]
thread_local! {
    /// Where the thread could run before it was bound to a processor.
    static BOUND: std::cell::Cell<Option<rustix::thread::CpuSet>> = const { std::cell::Cell::new(None) };
}

/// What a new thread is to run, so that it can run wherever the calling one could before it was
/// [bound](pin_thread): threads inherit a binding on Linux, and one that helps a shard is to be beside it, not in its place.
#[cfg(target_os = "linux")]
pub fn unbound<T>(run: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let anywhere = BOUND.get();
    move || {
        if let Some(anywhere) = anywhere {
            // At worst, it shares the processor.
            let _ = rustix::thread::sched_setaffinity(None, &anywhere);
        }
        run()
    }
}

/// What a new thread is to run, so that it can run anywhere: threads do not inherit a binding here.
#[cfg(not(target_os = "linux"))]
pub fn unbound<T>(run: impl FnOnce() -> T) -> impl FnOnce() -> T {
    run
}

/// Binds the calling thread to one processor, of the first 64.
///
/// # Errors
/// If the processor does not exist or is not among those allowed to the process.
#[cfg(windows)]
pub fn pin_thread(processor: usize) -> io::Result<()> {
    crate::iocp::system::pin_thread(processor)
}

/// Binds the calling thread to one processor: not offered by this OS.
///
/// # Errors
/// Always.
#[cfg(not(any(target_os = "linux", windows)))]
pub fn pin_thread(_processor: usize) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this OS does not bind threads to processors"))
}

/// Processors that this process may run on, in order: where the calling thread may, or might before it was bound.
#[cfg(target_os = "linux")]
pub fn processors() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    match BOUND.get().map_or_else(|| sched_getaffinity(None), Ok) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect(),
        Err(_) => (0..count()).collect(),
    }
}

/// Processors that this process may run on, in order.
#[cfg(windows)]
pub fn processors() -> Vec<usize> {
    crate::iocp::system::processors().unwrap_or_else(|| (0..count()).collect())
}

/// Processors that this process may run on, in order.
#[cfg(not(any(target_os = "linux", windows)))]
pub fn processors() -> Vec<usize> {
    (0..count()).collect()
}

fn count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Why [`DriverConfig::huge_pages`](crate::DriverConfig::huge_pages) would give none with this driver, and what to do;
/// `None` if it would.
pub fn huge_pages_missing(driver: DriverKind) -> Option<&'static str> {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok();
    huge_pages_missing_by(driver, setting.as_deref())
}

fn huge_pages_missing_by(driver: DriverKind, setting: Option<&str>) -> Option<&'static str> {
    match setting {
        _ if driver != DriverKind::IoUring => Some("only the io_uring driver asks for them"),
        None => Some("the kernel was built without them"),
        Some(setting) if setting.contains("[never]") => {
            Some("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        }
        Some(_) => None,
    }
}

/// Name and release of the operating system.
#[cfg(unix)]
pub fn system() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

/// Name, version and build of the operating system.
#[cfg(windows)]
pub fn system() -> String {
    crate::iocp::system::version()
}

/// The version of Wine, if this Windows is Wine's.
#[cfg(windows)]
pub fn wine() -> Option<String> {
    crate::iocp::system::wine()
}

/// How late a wait may end: Windows looks at time-outs once in a tick of its clock. `None` if it does not say.
#[cfg(windows)]
pub fn timer_tick() -> Option<Duration> {
    crate::iocp::system::tick()
}

/// Calls `handler` when Windows asks this program of the console to end, on a thread of its own. At Ctrl-C and
/// Ctrl-Break it is called with nothing.
///
/// When the console's window is closed, the user logs off, or the machine shuts down, nobody can ask twice, and
/// Windows leaves about five seconds. Therefore it is called twice then: at once, with the 3.5 s that pass until
/// the second call, and then with the last second. A program that comes to its end meanwhile ends as always;
/// Windows ends it only when this time is over.
///
/// # Errors
/// If the process has such a handler already, or Windows does not take it.
#[cfg(windows)]
pub fn on_console_end(handler: impl Fn(Option<Duration>) + Send + Sync + 'static) -> io::Result<()> {
    crate::iocp::console::on_end(handler)
}

#[cfg(windows)]
pub use crate::iocp::console::ConsoleKey;

/// Presses a key on the console of another process, for everyone on it: how a parent asks a program to end that
/// it started with a console of its own (`CREATE_NO_WINDOW`, `CREATE_NEW_CONSOLE`). For the time of the call this
/// process has no other console.
///
/// # Errors
/// If there is no such process, it has no console, or the system cannot send this.
#[cfg(windows)]
pub fn interrupt(process: u32, key: ConsoleKey) -> io::Result<()> {
    crate::iocp::console::interrupt(process, key)
}

/// What `kernel.io_uring_disabled` says: 0 lets everyone use io_uring, 1 the privileged, 2 nobody. `None` where
/// the kernel has no such switch.
#[cfg(target_os = "linux")]
pub fn io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn why_there_are_no_huge_pages_is_told() {
        let missing = |setting| huge_pages_missing_by(DriverKind::IoUring, setting);
        assert_eq!(missing(Some("always [madvise] never\n")), None);
        assert_eq!(missing(Some("[always] madvise never\n")), None);
        assert!(missing(Some("always madvise [never]\n")).unwrap().contains("echo madvise >"));
        assert!(missing(None).unwrap().contains("without them"));
        assert!(huge_pages_missing_by(DriverKind::Readiness, Some("[always] madvise never")).is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_is_bound_knows_where_others_may_run() {
        let on_its_own = || {
            let all = processors();
            let last = *all.last().unwrap();
            pin_thread(last).unwrap();
            pin_thread(last).unwrap();
            let mask = || {
                let set = rustix::thread::sched_getaffinity(None).unwrap();
                (0..rustix::thread::CpuSet::MAX_CPU).filter(|&number| set.is_set(number)).collect::<Vec<_>>()
            };
            assert_eq!((mask(), processors()), (vec![last], all.clone()));
            let (inherits, unbound) = (std::thread::spawn(mask), std::thread::spawn(unbound(mask)));
            assert_eq!((inherits.join().unwrap(), unbound.join().unwrap()), (vec![last], all));
        };
        std::thread::spawn(on_its_own).join().unwrap();
    }
}
