//! What the handler does with its file, and knows of it.

use anyport::{AppendFile, AppendRefusal, Appended, FileEvent, FileId, Shard};

use super::{Call, Everything};
use crate::stream::Wire;

/// The file of one handler. It is opened with the first record, and again with the next one when it was closed.
#[derive(Default, Debug)]
pub(crate) struct Records {
    pub(super) file: Option<FileId>,
    is_closing: bool,
    failed: bool,
    /// Records that were queued: each is its number, on a line.
    queued: u64,
    syncs_asked: u64,
    syncs_told: u64,
    rotations_asked: u64,
    rotations_told: u64,
}

impl<C: Wire> Everything<C> {
    pub(super) fn use_file(&mut self, shard: &mut Shard<Self>, call: Call) {
        if self.records.file.is_none() {
            let path = format!("records of {}.{}", self.shard, self.number);
            self.records = Records { queued: self.records.queued, ..Records::default() };
            self.records.file = shard.open_file(&AppendFile::at(path));
        }
        let Some(file) = self.records.file else { return };
        let records = &mut self.records;
        let answer = match call {
            Call::SyncFile => {
                let taken = shard.sync_file(file);
                records.syncs_asked += u64::from(taken);
                taken
            }
            Call::RotateFile => {
                let taken = shard.rotate_file(file);
                records.rotations_asked += u64::from(taken);
                taken
            }
            Call::CloseFile => {
                shard.close_file(file);
                records.is_closing = true;
                return;
            }
            _ => {
                let answer = shard.append(file, format!("{}\n", records.queued + 1).as_bytes());
                records.queued += u64::from(answer == Appended::Queued);
                if answer == Appended::Refused(AppendRefusal::Full) {
                    return;
                }
                answer == Appended::Queued
            }
        };
        let (failed, is_closing) = (records.failed, records.is_closing);
        let right = match (is_closing, self.is_ending) {
            (true, _) => !answer,
            // The service closes it, without having been asked.
            (false, true) => !(answer && failed),
            (false, false) => answer != failed,
        };
        self.shared.ledger().ensure(right, || {
            format!("{call:?} of {file:?} answered {answer}; it failed: {failed}, it closes: {is_closing}")
        });
    }

    pub(super) fn file_event(&mut self, file: FileId, event: FileEvent) {
        let records = &mut self.records;
        let known = records.file == Some(file);
        let right = match event {
            FileEvent::Synced => {
                records.syncs_told += 1;
                records.syncs_told <= records.syncs_asked
            }
            FileEvent::Rotated | FileEvent::NotRotated(_) => {
                records.rotations_told += 1;
                records.rotations_told <= records.rotations_asked
            }
            FileEvent::Failed { .. } => !std::mem::replace(&mut records.failed, true),
            FileEvent::Closed => {
                records.file = None;
                records.is_closing || self.is_ending
            }
            _ => true,
        };
        self.shared.ledger().ensure(known && right, || {
            format!("{event:?} of {file:?}, which is the handler's: {known}, and was not asked for")
        });
    }
}
