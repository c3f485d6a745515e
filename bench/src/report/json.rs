//! The result for programs: all figures, also those of each slice.

use serde_json::{Value, json};

use super::Report;
use crate::{
    measure::{Figures, Outcome, Slice},
    process::{BARE_EPOLL, BARE_URING},
    stats::Spread,
    sys::Memory,
    workload::{Rate, Workload},
};

/// The whole report.
pub fn json(report: &Report) -> Value {
    let machine = &report.machine;
    json!({
        "machine": {
            "cpu": machine.cpu,
            "cpus": machine.cpus,
            "kernel": machine.kernel,
            "tcp_congestion_control": machine.congestion_control,
        },
        "versions": {
            "rustc": machine.rustc,
            "tokio": machine.tokio,
            "io-uring": machine.io_uring,
            "commit": machine.commit,
        },
        "method": {
            "rounds": report.effort.rounds,
            "slice_ms": report.effort.slice.as_millis() as u64,
            "server_cpu": report.server_cpu,
            "loader_cpu": report.loader_cpu,
        },
        "workloads": report.outcomes.iter().map(outcome).collect::<Vec<_>>(),
    })
}

fn outcome(outcome: &Outcome) -> Value {
    let servers: Vec<Value> = outcome
        .columns
        .iter()
        .map(|(server, figures)| match figures {
            Figures::Slices(slices) => json!({
                "server": server.name,
                "cpu_us_per_operation": outcome.cpu_us(server.name).map(spread),
                "operations_per_s": outcome.rate(server.name).map(spread),
                "busy_share": outcome.busy(server.name).map(spread),
                "latency_us": outcome.latency(server.name).map(|latency| json!({
                    "p50": spread(latency.p50_us),
                    "p99": spread(latency.p99_us),
                    "p99.9": spread(latency.p999_us),
                })),
                "late_share": outcome.late_share(server.name),
                "cpu_ratio_to_bare_uring": outcome.ratio(server.name, BARE_URING).map(spread),
                "cpu_ratio_to_bare_epoll": outcome.ratio(server.name, BARE_EPOLL).map(spread),
                "slices": slices.iter().map(slice).collect::<Vec<_>>(),
            }),
            Figures::Memory { before, with_sessions, idle_cpu } => json!({
                "server": server.name,
                "rss_bytes_per_session": outcome.session_bytes(server.name).map(|(rss, _)| rss),
                "pss_bytes_per_session": outcome.session_bytes(server.name).map(|(_, pss)| pss),
                "before": memory(*before),
                "with_sessions": memory(*with_sessions),
                "idle_cpu_share": idle_cpu,
            }),
        })
        .collect();
    json!({
        "name": outcome.workload.to_string(),
        "parameters": parameters(outcome.workload),
        "operation": outcome.workload.operation(),
        "load_average": outcome.load_average,
        "ping_pong_ns": outcome.ping_pong_ns,
        "offered_per_s": outcome.offered,
        "servers": servers,
        "left_out": outcome.left_out.iter().map(|(server, reason)| json!({
            "server": server.name,
            "reason": reason,
        })).collect::<Vec<_>>(),
        "failures": outcome.failures.iter().map(|(server, failure)| json!({
            "server": server.name,
            "error": failure,
        })).collect::<Vec<_>>(),
    })
}

fn parameters(workload: Workload) -> Value {
    match workload {
        Workload::Echo { connections, depth, size_bytes } => {
            json!({ "kind": "echo", "connections": connections, "depth": depth, "size_bytes": size_bytes })
        }
        Workload::Churn { lanes } => json!({ "kind": "churn", "lanes": lanes }),
        Workload::Fanout { members, depth } => {
            json!({ "kind": "fanout", "members": members, "depth": depth })
        }
        Workload::Idle { sessions } => json!({ "kind": "idle", "sessions": sessions }),
        Workload::Stream { connections } => json!({ "kind": "stream", "connections": connections }),
        Workload::Open { connections, rate: Rate::PerSecond(rate) } => {
            json!({ "kind": "open", "connections": connections, "rate_per_s": rate })
        }
        Workload::Open { connections, rate: Rate::Percent(percent) } => {
            json!({ "kind": "open", "connections": connections, "rate_percent": percent })
        }
    }
}

fn slice(slice: &Slice) -> Value {
    json!({
        "operations": slice.operations,
        "cpu_ns": slice.cpu_ns,
        "wall_ns": slice.wall.as_nanos() as u64,
        "server_waited_ns": slice.server_waited_ns,
        "loader_waited_ns": slice.loader_waited_ns,
        "latency_ns": slice.latency.map(|latency| json!({
            "p50": latency.p50_ns,
            "p99": latency.p99_ns,
            "p99.9": latency.p999_ns,
            "late": latency.late,
        })),
    })
}

fn spread(spread: Spread) -> Value {
    json!({
        "quartile_1": spread.quartile_1,
        "median": spread.median,
        "quartile_3": spread.quartile_3,
    })
}

fn memory(memory: Memory) -> Value {
    json!({ "rss_bytes": memory.rss_bytes, "pss_bytes": memory.pss_bytes })
}
