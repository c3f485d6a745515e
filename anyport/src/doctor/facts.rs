//! What the system says about itself that bears on speed. Gathered from files of Linux; a test makes them up.

use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

use anyport_driver::{Topology, machine};

/// What was seen. `None` and empty where the system does not tell.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Facts {
    pub(super) processors: usize,
    pub(super) nodes: usize,
    /// Threads that want to run, this one left out: the average over the last minute.
    pub(super) load: Option<f64>,
    /// What decides on the processors' clock, for each governor that some have, how many have it.
    pub(super) governors: BTreeMap<String, usize>,
    /// What tells the time, what else could, and how long a look takes.
    pub(super) clock: Option<Clock>,
    /// Connections that the packet filter tracks, and how many it can.
    pub(super) tracked: Option<(u64, u64)>,
    /// Settings that are numbers, by name; of those that are several, the last one.
    pub(super) settings: BTreeMap<&'static str, u64>,
    /// Network interfaces that are up, have one queue to receive from, and leave it to one processor.
    pub(super) one_queue: Vec<String>,
    /// Weaknesses of the processor that the kernel works around.
    pub(super) mitigations: usize,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Clock {
    pub(super) source: String,
    pub(super) available: String,
    pub(super) look: Duration,
}

/// Settings of the kernel that are looked at.
pub(super) const SOMAXCONN: &str = "net.core.somaxconn";
pub(super) const SYN_BACKLOG: &str = "net.ipv4.tcp_max_syn_backlog";
pub(super) const TCP_RMEM: &str = "net.ipv4.tcp_rmem";
pub(super) const TCP_WMEM: &str = "net.ipv4.tcp_wmem";
const SETTINGS: [&str; 4] = [SOMAXCONN, SYN_BACKLOG, TCP_RMEM, TCP_WMEM];

/// The system's files, or made-up ones.
pub(super) trait Files {
    /// The text of a file, if there is one.
    fn read(&self, path: &str) -> Option<String>;
    /// The names in a folder.
    fn names(&self, folder: &str) -> Vec<String>;
}

/// This machine's.
pub(super) struct Here;

impl Files for Here {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }
}

impl Facts {
    /// Of this machine. All but Linux tell little.
    pub(super) fn gather() -> Self {
        let topology = Topology::here();
        let facts =
            if cfg!(target_os = "linux") { Self::from_files(&topology, &Here) } else { Self::default() };
        let clock = facts.clock.map(|clock| Clock { look: time_of_a_look(), ..clock });
        Self { processors: machine::processors().len(), nodes: topology.nodes(), clock, ..facts }
    }

    pub(super) fn from_files(topology: &Topology, files: &dyn Files) -> Self {
        let number = |path: &str| files.read(path)?.split_whitespace().last()?.parse::<u64>().ok();
        let mut governors = BTreeMap::new();
        for processor in topology.processors() {
            let path = format!("/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", processor.number);
            if let Some(governor) = files.read(&path) {
                *governors.entry(governor.trim().to_owned()).or_default() += 1;
            }
        }
        let tracked = |what: &str| number(&format!("/proc/sys/net/netfilter/nf_conntrack_{what}"));
        let setting =
            |name: &'static str| Some((name, number(&format!("/proc/sys/{}", name.replace('.', "/")))?));
        let mitigated = |name: &String| {
            let path = format!("/sys/devices/system/cpu/vulnerabilities/{name}");
            files.read(&path).is_some_and(|text| text.contains("Mitigation"))
        };
        Self {
            processors: topology.processors().len(),
            nodes: topology.nodes(),
            load: files.read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            governors,
            clock: clock(files),
            tracked: tracked("count").zip(tracked("max")),
            settings: SETTINGS.into_iter().filter_map(setting).collect(),
            one_queue: one_queue(topology, files),
            mitigations: files
                .names("/sys/devices/system/cpu/vulnerabilities")
                .iter()
                .filter(|name| mitigated(name))
                .count(),
        }
    }
}

fn clock(files: &dyn Files) -> Option<Clock> {
    let about = |name: &str| {
        let path = format!("/sys/devices/system/clocksource/clocksource0/{name}");
        files.read(&path).map(|text| text.trim().to_owned())
    };
    let (source, available) = (about("current_clocksource")?, about("available_clocksource")?);
    Some(Clock { source, available, look: Duration::ZERO })
}

/// What it takes to look at the clock: the least of some tries, as whoever interrupts only adds to it.
fn time_of_a_look() -> Duration {
    const TRIES: u32 = 5;
    const LOOKS: u32 = 200;
    let a_try = |_| {
        let start = Instant::now();
        for _ in 0..LOOKS {
            black_box(Instant::now());
        }
        start.elapsed() / LOOKS
    };
    (0..TRIES).map(a_try).min().unwrap_or_default()
}

fn one_queue(topology: &Topology, files: &dyn Files) -> Vec<String> {
    if topology.processors().len() < 2 {
        return Vec::new();
    }
    let is_alone = |name: &String| {
        let folder = format!("/sys/class/net/{name}");
        // Those without a device behind them have no interrupts.
        let is_real = files.names(&folder).iter().any(|entry| entry == "device");
        let is_up = files.read(&format!("{folder}/operstate")).is_some_and(|state| state.trim() == "up");
        let queues = files.names(&format!("{folder}/queues"));
        let to_receive = queues.iter().filter(|queue| queue.starts_with("rx-")).count();
        let spread = files.read(&format!("{folder}/queues/rx-0/rps_cpus"));
        let is_spread =
            spread.is_some_and(|mask| mask.chars().any(|digit| !matches!(digit, '0' | ',' | '\n')));
        is_real && is_up && to_receive == 1 && !is_spread
    };
    files.names("/sys/class/net").into_iter().filter(is_alone).collect()
}
