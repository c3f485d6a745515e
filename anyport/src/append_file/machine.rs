//! What is to be done next with a file: one operation at a time, in the order in which it was asked for (R39).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyport_core::{ChunkPool, Fault};
use anyport_driver::SendBatch;

use super::{AppendFile, AppendRefusal, Appended, FileEvent};

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Action {
    Append(Box<SendBatch>),
    Sync,
    Rotate,
    Close,
}

/// What was asked for and is not begun.
#[derive(Debug)]
enum Step {
    Append(Box<SendBatch>),
    Sync,
    Rotate,
}

/// One file. Whoever owns it carries out what [`poll`](Self::poll) says, and tells how it ended.
#[derive(Debug)]
pub(crate) struct Machine {
    rotate_at_bytes: Option<u64>,
    rotate_after: Option<Duration>,
    queue_max_bytes: usize,
    steps: VecDeque<Step>,
    /// An operation is in flight.
    busy: bool,
    /// Bytes queued and in flight.
    queued_bytes: usize,
    /// Bytes of the file when all steps are done, and when it was begun: what rotation goes by.
    length: u64,
    begun_at: Instant,
    failure: Option<Fault>,
    /// A close was asked for; it comes after all steps.
    closing: bool,
    close_begun: bool,
}

impl Machine {
    pub(crate) fn new(file: &AppendFile, now: Instant) -> Self {
        Self {
            rotate_at_bytes: file.rotate_at_bytes,
            rotate_after: file.rotate_after,
            queue_max_bytes: file.queue_max_bytes,
            steps: VecDeque::new(),
            busy: false,
            queued_bytes: 0,
            length: 0,
            begun_at: now,
            failure: None,
            closing: false,
            close_begun: false,
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// True if nothing is in flight and nothing is to be done.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.busy && !self.has_stalled()
    }

    /// True if there is something to do, and nothing in flight whose end would lead to it.
    pub(crate) fn has_stalled(&self) -> bool {
        !self.busy && (!self.steps.is_empty() || (self.closing && !self.close_begun))
    }

    // ---- what is asked for ----

    /// Queues a record.
    pub(crate) fn append(&mut self, record: &[u8], now: Instant, pool: &mut ChunkPool) -> Appended {
        if let Some(refusal) = self.refusal() {
            return Appended::Refused(refusal);
        }
        if record.len() > self.queue_max_bytes.saturating_sub(self.queued_bytes) {
            return Appended::Refused(AppendRefusal::Full);
        }
        if self.wants_new_file(record.len() as u64, now) {
            self.rotate(now);
        }
        let batch = self.last_batch(pool);
        batch.append(record.len(), pool, |out| out.extend_from_slice(record));
        self.queued_bytes += record.len();
        self.length += record.len() as u64;
        Appended::Queued
    }

    /// The batch that the next record goes to. One behind which only a sync waits takes it, too: the sync covers more than
    /// it must then, and `append; sync` again and again needs neither a batch for each record nor as many syncs.
    fn last_batch(&mut self, pool: &mut ChunkPool) -> &mut SendBatch {
        let behind = usize::from(matches!(self.steps.back(), Some(Step::Sync)));
        let last = self.steps.len().checked_sub(1 + behind);
        let at = last.filter(|at| matches!(self.steps[*at], Step::Append(_))).unwrap_or(self.steps.len());
        if at == self.steps.len() {
            self.steps.push_back(Step::Append(pool.take()));
        }
        let Step::Append(batch) = &mut self.steps[at] else { unreachable!("seen or pushed above") };
        batch
    }

    fn wants_new_file(&self, bytes: u64, now: Instant) -> bool {
        let is_long = self.rotate_at_bytes.is_some_and(|most| self.length.saturating_add(bytes) > most);
        let is_old =
            self.rotate_after.is_some_and(|most| now.saturating_duration_since(self.begun_at) >= most);
        self.length > 0 && (is_long || is_old)
    }

    /// Begins a new file after what was queued. False if nothing can be done with this one.
    pub(crate) fn rotate(&mut self, now: Instant) -> bool {
        if self.refusal().is_some() {
            return false;
        }
        self.length = 0;
        self.begun_at = now;
        self.steps.push_back(Step::Rotate);
        true
    }

    /// Syncs after what was queued; once, if it is asked for twice. False if nothing can be done with this one.
    pub(crate) fn sync(&mut self) -> bool {
        if self.refusal().is_some() {
            return false;
        }
        if !matches!(self.steps.back(), Some(Step::Sync)) {
            self.steps.push_back(Step::Sync);
        }
        true
    }

    /// Closes after what was queued.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    fn refusal(&self) -> Option<AppendRefusal> {
        match self.failure {
            Some(fault) => Some(AppendRefusal::Failed(fault)),
            None => self.closing.then_some(AppendRefusal::NotOpen),
        }
    }

