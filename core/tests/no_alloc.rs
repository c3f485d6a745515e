//! Allocations on the path of a message: none at steady state, and never more than a limit allows.

#![cfg_attr(
    windows,
    allow(clippy::missing_const_for_thread_local, reason = "it is const; clippy does not see it on Windows")
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use anyport_core::{
    Action, ChunkPool, Codec, Connection, Encode, Frame, Lines, Reassembly, SendMarks, Sent, SizeKind,
    TimerWheel, connection::ReceiveEnd, send,
};

const MESSAGES: usize = 1_000_000;

/// Counts for each thread, so that tests beside one another do not disturb the figures.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(allocations: u64, bytes: isize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + allocations);
    LIVE_BYTES.set(LIVE_BYTES.get() + bytes);
    PEAK_BYTES.set(PEAK_BYTES.get().max(LIVE_BYTES.get()));
}

// SAFETY: every call goes to the system's allocator with the caller's own arguments, whose contract the caller
// keeps. Counting touches only thread-locals without a destructor, and so neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, -(layout.size().cast_signed()));
        // SAFETY: `at` came from `alloc` or `realloc` above with this layout, and so from the system.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size.cast_signed() - layout.size().cast_signed());
        // SAFETY: `at` came from `alloc` or `realloc` above with this layout, and so from the system.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and returns how often this thread allocated meanwhile.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Runs `work` and returns by how many bytes this thread's memory rose at most meanwhile.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, isize) {
    let before = LIVE_BYTES.get();
    PEAK_BYTES.set(before);
    let result = work();
    (result, PEAK_BYTES.get() - before)
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0_u8; 100]))), 1);
    let ((), peak) = peak_bytes(|| drop(std::hint::black_box(vec![0_u8; 5_000])));
    assert_eq!(peak, 5_000);
}

/// Sends a turn's messages on one connection and completes the send. Returns how many there were.
fn turn(
    connection: &mut Connection,
    encoder: &mut impl Encode,
    pool: &mut ChunkPool,
    shared: &Arc<[u8]>,
    turn: usize,
) -> usize {
    static BODY: [u8; 9_000] = [7; 9_000];
    let marks = SendMarks::default();
    let sizes = [8, 64, 200, 0, 31, 900, if turn.is_multiple_of(16) { 9_000 } else { 128 }, 64];
    for size in sizes {
        let frame = Frame { kind: 1, body: &BODY[..size] };
        let size = encoder.encoded_size(&frame).expect("within the limit");
        let sent = connection.send(size, &marks, pool, |out| encoder.encode(&frame, out));
        assert_eq!(sent, Sent::Queued);
    }
    assert_eq!(connection.send_shared(Arc::clone(shared), &marks, pool), Sent::Queued);
    while let Some(action) = connection.poll_action(pool) {
        match action {
            Action::Send(mut batch) => {
                batch.advance(batch.remaining() / 2);
                batch.advance(batch.remaining());
                connection.handle_sent(batch, Ok(()), &marks, pool);
            }
            Action::Receive => {}
            other => panic!("{other:?} on an open connection"),
        }
    }
    sizes.len() + 1
}

#[test]
fn sending_allocates_nothing_at_steady_state() {
    let mut pool = ChunkPool::new();
    let (_, mut encoder) = SizeKind::default().split();
    let mut connections: Vec<Connection> = (0..8).map(|_| Connection::open(true)).collect();
    for shared in [Arc::from([1; 40]), Arc::from([2; 4_000])] {
        let mut run = |messages: usize| {
            let (mut count, mut at) = (0, 0);
            while count < messages {
                let connection = &mut connections[at % 8];
                count += turn(connection, &mut encoder, &mut pool, &shared, at);
                at += 1;
            }
        };
        run(1_000);
        assert_eq!(allocations(|| run(MESSAGES / 2)), 0);
    }
}

