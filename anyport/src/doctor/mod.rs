//! What this machine offers, which driver would be taken, and what would make it better.

mod advice;
mod facts;

use anyport_driver::{DriverChoice, DriverConfig, DriverKind, Topology, machine, probe, topology};

use self::facts::Facts;

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, and could be better.
    Could,
    /// In the way.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub value: String,
    /// What that means.
    pub verdict: Verdict,
    /// What to do about it; empty if nothing.
    pub advice: String,
}

/// Everything that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The driver that `auto` takes here.
    pub driver: DriverKind,
    /// Why.
    pub reason: String,
    /// The findings, in the order of a reader's interest.
    pub findings: Vec<Finding>,
}

/// Looks at the machine. Builds a driver and drops it again; changes nothing.
pub fn examine() -> Report {
    let chosen = probe::choose(DriverChoice::Auto, DriverConfig::default());
    let (driver, reason) = match chosen {
        Ok(chosen) => (chosen.kind, chosen.reason),
        Err(error) => (DriverKind::Readiness, error.to_string()),
    };
    let topology = Topology::here();
    let mut findings = vec![system(), processors(&topology), pins(&topology)];
    #[cfg(target_os = "linux")]
    findings.extend(io_uring());
    #[cfg(unix)]
    findings.push(open_files(driver));
    findings.extend(huge_pages(driver));
    findings.extend(advice::advise(&Facts::gather()));
    #[cfg(windows)]
    findings.extend(windows());
    Report { driver, reason, findings }
}

fn good(name: &'static str, value: impl Into<String>) -> Finding {
    Finding { name, value: value.into(), verdict: Verdict::Good, advice: String::new() }
}

fn system() -> Finding {
    good("system", machine::system())
}

fn processors(topology: &Topology) -> Finding {
    let [all, cores] = [topology.processors().len(), topology.cores()];
    let of = match (topology.packages(), topology.nodes()) {
        (1, 1) => String::new(),
        (packages, nodes) => format!(", {packages} packages, {nodes} memory nodes"),
    };
    let cores = if cores == all { String::new() } else { format!(", {cores} cores") };
    good("processors", format!("{all} allowed to this process{cores}{of}: one shard each by default"))
}

/// Where `--pin` would put the shards, in their order.
fn pins(topology: &Topology) -> Finding {
    let shards = topology.place(topology.processors().len(), 0, 0).shards;
    good("--pin", format!("would bind shards to processors {}", topology::list(&shards)))
}

/// Said only where they would be asked for in vain.
fn huge_pages(driver: DriverKind) -> Option<Finding> {
    let missing = machine::huge_pages_missing(driver).filter(|_| driver == DriverKind::IoUring)?;
    Some(good("huge pages", format!("none, should --huge-pages ask for them: {missing}")))
}

#[cfg(target_os = "linux")]
fn io_uring() -> Vec<Finding> {
    match anyport_driver::io_uring::probe(DriverConfig::default()) {
        Ok(features) => {
            let incremental = if features.incremental_buffers {
                good("incremental buffers", "yes")
            } else {
                Finding {
                    name: "incremental buffers",
                    value: "no".to_owned(),
                    verdict: Verdict::Could,
                    advice:
                        "Linux 6.12 or later keeps small messages denser in memory (up to 3 % less processor \
                             time a message)"
                            .to_owned(),
                }
            };
            let sockets = format!("{} in each shard's own table", features.sockets_max);
            vec![good("io_uring", "allowed"), incremental, good("io_uring sockets", sockets)]
        }
        Err(error) => vec![Finding {
            name: "io_uring",
            value: "refused".to_owned(),
            verdict: Verdict::Could,
            advice: format!(
                "{}; until then, a message costs about 1.1 times as much (docs/measurements.md)",
                probe::explain_refusal(&error)
            ),
        }],
    }
}

/// What Windows has instead of limits and settings. Ports of outgoing connections are left out: Windows tells them
/// to `netsh` only.
#[cfg(windows)]
fn windows() -> Vec<Finding> {
    let wine = machine::wine().map(|version| Finding {
        name: "wine",
        value: format!("this Windows is Wine {version}"),
        verdict: Verdict::Could,
        advice: "good for trying and testing; serve from Windows itself, or from the program built for this system"
            .to_owned(),
    });
    let tick = machine::timer_tick().map(|tick| {
        let late = tick.as_secs_f64() * 1e3;
        good(
            "timers",
            format!("end up to {late:.1} ms late: Windows looks at them at each tick of its clock"),
        )
    });
    let sockets = good("open sockets", "no limit but memory");
    wine.into_iter().chain([completion_port(), sockets]).chain(tick).collect()
}

#[cfg(windows)]
fn completion_port() -> Finding {
    let name = "completion port";
    match anyport_driver::iocp::Iocp::new(DriverConfig::default()) {
        Ok(_) => good(name, "works, with AcceptEx and ConnectEx"),
        Err(error) => Finding {
            name,
            value: format!("cannot be had: {error}"),
            verdict: Verdict::Bad,
            advice:
                "`netsh winsock reset` and a restart repair what other programs have put between sockets and \
                     the system"
                    .to_owned(),
        },
    }
}

/// Below this many open files a server of sessions is soon full.
#[cfg(unix)]
const OPEN_FILES_WANTED: u64 = 65_536;

#[cfg(unix)]
fn open_files(driver: DriverKind) -> Finding {
    let limit = machine::open_files();
    let text = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
    // The engine raises it by itself.
    let room = match limit.hard {
        Some(hard) if driver == DriverKind::IoUring => {
            format!(": room for about {hard} sessions on each shard")
        }
        Some(hard) => format!(": room for about {hard} sessions"),
        None => String::new(),
    };
    let value = format!("{} (may be raised to {}){room}", text(limit.soft), text(limit.hard));
    let enough = limit.hard.is_none_or(|hard| hard >= OPEN_FILES_WANTED);
    Finding {
        name: "open files",
        value,
        verdict: if enough { Verdict::Good } else { Verdict::Could },
        advice: if enough {
            String::new()
        } else {
            format!(
                "the readiness driver and clients need one for each session: raise the hard limit \
                 (ulimit -Hn, LimitNOFILE=) to {OPEN_FILES_WANTED}"
            )
        },
    }
}
