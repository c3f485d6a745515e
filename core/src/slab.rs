//! Slots with generations: the session pool.
//!
//! Freed slots queue up and are reused first-in first-out, so that a slot rests as long as possible before
//! its next owner. Each reuse raises the slot's generation; a slot whose generation would wrap is retired,
//! so that no key is ever valid twice.

use std::fmt;

use crate::planted::{Bug, planted};

/// Names one occupation of one slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlabKey {
    /// Position in the slab.
    pub index: u32,
    /// Which occupation of that position, from 1.
    pub generation: u32,
}

/// End of the free list.
const NONE: u32 = u32::MAX;

enum Slot<T> {
    /// Waiting for its next owner; links to the slot that was freed after it.
    Free {
        next: u32,
    },
    /// Never to be used again.
    Retired,
    Used(T),
}

struct Entry<T> {
    generation: u32,
    slot: Slot<T>,
}

/// A growable table of `T` with stable keys. Reuse is first-in first-out.
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free_head: u32,
    free_tail: u32,
    len: usize,
    retired: usize,
    slots_max: u32,
    generation_max: u32,
}

impl<T> Slab<T> {
    /// An empty slab of at most `slots_max` slots.
    pub fn new(slots_max: u32) -> Self {
        Self::with_generation_max(slots_max, u32::MAX)
    }

    /// As [`new`](Self::new), with slots retired after `generation_max` owners. Tests use small values to
    /// reach the wrap.
    ///
    /// # Panics
    /// If `slots_max` is `u32::MAX` (that index ends the free list) or `generation_max` is 0.
    pub fn with_generation_max(slots_max: u32, generation_max: u32) -> Self {
        assert!(slots_max < NONE, "slots_max must be below u32::MAX");
        assert!(generation_max > 0, "generation_max must be at least 1");
        Self {
            entries: Vec::new(),
            free_head: NONE,
            free_tail: NONE,
            len: 0,
            retired: 0,
            slots_max,
            generation_max,
        }
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots taken out of service because their generation was used up.
    pub fn retired(&self) -> usize {
        self.retired
    }

    /// Puts a value into the slot that has rested longest, or into a new one. `None` when all
    /// `slots_max` slots are used or retired; the value is then not made.
    pub fn insert_with(&mut self, make: impl FnOnce(SlabKey) -> T) -> Option<SlabKey> {
        // `make` is called before anything changes: if it panics, no slot is lost.
        if self.free_head == NONE {
            let index = self.entries.len() as u32;
            if index >= self.slots_max {
                return None;
            }
            let key = SlabKey { index, generation: 1 };
            let slot = Slot::Used(make(key));
            self.entries.push(Entry { generation: key.generation, slot });
            self.len += 1;
            return Some(key);
        }
        let index = self.free_head;
        let entry = &mut self.entries[index as usize];
        let Slot::Free { next } = entry.slot else {
            unreachable!("the free list led to slot {index}, which is not free");
        };
        let step = u32::from(!planted(Bug::GenerationStays));
        let key = SlabKey { index, generation: entry.generation + step };
        entry.slot = Slot::Used(make(key));
        entry.generation = key.generation;
        self.free_head = next;
        if next == NONE {
            self.free_tail = NONE;
        }
        self.len += 1;
        Some(key)
    }

    /// As [`insert_with`](Self::insert_with), for a value that is there already; gives it back when full.
    pub fn insert(&mut self, value: T) -> Result<SlabKey, T> {
        let mut value = Some(value);
        match self.insert_with(|_| value.take().expect("called once")) {
            Some(key) => Ok(key),
            None => Err(value.expect("not made when full")),
        }
    }

    /// The value, or `None` when that occupation has ended.
    #[inline]
    pub fn get(&self, key: SlabKey) -> Option<&T> {
        match self.entries.get(key.index as usize)? {
            Entry { generation, slot: Slot::Used(value) } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The value, or `None` when that occupation has ended.
    #[inline]
    pub fn get_mut(&mut self, key: SlabKey) -> Option<&mut T> {
        match self.entries.get_mut(key.index as usize)? {
            Entry { generation, slot: Slot::Used(value) } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The value now in slot `index`, if any, with its key.
    #[inline]
    pub fn at_mut(&mut self, index: u32) -> Option<(SlabKey, &mut T)> {
        match self.entries.get_mut(index as usize)? {
            Entry { generation, slot: Slot::Used(value) } => {
                Some((SlabKey { index, generation: *generation }, value))
            }
            _ => None,
        }
    }

    /// Ends the occupation and frees the slot, or retires it when its generation is used up.
    pub fn remove(&mut self, key: SlabKey) -> Option<T> {
        self.get(key)?;
        let entry = &mut self.entries[key.index as usize];
        let retire = entry.generation >= self.generation_max;
        let vacated = if retire { Slot::Retired } else { Slot::Free { next: NONE } };
        let Slot::Used(value) = std::mem::replace(&mut entry.slot, vacated) else {
            unreachable!("checked above");
        };
        self.len -= 1;
        if retire || planted(Bug::SlotNeverFreed) {
            self.retired += 1;
        } else if self.free_tail == NONE {
            self.free_head = key.index;
            self.free_tail = key.index;
        } else {
            self.entries[self.free_tail as usize].slot = Slot::Free { next: key.index };
            self.free_tail = key.index;
        }
        Some(value)
    }

    /// All that is in use, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (SlabKey, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| match &entry.slot {
            Slot::Used(value) => Some((SlabKey { index: index as u32, generation: entry.generation }, value)),
            _ => None,
        })
    }

    /// The highest slot index ever used, plus one: the bound of a walk by [`at_mut`](Self::at_mut).
    pub fn index_end(&self) -> u32 {
        self.entries.len() as u32
    }
}

impl<T> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("len", &self.len)
            .field("slots", &self.entries.len())
            .field("retired", &self.retired)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_slots_are_reused_first_in_first_out() {
        let mut slab = Slab::new(8);
        let keys: Vec<_> = (0..4).map(|n| slab.insert(n).unwrap()).collect();
        for at in [2, 0, 3] {
            slab.remove(keys[at]).unwrap();
        }
        let order: Vec<_> = (0..4).map(|n| slab.insert(n).unwrap().index).collect();
        assert_eq!(order, [2, 0, 3, 4]);
    }

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new(1);
        let old = slab.insert('a').unwrap();
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert('b').unwrap();
        assert_eq!(old.index, new.index);
        assert!(slab.get(old).is_none() && slab.get_mut(old).is_none());
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&'b'));
    }

    #[test]
    fn a_slot_is_retired_when_its_generation_is_used_up() {
        let mut slab = Slab::with_generation_max(2, 3);
        for _ in 0..6 {
            let key = slab.insert(()).unwrap();
            slab.remove(key).unwrap();
        }
        assert_eq!(slab.retired(), 2);
        assert_eq!(slab.insert(()), Err(()));
    }

    #[test]
    fn a_full_slab_gives_the_value_back() {
        let mut slab = Slab::new(1);
        slab.insert("first").unwrap();
        assert_eq!(slab.insert("second"), Err("second"));
        assert_eq!(slab.len(), 1);
    }
}
