//! What peers may not do, in virtual time: dribble, flood, exceed their rate, come too often. And what does not count against
//! them: a stall of ours, a pause of ours.

use std::{cell::RefCell, time::Duration};

use anyport::{
    CloseReason, Engine, Frame, Handler, Limits, Lines, OnExcess, Rates, ReceiveRate, SendMarks, Server,
    Session, SessionId, Shard, Spread, TimerKey,
    sim::{Behaviour, Held, SimEngine, SimNet, SimPeer},
};

use crate::bed::{ADDRESS, Bed, Diary, SOON, TICK, Told};

const SECOND: Duration = Duration::from_secs(1);
const HANDSHAKE: Duration = Duration::from_secs(10);
const FRAME: Duration = Duration::from_secs(5);
/// What an end may be late: the tick in which a time began, the one in which it was over, and a few steps of the network.
const LATE: Duration = Duration::from_nanos(3 * TICK.as_nanos() as u64 + 1_000_000);

/// When the session ended, after the start of the simulation, and why.
fn end_of(bed: &Bed, session: SessionId, since: Duration) -> Option<(Duration, CloseReason)> {
    let (now, elapsed) = (bed.net.now(), bed.net.elapsed());
    let ends = bed.diary.all(|(at, _, told)| match told {
        Told::Close(id, reason) if *id == session => Some((*at, *reason)),
        _ => None,
    });
    let after = |at| elapsed.saturating_sub(since).saturating_sub(now.saturating_duration_since(at));
    ends.first().map(|(at, reason)| (after(*at), *reason))
}

fn last_opened(diary: &Diary) -> SessionId {
    diary.opens().last().expect("one has opened").1
}

/// Lets time pass to `until`, and writes a byte each second.
fn dribble(bed: &mut Bed, peer: &mut SimPeer, until: Duration) {
    while bed.net.elapsed() < until {
        peer.write(b"x");
        bed.engine.run_for(SECOND);
    }
}

fn ended_in_time(end: Option<(Duration, CloseReason)>, limit: Duration, reason: CloseReason) {
    let (after, was) = end.expect("it has ended");
    assert_eq!(was, reason);
    assert!(after >= limit && after <= limit + LATE, "after {after:?}, and the limit is {limit:?}");
}

/// Three ways to hold a session with few bytes: nothing, a first frame without end, a later one. And an honest peer that
/// is slow.
fn slowloris() {
    let limits = Limits {
        handshake_timeout: Some(HANDSHAKE),
        frame_timeout: Some(FRAME),
        idle_timeout: Some(Duration::from_mins(1)),
        ..Limits::default()
    };
    let mut bed = Bed::with_limits(SimNet::new(1), limits);
    let mut honest = bed.peer();
    assert_eq!(bed.ask(&mut honest, "hello"), "hello\n");

    let silent = bed.peer();
    let (since, session) = (bed.net.elapsed(), last_opened(&bed.diary));
    bed.engine.run_for(HANDSHAKE.saturating_sub(LATE));
    assert_eq!(end_of(&bed, session, since), None);
    bed.engine.run_for(2 * LATE);
    // It opened a little before we looked.
    ended_in_time(
        end_of(&bed, session, since.saturating_sub(LATE / 2)),
        HANDSHAKE,
        CloseReason::HandshakeTimeout,
    );

    let mut first = bed.peer();
    bed.engine.run_for(3 * SECOND);
    let (since, session) = (bed.net.elapsed(), last_opened(&bed.diary));
    dribble(&mut bed, &mut first, since + FRAME + SECOND);
    ended_in_time(end_of(&bed, session, since), FRAME, CloseReason::FrameTimeout);

    let mut later = bed.peer();
    let session = last_opened(&bed.diary);
    assert_eq!(bed.ask(&mut later, "hello"), "hello\n");
    bed.engine.run_for(30 * SECOND);
    let since = bed.net.elapsed();
    dribble(&mut bed, &mut later, since + FRAME + SECOND);
    ended_in_time(end_of(&bed, session, since), FRAME, CloseReason::FrameTimeout);

    // A line of four pieces in four seconds, again and again: none takes too long.
    for _ in 0..20 {
        for piece in [&b"ho"[..], b"ne", b"s", b"t\n"] {
            honest.write(piece);
            bed.engine.run_for(SECOND);
        }
        assert_eq!(bed.engine.read_line(&mut honest, SOON), "honest\n");
    }
    let counters = bed.engine.counters(0);
    assert_eq!(counters.closed_for(CloseReason::FrameTimeout), 2);
    assert_eq!((counters.closed_for(CloseReason::HandshakeTimeout), counters.sessions), (1, 1));
    drop((silent, first, later, honest));
    bed.stop();
}