    /// What is to be done now; nothing while something is in flight.
    pub(crate) fn poll(&mut self) -> Option<Action> {
        if self.busy {
            return None;
        }
        let action = match self.steps.pop_front() {
            Some(Step::Append(batch)) => Action::Append(batch),
            Some(Step::Sync) => Action::Sync,
            Some(Step::Rotate) => Action::Rotate,
            None if self.closing && !self.close_begun => {
                self.close_begun = true;
                Action::Close
            }
            None => return None,
        };
        self.busy = true;
        Some(action)
    }

    // ---- how it ended ----

    pub(crate) fn opened(&mut self, length: u64) -> FileEvent {
        // What was queued before went by a length of nothing.
        let before_rotation = self.steps.iter().position(|step| matches!(step, Step::Rotate));
        let goes_there = before_rotation.map_or(self.length, |at| self.bytes_of_steps(at));
        let sum = length.saturating_add(goes_there);
        if length > 0 && goes_there > 0 && self.rotate_at_bytes.is_some_and(|most| sum > most) {
            self.steps.push_front(Step::Rotate);
        } else if before_rotation.is_none() {
            self.length = sum;
        }
        FileEvent::Opened { length }
    }

    /// Bytes of the first steps.
    fn bytes_of_steps(&self, count: usize) -> u64 {
        let bytes = |step: &Step| if let Step::Append(batch) = step { batch.len() as u64 } else { 0 };
        self.steps.iter().take(count).map(bytes).sum()
    }

    pub(crate) fn not_opened(&mut self, fault: Fault, pool: &mut ChunkPool) -> FileEvent {
        self.fail(fault, 0, pool)
    }

    /// Nothing is told of an append that succeeded.
    pub(crate) fn appended(
        &mut self,
        batch: Box<SendBatch>,
        result: Result<(), Fault>,
        pool: &mut ChunkPool,
    ) -> Option<FileEvent> {
        self.busy = false;
        self.queued_bytes -= batch.len();
        let lost = batch.remaining() as u64;
        pool.give(batch);
        result.err().map(|fault| self.fail(fault, lost, pool))
    }

    /// A sync that failed is no better than an append that did: what the system has thrown away by then nobody knows.
    pub(crate) fn synced(&mut self, result: Result<(), Fault>, pool: &mut ChunkPool) -> FileEvent {
        self.busy = false;
        match result {
            Ok(()) => FileEvent::Synced,
            Err(fault) => self.fail(fault, 0, pool),
        }
    }

    pub(crate) fn rotated(&mut self, result: Result<(), Fault>) -> FileEvent {
        self.busy = false;
        match result {
            Ok(()) => FileEvent::Rotated,
            Err(fault) => FileEvent::NotRotated(fault),
        }
    }

    fn fail(&mut self, fault: Fault, lost: u64, pool: &mut ChunkPool) -> FileEvent {
        self.failure = Some(fault);
        for step in self.steps.drain(..) {
            if let Step::Append(batch) = step {
                pool.give(batch);
            }
        }
        let lost_bytes = lost + std::mem::take(&mut self.queued_bytes) as u64;
        FileEvent::Failed { fault, lost_bytes }
    }
}

#[cfg(test)]
mod tests {
    use anyport_core::FaultKind;

    use super::*;

    const FULL: Fault = Fault::of(FaultKind::NoSpace);

    struct Bed {
        machine: Machine,
        pool: ChunkPool,
        now: Instant,
    }

    impl Bed {
        fn new(file: &AppendFile) -> Self {
            let now = Instant::now();
            Self { machine: Machine::new(file, now), pool: ChunkPool::new(), now }
        }

        fn append(&mut self, record: &str) -> Appended {
            self.machine.append(record.as_bytes(), self.now, &mut self.pool)
        }

