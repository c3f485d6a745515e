//! Files that handlers append to, and those that any thread does.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    time::Instant,
};

use anyport::{
    AppendFile, AppendRefusal, Appended, DriverChoice, FileEvent, FileId, Frame, Handler, Limits, Lines,
    LogFile, Session, Shard, numbered,
};

use crate::support::{Bed, Folder, PATIENCE};

on_every_driver! {
    what_sessions_wrote_is_in_the_file_when_the_engine_has_ended
    a_million_records_keep_their_order
    rotation_loses_no_record_and_repeats_none
    a_sync_and_a_rotation_that_were_asked_for_are_told
    a_file_that_cannot_be_opened_is_told_once_and_refuses
    #[cfg(target_os = "linux")]
    a_full_disk_is_told_once_and_disturbs_nobody
    a_handler_that_opens_a_file_again_at_once_holds_nobody_up
    records_above_the_bound_are_refused_and_counted
    a_file_that_closed_names_nothing
}

on_every_driver_once! {
    records_of_many_threads_do_not_mix
    a_log_file_closes_with_its_last_clone
    a_log_file_rotates_between_records
    a_log_file_that_cannot_be_opened_says_what_to_do
    #[cfg(target_os = "linux")]
    a_log_file_on_a_full_disk_says_so_and_stays_harmless
    what_a_killed_process_leaves_is_a_prefix
}

/// Writes down what it is told, and obeys `!sync`, `!rotate`, `!close` and `!open`.
struct Clerk {
    description: AppendFile,
    file: Option<FileId>,
    tell: Sender<FileEvent>,
}

impl Handler for Clerk {
    type State = ();
    type Codec = Lines;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        self.file = shard.open_file(&self.description);
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let file = self.file.expect("there is room for one file");
        let answer = match &*frame {
            b"!sync" => format!("{}", session.shard().sync_file(file)),
            b"!rotate" => format!("{}", session.shard().rotate_file(file)),
            b"!open" => {
                self.file = session.shard().open_file(&self.description);
                "opens".to_owned()
            }
            b"!close" => {
                session.shard().close_file(file);
                "closes".to_owned()
            }
            line => match session.append(file, &[line, b"\n"].concat()) {
                Appended::Queued => "queued".to_owned(),
                Appended::Refused(refusal) => format!("{refusal:?}"),
            },
        };
        session.send(answer.as_bytes());
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: anyport::CloseReason) {
        let file = self.file.expect("there is room for one file");
        session.append(file, b"bye\n");
    }

    fn on_file(&mut self, _shard: &mut Shard<Self>, _file: FileId, event: FileEvent) {
        let _ = self.tell.send(event);
    }
}

fn clerk(driver: DriverChoice, description: &AppendFile) -> (Bed<Clerk>, Receiver<FileEvent>) {
    let (tell, told) = channel();
    let description = description.clone();
    let make = move |_| Clerk { description: description.clone(), file: None, tell: tell.clone() };
    (Bed::start(driver, 1, Lines::default(), Limits::default(), make), told)
}

fn next(told: &Receiver<FileEvent>) -> FileEvent {
    told.recv_timeout(PATIENCE).expect("nothing is told of the file")
}

