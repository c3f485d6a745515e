//! The kernel's own counters of system calls: one tracepoint for each call, counted by `perf_event_open`.
//!
//! In counting mode nothing is recorded and nothing stops the process: an event costs some ten nanoseconds, where
//! `strace` costs microseconds, in which more messages pile up for each call and the figure changes.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    os::fd::FromRawFd,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Where the kernel lists its tracepoints: the folder of our time, and that of older systems.
const EVENTS: [&str; 2] = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];

/// The calls that are told apart: those that wait, move bytes, or make and end connections, on any of the servers.
/// The others are in the sum. To listen to all would take a minute: ending a tracepoint costs the kernel tens of ms.
const CALLS: [&str; 26] = [
    "accept4",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "futex",
    "io_uring_enter",
    "io_uring_register",
    "madvise",
    "mmap",
    "munmap",
    "poll",
    "ppoll",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sched_yield",
    "sendmsg",
    "sendto",
    "setsockopt",
    "write",
    "writev",
];

/// The tracepoints of this kernel.
pub struct Tracepoints {
    /// The identity of each system call's tracepoint, by the call's name.
    calls: BTreeMap<&'static str, u64>,
    /// The one that every system call passes.
    all: u64,
}

impl Tracepoints {
    /// Reads the kernel's list.
    ///
    /// # Errors
    /// If we may not, or the kernel has none; the message says what to do.
    pub fn read() -> Result<Self> {
        let events = EVENTS.into_iter().map(Path::new).find(|path| path.join("syscalls").is_dir());
        let events = events.ok_or_else(|| {
            let [first, _] = EVENTS;
            Error::Usage(format!(
                "no tracepoints of system calls in {first}: run as root; if the folder is empty, run \
                 `mount -t tracefs tracefs /sys/kernel/tracing` first; else the kernel was built without \
                 CONFIG_FTRACE_SYSCALLS, and cannot count"
            ))
        })?;
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path)?;
            text.trim().parse::<u64>().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
        };
        let list = || -> io::Result<Self> {
            let mut calls = BTreeMap::new();
            for name in CALLS {
                match read(events.join(format!("syscalls/sys_enter_{name}/id"))) {
                    Ok(id) => drop(calls.insert(name, id)),
                    // Not every kernel has every call.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Self { calls, all: read(events.join("raw_syscalls/sys_enter/id"))? })
        };
        list().map_err(|source| Error::System {
            what: "reading the kernel's tracepoints (run as root)",
            source,
        })
    }

    /// The names of the system calls that can be told apart.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.calls.keys().copied()
    }
}

/// Counters of some system calls in all threads of a process. They count from their making until they are dropped.
pub struct Counters {
    /// By name; each file is the counter of one thread.
    calls: Vec<(String, Vec<File>)>,
    all: Vec<File>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// The calls asked for, without those that never happened.
    pub by_name: BTreeMap<String, u64>,
    /// Every call, also those not asked for.
    pub total: u64,
}

impl Counters {
    /// Begins to count the calls named, and the sum of all calls, in the threads that the process has now and in
    /// those they start. Few names cost less: each is switched on and off whenever the process sleeps.
    pub fn start<'a>(
        tracepoints: &Tracepoints,
        pid: u32,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let start = || -> io::Result<Self> {
            let mut threads = Vec::new();
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let name = thread?.file_name();
                threads.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
            }
            let count = |id| threads.iter().map(|thread| open(id, *thread)).collect::<io::Result<Vec<_>>>();
            let known = names.into_iter().filter_map(|name| Some((name, *tracepoints.calls.get(name)?)));
            let calls =
                known.map(|(name, id)| Ok((name.to_owned(), count(id)?))).collect::<io::Result<Vec<_>>>()?;
            Ok(Self { calls, all: count(tracepoints.all)? })
        };
        start().map_err(|source| Error::System {
            what: "perf_event_open (run as root, and outside a container that forbids it)",
            source,
        })
    }

    /// What was counted until now. Exact while the process sleeps.
    pub fn read(&self) -> Result<Counts> {
        let read = || -> io::Result<Counts> {
            let mut by_name = BTreeMap::new();
            for (name, files) in &self.calls {
                let count = sum(files)?;
                if count > 0 {
                    by_name.insert(name.clone(), count);
                }
            }
            Ok(Counts { by_name, total: sum(&self.all)? })
        };
        read().map_err(|source| Error::System { what: "reading the counters", source })
    }
}

fn sum(files: &[File]) -> io::Result<u64> {
    let mut sum = 0;
    for mut file in files {
        let mut count = [0; 8];
        file.read_exact(&mut count)?;
        sum += u64::from_ne_bytes(count);
    }
    Ok(sum)
}

/// The first published form of the kernel's `struct perf_event_attr`: 64 bytes, which every kernel takes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

const _: () = assert!(size_of::<Attributes>() == 64);

const KIND_TRACEPOINT: u32 = 2;
/// Threads that a counted thread starts are counted with it.
const FLAG_INHERIT: u64 = 1 << 1;
const CLOSE_ON_EXEC: u64 = 1 << 3;
const ANY_CPU: i32 = -1;
const NO_GROUP: i32 = -1;

/// A counter of one tracepoint in one thread.
fn open(tracepoint: u64, thread: i32) -> io::Result<File> {
    let attributes = Attributes {
        kind: KIND_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: tracepoint,
        flags: FLAG_INHERIT,
        ..Attributes::default()
    };
    let call = libc::SYS_perf_event_open;
    // SAFETY: the pointer is to live, filled attributes that name their own size; the kernel copies them.
    let fd = unsafe { libc::syscall(call, &raw const attributes, thread, ANY_CPU, NO_GROUP, CLOSE_ON_EXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}