#[test]
fn a_message_that_just_does_not_fit_a_chunk_makes_none_grow() {
    let mut pool = ChunkPool::new();
    let mut fill = |first: usize| {
        let mut batch = pool.take();
        let block = send::BLOCK_BYTES[0];
        // One byte too many for what is left of the head, then of the first block, then of the second.
        for size in [send::CHUNK_BYTES - first + 1, first, block - first + 1, first] {
            batch.append(size, &mut pool, |out| out.resize(out.len() + size, 7));
        }
        pool.give(batch);
    };
    fill(1);
    assert_eq!(allocations(|| (1..=send::CHUNK_BYTES).for_each(fill)), 0);
}

/// Decodes `wire` again and again in chunks of `size`, which cut frames. Returns how many frames came out.
fn receive(codec: &impl Codec, wire: &[u8], size: usize, frames: usize, pool: &mut ChunkPool) -> usize {
    let mut decoder = codec.split().0;
    let (mut reassembly, mut connection) = (Reassembly::default(), Connection::open(true));
    assert!(matches!(connection.poll_action(pool), Some(Action::Receive)));
    let mut count = 0;
    while count < frames {
        for chunk in wire.chunks(size) {
            assert!(connection.handle_received());
            let mut at = 0;
            while let Some(frame) = reassembly
                .next(&mut decoder, chunk, &mut at, codec.frame_size_max())
                .expect("the wire holds frames")
            {
                std::hint::black_box(frame.body);
                count += 1;
            }
            reassembly.finish(chunk, at, codec.frame_size_max(), pool).expect("within the limit");
        }
    }
    reassembly.release(pool);
    connection.handle_receive_ended(ReceiveEnd::EndOfStream, false);
    count
}

fn wire(codec: &impl Codec) -> Vec<u8> {
    let mut encoder = codec.split().1;
    let mut wire = Vec::new();
    for at in 0..500_usize {
        encoder.encode(&Frame { kind: at as u16, body: &vec![b'a'; at * 7 % 300] }, &mut wire);
    }
    wire
}

#[test]
fn receiving_cut_frames_allocates_nothing_at_steady_state() {
    let mut pool = ChunkPool::new();
    let size_kind = wire(&SizeKind::default());
    let lines = wire(&Lines::default());
    for size in [61, 1_448] {
        let mut run = |frames: usize| {
            receive(&SizeKind::default(), &size_kind, size, frames, &mut pool);
            receive(&Lines::default(), &lines, size, frames, &mut pool);
        };
        run(1_000);
        assert_eq!(allocations(|| run(MESSAGES / 4)), 0, "chunks of {size}");
    }
}

#[test]
fn moving_timers_forward_allocates_only_for_slots_seen_the_first_time() {
    let (mut wheel, mut fired) = (TimerWheel::new(), Vec::with_capacity(64));
    for key in 0..32_u64 {
        wheel.set(key, key);
    }
    let mut now = 0;
    let mut run = |ticks: u64| {
        for _ in 0..ticks {
            now += 1;
            wheel.advance(now, &mut fired);
            for key in fired.drain(..) {
                wheel.set(now + 5 + key * 3, key);
            }
        }
    };
    run(200_000);
    // More than 100,000 timers fire meanwhile. A slot of the third level is first used after 262,144 ticks.
    let count = allocations(|| run(200_000));
    assert!(count <= 2 * 64, "{count} allocations");
}

#[test]
fn a_declared_size_is_not_a_reason_to_allocate() {
    let codec = SizeKind::new(u16::MAX);
    let mut decoder = codec.split().0;
    let mut pool = ChunkPool::new();
    let (buffered, peak) = peak_bytes(|| {
        let mut reassembly = Reassembly::default();
        for chunk in [&[0xff, 0xff, 1][..], &[0; 100]] {
            let mut at = 0;
            assert_eq!(reassembly.next(&mut decoder, chunk, &mut at, u16::MAX as usize), Ok(None));
            reassembly.finish(chunk, at, u16::MAX as usize, &mut pool).expect("within the limit");
        }
        reassembly.buffered()
    });
    assert_eq!(buffered, 103);
    assert!(peak <= 2_048, "{peak} bytes for 103 received ones");
}

