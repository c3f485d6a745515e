//! The driver of Windows: a completion port.

#![allow(unsafe_code, reason = "operations are shared with the kernel; each block says why it may")]

pub(crate) mod console;
pub(crate) mod system;

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    Driver, DriverConfig, DriverKind, ListenOptions, Waker,
    types::{Completion, Detached, Lease, Op, OpKind, SocketKey, Token},
};

/// The driver.
pub struct Iocp {}

impl Iocp {
    /// A driver without sockets.
    ///
    /// # Errors
    /// If the system gives no port.
    pub fn new(_config: DriverConfig) -> io::Result<Self> {
        todo!()
    }
}

impl Driver for Iocp {
    fn kind(&self) -> DriverKind {
        DriverKind::Iocp
    }
    fn listen(&mut self, _: SocketAddr, _: &ListenOptions) -> io::Result<(SocketKey, SocketAddr)> {
        todo!()
    }
    fn submit(&mut self, _: Token, _: Op) {
        todo!()
    }
    fn cancel(&mut self, _: SocketKey, _: OpKind) {
        todo!()
    }
    fn wait(&mut self, _: Option<Duration>, _: &mut Vec<Completion>) -> io::Result<()> {
        todo!()
    }
    fn bytes(&self, _: &Lease) -> &[u8] {
        todo!()
    }
    fn recycle(&mut self, _: Lease) {
        todo!()
    }
    fn waker(&self) -> Waker {
        todo!()
    }
    fn now(&self) -> Instant {
        Instant::now()
    }
    fn detach(&mut self, _: SocketKey) -> Option<Detached> {
        todo!()
    }
    fn adopt(&mut self, _: Detached) -> Option<SocketKey> {
        todo!()
    }
    fn sockets(&self) -> usize {
        todo!()
    }
    fn leases_out(&self) -> usize {
        todo!()
    }
}
