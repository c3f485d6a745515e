//! Atomics that loom steps through. Each knows where in the source it is used, and can be told to use a weaker ordering
//! at one place: so that every ordering can be shown to be needed.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt,
    panic::Location,
};

pub use std::sync::atomic::Ordering;

/// A place in the source where an ordering is given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Site {
    pub(super) file: &'static str,
    line: u32,
    column: u32,
    /// Which of the orderings given there.
    nth: u8,
    given: Given,
}

/// An ordering, in an order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Given {
    Relaxed,
    Acquire,
    Release,
    AcqRel,
    SeqCst,
}

impl Site {
    /// The orderings one step below; of a fence, `Relaxed` is that there is none.
    pub(super) fn weaker(&self) -> &'static [Ordering] {
        match self.given {
            Given::Relaxed => &[],
            Given::Acquire | Given::Release => &[Ordering::Relaxed],
            Given::AcqRel => &[Ordering::Acquire, Ordering::Release],
            Given::SeqCst => &[Ordering::AcqRel],
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{} {:?}", self.file, self.line, self.column, self.given)
    }
}

/// One ordering, weakened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weakened {
    pub(super) site: Site,
    pub(super) to: Ordering,
}

// All threads of a model are coroutines on one thread of the system.
thread_local! {
    static WEAKENED: Cell<Option<Weakened>> = const { Cell::new(None) };
    static SEEN: RefCell<BTreeSet<Site>> = const { RefCell::new(BTreeSet::new()) };
}

/// Weakens an ordering, for models that run on this thread from now on.
pub(super) fn weaken(weakened: Option<Weakened>) {
    WEAKENED.set(weakened);
}

/// The places that models on this thread came by.
pub(super) fn sites_seen() -> BTreeSet<Site> {
    SEEN.take()
}

fn order(order: Ordering, nth: u8, at: &'static Location<'static>) -> Ordering {
    let given = match order {
        Ordering::Acquire => Given::Acquire,
        Ordering::Release => Given::Release,
        Ordering::AcqRel => Given::AcqRel,
        Ordering::SeqCst => Given::SeqCst,
        _ => Given::Relaxed,
    };
    let site = Site { file: at.file(), line: at.line(), column: at.column(), nth, given };
    SEEN.with_borrow_mut(|seen| seen.insert(site));
    match WEAKENED.get() {
        Some(weakened) if weakened.site == site => weakened.to,
        _ => order,
    }
}

/// As [`std::sync::atomic::fence`].
#[track_caller]
pub fn fence(wanted: Ordering) {
    match order(wanted, 0, Location::caller()) {
        Ordering::Relaxed => {}
        order => loom::sync::atomic::fence(order),
    }
}

/// Declares an atomic integer as the standard library has it, as far as this tree uses it.
macro_rules! atomic {
    ($name:ident, $integer:ty) => {
        #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "`].")]
        #[derive(Debug, Default)]
        pub struct $name(loom::sync::atomic::$name);

        #[allow(missing_docs, reason = "the names and meanings of the standard library")]
        impl $name {
            #[track_caller]
            pub fn new(value: $integer) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub fn load(&self, wanted: Ordering) -> $integer {
                self.0.load(order(wanted, 0, Location::caller()))
            }

            #[track_caller]
            pub fn store(&self, value: $integer, wanted: Ordering) {
                self.0.store(value, order(wanted, 0, Location::caller()));
            }

            #[track_caller]
            pub fn swap(&self, value: $integer, wanted: Ordering) -> $integer {
                self.0.swap(value, order(wanted, 0, Location::caller()))
            }

            #[track_caller]
            pub fn fetch_add(&self, value: $integer, wanted: Ordering) -> $integer {
                self.0.fetch_add(value, order(wanted, 0, Location::caller()))
            }

            #[track_caller]
            pub fn fetch_sub(&self, value: $integer, wanted: Ordering) -> $integer {
                self.0.fetch_sub(value, order(wanted, 0, Location::caller()))
            }

            #[track_caller]
            pub fn fetch_max(&self, value: $integer, wanted: Ordering) -> $integer {
                self.0.fetch_max(value, order(wanted, 0, Location::caller()))
            }

            #[track_caller]
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                new: impl FnMut($integer) -> Option<$integer>,
            ) -> Result<$integer, $integer> {
                let at = Location::caller();
                self.0.fetch_update(order(set, 0, at), order(fetch, 1, at), new)
            }

            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $integer,
                new: $integer,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$integer, $integer> {
                let at = Location::caller();
                self.0.compare_exchange(current, new, order(success, 0, at), order(failure, 1, at))
            }
        }
    };
}

atomic!(AtomicU8, u8);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);
