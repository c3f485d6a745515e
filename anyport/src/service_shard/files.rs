//! Files: what their machines ask for, and what became of it.

use std::time::Duration;

use anyport_core::{Fault, FaultKind, SlabKey};
use anyport_driver::{Driver, Op, SendBatch};

use super::{ServiceShard, token};
use crate::{
    append_file::{Action, FileEvent, FileId},
    handler::Handler,
    session::TimerEvent,
};

/// The least that files are given to close when the service ends.
const CLOSE_TIME_MIN: Duration = Duration::from_secs(1);

impl<H: Handler> ServiceShard<H> {
    /// Carries out what the machines of files ask for. What handlers ask for meanwhile waits for the next turn: one that
    /// opens a file again whenever it fails would keep the shard here for ever.
    pub(super) fn flush_files<D: Driver>(&mut self, io: &mut D) {
        let mut dirty = std::mem::take(&mut self.local.files.dirty);
        for key in dirty.drain(..) {
            let Some(held) = self.local.files.held.get_mut(key) else { continue };
            held.dirty = false;
            if std::mem::take(&mut held.is_new) {
                self.open_file(io, key);
            }
            self.flush_file(io, key);
        }
        if self.local.files.dirty.is_empty() {
            self.local.files.dirty = dirty;
        }
    }

    fn open_file<D: Driver>(&mut self, io: &mut D, key: SlabKey) {
        let files = &mut self.local.files;
        let held = files.held.get_mut(key).expect("looked at above");
        let event = match io.open_file(&held.path, &held.options) {
            Ok((opened, length)) => {
                held.key = Some(opened);
                held.machine.opened(length)
            }
            Err(error) => {
                let text = || format!("cannot open {} to append to it: {error}", held.path.display());
                self.log_limit.note_error(self.local.now, text);
                held.machine.not_opened(fault_of(&error), &mut files.pool)
            }
        };
        self.tell(key, event);
    }

    fn flush_file<D: Driver>(&mut self, io: &mut D, key: SlabKey) {
        let token = token(self.local.service, key);
        let Some(held) = self.local.files.held.get_mut(key) else { return };
        let Some(action) = held.machine.poll() else { return };
        let Some(file) = held.key else {
            // It never opened: there is nothing but the close.
            return self.file_closed(key);
        };
        io.submit(
            token,
            match action {
                Action::Append(batch) => Op::Append { file, batch },
                Action::Sync => Op::Sync { file },
                Action::Rotate => Op::Rotate { file, keep: held.keep },
                Action::Close => Op::CloseFile { file },
            },
        );
    }

    /// When nothing else of the service is left, its files close, from the next turn on.
    pub(super) fn end_files(&mut self) {
        if !self.is_over_but_for_files() || self.local.files.ending || !self.local.files.end() {
            return;
        }
        let time =
            if self.aborted { CLOSE_TIME_MIN } else { self.local.limits.drain_deadline.max(CLOSE_TIME_MIN) };
        let deadline = self.local.deadline(time);
        self.local.wheel.set(deadline, TimerEvent::FilesDeadline);
    }

    /// The end is hard: files that are closing already have no more time than others.
    pub(super) fn hurry_files(&mut self) {
        if self.local.files.ending {
            let deadline = self.local.deadline(CLOSE_TIME_MIN);
            self.local.wheel.set(deadline, TimerEvent::FilesDeadline);
        }
    }

    /// The files had their time to close.
    pub(super) fn give_files_up(&mut self) {
        if self.local.files.given_up {
            return;
        }
        for (_, held) in self.local.files.held.iter() {
            let (path, bytes) = (held.path.display(), held.machine.queued_bytes());
            log::error!("{path} did not take {bytes} bytes within the drain deadline; they may be lost");
            self.local.counters.file_faults += 1;
        }
        self.local.files.given_up = true;
    }

    // ---- completions ----

    pub(super) fn appended(&mut self, key: SlabKey, batch: Box<SendBatch>, result: Result<(), Fault>) {
        self.local.counters.bytes_appended += batch.sent() as u64;
        let files = &mut self.local.files;
        let held = files.held.get_mut(key).expect("a file is not freed while an append is in flight");
        let event = held.machine.appended(batch, result, &mut files.pool);
        files.mark(key);
        if let Some(event) = event {
            self.tell(key, event);
        }
    }

    pub(super) fn synced(&mut self, key: SlabKey, result: Result<(), Fault>) {
        let files = &mut self.local.files;
        let held = files.held.get_mut(key).expect("a file is not freed while a sync is in flight");
        let event = held.machine.synced(result, &mut files.pool);
        files.mark(key);
        self.tell(key, event);
    }

    pub(super) fn rotated(&mut self, key: SlabKey, result: Result<(), Fault>) {
        let files = &mut self.local.files;
        let held = files.held.get_mut(key).expect("a file is not freed while a rotation is in flight");
        let event = held.machine.rotated(result);
        files.mark(key);
        self.tell(key, event);
    }

    pub(super) fn file_closed(&mut self, key: SlabKey) {
        self.local.files.held.remove(key).expect("a file closes once");
        self.tell(key, FileEvent::Closed);
    }

    fn tell(&mut self, key: SlabKey, event: FileEvent) {
        let path = self.local.files.held.get(key).map(|held| held.path.display());
        match (event, path) {
            (FileEvent::Failed { fault, lost_bytes }, Some(path)) => {
                let text = || {
                    format!("{path}: {fault}; nothing is appended any more, and {lost_bytes} bytes are lost")
                };
                self.log_limit.note_error(self.local.now, text);
            }
            (FileEvent::NotRotated(fault), Some(path)) => {
                let text = || format!("{path} cannot be rotated, and grows: {fault}");
                self.log_limit.note_error(self.local.now, text);
            }
            _ => {}
        }
        if matches!(event, FileEvent::Failed { .. } | FileEvent::NotRotated(_)) {
            self.local.counters.file_faults += 1;
        }
        let id = FileId::new(self.local.shard, self.local.service, key);
        self.call_shard(|handler, shard| handler.on_file(shard, id, event));
    }
}

/// The class of an error of opening, for the answer of every append after it; the log has its text.
fn fault_of(error: &std::io::Error) -> Fault {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => FaultKind::NotPermitted,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FaultKind::NoSpace,
        _ => FaultKind::Other,
    };
    Fault::new(kind, error.raw_os_error().unwrap_or(0))
}
