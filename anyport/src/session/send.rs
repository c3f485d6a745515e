//! Sending to one session.

use std::sync::Arc;

use anyport_core::{ChunkPool, Encode, Frame, Losses, Overflow, SendMarks, Sent, SlabKey};

use super::{Local, Session, Slot};
use crate::{
    counters::Counters,
    handler::Handler,
    message::{SCRATCH_KEPT, not_carried},
};

impl<H: Handler> Session<'_, H> {
    /// Queues a message. It leaves at the end of the turn, together with all that was queued before.
    #[inline]
    pub fn send(&mut self, body: &[u8]) -> Sent {
        self.send_frame(Frame { kind: 0, body })
    }

    /// Queues a message of a kind, for codecs that carry one.
    #[inline]
    pub fn send_kind(&mut self, kind: u16, body: &[u8]) -> Sent {
        self.send_frame(Frame { kind, body })
    }

    /// Queues a frame.
    #[inline]
    pub fn send_frame(&mut self, frame: Frame) -> Sent {
        let Local { sessions, pool, limits, dirty, counters, groups, .. } = &mut *self.local;
        let slot = sessions.get_mut(self.key).expect("a session's view does not outlive its slot");
        if (slot.memberships.is_none() || groups.is_settled())
            && let Ok(size) = slot.encoder.encoded_size(&frame)
            && size <= pool.allowance().saturating_sub(pool.bytes_out())
        {
            let Slot { connection, encoder, .. } = slot;
            let sent = connection.send(size, &limits.send, pool, |out| encoder.encode(&frame, out));
            return Self::account(self.key, slot, dirty, counters, sent);
        }
        self.send_slowly(frame)
    }

    /// What was published to its groups comes before; budgets are asked for more; a frame that is too large is refused.
    #[cold]
    fn send_slowly(&mut self, frame: Frame) -> Sent {
        self.settle();
        let size = self.local.slot(self.key).encoder.encoded_size(&frame);
        if let Ok(size) = size {
            self.make_room(size);
        }
        self.queue(|slot, marks, pool| {
            let Slot { connection, encoder, .. } = slot;
            match size {
                Ok(size) => connection.send(size, marks, pool, |out| encoder.encode(&frame, out)),
                Err(error) => Sent::Refused(not_carried(error)),
            }
        })
    }

    /// Queues a frame that may be lost if the peer does not read fast enough, as `overflow` says. What is lost is
    /// counted: here ([`losses`](Self::losses)) and in the service's [`Counters`](crate::Counters).
    pub fn send_with(&mut self, frame: Frame, overflow: Overflow) -> Sent {
        if overflow == Overflow::Close {
            return self.send_frame(frame);
        }
        self.settle();
        let before = self.losses();
        let size = self.local.slot(self.key).encoder.encoded_size(&frame);
        // At nobody's cost: it may be lost.
        if let Ok(size) = size
            && self.local.slot(self.key).connection.is_open()
        {
            self.local.has_allowance(size);
        }
        let sent = self.queue(|slot, marks, pool| {
            let Slot { connection, encoder, .. } = slot;
            let size = match size {
                Ok(size) => size,
                Err(error) => return Sent::Refused(not_carried(error)),
            };
            connection.send_loose(size, overflow, 0, marks, pool, |batch, pool| {
                batch.append(size, pool, |out| encoder.encode(&frame, out));
            })
        });
        let lost = self.losses().since(before);
        if lost.total() > 0 {
            self.local.counters.add_losses(lost);
            self.local.count_lost_of(self.key);
        }
        sent
    }

    /// Queues one message whose body lies in parts.
    pub fn send_vectored(&mut self, kind: u16, parts: &[&[u8]]) -> Sent {
        // Taken out: the session is borrowed as a whole below.
        let mut body = std::mem::take(&mut self.local.scratch);
        for part in parts {
            body.extend_from_slice(part);
        }
        let sent = self.send_frame(Frame { kind, body: &body });
        body.clear();
        body.shrink_to(SCRATCH_KEPT);
        self.local.scratch = body;
        sent
    }

    /// Queues a frame, and [`on_sent`](Handler::on_sent) is called with `token` once the system has taken all of it;
    /// that is not to say that the peer has it. Not called if the frame is refused, or the session ends before.
    pub fn send_notify(&mut self, frame: Frame, token: u64) -> Sent {
        let sent = self.send_frame(frame);
        if !matches!(sent, Sent::Refused(_)) {
            self.local.slot(self.key).connection.notify(token);
        }
        sent
    }

    /// Queues bytes that are encoded already and may be shared with other sessions, without a copy.
    pub fn send_shared(&mut self, bytes: Arc<[u8]>) -> Sent {
        self.settle();
        self.make_room(bytes.len());
        self.queue(|slot, marks, pool| slot.connection.send_shared(bytes, marks, pool))
    }

    /// Says a last word, then [`drain`](Self::drain)s.
    pub fn drain_with(&mut self, frame: Frame) -> Sent {
        let sent = self.send_frame(frame);
        self.drain();
        sent
    }

    /// Messages that were for it and that it was not sent.
    pub fn losses(&mut self) -> Losses {
        self.local.slot(self.key).connection.losses()
    }

    /// Bytes queued that the system has not taken yet.
    pub fn queued_bytes(&mut self) -> usize {
        self.settle();
        self.local.slot(self.key).connection.queued_bytes()
    }

    /// What was published to its groups before comes before.
    #[inline]
    pub(super) fn settle(&mut self) {
        self.local.settle(self.key);
    }

    /// Sees to it that the budgets allow for `size` bytes more, if need be at the cost of who reads less. Nothing is sent
    /// to a session that is not open, and nobody pays for it.
    fn make_room(&mut self, size: usize) {
        let connection = &self.local.slot(self.key).connection;
        if connection.is_open() {
            let queued = connection.queued_bytes();
            self.local.ensure_allowance(size, queued + size);
        }
    }

    fn queue(&mut self, queue: impl FnOnce(&mut Slot<H>, &SendMarks, &mut ChunkPool) -> Sent) -> Sent {
        let Local { sessions, pool, limits, dirty, counters, .. } = &mut *self.local;
        let slot = sessions.get_mut(self.key).expect("a session's view does not outlive its slot");
        let sent = queue(slot, &limits.send, pool);
        Self::account(self.key, slot, dirty, counters, sent)
    }

    #[inline]
    fn account(
        key: SlabKey,
        slot: &mut Slot<H>,
        dirty: &mut Vec<SlabKey>,
        counters: &mut Counters,
        sent: Sent,
    ) -> Sent {
        match sent {
            Sent::Queued => {
                counters.frames_sent += 1;
                slot.traffic.frames_sent += 1;
            }
            Sent::High => {
                counters.frames_sent += 1;
                slot.traffic.frames_sent += 1;
                slot.pressure_rose = true;
            }
            Sent::Skipped => {}
            Sent::Refused(_) => counters.frames_refused += 1,
        }
        if !std::mem::replace(&mut slot.dirty, true) {
            dirty.push(key);
        }
        sent
    }
}
