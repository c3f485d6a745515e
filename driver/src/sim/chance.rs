//! All chance of a simulated network.
//!
//! Every end, listener and driver has [`Dice`] of its own: what happens to it is drawn from its label and from how
//! often was drawn before *there*. So a scenario with one connection less treats the others as before, and a fault
//! has an identity ([`FaultId`]) that means the same in both.
//!
//! With a tape, everything comes from the tape instead: a fuzzer's bytes.

use std::{collections::BTreeSet, time::Duration};

use super::{
    counts::{FaultCounts, FaultSite},
    faults::{CLASS_COUNT, FaultClass, FaultId, Faults, MILLION, Rate},
    random::{Drawn, Random, hash},
};

/// What is drawn for one end, listener or driver.
#[derive(Clone, Debug)]
pub(super) struct Dice {
    pub(super) label: u64,
    /// The seed of the faults here.
    seed: u64,
    /// What no fault decides: delays, sizes of steps, orders.
    random: Random,
    /// Opportunities there were, for each class of fault.
    ordinals: [u32; CLASS_COUNT],
}

#[derive(Debug)]
pub(super) struct Chance {
    seed: u64,
    faults: Faults,
    calm: bool,
    tape: Option<Tape>,
    suppressed: BTreeSet<FaultId>,
    fired: Option<Vec<FaultId>>,
    counts: FaultCounts,
}

impl Chance {
    pub(super) fn new(seed: u64, faults: Faults, tape: Option<Vec<u8>>) -> Self {
        Self {
            seed,
            faults,
            calm: false,
            tape: tape.map(|bytes| Tape { bytes, at: 0 }),
            suppressed: BTreeSet::new(),
            fired: None,
            counts: FaultCounts::default(),
        }
    }

    pub(super) fn dice(&self, label: u64) -> Dice {
        let seed = hash(self.seed, label);
        Dice { label, seed, random: Random::new(hash(seed, 1)), ordinals: [0; CLASS_COUNT] }
    }

    // What no fault decides.

    /// A number from 0 to `max`, both possible. 0 is the quietest choice.
    #[inline]
    pub(super) fn up_to(&mut self, dice: &mut Dice, max: u64) -> u64 {
        match &mut self.tape {
            Some(tape) => tape.up_to(max),
            None => Drawn(dice.random.next()).up_to(max),
        }
    }

    /// How much of `most` bytes moves in one step: at least one byte; often all, at times a single byte.
    pub(super) fn part_of(&mut self, dice: &mut Dice, most: usize) -> usize {
        assert!(most > 0, "a step moves at least one byte");
        match self.up_to(dice, 7) {
            0..=2 => most,
            3 => 1,
            _ => most - self.up_to(dice, most as u64 - 1) as usize,
        }
    }

    // Faults.

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Other faults from now on.
    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.calm = false;
    }

    /// No fault fires from now on.
    pub(super) fn calm(&mut self) {
        self.calm = true;
    }

    pub(super) fn record(&mut self, on: bool) {
        match (on, &self.fired) {
            (true, None) => self.fired = Some(Vec::new()),
            (false, Some(_)) => self.fired = None,
            _ => {}
        }
    }

    pub(super) fn fired(&self) -> &[FaultId] {
        self.fired.as_deref().unwrap_or_default()
    }

    pub(super) fn suppress(&mut self, ids: impl IntoIterator<Item = FaultId>) {
        self.suppressed.extend(ids);
    }

    pub(super) fn counts(&self) -> &FaultCounts {
        &self.counts
    }

    /// An opportunity for a fault: if it fires, how bad it is.
    #[inline]
    pub(super) fn fires(&mut self, dice: &mut Dice, class: FaultClass, site: FaultSite) -> Option<Drawn> {
        let rate = self.faults.rate(class);
        if rate == Rate::NEVER || self.calm { None } else { self.decide(dice, class, site, rate) }
    }

    /// As [`fires`](Self::fires), for what lasts a while of at most `max`.
    #[inline]
    pub(super) fn lasts(
        &mut self,
        dice: &mut Dice,
        class: FaultClass,
        site: FaultSite,
        max: impl FnOnce(&Faults) -> Duration,
    ) -> Option<u64> {
        let drawn = self.fires(dice, class, site)?;
        Some(drawn.up_to(nanos(max(&self.faults))))
    }

    fn decide(&mut self, dice: &mut Dice, class: FaultClass, site: FaultSite, rate: Rate) -> Option<Drawn> {
        let ordinal = dice.ordinals[class as usize];
        dice.ordinals[class as usize] = ordinal.wrapping_add(1);
        let drawn = if let Some(tape) = &mut self.tape {
            tape.fires(rate).then(|| tape.number())?
        } else {
            let number = hash(dice.seed, u64::from(ordinal) << 8 | (2 + class as u64));
            let fires = Drawn(number).up_to(u64::from(MILLION) - 1) < rate.times_per_million().into();
            fires.then(|| Drawn(hash(number, 1)))?
        };
        let id = FaultId { class, label: dice.label, ordinal };
        if self.suppressed.contains(&id) {
            return None;
        }
        self.counts.hit(class, site);
        if let Some(fired) = &mut self.fired {
            fired.push(id);
        }
        Some(drawn)
    }
}