fn lines(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

/// What all files of a rotation have, the oldest first.
fn all_of(path: &Path) -> (Vec<u8>, u32) {
    let places = (1..=u32::MAX).take_while(|place| numbered(path, *place).exists()).count() as u32;
    let files = (0..=places).rev().map(|place| std::fs::read(numbered(path, place)).unwrap());
    (files.flatten().collect(), places)
}

fn what_sessions_wrote_is_in_the_file_when_the_engine_has_ended(driver: DriverChoice) {
    let folder = Folder::new();
    let path = folder.file("a.log");
    std::fs::write(&path, b"from before\n").unwrap();
    let (bed, told) = clerk(driver, &AppendFile::at(&path));
    assert_eq!(next(&told), FileEvent::Opened { length: 12 });
    let mut peers: Vec<_> = (0..3).map(|_| bed.peer()).collect();
    for round in 0..10 {
        for (at, peer) in peers.iter_mut().enumerate() {
            peer.send(format!("{round} {at}\n").as_bytes());
            peer.expect(b"queued\n");
        }
    }
    bed.running.stop().unwrap();
    // What was appended when the last session closed is there as well.
    let mut expected = b"from before\n".to_vec();
    for round in 0..10 {
        (0..3).for_each(|at| expected.extend_from_slice(format!("{round} {at}\n").as_bytes()));
    }
    expected.extend_from_slice(b"bye\nbye\nbye\n");
    assert_eq!(std::fs::read(&path).unwrap(), expected);
    assert_eq!(told.iter().collect::<Vec<_>>(), [FileEvent::Closed]);
}

fn a_million_records_keep_their_order(driver: DriverChoice) {
    // With guard pages each allocation is a system call.
    const RECORDS: u32 = if cfg!(guard_pages) { 20_000 } else { 1_000_000 };
    const A_TURN: u32 = 5_000;
    let folder = Folder::new();
    let path = folder.file("a.log");
    let description = AppendFile::at(&path).queue_max_bytes(64 << 20);
    let (bed, _told) = clerk(driver, &description);
    for first in (0..RECORDS).step_by(A_TURN as usize) {
        bed.remote
            .post_to_shard(0, move |clerk, shard| {
                let file = clerk.file.unwrap();
                for number in first..first + A_TURN {
                    assert_eq!(shard.append(file, format!("{number}\n").as_bytes()), Appended::Queued);
                }
            })
            .unwrap();
    }
    let expected = lines(0..RECORDS);
    bed.counters_when(|counters| counters.bytes_appended == expected.len() as u64);
    bed.running.stop().unwrap();
    assert!(std::fs::read(&path).unwrap() == expected, "other records, or in another order");
}

fn rotation_loses_no_record_and_repeats_none(driver: DriverChoice) {
    let folder = Folder::new();
    let path = folder.file("a.log");
    let description = AppendFile::at(&path).rotate_at_bytes(10_000).keep(1_000);
    let (bed, told) = clerk(driver, &description);
    for first in (0..20_000).step_by(1_000) {
        bed.remote
            .post_to_shard(0, move |clerk, shard| {
                let file = clerk.file.unwrap();
                for number in first..first + 1_000 {
                    assert_eq!(shard.append(file, format!("{number}\n").as_bytes()), Appended::Queued);
                }
            })
            .unwrap();
    }
    let expected = lines(0..20_000);
    bed.counters_when(|counters| counters.bytes_appended == expected.len() as u64);
    bed.running.stop().unwrap();
    let (all, places) = all_of(&path);
    assert!(all == expected, "records were lost or repeated");
    assert_eq!(places as usize, expected.len() / 10_000);
    for place in 1..=places {
        let file = std::fs::read(numbered(&path, place)).unwrap();
        assert!(file.len() <= 10_000 && file.ends_with(b"\n"), "file {place} has {} bytes", file.len());
    }
    let rotated = told.iter().filter(|event| *event == FileEvent::Rotated).count();
    assert_eq!(rotated, places as usize);
}

fn a_sync_and_a_rotation_that_were_asked_for_are_told(driver: DriverChoice) {
    let folder = Folder::new();
    let path = folder.file("a.log");
    let (bed, told) = clerk(driver, &AppendFile::at(&path));
    assert_eq!(next(&told), FileEvent::Opened { length: 0 });
    let mut peer = bed.peer();
    peer.send(b"one\n!sync\n");
    peer.expect(b"queued\ntrue\n");
    assert_eq!(next(&told), FileEvent::Synced);
    assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
    peer.send(b"two\n!rotate\nthree\n");
    peer.expect(b"queued\ntrue\nqueued\n");
    assert_eq!(next(&told), FileEvent::Rotated);
    assert_eq!(std::fs::read(numbered(&path, 1)).unwrap(), b"one\ntwo\n");
    bed.running.stop().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"three\nbye\n");
}

