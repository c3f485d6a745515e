//! A thread that does for a driver what may take long on a disk.
//!
//! Work goes over by value and comes back by value: while the thread has a file or a batch, nobody else does. It
//! wakes the driver when something is done.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyport_core::{Fault, SendBatch, SlabKey};

use super::disk::{self, Opened};
use crate::{machine, options::FileOptions, wake::Waker};

/// How long a dropped driver waits for a disk; what is not done by then is left to the thread, which owns all of it.
const JOIN_WAIT: Duration = Duration::from_secs(10);

/// What the thread is asked to do.
pub(crate) enum Work {
    /// To a file that may have so many bytes.
    Append(File, Box<SendBatch>, u64),
    Sync(File),
    /// With the old file, which is closed once there is a new one; `None` if whoever asks keeps it.
    Rotate(Option<File>, PathBuf, FileOptions, u32),
    Close(File),
}

/// What came of it.
pub(crate) enum Done {
    Appended(File, Box<SendBatch>, Result<(), Fault>),
    Synced(File, Result<(), Fault>),
    /// The new file; or else the old one, if it was handed over.
    Rotated(Result<Opened, (Option<File>, Fault)>),
    Closed,
}

/// The driver's side of the thread.
pub(crate) struct Helper {
    /// `None` only while it is dropped.
    work: Option<Sender<(SlabKey, Work)>>,
    done: Receiver<(SlabKey, Done)>,
    thread: Option<JoinHandle<()>>,
    /// Handed over and not taken back.
    out: usize,
}

impl Helper {
    pub(crate) fn start(waker: Waker) -> io::Result<Self> {
        let (work, todo) = channel();
        let (finished, done) = channel();
        let run = move || {
            while let Ok((key, work)) = todo.recv() {
                let result = carry_out(work);
                // Who asked has gone: what is left to do is done all the same.
                let _ = finished.send((key, result));
                waker.wake();
            }
        };
        let thread =
            std::thread::Builder::new().name("anyport-files".to_owned()).spawn(machine::unbound(run))?;
        Ok(Self { work: Some(work), done, thread: Some(thread), out: 0 })
    }

    pub(crate) fn give(&mut self, key: SlabKey, work: Work) {
        let sender = self.work.as_ref().expect("there until it is dropped");
        sender.send((key, work)).expect("the thread lives as long as it may be given work");
        self.out += 1;
    }

    /// What is done, in the order in which it was given. No system call if nothing is out.
    pub(crate) fn take(&mut self) -> Option<(SlabKey, Done)> {
        if self.out == 0 {
            return None;
        }
        let done = self.done.try_recv().ok()?;
        self.out -= 1;
        Some(done)
    }
}

impl Drop for Helper {
    /// Lets the thread finish what it was given. It owns what it works on, so one that a disk holds up may stay behind.
    fn drop(&mut self) {
        drop(self.work.take());
        let until = Instant::now() + JOIN_WAIT;
        loop {
            match self.done.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry_out(work: Work) -> Done {
    match work {
        Work::Append(file, mut batch, length_max) => {
            let result = disk::append(&file, &mut batch, length_max);
            Done::Appended(file, batch, result)
        }
        Work::Sync(file) => {
            let result = file.sync_data().map_err(|error| disk::fault_of(&error));
            Done::Synced(file, result)
        }
        Work::Rotate(old, path, options, keep) => match disk::rotate(&path, options, keep) {
            Ok(new) => {
                // To close it may write, on a disk elsewhere.
                drop(old);
                Done::Rotated(Ok(new))
            }
            Err(error) => Done::Rotated(Err((old, disk::fault_of(&error)))),
        },
        Work::Close(file) => {
            drop(file);
            Done::Closed
        }
    }
}
