//! Files: appended to and synced by the ring.
//!
//! A write that would block goes to a thread of the kernel's own. Renaming and opening anew, for a rotation, are done
//! by a thread of ours, which starts with the first one: rare, and nothing that gains by a ring.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, IntoRawFd},
    path::{Path, PathBuf},
};

use anyport_core::{Fault, FaultKind, SendBatch};
use io_uring::{opcode, squeue, types};
use rustix::io::Errno;

use super::{INVALID, IoUring, outcome, tag::Tag};
use crate::{
    FILES_MAX,
    files::{
        disk::{self, Opened},
        helper::{Done, Helper, Work},
        too_many,
    },
    options::FileOptions,
    types::{Completion, FileKey, Op, Outcome, Token},
    unix::errno,
};

/// Most pieces handed to the kernel in one write; the rest of a batch follows when they are written.
const PIECES_MAX: usize = 256;

/// What is in flight on a file, close aside.
enum Busy {
    /// The kernel reads the batch until the completion comes.
    Append(Token, Box<SendBatch>),
    Sync(Token),
    /// Our thread is at it.
    Rotate(Token),
    /// It is over without the kernel; until this is out, it counts as in flight.
    Over(Completion),
}

/// One file. A slot is freed only when nothing is in flight on it.
pub(super) struct RingFile {
    file: File,
    path: PathBuf,
    options: FileOptions,
    /// Where the next byte goes. The kernel appends wherever that is (`O_APPEND`).
    end: u64,
    /// How far it may go.
    end_max: u64,
    busy: Option<Busy>,
    /// The pieces of a gathered write, at an address that stays.
    pieces: Vec<libc::iovec>,
    close: Option<Token>,
}

impl RingFile {
    /// False if nothing more may be written. Others may have shortened or lengthened it, so our count does not tell.
    fn may_grow(&mut self) -> bool {
        if self.end_max < u64::MAX
            && let Ok(found) = self.file.metadata()
        {
            self.end = found.len();
        }
        self.end < self.end_max
    }

    /// A write of what remains of the batch in flight.
    fn write(&mut self, key: FileKey) -> squeue::Entry {
        let Some(Busy::Append(_, batch)) = &self.busy else { unreachable!("an append is in flight") };
        let fd = types::Fd(self.file.as_raw_fd());
        let entry = if let Some(piece) = batch.single() {
            let len = piece.len().min(i32::MAX as usize) as u32;
            opcode::Write::new(fd, piece.as_ptr(), len).offset(self.end).build()
        } else {
            self.pieces.clear();
            self.pieces.extend(batch.slices().take(PIECES_MAX).map(|piece| libc::iovec {
                iov_base: piece.as_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            }));
            opcode::Writev::new(fd, self.pieces.as_ptr(), self.pieces.len() as u32).offset(self.end).build()
        };
        entry.user_data(Tag::Append.with(key.0))
    }

    fn sync(&self, key: FileKey) -> squeue::Entry {
        let fd = types::Fd(self.file.as_raw_fd());
        let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        entry.user_data(Tag::Sync.with(key.0))
    }
}

impl IoUring {
    pub(super) fn open_to_append(&mut self, path: &Path, options: FileOptions) -> io::Result<(FileKey, u64)> {
        // Before the file is made.
        if self.files.len() >= FILES_MAX as usize {
            return Err(too_many());
        }
        let Opened { file, length: end, length_max } = disk::open(path, options)?;
        let path = path.to_owned();
        let file = RingFile {
            file,
            path,
            options,
            end,
            end_max: length_max,
            busy: None,
            pieces: Vec::new(),
            close: None,
        };
        let key = self.files.insert(Box::new(file)).map_err(|_closed_by_dropping_it| too_many())?;
        Ok((FileKey(key), end))
    }

    pub(super) fn submit_append(&mut self, token: Token, key: FileKey, batch: Box<SendBatch>) {
        let Some(file) = self.idle_file(key) else {
            return self.queue(token, Outcome::Appended(batch, Err(INVALID)));
        };
        if batch.remaining() == 0 {
            return self.end_by_itself(key, token, Outcome::Appended(batch, Ok(())));
        }
        if !file.may_grow() {
            return self.end_by_itself(key, token, Outcome::Appended(batch, Err(disk::too_long())));
        }
        file.busy = Some(Busy::Append(token, batch));
        self.push_write(key);
    }

    fn push_write(&mut self, key: FileKey) {
        let file = self.files.get_mut(key.0).expect("a write is on a file that is there");
        let entry = file.write(key);
        // SAFETY: batch and pieces are on the heap, owned by the file's slot, and are neither changed nor freed
        // until the write's completion takes the batch out; the descriptor lives as long as the slot.
        unsafe { self.ring.push(&entry) };
    }

    pub(super) fn submit_sync(&mut self, token: Token, key: FileKey) {
        let Some(file) = self.idle_file(key) else {
            return self.queue(token, Outcome::Synced(Err(INVALID)));
        };
        file.busy = Some(Busy::Sync(token));
        let entry = file.sync(key);
        // SAFETY: a sync points at nothing; the descriptor lives as long as the slot.
        unsafe { self.ring.push(&entry) };
    }

