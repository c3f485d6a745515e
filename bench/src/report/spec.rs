//! A workload as it is written on the command line, and what readers call it.

use super::{
    figures::{rate, thousands},
    record::Line,
};

/// What the text of a workload says. Reading it here, and not as a `Workload`, keeps old records readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    Echo { connections: u32, depth: u32, bytes: u32 },
    Stream { connections: u32 },
    Open { connections: u32, rate: String },
    Fanout { members: u32, depth: u32 },
    Churn,
    Idle { sessions: u32 },
    Other,
}

impl Spec {
    pub fn read(text: &str) -> Self {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let parts: Vec<&str> = parts.collect();
        let number = |index: usize, default: u32| match parts.get(index) {
            None => Some(default),
            Some(part) => part.parse().ok(),
        };
        let read = || {
            Some(match name {
                "echo" => {
                    Self::Echo { connections: number(0, 64)?, depth: number(1, 1)?, bytes: number(2, 64)? }
                }
                "stream" => Self::Stream { connections: number(0, 4)? },
                "open" => Self::Open {
                    connections: number(0, 1000)?,
                    rate: parts.get(1).unwrap_or(&"50000").to_string(),
                },
                "fanout" => Self::Fanout { members: number(0, 1000)?, depth: number(1, 1)? },
                "churn" => Self::Churn,
                "idle" => Self::Idle { sessions: number(0, 10_000)? },
                _ => return None,
            })
        };
        read().unwrap_or(Self::Other)
    }
}

/// A point between the main workloads, which is measured for the growth with connections alone.
pub fn is_between(line: &Line) -> bool {
    connections_of(line).is_some_and(|connections| ![1, 64, 1000, 10_000].contains(&connections))
}

/// Its connections, if it is an echo of 64 bytes with one in flight on each.
pub fn connections_of(line: &Line) -> Option<u32> {
    match line.spec() {
        Spec::Echo { connections, depth: 1, bytes: 64 } => Some(connections),
        _ => None,
    }
}

/// What a reader of tables calls the workload of this line.
pub fn label(line: &Line) -> String {
    let connections = |n: u32| match n {
        1 => "1 connection".to_owned(),
        n => format!("{} connections", thousands(f64::from(n))),
    };
    match line.spec() {
        Spec::Echo { connections: n, depth, bytes } => {
            let depth = if depth == 1 { String::new() } else { format!(", {depth} in flight each") };
            format!("echo {}, {}{depth}", size(bytes), connections(n))
        }
        Spec::Stream { connections: n } => format!("stream of 1 MiB messages, {}", connections(n)),
        Spec::Open { connections: n, rate } => {
            format!("open loop, {}, {}", offered(&rate, line), connections(n))
        }
        Spec::Fanout { members, depth: 1 } => format!("fan-out to {}", thousands(f64::from(members))),
        Spec::Fanout { members, depth } => {
            format!("fan-out to {}, {depth} in flight", thousands(f64::from(members)))
        }
        Spec::Churn => "churn: connect, echo, close".into(),
        Spec::Idle { sessions } => format!("idle, {} sessions", thousands(f64::from(sessions))),
        Spec::Other => line.name.clone(),
    }
}

/// The offered rate of an open loop: as it was asked for, and if that was a share, also as what it came to.
pub fn offered(rate_asked: &str, line: &Line) -> String {
    match (rate_asked.strip_suffix('%'), line.offered_per_s) {
        (Some(percent), Some(offered)) => format!("{percent} % ({}/s)", rate(offered)),
        (Some(percent), None) => format!("{percent} %"),
        (None, _) => format!("{}/s", thousands(rate_asked.parse().unwrap_or(0.0))),
    }
}

fn size(bytes: u32) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1024) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(workload: &str) -> String {
        label(&Line { workload: workload.into(), name: "the name".into(), ..Line::default() })
    }

    #[test]
    fn workloads_have_names_for_readers() {
        assert_eq!(labelled("echo"), "echo 64 B, 64 connections");
        assert_eq!(labelled("echo:1000:16"), "echo 64 B, 1,000 connections, 16 in flight each");
        assert_eq!(labelled("echo:1:1:4096"), "echo 4 KiB, 1 connection");
        assert_eq!(labelled("open:1000:50000"), "open loop, 50,000/s, 1,000 connections");
        assert_eq!(labelled("fanout:1000:16"), "fan-out to 1,000, 16 in flight");
        assert_eq!(labelled("something:new"), "the name");
        assert_eq!(Spec::read("echo:many"), Spec::Other);
        let line = Line { offered_per_s: Some(123_456.0), ..Line::default() };
        assert_eq!(offered("80%", &line), "80 % (123 k/s)");
    }
}
