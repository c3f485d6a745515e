//! Completions that wait for the next wait, and which operations they keep busy.
//!
//! Most sends end inside submit, where nothing may be delivered (sentence 2). Until its completion is out, the
//! operation counts as in flight (sentence 11). Instead of visiting the socket again on delivery, the socket
//! keeps the queue's position of its completion, and compares: positions only grow.

use std::collections::VecDeque;

use crate::types::{Completion, Outcome, Token};

/// When a queued completion is out: compared with [`Queue::is_out`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ticket(u64);

/// Finished operations in the order in which they finished.
#[derive(Default)]
pub(crate) struct Queue {
    entries: VecDeque<Completion>,
    delivered: u64,
    /// Something is among them that somebody waits for.
    urgent: bool,
}

impl Queue {
    /// Queues a completion for the next wait.
    #[inline]
    pub(crate) fn push(&mut self, token: Token, outcome: Outcome) -> Ticket {
        self.urgent |= !outcome.is_lazy();
        self.entries.push_back(Completion { token, outcome });
        Ticket(self.delivered + self.entries.len() as u64)
    }

    /// True if nothing waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if something waits that is to be told at once: not only ends of lazy sends.
    #[inline]
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// True once the completion of that ticket was delivered. The default ticket always was.
    #[inline]
    pub(crate) fn is_out(&self, ticket: Ticket) -> bool {
        ticket.0 <= self.delivered
    }

    /// Moves completions to `out`, which takes `limit` in all.
    #[inline]
    pub(crate) fn deliver(&mut self, out: &mut Vec<Completion>, limit: usize) {
        if out.is_empty() && self.entries.len() <= limit {
            self.urgent = false;
            // All of them: the memory changes hands, and nothing is moved.
            self.delivered += self.entries.len() as u64;
            let empty = std::mem::take(out).into();
            *out = std::mem::replace(&mut self.entries, empty).into();
            return;
        }
        let count = self.entries.len().min(limit.saturating_sub(out.len()));
        out.extend(self.entries.drain(..count));
        self.delivered += count as u64;
        // What is left had no place: it has waited long enough.
        self.urgent = !self.entries.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_out_when_its_completion_is_and_not_before() {
        let mut queue = Queue::default();
        let mut out = Vec::new();
        assert!(queue.is_out(Ticket::default()));
        let tickets = [1, 2, 3].map(|n| queue.push(Token(n), Outcome::ShutDown(Ok(()))));
        queue.deliver(&mut out, 2);
        assert_eq!(tickets.map(|ticket| queue.is_out(ticket)), [true, true, false]);
        queue.deliver(&mut out, 2);
        assert_eq!(out.len(), 2);
        assert!(!queue.is_empty());
        queue.deliver(&mut out, 3);
        assert!(queue.is_out(tickets[2]) && queue.is_empty());
        assert_eq!(out.iter().map(|completion| completion.token.0).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
