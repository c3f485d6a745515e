//! Sessions live: bytes in, frames to the handler.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyport_core::{
    CloseReason, FrameError, SlabKey,
    connection::ReceiveEnd,
    planted::{Bug, planted},
};
use anyport_driver::{Driver, Lease};

use super::{ServiceShard, turns::Allowance};
use crate::{
    handler::Handler,
    session::{Local, Session},
};

/// Most bytes of a backlog given to the decoder at a time.
const BACKLOG_PIECE_BYTES: usize = 64 << 10;

impl<H: Handler> ServiceShard<H> {
    pub(super) fn received<D: Driver>(&mut self, io: &mut D, key: SlabKey, lease: Lease) {
        self.local.counters.bytes_received += lease.len() as u64;
        let tick = self.local.tick;
        let slot = self.local.slot(key);
        slot.received_at = tick;
        slot.traffic.bytes_received += lease.len() as u64;
        if slot.connection.handle_received() {
            if let (Some(watch), Some(rules)) = (&mut slot.watch, &self.rules) {
                watch.received(rules, tick, lease.len());
            }
            let bytes = io.bytes(&lease);
            let taken = if slot.connection.wants_frames() && slot.backlog.is_none() {
                self.deliver(key, bytes)
            } else {
                0
            };
            if !planted(Bug::BacklogDropped) {
                self.keep(key, &bytes[taken..]);
            }
            if self.rules.is_some() {
                self.local.mark(key);
            } else {
                self.local.mark_if_work(key);
            }
        }
        if !planted(Bug::BufferNotGivenBack) {
            io.recycle(lease);
        }
    }

    /// Gives the frames of a chunk to the handler while it takes them, and the session's turn allows. Gives how far it
    /// came; what is left has to be kept.
    #[inline]
    pub(super) fn deliver(&mut self, key: SlabKey, chunk: &[u8]) -> usize {
        let Self { handler, local, rules, frame_size_max, turn, .. } = self;
        let (tick, frame_size_max) = (local.tick, *frame_size_max);
        let slot = local.sessions.get_mut(key).expect("the caller has just seen it");
        let allowed = Allowance::of(slot, &local.limits, rules.as_deref(), *turn, tick);
        if allowed.frames == 0 || allowed.bytes == 0 {
            self.settle(key, true);
            return 0;
        }
        let whole = chunk;
        let chunk = &whole[..whole.len().min(allowed.bytes)];
        let mut frames_left = allowed.frames;
        let mut decoder = slot.decoder.take().expect("the decoder is out only during this call");
        let mut reassembly = std::mem::take(&mut slot.reassembly);
        let (mut at, mut frames) = (0, 0);
        let result = catch_unwind(AssertUnwindSafe(|| -> Result<(), FrameError> {
            // At the end of the chunk there is no further frame.
            while at < chunk.len()
                && let Some(frame) = reassembly.next(&mut decoder, chunk, &mut at, frame_size_max)?
            {
                local.counters.frames_received += 1;
                frames_left -= u32::from(!(frame.is_empty() && planted(Bug::EmptyFramesFree)));
                frames += 1;
                handler.on_frame(&mut Session { key, local: &mut *local }, frame);
                if !local.slot(key).connection.wants_frames() && !planted(Bug::FramesAfterEnd) {
                    return Ok(());
                }
                if frames_left == 0 && at < chunk.len() {
                    return Ok(());
                }
            }
            reassembly.finish(chunk, at, frame_size_max, &mut local.pool)?;
            at = chunk.len();
            Ok(())
        }));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let id = self.local.id(key);
                self.log_limit.note(self.local.now, || format!("session {id}: {error}"));
                self.local.slot(key).connection.close(CloseReason::from(error));
            }
            Err(_) => self.handler_panicked(key),
        }
        let slot = self.local.slot(key);
        slot.traffic.frames_received += frames;
        slot.decoder = Some(decoder);
        if !planted(Bug::CutFrameForgotten) {
            slot.reassembly = reassembly;
        }
        let spent_frames = allowed.frames - frames_left;
        if !planted(Bug::TurnWithoutEnd) {
            // Both are within an allowance, and so within its type.
            slot.spent.frames += spent_frames as u16;
            slot.spent.bytes += at as u32;
        }
        if self.rules.is_some() {
            self.spend_of_rules(key, spent_frames);
        }
        self.settle(key, at < whole.len());
        at
    }

    /// Keeps bytes that the handler does not take now.
    #[inline]
    pub(super) fn keep(&mut self, key: SlabKey, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let Local { sessions, backlogs, .. } = &mut self.local;
        let slot = sessions.get_mut(key).expect("bytes come only for a session that is there");
        if slot.connection.is_open() {
            slot.backlog.get_or_insert_with(|| Box::new(backlogs.take())).bytes.extend_from_slice(bytes);
        }
    }

    /// Gives what was kept to the handler, as far as it takes it now; in pieces as they come from a driver, so
    /// that what the handler answers to one of them stays within the limits of the send queue.
    pub(super) fn deliver_backlog(&mut self, key: SlabKey) {
        let slot = self.local.slot(key);
        if !slot.connection.wants_frames() {
            return;
        }
        let Some(mut backlog) = slot.backlog.take() else { return };
        while backlog.delivered < backlog.bytes.len() && self.local.slot(key).connection.wants_frames() {
            let end = backlog.bytes.len().min(backlog.delivered + BACKLOG_PIECE_BYTES);
            backlog.delivered += self.deliver(key, &backlog.bytes[backlog.delivered..end]);
        }
        let slot = self.local.slot(key);
        if backlog.delivered < backlog.bytes.len() && slot.connection.is_open() {
            slot.backlog = Some(backlog);
        } else {
            self.local.backlogs.give(*backlog);
            self.local.settle(key);
            self.local.slot(key).connection.handle_delivered();
        }
    }

    pub(super) fn receive_ended(&mut self, key: SlabKey, end: ReceiveEnd) {
        // What was published before is sent before it drains.
        self.local.settle(key);
        let slot = self.local.slot(key);
        slot.connection.handle_receive_ended(end, slot.backlog.is_some());
        self.local.mark(key);
    }
}
