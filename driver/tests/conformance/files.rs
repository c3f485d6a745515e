//! Sentence 14: files that are appended to.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use anyport_core::ChunkPool;
use anyport_driver::{Driver, FILES_MAX, FaultKind, FileKey, FileOptions, Op, OpKind, SendBatch, SocketKey};

use crate::{
    bed::{Bed, CONFIG, Chance, Seen, World, pattern},
    relayed::Stepped,
    simulated::{Simulated, Weather},
    system::{OnSystem, System},
};

const INVALID: FaultKind = FaultKind::InvalidSocket;

/// A world with a disk.
pub(crate) trait Disk: World {
    /// A folder for one case.
    fn folder(&self) -> Folder;
    /// What is in a file; `None` if there is none.
    fn read(&self, path: &Path) -> Option<Vec<u8>>;
    /// Puts a folder there, with something in it.
    fn put_folder(&self, path: &Path);
}

/// A folder that goes with the case.
pub(crate) struct Folder {
    path: PathBuf,
    is_real: bool,
}

impl Folder {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_real {
            // What stays behind lies among temporary files.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl<S: System> Disk for OnSystem<S> {
    fn folder(&self) -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("anyport-files-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Folder { path, is_real: true },
                // Process ids come again, and one that was killed left its folders.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        std::fs::read(path).ok()
    }

    fn put_folder(&self, path: &Path) {
        std::fs::create_dir(path).expect("a folder");
        std::fs::write(path.join("inside"), b"").expect("a file in it");
    }
}

impl<W: Disk<Driver: 'static>> Disk for Stepped<W> {
    fn folder(&self) -> Folder {
        self.0.folder()
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.0.read(path)
    }

    fn put_folder(&self, path: &Path) {
        self.0.put_folder(path);
    }
}

impl<W: Weather> Disk for Simulated<W> {
    fn folder(&self) -> Folder {
        Folder { path: PathBuf::from("logs"), is_real: false }
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.net.file(path)
    }

    fn put_folder(&self, path: &Path) {
        let mut driver = self.net.driver(CONFIG);
        driver.open_file(&path.join("inside"), &FileOptions::default()).expect("it opens");
    }
}

impl<W: Disk> Bed<W> {
    pub(crate) fn open_file(&mut self, path: &Path) -> FileKey {
        self.driver().open_file(path, &FileOptions::default()).expect("it opens").0
    }

    pub(crate) fn append(&mut self, file: FileKey, bytes: &[u8]) -> u64 {
        self.submit(Op::Append { file, batch: SendBatch::of(bytes) })
    }

    /// Appends, and awaits that.
    pub(crate) fn append_whole(&mut self, file: FileKey, bytes: &[u8]) {
        let token = self.append(file, bytes);
        assert_eq!(self.end(token), appended(bytes.len()));
    }

    pub(crate) fn close_file(&mut self, file: FileKey) {
        let token = self.submit(Op::CloseFile { file });
        assert_eq!(self.end(token), Seen::FileClosed(Ok(())));
    }

    fn rotate(&mut self, file: FileKey, keep: u32) -> Seen {
        let token = self.submit(Op::Rotate { file, keep });
        self.end(token)
    }
}

/// A successful append of `of` bytes.
pub(crate) fn appended(of: usize) -> Seen {
    Seen::Appended { of, taken: of, result: Ok(()) }
}

fn refused(of: usize) -> Seen {
    Seen::Appended { of, taken: 0, result: Err(INVALID) }
}

pub(crate) fn s14_an_append_goes_to_the_end_of_what_is_there<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let (file, length) = bed.driver().open_file(&path, &FileOptions::default()).expect("it opens");
    assert_eq!(length, 0);
    bed.append_whole(file, b"first\n");
    bed.close_file(file);
    assert_eq!(bed.driver().files(), 0);
    let (file, length) = bed.driver().open_file(&path, &FileOptions::default()).expect("it opens again");
    assert_eq!((length, bed.driver().files()), (6, 1));
    bed.append_whole(file, b"second\n");
    assert_eq!(bed.world.read(&path).expect("it is there"), b"first\nsecond\n");
}

