//! Which port the calling thread works for. One at a time, as on Windows: waiting at another port ends it at the first.

use std::{
    cell::RefCell,
    ptr,
    sync::{Arc, Weak},
};

use super::{portable::Portable, schedule::Place};

/// What a thread tells its port, whatever the packets are.
trait Host: Send + Sync {
    fn begin_block(&self, place: Place);
    fn end_block(&self, place: Place);
    fn leave(&self, place: Place);
}

impl<T: Send> Host for Portable<T> {
    fn begin_block(&self, place: Place) {
        Self::begin_block(self, place);
    }

    fn end_block(&self, place: Place) {
        Self::end_block(self, place);
    }

    fn leave(&self, place: Place) {
        Self::leave(self, place);
    }
}

/// A thread's place at a port. Dropped when the thread ends, by a panic too: then it does not count any more.
struct Seat {
    /// Weak, and compared by address: a port that has gone keeps its address until this is dropped.
    port: Weak<dyn Host>,
    place: Place,
    /// `blocking` in `blocking`.
    depth: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(port) = self.port.upgrade() {
            port.leave(self.place);
        }
    }
}

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// The place of the calling thread at `port`, if it has one.
fn place_at<T>(seat: &Seat, port: &Arc<Portable<T>>) -> Option<Place> {
    ptr::addr_eq(seat.port.as_ptr(), Arc::as_ptr(port)).then_some(seat.place)
}

/// True if the calling thread works for `port`.
pub(super) fn is_at<T>(port: &Arc<Portable<T>>) -> bool {
    SEAT.try_with(|seat| seat.borrow().as_ref().is_some_and(|seat| place_at(seat, port).is_some()))
        .unwrap_or(false)
}

/// The place of the calling thread at `port`; it leaves another port for that.
pub(super) fn take<T: Send + 'static>(port: &Arc<Portable<T>>) -> Place {
    SEAT.with(|seat| {
        if let Some(place) = seat.borrow().as_ref().and_then(|seat| place_at(seat, port)) {
            return place;
        }
        let place = port.sit();
        let weak = Arc::downgrade(port);
        // Dropped after the cell was given back: leaving wakes somebody, and touches nothing here.
        let before = seat.replace(Some(Seat { port: weak, place, depth: 0 }));
        drop(before);
        place
    })
}

/// Runs `work` while the port of this thread, if it has one, counts it as blocked.
pub(super) fn blocking<R>(work: impl FnOnce() -> R) -> R {
    let told = Told::tell();
    let result = work();
    drop(told);
    result
}

/// The port was told that this thread blocks; on drop it hears of the end.
struct Told;

impl Told {
    /// `None` for a thread without a port.
    fn tell() -> Option<Self> {
        with_seat(|seat, port| {
            seat.depth += 1;
            if seat.depth == 1 {
                port.begin_block(seat.place);
            }
        })
        .map(|()| Self)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        with_seat(|seat, port| {
            // It may have gone to another port meanwhile, whose depth is 0.
            seat.depth = seat.depth.saturating_sub(1);
            if seat.depth == 0 {
                port.end_block(seat.place);
            }
        });
    }
}

fn with_seat(call: impl FnOnce(&mut Seat, &dyn Host)) -> Option<()> {
    SEAT.try_with(|seat| {
        let mut seat = seat.borrow_mut();
        let seat = seat.as_mut()?;
        let port = seat.port.upgrade()?;
        call(seat, &*port);
        Some(())
    })
    .ok()?
}