    pub(super) fn submit_rotate(&mut self, token: Token, key: FileKey, keep: u32) {
        if self.idle_file(key).is_none() {
            return self.queue(token, Op::Rotate { file: key, keep }.failed(INVALID));
        }
        if self.helper.is_none() {
            match Helper::start(self.waker.clone()) {
                Ok(helper) => self.helper = Some(helper),
                Err(error) => {
                    return self.end_by_itself(key, token, Outcome::Rotated(Err(disk::fault_of(&error))));
                }
            }
        }
        let (Some(helper), Some(file)) = (&mut self.helper, self.files.get_mut(key.0)) else {
            unreachable!("both are there: looked at above")
        };
        file.busy = Some(Busy::Rotate(token));
        helper.give(key.0, Work::Rotate(None, file.path.clone(), file.options, keep));
    }

    pub(super) fn submit_close_file(&mut self, token: Token, key: FileKey) {
        match self.files.get_mut(key.0).filter(|file| file.close.is_none()) {
            Some(file) => file.close = Some(token),
            None => return self.queue(token, Outcome::FileClosed(Err(INVALID))),
        }
        self.finish_close_of_file(key);
    }

    /// Sends the outcome of an operation that is over without the kernel through the ring, which brings it out.
    fn end_by_itself(&mut self, key: FileKey, token: Token, outcome: Outcome) {
        let file = self.files.get_mut(key.0).expect("what is over was on a file that is there");
        file.busy = Some(Busy::Over(Completion { token, outcome }));
        let entry = opcode::Nop::new().build().user_data(Tag::Over.with(key.0));
        // SAFETY: it points at nothing.
        unsafe { self.ring.push(&entry) };
    }

    fn idle_file(&mut self, key: FileKey) -> Option<&mut RingFile> {
        let file = self.files.get_mut(key.0)?;
        (file.busy.is_none() && file.close.is_none()).then_some(&mut **file)
    }

    /// Frees a closing file once nothing is in flight on it.
    fn finish_close_of_file(&mut self, key: FileKey) {
        let Some(file) = self.files.get(key.0) else { return };
        let Some(token) = file.close.filter(|_| file.busy.is_none()) else { return };
        let file = self.files.remove(key.0).expect("looked up above");
        self.close_descriptor(file.file);
        self.queue(token, Outcome::FileClosed(Ok(())));
    }

    /// Closing may write, on a disk elsewhere: the kernel does it when it is handed the next entries.
    fn close_descriptor(&mut self, file: File) {
        let entry = opcode::Close::new(types::Fd(file.into_raw_fd()));
        let entry = entry.build().flags(squeue::Flags::SKIP_SUCCESS).user_data(Tag::Ignored.plain());
        // SAFETY: a close points at nothing, and nobody else has the descriptor.
        unsafe { self.ring.push_unowed(&entry) };
    }

    // ---- completions ----

    pub(super) fn appended(&mut self, key: FileKey, result: i32, out: &mut Vec<Completion>) {
        let file = self.files.get_mut(key.0).expect("a slot is not freed while a write is in flight");
        let Some(Busy::Append(_, batch)) = &mut file.busy else {
            unreachable!("a write completed that was in flight")
        };
        let result = match outcome(result) {
            Ok(0) => Err(Fault::of(FaultKind::Other)),
            Ok(count) => {
                batch.advance(count as usize);
                file.end += u64::from(count);
                match batch.remaining() {
                    0 => Ok(()),
                    _ if file.may_grow() => return self.push_write(key),
                    _ => Err(disk::too_long()),
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => return self.push_write(key),
            Err(errno) => Err(errno::fault(errno)),
        };
        let Some(Busy::Append(token, batch)) = file.busy.take() else { unreachable!("looked at above") };
        out.push(Completion { token, outcome: Outcome::Appended(batch, result) });
        self.finish_close_of_file(key);
    }

    pub(super) fn synced(&mut self, key: FileKey, result: i32, out: &mut Vec<Completion>) {
        let file = self.files.get_mut(key.0).expect("a slot is not freed while a sync is in flight");
        let Some(Busy::Sync(token)) = file.busy.take() else {
            unreachable!("a sync completed that was in flight")
        };
        let result = outcome(result).map(|_| ()).map_err(errno::fault);
        out.push(Completion { token, outcome: Outcome::Synced(result) });
        self.finish_close_of_file(key);
    }

    pub(super) fn over(&mut self, key: FileKey, out: &mut Vec<Completion>) {
        let file = self.files.get_mut(key.0).expect("a slot is not freed before what is over is out");
        let Some(Busy::Over(completion)) = file.busy.take() else { unreachable!("it was in flight") };
        out.push(completion);
        self.finish_close_of_file(key);
    }

    /// Takes back what our thread has done.
    pub(super) fn collect_rotated(&mut self) {
        while let Some((key, done)) = self.helper.as_mut().and_then(Helper::take) {
            let Done::Rotated(new) = done else { unreachable!("nothing else is given to it") };
            let file = self.files.get_mut(key).expect("a slot is not freed while a rotation is in flight");
            let Some(Busy::Rotate(token)) = file.busy.take() else {
                unreachable!("a rotation is done that was in flight")
            };
            let old = new.map(|new| {
                (file.end, file.end_max) = (new.length, new.length_max);
                std::mem::replace(&mut file.file, new.file)
            });
            let result = old.map(|old| self.close_descriptor(old)).map_err(|(_, fault)| fault);
            self.end_by_itself(FileKey(key), token, Outcome::Rotated(result));
        }
    }
}
