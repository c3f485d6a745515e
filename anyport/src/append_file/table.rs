//! The files of one service on one shard.

use std::{path::PathBuf, time::Instant};

use anyport_core::{ChunkPool, Slab, SlabKey};
use anyport_driver::{FILES_MAX, FileKey, FileOptions};

use super::{AppendFile, AppendRefusal, Appended, Machine};

/// One file.
pub(crate) struct Held {
    pub(crate) machine: Machine,
    pub(crate) path: PathBuf,
    pub(crate) options: FileOptions,
    pub(crate) keep: u32,
    /// The driver's, once it is open.
    pub(crate) key: Option<FileKey>,
    /// The driver is to open it.
    pub(crate) is_new: bool,
    pub(crate) dirty: bool,
}

/// Files, and the batches that go to them.
pub(crate) struct Files {
    pub(crate) held: Slab<Held>,
    /// Files with something to do at the end of the turn.
    pub(crate) dirty: Vec<SlabKey>,
    pub(crate) pool: ChunkPool,
    /// The service has ended but for these: they close, and none opens any more.
    pub(crate) ending: bool,
    /// They did not close in time.
    pub(crate) given_up: bool,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self {
            held: Slab::new(FILES_MAX),
            dirty: Vec::new(),
            pool: ChunkPool::new(),
            ending: false,
            given_up: false,
        }
    }

    pub(crate) fn open(&mut self, file: &AppendFile, now: Instant) -> Option<SlabKey> {
        if self.ending {
            return None;
        }
        let held = Held {
            machine: Machine::new(file, now),
            path: file.path.clone(),
            options: file.options,
            keep: file.keep,
            key: None,
            is_new: true,
            dirty: false,
        };
        let key = self.held.insert(held).ok()?;
        self.mark(key);
        Some(key)
    }

    pub(crate) fn append(&mut self, key: SlabKey, record: &[u8], now: Instant) -> Appended {
        let Some(held) = self.held.get_mut(key) else {
            return Appended::Refused(AppendRefusal::NotOpen);
        };
        let answer = held.machine.append(record, now, &mut self.pool);
        self.mark(key);
        answer
    }

    /// Does something with a file, and looks at the end of the turn what follows. False if there is none, or it says so.
    pub(crate) fn ask(&mut self, key: SlabKey, what: impl FnOnce(&mut Machine) -> bool) -> bool {
        let asked = self.held.get_mut(key).is_some_and(|held| what(&mut held.machine));
        self.mark(key);
        asked
    }

    #[inline]
    pub(crate) fn mark(&mut self, key: SlabKey) {
        if let Some(held) = self.held.get_mut(key)
            && !std::mem::replace(&mut held.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Closes all of them, with what is queued. False if there is none.
    pub(crate) fn end(&mut self) -> bool {
        self.ending = true;
        let keys: Vec<_> = self.held.iter().map(|(key, _)| key).collect();
        for key in &keys {
            self.ask(*key, |machine| {
                machine.close();
                true
            });
        }
        !keys.is_empty()
    }

    /// True if the service need not wait for them any more.
    pub(crate) fn are_over(&self) -> bool {
        self.held.is_empty() || self.given_up
    }

    /// What breaks a rule between two turns.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let mut queued = 0;
        for (_, held) in self.held.iter() {
            // What was asked for while files were flushed is on the list, for the next turn.
            if (held.is_new && !held.dirty) || (held.dirty && self.dirty.is_empty()) {
                return Err(format!("file {} was not flushed", held.path.display()));
            }
            if held.machine.has_stalled() && !held.dirty {
                return Err(format!("file {} has something to do, and does not", held.path.display()));
            }
            queued += held.machine.queued_bytes();
        }
        if queued == 0 && self.pool.batches_out() > 0 {
            return Err(format!(
                "{} batches of files are out, and no file has bytes",
                self.pool.batches_out()
            ));
        }
        Ok(())
    }
}
