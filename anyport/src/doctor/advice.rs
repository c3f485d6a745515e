//! What would make this machine faster, and the command that does it. Says nothing where nothing is to gain.

use std::time::Duration;

use super::{
    Finding, Verdict,
    facts::{Clock, Facts, SOMAXCONN, SYN_BACKLOG, TCP_RMEM, TCP_WMEM},
};

/// A look at the clock that takes longer is a call into the kernel.
const LOOK_MAX: Duration = Duration::from_nanos(150);
/// Settings of the Linux kernel that a server of many sessions, or of large streams, meets: the least value that is good,
/// how to set that, and what a smaller one does.
const SETTINGS: [(&str, u64, &str, &str); 4] = [
    (SOMAXCONN, 4096, "4096", "connections beyond it are dropped while they wait to be accepted"),
    (SYN_BACKLOG, 1024, "1024", "bursts of new connections are slowed beyond it"),
    (TCP_RMEM, 6 << 20, "'4096 131072 33554432'", "a stream from afar has no more than this under way"),
    (TCP_WMEM, 4 << 20, "'4096 16384 33554432'", "a stream to afar has no more than this under way"),
];

/// Everything that could be better, in the order of what it matters; settings first.
pub(super) fn advise(facts: &Facts) -> Vec<Finding> {
    let mut findings = settings(facts);
    findings.extend(clock(facts));
    findings.extend(governor(facts));
    findings.extend(tracking(facts));
    findings.extend(facts.one_queue.iter().map(|name| one_queue(name, facts.processors)));
    findings.extend(load(facts));
    findings.extend(nodes(facts));
    findings.extend(mitigations(facts));
    findings
}

fn could(name: &'static str, value: String, advice: String) -> Finding {
    Finding { name, value, verdict: Verdict::Could, advice }
}

fn good(name: &'static str, value: String) -> Finding {
    Finding { name, value, verdict: Verdict::Good, advice: String::new() }
}

/// Those of the backlog are shown in any case: who looks for the limits of a server looks for them.
fn settings(facts: &Facts) -> Vec<Finding> {
    let look = |&(name, least, set, otherwise): &(&'static str, u64, &str, &str)| {
        let value = *facts.settings.get(name)?;
        if value < least {
            return Some(could(name, value.to_string(), format!("{otherwise}: sysctl -w {name}={set}")));
        }
        [SOMAXCONN, SYN_BACKLOG].contains(&name).then(|| good(name, value.to_string()))
    };
    SETTINGS.iter().filter_map(look).collect()
}

fn clock(facts: &Facts) -> Option<Finding> {
    let Clock { source, available, look } = facts.clock.as_ref().filter(|clock| clock.look >= LOOK_MAX)?;
    let better = ["tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"]
        .into_iter()
        .find(|better| better != source && available.split_whitespace().any(|one| one == *better));
    let what = format!("{source}: a look takes {} ns", look.as_nanos());
    let twice = "a shard looks twice a turn";
    let advice = match better {
        Some(better) => format!(
            "{twice}: echo {better} > /sys/devices/system/clocksource/clocksource0/current_clocksource \
             (25 to 50 ns then)"
        ),
        None => format!(
            "{twice}: ask who runs this virtual machine for a stable tsc, or start the kernel with tsc=reliable"
        ),
    };
    Some(could("clock", what, advice))
}

fn governor(facts: &Facts) -> Option<Finding> {
    let slow: usize =
        facts.governors.iter().filter(|(name, _)| *name != "performance").map(|(_, count)| count).sum();
    let names: Vec<_> = facts.governors.keys().cloned().collect();
    (slow > 0).then(|| {
        could(
            "processor clock",
            format!("governor {}", names.join(", ")),
            "clocks go up only after load has come, latency pays for it (not measured here): \
             cpupower frequency-set -g performance"
                .to_owned(),
        )
    })
}

/// Tracking costs each packet, and a full table costs connections.
fn tracking(facts: &Facts) -> Option<Finding> {
    let (count, max) = facts.tracked.filter(|(count, _)| *count > 0)?;
    let advice = "each packet is looked up, and connections beyond are dropped (not measured here): \
                  nft add table inet fast; nft 'add chain inet fast in { type filter hook prerouting priority raw; }'; \
                  nft add rule inet fast in tcp dport PORT notrack";
    Some(could("connection tracking", format!("{count} of at most {max}"), advice.to_owned()))
}