        /// Carries out everything: appended bytes as they are, `|` for a rotation, `!` for a sync, `.` for the close.
        fn play(&mut self) -> String {
            let mut text = String::new();
            while let Some(action) = self.machine.poll() {
                assert!(self.machine.poll().is_none(), "one operation at a time");
                match action {
                    Action::Append(mut batch) => {
                        batch.slices().for_each(|piece| text.push_str(std::str::from_utf8(piece).unwrap()));
                        batch.advance(batch.remaining());
                        assert_eq!(self.machine.appended(batch, Ok(()), &mut self.pool), None);
                    }
                    Action::Sync => {
                        text.push('!');
                        assert_eq!(self.machine.synced(Ok(()), &mut self.pool), FileEvent::Synced);
                    }
                    Action::Rotate => {
                        text.push('|');
                        assert_eq!(self.machine.rotated(Ok(())), FileEvent::Rotated);
                    }
                    Action::Close => {
                        text.push('.');
                        break;
                    }
                }
            }
            assert_eq!((self.machine.queued_bytes(), self.pool.batches_out()), (0, 0));
            text
        }
    }

    #[test]
    fn what_is_asked_for_is_done_in_order_and_the_close_comes_last() {
        let mut bed = Bed::new(&AppendFile::at("a"));
        assert_eq!(bed.append("one "), Appended::Queued);
        assert_eq!(bed.append("two "), Appended::Queued);
        assert!(bed.machine.sync() && bed.machine.sync());
        assert_eq!(bed.append("three "), Appended::Queued);
        assert!(bed.machine.rotate(bed.now));
        assert_eq!(bed.append("four"), Appended::Queued);
        bed.machine.close();
        assert_eq!(bed.append("five"), Appended::Refused(AppendRefusal::NotOpen));
        assert!(!bed.machine.sync() && !bed.machine.rotate(bed.now));
        assert_eq!(bed.play(), "one two three !|four.");
        assert!(bed.machine.poll().is_none());
    }

    #[test]
    fn a_sync_after_each_record_needs_no_batch_for_each() {
        let mut bed = Bed::new(&AppendFile::at("a"));
        bed.append("0");
        assert!(bed.machine.sync());
        let Some(Action::Append(mut batch)) = bed.machine.poll() else { panic!("an append") };
        for _ in 0..1_000 {
            assert_eq!(bed.append("1"), Appended::Queued);
            assert!(bed.machine.sync());
        }
        assert_eq!((bed.machine.steps.len(), bed.pool.batches_out()), (3, 2));
        batch.advance(1);
        assert_eq!(bed.machine.appended(batch, Ok(()), &mut bed.pool), None);
        // The sync of the first record did not wait for those that came when it was next.
        assert_eq!(bed.play(), format!("!{}!", "1".repeat(1_000)));
    }

    #[test]
    fn the_old_length_counts_for_what_goes_to_the_old_file() {
        let limited = AppendFile::at("a").rotate_at_bytes(10);
        // Asked for before it was open: the new file has nothing of the old one.
        let mut bed = Bed::new(&limited);
        assert!(bed.machine.rotate(bed.now));
        bed.machine.opened(8);
        bed.append("12345");
        bed.append("67890");
        assert_eq!(bed.play(), "|1234567890");
        // Queued before it was open: it does not fit.
        let mut bed = Bed::new(&limited);
        bed.append("12345");
        bed.machine.opened(8);
        bed.append("67890");
        assert_eq!(bed.play(), "|1234567890");
        // It does, and the next one does not.
        let mut bed = Bed::new(&limited);
        bed.append("12");
        bed.machine.opened(8);
        bed.append("3");
        assert_eq!(bed.play(), "12|3");
        // Neither fits, and the second asked for a rotation itself.
        let mut bed = Bed::new(&limited);
        bed.append("12345");
        bed.append("678901");
        bed.machine.opened(8);
        bed.append("2345");
        assert_eq!(bed.play(), "|12345|6789012345");
        // An empty file takes anything.
        let mut bed = Bed::new(&limited);
        bed.append("12345678901");
        bed.machine.opened(0);
        assert_eq!(bed.play(), "12345678901");
    }

