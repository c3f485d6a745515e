//! Operations of a simulated driver on files. Each goes on in steps at random times, as those on sockets do.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyport_core::{Fault, FaultKind, SendBatch, SlabKey};

use super::{
    chance::Dice,
    counts::FaultSite,
    disk::ContentId,
    driver::Sim,
    events::Event,
    faults::{FaultClass, failure},
    io_error,
    net::delay,
};
use crate::{
    FILES_MAX,
    options::numbered,
    types::{FileKey, Op, OpKind, Outcome, Token},
};

const INVALID: Fault = Fault::of(FaultKind::InvalidSocket);

/// What is in flight, close aside.
#[derive(Debug)]
enum Busy {
    Append(Token, Box<SendBatch>),
    Sync(Token),
    Rotate(Token, u32),
}

/// A file that a simulated driver has open.
#[derive(Debug)]
pub(super) struct SimFile {
    path: PathBuf,
    content: ContentId,
    dice: Dice,
    busy: Option<Busy>,
    close: Option<Token>,
}

impl SimFile {
    pub(super) fn content(&self) -> ContentId {
        self.content
    }
}

impl Sim {
    pub(super) fn open_to_append(&mut self, path: &Path) -> io::Result<(FileKey, u64)> {
        if self.files.len() >= FILES_MAX as usize {
            return Err(io_error(Fault::of(FaultKind::NoDescriptors)));
        }
        let mut net = self.net.borrow_mut();
        let net = &mut *net;
        let mut dice = net.disk.dice(&net.chance);
        if let Some(drawn) = net.chance.fires(&mut dice, FaultClass::FileOpen, FaultSite::OpenFile) {
            return Err(io_error(failure(FaultClass::FileOpen, drawn).0));
        }
        let content = net.disk.open(path).map_err(|kind| {
            let text = format!("{} can be no file: it is a folder, below a file, or empty", path.display());
            io::Error::new(kind, text)
        })?;
        let length = net.disk.length(content);
        let file = SimFile { path: path.to_owned(), content, dice, busy: None, close: None };
        let key = self.files.insert(file).expect("there is room: looked at above");
        Ok((FileKey(key), length))
    }

    pub(super) fn submit_on_file(&mut self, token: Token, op: Op) {
        let kind = op.kind();
        let (file, closes) = match &op {
            Op::Append { file, .. } | Op::Sync { file } | Op::Rotate { file, .. } => (*file, false),
            Op::CloseFile { file } => (*file, true),
            _ => unreachable!("{kind:?} is no operation on a file"),
        };
        let usable = |state: &&mut SimFile| state.close.is_none() && (closes || state.busy.is_none());
        let Some(state) = self.files.get_mut(file.0).filter(usable) else {
            return self.refuse(token, op.failed(INVALID));
        };
        match op {
            Op::Append { batch, .. } => state.busy = Some(Busy::Append(token, batch)),
            Op::Sync { .. } => state.busy = Some(Busy::Sync(token)),
            Op::Rotate { keep, .. } => state.busy = Some(Busy::Rotate(token, keep.max(1))),
            _ => {
                state.close = Some(token);
                if state.busy.is_some() {
                    // It goes on when that has ended.
                    return;
                }
            }
        }
        self.go_on_later(file.0, (!closes).then_some(kind));
    }

    /// Gives a file a turn soon, or late if it is slow to begin.
    fn go_on_later(&mut self, key: SlabKey, begins: Option<OpKind>) {
        let state = self.files.get_mut(key).expect("a file that is there goes on");
        let mut net = self.net.borrow_mut();
        let net = &mut *net;
        let dice = &mut state.dice;
        let mut after = delay(&mut net.chance, dice, net.delay_max);
        if let Some(kind) = begins {
            let site = FaultSite::Op(kind);
            let slow = net.chance.lasts(dice, FaultClass::FileSlow, site, |faults| faults.late_max);
            after = after.saturating_add(slow.unwrap_or(0));
        }
        let at = net.later(after);
        net.schedule_at(at, Event::File { driver: self.number as u32, file: key });
    }