fn a_file_that_cannot_be_opened_is_told_once_and_refuses(driver: DriverChoice) {
    let folder = Folder::new();
    let (bed, told) = clerk(driver, &AppendFile::at(folder.file("no folder").join("a.log")));
    assert!(matches!(next(&told), FileEvent::Failed { lost_bytes: 0, .. }));
    let mut peer = bed.peer();
    for _ in 0..2 {
        peer.send(b"one\n");
        let mut answer = [0; 6];
        std::io::Read::read_exact(&mut peer.0, &mut answer).unwrap();
        assert_eq!(&answer, b"Failed");
        while answer[0] != b'\n' {
            std::io::Read::read_exact(&mut peer.0, &mut answer[..1]).unwrap();
        }
    }
    let counters = bed.counters_when(|counters| counters.appends_refused == 2);
    assert_eq!((counters.file_faults, counters.bytes_appended), (1, 0));
    bed.running.stop().unwrap();
    assert_eq!(told.iter().collect::<Vec<_>>(), [FileEvent::Closed]);
}

/// Opens its file again whenever it has closed, and closes it when it has failed.
struct Stubborn {
    description: AppendFile,
    opened: Sender<()>,
}

impl Handler for Stubborn {
    type State = ();
    type Codec = Lines;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        shard.open_file(&self.description);
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send(&frame);
    }

    fn on_file(&mut self, shard: &mut Shard<Self>, file: FileId, event: FileEvent) {
        match event {
            FileEvent::Failed { .. } => {
                shard.close_file(file);
                shard.open_file(&self.description);
            }
            FileEvent::Opened { .. } => self.opened.send(()).unwrap(),
            _ => {}
        }
    }
}

fn a_handler_that_opens_a_file_again_at_once_holds_nobody_up(driver: DriverChoice) {
    let folder = Folder::new();
    let (opened, told) = channel();
    let description = AppendFile::at(folder.file("none yet").join("a.log"));
    let make = move |_| Stubborn { description: description.clone(), opened: opened.clone() };
    let bed = Bed::start(driver, 1, Lines::default(), Limits::default(), make);
    bed.counters_when(|counters| counters.file_faults > 100);
    let mut peer = bed.peer();
    peer.send(b"hello\n");
    peer.expect(b"hello\n");
    std::fs::create_dir(folder.file("none yet")).unwrap();
    told.recv_timeout(PATIENCE).expect("the file can be opened now");
    drop(peer);
    bed.running.stop().unwrap();
}

#[cfg(target_os = "linux")]
fn a_full_disk_is_told_once_and_disturbs_nobody(driver: DriverChoice) {
    let (bed, told) = clerk(driver, &AppendFile::at("/dev/full"));
    assert_eq!(next(&told), FileEvent::Opened { length: 0 });
    let mut peer = bed.peer();
    peer.send(b"one\n");
    peer.expect(b"queued\n");
    let FileEvent::Failed { fault, lost_bytes: 4 } = next(&told) else { panic!("a full disk fails") };
    assert_eq!(fault.kind, anyport::FaultKind::NoSpace);
    peer.send(b"two\n!sync\n");
    peer.expect(b"Failed(NoSpace(28))\nfalse\n");
    // It can be closed, and another one opened.
    peer.send(b"!close\n");
    peer.expect(b"closes\n");
    assert_eq!(next(&told), FileEvent::Closed);
    peer.send(b"!open\n");
    peer.expect(b"opens\n");
    assert_eq!(next(&told), FileEvent::Opened { length: 0 });
    assert_eq!(bed.counters_when(|counters| counters.appends_refused == 1).file_faults, 1);
    bed.running.stop().unwrap();
}