pub(crate) fn s14_pieces_of_every_size_arrive_in_order<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    let mut pool = ChunkPool::new();
    let mut chance = Chance::new(seed);
    let mut batch = pool.take();
    let mut all = Vec::new();
    for at in 0..700 {
        let bytes = pattern(seed + at, chance.of(1..3_000));
        all.extend_from_slice(&bytes);
        if at % 2 == 0 {
            batch.append_shared(bytes.into(), &mut pool);
        } else {
            batch.append(bytes.len(), &mut pool, |out| out.extend_from_slice(&bytes));
        }
    }
    let token = bed.submit(Op::Append { file, batch });
    assert_eq!(bed.end(token), appended(all.len()));
    assert!(bed.world.read(&path).expect("it is there") == all, "other bytes than were appended");
}

pub(crate) fn s14_megabytes_arrive_exact<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    let bytes = pattern(seed, W::HUGE);
    bed.append_whole(file, &bytes);
    assert!(bed.world.read(&path).expect("it is there") == bytes, "other bytes than were appended");
}

pub(crate) fn s14_appends_one_after_the_other_keep_their_order<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    let mut all = Vec::new();
    for at in 0..200 {
        let line = format!("line {at}\n");
        all.extend_from_slice(line.as_bytes());
        bed.append_whole(file, line.as_bytes());
    }
    assert_eq!(bed.world.read(&path), Some(all));
}

pub(crate) fn s14_an_empty_batch_completes<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let file = bed.open_file(&folder.file("a.log"));
    let token = bed.append(file, b"");
    assert_eq!(bed.end(token), appended(0));
    assert_eq!(bed.world.read(&folder.file("a.log")), Some(Vec::new()));
}

pub(crate) fn s14_an_empty_batch_is_in_flight_until_its_completion_is_out<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let file = bed.open_file(&folder.file("a.log"));
    let append = bed.append(file, b"");
    let sync = bed.submit(Op::Sync { file });
    assert_eq!(bed.end(sync), Seen::Synced(Err(INVALID)));
    assert_eq!(bed.end(append), appended(0));
    bed.append_whole(file, b"x");
}

pub(crate) fn s14_a_folder_is_no_file_to_append_to<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    bed.world.put_folder(&path);
    let error = bed.driver().open_file(&path, &FileOptions::default()).expect_err("no file");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
}

pub(crate) fn s14_a_sync_completes<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let file = bed.open_file(&folder.file("a.log"));
    bed.append_whole(file, b"to stay\n");
    let token = bed.submit(Op::Sync { file });
    assert_eq!(bed.end(token), Seen::Synced(Ok(())));
    bed.append_whole(file, b"more\n");
    assert_eq!(bed.world.read(&folder.file("a.log")).expect("it is there"), b"to stay\nmore\n");
}

pub(crate) fn s14_a_second_operation_is_refused_and_the_first_goes_on<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let file = bed.open_file(&folder.file("a.log"));
    let bytes = pattern(seed, 100_000);
    let first = bed.append(file, &bytes);
    let second = bed.append(file, b"in between");
    let sync = bed.submit(Op::Sync { file });
    let rotate = bed.submit(Op::Rotate { file, keep: 1 });
    assert_eq!(bed.end(second), refused(10));
    assert_eq!(bed.end(sync), Seen::Synced(Err(INVALID)));
    assert_eq!(bed.end(rotate), Seen::Rotated(Err(INVALID)));
    assert_eq!(bed.end(first), appended(bytes.len()));
    assert!(bed.world.read(&folder.file("a.log")).expect("it is there") == bytes);
    bed.append_whole(file, b"it goes on");
}

