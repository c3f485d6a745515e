//! Safe functions over the few system calls that the standard library lacks.
#![allow(unsafe_code)]

use std::{
    fs,
    io::{self, ErrorKind},
    mem,
    net::TcpListener,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    time::Duration,
};

/// Turns the -1 of a system call into the error it stands for.
fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Binds the calling thread, and the threads it starts later, to one processor.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(ErrorKind::InvalidInput.into());
    }
    // SAFETY: a CPU set is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE, checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    checked(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// Makes the program start on one processor, and die when the calling thread dies: no server outlives the
/// comparison, however that ends.
pub fn tie_to_us(command: &mut Command, cpu: usize) {
    let parent = std::process::id();
    let before_exec = move || {
        // SAFETY: the operation takes one integer and no pointers.
        checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // We may have died before the line above took effect.
        if std::os::unix::process::parent_id() != parent {
            return Err(ErrorKind::NotFound.into());
        }
        pin_to(cpu)
    };
    // SAFETY: the closure makes three system calls and neither allocates nor locks, so that it may run
    // between fork and exec.
    unsafe { command.pre_exec(before_exec) };
}

/// Makes the program wait for its processor until nobody else wants it: when it is woken, it does not interrupt who wakes it.
pub fn let_us_go_first(command: &mut Command) {
    let before_exec = || {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is to a live, filled `sched_param`.
        checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &none) }).map(drop)
    };
    // SAFETY: the closure makes one system call and neither allocates nor locks, so that it may run between fork
    // and exec.
    unsafe { command.pre_exec(before_exec) };
}

/// Time that all threads of this process have spent on processors.
pub fn process_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live `timespec` that the call fills; every Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Raises the limit of open descriptors to its maximum; returns it.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit` that the call fills.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live, filled `rlimit`.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// What the scheduler has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scheduled {
    /// On a processor, in user and kernel code.
    pub cpu_ns: u64,
    /// Ready to run, while the processor ran something else.
    pub waited_ns: u64,
    /// How often it was put on a processor.
    pub turns: u64,
}

/// To put a thread that was woken on an idle processor takes up to so long. Nobody disturbs it.
const SWITCH_NS: u64 = 1000;

impl Scheduled {
    /// Of a `schedstat` file.
    pub fn of(file: impl AsRef<Path>) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(cpu_ns), Some(waited_ns), Some(turns)) => Ok(Self { cpu_ns, waited_ns, turns }),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// How long others had the processor while this could have run, since it was as `before`.
    pub fn disturbed_ns(self, before: Self) -> u64 {
        (self.waited_ns - before.waited_ns).saturating_sub((self.turns - before.turns) * SWITCH_NS)
    }

    /// Of all threads of a process.
    ///
    /// Exact while the threads sleep, as those of a server with nothing in flight do. A thread that ended takes
    /// its time with it; none of the servers ends threads while it serves.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let mut total = Self::default();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = Self::of(thread?.path().join("schedstat"))?;
            total.cpu_ns += thread.cpu_ns;
            total.waited_ns += thread.waited_ns;
            total.turns += thread.turns;
        }
        Ok(total)
    }

    /// Of the calling thread.
    pub fn of_this_thread() -> io::Result<Self> {
        Self::of("/proc/thread-self/schedstat")
    }
}

/// Memory of a process, from the kernel's own sum over its mappings.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub rss_bytes: u64,
    pub pss_bytes: u64,
}

/// Reads the memory of a process.
pub fn process_memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|word| word.parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::from(ErrorKind::InvalidData))
    };
    Ok(Memory { rss_bytes: field("Rss:")?, pss_bytes: field("Pss:")? })
}

/// Sets TCP_NODELAY; a listener hands it on to the sockets it accepts.
pub fn set_nodelay(socket: &impl AsRawFd) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: the pointer and the size describe `on`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_val(&on) as u32,
        )
    };
    checked(result).map(drop)
}

/// Lets so many connections wait until they are accepted: the standard library asks for 128. What comes beyond is dropped
/// by the kernel, and the client takes itself for connected all the same.
pub fn set_backlog(listener: &TcpListener, connections: u32) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    checked(unsafe { libc::listen(listener.as_raw_fd(), connections as i32) }).map(drop)
}

/// Accepts one connection; the new socket never blocks.
pub fn accept(listener: &impl AsRawFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null address pointers ask the call to store no address.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    let fd = checked(fd)?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Receives what is there, up to the length of the buffer; 0 is the end of the stream.
pub fn recv(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `buffer`, which outlives the call.
    let count = unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Sends as much as the socket takes at once.
pub fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
    let count = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// An epoll descriptor.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Applies `operation` (EPOLL_CTL_*) to a socket; `interest` are EPOLL* bits.
    pub fn control(&self, operation: i32, socket: RawFd, interest: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: socket as u64 };
        // SAFETY: `event` is live and filled; the kernel copies it.
        checked(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, socket, &mut event) }).map(drop)
    }

    /// Waits without limit; returns the part of `events` that the kernel filled.
    pub fn wait<'a>(&self, events: &'a mut [libc::epoll_event]) -> io::Result<&'a [libc::epoll_event]> {
        // SAFETY: the pointer and the count describe `events`, which outlives the call.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1) };
        match checked(count) {
            Ok(count) => Ok(&events[..count as usize]),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(&[]),
            Err(error) => Err(error),
        }
    }
}
