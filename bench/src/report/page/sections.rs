//! The parts of the page. Each is none if the run has nothing to tell there.

use super::{
    super::{
        OURS, OURS_LOGIC, OURS_READINESS,
        figures::{duration_us, percent, rate, thousands, three_digits},
        markdown::{disturbed, trust},
        record::{Class, Count, Line, Record},
        spec::{Spec, connections_of, is_between, label},
        targets,
    },
    table::{best, bold_if, columns, heading, table},
};
use crate::{
    process::{BARE_EPOLL, BARE_URING},
    stats::Spread,
};

const COMMAND: &str = "cargo run --release --manifest-path bench/Cargo.toml -- --page";

/// The fewest connections of the table about their number.
const SCALE_MIN: u32 = 100;

pub fn head(record: &Record) -> String {
    let mut text = format!(
        "# Benchmarks\n\nWritten by `{COMMAND}`: every figure and every verdict here comes from one run of it, on {}. Nothing is \
         typed by hand; [result.json](benchmarks/result.json) holds each slice.\n\n\
         ![Processor time the server spends on a message](benchmarks/headline.svg)\n\n",
        record.date
    );
    if let Some(share) = disturbed(record) {
        text.push_str(&format!(
            "**Other processes ran during {share}: do not trust its figures before they have been measured again on a quiet \
             machine.** [More](#what-it-was-measured-on)\n\n"
        ));
    }
    let mut points = Vec::new();
    let main: Vec<&Line> = record.timed().filter(|line| !is_open(line)).collect();
    let beside = |server: &str, base: &str, lines: &[&Line]| {
        let ratios = || lines.iter().filter_map(|line| Some(line.ratio(server, base)?.median));
        Some((ratios().reduce(f64::min)?, ratios().reduce(f64::max)?))
    };
    if let Some((least, most)) = beside(OURS, BARE_URING, &main) {
        points.push(format!(
            "`{OURS}`, with sessions, limits, time-outs and counters, costs {} of the smallest io_uring loop \
             that can do the same work and has none of them.",
            span(least, most)
        ));
    }
    let echoes: Vec<&Line> = record.timed().filter(|line| matches!(line.spec(), Spec::Echo { .. })).collect();
    if let Some((least, most)) = beside(OURS_READINESS, BARE_EPOLL, &echoes) {
        points
            .push(format!("`{OURS_READINESS}` costs {} of a bare epoll loop, in echoes.", span(least, most)));
    }
    let nearest = main.iter().filter_map(|line| Some((line, targets::nearest_peer(record, line)?)));
    let nearest: Vec<_> = nearest.collect();
    if !nearest.is_empty() {
        let cheaper = nearest.iter().filter(|(_, (_, ratio))| *ratio > 1.0).count();
        points.push(format!(
            "In {cheaper} of {} workloads it needs less processor time than every other engine.",
            nearest.len()
        ));
    }
    let groups = targets::verdicts(record);
    if let (kept, judged @ 1..) = targets::kept(&groups) {
        points.push(format!("It keeps {kept} of the {judged} [bounds](#our-bounds) that we set ourselves."));
    }
    for point in points {
        text.push_str(&format!("- {point}\n"));
    }
    text
}

pub fn machine(record: &Record) -> Option<String> {
    let machine = &record.machine;
    let method = &record.method;
    let mut rows = vec![
        vec!["processor".into(), format!("{}, {} of them", machine.cpu, machine.cpus)],
        vec!["system".into(), format!("{}, TCP {}", machine.kernel, machine.tcp_congestion_control)],
        vec!["commit".into(), format!("{}, {}", record.commit, record.date)],
    ];
    rows.extend(record.versions.iter().map(|version| vec![version.name.clone(), version.version.clone()]));
    let mut text = "## What it was measured on\n\n".to_owned();
    text.push_str(&table(&["".into(), "".into()], &rows)?.replace("---:", "---"));
    text.push_str(&format!(
        "\nAll servers are alive at once on processor {}, with all their connections open; the loader, on processor {}, visits \
         them in turn, {} rounds of {} ms (some workloads take longer visits). A ratio is formed between two visits of the same \
         round; shown are the median of these ratios and, small, the quartiles. Every byte that comes back is compared with what \
         was sent. [The method](../bench/README.md#method) in full.\n\nHow far to trust this run:\n\n",
        method.server_cpu, method.loader_cpu, method.rounds, method.slice_ms
    ));
    for note in trust(record) {
        text.push_str(&format!("- {note}\n"));
    }
    Some(text)
}