/// A time in nanoseconds, the simulator's unit: 584 years fit.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes that decide everything, then zeros.
#[derive(Debug)]
struct Tape {
    bytes: Vec<u8>,
    at: usize,
}

impl Tape {
    fn byte(&mut self) -> u64 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte.into()
    }

    /// Takes as many bytes as the range needs.
    fn up_to(&mut self, max: u64) -> u64 {
        let bytes = (u64::BITS - max.leading_zeros()).div_ceil(8);
        let number = (0..bytes).fold(0, |number, _| number << 8 | self.byte());
        max.checked_add(1).map_or(number, |range| number % range)
    }

    /// One byte; the larger it is the likelier it fires, and 0 never does.
    fn fires(&mut self, rate: Rate) -> bool {
        let share = (u64::from(rate.times_per_million()) * 256 / u64::from(MILLION)).clamp(1, 255);
        self.byte() > 255 - share
    }

    fn number(&mut self) -> Drawn {
        Drawn(self.up_to(u16::MAX.into()) << 48)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: FaultSite = FaultSite::Network;

    fn often(class: FaultClass) -> Faults {
        Faults::default().with(class, Rate::per_million(300_000))
    }

    /// The ordinals of a hundred opportunities that fire.
    fn fired(chance: &mut Chance, label: u64) -> Vec<usize> {
        let mut dice = chance.dice(label);
        (0..100).filter(|_| chance.fires(&mut dice, FaultClass::Reset, SITE).is_some()).collect()
    }

    #[test]
    fn parts_are_whole_often_and_never_empty() {
        let mut chance = Chance::new(3, Faults::default(), None);
        let mut dice = chance.dice(1);
        let parts: Vec<_> = (0..1_000).map(|_| chance.part_of(&mut dice, 9)).collect();
        assert!(parts.iter().all(|part| (1..=9).contains(part)));
        assert!((1..=9).all(|part| parts.contains(&part)));
        assert!((0..100).all(|_| chance.part_of(&mut dice, 1) == 1));
    }

    #[test]
    fn a_fault_depends_on_its_label_and_its_ordinal_only() {
        let mut one = Chance::new(5, often(FaultClass::Reset), None);
        let alone = fired(&mut one, 8);
        let mut two = Chance::new(5, often(FaultClass::Reset).with(FaultClass::Late, Rate::ALWAYS), None);
        let mut other = two.dice(9);
        assert!(two.fires(&mut other, FaultClass::Late, SITE).is_some());
        assert!(two.up_to(&mut other, 100) <= 100);
        assert_ne!(fired(&mut two, 10), alone);
        assert_eq!(fired(&mut two, 8), alone);
        assert!((15..=45).contains(&alone.len()), "{} of 100 at 30 %", alone.len());
    }

    #[test]
    fn what_fired_is_recorded_and_can_be_suppressed() {
        let mut chance = Chance::new(5, often(FaultClass::Reset), None);
        chance.record(true);
        let all = fired(&mut chance, 8);
        let ids = chance.fired().to_vec();
        assert_eq!(ids.iter().map(|id| id.ordinal as usize).collect::<Vec<_>>(), all);
        assert_eq!(chance.counts().of(FaultClass::Reset, SITE), all.len() as u64);
        chance.suppress(ids[1..].iter().copied());
        assert_eq!(fired(&mut chance, 8), all[..1]);
        chance.calm();
        assert_eq!(fired(&mut chance, 8), []);
        chance.set_faults(often(FaultClass::Reset));
        assert_eq!(fired(&mut chance, 8), all[..1]);
        chance.record(false);
        assert_eq!(chance.fired(), []);
    }

    #[test]
    fn a_tape_decides_everything_and_zeros_are_quiet() {
        let faults = Faults::default().with(FaultClass::Reset, Rate::ALWAYS);
        let mut chance = Chance::new(0, faults, Some(vec![0, 255, 128, 0, 9]));
        let mut dice = chance.dice(1);
        assert_eq!(chance.fires(&mut dice, FaultClass::Reset, SITE), None);
        assert_eq!(chance.fires(&mut dice, FaultClass::Reset, SITE).map(|drawn| drawn.up_to(9)), Some(5));
        assert_eq!(chance.up_to(&mut dice, 0), 0);
        assert_eq!(chance.up_to(&mut dice, 6), 2);
        assert_eq!(fired(&mut chance, 1), []);
        assert_eq!((chance.part_of(&mut dice, 77), chance.up_to(&mut dice, 9)), (77, 0));
    }
}