#[test]
fn slowloris_in_three_forms_is_gone_in_time_and_an_honest_slow_peer_stays() {
    slowloris();
}

/// A large frame may take long, as long as it comes fast enough.
fn too_slow() {
    let rate = ReceiveRate { bytes_per_second: 100, window: 2 * SECOND };
    let limits = Limits { receive_rate_min: Some(rate), ..Limits::default() };
    let mut bed = Bed::with_limits(SimNet::new(2), limits);
    let (mut quick, mut slow) = (bed.peer(), bed.peer());
    let session = last_opened(&bed.diary);
    // Between two frames nobody has to send anything.
    bed.engine.run_for(60 * SECOND);
    let since = bed.net.elapsed();
    for _ in 0..40 {
        quick.write(&[b'x'; 220]);
        slow.write(&[b'x'; 50]);
        bed.engine.run_for(SECOND);
    }
    ended_in_time(end_of(&bed, session, since), rate.window, CloseReason::TooSlow);
    quick.write(b"\n");
    assert_eq!(bed.engine.read_line(&mut quick, SOON).len(), 40 * 220 + 1);
    drop((quick, slow));
    bed.stop();
}

#[test]
fn a_frame_that_grows_too_slowly_costs_its_session() {
    too_slow();
}

/// One peer has thousands of lines there at once, a hundred others have one: they do not wait for all of his.
fn flood(line: &[u8]) {
    let limits = Limits { turn_frames_max: 1, ..Limits::default() };
    let mut bed = Bed::with_limits(SimNet::new(3), limits);
    let mut flooder = bed.peer();
    let mut others: Vec<_> = (0..100).map(|_| bed.peer()).collect();
    let lines = 4_000;
    let wire = line.repeat(lines);
    assert_eq!(flooder.write(&wire), wire.len());
    for other in &mut others {
        assert_eq!(other.write(b"other\n"), 6);
    }
    // All of it has arrived before the engine looks.
    bed.net.advance(SECOND);
    let mut answer = Vec::new();
    let all = bed.engine.run_until(60 * SECOND, |_| {
        flooder.read(&mut answer);
        answer.len() == wire.len()
    });
    assert!(all, "{} of {} bytes", answer.len(), wire.len());
    assert!(answer == wire, "in order, and none lost");
    let frames = bed.diary.frames();
    let last = frames.iter().rposition(|frame| frame == b"other").expect("the others were heard");
    // The simulator's clock stands still for a thousand turns; then the others' bytes are there.
    let before = frames[..last].iter().filter(|frame| frame.as_slice() != b"other").count();
    assert!(before <= 1_500, "{before} lines of the flood came before the last of the others");
    assert!(bed.engine.counters(0).held_back > 100);
    bed.engine.check().unwrap();
    drop((flooder, others));
    bed.stop();
}

#[test]
fn a_flood_does_not_starve_a_hundred_others() {
    flood(b"flood\n");
}

#[test]
fn a_flood_of_frames_without_a_body_counts_too() {
    flood(b"\n");
}

