//! Questions and their answers, on every driver: waited for, polled, refused.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use anyport::{AskError, CloseReason, DriverChoice, Frame, Handler, Limits, Raw, Session, SessionId};

use crate::support::{Bed, PATIENCE};

on_every_driver! {
    a_session_answers_whoever_waits
    answers_are_futures
    a_session_that_has_gone_says_so
    a_question_that_panics_costs_its_session
    every_shard_answers_in_its_place
    a_shard_does_not_wait_for_itself
    a_full_mailbox_is_an_answer
    an_answer_that_takes_too_long_can_be_waited_for_again
    an_engine_that_has_ended_answers_nothing
}

/// Counts the frames of each session, and tells who opens.
struct Counts {
    opened: std::sync::mpsc::Sender<SessionId>,
    seen: u64,
}

impl Handler for Counts {
    type State = u64;
    type Codec = Raw;

    fn on_open(&mut self, session: &mut Session<Self>) {
        self.opened.send(session.id()).unwrap();
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        *session.state() += 1;
        self.seen += 1;
        session.send_frame(frame);
    }
}

fn bed(driver: DriverChoice, shards: usize, limits: Limits) -> (Bed<Counts>, Receiver<SessionId>) {
    let (opened, ids) = channel();
    let bed = Bed::start(driver, shards, Raw, limits, move |_| Counts { opened: opened.clone(), seen: 0 });
    (bed, ids)
}

fn a_session_answers_whoever_waits(driver: DriverChoice) {
    let (bed, ids) = bed(driver, 2, Limits::default());
    let mut peer = bed.peer();
    let id = ids.recv_timeout(PATIENCE).unwrap();
    for round in 1..=3 {
        peer.send(b"x");
        peer.expect(b"x");
        let answer = bed.remote.ask(id, |handler, session| (handler.seen, *session.state(), session.id()));
        assert_eq!(answer.wait(), Ok((round, round, id)));
    }
    // Nobody waits for this one, and it is put all the same.
    drop(bed.remote.ask(id, |_, session| session.send(b"asked")));
    peer.expect(b"asked");
    bed.running.stop().unwrap();
}

/// Unparks the thread that polls, and tells it that it did.
struct Unparks {
    thread: Thread,
    woken: AtomicBool,
}

impl Unparks {
    fn here() -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), woken: AtomicBool::new(false) })
    }
}

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// The smallest executor: it polls when it is woken, and at no other time. Calls `pends` after a first poll that found
/// nothing.
fn block_on<F: Future>(future: F, pends: impl FnOnce()) -> F::Output {
    let unparks = Unparks::here();
    let waker = Waker::from(Arc::clone(&unparks));
    let (mut future, mut pends) = (pin!(future), Some(pends));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        if let Some(pends) = pends.take() {
            pends();
        }
        let since = Instant::now();
        // A thread may wake for no reason.
        while !unparks.woken.swap(false, Ordering::SeqCst) {
            assert!(since.elapsed() < PATIENCE, "nobody woke it");
            thread::park_timeout(PATIENCE);
        }
    }
}

