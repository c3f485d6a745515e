//! The epoll loop of `bare_epoll`, sending what arrives on a connection to all others: one send for each.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::TcpListener,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use libc::{EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT};

use crate::sys::{self, Epoll};

const BUFFER_SIZE: usize = 64 * 1024;
const EVENTS: usize = 1024;

pub fn run(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    sys::set_nodelay(listener)?;
    let epoll = Epoll::new()?;
    epoll.control(EPOLL_CTL_ADD, listener.as_raw_fd(), EPOLLIN)?;
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut server = Server { epoll: &epoll, sessions: Vec::new(), unsent: HashMap::new() };
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    loop {
        for event in epoll.wait(&mut events)? {
            let socket = event.u64 as RawFd;
            if socket == listener.as_raw_fd() {
                server.accept(listener)?;
                continue;
            }
            if event.events & EPOLLOUT as u32 != 0 {
                server.flush(socket)?;
            }
            if event.events & !(EPOLLOUT as u32) != 0 {
                server.publish(socket, &mut buffer)?;
            }
        }
    }
}

struct Server<'a> {
    epoll: &'a Epoll,
    sessions: Vec<OwnedFd>,
    /// What full sockets did not take.
    unsent: HashMap<RawFd, Vec<u8>>,
}

impl Server<'_> {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            match sys::accept(listener) {
                Ok(session) => {
                    self.epoll.control(EPOLL_CTL_ADD, session.as_raw_fd(), EPOLLIN)?;
                    self.sessions.push(session);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    return Err(error);
                }
                // The client gave up before it was accepted.
                Err(_) => {}
            }
        }
    }

    /// Sends what has arrived to all others. The end of the stream, or an error, ends the session.
    fn publish(&mut self, publisher: RawFd, buffer: &mut [u8]) -> io::Result<()> {
        let count = match sys::recv(publisher, buffer) {
            Ok(count @ 1..) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Ok(0) | Err(_) => {
                self.close(publisher);
                return Ok(());
            }
        };
        let bytes = &buffer[..count];
        let mut broken = Vec::new();
        for member in self.sessions.iter().map(AsRawFd::as_raw_fd).filter(|member| *member != publisher) {
            // What arrives later stands behind what waits.
            if let Some(waiting) = self.unsent.get_mut(&member) {
                waiting.extend_from_slice(bytes);
                continue;
            }
            match send_some(member, bytes) {
                Ok(sent) if sent == count => {}
                Ok(sent) => {
                    self.unsent.insert(member, bytes[sent..].to_vec());
                    self.epoll.control(EPOLL_CTL_MOD, member, EPOLLIN | EPOLLOUT)?;
                }
                Err(_) => broken.push(member),
            }
        }
        broken.into_iter().for_each(|member| self.close(member));
        Ok(())
    }

    /// Sends what was left over.
    fn flush(&mut self, member: RawFd) -> io::Result<()> {
        let Some(rest) = self.unsent.get_mut(&member) else { return Ok(()) };
        match send_some(member, rest) {
            Ok(sent) => drop(rest.drain(..sent)),
            Err(_) => {
                self.close(member);
                return Ok(());
            }
        }
        if rest.is_empty() {
            self.unsent.remove(&member);
            self.epoll.control(EPOLL_CTL_MOD, member, EPOLLIN)?;
        }
        Ok(())
    }

    /// Closing the descriptor also takes it out of the epoll set.
    fn close(&mut self, socket: RawFd) {
        self.unsent.remove(&socket);
        self.sessions.retain(|session| session.as_raw_fd() != socket);
    }
}

/// Sends what the socket takes, which may be nothing.
fn send_some(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    match sys::send(socket, bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