/// What is over a turn's bytes waits as well, in the middle of a frame if need be.
#[test]
fn bytes_of_a_turn_are_bounded_and_none_is_lost() {
    let limits = Limits { turn_bytes_max: 100, ..Limits::default() };
    let mut bed = Bed::with_limits(SimNet::new(4), limits);
    let mut peer = bed.peer();
    let line = "z".repeat(1_234);
    for _ in 0..3 {
        assert_eq!(bed.ask(&mut peer, &line), format!("{line}\n"));
    }
    assert!(bed.engine.counters(0).held_back >= 3 * 12);
    drop(peer);
    bed.stop();
}

/// Half of a line, a stall of a minute, the other half: in it, or right after it.
fn stall() {
    let limits = Limits {
        idle_timeout: Some(Duration::from_secs(20)),
        frame_timeout: Some(FRAME),
        handshake_timeout: Some(HANDSHAKE),
        ..Limits::default()
    };
    let mut bed = Bed::with_limits(SimNet::new(5), limits);
    let mut peers: Vec<_> = (0..50).map(|_| bed.peer()).collect();
    for peer in &mut peers {
        peer.write(b"I am ");
    }
    bed.engine.run_for(2 * SECOND);
    bed.net.advance(Duration::from_secs(30));
    for peer in &mut peers {
        peer.write(b"here\n");
    }
    bed.net.advance(Duration::from_secs(30));
    for peer in &mut peers {
        assert_eq!(bed.engine.read_line(peer, SOON), "I am here\n");
    }
    assert_eq!(bed.diary.closes(), []);
    drop(peers);
    bed.stop();
}

#[test]
fn a_stall_makes_nobody_late_who_had_written() {
    stall();
}

thread_local! {
    /// The network of a handler that is busy: time passes while it works.
    static NET: RefCell<Option<SimNet>> = const { RefCell::new(None) };
}

/// Works for 150 ms, 50 ms after it has done so.
struct Busy;

impl Handler for Busy {
    type State = ();
    type Codec = Lines;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        shard.set_repeating_timer(TimerKey(0), Duration::from_millis(200));
    }

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}

    fn on_timer(&mut self, _shard: &mut Shard<Self>, _timer: TimerKey) {
        NET.with_borrow(|net| net.as_ref().unwrap().advance(Duration::from_millis(150)));
    }
}

/// A shard that is always busy has a stall in every turn: that protects nobody for ever (R40).
#[test]
fn a_busy_shard_closes_a_slowloris_all_the_same() {
    let net = SimNet::new(17);
    NET.set(Some(net.clone()));
    let limits = Limits { handshake_timeout: Some(HANDSHAKE), ..Limits::default() };
    let server = Server::bind(ADDRESS, Lines::default()).limits(limits);
    let mut engine = Engine::new().unwrap().serve(server, |_| Busy).unwrap().simulate(&net).unwrap();
    let mut peer = net.connect(engine.address(0).unwrap()).unwrap();
    let closed = |engine: &SimEngine| engine.counters(0).closed_for(CloseReason::HandshakeTimeout) == 1;
    for _ in 0..13 {
        peer.write(b"x");
        engine.run_for(SECOND);
    }
    assert!(closed(&engine));
    drop(peer);
    engine.stop().unwrap();
    NET.set(None);
}

/// The handler of the session that opened last stops reading from it, or goes on.
fn listen(bed: &Bed, again: bool) {
    let session = last_opened(&bed.diary);
    let _ =
        bed.remote.post(session, move |_, session| if again { session.resume() } else { session.pause() });
}