fn records_above_the_bound_are_refused_and_counted(driver: DriverChoice) {
    let folder = Folder::new();
    let path = folder.file("a.log");
    let (bed, _told) = clerk(driver, &AppendFile::at(&path).queue_max_bytes(100));
    bed.remote
        .post_to_shard(0, |clerk, shard| {
            let file = clerk.file.unwrap();
            assert_eq!(shard.append(file, &[b'a'; 60]), Appended::Queued);
            assert_eq!(shard.append(file, &[b'b'; 41]), Appended::Refused(AppendRefusal::Full));
            assert_eq!(shard.append(file, &[b'c'; 40]), Appended::Queued);
            assert_eq!(shard.file_queued_bytes(file), 100);
            assert_eq!(shard.append(file, b"d"), Appended::Refused(AppendRefusal::Full));
        })
        .unwrap();
    let counters = bed.counters_when(|counters| counters.bytes_appended == 100);
    assert_eq!(counters.appends_refused, 2);
    bed.running.stop().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), [[b'a'; 60].as_slice(), &[b'c'; 40]].concat());
}

fn a_file_that_closed_names_nothing(driver: DriverChoice) {
    let folder = Folder::new();
    let path = folder.file("a.log");
    let (bed, told) = clerk(driver, &AppendFile::at(&path));
    let (tell, answers) = channel();
    let mut peer = bed.peer();
    peer.send(b"one\n!close\ntwo\n");
    peer.expect(b"queued\ncloses\nNotOpen\n");
    assert_eq!(next(&told), FileEvent::Opened { length: 0 });
    assert_eq!(next(&told), FileEvent::Closed);
    bed.remote
        .post_to_shard(0, move |clerk, shard| {
            let old = clerk.file.unwrap();
            clerk.file = shard.open_file(&clerk.description);
            let _ = tell.send((old != clerk.file.unwrap(), shard.append(old, b"late"), shard.sync_file(old)));
        })
        .unwrap();
    let not_open = Appended::Refused(AppendRefusal::NotOpen);
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap(), (true, not_open, false));
    bed.running.stop().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"one\nbye\n");
}

// ---- for any thread ----

