//! Who is let in: the sessions of a service over all its shards, by address and network, and how fast they come.
//!
//! Looked at when a connection comes and when a session goes, never for a message. A refusal leaves no trace in the
//! counts, not for a moment: somebody else would be turned away because of it. So what is counted together is counted
//! under one lock.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use anyport_core::{
    CloseReason, Limits,
    planted::{Bug, planted},
    rate::{Bucket, Flow},
    wheel,
};

use crate::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

/// Locks over which addresses are spread: two connections that come at once rarely meet.
const STRIPES: usize = 16;

/// Sessions of a service over all shards: what `sessions_max` bounds, and the limits on where they come from.
///
/// The count is relaxed throughout: it guards no memory, and what changes it sees its newest value whatever the
/// ordering.
#[derive(Debug, Default)]
pub(crate) struct Live {
    sessions: AtomicUsize,
    places: Places,
    arrivals: Mutex<Option<Arrivals>>,
}

impl Live {
    /// As [`admit_from`](Self::admit_from), for a connection that is not a session yet.
    pub(crate) fn take_place(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        limits: &Limits,
        now: Instant,
    ) -> Result<PlaceTaken, CloseReason> {
        self.admit_from(address, limits, now)?;
        let counted = address.filter(|_| counts_addresses(limits));
        Ok(PlaceTaken { live: Some(Arc::clone(self)), counted })
    }

    /// Lets a connection from `address` in, or says why not. Peers without an address (of this machine) are bound by
    /// `sessions_max` and `accepts_per_second` alone.
    pub(crate) fn admit_from(
        &self,
        address: Option<IpAddr>,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), CloseReason> {
        let enter = || self.enter_in_time(limits, now);
        match address {
            Some(address) if counts_addresses(limits) => self.places.enter(Place::of(address), limits, enter),
            _ => enter(),
        }
    }

    /// A session from `address` that was let in has gone.
    pub(crate) fn leave_from(&self, address: Option<IpAddr>, limits: &Limits) {
        self.leave_counted(address.filter(|_| counts_addresses(limits)));
    }

    fn leave_counted(&self, address: Option<IpAddr>) {
        if let Some(address) = address {
            self.places.leave(Place::of(address));
        }
        self.leave();
    }

    /// Counts one more if there is room. In one step: who is turned away must not be counted even for a moment, or
    /// somebody else is turned away because of it.
    pub(crate) fn admit(&self, sessions_max: usize) -> bool {
        let more = |live| (live < sessions_max).then_some(live + 1);
        self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one more.
    pub(crate) fn count(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less.
    pub(crate) fn leave(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one more if they do not come too fast, and there is room. Who finds none has not come.
    fn enter_in_time(&self, limits: &Limits, now: Instant) -> Result<(), CloseReason> {
        let more = usize::from(planted(Bug::OneSessionTooMany));
        let enter =
            || if self.admit(limits.sessions_max + more) { Ok(()) } else { Err(CloseReason::AtCapacity) };
        let Some(per_second) = limits.accepts_per_second else { return enter() };
        let flow = Flow::new(per_second, limits.accepts_burst);
        let mut arrivals = locked(&self.arrivals);
        let Arrivals { since, bucket } =
            arrivals.get_or_insert_with(|| Arrivals { since: now, bucket: Bucket::full(&flow, 0) });
        // Shards read the clock each for itself: one may be a little behind another.
        let tick = wheel::ticks_down(now.saturating_duration_since(*since));
        if bucket.tokens(&flow, tick) == 0 && !planted(Bug::AcceptRateIgnored) {
            return Err(CloseReason::AcceptRate);
        }
        enter()?;
        bucket.charge(&flow, tick, 1);
        Ok(())
    }

    #[cfg(all(loom, test))]
    pub(crate) fn now(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }
}

/// The place of a connection that is not a session yet. However it ends before, the place is given back.
#[derive(Debug)]
pub(crate) struct PlaceTaken {
    /// Until a session keeps it.
    live: Option<Arc<Live>>,
    /// Its address, if those are counted.
    counted: Option<IpAddr>,
}

impl PlaceTaken {
    /// It is a session's now, which [leaves](Live::leave_from) when it ends.
    pub(crate) fn keep(mut self) {
        self.live = None;
    }
}

impl Drop for PlaceTaken {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            live.leave_counted(self.counted);
        }
    }
}

fn counts_addresses(limits: &Limits) -> bool {
    limits.sessions_per_address_max.is_some() || limits.sessions_per_prefix_max.is_some()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics between two changes that belong together.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Connections as they come in time.
#[derive(Debug)]
struct Arrivals {
    since: Instant,
    bucket: Bucket,
}

/// Leading bits of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Network {
    V4(u32),
    V6(u64),
}

/// Where a connection comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    /// What counts as one address: all of an IPv4 address, the first 64 bits of an IPv6 one.
    address: Network,
    /// What counts as one network: the first 24 bits, or 48.
    prefix: Network,
}

