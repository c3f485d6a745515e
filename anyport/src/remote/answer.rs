//! What comes back from a question: to a thread that waits, or to a task that is woken.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::{
    on_shard,
    sync::{Condvar, Mutex, MutexGuard},
};

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum AskError {
    /// There is no such session, or it was gone before it could be asked.
    Gone,
    /// The shard's mailbox is full. Asking never waits for room.
    Full,
    /// The shard has ended, or there is none with this number.
    Ended,
    /// It did not come in time. It may still come.
    TimedOut,
    /// The question panicked, as a handler may; its session is closed.
    Panicked,
    /// Whoever waits is a shard, and the answer may have to come from it. Poll the answer as a future, look with
    /// `try_take`, or post a job that goes on with it.
    OnShard,
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the session has gone",
            Self::Full => "the shard's mailbox is full: ask again later, or raise mailbox_max_jobs",
            Self::Ended => "the shard has ended, or there is none with this number",
            Self::TimedOut => "no answer came in time: wait again, or drop the answer",
            Self::Panicked => "the question panicked on the shard: see the log",
            Self::OnShard => {
                "a shard's thread must not wait for an answer: use try_take, or the answer as a future"
            }
        })
    }
}

impl std::error::Error for AskError {}

enum State<T> {
    /// With whom to wake, if a task waits.
    Waiting(Option<Waker>),
    Told(Result<T, AskError>),
    Taken,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    told: Condvar,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that could panic runs while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, result: Result<T, AskError>) {
        let before = {
            let mut state = self.state();
            std::mem::replace(&mut *state, State::Told(result))
        };
        self.told.notify_all();
        // Outside of the lock: it is someone else's code.
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

/// An answer that is to come: wait for it, poll it as a future (no runtime is needed), look now and then, or drop it,
/// which takes nothing back: the question is still put.
#[must_use = "an answer that nobody waits for is lost; to run something without an answer, post it"]
pub struct Answer<T> {
    shared: Arc<Shared<T>>,
}

/// Who owes the answer. Dropped without one, it says why there is none.
pub(super) struct Teller<T> {
    shared: Option<Arc<Shared<T>>>,
    dropped: AskError,
}

/// A question's two ends; `dropped` is what is told if it is never put.
pub(super) fn answer<T>(dropped: AskError) -> (Teller<T>, Answer<T>) {
    let shared = Arc::new(Shared { state: Mutex::new(State::Waiting(None)), told: Condvar::new() });
    (Teller { shared: Some(Arc::clone(&shared)), dropped }, Answer { shared })
}

impl<T> Teller<T> {
    pub(super) fn tell(mut self, value: T) {
        if let Some(shared) = self.shared.take() {
            shared.tell(Ok(value));
        }
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            let panicked = std::thread::panicking();
            shared.tell(Err(if panicked { AskError::Panicked } else { self.dropped }));
        }
    }
}

impl<T> Answer<T> {
    /// It was not even posted.
    pub(super) fn refuse(&self, error: AskError) {
        self.shared.tell(Err(error));
    }

    /// Waits for it.
    ///
    /// # Errors
    /// As [`AskError`] says; [`OnShard`](AskError::OnShard) at once on a shard's thread, unless it is there already.
    pub fn wait(mut self) -> Result<T, AskError> {
        self.wait_until(None)
    }

    /// Waits for it, but not longer than `most`. After [`TimedOut`](AskError::TimedOut) it can be waited for again.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    ///
    /// # Panics
    /// If it was taken already.
    pub fn wait_timeout(&mut self, most: Duration) -> Result<T, AskError> {
        self.wait_until(Instant::now().checked_add(most))
    }

    /// It, if it is there. Never waits.
    ///
    /// # Panics
    /// If it was taken already.
    pub fn try_take(&mut self) -> Option<Result<T, AskError>> {
        Self::take(&mut self.shared.state())
    }

    fn take(state: &mut State<T>) -> Option<Result<T, AskError>> {
        match std::mem::replace(state, State::Taken) {
            State::Told(result) => Some(result),
            State::Taken => panic!("an answer is taken once"),
            waiting @ State::Waiting(_) => {
                *state = waiting;
                None
            }
        }
    }

