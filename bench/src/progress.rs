//! What a long run says while it runs: which workload of how many, and how long the rest may take.

use std::{
    fmt::{self, Display, Formatter},
    time::{Duration, Instant},
};

/// Counts workloads; each weighs as much as it has servers to visit.
pub struct Progress {
    start: Instant,
    weights: Vec<usize>,
    done: usize,
}

impl Progress {
    /// The weights of the workloads in their order.
    pub fn new(weights: Vec<usize>) -> Self {
        Self { start: Instant::now(), weights, done: 0 }
    }

    /// The next workload begins: its place, as `3/17`.
    pub fn next(&mut self) -> String {
        self.done += 1;
        format!("{}/{}", self.done, self.weights.len())
    }

    /// After a workload: how long the others take if they take as long as those before.
    pub fn left(&self) -> Left {
        let sum = |weights: &[usize]| weights.iter().sum::<usize>() as f64;
        let (done, left) = self.weights.split_at(self.done.min(self.weights.len()));
        let share = if done.is_empty() { 0.0 } else { sum(left) / sum(done).max(1.0) };
        Left(self.start.elapsed().mul_f64(share))
    }
}

/// A time that is guessed.
pub struct Left(Duration);

impl Display for Left {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => Ok(()),
            seconds @ 1..=90 => write!(f, "about {seconds} s left"),
            seconds => write!(f, "about {} min left", seconds.div_ceil(60)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_counted_and_the_end_is_silent() {
        let mut progress = Progress::new(vec![3, 3]);
        assert_eq!(progress.next(), "1/2");
        assert_eq!(progress.next(), "2/2");
        assert_eq!(progress.left().to_string(), "", "nothing is left");
        assert_eq!(Left(Duration::from_secs(30)).to_string(), "about 30 s left");
        assert_eq!(Left(Duration::from_secs(200)).to_string(), "about 4 min left");
    }
}