fn one_queue(name: &str, processors: usize) -> Finding {
    // Words of 32 bits, the highest first, as the kernel takes them.
    let words = processors.div_ceil(32);
    let mask = |word: usize| {
        let bits = (processors - word * 32).min(32);
        format!("{:x}", u32::MAX >> (32 - bits))
    };
    let mask = (0..words).rev().map(mask).collect::<Vec<_>>().join(",");
    could(
        "network queue",
        format!("{name} has one, and one processor receives for all"),
        format!(
            "spread it, if that processor is the first to be full (not measured here): \
             echo {mask} > /sys/class/net/{name}/queues/rx-0/rps_cpus"
        ),
    )
}

/// As many as every second processor would be busy.
fn load(facts: &Facts) -> Option<Finding> {
    let load = facts
        .load
        .filter(|load| *load * 2.0 > f64::from(u32::try_from(facts.processors).unwrap_or(u32::MAX)))?;
    Some(could(
        "other load",
        format!("{load:.1} threads on {} processors, in the last minute", facts.processors),
        "what is measured now is theirs, too: find them with `top`, or wait".to_owned(),
    ))
}

fn nodes(facts: &Facts) -> Option<Finding> {
    (facts.nodes > 1).then(|| {
        could(
            "memory nodes",
            facts.nodes.to_string(),
            "a shard that wanders leaves its memory behind: --pin, Engine::pin_shards (not measured here)"
                .to_owned(),
        )
    })
}

