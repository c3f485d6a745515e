//! Sentence 14 on the disks of Linux: full ones, forbidden ones, and what is no file.

use std::{io::Write, os::unix::fs::PermissionsExt};

use anyport_driver::{Driver, FaultKind, FileOptions, Op};
use rustix::process::{Resource, getrlimit};

use crate::{
    bed::{Bed, Seen, pattern},
    descriptors::{alone_in, open_descriptors},
    files::Disk,
};

pub(crate) fn s14_a_full_disk_is_reported<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let file = bed.open_file("/dev/full".as_ref());
    for _ in 0..2 {
        let append = bed.append(file, &[1; 10_000]);
        let full = Seen::Appended { of: 10_000, taken: 0, result: Err(FaultKind::NoSpace) };
        assert_eq!(bed.end(append), full);
    }
    bed.close_file(file);
}

/// `ulimit -f` gives a signal as well, which would end a server for the sake of its log.
pub(crate) fn s14_a_file_that_may_not_grow_has_what_was_taken<W: Disk>(seed: u64) {
    let name = "s14_a_file_that_may_not_grow_has_what_was_taken";
    alone_in::<W>("disks", name, "ulimit -f 20", || {
        let mut bed = Bed::<W>::new(seed);
        let folder = bed.world.folder();
        let path = folder.file("a.log");
        let file = bed.open_file(&path);
        bed.append_whole(file, &pattern(seed, 5_000));
        let append = bed.append(file, &pattern(seed + 1, 100_000));
        let Seen::Appended { taken, result, .. } = bed.end(append) else {
            unreachable!("the bed looks at kinds")
        };
        assert_eq!(result, Err(FaultKind::NoSpace));
        let mut expected = pattern(seed, 5_000);
        expected.extend_from_slice(&pattern(seed + 1, 100_000)[..taken]);
        assert!(bed.world.read(&path) == Some(expected), "other bytes than were taken");
        assert!(taken > 0, "part of it had room");
        let append = bed.append(file, b"x");
        let full = Seen::Appended { of: 1, taken: 0, result: Err(FaultKind::NoSpace) };
        assert_eq!(bed.end(append), full);
        // A new file may grow again.
        let rotate = bed.submit(Op::Rotate { file, keep: 1 });
        assert_eq!(bed.end(rotate), Seen::Rotated(Ok(())));
        bed.append_whole(file, b"x");
    });
}

/// Its length is what others left of it, or put there: not what was appended here.
pub(crate) fn s14_a_file_that_others_change_may_grow_as_far_as_it_may<W: Disk>(seed: u64) {
    let name = "s14_a_file_that_others_change_may_grow_as_far_as_it_may";
    alone_in::<W>("disks", name, "ulimit -f 20", || {
        let limit = getrlimit(Resource::Fsize).current.expect("it was set") as usize;
        let mut bed = Bed::<W>::new(seed);
        let folder = bed.world.folder();
        let path = folder.file("a.log");
        let file = bed.open_file(&path);
        let theirs = || std::fs::OpenOptions::new().append(true).open(&path).expect("it is there");
        for _ in 0..4 {
            bed.append_whole(file, &pattern(seed, limit - 100));
            theirs().set_len(0).expect("it becomes shorter");
        }
        bed.append_whole(file, &pattern(seed, limit - 100));
        theirs().write_all(&[7; 100]).expect("it becomes longer");
        let append = bed.append(file, b"x");
        let full = Seen::Appended { of: 1, taken: 0, result: Err(FaultKind::NoSpace) };
        assert_eq!(bed.end(append), full);
    });
}

pub(crate) fn s14_a_rotation_in_a_folder_that_has_gone_fails<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let file = bed.open_file(&folder.file("a.log"));
    std::fs::remove_dir_all(folder.file("")).expect("it is ours");
    let rotate = bed.submit(Op::Rotate { file, keep: 1 });
    assert_eq!(bed.end(rotate), Seen::Rotated(Err(FaultKind::Other)));
    bed.append_whole(file, b"goes on");
}

pub(crate) fn s14_files_give_their_descriptors_back<W: Disk>(seed: u64) {
    alone_in::<W>("disks", "s14_files_give_their_descriptors_back", "", || {
        let before = open_descriptors();
        {
            let mut bed = Bed::<W>::new(seed);
            let folder = bed.world.folder();
            let file = bed.open_file(&folder.file("a.log"));
            for _ in 0..5 {
                bed.append_whole(file, b"x");
                let rotate = bed.submit(Op::Rotate { file, keep: 2 });
                assert_eq!(bed.end(rotate), Seen::Rotated(Ok(())));
            }
            bed.step();
            let named = |open: &String| open.contains("a.log");
            assert_eq!(open_descriptors().iter().filter(|open| named(open)).count(), 1);
            bed.close_file(file);
            bed.step();
            assert_eq!(open_descriptors().iter().filter(|open| named(open)).count(), 0);
            let file = bed.open_file(&folder.file("b.log"));
            bed.append(file, &pattern(seed, 100_000));
        }
        assert_eq!(open_descriptors(), before);
    });
}

/// Nobody can cancel what a disk is at: dropping waits for it, and frees all the same.
pub(crate) fn s01_dropping_with_a_sync_in_flight<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let address = bed.door().address;
    let (_, mut client) = bed.pair();
    let file = bed.open_file(&folder.file("a.log"));
    bed.append_whole(file, &pattern(seed, 32 << 20));
    bed.submit(Op::Sync { file });
    bed.step();
    bed.drop_driver();
    bed.until("the end of the connection", |_| client.has_ended());
    assert!(bed.world.connect(address).is_err(), "somebody listens still");
}

/// To open one would wait for a reader.
pub(crate) fn s14_a_pipe_is_no_file_to_append_to<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let pipe = folder.file("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    for path in [pipe, folder.file("")] {
        let error = bed.driver().open_file(&path, &FileOptions::default()).expect_err("no file");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    }
}

pub(crate) fn s14_a_private_file_is_its_owners<W: Disk>(seed: u64) {
    let mut bed = Bed::<W>::new(seed);
    let folder = bed.world.folder();
    let path = folder.file("a.log");
    let (file, _) = bed.driver().open_file(&path, &FileOptions { private: true }).expect("it opens");
    bed.append_whole(file, b"secret");
    let rotate = bed.submit(Op::Rotate { file, keep: 1 });
    assert_eq!(bed.end(rotate), Seen::Rotated(Ok(())));
    for path in [path, folder.file("a.log.1")] {
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}