    fn wait_until(&mut self, end: Option<Instant>) -> Result<T, AskError> {
        let mut state = self.shared.state();
        loop {
            if let Some(result) = Self::take(&mut state) {
                return result;
            }
            if on_shard::is_here() {
                return Err(AskError::OnShard);
            }
            state = match end {
                None => self.shared.told.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(AskError::TimedOut);
                    }
                    self.shared.told.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// # Panics
/// When it is polled after it was ready.
impl<T> Future for Answer<T> {
    type Output = Result<T, AskError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.state();
        if let Some(result) = Self::take(&mut state) {
            return Poll::Ready(result);
        }
        match &mut *state {
            State::Waiting(Some(waker)) => waker.clone_from(context.waker()),
            state => *state = State::Waiting(Some(context.waker().clone())),
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_there = matches!(*self.shared.state(), State::Told(_));
        f.debug_struct("Answer").field("is_there", &is_there).finish_non_exhaustive()
    }
}

/// What several shards answer, in the order of the shards. As [`Answer`].
#[derive(Debug)]
#[must_use = "answers that nobody waits for are lost; to run something without an answer, post it"]
pub struct Answers<T> {
    parts: Vec<Part<T>>,
}

#[derive(Debug)]
enum Part<T> {
    Waiting(Answer<Vec<T>>),
    There(Vec<T>),
}

impl<T> Answers<T> {
    pub(super) fn of(answers: impl Iterator<Item = Answer<Vec<T>>>) -> Self {
        Self { parts: answers.map(Part::Waiting).collect() }
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// The first one, as for [`Answer::wait`].
    pub fn wait(mut self) -> Result<Vec<T>, AskError> {
        self.wait_until(None)
    }

    /// Waits for all of them, but not longer than `most`. After [`TimedOut`](AskError::TimedOut) they can be waited
    /// for again.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    ///
    /// # Panics
    /// If they were taken already.
    pub fn wait_timeout(&mut self, most: Duration) -> Result<Vec<T>, AskError> {
        self.wait_until(Instant::now().checked_add(most))
    }

    /// All of them, if they are there. Never waits.
    ///
    /// # Panics
    /// If they were taken already.
    pub fn try_take(&mut self) -> Option<Result<Vec<T>, AskError>> {
        let got = self.each(|answer| answer.try_take().map_or(Err(None), |result| result.map_err(Some)));
        match got {
            Ok(all) => Some(Ok(all)),
            Err(Some(error)) => Some(Err(error)),
            Err(None) => None,
        }
    }

    fn wait_until(&mut self, end: Option<Instant>) -> Result<Vec<T>, AskError> {
        self.each(|answer| answer.wait_until(end))
    }

    /// Takes what is there, part by part; what was taken stays for the next time if one is not there.
    fn each<E>(
        &mut self,
        mut take: impl FnMut(&mut Answer<Vec<T>>) -> Result<Vec<T>, E>,
    ) -> Result<Vec<T>, E> {
        assert!(!self.parts.is_empty(), "answers are taken once");
        for part in &mut self.parts {
            if let Part::Waiting(answer) = part {
                *part = Part::There(take(answer)?);
            }
        }
        let there = |part| if let Part::There(values) = part { values } else { Vec::new() };
        Ok(self.parts.drain(..).flat_map(there).collect())
    }
}

/// # Panics
/// When they are polled after they were ready.
impl<T: Unpin> Future for Answers<T> {
    type Output = Result<Vec<T>, AskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let got = self.each(|answer| match Pin::new(answer).poll(context) {
            Poll::Ready(result) => result.map_err(Some),
            // Woken by this one; the others are looked at then.
            Poll::Pending => Err(None),
        });
        match got {
            Ok(all) => Poll::Ready(Ok(all)),
            Err(Some(error)) => Poll::Ready(Err(error)),
            Err(None) => Poll::Pending,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn answers_are_taken_once_as_an_answer_is() {
        let (teller, one) = answer(AskError::Ended);
        teller.tell(vec![1]);
        let mut answers = Answers::of(std::iter::once(one));
        assert_eq!(answers.try_take(), Some(Ok(vec![1])));
        let again = catch_unwind(AssertUnwindSafe(|| answers.try_take()));
        assert!(again.is_err(), "{again:?}");
        let (teller, mut one) = answer(AskError::Ended);
        teller.tell(1);
        assert_eq!(one.try_take(), Some(Ok(1)));
        assert!(catch_unwind(AssertUnwindSafe(|| one.try_take())).is_err());
    }
}