/// While we do not listen, nobody is too late; then his time goes on.
fn paused() {
    let limits = Limits {
        idle_timeout: Some(Duration::from_secs(20)),
        frame_timeout: Some(FRAME),
        handshake_timeout: Some(HANDSHAKE),
        ..Limits::default()
    };
    let mut bed = Bed::with_limits(SimNet::new(6), limits);
    let mut peer = bed.peer();
    peer.write(b"half ");
    bed.engine.run_for(3 * SECOND);
    listen(&bed, false);
    bed.engine.run_for(100 * SECOND);
    listen(&bed, true);
    // Three of five seconds were over.
    bed.engine.run_for(SECOND);
    peer.write(b"a line\n");
    assert_eq!(bed.engine.read_line(&mut peer, SOON), "half a line\n");
    // The time in which nothing came and nobody listened is none of its silence.
    listen(&bed, false);
    bed.engine.run_for(100 * SECOND);
    listen(&bed, true);
    bed.engine.run_for(19 * SECOND);
    assert_eq!(bed.diary.closes(), []);
    bed.engine.run_for(2 * SECOND);
    assert_eq!(bed.diary.closes(), [CloseReason::IdleTimeout]);
    drop(peer);

    // What goes on goes on where it stood.
    let mut peer = bed.peer();
    let session = last_opened(&bed.diary);
    peer.write(b"half ");
    bed.engine.run_for(3 * SECOND);
    listen(&bed, false);
    bed.engine.run_for(100 * SECOND);
    listen(&bed, true);
    let since = bed.net.elapsed();
    bed.engine.run_for(10 * SECOND);
    let (after, reason) = end_of(&bed, session, since).expect("it has ended");
    assert_eq!(reason, CloseReason::FrameTimeout);
    assert!(after <= 2 * SECOND + LATE && after + LATE >= 2 * SECOND, "{after:?}");
    drop(peer);
    bed.stop();
}

#[test]
fn time_stands_while_we_do_not_listen() {
    paused();
}

/// A peer that reads now and then is there, although nothing comes from it; one that does not read is not.
#[test]
fn under_pressure_who_reads_is_not_idle_and_who_does_not_is() {
    let send = SendMarks { high_water_bytes: 1_000, low_water_bytes: 500, queue_max_bytes: 1 << 20 };
    let limits = Limits { send, idle_timeout: Some(Duration::from_secs(20)), ..Limits::default() };
    let small = Behaviour::default().with_socket_buffer_bytes(1_000..=1_000);
    let mut bed = Bed::with_limits(SimNet::with_behaviour(7, small), limits);
    let mut reads = bed.peer();
    for _ in 0..8 {
        // Each rises above the high mark, and is all read before the next.
        bed.engine.write(&mut reads, b"send 3000\n", SOON);
        bed.engine.run_for(15 * SECOND);
        assert_eq!(bed.engine.read(&mut reads, b"\n", SOON).len(), 3_001);
    }
    assert_eq!(bed.diary.closes(), []);
    bed.engine.write(&mut reads, b"send 3000\n", SOON);
    bed.engine.run_for(21 * SECOND);
    assert_eq!(bed.diary.closes(), [CloseReason::IdleTimeout]);
    drop(reads);
    bed.stop();
}

fn rated(on_excess: OnExcess, messages: Option<u32>, bytes: Option<u32>) -> Limits {
    let rates = Rates { messages_per_second: messages, bytes_per_second: bytes, burst: SECOND, on_excess };
    Limits { rates, ..Limits::default() }
}