fn mitigations(facts: &Facts) -> Option<Finding> {
    (facts.mitigations > 0).then(|| {
        let value =
            format!("{} weaknesses of the processor worked around: system calls pay", facts.mitigations);
        good("mitigations", value)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use anyport_driver::Topology;

    use super::{super::facts::Files, *};

    /// A machine made of files.
    #[derive(Clone, Default)]
    struct Made(BTreeMap<String, String>);

    impl Made {
        fn with(mut self, path: &str, text: &str) -> Self {
            self.0.insert(path.to_owned(), text.to_owned());
            self
        }

        fn facts(&self, processors: usize) -> Facts {
            let allowed: Vec<_> = (0..processors).collect();
            Facts::from_files(&Topology::read(&allowed, &|path| self.read(path)), self)
        }
    }

    impl Files for Made {
        fn read(&self, path: &str) -> Option<String> {
            self.0.get(path).cloned()
        }

        fn names(&self, folder: &str) -> Vec<String> {
            let inside = |path: &String| {
                Some(path.strip_prefix(folder)?.strip_prefix('/')?.split('/').next()?.to_owned())
            };
            let mut names: Vec<_> = self.0.keys().filter_map(inside).collect();
            names.dedup();
            names
        }
    }

    /// One where nothing is to gain.
    fn tuned() -> Made {
        let clock = "/sys/devices/system/clocksource/clocksource0";
        Made::default()
            .with("/proc/loadavg", "0.10 0.20 0.30 1/100 4711\n")
            .with("/proc/sys/net/core/somaxconn", "4096\n")
            .with("/proc/sys/net/ipv4/tcp_max_syn_backlog", "1024\n")
            .with("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t33554432\n")
            .with("/proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n")
            .with("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
            .with(&format!("{clock}/current_clocksource"), "tsc\n")
            .with(&format!("{clock}/available_clocksource"), "tsc hpet acpi_pm \n")
            .with("/proc/sys/net/netfilter/nf_conntrack_count", "0\n")
            .with("/proc/sys/net/netfilter/nf_conntrack_max", "262144\n")
            .with("/sys/class/net/lo/operstate", "unknown\n")
            .with("/sys/class/net/lo/queues/rx-0/rps_cpus", "0\n")
    }

    /// What is advised, without what is good.
    fn advised(facts: &Facts) -> Vec<(&'static str, String)> {
        let findings = advise(facts).into_iter().filter(|finding| finding.verdict != Verdict::Good);
        findings.map(|finding| (finding.name, format!("{} -> {}", finding.value, finding.advice))).collect()
    }

    #[track_caller]
    fn advises(facts: &Facts, name: &str, parts: &[&str]) {
        let advised = advised(facts);
        let [(what, text)] = &advised[..] else { panic!("not one: {advised:?}") };
        assert_eq!(*what, name);
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn a_tuned_machine_is_left_alone() {
        let facts = tuned().facts(4);
        assert_eq!(advised(&facts), []);
        let shown: Vec<_> = advise(&facts).iter().map(|finding| finding.name).collect();
        assert_eq!(shown, [SOMAXCONN, SYN_BACKLOG]);
        // Nor does a system that tells nothing get advice.
        assert_eq!(advise(&Made::default().facts(1)), []);
    }

    #[test]
    fn each_setting_has_its_command() {
        let small = |path: &str, text: &str| tuned().with(path, text).facts(4);
        let facts = small("/proc/sys/net/core/somaxconn", "128");
        advises(&facts, SOMAXCONN, &["128 ->", "sysctl -w net.core.somaxconn=4096"]);
        let facts = small("/proc/sys/net/ipv4/tcp_max_syn_backlog", "512");
        advises(&facts, SYN_BACKLOG, &["512 ->", "sysctl -w net.ipv4.tcp_max_syn_backlog=1024"]);
        let facts = small("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 212992");
        advises(&facts, TCP_RMEM, &["212992 ->", "sysctl -w net.ipv4.tcp_rmem='4096 131072 33554432'"]);
        let facts = small("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 212992");
        advises(&facts, TCP_WMEM, &["212992 ->", "sysctl -w net.ipv4.tcp_wmem="]);
    }

    #[test]
    fn a_clock_that_costs_a_system_call_is_found_by_its_time() {
        let mut facts = tuned().facts(4);
        let clock = |source: &str, ns| {
            let available = "tsc hpet acpi_pm".to_owned();
            Some(Clock { source: source.to_owned(), available, look: Duration::from_nanos(ns) })
        };
        facts.clock = clock("hpet", 1_400);
        advises(&facts, "clock", &["hpet: a look takes 1400 ns", "echo tsc > "]);
        // Some that are not tsc need no system call either.
        facts.clock = clock("hpet", 40);
        assert_eq!(advised(&facts), []);
        facts.clock = clock("tsc", 1_400);
        advises(&facts, "clock", &["tsc=reliable"]);
    }

    #[test]
    fn the_processors_clock_and_other_load() {
        let facts =
            tuned().with("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n").facts(2);
        advises(&facts, "processor clock", &["governor performance, powersave", "cpupower frequency-set"]);
        let facts = tuned().with("/proc/loadavg", "3.00 1.00 1.00 4/99 1").facts(4);
        advises(&facts, "other load", &["3.0 threads on 4 processors", "top"]);
        assert_eq!(advised(&tuned().with("/proc/loadavg", "2.00 1.00 1.00 4/99 1").facts(4)), []);
    }

    #[test]
    fn packets_that_are_tracked_or_have_one_queue() {
        let facts = tuned().with("/proc/sys/net/netfilter/nf_conntrack_count", "37\n").facts(4);
        advises(&facts, "connection tracking", &["37 of at most 262144", "notrack"]);
        let one = tuned()
            .with("/sys/class/net/eth0/device/vendor", "0x8086")
            .with("/sys/class/net/eth0/operstate", "up\n")
            .with("/sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000000\n")
            .with("/sys/class/net/eth0/queues/tx-0/xps_cpus", "0\n");
        advises(
            &one.facts(4),
            "network queue",
            &["eth0", "echo f > /sys/class/net/eth0/queues/rx-0/rps_cpus"],
        );
        advises(&one.facts(40), "network queue", &["echo ff,ffffffff > "]);
        assert_eq!(advised(&one.facts(1)), [], "there is nobody to spread to");
        let spread = one.clone().with("/sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,0000000f\n");
        let two = one.with("/sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n");
        assert_eq!((advised(&spread.facts(4)), advised(&two.facts(4))), (vec![], vec![]));
    }

    #[test]
    fn nodes_want_pins_and_mitigations_are_only_said() {
        let facts = tuned()
            .with("/sys/devices/system/node/online", "0-1\n")
            .with("/sys/devices/system/node/node0/cpulist", "0-3\n")
            .with("/sys/devices/system/node/node1/cpulist", "4-7\n")
            .facts(8);
        advises(&facts, "memory nodes", &["2 ->", "--pin"]);
        let facts = tuned()
            .with("/sys/devices/system/cpu/vulnerabilities/meltdown", "Mitigation: PTI\n")
            .with("/sys/devices/system/cpu/vulnerabilities/l1tf", "Not affected\n")
            .facts(8);
        assert_eq!(advised(&facts), []);
        let shown = advise(&facts).pop().unwrap();
        assert!(shown.name == "mitigations" && shown.value.starts_with("1 "), "{shown:?}");
    }
}