    /// One step of whatever is in flight on a file.
    pub(super) fn turn_of_file(&mut self, key: SlabKey) {
        let Some(state) = self.files.get_mut(key) else { return };
        let Some(busy) = state.busy.take() else {
            let token = state.close.expect("a file goes on only if it has something to do");
            let content = state.content;
            self.files.remove(key);
            self.net.borrow_mut().disk.close(content);
            return self.complete(token, Outcome::FileClosed(Ok(())));
        };
        let (token, outcome) = match busy {
            Busy::Append(token, mut batch) => {
                let Some(result) = self.step_append(key, &mut batch) else {
                    let state = self.files.get_mut(key).expect("it has its turn");
                    state.busy = Some(Busy::Append(token, batch));
                    return self.go_on_later(key, None);
                };
                (token, Outcome::Appended(batch, result))
            }
            Busy::Sync(token) => (token, Outcome::Synced(self.sync(key))),
            Busy::Rotate(token, keep) => (token, Outcome::Rotated(self.rotate(key, keep))),
        };
        self.complete(token, outcome);
        if self.files.get(key).is_some_and(|state| state.close.is_some()) {
            self.go_on_later(key, None);
        }
    }

    /// Writes a part. `None` if there is more to write.
    fn step_append(&mut self, key: SlabKey, batch: &mut SendBatch) -> Option<Result<(), Fault>> {
        if batch.remaining() == 0 {
            return Some(Ok(()));
        }
        let state = self.files.get_mut(key).expect("it has its turn");
        let mut net = self.net.borrow_mut();
        let net = &mut *net;
        let site = FaultSite::Op(OpKind::Append);
        let fault = net.chance.fires(&mut state.dice, FaultClass::FileFull, site);
        let fault = fault.map(|drawn| failure(FaultClass::FileFull, drawn).0);
        let mut part = net.chance.part_of(&mut state.dice, batch.remaining());
        if fault.is_some() {
            // An append that fails was not taken as a whole.
            part = part.min(batch.remaining() - 1);
        }
        let piece = batch.slices().next().expect("something remains");
        let piece = &piece[..piece.len().min(part)];
        let wanted = piece.len();
        let written = net.disk.append(state.content, piece);
        batch.advance(written);
        match fault {
            Some(fault) => Some(Err(fault)),
            None if written < wanted => Some(Err(Fault::new(FaultKind::NoSpace, 28))),
            None => (batch.remaining() == 0).then_some(Ok(())),
        }
    }

    fn sync(&mut self, key: SlabKey) -> Result<(), Fault> {
        self.file_fails(key, FaultClass::FileSync, OpKind::Sync)?;
        let state = self.files.get_mut(key).expect("it has its turn");
        self.net.borrow_mut().disk.sync(state.content);
        Ok(())
    }

    fn rotate(&mut self, key: SlabKey, keep: u32) -> Result<(), Fault> {
        self.file_fails(key, FaultClass::FileRotate, OpKind::Rotate)?;
        let state = self.files.get_mut(key).expect("it has its turn");
        let disk = &mut self.net.borrow_mut().disk;
        // As the real ones: up to the first place that is free.
        let is_free = |place: &u32| disk.read(&numbered(&state.path, *place)).is_none();
        let free = (1..keep).find(is_free).unwrap_or(keep);
        for place in (0..free).rev() {
            if !disk.rename(&numbered(&state.path, place), numbered(&state.path, place + 1)) {
                return Err(Fault::new(FaultKind::Other, 21));
            }
        }
        let old =
            std::mem::replace(&mut state.content, disk.open(&state.path).expect("it was opened before"));
        disk.close(old);
        Ok(())
    }

