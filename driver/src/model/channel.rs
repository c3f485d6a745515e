//! [`std::sync::mpsc::channel`], reduced to what it promises: each message is received once, those of one sender in
//! order, by someone who has then seen what its sender did before; what is still in it when the receiver goes is
//! dropped then, and later messages come back to their senders.
//!
//! It promises no more than that, on purpose. A receiver that finds nothing knows nothing: a message may have been put
//! in already by a thread that it has not heard from. loom's own channel tells the receiver at once, has no end of a
//! receiver, and would hide what is looked for here.

use std::sync::{
    Arc, Mutex, PoisonError,
    mpsc::{SendError, TryRecvError},
};

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Messages that one schedule may send.
const PLACES: usize = 6;
/// Set in the claims when the receiver has gone.
const GONE: usize = 1;
const CLAIM: usize = 2;

#[derive(Debug)]
struct Shared<T> {
    /// Places that senders have taken, and whether the receiver has gone.
    claims: AtomicUsize,
    places: Vec<Place<T>>,
}

#[derive(Debug)]
struct Place<T> {
    written: AtomicBool,
    /// Never locked by two: it hands the message over without unsafe code.
    message: Mutex<Option<T>>,
}

/// As [`std::sync::mpsc::Sender`].
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// As [`std::sync::mpsc::Receiver`].
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    next: std::cell::Cell<usize>,
}

/// As [`std::sync::mpsc::channel`].
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let place = || Place { written: AtomicBool::new(false), message: Mutex::new(None) };
    let places = std::iter::repeat_with(place).take(PLACES).collect();
    let shared = Arc::new(Shared { claims: AtomicUsize::new(0), places });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared, next: std::cell::Cell::new(0) })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Sender<T> {
    /// As [`std::sync::mpsc::Sender::send`].
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        let claims = self.shared.claims.fetch_add(CLAIM, Ordering::Relaxed);
        if claims & GONE != 0 {
            return Err(SendError(message));
        }
        let place = &self.shared.places[claims / CLAIM];
        *place.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        place.written.store(true, Ordering::Release);
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// As [`std::sync::mpsc::Receiver::try_recv`]; that all senders have gone is not said, because no shard asks.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let Some(place) = self.shared.places.get(self.next.get()) else { return Err(TryRecvError::Empty) };
        if !place.written.load(Ordering::Acquire) {
            return Err(TryRecvError::Empty);
        }
        self.next.set(self.next.get() + 1);
        let message = place.message.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(message.expect("a place is written once and read once"))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let claims = self.shared.claims.fetch_or(GONE, Ordering::Relaxed);
        for place in &self.shared.places[self.next.get()..claims / CLAIM] {
            while !place.written.load(Ordering::Acquire) {
                loom::thread::yield_now();
            }
            drop(place.message.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}
