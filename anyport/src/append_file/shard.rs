//! What a handler does with files.

use super::{AppendFile, AppendRefusal, Appended, FileId, Machine};
use crate::{
    handler::Handler,
    session::{Session, Shard},
};

impl<H: Handler> Shard<'_, H> {
    /// Opens a file to append to, at the end of this turn; [`on_file`](Handler::on_file) tells how that went. Records
    /// can be appended at once: they wait for it. `None` if 1,024 are open here already, or the engine is ending.
    ///
    /// Opening and closing a file asks the system while this shard waits: do it at the start, not for each message.
    pub fn open_file(&mut self, file: &AppendFile) -> Option<FileId> {
        let key = self.local.files.open(file, self.local.now)?;
        Some(FileId::new(self.local.shard, self.local.service, key))
    }

    /// Queues a record. What is queued in a turn goes to the disk together, behind all that was queued before; while
    /// that is written, what comes gathers for the next time. No disk is waited for.
    ///
    /// When the service ends, what is queued is written, and the file closed, after the last session has ended.
    #[inline]
    pub fn append(&mut self, file: FileId, record: &[u8]) -> Appended {
        let answer = if self.is_here(file) {
            self.local.files.append(file.key, record, self.local.now)
        } else {
            Appended::Refused(AppendRefusal::NotOpen)
        };
        if answer != Appended::Queued {
            self.local.counters.appends_refused += 1;
        }
        answer
    }

    /// Brings what was queued so far to the medium, so that it outlives a loss of power;
    /// [`on_file`](Handler::on_file) tells when it is there, once for all calls that were answered together. False if the
    /// file is not open, or has failed.
    pub fn sync_file(&mut self, file: FileId) -> bool {
        self.is_here(file) && self.local.files.ask(file.key, Machine::sync)
    }

    /// Begins a new file after what was queued so far, whatever its size and age. False if it is not open, or has
    /// failed.
    pub fn rotate_file(&mut self, file: FileId) -> bool {
        let now = self.local.now;
        self.is_here(file) && self.local.files.ask(file.key, |machine| machine.rotate(now))
    }

    /// Closes a file after what was queued so far. Nothing can be appended any more.
    pub fn close_file(&mut self, file: FileId) {
        if self.is_here(file) {
            self.local.files.ask(file.key, |machine| {
                machine.close();
                true
            });
        }
    }

    /// Bytes that are queued for a file and not known to be in it; 0 if there is no such file here.
    pub fn file_queued_bytes(&self, file: FileId) -> usize {
        let held = self.local.files.held.get(file.key).filter(|_| self.is_here(file));
        held.map_or(0, |held| held.machine.queued_bytes())
    }

    fn is_here(&self, file: FileId) -> bool {
        file.shard == self.local.shard && file.service == self.local.service
    }
}

impl<H: Handler> Session<'_, H> {
    /// Queues a record for a file of this shard: short for [`Shard::append`].
    #[inline]
    pub fn append(&mut self, file: FileId, record: &[u8]) -> Appended {
        self.shard().append(file, record)
    }
}
