//! Files of drivers whose system does not complete writes to files: a thread of the driver makes the calls.
//!
//! Readiness says nothing of a file: it is always ready, and a write to it blocks all the same. Windows has overlapped
//! writes, but one that makes a file longer is carried out inside the call, and flushing has no overlapped form. So
//! both hand an operation to a thread, which starts with the first file, and go on when it wakes them.
//!
//! | file | what |
//! |---|---|
//! | `disk` | the blocking calls |
//! | `helper` | the thread |

pub(crate) mod disk;
pub(crate) mod helper;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use anyport_core::{Fault, FaultKind, Slab, SlabKey};

use self::{
    disk::Opened,
    helper::{Done, Helper, Work},
};
use crate::{
    FILES_MAX,
    options::FileOptions,
    queue::{Queue, Ticket},
    types::{FileKey, Op, Outcome, Token},
    wake::Waker,
};

const INVALID: Fault = Fault::of(FaultKind::InvalidSocket);

/// The error of one file too many.
pub(crate) fn too_many() -> io::Error {
    let text = format!("a driver has at most {FILES_MAX} files open: close one first");
    io::Error::new(io::ErrorKind::QuotaExceeded, text)
}

struct Entry {
    path: PathBuf,
    options: FileOptions,
    /// `None` while the thread has it.
    file: Option<File>,
    /// Bytes that it may have.
    length_max: u64,
    /// What is in flight, close aside.
    busy: Option<Token>,
    /// When the completion of the last operation is out.
    ends: Ticket,
    close: Option<Token>,
}

/// The files of one driver.
pub(crate) struct Files {
    entries: Slab<Entry>,
    helper: Option<Helper>,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self { entries: Slab::new(FILES_MAX), helper: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Opens a file, as [`open_file`](crate::Driver::open_file) says. `waker` is the driver's.
    pub(crate) fn open(
        &mut self,
        path: &Path,
        options: FileOptions,
        waker: &Waker,
    ) -> io::Result<(FileKey, u64)> {
        // Before the file is made.
        if self.entries.len() >= FILES_MAX as usize {
            return Err(too_many());
        }
        let Opened { file, length, length_max } = disk::open(path, options)?;
        if self.helper.is_none() {
            self.helper = Some(Helper::start(waker.clone())?);
        }
        let entry = Entry {
            path: path.to_owned(),
            options,
            file: Some(file),
            length_max,
            busy: None,
            ends: Ticket::default(),
            close: None,
        };
        let key = self.entries.insert(entry).map_err(|_closed_by_dropping_it| too_many())?;
        Ok((FileKey(key), length))
    }

    /// Starts an operation on a file.
    ///
    /// # Panics
    /// If it is one on a socket.
    pub(crate) fn submit(&mut self, token: Token, op: Op, finished: &mut Queue) {
        let (FileKey(key), closes) = match &op {
            Op::Append { file, .. } | Op::Sync { file } | Op::Rotate { file, .. } => (*file, false),
            Op::CloseFile { file } => (*file, true),
            other => unreachable!("{:?} is no operation on a file", other.kind()),
        };
        let usable = |entry: &&mut Entry| {
            entry.close.is_none() && (closes || (entry.busy.is_none() && finished.is_out(entry.ends)))
        };
        let Some(entry) = self.entries.get_mut(key).filter(usable) else {
            finished.push(token, op.failed(INVALID));
            return;
        };
        if closes {
            entry.close = Some(token);
            return self.close_if_idle(key);
        }
        let mut give =
            |work| self.helper.as_mut().expect("it was started with the first file").give(key, work);
        match op {
            Op::Append { batch, .. } => {
                let file = entry.file.take().expect("an idle file is here");
                give(Work::Append(file, batch, entry.length_max));
            }
            Op::Sync { .. } => give(Work::Sync(entry.file.take().expect("an idle file is here"))),
            // If there is no new file, the old one comes back, and appending goes on in it.
            Op::Rotate { keep, .. } => {
                give(Work::Rotate(entry.file.take(), entry.path.clone(), entry.options, keep));
            }
            _ => unreachable!("looked at above"),
        }
        entry.busy = Some(token);
    }

    /// Takes back what the thread has done.
    pub(crate) fn collect(&mut self, finished: &mut Queue) {
        while let Some((key, done)) = self.helper.as_mut().and_then(Helper::take) {
            let entry = self.entries.get_mut(key).expect("a file outlives its operations");
            if let Done::Closed = done {
                let entry = self.entries.remove(key).expect("looked up above");
                finished.push(entry.close.expect("only a close closes"), Outcome::FileClosed(Ok(())));
                continue;
            }
            let token = entry.busy.take().expect("what is done was in flight");
            let outcome = match done {
                Done::Appended(file, batch, result) => {
                    entry.file = Some(file);
                    Outcome::Appended(batch, result)
                }
                Done::Synced(file, result) => {
                    entry.file = Some(file);
                    Outcome::Synced(result)
                }
                Done::Rotated(Ok(new)) => {
                    (entry.file, entry.length_max) = (Some(new.file), new.length_max);
                    Outcome::Rotated(Ok(()))
                }
                Done::Rotated(Err((old, fault))) => {
                    entry.file = old;
                    Outcome::Rotated(Err(fault))
                }
                Done::Closed => unreachable!("handled above"),
            };
            entry.ends = finished.push(token, outcome);
            self.close_if_idle(key);
        }
    }

    /// Closing may write, too: the thread does it.
    fn close_if_idle(&mut self, key: SlabKey) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.close.is_some()) else { return };
        if entry.busy.is_none()
            && let Some(file) = entry.file.take()
            && let Some(helper) = &mut self.helper
        {
            helper.give(key, Work::Close(file));
        }
    }
}
