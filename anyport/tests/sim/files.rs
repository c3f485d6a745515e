//! Files on a simulated disk: faults, time, and an end that does not wait for ever.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyport::{
    AppendFile, AppendRefusal, Appended, Engine, FaultKind, FileEvent, FileId, Frame, Handler, Limits, Lines,
    Server, Session, Shard, TimerKey, numbered,
    sim::{Behaviour, FaultClass, Faults, Held, Rate, SimEngine, SimNet, each_seed},
};

use crate::bed::{ADDRESS, SOON};

/// What a clerk was told of its file, and what it had queued.
#[derive(Default)]
struct Ledger {
    events: Vec<FileEvent>,
    queued: Vec<u8>,
    refused: Vec<AppendRefusal>,
}

type Shared = Arc<Mutex<Ledger>>;

/// Appends every line, and a line a timer of its own each `EVERY`.
struct Clerk {
    description: AppendFile,
    file: Option<FileId>,
    ledger: Shared,
    lines: u32,
}

const EVERY: Duration = Duration::from_mins(1);

impl Clerk {
    fn append(&mut self, shard: &mut Shard<Self>, record: &[u8]) -> Appended {
        let answer = shard.append(self.file.expect("there is room for one"), record);
        let mut ledger = self.ledger.lock().unwrap();
        match answer {
            Appended::Queued => ledger.queued.extend_from_slice(record),
            Appended::Refused(refusal) => ledger.refused.push(refusal),
        }
        answer
    }
}

impl Handler for Clerk {
    type State = ();
    type Codec = Lines;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        self.file = shard.open_file(&self.description);
        shard.set_repeating_timer(TimerKey(0), EVERY);
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let record = [&*frame, b"\n"].concat();
        let answer = self.append(&mut session.shard(), &record);
        if frame.ends_with(b"sync") {
            session.shard().sync_file(self.file.unwrap());
        }
        session.send(if answer == Appended::Queued { b"yes" } else { b"no" });
    }

    fn on_timer(&mut self, shard: &mut Shard<Self>, _timer: TimerKey) {
        self.lines += 1;
        let record = format!("minute {}\n", self.lines);
        self.append(shard, record.as_bytes());
    }

    fn on_file(&mut self, _shard: &mut Shard<Self>, _file: FileId, event: FileEvent) {
        self.ledger.lock().unwrap().events.push(event);
    }
}

fn clerk(net: &SimNet, description: AppendFile, limits: Limits) -> (SimEngine, Shared) {
    let ledger = Shared::default();
    let told = ledger.clone();
    let make =
        move |_| Clerk { description: description.clone(), file: None, ledger: told.clone(), lines: 0 };
    let engine = Engine::new().unwrap().shards(1).unwrap();
    let engine = engine.serve(Server::bind(ADDRESS, Lines::default()).limits(limits), make).unwrap();
    (engine.simulate(net).unwrap(), ledger)
}

/// All files of a rotation, the oldest first.
fn all_of(net: &SimNet, path: &Path) -> Vec<u8> {
    let places = (1..=u32::MAX).take_while(|place| net.file(numbered(path, *place)).is_some()).count() as u32;
    (0..=places).rev().filter_map(|place| net.file(numbered(path, place))).flatten().collect()
}

fn stop(mut engine: SimEngine) {
    engine.check().unwrap();
    engine.stop().unwrap();
    assert_eq!(engine.held(), Held::default());
}

#[test]
fn no_space_half_way_leaves_a_prefix_and_disturbs_nothing_else() {
    let net = SimNet::new(1);
    net.set_disk_room(Some(100));
    let (mut engine, ledger) = clerk(&net, AppendFile::at("a.log"), Limits::default());
    let mut peer = net.connect(engine.address(0).unwrap()).unwrap();
    let mut answers = Vec::new();
    for number in 0..30 {
        let line = format!("line {number}\n");
        answers.push(engine.ask(&mut peer, line.as_bytes(), b"\n", SOON));
        engine.check().unwrap();
    }
    // The session is answered all the time, and told what became of its lines.
    assert!(answers.iter().all(|answer| answer == b"yes\n" || answer == b"no\n"));
    assert_eq!(answers.last().unwrap(), b"no\n");
    let ledger = ledger.lock().unwrap();
    let file = net.file("a.log").unwrap();
    assert_eq!(file.len(), 100);
    assert!(ledger.queued.starts_with(&file));
    let lost = (ledger.queued.len() - 100) as u64;
    let [FileEvent::Opened { length: 0 }, FileEvent::Failed { fault, lost_bytes }] = ledger.events[..] else {
        panic!("{:?}", ledger.events)
    };
    assert_eq!((fault.kind, lost_bytes), (FaultKind::NoSpace, lost));
    assert!(ledger.refused.iter().all(|refusal| *refusal == AppendRefusal::Failed(fault)));
    let counters = engine.counters(0);
    assert_eq!(counters.appends_refused, ledger.refused.len() as u64);
    assert_eq!((counters.bytes_appended, counters.file_faults), (100, 1));
    drop(ledger);
    stop(engine);
}