fn answers_are_futures(driver: DriverChoice) {
    let (bed, ids) = bed(driver, 3, Limits::default());
    let _peer = bed.peer();
    let id = ids.recv_timeout(PATIENCE).unwrap();
    // No answer is there at once.
    let hold = |shard| {
        let (release, released) = channel::<()>();
        bed.remote.post_to_shard(shard, move |_, _| assert!(released.recv().is_err())).unwrap();
        release
    };
    let (release, remote) = (hold(id.shard().into()), bed.remote.clone());
    let answer = block_on(async move { remote.ask(id, |_, session| session.id()).await }, || drop(release));
    let mut release = Some(hold(1));
    let all = block_on(bed.remote.ask_all(|_, shard| shard.index()), || drop(release.take()));
    assert_eq!((answer, all), (Ok(id), Ok(vec![0, 1, 2])));
    assert!(release.is_none(), "nobody had to wait");
    // A task that gives up before the answer is there.
    let (release, released) = channel::<()>();
    let mut answer = bed.remote.ask_shard(0, move |_, _| released.recv().is_err());
    let waker = Waker::from(Unparks::here());
    assert!(Pin::new(&mut answer).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(answer);
    drop(release);
    bed.running.stop().unwrap();
}

fn a_session_that_has_gone_says_so(driver: DriverChoice) {
    let (bed, ids) = bed(driver, 1, Limits::default());
    let peer = bed.peer();
    let id = ids.recv_timeout(PATIENCE).unwrap();
    drop(peer);
    bed.counters_when(|counters| counters.closed_total() == 1);
    assert_eq!(bed.remote.ask(id, |_, _| ()).wait(), Err(AskError::Gone));
    let nowhere = SessionId::from_bits(id.bits() | 77 << 56);
    assert_eq!(bed.remote.ask(nowhere, |_, _| ()).wait(), Err(AskError::Gone));
    assert_eq!(bed.remote.ask_shard(1, |_, _| ()).wait(), Err(AskError::Ended));
    bed.running.stop().unwrap();
}

fn a_question_that_panics_costs_its_session(driver: DriverChoice) {
    let (bed, ids) = bed(driver, 1, Limits::default());
    let (mut peer, mut other) = (bed.peer(), bed.peer());
    let id = ids.recv_timeout(PATIENCE).unwrap();
    let answer = bed.remote.ask(id, |_, _| -> u8 { panic!("a planted one") });
    assert_eq!(answer.wait(), Err(AskError::Panicked));
    let counters = bed.counters_when(|counters| counters.closed_total() == 1);
    assert_eq!(counters.closed_for(CloseReason::HandlerPanicked), 1);
    assert_eq!(peer.rest(), b"");
    other.send(b"still here");
    other.expect(b"still here");
    bed.running.stop().unwrap();
}

fn every_shard_answers_in_its_place(driver: DriverChoice) {
    let (bed, _ids) = bed(driver, 4, Limits::default());
    let answers = bed.remote.ask_all(|handler, shard| (shard.index(), handler.seen));
    assert_eq!(answers.wait(), Ok((0..4).map(|shard| (shard, 0)).collect()));
    bed.running.stop().unwrap();
}

fn a_shard_does_not_wait_for_itself(driver: DriverChoice) {
    let (bed, _ids) = bed(driver, 1, Limits::default());
    let remote = bed.remote.clone();
    let inner = bed.remote.ask_shard(0, move |_, _| {
        let mut later = remote.ask_shard(0, |_, _| 5);
        let refused = later.wait_timeout(PATIENCE);
        (refused, later.try_take(), remote.sessions().wait(), later)
    });
    let (refused, not_yet, list, later) = inner.wait().unwrap();
    assert_eq!((refused, not_yet, list), (Err(AskError::OnShard), None, Err(AskError::OnShard)));
    assert!(AskError::OnShard.to_string().contains("try_take"));
    // It was put, and is there for whoever may wait.
    assert_eq!(later.wait(), Ok(5));
    bed.running.stop().unwrap();
}

fn a_full_mailbox_is_an_answer(driver: DriverChoice) {
    let limits = Limits { mailbox_max_jobs: 2, ..Limits::default() };
    let (bed, _ids) = bed(driver, 1, limits);
    let (release, released) = channel::<()>();
    let (tell, told) = channel();
    let held = bed.remote.ask_shard(0, move |_, _| {
        tell.send(()).unwrap();
        released.recv().is_err()
    });
    told.recv_timeout(PATIENCE).unwrap();
    let mut answers: Vec<_> = (0..4).map(|number| bed.remote.ask_shard(0, move |_, _| number)).collect();
    assert_eq!(answers.pop().unwrap().wait(), Err(AskError::Full));
    drop(release);
    assert_eq!(held.wait(), Ok(true));
    assert_eq!(answers.swap_remove(0).wait(), Ok(0));
    bed.running.stop().unwrap();
}

fn an_answer_that_takes_too_long_can_be_waited_for_again(driver: DriverChoice) {
    let (bed, _ids) = bed(driver, 2, Limits::default());
    let (release, released) = channel::<()>();
    let released = std::sync::Mutex::new(released);
    let mut answers = bed.remote.ask_all(move |_, shard| {
        if shard.index() == 1 {
            let _ = released.lock().unwrap().recv();
        }
        shard.index()
    });
    assert_eq!(answers.wait_timeout(Duration::from_millis(1)), Err(AskError::TimedOut));
    assert!(answers.try_take().is_none());
    drop(release);
    assert_eq!(answers.wait_timeout(PATIENCE), Ok(vec![0, 1]));
    bed.running.stop().unwrap();
}

fn an_engine_that_has_ended_answers_nothing(driver: DriverChoice) {
    let (bed, ids) = bed(driver, 1, Limits::default());
    let _peer = bed.peer();
    let id = ids.recv_timeout(PATIENCE).unwrap();
    bed.running.stopper().abort();
    bed.running.join().unwrap();
    assert_eq!(bed.remote.ask(id, |_, _| ()).wait(), Err(AskError::Ended));
    assert_eq!(bed.remote.ask_all(|_, _| ()).wait(), Err(AskError::Ended));
    assert_eq!(block_on(bed.remote.sessions(), || panic!("it waits")), Err(AskError::Ended));
}