pub(crate) fn s14_a_close_joins_the_append_in_flight<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    for round in 0..20 {
        let path = folder.file(&format!("{round}.log"));
        let file = bed.open_file(&path);
        let bytes = pattern(seed + round, 50_000);
        let append = bed.append(file, &bytes);
        for _ in 0..round % 3 {
            bed.step();
        }
        let close = bed.submit(Op::CloseFile { file });
        assert_eq!(bed.end(close), Seen::FileClosed(Ok(())));
        assert_eq!(bed.end(append), appended(bytes.len()));
        assert!(bed.place_of_end(append) < bed.place_of_end(close), "the close did not join");
        assert!(bed.world.read(&path).expect("it is there") == bytes);
    }
    assert_eq!(bed.driver().files(), 0);
}

pub(crate) fn s14_a_close_joins_a_rotation<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    bed.append_whole(file, b"old");
    let rotate = bed.submit(Op::Rotate { file, keep: 1 });
    let close = bed.submit(Op::CloseFile { file });
    assert_eq!(bed.end(close), Seen::FileClosed(Ok(())));
    assert!(bed.place_of_end(rotate) < bed.place_of_end(close), "the close did not join");
    assert_eq!(bed.world.read(&folder.file("a.log.1")).expect("it was rotated"), b"old");
    assert_eq!(bed.world.read(&path), Some(Vec::new()));
}

pub(crate) fn s14_a_closed_key_refuses_every_operation<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    bed.close_file(file);
    // Of the same slot, most likely.
    let other = bed.open_file(&path);
    assert_ne!(file, other);
    let append = bed.append(file, b"too late");
    assert_eq!(bed.end(append), refused(8));
    let sync = bed.submit(Op::Sync { file });
    assert_eq!(bed.end(sync), Seen::Synced(Err(INVALID)));
    assert_eq!(bed.rotate(file, 1), Seen::Rotated(Err(INVALID)));
    let close = bed.submit(Op::CloseFile { file });
    assert_eq!(bed.end(close), Seen::FileClosed(Err(INVALID)));
    assert_eq!(bed.world.read(&path), Some(Vec::new()));
    assert_eq!(bed.driver().files(), 1);
}

pub(crate) fn s14_a_rotation_moves_old_files_on_and_removes_the_oldest<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    for at in 0..5 {
        bed.append_whole(file, format!("file {at}").as_bytes());
        assert_eq!(bed.rotate(file, 3), Seen::Rotated(Ok(())));
    }
    bed.append_whole(file, b"file 5");
    for (name, content) in [("a.log", 5), ("a.log.1", 4), ("a.log.2", 3), ("a.log.3", 2)] {
        let expected = format!("file {content}").into_bytes();
        assert_eq!(bed.world.read(&folder.file(name)), Some(expected), "{name}");
    }
    assert_eq!(bed.world.read(&folder.file("a.log.4")), None);
    // All of them are kept, and it takes no longer than there are files.
    assert_eq!(bed.rotate(file, u32::MAX), Seen::Rotated(Ok(())));
    for (name, content) in [("a.log.1", 5), ("a.log.2", 4), ("a.log.3", 3), ("a.log.4", 2)] {
        let expected = format!("file {content}").into_bytes();
        assert_eq!(bed.world.read(&folder.file(name)), Some(expected), "{name}");
    }
}

pub(crate) fn s14_appending_goes_on_after_a_rotation_that_failed<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    bed.append_whole(file, b"before ");
    bed.world.put_folder(&folder.file("a.log.1"));
    assert!(matches!(bed.rotate(file, 1), Seen::Rotated(Err(_))), "a folder was in the way");
    bed.append_whole(file, b"after");
    assert_eq!(bed.world.read(&path).expect("it is there"), b"before after");
}

pub(crate) fn s14_a_rotation_that_keeps_none_keeps_one<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    bed.append_whole(file, b"before");
    assert_eq!(bed.rotate(file, 0), Seen::Rotated(Ok(())));
    bed.append_whole(file, b"after");
    assert_eq!(bed.world.read(&folder.file("a.log.1")).expect("0 is taken as 1"), b"before");
    assert_eq!(bed.world.read(&path).expect("a new one"), b"after");
}

pub(crate) fn s14_a_wrong_path_is_an_error<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let file = bed.open_file(&folder.file("a.log"));
    let wrong = [PathBuf::new(), folder.file("a.log").join("below a file")];
    for path in wrong {
        let opened = bed.driver().open_file(&path, &FileOptions::default());
        assert!(opened.is_err(), "{} opened", path.display());
    }
    assert_eq!(bed.driver().files(), 1);
    bed.append_whole(file, b"not disturbed");
}

