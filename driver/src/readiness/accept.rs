//! Accepting: until the backlog is empty, and again after every shortage.
//!
//! A listener must neither fall deaf nor spin when descriptors are short (bug classes R12, R13). Every way out of
//! [`Readiness::accept_turn`] leaves one of four states: the backlog was seen empty, and an edge tells when it
//! is not; the listener is in the queue; it rests, and a time or a closing socket takes it up again; or it is
//! closed.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyport_core::{Fault, FaultKind, SlabKey};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{self, SocketAddrAny},
};

use super::{
    Readiness,
    socket::{BackOff, Listener, Role, Socket},
};
use crate::{
    address::PeerAddress,
    types::{Accepted, Completion, Outcome, SocketKey, Token},
    unix::errno::fault,
};

/// Most connections that one listener accepts in one wait.
const ACCEPT_TURN: usize = 256;
/// The first rest after a shortage; each further one is twice as long.
const REST_MIN: Duration = Duration::from_millis(10);
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(500);

/// Accepts one connection: not blocking, closed on exec.
fn accept(listener: &OwnedFd) -> Result<(OwnedFd, Option<SocketAddrAny>), Errno> {
    #[cfg(not(target_vendor = "apple"))]
    return net::acceptfrom_with(listener, net::SocketFlags::NONBLOCK | net::SocketFlags::CLOEXEC);
    #[cfg(target_vendor = "apple")]
    {
        let (socket, peer) = net::acceptfrom(listener)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok((socket, peer))
    }
}

/// True if a connection waits in the backlog. The system says that descriptors are short before it looks.
fn backlog_waits(listener: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    !matches!(rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// True for faults of the one connection that was to be accepted: it is gone, and the next one may be well.
fn is_of_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::TIMEDOUT
            | Errno::PROTO
            | Errno::PERM
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::OPNOTSUPP
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
    )
}

fn listener_of(socket: &mut Socket) -> Option<&mut Listener> {
    match &mut socket.role {
        Role::Listener(listener) => Some(listener),
        Role::Stream | Role::Opened(_) | Role::Connecting(_) | Role::Failed => None,
    }
}

impl Readiness {
    pub(super) fn submit_accept(&mut self, token: Token, SocketKey(key): SocketKey) {
        match self.sockets.get_mut(key).and_then(listener_of) {
            Some(listener) if listener.accept.is_none() => {
                listener.accept = Some(token);
                self.enqueue_if_work(key);
            }
            _ => {
                let fault = Fault::of(FaultKind::InvalidSocket);
                self.finished.push(token, Outcome::AcceptEnded(fault));
            }
        }
    }

    /// Accepts what waits, within the turn's bound.
    pub(super) fn accept_turn(&mut self, key: SlabKey, out: &mut Vec<Completion>, limit: usize) {
        for _ in 0..ACCEPT_TURN {
            if out.len() >= limit {
                break;
            }
            let has_slot = self.has_slot();
            let Some(socket) = self.sockets.get_mut(key) else { return };
            let Role::Listener(listener) = &mut socket.role else { return };
            let Some(token) = listener.accept else { return };
            let accepted = if has_slot { accept(&socket.fd) } else { Err(Errno::MFILE) };
            match accepted {
                Ok((fd, peer)) => {
                    // Some systems give no address for a peer that is gone already.
                    let peer = if listener.file.is_some() {
                        PeerAddress::Unix
                    } else if let Some(Ok(peer)) = peer.map(SocketAddr::try_from) {
                        PeerAddress::Ip(peer)
                    } else {
                        continue;
                    };
                    match self.add_movable(fd) {
                        Ok(socket) => {
                            let accepted = Accepted { socket: SocketKey(socket), peer };
                            out.push(Completion { token, outcome: Outcome::Accepted(accepted) });
                        }
                        Err(fault) => return self.rest(key, fault, out),
                    }
                }
                Err(errno) if is_of_connection(errno) => {}
                Err(errno) if errno == Errno::AGAIN || !backlog_waits(&socket.fd) => {
                    socket.readable = false;
                    listener.back_off = None;
                    return;
                }
                Err(errno) => {
                    let fault = if has_slot { fault(errno) } else { Fault::of(FaultKind::NoDescriptors) };
                    return self.rest(key, fault, out);
                }
            }
        }
        self.enqueue_if_work(key);
    }

    /// Leaves the backlog alone for a while, and says so once in each period.
    fn rest(&mut self, key: SlabKey, fault: Fault, out: &mut Vec<Completion>) {
        let Some(listener) = self.sockets.get_mut(key).and_then(listener_of) else { return };
        let now = Instant::now();
        let delay = match listener.back_off {
            // A socket closed meanwhile and what it freed is used up again: the period goes on.
            Some(BackOff { until, .. }) if now < until => None,
            Some(BackOff { delay, .. }) => Some((delay * 2).min(REST_MAX)),
            None => Some(REST_MIN),
        };
        if let Some(delay) = delay {
            listener.back_off = Some(BackOff { delay, until: now + delay });
            if let Some(token) = listener.accept {
                out.push(Completion { token, outcome: Outcome::AcceptFaulted(fault) });
            }
        }
        listener.resting = true;
        self.resting.push(key);
    }

    /// Takes up listeners that rest: those whose time has come.
    pub(super) fn end_due_rests(&mut self) {
        if !self.resting.is_empty() {
            self.end_rests(Some(Instant::now()));
        }
    }

    /// Takes up all listeners that rest: a socket has closed (sentence 7).
    pub(super) fn end_all_rests(&mut self) {
        if !self.resting.is_empty() {
            self.end_rests(None);
        }
    }

    fn end_rests(&mut self, now: Option<Instant>) {
        for key in std::mem::take(&mut self.resting) {
            let Some(listener) = self.sockets.get_mut(key).and_then(listener_of) else { continue };
            let due = match (now, listener.back_off) {
                (Some(now), Some(back_off)) => back_off.until <= now,
                _ => true,
            };
            if due {
                listener.resting = false;
                self.enqueue_if_work(key);
            } else {
                self.resting.push(key);
            }
        }
    }

    /// When the first resting listener is to be taken up.
    pub(super) fn next_rest_end(&self) -> Option<Instant> {
        self.resting
            .iter()
            .filter_map(|&key| match &self.sockets.get(key)?.role {
                Role::Listener(listener) => listener.back_off.map(|back_off| back_off.until),
                Role::Stream | Role::Opened(_) | Role::Connecting(_) | Role::Failed => None,
            })
            .min()
    }
}