    #[test]
    fn records_gather_while_one_append_is_in_flight() {
        let mut bed = Bed::new(&AppendFile::at("a"));
        bed.append("a");
        let Some(Action::Append(mut batch)) = bed.machine.poll() else { panic!("an append") };
        for _ in 0..1_000 {
            assert_eq!(bed.append("b"), Appended::Queued);
        }
        assert!(bed.machine.poll().is_none() && !bed.machine.is_at_rest());
        batch.advance(1);
        assert_eq!(bed.machine.appended(batch, Ok(()), &mut bed.pool), None);
        let Some(Action::Append(batch)) = bed.machine.poll() else { panic!("an append") };
        assert_eq!(batch.len(), 1_000);
    }

    #[test]
    fn files_end_between_records_and_below_their_size() {
        let mut bed = Bed::new(&AppendFile::at("a").rotate_at_bytes(10));
        let opened = bed.machine.opened(7);
        assert_eq!(opened, FileEvent::Opened { length: 7 });
        for record in ["abc", "d", "0123456789", "a record that is too long", "x", "yz"] {
            assert_eq!(bed.append(record), Appended::Queued);
        }
        assert_eq!(bed.play(), "abc|d|0123456789|a record that is too long|xyz");
    }

    #[test]
    fn an_old_file_ends_with_the_next_record() {
        let mut bed = Bed::new(&AppendFile::at("a").rotate_after(Duration::from_mins(1)));
        bed.now += Duration::from_mins(5);
        // Nothing is in it: it stays.
        bed.append("a");
        bed.append("b");
        bed.now += Duration::from_mins(1);
        bed.append("c");
        bed.now += Duration::from_secs(59);
        bed.append("d");
        assert_eq!(bed.play(), "a|b|cd");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut bed = Bed::new(&AppendFile::at("a").queue_max_bytes(10));
        assert_eq!(bed.append("12345678"), Appended::Queued);
        assert_eq!(bed.append("901"), Appended::Refused(AppendRefusal::Full));
        assert_eq!(bed.append("90"), Appended::Queued);
        let Some(Action::Append(batch)) = bed.machine.poll() else { panic!("an append") };
        // What is in flight waits still.
        assert_eq!(bed.append("1"), Appended::Refused(AppendRefusal::Full));
        assert_eq!((batch.len(), bed.machine.queued_bytes()), (10, 10));
    }

    #[test]
    fn a_failure_is_told_once_with_what_is_lost_and_stays() {
        let mut bed = Bed::new(&AppendFile::at("a").rotate_at_bytes(20));
        bed.append("in flight");
        let Some(Action::Append(mut batch)) = bed.machine.poll() else { panic!("an append") };
        bed.append("queued");
        bed.machine.sync();
        bed.append("behind a rotation");
        batch.advance(3);
        let event = bed.machine.appended(batch, Err(FULL), &mut bed.pool);
        assert_eq!(event, Some(FileEvent::Failed { fault: FULL, lost_bytes: 6 + 6 + 17 }));
        assert_eq!(bed.append("x"), Appended::Refused(AppendRefusal::Failed(FULL)));
        assert!(!bed.machine.sync() && bed.machine.is_at_rest());
        bed.machine.close();
        assert_eq!(bed.play(), ".");
    }

    #[test]
    fn a_sync_that_fails_is_a_failure_and_a_rotation_that_fails_is_none() {
        let mut bed = Bed::new(&AppendFile::at("a").rotate_at_bytes(4));
        bed.append("abc");
        bed.append("def");
        bed.machine.sync();
        let Some(Action::Append(mut batch)) = bed.machine.poll() else { panic!("an append") };
        batch.advance(3);
        assert_eq!(bed.machine.appended(batch, Ok(()), &mut bed.pool), None);
        assert!(matches!(bed.machine.poll(), Some(Action::Rotate)));
        assert_eq!(bed.machine.rotated(Err(FULL)), FileEvent::NotRotated(FULL));
        let Some(Action::Append(mut batch)) = bed.machine.poll() else { panic!("an append") };
        batch.advance(3);
        assert_eq!(bed.machine.appended(batch, Ok(()), &mut bed.pool), None);
        assert!(matches!(bed.machine.poll(), Some(Action::Sync)));
        let event = bed.machine.synced(Err(FULL), &mut bed.pool);
        assert_eq!(event, FileEvent::Failed { fault: FULL, lost_bytes: 0 });
        assert_eq!(bed.append("x"), Appended::Refused(AppendRefusal::Failed(FULL)));
    }
}