pub fn cost(record: &Record) -> Option<String> {
    let is_fanout = |line: &&Line| matches!(line.spec(), Spec::Fanout { .. });
    let (fanouts, others): (Vec<&Line>, Vec<&Line>) = record.timed().partition(is_fanout);
    // Those between the main ones are in the section about connections.
    let others: Vec<&Line> = others.into_iter().filter(|line| !is_between(line)).collect();
    let mut text = "## Processor time for a message\n\n\
        Of the server, user and kernel. `bare-uring` is in µs, everything else a ratio to it in the same round. The best engine \
        of a line is bold; the bare loops have no sessions and are the floor, not contestants.\n\n"
        .to_owned();
    let tables: Vec<String> =
        [&others, &fanouts].into_iter().filter_map(|lines| ratios(record, lines, BARE_URING)).collect();
    if tables.is_empty() {
        return None;
    }
    text.push_str(&tables.join("\n"));
    text.push_str("\n[All of them as bars](benchmarks/cpu.svg).\n");
    if let Some(beside_epoll) = beside_epoll(&others, &fanouts) {
        text.push_str(&format!(
            "\nThe engine by readiness, beside a bare loop by readiness:\n\n{beside_epoll}"
        ));
    }
    Some(text)
}

/// One line for each workload; the base in µs, the others as ratio to it.
fn ratios(record: &Record, lines: &[&Line], base: &str) -> Option<String> {
    let servers: Vec<_> =
        columns(record, lines).into_iter().filter(|server| server.name != OURS_LOGIC).collect();
    let mut headings = vec!["".to_owned()];
    headings.extend(servers.iter().map(|server| heading(server)));
    let row = |line: &&Line| {
        let best = best(&servers, |name| Some(line.ratio(name, base)?.median));
        let cell = |name: &str| {
            if name == base {
                return line.cpu_us(name).map(|us| format!("{} µs", three_digits(us.median)));
            }
            let Spread { quartile_1, median, quartile_3 } = line.ratio(name, base)?;
            let median = format!("{median:.2}");
            let is_best = best.as_ref() == Some(&median) && !is_bare(record, name);
            Some(format!("{}<br><sub>{quartile_1:.2}–{quartile_3:.2}</sub>", bold_if(is_best, &median)))
        };
        let mut cells = vec![label(line)];
        cells.extend(servers.iter().map(|server| {
            cell(&server.name).unwrap_or_else(|| line.missing(&server.name).unwrap_or("–").to_owned())
        }));
        cells
    };
    table(&headings, &lines.iter().map(row).collect::<Vec<_>>())
}

fn beside_epoll(others: &[&Line], fanouts: &[&Line]) -> Option<String> {
    let row = |line: &&Line| {
        let Spread { quartile_1, median, quartile_3 } = line.ratio(OURS_READINESS, BARE_EPOLL)?;
        let bare = three_digits(line.cpu_us(BARE_EPOLL)?.median);
        let ratio = format!("{median:.2} <sub>{quartile_1:.2}–{quartile_3:.2}</sub>");
        Some(vec![label(line), format!("{bare} µs"), ratio])
    };
    let rows: Vec<_> = others.iter().chain(fanouts).filter_map(row).collect();
    table(&["".into(), BARE_EPOLL.into(), OURS_READINESS.into()], &rows)
}