impl Place {
    fn of(address: IpAddr) -> Self {
        // An IPv4 peer of an IPv6 listener is itself.
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                Self { address: Network::V4(bits), prefix: Network::V4(bits >> 8) }
            }
            IpAddr::V6(address) => {
                let bits = (address.to_bits() >> 64) as u64;
                Self { address: Network::V6(bits), prefix: Network::V6(bits >> 16) }
            }
        }
    }
}

/// How many sessions come from where. Who has none is not in it: scanning from many addresses makes nothing grow.
#[derive(Debug, Default)]
struct Places {
    stripes: [Mutex<Stripe>; STRIPES],
    /// Keyed, so that nobody can choose addresses that meet in one place.
    hasher: RandomState,
}

/// The places of some networks. A network is in one stripe with all its addresses.
#[derive(Debug, Default)]
struct Stripe {
    addresses: HashMap<Network, usize>,
    prefixes: HashMap<Network, usize>,
}

impl Places {
    fn stripe(&self, place: Place) -> MutexGuard<'_, Stripe> {
        locked(&self.stripes[self.hasher.hash_one(place.prefix) as usize % STRIPES])
    }

    /// Counts one more from `place` if there is room there, and `enter` lets it in.
    fn enter(
        &self,
        place: Place,
        limits: &Limits,
        enter: impl FnOnce() -> Result<(), CloseReason>,
    ) -> Result<(), CloseReason> {
        let mut stripe = self.stripe(place);
        let Stripe { addresses, prefixes } = &mut *stripe;
        let more = usize::from(planted(Bug::OneTooManyFromAddress));
        let full = |counts: &HashMap<_, usize>, network, most: Option<usize>| {
            most.is_some_and(|most| counts.get(&network).is_some_and(|count| *count >= most + more))
        };
        if full(addresses, place.address, limits.sessions_per_address_max) {
            return Err(CloseReason::TooManyFromAddress);
        }
        if full(prefixes, place.prefix, limits.sessions_per_prefix_max) {
            return Err(CloseReason::TooManyFromPrefix);
        }
        enter()?;
        *addresses.entry(place.address).or_default() += 1;
        *prefixes.entry(place.prefix).or_default() += 1;
        Ok(())
    }

    fn leave(&self, place: Place) {
        let mut stripe = self.stripe(place);
        if planted(Bug::AddressKeepsPlace) {
            return;
        }
        let Stripe { addresses, prefixes } = &mut *stripe;
        for (counts, network) in [(addresses, place.address), (prefixes, place.prefix)] {
            let count = counts.get_mut(&network).expect("a session that leaves was counted");
            *count -= 1;
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Entries in all tables.
    fn known(live: &Live) -> usize {
        let entries = |stripe: &Mutex<Stripe>| {
            let stripe = locked(stripe);
            stripe.addresses.len() + stripe.prefixes.len()
        };
        live.places.stripes.iter().map(entries).sum()
    }

    #[test]
    fn each_address_and_each_network_has_its_room_and_nothing_is_left_behind() {
        let limits = Limits {
            sessions_per_address_max: Some(2),
            sessions_per_prefix_max: Some(3),
            ..Limits::default()
        };
        let (live, now) = (Live::default(), Instant::now());
        let came = |text| live.admit_from(Some(address(text)), &limits, now);
        assert_eq!([came("10.0.0.1"), came("10.0.0.1")], [Ok(()); 2]);
        assert_eq!(came("10.0.0.1"), Err(CloseReason::TooManyFromAddress));
        // The same one, as a listener for both kinds of address sees it.
        assert_eq!(came("::ffff:10.0.0.1"), Err(CloseReason::TooManyFromAddress));
        assert_eq!(came("10.0.0.2"), Ok(()));
        assert_eq!(came("10.0.0.3"), Err(CloseReason::TooManyFromPrefix));
        assert_eq!(came("10.0.1.3"), Ok(()));
        // Two of one customer's, whatever the last 64 bits; then his neighbours.
        assert_eq!([came("2a00:1:2:3::1"), came("2a00:1:2:3:9:9:9:9")], [Ok(()); 2]);
        assert_eq!(came("2a00:1:2:3::2"), Err(CloseReason::TooManyFromAddress));
        assert_eq!(came("2a00:1:2:4::1"), Ok(()));
        assert_eq!(came("2a00:1:2:5::1"), Err(CloseReason::TooManyFromPrefix));
        assert_eq!(came("2a00:1:3:5::1"), Ok(()));
        // Peers of this machine have no address.
        assert_eq!(live.admit_from(None, &limits, now), Ok(()));
        live.leave_from(None, &limits);
        for text in ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.1.3", "2a00:1:2:3::7", "2a00:1:2:3::8"] {
            live.leave_from(Some(address(text)), &limits);
        }
        assert_eq!(came("10.0.0.1"), Ok(()), "a place that is free can be taken");
        for text in ["10.0.0.1", "2a00:1:2:4::1", "2a00:1:3:5::1"] {
            live.leave_from(Some(address(text)), &limits);
        }
        assert_eq!((known(&live), live.sessions.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn who_is_turned_away_for_one_reason_takes_nothing_of_another() {
        let limits = Limits {
            sessions_max: 1,
            sessions_per_address_max: Some(1),
            accepts_per_second: Some(1),
            accepts_burst: 2,
            ..Limits::default()
        };
        let (live, now) = (Live::default(), Instant::now());
        assert_eq!(live.admit_from(Some(address("10.0.0.1")), &limits, now), Ok(()));
        // Not one of the connections that may come at once.
        for _ in 0..100 {
            let refused = live.admit_from(Some(address("10.0.0.1")), &limits, now);
            assert_eq!(refused, Err(CloseReason::TooManyFromAddress));
        }
        for _ in 0..100 {
            let refused = live.admit_from(Some(address("10.0.0.2")), &limits, now);
            assert_eq!(refused, Err(CloseReason::AtCapacity));
        }
        live.leave_from(Some(address("10.0.0.1")), &limits);
        assert_eq!(known(&live), 0);
        // The second that may come at once, and no third.
        assert_eq!(live.admit_from(Some(address("10.0.0.2")), &limits, now), Ok(()));
        live.leave_from(Some(address("10.0.0.2")), &limits);
        assert_eq!(live.admit_from(Some(address("10.0.0.2")), &limits, now), Err(CloseReason::AcceptRate));
        let later = now + Duration::from_millis(1_001);
        assert_eq!(live.admit_from(Some(address("10.0.0.2")), &limits, later), Ok(()));
    }

    #[test]
    fn a_place_that_no_session_keeps_is_given_back() {
        let limits = Limits { sessions_max: 1, sessions_per_address_max: Some(1), ..Limits::default() };
        let (live, now, from) = (Arc::new(Live::default()), Instant::now(), Some(address("10.0.0.1")));
        let lost = live.take_place(from, &limits, now).unwrap();
        let refused = live.take_place(from, &limits, now).unwrap_err();
        assert_eq!(refused, CloseReason::TooManyFromAddress);
        drop(lost);
        assert_eq!(known(&live), 0);
        live.take_place(from, &limits, now).unwrap().keep();
        assert_eq!((known(&live), live.sessions.load(Ordering::Relaxed)), (2, 1), "the session has it");
        live.leave_from(from, &limits);
        assert_eq!((known(&live), live.sessions.load(Ordering::Relaxed)), (0, 0));
    }
}
