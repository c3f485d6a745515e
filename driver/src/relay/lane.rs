//! One direction of a link: what one thread hands to another, a batch at a time.
//!
//! A queue that is swapped whole, under a lock that is held for the swap: it is taken once a batch, not once a
//! message, and the two queues of a lane go back and forth, so that nothing is allocated at steady state. It has no
//! atomics of its own; how a sleeper is woken is the [`Waker`]'s (the model L1).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::wake::Waker;

struct State<T> {
    items: VecDeque<T>,
    /// Set once the receiver has a driver that can be woken.
    waker: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

type Shared<T> = Arc<Mutex<State<T>>>;

/// Nobody panics while it holds the lock; if somebody did, what is in the queue is whole all the same.
fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, State<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end that gives.
pub(crate) struct Sender<T> {
    shared: Shared<T>,
    /// As in the shared state, once seen there: waking takes no lock.
    waker: Option<Waker>,
}

/// The end that takes.
pub(crate) struct Receiver<T> {
    shared: Shared<T>,
}

pub(crate) fn lane<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), waker: None, sender_gone: false, receiver_gone: false };
    let shared = Arc::new(Mutex::new(state));
    (Sender { shared: Arc::clone(&shared), waker: None }, Receiver { shared })
}

impl<T> Sender<T> {
    /// Hands over all of `batch`, which is empty afterwards, and wakes the other side. If that has gone, `batch` is
    /// as it was.
    pub(crate) fn push(&mut self, batch: &mut VecDeque<T>) {
        if batch.is_empty() {
            return;
        }
        {
            let mut state = lock(&self.shared);
            if state.receiver_gone {
                return;
            }
            if state.items.is_empty() {
                std::mem::swap(&mut state.items, batch);
            } else {
                state.items.append(batch);
            }
        }
        self.wake();
    }

    /// Wakes the other side. One that has not opened the lane yet looks into it when it does.
    pub(crate) fn wake(&mut self) {
        if self.waker.is_none() {
            self.waker.clone_from(&lock(&self.shared).waker);
        }
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = lock(&self.shared);
            state.sender_gone = true;
            state.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// From now on whoever pushes wakes `waker`. What was pushed before is there for the first look, which must be
    /// taken without sleeping.
    pub(crate) fn open(&self, waker: Waker) {
        lock(&self.shared).waker = Some(waker);
    }

    /// Takes all that is there, behind what is in `into` already. False once nothing more will come.
    pub(crate) fn take(&self, into: &mut VecDeque<T>) -> bool {
        let mut state = lock(&self.shared);
        if into.is_empty() {
            std::mem::swap(&mut state.items, into);
        } else {
            into.append(&mut state.items);
        }
        !state.sender_gone
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = {
            let mut state = lock(&self.shared);
            state.receiver_gone = true;
            std::mem::take(&mut state.items)
        };
        // Not under the lock: an item may hold anything, a lane's end included.
        drop(left);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn batch(items: &[u32]) -> VecDeque<u32> {
        items.iter().copied().collect()
    }

    #[test]
    fn batches_come_whole_and_in_order_and_the_queues_are_used_again() {
        let (mut sender, receiver) = lane();
        let mut out = VecDeque::with_capacity(64);
        let mut taken = VecDeque::new();
        for round in 0..10 {
            out.extend([round, round + 1]);
            sender.push(&mut out);
            out.push_back(round + 2);
            sender.push(&mut out);
            assert!(out.is_empty());
            assert!(receiver.take(&mut taken));
            assert_eq!(taken, [round, round + 1, round + 2]);
            taken.clear();
        }
        assert!(out.capacity() + taken.capacity() >= 64, "a queue was thrown away");
    }

    #[test]
    fn what_is_taken_goes_behind_what_is_there() {
        let (mut sender, receiver) = lane();
        sender.push(&mut batch(&[2, 3]));
        let mut taken = batch(&[1]);
        receiver.take(&mut taken);
        assert_eq!(taken, [1, 2, 3]);
    }

    #[test]
    fn a_push_wakes_and_so_does_the_end() {
        let calls = Arc::new(AtomicUsize::new(0));
        let waker = Waker::new({
            let calls = calls.clone();
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        });
        let (mut sender, receiver) = lane();
        sender.push(&mut batch(&[1]));
        receiver.open(waker.clone());
        assert!(waker.fall_asleep(), "what was pushed before it opened is for the first look");
        sender.push(&mut batch(&[2]));
        sender.push(&mut batch(&[]));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert!(waker.awake() && waker.fall_asleep());
        drop(sender);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        let mut taken = VecDeque::new();
        assert!(!receiver.take(&mut taken), "nothing more will come");
        assert_eq!(taken, [1, 2]);
    }

    #[test]
    fn what_nobody_takes_stays_with_who_pushed() {
        let (mut sender, receiver) = lane();
        let held = Arc::new(());
        sender.push(&mut VecDeque::from([Arc::clone(&held)]));
        drop(receiver);
        assert_eq!(Arc::strong_count(&held), 1);
        let mut more = VecDeque::from([Arc::clone(&held)]);
        sender.push(&mut more);
        assert_eq!(more.len(), 1);
    }
}