/// Where a server's own speed shows in the rate: echoes and streams with much in flight.
pub fn throughput(record: &Record) -> Option<String> {
    let is_busy = |line: &&Line| match line.spec() {
        Spec::Echo { connections, depth, .. } => connections > 1 && (depth > 1 || connections == 1000),
        Spec::Stream { .. } => true,
        _ => false,
    };
    let lines: Vec<&Line> = record.timed().filter(is_busy).collect();
    let servers: Vec<_> =
        columns(record, &lines).into_iter().filter(|server| server.name != OURS_LOGIC).collect();
    let mut headings = vec!["messages a second".to_owned()];
    headings.extend(lines.iter().map(|line| label(line)));
    let row = |server: &&super::super::record::Column| {
        let name = &server.name;
        let cell = |line: &&Line| {
            let figures = || {
                let rate_now = rate(line.rate(name)?.median);
                let busy = line.busy(name)?.median;
                let capacity = rate(1e6 / line.cpu_us(name)?.median);
                let loader = line.loader_busy(name).map_or("–".into(), |loader| percent(loader.median));
                Some(format!(
                    "{rate_now}<br><sub>busy {}, loader {}, capacity {capacity}</sub>",
                    percent(busy),
                    loader
                ))
            };
            figures().unwrap_or_else(|| line.missing(name).unwrap_or("–").to_owned())
        };
        let mut cells = vec![bold_if(server.name == OURS, name)];
        cells.extend(lines.iter().map(cell));
        cells
    };
    let rows: Vec<_> = servers.iter().map(row).collect();
    if lines.is_empty() {
        return None;
    }
    Some(format!(
        "## A busy server\n\nMessages a second that one loader drew (of a stream: MiB there and back); the share of the time for \
         which the server's processor was busy with them, and that of the loader; and the capacity of a whole processor, which is 1 divided by the time \
         for a message. Where a server was not busy all the time, the loader or the network was the limit, and its rate says \
         little: compare capacities.\n\n{}",
        table(&headings, &rows)?
    ))
}

pub fn latency(record: &Record, has_picture: bool) -> Option<String> {
    let lines: Vec<&Line> = record.timed().filter(|line| line.has_latency()).collect();
    let servers = columns(record, &lines);
    let mut headings = vec!["p50 / p99 / p99.9".to_owned()];
    headings.extend(lines.iter().map(|line| label(line).replace("open loop, ", "")));
    let row = |server: &&super::super::record::Column| {
        let cell = |line: &&Line| {
            let tail = line.cell(&server.name).and_then(|cell| cell.latency);
            match tail {
                Some(tail) => {
                    let least =
                        |cell: &super::super::record::Cell| Some(format!("{:.2}", cell.latency?.p99()));
                    let p99s = || {
                        let engines = servers.iter().filter(|server| server.class != Class::Bare);
                        engines.filter_map(|server| Some(line.cell(&server.name)?.latency?.p99()))
                    };
                    let is_least = server.class != Class::Bare
                        && p99s().reduce(f64::min).map(|us| format!("{us:.2}"))
                            == line.cell(&server.name).and_then(least);
                    let [p50, p99, p999] = tail.figures_us().map(duration_us);
                    format!("{p50} / {} / {p999}", bold_if(is_least, &p99))
                }
                None => line.missing(&server.name).unwrap_or("–").to_owned(),
            }
        };
        let mut cells = vec![bold_if(server.name == OURS, &server.name)];
        cells.extend(lines.iter().map(cell));
        cells
    };
    let rows: Vec<_> = servers.iter().map(row).collect();
    if lines.is_empty() {
        return None;
    }
    let picture = if has_picture { "![Latency at a fixed rate](benchmarks/latency.svg)\n\n" } else { "" };
    Some(format!(
        "## Latency\n\nMessages are sent when they are due, whether or not earlier ones have been answered, and latency counts \
         from the moment when a message was due: a server that stalls cannot hide it. A share of load is one of what the slowest \
         server of this run can do, so that all can keep up. p50 is the median of the rounds; p99 and p99.9 are their lower \
         quartile, for every server: when the host takes a processor away for milliseconds, in whichever server's visit that \
         falls, that tells nothing of the server. The lowest p99 among engines is bold.\n\n{picture}{}",
        table(&headings, &rows)?
    ))
}