/// Two hundred lines at once, of twelve bytes, and ten may come in a second: all come, in order, and not before their time.
fn rate_pauses(messages: Option<u32>, bytes: Option<u32>) {
    let limits = rated(OnExcess::PauseReading, messages, bytes);
    let limits = Limits { idle_timeout: Some(5 * SECOND), ..limits };
    let mut bed = Bed::with_limits(SimNet::new(8), limits);
    let mut peer = bed.peer();
    let wire: Vec<u8> = (0..200).flat_map(|at| format!("line {at:06}\n").into_bytes()).collect();
    let since = bed.net.elapsed();
    let mut answer = Vec::new();
    let mut written = 0;
    let all = bed.engine.run_until(60 * SECOND, |_| {
        written += peer.write(&wire[written..]);
        peer.read(&mut answer);
        answer.len() == wire.len()
    });
    assert!(all && answer == wire, "{} of {} bytes", answer.len(), wire.len());
    let took = |bed: &Bed| bed.net.elapsed().saturating_sub(since);
    // A burst of ten, then ten a second.
    let in_time = |took: Duration| took + LATE >= 19 * SECOND && took < 20 * SECOND;
    if bytes.is_some() {
        // Bytes that have come are given to the handler, and paid for afterwards: it is the next ones that wait.
        peer.write(b"again\n");
        assert_eq!(bed.engine.read_line(&mut peer, 60 * SECOND), "again\n");
    }
    assert!(in_time(took(&bed)), "{:?}", took(&bed));
    assert!(bed.engine.counters(0).rate_pauses > 0);
    // And whoever has paid may speak again at once.
    bed.engine.run_for(2 * SECOND);
    let since = bed.net.elapsed();
    assert_eq!(bed.ask(&mut peer, "again"), "again\n");
    assert!(bed.net.elapsed() < since + SECOND);
    bed.engine.check().unwrap();
    drop(peer);
    // Whoever is not listened to is heard of later.
    bed.engine.run_for(30 * SECOND);
    assert_eq!(bed.diary.closes().len(), 1);
    bed.stop();
}

#[test]
fn a_rate_of_messages_pauses_and_loses_nothing() {
    rate_pauses(Some(10), None);
}

#[test]
fn a_rate_of_bytes_pauses_and_loses_nothing() {
    rate_pauses(None, Some(120));
}

/// What a second brings is taken, and one frame more closes.
#[test]
fn a_rate_that_closes_closes_at_the_first_frame_too_many() {
    for (limits, most) in
        [(rated(OnExcess::Close, Some(10), None), 10), (rated(OnExcess::Close, None, Some(60)), 10)]
    {
        let mut bed = Bed::with_limits(SimNet::new(9), limits);
        let mut honest = bed.peer();
        for _ in 0..3 {
            for _ in 0..most {
                assert_eq!(bed.ask(&mut honest, "hello"), "hello\n");
            }
            // The beginning of a frame is not one too many, of messages.
            bed.engine.run_for(2 * SECOND);
        }
        let mut greedy = bed.peer();
        let heard = bed.diary.frames().len();
        greedy.write(&b"hello\n".repeat(most + 1));
        bed.engine.run_for(SECOND);
        assert_eq!(bed.diary.closes(), [CloseReason::RateExceeded]);
        assert_eq!(bed.diary.frames().len() - heard, most + 1);
        drop((honest, greedy));
        bed.stop();
    }
}

/// All was sent and our direction has ended; the peer does not end its own.
#[test]
fn a_drained_session_lingers_for_so_long() {
    let limits = Limits { linger: 3 * SECOND, ..Limits::default() };
    let mut bed = Bed::with_limits(SimNet::new(13), limits);
    let mut peer = bed.peer();
    let session = last_opened(&bed.diary);
    let _ = bed.remote.post(session, |_, session| session.drain());
    let since = bed.net.elapsed();
    assert_eq!(bed.engine.read_to_end(&mut peer, SOON), b"");
    bed.engine.run_for(10 * SECOND);
    ended_in_time(end_of(&bed, session, since), limits.linger, CloseReason::Drained);
    drop(peer);
    bed.stop();
}

