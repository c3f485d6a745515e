//! The smallest epoll loop: level-triggered, one receive and one send for each readiness, one buffer for all.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::TcpListener,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use libc::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT};

use crate::sys::{self, Epoll};

const BUFFER_SIZE: usize = 64 * 1024;
const EVENTS: usize = 1024;

pub fn run(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    sys::set_nodelay(listener)?;
    let epoll = Epoll::new()?;
    let mut server = Server {
        epoll: &epoll,
        listener,
        accepting: false,
        sessions: Vec::new(),
        unsent: HashMap::new(),
        buffer: vec![0; BUFFER_SIZE],
    };
    server.listen()?;
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    loop {
        for event in epoll.wait(&mut events)? {
            let socket = event.u64 as RawFd;
            if socket == listener.as_raw_fd() {
                server.accept()?;
            } else {
                let served = if event.events & EPOLLOUT as u32 == 0 {
                    server.echo(socket)
                } else {
                    server.flush(socket)
                };
                if served.is_err() {
                    server.close(socket)?;
                }
            }
        }
    }
}

struct Server<'a> {
    epoll: &'a Epoll,
    listener: &'a TcpListener,
    /// Cleared while the process has no descriptor left.
    accepting: bool,
    /// By descriptor.
    sessions: Vec<Option<OwnedFd>>,
    /// What a full socket did not take. Such a session is not read before all of it is gone.
    unsent: HashMap<RawFd, Vec<u8>>,
    buffer: Vec<u8>,
}

impl Server<'_> {
    fn listen(&mut self) -> io::Result<()> {
        self.accepting = true;
        self.epoll.control(EPOLL_CTL_ADD, self.listener.as_raw_fd(), EPOLLIN)
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match sys::accept(self.listener) {
                Ok(session) => {
                    let socket = session.as_raw_fd();
                    self.epoll.control(EPOLL_CTL_ADD, socket, EPOLLIN)?;
                    let index = socket as usize;
                    if self.sessions.len() <= index {
                        self.sessions.resize_with(index + 1, || None);
                    }
                    self.sessions[index] = Some(session);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    // Level-triggered, the listener would report for ever; `close` takes it up again.
                    self.accepting = false;
                    return self.epoll.control(EPOLL_CTL_DEL, self.listener.as_raw_fd(), 0);
                }
                // The client gave up before it was accepted.
                Err(_) => {}
            }
        }
    }

    /// Returns what has arrived. An error, the end of the stream among them, ends the session.
    fn echo(&mut self, socket: RawFd) -> io::Result<()> {
        let count = match sys::recv(socket, &mut self.buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let sent = send_some(socket, &self.buffer[..count])?;
        if sent < count {
            self.unsent.insert(socket, self.buffer[sent..count].to_vec());
            self.epoll.control(EPOLL_CTL_MOD, socket, EPOLLOUT)?;
        }
        Ok(())
    }

    /// Sends what was left over; when all of it is gone, the session is read again.
    fn flush(&mut self, socket: RawFd) -> io::Result<()> {
        let Some(rest) = self.unsent.get_mut(&socket) else { return Ok(()) };
        let sent = send_some(socket, rest)?;
        rest.drain(..sent);
        if rest.is_empty() {
            self.unsent.remove(&socket);
            self.epoll.control(EPOLL_CTL_MOD, socket, EPOLLIN)?;
        }
        Ok(())
    }

    /// Closing the descriptor also takes it out of the epoll set.
    fn close(&mut self, socket: RawFd) -> io::Result<()> {
        self.unsent.remove(&socket);
        self.sessions[socket as usize] = None;
        if self.accepting { Ok(()) } else { self.listen() }
    }
}

/// Sends what the socket takes, which may be nothing.
fn send_some(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    match sys::send(socket, bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
