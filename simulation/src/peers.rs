//! The other side of the connections: peers that write their streams, and read what they are sent, well or badly.

use std::{collections::HashMap, time::Duration};

use anyport::{Decode, Decoded, sim::SimPeer};

use crate::{
    handler::Shared,
    plan::Habit,
    stream::{Wire, WireStream, label_of},
};

/// One peer, from its connection to its end.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) socket: SimPeer,
    pub(crate) habit: Habit,
    /// What it writes.
    out: WireStream,
    /// Its direction has ended, by itself or by garbage: nothing more is written.
    pub(crate) write_over: bool,
    /// It wrote what is no frame.
    pub(crate) garbage: bool,
    /// It ended its direction.
    pub(crate) half_closed: bool,
    /// What it must be sent, once the first message has named it.
    incoming: Option<WireStream>,
    /// The session's id, as its first message said.
    pub(crate) session: Option<u64>,
    first: Vec<u8>,
    /// Bytes of the beginning of a frame, until it is known what frame that is.
    held: Vec<u8>,
    /// The last stray of each publisher.
    last_strays: HashMap<u16, u32>,
    /// When it last wrote something, as the shards have the time.
    pub(crate) wrote_at: Option<Duration>,
    /// Bytes read, those of strays left out.
    pub(crate) received: u64,
    buffer: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(socket: SimPeer, label: u64, habit: Habit) -> Self {
        Self {
            socket,
            habit,
            out: WireStream::new(label),
            write_over: false,
            garbage: false,
            half_closed: false,
            incoming: None,
            session: None,
            first: Vec::new(),
            held: Vec::new(),
            last_strays: HashMap::new(),
            wrote_at: None,
            received: 0,
            buffer: Vec::new(),
        }
    }

    /// Messages that it has written to their last byte.
    pub(crate) fn whole_messages(&self) -> u64 {
        self.out.whole()
    }

    /// Writes the next `bytes` of its stream, as far as there is room. Gives how many.
    pub(crate) fn write<C: Wire>(&mut self, shared: &Shared, codec: &C, bytes: usize) -> usize {
        if self.write_over {
            return 0;
        }
        let mut left = bytes;
        while left > 0 {
            let next = self.out.peek(&shared.messages, codec);
            let part = &next[..next.len().min(left)];
            let written = self.socket.write(part);
            let is_full = written < part.len();
            self.out.take(written);
            left -= written;
            if is_full {
                break;
            }
        }
        bytes - left
    }

    /// Writes to the end of a message.
    pub(crate) fn finish_message<C: Wire>(&mut self, shared: &Shared, codec: &C) -> bool {
        while !self.write_over && self.out.is_inside() {
            let len = self.out.peek(&shared.messages, codec).len();
            if self.write(shared, codec, len) < len {
                return false;
            }
        }
        true
    }

    /// Writes what is no frame, at the end of a message. True if any of it was written.
    pub(crate) fn write_garbage<C: Wire>(&mut self, shared: &Shared, codec: &C, too_large: bool) -> bool {
        let Some(garbage) = codec.garbage(too_large) else { return false };
        if self.write_over || !self.finish_message(shared, codec) {
            return false;
        }
        self.write_over = true;
        let written = self.socket.write(&garbage);
        // A part of it may be a cut frame, and no fault yet.
        self.garbage = written == garbage.len();
        written > 0
    }

    /// Ends its direction.
    pub(crate) fn half_close(&mut self) {
        self.write_over = true;
        self.half_closed = true;
        self.socket.shutdown_write();
    }

    /// Reads as its habit is, and compares.
    ///
    /// # Errors
    /// If something else came than was sent.
    pub(crate) fn read<C: Wire>(&mut self, shared: &Shared, codec: &C) -> Result<(), String> {
        self.buffer.clear();
        match self.habit {
            Habit::Eager => self.socket.read(&mut self.buffer),
            Habit::Dribbling => self.socket.read_at_most(3, &mut self.buffer),
            Habit::Dead => 0,
        };
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.incoming.is_none() {
            self.first.extend_from_slice(&self.buffer);
            // The header of a frame comes first, where there is one.
            let Some(label) = self.first.get(C::HEADER..).and_then(label_of) else {
                let enough = self.first.len() >= C::HEADER + 16;
                return if enough {
                    Err("the first message to the peer names no session".to_owned())
                } else {
                    Ok(())
                };
            };
            self.session = Some(label);
            self.incoming = Some(WireStream::new(label));
            self.held = std::mem::take(&mut self.first);
        } else {
            self.held.extend_from_slice(&self.buffer);
        }
        self.take_held(shared, codec)
    }

    /// Bytes that came and are not taken yet.
    pub(crate) fn is_inside_frame(&self) -> bool {
        !self.held.is_empty()
    }

    fn take_held<C: Wire>(&mut self, shared: &Shared, codec: &C) -> Result<(), String> {
        let address = self.socket.local_address();
        let incoming = self.incoming.as_mut().expect("it is named before");
        let session = self.session.expect("it is named before");
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            if !incoming.is_inside() {
                match C::is_stray(rest) {
                    None => break,
                    Some(false) => {}
                    Some(true) => {
                        let decoded = codec.split().0.decode(rest);
                        let Ok(Decoded::Frame { body, consumed, .. }) = decoded else { break };
                        let Some((publisher, number)) = shared.messages.read_stray(&rest[body]) else {
                            return Err(format!("peer {address} was sent a message that nobody published"));
                        };
                        let last = self.last_strays.insert(publisher, number);
                        if last.is_some_and(|last| last >= number) {
                            return Err(format!(
                                "peer {address} got message {number} of publisher {publisher:04x} after {last:?}"
                            ));
                        }
                        shared.ledger().stray_arrived(session, publisher, number, incoming.whole())?;
                        at += consumed;
                        continue;
                    }
                }
            }
            let count = incoming.peek(&shared.messages, codec).len().min(rest.len());
            incoming.expect(&shared.messages, codec, &rest[..count]).map_err(|differs| {
                let place = self.received + differs as u64;
                format!("byte {place} that peer {address} was sent is not what the handler sent")
            })?;
            self.received += count as u64;
            at += count;
            if C::FRAMED && !incoming.is_inside() {
                shared.ledger().own_arrived(session, incoming.whole())?;
            }
        }
        self.held.drain(..at);
        Ok(())
    }
}
