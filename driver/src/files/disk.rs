//! The calls of the system on files: opening, appending, rotating. They block.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Write},
    path::Path,
};

use anyport_core::{Fault, FaultKind, SendBatch};

use crate::options::{FileOptions, numbered};

/// Most pieces in one gathered write.
const PIECES_MAX: usize = 64;

/// A file that was opened.
pub(crate) struct Opened {
    pub(crate) file: File,
    /// Bytes that it has.
    pub(crate) length: u64,
    /// How long it may become (`ulimit -f`).
    pub(crate) length_max: u64,
}

/// Opens a file for appending.
///
/// The system itself puts what is written at the end (`O_APPEND`, `FILE_APPEND_DATA`): a file that somebody shortens
/// meanwhile gets no hole, and two programs that append to one do not overwrite each other.
pub(crate) fn open(path: &Path, options: FileOptions) -> io::Result<Opened> {
    refuse_odd(path)?;
    let mut how = OpenOptions::new();
    how.append(true).create(true);
    #[cfg(unix)]
    if options.private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut how, 0o600);
    }
    #[cfg(not(unix))]
    let FileOptions { private: _the_folder_decides } = options;
    let file = how.open(path)?;
    let found = file.metadata()?;
    let length_max = if found.is_file() { length_max() } else { u64::MAX };
    Ok(Opened { file, length: found.len(), length_max })
}

/// The process's limit on the length of a file.
///
/// A write at the limit brings a signal (`SIGXFSZ`) that ends a process which does not care for it, and all for a log.
/// So nobody writes there: what crosses the limit is cut short by the kernel, and after that we fail it ourselves.
fn length_max() -> u64 {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX);
    #[cfg(not(unix))]
    u64::MAX
}

/// The fault of a file that may not become longer.
pub(crate) fn too_long() -> Fault {
    #[cfg(unix)]
    return crate::unix::errno::fault(rustix::io::Errno::FBIG);
    #[cfg(not(unix))]
    Fault::of(FaultKind::NoSpace)
}

/// To open a pipe waits for who reads it, perhaps for ever. A device is taken: `/dev/null` is a file to many.
fn refuse_odd(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    let kind = found.file_type();
    #[cfg(unix)]
    let is_device = std::os::unix::fs::FileTypeExt::is_char_device(&kind);
    #[cfg(not(unix))]
    let is_device = false;
    if kind.is_file() || is_device {
        return Ok(());
    }
    let text = format!("{} is no file to append to, but a folder, a pipe or a socket", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// Appends the rest of a batch to a file that may have `length_max` bytes; what is taken is counted in the batch, also if
/// it fails in the middle.
pub(crate) fn append(mut file: &File, batch: &mut SendBatch, length_max: u64) -> Result<(), Fault> {
    while batch.remaining() > 0 {
        // Asked each time, where there is a limit: others may have shortened or lengthened the file.
        if length_max < u64::MAX && file.metadata().is_ok_and(|found| found.len() >= length_max) {
            return Err(too_long());
        }
        let written = if let Some(bytes) = batch.single() {
            file.write(bytes)
        } else {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let mut count = 0;
            for (piece, bytes) in pieces.iter_mut().zip(batch.slices()) {
                *piece = IoSlice::new(bytes);
                count += 1;
            }
            file.write_vectored(&pieces[..count])
        };
        match written {
            Ok(0) => return Err(Fault::of(FaultKind::Other)),
            Ok(count) => batch.advance(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fault_of(&error)),
        }
    }
    Ok(())
}

/// Moves every old file one place on, up to the first place that is free, and opens a new one. In a failure the names
/// that were moved stay moved, and the gap among them is filled the next time.
pub(crate) fn rotate(path: &Path, options: FileOptions, keep: u32) -> io::Result<Opened> {
    // `keep` may be any number, `u32::MAX` for all of them: what counts is how many there are.
    let is_free = |place: &u32| fs::symlink_metadata(numbered(path, *place)).is_err();
    let free = (1..keep.max(1)).find(is_free).unwrap_or(keep.max(1));
    for place in (0..free).rev() {
        match fs::rename(numbered(path, place), numbered(path, place + 1)) {
            // Few have been rotated yet, or somebody took one away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    open(path, options)
}

/// The fault of a call that failed.
pub(crate) fn fault_of(error: &io::Error) -> Fault {
    #[cfg(windows)]
    return crate::iocp::errors::fault_of(error);
    #[cfg(unix)]
    rustix::io::Errno::from_io_error(error).map_or(Fault::of(FaultKind::Other), crate::unix::errno::fault)
}
