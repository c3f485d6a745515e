//! What one member is given, and the counts of it.

use std::ops::Range;

use anyport_core::{
    ChunkPool, Connection, Losses, Overflow, SendMarks, Sent, SessionId, SlabKey,
    planted::{Bug, planted},
};

use super::{Edition, edition::Message, registry::Shared};
use crate::{counters::Counters, handler::Handler, session::Slot};

/// Where the bytes of messages lie.
#[derive(Clone, Copy)]
pub(super) enum Bytes<'a> {
    /// In the log of a turn that goes on: they are copied.
    Log(&'a [u8]),
    /// In an edition: the member's queue refers to it.
    Edition(&'a Edition),
}

/// What a session lost of what a group, which may be gone, had queued for it.
pub(super) type LostOf = (SlabKey, u32, Losses);

/// What was queued for members, and what was not.
#[derive(Default)]
pub(super) struct Tally {
    queued: u64,
    refused: u64,
    /// What the members lost of the group's messages.
    lost: Losses,
    /// Of that, what had been queued.
    lost_in_queue: u64,
    /// What the members lost in all.
    losses: Losses,
}

impl Tally {
    pub(super) fn count(self, group: &Shared, shard: usize, counters: &mut Counters) {
        group.count(shard, self.queued.wrapping_sub(self.lost_in_queue), self.lost);
        counters.frames_sent += self.queued;
        counters.frames_refused += self.refused;
        counters.add_losses(self.losses);
    }
}

/// What it takes to give one member its messages.
pub(super) struct Delivery<'a> {
    pub(super) id: SessionId,
    /// Whose messages they are.
    pub(super) group: u32,
    pub(super) pool: &'a mut ChunkPool,
    pub(super) marks: &'a SendMarks,
    pub(super) tally: &'a mut Tally,
    pub(super) lost: &'a mut Vec<LostOf>,
}

impl Delivery<'_> {
    /// Queues messages for a member. Those that lie behind each other become one piece.
    #[inline]
    pub(super) fn deliver<'m, H: Handler>(
        self,
        slot: &mut Slot<H>,
        bytes: &Bytes<'_>,
        messages: impl Iterator<Item = &'m Message>,
    ) {
        let Self { id, group, pool, marks, tally, lost: lost_of } = self;
        let allowed = pool.allowance().saturating_sub(pool.bytes_out());
        let mut queue = |slot: &mut Slot<H>, range: Range<usize>, overflow: Overflow, count: u64| {
            match queue(&mut slot.connection, bytes, range, (overflow, group), marks, pool) {
                Sent::Queued => {
                    tally.queued += count;
                    slot.traffic.frames_sent += count;
                }
                Sent::High => {
                    tally.queued += count;
                    slot.traffic.frames_sent += count;
                    slot.pressure_rose = true;
                }
                // The connection counts what it loses; the difference is added below.
                Sent::Skipped => {}
                Sent::Refused(_) => tally.refused += count,
            }
        };
        let before = slot.connection.losses();
        // Who has nothing queued is sent all of it at once, and loses nothing that the budgets allow for.
        let mut room = match bytes {
            Bytes::Edition(_) if slot.connection.queued_bytes() == 0 => marks.high_water_bytes.min(allowed),
            _ => 0,
        };
        let (mut run, mut in_run, mut dead) = (0..0, 0, 0);
        for message in messages {
            let range = message.range();
            if message.except == Some(id) && !planted(Bug::ExceptIgnored) {
                continue;
            }
            if message.dead {
                dead += u64::from(slot.connection.count_conflated());
                continue;
            }
            if message.overflow != Overflow::Close && range.len() > room {
                if in_run > 0 {
                    queue(slot, std::mem::take(&mut run), Overflow::Close, std::mem::take(&mut in_run));
                }
                room = 0;
                queue(slot, range, message.overflow, 1);
                continue;
            }
            room = room.saturating_sub(range.len());
            if in_run > 0 && run.end == range.start {
                run.end = range.end;
            } else {
                if in_run > 0 {
                    queue(slot, std::mem::take(&mut run), Overflow::Close, std::mem::take(&mut in_run));
                }
                run = range;
            }
            in_run += 1;
        }
        if in_run > 0 {
            queue(slot, run, Overflow::Close, in_run);
        }
        let lost = slot.connection.losses().since(before);
        if lost.total() == 0 {
            return;
        }
        tally.losses.add(lost);
        tally.lost.add(Losses { skipped: lost.skipped, dropped: 0, conflated: dead });
        while let Some((of, lost)) = slot.connection.next_lost() {
            if of == group {
                tally.lost.add(lost);
                tally.lost_in_queue += lost.total();
            } else {
                lost_of.push((id.slot(), of, lost));
            }
        }
    }
}

#[inline]
fn queue(
    connection: &mut Connection,
    bytes: &Bytes<'_>,
    range: Range<usize>,
    (overflow, group): (Overflow, u32),
    marks: &SendMarks,
    pool: &mut ChunkPool,
) -> Sent {
    match (overflow, bytes) {
        (Overflow::Close, Bytes::Edition(edition)) => connection.send_part(edition, range, marks, pool),
        (Overflow::Close, Bytes::Log(log)) => {
            connection.send(range.len(), marks, pool, |out| out.extend_from_slice(&log[range]))
        }
        (_, Bytes::Edition(edition)) => {
            connection.send_loose(range.len(), overflow, group, marks, pool, |batch, pool| {
                batch.append_part(edition, range, pool);
            })
        }
        (_, Bytes::Log(log)) => {
            connection.send_loose(range.len(), overflow, group, marks, pool, |batch, pool| {
                batch.append(range.len(), pool, |out| out.extend_from_slice(&log[range]));
            })
        }
    }
}
