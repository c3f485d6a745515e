//! A record with made-up figures, for the tests of what is written from one.

use super::record::{
    Cell, Class, Column, Count, Instructions, Line, Method, Missing, Place, Record, Tail, Version,
};
use crate::stats::Spread;

/// Name, class, colour, and its processor time as ratio to the bare io_uring loop.
const SERVERS: [(&str, Class, &str, f64); 13] = [
    ("bare-uring", Class::Bare, "#8b949e", 1.0),
    ("bare-epoll", Class::Bare, "#6e7781", 1.11),
    ("anyport io-uring", Class::Ours, "#1f6feb", 1.03),
    ("anyport readiness", Class::Ours, "#58a6ff", 1.13),
    ("anyport logic", Class::Ours, "#3fb950", 1.2),
    ("tokio", Class::Peer, "#d29922", 1.16),
    ("tokio broadcast", Class::Peer, "#d29922", 24.0),
    ("tokio mpsc", Class::Peer, "#e3b341", 1.7),
    ("tokio mpsc gathered", Class::Peer, "#f2cc60", 1.7),
    ("monoio", Class::Peer, "#db61a2", 1.06),
    ("compio", Class::Peer, "#a371f7", 1.19),
    ("net-io", Class::Peer, "#f85149", 1.4),
    ("Asio", Class::Peer, "#39c5cf", 1.25),
];

/// Workload, what is counted, and the bare loop's µs for one.
const WORKLOADS: [(&str, &str, f64); 20] = [
    ("echo:1:1:64", "message", 33.6),
    ("echo:64:1:64", "message", 3.49),
    ("echo:1000:1:64", "message", 3.89),
    ("echo:10000:1:64", "message", 5.4),
    ("echo:64:16:64", "message", 0.24),
    ("echo:1000:16:64", "message", 0.27),
    ("echo:64:1:4096", "message", 4.06),
    ("stream:4", "MiB", 178.0),
    ("churn:64", "connection", 16.3),
    ("fanout:1000:1", "delivery", 3.15),
    ("fanout:1000:16", "delivery", 0.21),
    ("open:1000:50000", "message", 8.4),
    ("open:1000:50%", "message", 6.4),
    ("open:1000:80%", "message", 5.1),
    ("idle:10000", "connection", 0.0),
    ("echo:100:1:64", "message", 3.5),
    ("echo:300:1:64", "message", 3.6),
    ("echo:3000:1:64", "message", 4.4),
    ("echo:20000:1:64", "message", 6.0),
    ("something:new", "thing", 1.0),
];

const ROUNDS: u64 = 5;

/// Everything there is to show: all kinds of workloads, a server that failed, one that was left out.
pub fn record() -> Record {
    let version = |name: &str, version: &str| Version { name: name.into(), version: version.into() };
    Record {
        date: "2026-02-03".into(),
        machine: Place {
            cpu: "A processor <of> & for tests".into(),
            cpus: 2,
            kernel: "Linux 6.18.0".into(),
            tcp_congestion_control: "bbr".into(),
        },
        versions: vec![version("Rust", "1.95.0"), version("tokio", "1.54.0")],
        commit: "0123456789".into(),
        method: Method { rounds: ROUNDS as u32, slice_ms: 100, server_cpu: 0, loader_cpu: 1 },
        servers: SERVERS
            .map(|(name, class, color, _)| Column { name: name.into(), color: color.into(), class })
            .into(),
        workloads: WORKLOADS.map(|(workload, operation, us)| line(workload, operation, us)).into(),
        instructions: Some(Instructions {
            counter: "valgrind-3.19.0".into(),
            counts: ["bare-uring", "anyport io-uring"]
                .map(|server| Count {
                    workload: "echo:64:1:64".into(),
                    server: server.into(),
                    per_operation: 1234.5,
                })
                .into(),
        }),
        notes: Vec::new(),
    }
}

fn line(workload: &str, operation: &str, us: f64) -> Line {
    let is_fanout = workload.starts_with("fanout");
    let plays = |name: &str, class: Class| match name {
        "tokio broadcast" | "tokio mpsc" | "tokio mpsc gathered" => is_fanout,
        "anyport logic" | "tokio" | "monoio" | "compio" => !is_fanout,
        "net-io" => !is_fanout && !workload.starts_with("echo:10000") && !workload.starts_with("echo:20000"),
        _ => class != Class::Peer || !workload.starts_with("echo:20000"),
    };
    let missing = |server: &str, reason: &str| Missing { server: server.into(), reason: reason.into() };
    let is_large = workload.starts_with("echo:20000");
    Line {
        workload: workload.into(),
        name: format!("{workload} in words"),
        operation: operation.into(),
        rounds: ROUNDS as u32,
        slice_ms: 100,
        load_average: 0.4,
        ping_pong_ns: vec![101.0, 99.0, 180.0],
        offered_per_s: workload.starts_with("open").then_some(123_456.0),
        servers: SERVERS
            .iter()
            .filter(|(name, class, ..)| plays(name, *class))
            .map(|(name, _, _, ratio)| cell(name, workload, us, *ratio))
            .collect(),
        failures: if workload.starts_with("echo:10000") {
            vec![missing("net-io", "it died\nof threads")]
        } else {
            vec![]
        },
        left_out: if is_large {
            vec![missing("tokio", "20,000 sessions need more descriptors")]
        } else {
            vec![]
        },
    }
}

fn cell(name: &str, workload: &str, us: f64, ratio: f64) -> Cell {
    let mut cell = Cell { server: name.into(), ..Cell::default() };
    if workload.starts_with("idle") {
        cell.session_bytes = Some(if ratio > 1.14 { 4900.0 } else { 466.0 * ratio });
        cell.idle_cpu = Some(0.0);
        return cell;
    }
    // Rounds differ by a percent, but not in the same direction.
    let wobble = |round: u64| 1.0 + ((round * 7 + name.len() as u64) % 5) as f64 / 200.0;
    let operations = (80_000.0 / us) as u64 + 1;
    cell.operations = vec![operations; ROUNDS as usize];
    cell.cpu_ns =
        (0..ROUNDS).map(|round| (us * 1000.0 * ratio * wobble(round) * operations as f64) as u64).collect();
    cell.wall_ns = vec![100_000_000; ROUNDS as usize];
    cell.loader_cpu_ns = vec![90_000_000; ROUNDS as usize];
    cell.server_waited_ns = vec![10_000; ROUNDS as usize];
    cell.loader_waited_ns = vec![10_000; ROUNDS as usize];
    if workload.starts_with("open") {
        let spread = |us: f64| Spread { quartile_1: us * 0.97, median: us, quartile_3: us * 1.04 };
        cell.latency = Some(Tail {
            p50_us: spread(40.0 * ratio),
            p99_us: spread(150.0 * ratio * ratio),
            p999_us: spread(900.0 * ratio * ratio),
        });
    }
    cell
}
