//! The slab and the ids made of its keys, against a model: a queue of free slots and a list of what is in use.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyport_core::{SessionId, Slab, SlabKey};

use crate::input::Input;

/// The input is the number of slots, owners of a slot, then steps: insert, remove, look up, an insert that fails.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let slots_max = u32::from(input.byte() % 9);
    let generation_max = match input.byte() {
        0 => u32::MAX,
        owners => u32::from(owners % 8) + 1,
    };
    let mut world = World::new(slots_max, generation_max);
    while let Some(step) = input.next() {
        match step % 8 {
            0..=2 => world.insert(u32::from(step)),
            3 | 4 => world.remove(input.byte()),
            5 => world.look_up(input.byte()),
            6 => world.fail_to_insert(),
            _ => world.look_up_a_stranger(input.byte(), input.byte()),
        }
        world.check();
    }
    ids(&mut Input::new(bytes));
}

struct World {
    slab: Slab<u32>,
    slots_max: u32,
    generation_max: u32,
    used: BTreeMap<SlabKey, u32>,
    free: VecDeque<SlabKey>,
    fresh: u32,
    retired: usize,
    /// Every key that was ever given out, stale ones too.
    given: Vec<SlabKey>,
    unique: HashSet<SlabKey>,
}

impl World {
    fn new(slots_max: u32, generation_max: u32) -> Self {
        Self {
            slab: Slab::with_generation_max(slots_max, generation_max),
            slots_max,
            generation_max,
            used: BTreeMap::new(),
            free: VecDeque::new(),
            fresh: 0,
            retired: 0,
            given: Vec::new(),
            unique: HashSet::new(),
        }
    }

    /// The key that comes next: of the slot that has rested longest, else of a new one.
    fn next(&self) -> Option<SlabKey> {
        let rested = self.free.front().map(|key| SlabKey { generation: key.generation + 1, ..*key });
        rested.or((self.fresh < self.slots_max).then_some(SlabKey { index: self.fresh, generation: 1 }))
    }

    fn insert(&mut self, value: u32) {
        let expected = self.next();
        assert_eq!(self.slab.insert(value), expected.ok_or(value));
        let Some(key) = expected else { return };
        if self.free.pop_front().is_none() {
            self.fresh += 1;
        }
        assert!(self.unique.insert(key), "{key:?} was given out twice");
        self.given.push(key);
        self.used.insert(key, value);
    }

    fn any_key(&self, which: u8) -> Option<SlabKey> {
        // The latest ones first: those are in use most often.
        self.given.iter().rev().nth(usize::from(which) % self.given.len().max(1)).copied()
    }

    fn remove(&mut self, which: u8) {
        let Some(key) = self.any_key(which) else { return };
        let expected = self.used.remove(&key);
        assert_eq!(self.slab.remove(key), expected);
        if expected.is_some() {
            if key.generation == self.generation_max {
                self.retired += 1;
            } else {
                self.free.push_back(key);
            }
        }
    }

    fn look_up(&mut self, which: u8) {
        let Some(key) = self.any_key(which) else { return };
        assert_eq!(self.slab.get(key), self.used.get(&key));
        if let Some(value) = self.slab.get_mut(key) {
            *value += 1;
        }
        if let Some(value) = self.used.get_mut(&key) {
            *value += 1;
        }
    }

    fn look_up_a_stranger(&mut self, index: u8, generation: u8) {
        let key = SlabKey { index: u32::from(index) % 12, generation: u32::from(generation) % 10 };
        assert_eq!(self.slab.get(key), self.used.get(&key));
        if !self.used.contains_key(&key) {
            assert_eq!(self.slab.remove(key), None);
        }
    }

    /// The value's constructor panics: no slot is lost by it.
    fn fail_to_insert(&mut self) {
        // Without the hook, which a fuzzer takes for a crash.
        let make = |_| -> u32 { std::panic::resume_unwind(Box::new("no value")) };
        let inserted = catch_unwind(AssertUnwindSafe(|| self.slab.insert_with(make)));
        assert_eq!(inserted.is_err(), self.next().is_some(), "made when full, or not made");
    }

    fn check(&mut self) {
        assert_eq!((self.slab.len(), self.slab.is_empty()), (self.used.len(), self.used.is_empty()));
        assert_eq!((self.slab.retired(), self.slab.index_end()), (self.retired, self.fresh));
        assert!(self.slab.iter().map(|(key, value)| (key, *value)).eq(self.used.clone()));
        for index in 0..=self.slots_max {
            let found = self.slab.at_mut(index).map(|(key, value)| (key, *value));
            let expected = self.used.iter().find(|(key, _)| key.index == index);
            assert_eq!(found, expected.map(|(key, value)| (*key, *value)));
        }
    }
}

/// Ids keep their parts, and any 64 bits are the id of something.
fn ids(input: &mut Input<'_>) {
    let bits = input.u64();
    let id = SessionId::from_bits(bits);
    assert_eq!(id.bits(), bits);
    assert!(usize::from(id.service()) < SessionId::SERVICES_MAX && id.slot().index < SessionId::INDEX_MAX);
    assert_eq!(SessionId::new(id.shard(), id.service(), id.slot()), id);
    let parts = id.to_string();
    let parts: Vec<u64> = parts.split('.').map(|part| part.parse().expect("a number")).collect();
    assert_eq!(parts.len(), 4);
    assert_eq!(parts[0] << 56 | parts[1] << 52 | parts[2] << 32 | parts[3], bits);
}
