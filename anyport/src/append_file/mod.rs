//! Files that are appended to: an audit trail, a journal, a log.
//!
//! | file | what |
//! |---|---|
//! | `machine` | what is to be done next: order, limits, rotation, the sticky error; no I/O |
//! | `table` | the files of one service on one shard |
//! | `shard` | what a handler calls |
//! | `log_file` | a file that any thread appends to |

mod log_file;
mod machine;
mod shard;
mod table;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyport_core::{Fault, SessionId, SlabKey};
use anyport_driver::FileOptions;

pub use log_file::LogFile;
pub(crate) use machine::{Action, Machine};
pub(crate) use table::Files;

/// A file to append to: where it is, and what its limits are.
///
/// ```
/// use anyport::AppendFile;
/// let audit = AppendFile::at("audit.log").rotate_at_bytes(64 << 20).keep(7);
/// # let _ = audit;
/// ```
///
/// Records are appended in the order in which they were queued, each whole and right behind the one before. A rotation
/// comes between two records. What a crash of the process leaves is what the system had taken: all records up to some
/// point, and perhaps the beginning of one more.
#[derive(Clone, Debug)]
pub struct AppendFile {
    path: PathBuf,
    options: FileOptions,
    rotate_at_bytes: Option<u64>,
    rotate_after: Option<Duration>,
    keep: u32,
    queue_max_bytes: usize,
}

impl AppendFile {
    /// The file at `path`. It is made if it is missing; its folder is not. Without rotation, and with room for 1 MiB
    /// that the disk has not taken yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            options: FileOptions::default(),
            rotate_at_bytes: None,
            rotate_after: None,
            keep: 5,
            queue_max_bytes: 1 << 20,
        }
    }

    /// A record that would make the file longer than `bytes` goes to a new one; the old one is called `path.1` from
    /// then on, the one before it `path.2`, and so on. A file with nothing in it takes a record of any size.
    pub fn rotate_at_bytes(mut self, bytes: u64) -> Self {
        self.rotate_at_bytes = Some(bytes);
        self
    }

    /// The first record that comes when the file was begun so long ago, or opened, goes to a new one. No record, no
    /// rotation.
    pub fn rotate_after(mut self, time: Duration) -> Self {
        self.rotate_after = Some(time);
        self
    }

    /// How many old files a rotation leaves: the oldest one makes room. Default 5; 0 is taken as 1, and `u32::MAX` keeps
    /// all. Files with higher numbers, of a time when it was greater, stay; whoever lowers it removes them.
    pub fn keep(mut self, files: u32) -> Self {
        self.keep = files;
        self
    }

    /// Most bytes that wait for the disk; a record above that is refused, and counted. Default 1 MiB.
    pub fn queue_max_bytes(mut self, bytes: usize) -> Self {
        self.queue_max_bytes = bytes;
        self
    }

    /// Nobody but the owner may read the file, if it is made here (mode 600). Windows takes the rights of the folder.
    pub fn private(mut self) -> Self {
        self.options.private = true;
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Names a file that was opened on a shard. It is never used again for another; one that has closed names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileId {
    shard: u8,
    service: u8,
    key: SlabKey,
}

impl FileId {
    pub(crate) fn new(shard: u8, service: u8, key: SlabKey) -> Self {
        Self { shard, service, key }
    }
}

impl fmt::Display for FileId {
    /// `shard.service.index.generation`, as of a session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SessionId::new(self.shard, self.service, self.key).fmt(f)
    }
}

/// What appending answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appended {
    /// Queued; it goes to the disk at the end of the turn, with all that was queued before.
    Queued,
    /// Not queued.
    Refused(AppendRefusal),
}

/// Why a record was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AppendRefusal {
    /// There is no such file here, or it is closing.
    NotOpen,
    /// The disk is slower than the records come: more than `queue_max_bytes` would be waiting.
    Full,
    /// An operation on the file failed before, for this reason. Nothing is appended any more: a record must not follow
    /// on a gap. Close the file and open one again when the cause is removed.
    Failed(Fault),
}

/// What became of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FileEvent {
    /// It is open, and had so many bytes.
    Opened {
        /// Bytes that were in it.
        length: u64,
    },
    /// What was queued before [`sync_file`](crate::Shard::sync_file) is on the medium.
    Synced,
    /// A new file was begun.
    Rotated,
    /// No new file could be begun: appending goes on in the old one, and it is tried again when that has grown by as
    /// much once more, or is as old.
    NotRotated(Fault),
    /// It could not be opened, appended to or synced: told once. It refuses everything from now on.
    Failed {
        /// Why.
        fault: Fault,
        /// Bytes that were queued, and are not in the file for certain.
        lost_bytes: u64,
    },
    /// It is closed, with all that was queued, unless it had failed. Its id names nothing any more.
    Closed,
}