pub fn rest(record: &Record, has_picture: bool) -> Option<String> {
    let line = record.weighed().next()?;
    let row = |server: &&super::super::record::Column| {
        let cell = line.cell(&server.name)?;
        let bytes = cell.session_bytes.map_or("–".into(), |bytes| format!("{} B", thousands(bytes)));
        let cpu = cell.idle_cpu.map_or("–".into(), percent);
        Some(vec![bold_if(server.name == OURS, &server.name), bytes, cpu])
    };
    let servers = columns(record, &[line]);
    let rows: Vec<_> = servers.iter().filter_map(row).collect();
    let headings = ["".into(), "memory of a session".into(), "processor while nobody talks".into()];
    let picture = if has_picture { "![Memory of a silent session](benchmarks/memory.svg)\n\n" } else { "" };
    Some(format!(
        "## At rest\n\nSessions that have echoed once and are silent since: {}. Memory is the growth of the server's resident \
         memory for each; sockets and rings belong to the kernel and are not in it. A bare loop keeps nothing for a connection; \
         what it shows is memory touched once, spread over the sessions.\n\n{picture}{}",
        label(line),
        table(&headings, &rows)?
    ))
}

pub fn scale(record: &Record, has_picture: bool) -> Option<String> {
    let mut lines: Vec<(u32, &Line)> =
        record.timed().filter_map(|line| Some((connections_of(line)?, line))).collect();
    lines.retain(|(connections, _)| *connections >= SCALE_MIN);
    lines.sort_by_key(|(connections, _)| *connections);
    let (fewest, most) = (lines.first()?, lines.last()?);
    if lines.len() < 2 {
        return None;
    }
    let (first, last) = match record.line("echo:100") {
        Some(line) => ((100, line), *most),
        None => (*fewest, *most),
    };
    let mut headings = vec!["connections".to_owned()];
    headings.extend(lines.iter().map(|(connections, _)| thousands(f64::from(*connections))));
    headings.push("growth beside the bare loop's".to_owned());
    let servers: Vec<_> = columns(record, &lines.iter().map(|(_, line)| *line).collect::<Vec<_>>())
        .into_iter()
        .filter(|server| server.name != OURS_LOGIC)
        .collect();
    let row = |server: &&super::super::record::Column| {
        let cell = |(_, line): &(u32, &Line)| match line.cpu_us(&server.name) {
            Some(us) => three_digits(us.median),
            None => line.missing(&server.name).unwrap_or("–").to_owned(),
        };
        let mut cells = vec![bold_if(server.name == OURS, &server.name)];
        cells.extend(lines.iter().map(cell));
        let growth = targets::growth(first.1, last.1, &server.name);
        cells.push(growth.map_or("–".into(), |growth| format!("{growth:.2}")));
        cells
    };
    let rows: Vec<_> = servers.iter().map(row).collect();
    let picture =
        if has_picture { "![What a message costs by connections](benchmarks/scale.svg)\n\n" } else { "" };
    Some(format!(
        "## More connections\n\nµs of the server's processor for an echo of 64 bytes, one in flight on each connection. More \
         connections cost more because less of what a message needs is in the caches. The last column is how much a server's cost \
         grows from {} to {} connections, divided by how much the bare io_uring loop's grows.\n\n{picture}{}",
        thousands(f64::from(first.0)),
        thousands(f64::from(last.0)),
        table(&headings, &rows)?
    ))
}

pub fn placement(record: &Record) -> Option<String> {
    if !record.has(OURS_LOGIC) {
        return None;
    }
    let row = |line: &Line| {
        let (inline, logic) = (line.cpu_us(OURS)?.median, line.cpu_us(OURS_LOGIC)?.median);
        let ratio = line.ratio(OURS_LOGIC, OURS)?.median;
        let hop = if logic > inline { format!("{:.2} µs", inline * (ratio - 1.0)) } else { "–".into() };
        Some(vec![label(line), format!("{} µs", three_digits(inline)), format!("{ratio:.2}"), hop])
    };
    let rows: Vec<_> = record.timed().filter(|line| !is_between(line)).filter_map(row).collect();
    let headings = [
        "".into(),
        "handlers on the shard".into(),
        "on a logic thread".into(),
        "the hop, there and back".into(),
    ];
    Some(format!(
        "## Handlers on another thread\n\nThe same engine with its handlers [on a logic thread](placement.md), both threads on the \
         one processor: ratio to handlers on the shard, and the difference for an operation.\n\n{}",
        table(&headings, &rows)?
    ))
}

