//! The timer wheel, against a sorted map.

use std::collections::BTreeMap;

use anyport_core::{TimerHandle, TimerWheel};

use crate::input::Input;

/// Farthest that a wheel with timers is moved in one step, in ticks: 73 years. It looks at far timers once in 51 days.
const JUMP_MAX: u64 = 1 << 45;

/// The input is the tick at which it starts, then steps: set a timer, move time, follow the wheel's own ticks.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let start = match input.byte() {
        0..192 => 0,
        192..224 => distance(&mut input),
        224.. => input.u64(),
    };
    let mut world = World::new(start);
    while let Some(step) = input.next() {
        match step % 8 {
            0..=2 => world.set(world.now.saturating_add(distance(&mut input))),
            3 => world.set(if step < 128 { input.u64() } else { u64::MAX - u64::from(input.u16()) }),
            4 | 5 => world.advance(world.now.saturating_add(distance(&mut input))),
            6 if step >= 128 => world.cancel(input.u16()),
            // To a tick that has passed: a clock that seems to go back.
            6 => world.advance(world.now.saturating_sub(distance(&mut input))),
            _ => world.follow(),
        }
        world.check();
    }
    // Whatever was set fires, with as many steps as the wheel has slots on the way.
    let mut timers = world.due.values().map(Vec::len).sum::<usize>();
    while timers > 0 && world.is_near() {
        world.follow();
        let left = world.due.values().map(Vec::len).sum();
        assert!(left < timers, "followed, and nothing fired");
        timers = left;
    }
}

/// Distances around the borders of the wheel's levels, and any number.
fn distance(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        near @ 0..128 => u64::from(near),
        border @ 128..176 => 1 << (border - 128),
        below @ 176..224 => (1 << (below - 176)) - 1,
        224..240 => u64::from(input.u16()),
        _ => u64::from(input.u32()),
    }
}

struct World {
    wheel: TimerWheel<u32>,
    /// Keys by the tick at which they are due.
    due: BTreeMap<u64, Vec<u32>>,
    /// Tick of each key.
    ticks: Vec<u64>,
    handles: Vec<TimerHandle>,
    now: u64,
}

impl World {
    fn new(start: u64) -> Self {
        let mut wheel = TimerWheel::new();
        wheel.advance(start, &mut Vec::new());
        Self { wheel, due: BTreeMap::new(), ticks: Vec::new(), handles: Vec::new(), now: start }
    }

    fn set(&mut self, deadline: u64) {
        let (key, tick) = (self.ticks.len() as u32, deadline.max(self.now));
        self.handles.push(self.wheel.set(deadline, key));
        self.due.entry(tick).or_default().push(key);
        self.ticks.push(tick);
    }

    /// Takes a timer back: this one of those set so far, fired or not.
    fn cancel(&mut self, pick: u16) {
        let Some(key) = usize::from(pick).checked_rem(self.ticks.len()) else { return };
        let tick = self.ticks[key];
        let at = self.due.get(&tick).and_then(|keys| keys.iter().position(|other| *other == key as u32));
        assert_eq!(self.wheel.cancel(self.handles[key]), at.is_some(), "{key} was taken back");
        if let Some(at) = at {
            let keys = self.due.get_mut(&tick).expect("it was found there");
            keys.swap_remove(at);
            if keys.is_empty() {
                self.due.remove(&tick);
            }
        }
    }

    fn is_near(&self) -> bool {
        self.due.first_key_value().is_some_and(|(due, _)| due - self.now < JUMP_MAX)
    }

    fn advance(&mut self, to: u64) {
        let to = if self.due.is_empty() { to } else { to.min(self.now.saturating_add(JUMP_MAX)) };
        let mut fired = Vec::new();
        self.wheel.advance(to, &mut fired);
        self.now = self.now.max(to);
        let mut last = 0;
        for key in fired {
            let tick = self.ticks[key as usize];
            assert!(
                (last..=self.now).contains(&tick),
                "{key} is due at {tick}, {last} was before, it is {to}"
            );
            last = tick;
            let keys = self.due.get_mut(&tick).expect("it fired before");
            let at = keys.iter().position(|other| *other == key).expect("it fired before");
            keys.swap_remove(at);
            if keys.is_empty() {
                self.due.remove(&tick);
            }
        }
        if let Some((tick, keys)) = self.due.first_key_value() {
            assert!(*tick > self.now, "{keys:?} were due at {tick}, it is {}", self.now);
        }
        // Otherwise a loop that sleeps until the next tick would not sleep at all.
        assert!(self.wheel.next_tick().is_none_or(|tick| tick > self.now), "asks for a tick that has passed");
    }

    /// Follows the wheel's ticks until a timer fires.
    fn follow(&mut self) {
        if !self.is_near() {
            return;
        }
        let Some((&due, _)) = self.due.first_key_value() else { return };
        // For each timer a slot a level, and one more for every turn of the last level.
        let timers = self.due.values().map(Vec::len).sum::<usize>() as u64;
        let steps_max = timers * (8 + (due - self.now) / (63 << 30) * 2);
        let mut steps = 0;
        while self.due.first_key_value().is_some_and(|(first, _)| *first == due) {
            let tick = self.wheel.next_tick().expect("a timer is set");
            assert!(tick <= due, "asks for {tick}, a timer is due at {due}");
            self.advance(tick);
            steps += 1;
            assert!(
                steps <= steps_max,
                "{steps} steps, and the timer at {due} has not fired at {}",
                self.now
            );
        }
    }

    fn check(&self) {
        let timers: usize = self.due.values().map(Vec::len).sum();
        assert_eq!((self.wheel.len(), self.wheel.is_empty()), (timers, timers == 0));
        match (self.wheel.next_tick(), self.due.first_key_value()) {
            (None, None) => {}
            (Some(tick), Some((due, _))) => {
                assert!((self.now..=*due).contains(&tick), "asks for {tick}, due {due}");
            }
            (tick, due) => panic!("the wheel asks for {tick:?}, due is {due:?}"),
        }
    }
}
