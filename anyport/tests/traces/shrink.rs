//! Making a script that shows a difference small.

use std::time::{Duration, Instant};

use crate::script::{Act, Script};

/// Most scripts that are tried.
const TRIES_MAX: usize = 1000;
/// How long to try: where something is waited for in vain, each try takes seconds.
const TIME_MAX: Duration = Duration::from_secs(90);

/// Takes away steps, then frames, as long as `differs` still says so.
pub(crate) fn shrink(script: &Script, mut differs: impl FnMut(&Script) -> bool) -> Script {
    let (mut tries, start) = (0, Instant::now());
    let mut attempt = |candidate: Script, best: &mut Script| {
        tries += 1;
        let taken = tries <= TRIES_MAX && start.elapsed() < TIME_MAX && differs(&candidate);
        if taken {
            *best = candidate;
        }
        taken
    };
    let mut best = script.clone();
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.steps.len() {
            let mut without = best.clone();
            without.steps.drain(at..(at + size).min(best.steps.len()));
            if !attempt(without, &mut best) {
                at += size;
            }
        }
        size /= 2;
    }
    for step in 0..best.steps.len() {
        let mut at = 0;
        loop {
            let mut without = best.clone();
            let Act::Write { commands, .. } = &mut without.steps[step].act else { break };
            if commands.len() < 2 || at >= commands.len() {
                break;
            }
            commands.remove(at);
            if !attempt(without, &mut best) {
                at += 1;
            }
        }
    }
    best
}
