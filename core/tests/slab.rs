//! The slab against a model: a queue of free slots and a map of what is in use.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyport_core::{SessionId, Slab, SlabKey};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Turn {
    Insert,
    /// Removes one of the keys that were ever given out, stale ones too.
    Remove(prop::sample::Index),
    Get(prop::sample::Index),
    /// The value's constructor panics.
    Panic,
}

#[derive(Default)]
struct Model {
    used: HashMap<SlabKey, u32>,
    free: VecDeque<u32>,
    generations: Vec<u32>,
    retired: usize,
}

impl Model {
    /// The key that the next insert must give.
    fn next(&self, slots_max: u32) -> Option<SlabKey> {
        let fresh = self.generations.len() as u32;
        let index = self.free.front().copied().or((fresh < slots_max).then_some(fresh))?;
        let generation = self.generations.get(index as usize).copied().unwrap_or(0) + 1;
        Some(SlabKey { index, generation })
    }

    fn insert(&mut self, key: SlabKey, value: u32) {
        if self.free.pop_front().is_none() {
            self.generations.push(0);
        }
        self.generations[key.index as usize] = key.generation;
        self.used.insert(key, value);
    }

    fn remove(&mut self, key: SlabKey, generation_max: u32) -> Option<u32> {
        let value = self.used.remove(&key)?;
        if key.generation == generation_max {
            self.retired += 1;
        } else {
            self.free.push_back(key.index);
        }
        Some(value)
    }
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        8 => Just(Turn::Insert),
        8 => any::<prop::sample::Index>().prop_map(Turn::Remove),
        4 => any::<prop::sample::Index>().prop_map(Turn::Get),
        1 => Just(Turn::Panic),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_slab_is_its_model(
        slots_max in 0..6_u32,
        generation_max in prop_oneof![1..5_u32, Just(u32::MAX)],
        turns in prop::collection::vec(turn(), 0..150),
    ) {
        let mut slab = Slab::with_generation_max(slots_max, generation_max);
        let (mut model, mut given, mut unique) = (Model::default(), Vec::new(), HashSet::new());
        for (value, turn) in (0..).zip(turns) {
            match turn {
                Turn::Insert => {
                    let expected = model.next(slots_max);
                    prop_assert_eq!(slab.insert(value), expected.ok_or(value));
                    if let Some(key) = expected {
                        prop_assert!(unique.insert(key), "{:?} was given out twice", key);
                        given.push(key);
                        model.insert(key, value);
                    }
                }
                Turn::Remove(at) if !given.is_empty() => {
                    let key = given[at.index(given.len())];
                    prop_assert_eq!(slab.remove(key), model.remove(key, generation_max));
                }
                Turn::Get(at) if !given.is_empty() => {
                    let key = given[at.index(given.len())];
                    prop_assert_eq!(slab.get(key), model.used.get(&key));
                    prop_assert_eq!(slab.get_mut(key).copied(), model.used.get(&key).copied());
                }
                Turn::Panic => {
                    let make = |_| -> u32 { std::panic::resume_unwind(Box::new("no value")) };
                    let made = catch_unwind(AssertUnwindSafe(|| slab.insert_with(make)));
                    prop_assert_eq!(made.is_err(), model.next(slots_max).is_some());
                }
                Turn::Remove(_) | Turn::Get(_) => {}
            }
            prop_assert_eq!((slab.len(), slab.is_empty()), (model.used.len(), model.used.is_empty()));
            prop_assert_eq!(slab.retired(), model.retired);
            prop_assert_eq!(slab.index_end() as usize, model.generations.len());
            let in_use: HashMap<SlabKey, u32> = slab.iter().map(|(key, value)| (key, *value)).collect();
            prop_assert_eq!(&in_use, &model.used);
            for index in 0..=slots_max {
                let at = slab.at_mut(index).map(|(key, value)| (key, *value));
                let expected = model.used.iter().find(|(key, _)| key.index == index);
                prop_assert_eq!(at, expected.map(|(key, value)| (*key, *value)));
            }
        }
    }

    #[test]
    fn an_id_keeps_its_parts(
        shard: u8,
        service in 0..SessionId::SERVICES_MAX as u8,
        index in 0..SessionId::INDEX_MAX,
        generation: u32,
    ) {
        let slot = SlabKey { index, generation };
        let id = SessionId::new(shard, service, slot);
        prop_assert_eq!((id.shard(), id.service(), id.slot()), (shard, service, slot));
        prop_assert_eq!(SessionId::from_bits(id.bits()), id);
    }
}

#[test]
fn a_constructor_that_panics_loses_no_slot() {
    let mut slab = Slab::new(1);
    for _ in 0..3 {
        let make = |_| -> u8 { std::panic::resume_unwind(Box::new("no value")) };
        assert!(catch_unwind(AssertUnwindSafe(|| slab.insert_with(make))).is_err());
    }
    let key = slab.insert(1).expect("the only slot is free");
    assert_eq!(key, SlabKey { index: 0, generation: 1 });
    slab.remove(key);
    let make = |_| -> u8 { std::panic::resume_unwind(Box::new("no value")) };
    assert!(catch_unwind(AssertUnwindSafe(|| slab.insert_with(make))).is_err());
    assert_eq!(slab.insert(2), Ok(SlabKey { index: 0, generation: 2 }));
}