    fn file_fails(&mut self, key: SlabKey, class: FaultClass, kind: OpKind) -> Result<(), Fault> {
        let state = self.files.get_mut(key).expect("it has its turn");
        let fired = self.net.borrow_mut().chance.fires(&mut state.dice, class, FaultSite::Op(kind));
        fired.map_or(Ok(()), |drawn| Err(failure(class, drawn).0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        Driver,
        options::{DriverConfig, FileOptions},
        sim::{Behaviour, FaultCounts, Faults, Rate, SimNet},
        types::Completion,
    };

    const TOKEN: Token = Token(7);

    fn end(sim: &mut Sim, op: Op) -> Outcome {
        let mut completions = Vec::new();
        sim.submit(TOKEN, op);
        // A wait may end for nothing.
        (0..100).find(|_| {
            sim.wait(None, &mut completions).unwrap();
            !completions.is_empty()
        });
        let Some(Completion { token: TOKEN, outcome }) = completions.pop() else { panic!("no completion") };
        assert!(completions.is_empty());
        outcome
    }

    fn open(sim: &mut Sim) -> io::Result<FileKey> {
        Ok(sim.open_file("a.log".as_ref(), &FileOptions::default())?.0)
    }

    /// Appends records, syncs and rotates at times, and checks that the disk has what the completions say.
    fn play(net: &SimNet) -> FaultCounts {
        let mut sim = net.driver(DriverConfig::default());
        let Some(file) = (0..100).find_map(|_| open(&mut sim).ok()) else { panic!("it never opens") };
        let (mut expected, mut old) = (Vec::new(), None);
        for at in 0..60_u8 {
            let record = vec![at; usize::from(at) * 5 + 1];
            let Outcome::Appended(batch, result) =
                end(&mut sim, Op::Append { file, batch: SendBatch::of(&record) })
            else {
                panic!("another outcome")
            };
            assert_eq!(result.is_ok(), batch.remaining() == 0);
            expected.extend_from_slice(&record[..batch.sent()]);
            assert_eq!(net.file("a.log").as_ref(), Some(&expected));
            if at % 3 == 0 && matches!(end(&mut sim, Op::Sync { file }), Outcome::Synced(Ok(()))) {
                assert_eq!(net.file_synced("a.log").as_ref(), Some(&expected));
            }
            if at % 5 == 4 && matches!(end(&mut sim, Op::Rotate { file, keep: 1 }), Outcome::Rotated(Ok(())))
            {
                old = Some(std::mem::take(&mut expected));
            }
            assert_eq!((net.file("a.log").as_ref(), net.file("a.log.1")), (Some(&expected), old.clone()));
        }
        assert!(matches!(end(&mut sim, Op::CloseFile { file }), Outcome::FileClosed(Ok(()))));
        assert_eq!((sim.files(), net.invalid_submissions()), (0, 0));
        net.fault_counts()
    }

    #[test]
    fn every_class_of_files_fires_at_each_of_its_sites_and_the_disk_has_what_was_told() {
        for class in FaultClass::ALL.into_iter().filter(|class| class.is_of_files()) {
            let mut counts = FaultCounts::default();
            for seed in 0..20 {
                let faults = Faults::default().with(class, Rate::per_million(150_000));
                counts += &play(&SimNet::with_behaviour(seed, Behaviour::default().with_faults(faults)));
            }
            for site in FaultCounts::sites(class) {
                assert!(counts.of(class, *site) > 0, "{class} never fired at {site:?}\n{counts}");
            }
            let sites = FaultCounts::sites(class).iter().map(|site| counts.of(class, *site)).sum::<u64>();
            assert_eq!(sites, counts.total(class), "{class} fired elsewhere\n{counts}");
        }
    }

    #[test]
    fn swarms_of_faults_and_tapes_leave_what_was_told() {
        for seed in 0..100 {
            play(&SimNet::with_behaviour(seed, Behaviour::default().with_faults(Faults::drawn(seed))));
        }
        assert_eq!(play(&SimNet::with_tape(Vec::new(), Behaviour::default())), FaultCounts::default());
    }

    #[test]
    fn a_seed_is_a_run() {
        let digest = |seed| {
            let net = SimNet::with_behaviour(seed, Behaviour::default().with_faults(Faults::drawn(seed)));
            play(&net);
            net.digest()
        };
        assert_eq!(digest(5), digest(5));
        assert_eq!((0..20).map(digest).collect::<HashSet<_>>().len(), 20);
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_goes_on_when_there_is_room() {
        let net = SimNet::new(3);
        net.set_disk_room(Some(10));
        let mut sim = net.driver(DriverConfig::default());
        let file = open(&mut sim).unwrap();
        let batch = SendBatch::of(b"fourteen bytes");
        let Outcome::Appended(batch, Err(fault)) = end(&mut sim, Op::Append { file, batch }) else {
            panic!("it does not fit")
        };
        assert_eq!((batch.sent(), fault.kind), (10, FaultKind::NoSpace));
        net.set_disk_room(None);
        let batch = SendBatch::of(b"!");
        assert!(matches!(end(&mut sim, Op::Append { file, batch }), Outcome::Appended(_, Ok(()))));
        assert_eq!(net.file("a.log").unwrap(), b"fourteen b!");
        assert_eq!(net.file_names(), [PathBuf::from("a.log")]);
    }
}