#[test]
fn a_frame_that_trickles_in_takes_no_more_than_twice_its_limit() {
    let limit = 50_000;
    let mut decoder = Lines::new(limit).split().0;
    let mut pool = ChunkPool::new();
    let (failed, peak) = peak_bytes(|| {
        let mut reassembly = Reassembly::default();
        (0..=limit).any(|_| {
            let mut at = 0;
            let result = reassembly.next(&mut decoder, b"x", &mut at, limit).map(drop);
            result.and_then(|()| reassembly.finish(b"x", at, limit, &mut pool)).is_err()
        })
    });
    assert!(failed && peak <= 3 * limit.cast_signed(), "{peak} bytes");
}

/// Fills a queue to `queue_max_bytes` with the messages that `send` makes; returns the bytes that it took.
fn full_queue(mut send: impl FnMut(&mut Connection, &mut ChunkPool, usize) -> Sent) -> isize {
    let mut pool = ChunkPool::new();
    peak_bytes(|| {
        let mut connection = Connection::open(true);
        let full =
            (0..10_000_000).find(|&at| matches!(send(&mut connection, &mut pool, at), Sent::Refused(_)));
        assert!(full.is_some(), "the queue has no end");
        while connection.poll_action(&mut pool).is_some_and(|action| !matches!(action, Action::Close)) {}
        assert_eq!(pool.batches_out(), 0);
    })
    .1
}

#[test]
fn a_full_queue_holds_a_few_times_its_limit_whatever_the_messages_are() {
    let marks = SendMarks::default();
    let bound = 10 * marks.queue_max_bytes.cast_signed();
    for (small, large) in [(1, 1), (1, 1_024), (1, 1_025), (40, 40), (4_097, 4_097), (9_000, 2_000)] {
        let shared: Arc<[u8]> = vec![1; large].into();
        let peak = full_queue(|connection, pool, at| {
            if at.is_multiple_of(2) {
                connection.send_shared(Arc::clone(&shared), &marks, pool)
            } else {
                connection.send(small, &marks, pool, |out| out.resize(out.len() + small, 7))
            }
        });
        assert!(peak <= bound, "{peak} bytes for a queue of {small} owned and {large} shared");
        let peak =
            full_queue(|connection, pool, _| connection.send_shared(Arc::clone(&shared), &marks, pool));
        assert!(peak <= bound, "{peak} bytes for a queue of {large} shared");
    }
}

#[test]
fn empty_messages_take_no_memory_however_many_they_are() {
    let (marks, empty) = (SendMarks::default(), Arc::from([]));
    let (mut connection, mut pool) = (Connection::open(true), ChunkPool::new());
    let ((), peak) = peak_bytes(|| {
        for _ in 0..100_000 {
            connection.send_shared(Arc::clone(&empty), &marks, &mut pool);
            connection.send(0, &marks, &mut pool, |_| {});
        }
    });
    assert!(peak <= 8_192, "{peak} bytes for nothing");
    while connection.poll_action(&mut pool).is_some() {}
    assert_eq!(pool.batches_out(), 0, "an idle connection holds a batch");
}

#[test]
fn a_pool_keeps_no_chunk_that_an_encoder_made_grow_and_no_long_list_of_pieces() {
    let large: Arc<[u8]> = vec![1; 1_500].into();
    let (mut pool, mut out) = (ChunkPool::new(), Vec::with_capacity(100));
    let before = LIVE_BYTES.get();
    for _ in 0..50 {
        let mut batch = pool.take();
        batch.append(10, &mut pool, |out| out.resize(100_000, 7));
        out.push(batch);
        let mut batch = pool.take();
        for _ in 0..2_000 {
            batch.append_shared(Arc::clone(&large), &mut pool);
        }
        out.push(batch);
    }
    for batch in out.drain(..) {
        pool.give(batch);
    }
    let kept = LIVE_BYTES.get() - before;
    assert!(kept <= 100 * 2_000, "{kept} bytes kept for 100 batches");
}