fn records_of_many_threads_do_not_mix(driver: DriverChoice) {
    const EACH: u32 = if cfg!(guard_pages) { 500 } else { 5_000 };
    let folder = Folder::new();
    let path = folder.file("a.log");
    let log = LogFile::open_on(AppendFile::at(&path).queue_max_bytes(64 << 20), driver).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let log = log.clone();
            std::thread::spawn(move || {
                for number in 0..EACH {
                    assert_eq!(log.append(format!("{thread} {number}\n").as_bytes()), Appended::Queued);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(log.close(PATIENCE));
    assert_eq!(log.append(b"late"), Appended::Refused(AppendRefusal::NotOpen));
    assert_eq!((log.refused(), log.failure()), (1, None));
    let mut next = [0; 4];
    for line in std::fs::read_to_string(&path).unwrap().lines() {
        let (thread, number) = line.split_once(' ').expect("a record was cut");
        let thread: usize = thread.parse().unwrap();
        assert_eq!(number.parse(), Ok(next[thread]), "thread {thread}");
        next[thread] += 1;
    }
    assert_eq!(next, [EACH; 4]);
}

fn a_log_file_closes_with_its_last_clone(driver: DriverChoice) {
    let folder = Folder::new();
    let path = folder.file("a.log");
    let log = LogFile::open_on(AppendFile::at(&path), driver).unwrap();
    let clone = log.clone();
    drop(log);
    assert_eq!(clone.append(b"still open\n"), Appended::Queued);
    drop(clone);
    let start = Instant::now();
    while std::fs::read(&path).unwrap() != b"still open\n" {
        assert!(start.elapsed() < PATIENCE, "the record is not there");
        std::thread::yield_now();
    }
}

fn a_log_file_rotates_between_records(driver: DriverChoice) {
    let folder = Folder::new();
    let path = folder.file("a.log");
    let description = AppendFile::at(&path).rotate_at_bytes(1_000).keep(100).queue_max_bytes(64 << 20);
    let log = LogFile::open_on(description, driver).unwrap();
    for number in 0..5_000 {
        assert_eq!(log.append(format!("{number}\n").as_bytes()), Appended::Queued);
    }
    log.rotate();
    assert!(log.close(PATIENCE));
    let (all, places) = all_of(&path);
    assert!(all == lines(0..5_000), "records were lost or repeated");
    assert_eq!((places as usize, log.not_rotated()), (all.len() / 1_000 + 1, None));
    assert_eq!(std::fs::read(&path).unwrap(), b"", "it was rotated at the end");
}

fn a_log_file_that_cannot_be_opened_says_what_to_do(driver: DriverChoice) {
    let folder = Folder::new();
    let error = LogFile::open_on(AppendFile::at(folder.file("none").join("a.log")), driver).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("a.log") && text.contains("folder must exist"), "{text}");
}

#[cfg(target_os = "linux")]
fn a_log_file_on_a_full_disk_says_so_and_stays_harmless(driver: DriverChoice) {
    let log = LogFile::open_on(AppendFile::at("/dev/full"), driver).unwrap();
    assert_eq!(log.append(b"lost\n"), Appended::Queued);
    let start = Instant::now();
    while log.failure().is_none() {
        assert!(start.elapsed() < PATIENCE, "it does not fail");
        std::thread::yield_now();
    }
    let (fault, lost) = log.failure().unwrap();
    assert_eq!((fault.kind, lost), (anyport::FaultKind::NoSpace, 5));
    assert_eq!(log.append(b"more\n"), Appended::Refused(AppendRefusal::Failed(fault)));
    assert!(!log.close(PATIENCE), "what was lost is not there");
}

// ---- a crash ----

/// Where the process that is to be killed appends.
const APPENDS_TO: &str = "ANYPORT_APPENDS_TO";
/// How often it is killed.
const KILLS: u64 = 50;

fn line(number: u64) -> String {
    format!("{number} {}\n", "x".repeat((number % 200) as usize))
}

/// Appends for ever.
fn append_until_killed(path: &Path, driver: DriverChoice) -> ! {
    let log = LogFile::open_on(AppendFile::at(path), driver).unwrap();
    let mut number = 0;
    loop {
        match log.append(line(number).as_bytes()) {
            Appended::Queued => number += 1,
            Appended::Refused(AppendRefusal::Full) => std::thread::yield_now(),
            Appended::Refused(other) => panic!("{other:?}"),
        }
    }
}

fn what_a_killed_process_leaves_is_a_prefix(driver: DriverChoice) {
    if let Some(path) = std::env::var_os(APPENDS_TO) {
        append_until_killed(path.as_ref(), driver);
    }
    let module = match driver {
        DriverChoice::IoUring => "io_uring",
        DriverChoice::Readiness => "readiness",
        _ => "iocp",
    };
    let case = format!("files::once::{module}::what_a_killed_process_leaves_is_a_prefix");
    let folder = Folder::new();
    for kill in 0..KILLS {
        let path = folder.file(&format!("{kill}.log"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&case, "--exact", "--nocapture"])
            .env(APPENDS_TO, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // From the first bytes to hundreds of thousands.
        let enough = kill * kill * 200;
        let start = Instant::now();
        while std::fs::metadata(&path).map_or(0, |found| found.len()) < enough {
            assert!(start.elapsed() < PATIENCE, "it does not append");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        check_prefix(&std::fs::read(&path).unwrap_or_default());
    }
}

/// All lines from the first one on, and of one more perhaps the beginning.
fn check_prefix(content: &[u8]) {
    let mut rest = content;
    for number in 0.. {
        let expected = line(number);
        let Some(after) = rest.strip_prefix(expected.as_bytes()) else {
            assert!(expected.as_bytes().starts_with(rest), "line {number} is not what was appended");
            return;
        };
        rest = after;
    }
}