pub(crate) fn s14_many_files_do_not_mix<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = |at: u64| folder.file(&format!("{at}.log"));
    let files: Vec<_> = (0..40).map(|at| bed.open_file(&path(at))).collect();
    for round in 0..3 {
        let appends: Vec<_> = (files.iter().zip(0..))
            .map(|(file, at)| bed.append(*file, &pattern(seed + at * 10 + round, 3_000)))
            .collect();
        for append in appends {
            assert_eq!(bed.end(append), appended(3_000));
        }
    }
    for at in 0..40 {
        let expected: Vec<u8> = (0..3).flat_map(|round| pattern(seed + at * 10 + round, 3_000)).collect();
        assert!(bed.world.read(&path(at)) == Some(expected), "file {at} has other bytes");
    }
}

pub(crate) fn s14_files_and_sockets_get_on_side_by_side<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let file = bed.open_file(&path);
    let (socket, mut client): (SocketKey, _) = bed.pair();
    let receive = bed.receive(socket);
    let mut all = Vec::new();
    for round in 0..30 {
        let bytes = pattern(seed + round, 5_000);
        let append = bed.append(file, &bytes);
        bed.receive_from(receive, &mut client, &bytes[..100]);
        bed.send_to(socket, &mut client, &bytes);
        assert_eq!(bed.end(append), appended(bytes.len()));
        all.extend_from_slice(&bytes);
    }
    assert!(bed.world.read(&path) == Some(all), "other bytes than were appended");
    // A cancel of what a socket does leaves files alone.
    let append = bed.append(file, b"!");
    bed.cancel(socket, OpKind::Append);
    assert_eq!(bed.end(append), appended(1));
}

pub(crate) fn s14_there_is_a_bound_on_open_files<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let mut files = Vec::new();
    let refused = loop {
        match bed.driver().open_file(&path, &FileOptions::default()) {
            Ok((file, _)) => files.push(file),
            // Or the system's own limit, whichever is met first.
            Err(error) => break error,
        }
    };
    assert!(files.len() <= FILES_MAX as usize && files.len() > 100, "{} files: {refused}", files.len());
    let another = folder.file("b.log");
    assert!(bed.driver().open_file(&another, &FileOptions::default()).is_err());
    assert_eq!(bed.world.read(&another), None, "a file that is refused is not made");
    bed.close_file(files.pop().expect("some opened"));
    let file = bed.open_file(&path);
    bed.append_whole(file, b"there is room again");
}

pub(crate) fn s01_dropping_with_appends_in_flight<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let bytes = pattern(seed, 200_000);
    for at in 0..8 {
        let file = bed.open_file(&folder.file(&format!("{at}.log")));
        bed.append(file, &bytes);
    }
    bed.step();
    bed.drop_driver();
    for at in 0..8 {
        let content = bed.world.read(&folder.file(&format!("{at}.log"))).expect("it was made");
        assert!(bytes.starts_with(&content), "other bytes than were appended");
    }
}

pub(crate) fn s02_operations_on_files_carry_their_tokens<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let file = bed.open_file(&folder.file("a.log"));
    let base = u64::MAX - 10;
    // The bed looks at every token that comes.
    bed.submit_as(base, Op::Append { file, batch: SendBatch::of(b"x") });
    assert_eq!(bed.end(base), appended(1));
    bed.submit_as(base + 1, Op::Sync { file });
    assert_eq!(bed.end(base + 1), Seen::Synced(Ok(())));
    bed.submit_as(base + 2, Op::Rotate { file, keep: 2 });
    assert_eq!(bed.end(base + 2), Seen::Rotated(Ok(())));
    bed.submit_as(base + 3, Op::CloseFile { file });
    assert_eq!(bed.end(base + 3), Seen::FileClosed(Ok(())));
    assert_eq!(bed.operations_in_flight(), 0);
}
