//! When a listener posts accepts, for the drivers that post them ahead: io_uring and IOCP.
//!
//! A listener must neither fall deaf nor spin when something is short (bug classes R12, R13). It wants
//! [`ACCEPTS_POSTED`] accepts with the kernel. Each needs a place for the socket that it will bring; with fewer places
//! it posts fewer, and the rest when a socket closes. When the system itself is short, it posts again after a
//! while that doubles, or when a socket closes, and reports once for each while.

use std::time::{Duration, Instant};

use crate::types::Token;

/// Accepts that each listener keeps posted.
pub(crate) const ACCEPTS_POSTED: usize = 32;

/// The first and the longest while that accepts are held back after a shortage.
const REST_MIN: Duration = Duration::from_millis(10);
const REST_MAX: Duration = Duration::from_millis(500);

/// What a listener has posted, and when it posts more.
#[derive(Debug)]
pub(crate) struct Posting {
    /// The accept that was submitted, from then on.
    pub(crate) token: Option<Token>,
    /// Accepts that the kernel has.
    pub(crate) posted: usize,
    /// Accepting rests until then.
    retry_at: Option<Instant>,
    /// The next rest.
    rest: Duration,
    /// The shortage of places was reported.
    told: bool,
}

impl Posting {
    pub(crate) fn new() -> Self {
        Self { token: None, posted: 0, retry_at: None, rest: REST_MIN, told: false }
    }

    /// How many accepts to post.
    pub(crate) fn lacking(&self) -> usize {
        ACCEPTS_POSTED.saturating_sub(self.posted)
    }

    /// There is no place to post another. The token, if that is to be reported: nothing is posted at all, and it
    /// was not said yet.
    pub(crate) fn no_place(&mut self) -> Option<Token> {
        let report = self.posted == 0 && !std::mem::replace(&mut self.told, true);
        self.token.filter(|_| report)
    }

    /// The system was short of something: rest. The token, if that is to be reported: it does not rest yet.
    pub(crate) fn rest(&mut self, now: Instant) -> Option<Token> {
        if self.retry_at.is_some() {
            return None;
        }
        self.retry_at = Some(now + self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
        self.token
    }

    /// When to look again; `None` if it does not rest.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Ends the rest.
    pub(crate) fn take_up(&mut self) {
        self.retry_at = None;
    }

    /// A connection was accepted: the next shortage is a new one.
    pub(crate) fn went_well(&mut self) {
        self.rest = REST_MIN;
        self.told = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_places_is_reported_once_until_an_accept_goes_well() {
        let mut posting = Posting { token: Some(Token(7)), ..Posting::new() };
        posting.posted = 1;
        assert_eq!(posting.no_place(), None, "one is posted: accepting goes on");
        posting.posted = 0;
        assert_eq!(posting.no_place(), Some(Token(7)));
        assert_eq!(posting.no_place(), None);
        posting.went_well();
        assert_eq!(posting.no_place(), Some(Token(7)));
    }

    #[test]
    fn rests_double_are_bounded_and_reported_once_each() {
        let mut posting = Posting { token: Some(Token(7)), ..Posting::new() };
        let start = Instant::now();
        let mut rests = Vec::new();
        for _ in 0..8 {
            assert_eq!(posting.rest(start), Some(Token(7)));
            assert_eq!(posting.rest(start), None, "it rests already");
            rests.push((posting.rests_until().unwrap() - start).as_millis());
            posting.take_up();
        }
        assert_eq!(rests, [10, 20, 40, 80, 160, 320, 500, 500]);
        posting.went_well();
        posting.rest(start);
        assert_eq!(posting.rests_until(), Some(start + REST_MIN));
    }
}