#[test]
fn reading_goes_on_under_pressure_if_it_is_to() {
    let send = SendMarks { high_water_bytes: 1_000, low_water_bytes: 500, queue_max_bytes: 10_000 };
    let small = Behaviour::default().with_socket_buffer_bytes(1_000..=1_000);
    for pauses in [true, false] {
        let limits = Limits { send, pause_reading_under_pressure: pauses, ..Limits::default() };
        let mut bed = Bed::with_limits(SimNet::with_behaviour(14, small.clone()), limits);
        let mut peer = bed.peer();
        for _ in 0..8 {
            peer.write(b"send 3000\n");
            bed.engine.run_for(SECOND);
        }
        // It is read from until its queue is full, or only until it is above the mark.
        let (heard, closes) = (bed.diary.frames().len(), bed.diary.closes());
        if pauses {
            assert_eq!((heard, closes.len()), (1, 0));
        } else {
            assert!(heard > 1);
            assert_eq!(closes, [CloseReason::SendQueueFull]);
        }
        drop(peer);
        bed.engine.stop().unwrap();
    }
}

fn tried(bed: &mut Bed, count: usize) -> Vec<SimPeer> {
    let peers = (0..count).map(|_| bed.net.connect(bed.address()).unwrap()).collect();
    bed.engine.run_for(SECOND / 10);
    peers
}

/// Over all shards, and whoever goes makes room.
fn admission() {
    let limits = Limits { sessions_per_address_max: Some(5), ..Limits::default() };
    let mut bed = Bed::with(SimNet::new(10), 3, Spread::HandOver, limits);
    for round in 1..=3 {
        let peers = tried(&mut bed, 12);
        let counters = bed.engine.counters(0);
        assert_eq!((counters.sessions, counters.closed_for(CloseReason::TooManyFromAddress)), (5, 7 * round));
        drop(peers);
        bed.engine.run_for(SECOND);
        assert_eq!(bed.engine.held().sessions, 0);
    }
    bed.stop();

    let limits = Limits { sessions_per_prefix_max: Some(2), ..Limits::default() };
    let mut bed = Bed::with(SimNet::new(11), 2, Spread::ReusePort, limits);
    let peers = tried(&mut bed, 3);
    assert_eq!(bed.engine.counters(0).closed_for(CloseReason::TooManyFromPrefix), 1);
    drop(peers);
    bed.stop();
}

#[test]
fn an_address_and_a_network_have_so_many_sessions_over_all_shards() {
    admission();
}

fn accept_rate() {
    let limits = Limits { accepts_per_second: Some(10), accepts_burst: 4, ..Limits::default() };
    let mut bed = Bed::with(SimNet::new(12), 2, Spread::ReusePort, limits);
    let peers = tried(&mut bed, 10);
    let let_in = |bed: &Bed| bed.engine.counters(0).sessions;
    // A tenth of a second brings one more.
    assert!((4..=5).contains(&let_in(&bed)), "{}", let_in(&bed));
    bed.engine.run_for(60 * SECOND);
    let before = let_in(&bed);
    let more = tried(&mut bed, 10);
    assert!((4..=5).contains(&(let_in(&bed) - before)), "a burst, however long nobody came");
    let counters = bed.engine.counters(0);
    assert_eq!(counters.closed_for(CloseReason::AcceptRate) + counters.sessions, 20);
    drop((peers, more));
    bed.engine.stop().unwrap();
    assert_eq!(bed.engine.held(), Held::default());
}

#[test]
fn connections_come_as_fast_as_they_may_and_no_faster() {
    accept_rate();
}

/// Each defect of this part that is planted must be found by one of the tests above.
#[cfg(planted_bugs)]
#[test]
fn planted_bugs_of_the_limits_are_found() {
    use anyport::planted::{Bug, plant};

    let scenarios: [fn(); 9] = [
        slowloris,
        too_slow,
        || flood(b"flood\n"),
        || flood(b"\n"),
        stall,
        paused,
        || rate_pauses(Some(10), None),
        admission,
        accept_rate,
    ];
    for &bug in Bug::ALL.iter().filter(|bug| bug.is_for_limits_only()) {
        plant(Some(bug));
        let found = scenarios.iter().any(|scenario| std::panic::catch_unwind(scenario).is_err());
        plant(None);
        assert!(found, "{} is not found: {}", bug.name(), bug.about());
    }
}
