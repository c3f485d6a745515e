//! Smaller plans that fail in the same way: events are left out, faults do not fire, calls are not made.

use std::time::{Duration, Instant};

use anyport::sim::FaultId;

use crate::{
    plan::Plan,
    world::{Options, Outcome, run},
};

/// What is left of a failing plan.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smaller plan.
    pub plan: Plan,
    /// Faults that it fails without.
    pub suppressed: Vec<FaultId>,
    /// Faults that still fire.
    pub faults: Vec<FaultId>,
    /// Its failure, and its story.
    pub outcome: Outcome,
    /// Runs that it took.
    pub runs: u32,
}

/// What a failure is, without the numbers in it: a smaller plan must fail in the same way.
pub fn class(failure: &str) -> String {
    let place = failure.rsplit_once(" (").map_or(failure, |(what, _)| what);
    let words = place.chars().filter(|letter| letter.is_alphabetic() || *letter == ' ');
    words.collect::<String>().split_whitespace().take(7).collect::<Vec<_>>().join(" ")
}

struct Shrinker {
    plan: Plan,
    suppressed: Vec<FaultId>,
    class: String,
    canary: bool,
    deadline: Instant,
    runs: u32,
}

/// Makes a plan that fails smaller, for `time` at most. `None` if it does not fail.
pub fn shrink(plan: &Plan, canary: bool, time: Duration) -> Option<Shrunk> {
    let options = Options { canary, ..Options::default() };
    let failure = run(plan, &options).failure?;
    let mut shrinker = Shrinker {
        plan: plan.clone(),
        suppressed: Vec::new(),
        class: class(&failure),
        canary,
        deadline: Instant::now() + time,
        runs: 1,
    };
    loop {
        let before = shrinker.size();
        shrinker.cut_events();
        shrinker.quiet_calls();
        shrinker.suppress_faults();
        shrinker.cut_steps();
        if shrinker.size() >= before || shrinker.is_late() {
            break;
        }
    }
    let Shrinker { plan, suppressed, runs, .. } = shrinker;
    let outcome = run(&plan, &Options { suppressed: suppressed.clone(), tell: true, canary });
    Some(Shrunk { faults: outcome.fired.clone(), plan, suppressed, outcome, runs })
}

impl Shrinker {
    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn size(&self) -> usize {
        let steps: usize = self.plan.events.iter().map(|event| event.steps as usize).sum();
        let Plan { events, config, .. } = &self.plan;
        events.len() * 100 + steps + config.mood.calls.len() * 100 - self.suppressed.len().min(99)
    }

    fn outcome(&mut self, plan: &Plan, suppressed: &[FaultId]) -> Outcome {
        self.runs += 1;
        run(plan, &Options { suppressed: suppressed.to_vec(), tell: false, canary: self.canary })
    }

    fn still_fails(&mut self, plan: &Plan, suppressed: &[FaultId]) -> bool {
        if self.is_late() {
            return false;
        }
        let failure = self.outcome(plan, suppressed).failure;
        failure.is_some_and(|failure| class(&failure) == self.class)
    }

    /// Leaves out runs of events, long ones first.
    fn cut_events(&mut self) {
        let mut length = self.plan.events.len().next_power_of_two();
        while length > 0 && !self.is_late() {
            // From the end: what comes after the failure goes at once.
            let mut end = self.plan.events.len();
            while end > 0 && !self.is_late() {
                let from = end.saturating_sub(length);
                if !self.try_with(|plan| drop(plan.events.drain(from..end))) {
                    // Perhaps it was only the time that it took.
                    self.try_with(|plan| {
                        let steps = plan.events.drain(from..end).map(|event| event.steps).sum::<u16>();
                        if let Some(before) = from.checked_sub(1) {
                            plan.events[before].steps = plan.events[before].steps.saturating_add(steps);
                        }
                    });
                }
                end = from;
            }
            length /= 2;
        }
    }

    /// Takes calls away from the handler, and sets the set-up back to what is simple.
    fn quiet_calls(&mut self) {
        for at in (0..self.plan.config.mood.calls.len()).rev() {
            self.try_with(|plan| {
                plan.config.mood.calls.remove(at);
            });
        }
        self.try_with(|plan| plan.config.clients = 0);
        self.try_with(|plan| plan.config.shards = 1);
        self.try_with(|plan| plan.config.limits.idle_timeout = None);
    }

    /// Changes the plan if it still fails then.
    fn try_with(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut smaller = self.plan.clone();
        change(&mut smaller);
        let suppressed = self.suppressed.clone();
        let fails = self.still_fails(&smaller, &suppressed);
        if fails {
            self.plan = smaller;
        }
        fails
    }

    /// Lets as few faults fire as will do.
    fn suppress_faults(&mut self) {
        let plan = self.plan.clone();
        let suppressed = self.suppressed.clone();
        let fired = self.outcome(&plan, &suppressed).fired;
        let mut length = fired.len().next_power_of_two();
        while length > 0 && !self.is_late() {
            for part in fired.chunks(length) {
                let mut more = self.suppressed.clone();
                more.extend(part.iter().filter(|fault| !self.suppressed.contains(fault)));
                if more.len() > self.suppressed.len() && self.still_fails(&plan, &more) {
                    self.suppressed = more;
                }
            }
            length /= 2;
        }
    }

    /// Fewer steps after each event.
    fn cut_steps(&mut self) {
        for at in 0..self.plan.events.len() {
            for steps in [0, 1, self.plan.events[at].steps / 2] {
                if steps < self.plan.events[at].steps {
                    self.try_with(|plan| plan.events[at].steps = steps);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_no_numbers_and_no_place() {
        let one = class("panic: byte 12 of 0x2-7 is wrong (core/src/a.rs:17)");
        assert_eq!(one, class("panic: byte 3 of 0x9-1 is wrong (core/src/a.rs:18)"));
        assert_ne!(one, class("session 3 ended twice"));
    }
}