#[test]
fn an_old_file_ends_with_time() {
    let net = SimNet::new(2);
    let hour = Duration::from_hours(1);
    let (mut engine, _ledger) =
        clerk(&net, AppendFile::at("a.log").rotate_after(hour.saturating_sub(EVERY / 2)), Limits::default());
    engine.run_for(3 * hour + EVERY / 2);
    let first_lines = |place| {
        let file = net.file(numbered("a.log".as_ref(), place)).unwrap();
        let text = String::from_utf8(file).unwrap();
        (text.lines().next().unwrap().to_owned(), text.lines().count())
    };
    assert_eq!(first_lines(3), ("minute 1".to_owned(), 59));
    assert_eq!(first_lines(2), ("minute 60".to_owned(), 60));
    assert_eq!(first_lines(0), ("minute 180".to_owned(), 1));
    assert_eq!(net.file_names().len(), 4);
    stop(engine);
}

#[test]
fn a_sync_that_is_told_has_what_came_before_it() {
    let net = SimNet::new(3);
    let (mut engine, ledger) = clerk(&net, AppendFile::at("a.log"), Limits::default());
    let mut peer = net.connect(engine.address(0).unwrap()).unwrap();
    engine.ask(&mut peer, b"one\n", b"\n", SOON);
    engine.ask(&mut peer, b"two, and sync\n", b"\n", SOON);
    let synced = |ledger: &Shared| ledger.lock().unwrap().events.contains(&FileEvent::Synced);
    assert!(engine.run_until(SOON, |_| synced(&ledger)));
    assert_eq!(net.file_synced("a.log").unwrap(), b"one\ntwo, and sync\n");
    stop(engine);
}

/// One run with faults of files; gives the digest.
fn storm(seed: u64, faults: Faults) -> u64 {
    let net = SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults));
    let path = PathBuf::from("a.log");
    let description =
        AppendFile::at(&path).rotate_at_bytes(200).keep(10_000).queue_max_bytes(400 + seed as usize % 500);
    let (mut engine, ledger) = clerk(&net, description, Limits::default());
    let address = engine.address(0).unwrap();
    for number in 0..60 {
        let mut peer = net.connect(address).unwrap();
        let end = if number % 7 == 0 { ", sync" } else { "" };
        let answer = engine.ask(&mut peer, format!("line {number}{end}\n").as_bytes(), b"\n", SOON);
        assert!(answer == b"yes\n" || answer == b"no\n", "a disk disturbs a session");
        engine.check().unwrap();
    }
    net.calm();
    stop(engine);
    let ledger = ledger.lock().unwrap();
    let failed = ledger.events.iter().filter(|event| matches!(event, FileEvent::Failed { .. })).count();
    let all = all_of(&net, &path);
    assert!(ledger.queued.starts_with(&all), "other records than were queued");
    assert!(failed == 1 || all.len() == ledger.queued.len(), "records are lost, and no failure was told");
    assert!(failed <= 1, "a failure is told once");
    assert_eq!(ledger.events.iter().filter(|event| **event == FileEvent::Closed).count(), 1);
    assert_eq!(ledger.events.last(), Some(&FileEvent::Closed));
    net.digest()
}

#[test]
fn with_any_faults_the_files_are_a_prefix_of_what_was_queued() {
    each_seed(0..150, |seed| {
        let faults = FaultClass::ALL.into_iter().filter(|class| class.is_of_files());
        let rate = Rate::per_million(20_000 << (seed % 4));
        let faults = faults.fold(Faults::default(), |faults, class| faults.with(class, rate));
        storm(seed, faults.with_times_max(Duration::from_millis(500)));
    });
}

#[test]
fn a_seed_is_a_run() {
    let slow = || Faults::default().with(FaultClass::FileSlow, Rate::per_million(300_000));
    assert_eq!(storm(5, slow()), storm(5, slow()));
}

#[test]
fn an_engine_does_not_wait_for_a_disk_beyond_its_deadline() {
    let mut faults = Faults::default().with(FaultClass::FileSlow, Rate::ALWAYS);
    faults.late_max = Duration::from_hours(1_000);
    let net = SimNet::with_behaviour(4, Behaviour::default().with_faults(faults));
    let limits = Limits { drain_deadline: Duration::from_secs(3), ..Limits::default() };
    let (mut engine, ledger) = clerk(&net, AppendFile::at("a.log"), limits);
    let mut peer = net.connect(engine.address(0).unwrap()).unwrap();
    assert_eq!(engine.ask(&mut peer, b"one\n", b"\n", SOON), b"yes\n");
    peer.close();
    let before = net.elapsed();
    engine.stop().unwrap();
    let took = net.elapsed().saturating_sub(before);
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(engine.counters(0).file_faults, 1);
    assert_eq!(ledger.lock().unwrap().events, [FileEvent::Opened { length: 0 }]);
}

#[test]
fn a_queue_without_room_takes_no_record() {
    let net = SimNet::new(6);
    let (mut engine, _ledger) = clerk(&net, AppendFile::at("a.log").queue_max_bytes(0), Limits::default());
    let mut peer = net.connect(engine.address(0).unwrap()).unwrap();
    assert_eq!(engine.ask(&mut peer, b"one\n", b"\n", SOON), b"no\n");
    assert_eq!(net.file("a.log"), Some(Vec::new()));
    stop(engine);
}
