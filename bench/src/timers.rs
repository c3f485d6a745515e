//! What timers cost: the wheel of the engine beside tokio's, and beside a sorted map. Processor time of this thread.
//!
//! Timers lie between one and eleven seconds ahead, at places drawn once. A turn asks for the next tick and moves time on
//! by one, as a shard's does when nothing is due. Rounds go through all contenders; the table has medians.

use std::{
    collections::BTreeMap,
    hint::black_box,
    io::{self, Write as _},
    pin::Pin,
    task::{Context as Task, Waker},
    time::Duration,
};

use anyport_core::{TimerWheel, wheel};
use clap::Args;

use crate::{
    error::{Context, Result},
    stats::Spread,
    sys::Scheduled,
};

/// Turns, and timers set and taken back, in one round.
const OPERATIONS: u32 = 100_000;

#[derive(Args)]
pub struct Timers {
    /// How many are set while one more is set and taken back.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pending: u32,
    /// How often each is measured.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// Places of timers, in ticks: xorshift, the same in every run.
struct Places(u64);

impl Places {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let second = 1_000_000_000 / wheel::TICK.as_nanos() as u64;
        second + self.0 % (10 * second)
    }
}

/// Processor time in ns of one of so many operations.
fn cost(operations: u32, run: impl FnOnce()) -> Result<f64> {
    let now = || {
        // The kernel adds up what a thread has run when it gives way.
        std::thread::yield_now();
        Scheduled::of_this_thread().context("processor time of this thread")
    };
    let before = now()?;
    run();
    Ok((now()?.cpu_ns - before.cpu_ns) as f64 / f64::from(operations))
}

#[derive(Default)]
struct Costs {
    turn: Vec<f64>,
    set: Vec<f64>,
    fire: Vec<f64>,
}

fn of_wheel(pending: u32) -> Result<(f64, f64, f64)> {
    let (mut timers, mut places, mut fired) = (TimerWheel::new(), Places(7), Vec::new());
    for key in 0..pending {
        timers.set(places.next(), key);
    }
    let mut now = 0;
    let turn = cost(OPERATIONS / 10, || {
        for _ in 0..OPERATIONS / 10 {
            now += 1;
            black_box(timers.next_tick());
            timers.advance(now, &mut fired);
        }
    })?;
    assert!(fired.is_empty(), "nothing is due in the first second");
    let set = cost(OPERATIONS, || {
        for key in 0..OPERATIONS {
            let timer = timers.set(now + places.next(), key);
            assert!(timers.cancel(black_box(timer)));
        }
    })?;
    fired.reserve(pending as usize);
    let fire = cost(pending.max(1), || {
        while let Some(tick) = timers.next_tick() {
            timers.advance(tick, &mut fired);
        }
    })?;
    assert_eq!(fired.len(), pending as usize);
    Ok((turn, set, fire))
}

fn of_map(pending: u32) -> Result<(f64, f64, f64)> {
    let (mut timers, mut places) = (BTreeMap::new(), Places(7));
    for key in 0..pending {
        timers.insert((places.next(), key), ());
    }
    let mut now = 0;
    let turn = cost(OPERATIONS / 10, || {
        for _ in 0..OPERATIONS / 10 {
            now += 1;
            assert!(timers.first_key_value().is_none_or(|(first, ())| first.0 > black_box(now)));
        }
    })?;
    let set = cost(OPERATIONS, || {
        for key in 0..OPERATIONS {
            let timer = (now + places.next(), pending + key);
            timers.insert(timer, ());
            assert!(timers.remove(black_box(&timer)).is_some());
        }
    })?;
    let fire = cost(pending.max(1), || while black_box(timers.pop_first()).is_some() {})?;
    Ok((turn, set, fire))
}

/// Setting and dropping a `Sleep`, while so many others are registered.
fn of_tokio(pending: u32) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().context("tokio")?;
    let _inside = runtime.enter();
    let start = tokio::time::Instant::now();
    let mut places = Places(7);
    let mut task = Task::from_waker(Waker::noop());
    let mut sleep = |ticks: u64| {
        let after = wheel::TICK * u32::try_from(ticks).expect("within eleven seconds");
        // An hour on top: building a million takes longer than some of them would.
        let mut sleep = Box::pin(tokio::time::sleep_until(start + Duration::from_secs(3_600) + after));
        // Registered when it is polled.
        assert!(Pin::new(&mut sleep).as_mut().poll(&mut task).is_pending());
        sleep
    };
    let others: Vec<_> = (0..pending).map(|_| sleep(places.next())).collect();
    let set = cost(OPERATIONS, || {
        for _ in 0..OPERATIONS {
            drop(black_box(sleep(places.next())));
        }
    })?;
    drop(others);
    Ok(set)
}

/// Measures, and prints a table.
pub fn compare(arguments: &Timers) -> Result<()> {
    let Timers { pending, rounds } = *arguments;
    let (mut empty, mut wheel, mut map) = (Costs::default(), Costs::default(), Costs::default());
    let mut tokio = Vec::new();
    for _ in 0..rounds {
        for (costs, (turn, set, fire)) in
            [(&mut empty, of_wheel(0)?), (&mut wheel, of_wheel(pending)?), (&mut map, of_map(pending)?)]
        {
            costs.turn.push(turn);
            costs.set.push(set);
            costs.fire.push(fire);
        }
        tokio.push(of_tokio(pending)?);
    }
    let median =
        |figures: &[f64]| Spread::of(figures.iter().copied()).map_or(f64::NAN, |spread| spread.median);
    let mut page = format!(
        "Processor time in ns, median of {rounds} rounds; {pending} timers are set.\n\n| | a turn with nothing due | set \
         and take back | fire |\n|---|---:|---:|---:|\n"
    );
    for (name, costs, fires) in
        [("anyport, none set", &empty, false), ("anyport", &wheel, true), ("BTreeMap", &map, true)]
    {
        let fire = if fires { format!("{:.0}", median(&costs.fire)) } else { "–".into() };
        page += &format!("| {name} | {:.0} | {:.0} | {fire} |\n", median(&costs.turn), median(&costs.set));
    }
    page += &format!("| tokio `sleep`, boxed | – | {:.0} | – |\n", median(&tokio));
    io::stdout().write_all(page.as_bytes()).context("standard output")
}