pub fn instructions(record: &Record) -> Option<String> {
    let instructions = record.instructions.as_ref()?;
    // Each once, in the order in which they were counted.
    let mut workloads: Vec<&str> = Vec::new();
    let mut servers: Vec<&str> = Vec::new();
    for count in &instructions.counts {
        for (list, item) in [(&mut workloads, &count.workload), (&mut servers, &count.server)] {
            if !list.contains(&item.as_str()) {
                list.push(item);
            }
        }
    }
    let of = |workload: &str, server: &str| {
        let is_it = |count: &&Count| count.workload == workload && count.server == server;
        instructions.counts.iter().find(is_it).map(|count| thousands(count.per_operation))
    };
    let row = |workload: &&str| {
        let line = Line { workload: (*workload).into(), name: (*workload).into(), ..Line::default() };
        let mut cells = vec![label(&line)];
        cells.extend(servers.iter().map(|server| of(workload, server).unwrap_or_else(|| "–".into())));
        cells
    };
    let mut headings = vec![String::new()];
    headings.extend(servers.iter().map(|server| bold_if(*server == OURS, server)));
    Some(format!(
        "## Instructions\n\nOf the server in user space, for one operation, counted by {}: other processes do not change them, and \
         they repeat from run to run. What the kernel executes, which is most of the time, is not in them. \
         [How](../bench/README.md#instructions).\n\n{}",
        instructions.counter,
        table(&headings, &workloads.iter().map(row).collect::<Vec<_>>())?
    ))
}

pub fn targets(record: &Record) -> Option<String> {
    let groups = targets::verdicts(record);
    let (kept, judged) = targets::kept(&groups);
    if judged == 0 {
        return None;
    }
    let mut text = format!(
        "## Our bounds\n\nWhat we ask of `{OURS}`, written in `bench/src/report/targets.rs`, and what this run says: {kept} of \
         {judged} kept. Figures are medians, as they are, without a margin for what a run cannot tell. An engine \
         that failed at a workload or was left out of it is not compared there.\n"
    );
    for (heading, verdicts) in groups {
        let rows: Vec<Vec<String>> = verdicts
            .into_iter()
            .map(|verdict| {
                let (figure, met) = match verdict.figure {
                    Some((figure, true)) => (figure, "yes"),
                    Some((figure, false)) => (figure, "**no**"),
                    None => ("not measured".into(), "–"),
                };
                vec![verdict.workload, verdict.bound, figure, met.into()]
            })
            .collect();
        let headings = [heading.into(), "bound".into(), "this run".into(), "kept".into()];
        let table = table(&headings, &rows)?;
        // Words in all columns but the last.
        text.push_str(&format!("\n{}", table.replacen("|---|---:|---:|---:|", "|---|---|---|---|", 1)));
    }
    Some(text)
}

pub fn missing(record: &Record) -> Option<String> {
    let mut text = String::new();
    for line in &record.workloads {
        for (what, missing) in
            line.failures.iter().map(|m| ("failed", m)).chain(line.left_out.iter().map(|m| ("left out", m)))
        {
            let reason = missing.reason.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
            text.push_str(&format!("| {} | {} | {what} | {reason} |\n", missing.server, label(line)));
        }
    }
    (!text.is_empty()).then(|| {
        format!("## Left out, or failed\n\n| server | workload | | why |\n|---|---|---|---|\n{text}")
    })
}

fn is_bare(record: &Record, name: &str) -> bool {
    record.servers.iter().any(|server| server.name == name && server.class == Class::Bare)
}

fn is_open(line: &Line) -> bool {
    matches!(line.spec(), Spec::Open { .. })
}

/// From one figure to another, or the one if they are written alike.
fn span(least: f64, most: f64) -> String {
    let (least, most) = (format!("{least:.2}"), format!("{most:.2}"));
    if least == most { least } else { format!("{least} to {most}") }
}
