//! Which processors share a core, a package and a node of memory, and which of them a thread should be bound to.

use std::collections::BTreeMap;

use crate::machine;

/// A processor, as the system counts: one that runs one thread at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Processor {
    /// Its number.
    pub number: usize,
    /// The core that it is of: the lowest number of those that share one.
    pub core: usize,
    /// The package that it is in.
    pub package: usize,
    /// The node whose memory is nearest to it.
    pub node: usize,
}

/// The processors that this process may use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    processors: Vec<Processor>,
}

/// Which processors threads are bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placing {
    /// For each shard. Empty if no processor is known.
    pub shards: Vec<usize>,
    /// For each logic thread; `None` for those for which no processor is left.
    pub logic: Vec<Option<usize>>,
}

impl Topology {
    /// Of this machine. Where the system does not tell (all but Linux), each processor is a core of its own, and all are
    /// on one node.
    pub fn here() -> Self {
        Self::read(&machine::processors(), &|path| {
            if cfg!(target_os = "linux") { std::fs::read_to_string(path).ok() } else { None }
        })
    }

    /// Of the processors `allowed`, as the files of Linux's `/sys` say that `read` gives. What they do not say is taken to
    /// be as simple as can be.
    pub fn read(allowed: &[usize], read: &dyn Fn(&str) -> Option<String>) -> Self {
        let nodes = nodes(read);
        let processor = |&number: &usize| {
            let about = |name: &str| read(&format!("/sys/devices/system/cpu/cpu{number}/topology/{name}"));
            let siblings = about("thread_siblings_list").map(|list| numbers(&list)).unwrap_or_default();
            Processor {
                number,
                core: siblings.into_iter().min().unwrap_or(number),
                package: about("physical_package_id").and_then(|id| id.trim().parse().ok()).unwrap_or(0),
                node: nodes.get(&number).copied().unwrap_or(0),
            }
        };
        let mut processors: Vec<_> = allowed.iter().map(processor).collect();
        processors.sort_unstable();
        processors.dedup();
        Self { processors }
    }

    /// The processors, by their numbers.
    pub fn processors(&self) -> &[Processor] {
        &self.processors
    }

    /// How many cores they are of.
    pub fn cores(&self) -> usize {
        self.different(|processor| processor.core)
    }

    /// How many packages they are in.
    pub fn packages(&self) -> usize {
        self.different(|processor| processor.package)
    }

    /// How many nodes of memory they are on.
    pub fn nodes(&self) -> usize {
        self.different(|processor| processor.node)
    }

    fn different(&self, what: impl Fn(&Processor) -> usize) -> usize {
        let mut all: Vec<_> = self.processors.iter().map(what).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    }

    /// The order in which threads take processors: one of each core, node by node, so that few shards are near each other
    /// and none shares a core; then the second one of each core, and so on.
    pub fn order(&self) -> Vec<Processor> {
        let mut taken = BTreeMap::<usize, usize>::new();
        let mut ranked: Vec<_> = self
            .processors
            .iter()
            .map(|&processor| {
                let rank = taken.entry(processor.core).or_default();
                *rank += 1;
                (*rank, processor.node, processor.number, processor)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., processor)| processor).collect()
    }

    /// Places `shards` in the [order](Self::order) from its place `first` on, round and round if there are more of them
    /// than processors; and `logic` threads on what is left, one each: dealt to the shards in turn, each is on its shard's
    /// node if it can be, on a core that nobody uses before one that is shared, and there with its own shard first.
    pub fn place(&self, shards: usize, logic: usize, first: usize) -> Placing {
        let order = self.order();
        if order.is_empty() {
            return Placing { shards: Vec::new(), logic: vec![None; logic] };
        }
        let at = |shard: usize| order[(first % order.len() + shard) % order.len()];
        let placed: Vec<_> = (0..shards).map(at).collect();
        let mut used: Vec<_> = placed.clone();
        let mut logic_of = |thread: usize| {
            let near = *placed.get(thread % shards.max(1))?;
            let cost = |processor: &&Processor| {
                let is_shared = used.iter().any(|user| user.core == processor.core);
                (processor.node != near.node, is_shared, processor.core != near.core, processor.number)
            };
            let is_free = |processor: &&Processor| used.iter().all(|user| user.number != processor.number);
            let found = *order.iter().filter(is_free).min_by_key(cost)?;
            used.push(found);
            Some(found.number)
        };
        let logic = (0..logic).map(&mut logic_of).collect();
        Placing { shards: placed.into_iter().map(|processor| processor.number).collect(), logic }
    }
}

/// The node of each processor.
fn nodes(read: &dyn Fn(&str) -> Option<String>) -> BTreeMap<usize, usize> {
    let online = read("/sys/devices/system/node/online").unwrap_or_default();
    let of_node = |node: usize| {
        let list = read(&format!("/sys/devices/system/node/node{node}/cpulist")).unwrap_or_default();
        numbers(&list).into_iter().map(move |processor| (processor, node))
    };
    numbers(&online).into_iter().flat_map(of_node).collect()
}

/// More processors or nodes than any machine has: a list with such a number is none.
const NUMBER_MAX: usize = 1 << 16;

/// The numbers of a list as the kernel writes it: `0-3,8`. What is no number is left out.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.trim().parse::<usize>().ok()?, to.trim().parse::<usize>().ok()?);
        (to < NUMBER_MAX).then_some(from..=to)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// A list of numbers as the kernel writes it, in the order given: `0-3,8`.
pub fn list(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == number => *to = number,
            _ => ranges.push((number, number)),
        }
    }
    let text =
        |&(from, to): &(usize, usize)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A machine of `nodes` with so many `cores` each and `threads` a core, counted as Linux does on x86: first one
    /// processor of each core, then the second ones. Each node is a package.
    fn machine(nodes: usize, cores: usize, threads: usize) -> BTreeMap<String, String> {
        let all_cores = nodes * cores;
        let mut files = BTreeMap::new();
        files.insert("/sys/devices/system/node/online".to_owned(), format!("0-{}\n", nodes - 1));
        for node in 0..nodes {
            let of_node: Vec<_> = (0..threads)
                .flat_map(|thread| (0..cores).map(move |core| thread * all_cores + node * cores + core))
                .collect();
            let path = format!("/sys/devices/system/node/node{node}/cpulist");
            files.insert(path, format!("{}\n", list(&of_node)));
        }
        for number in 0..all_cores * threads {
            let core = number % all_cores;
            let siblings: Vec<_> = (0..threads).map(|thread| thread * all_cores + core).collect();
            let folder = format!("/sys/devices/system/cpu/cpu{number}/topology");
            files.insert(format!("{folder}/thread_siblings_list"), format!("{}\n", list(&siblings)));
            files.insert(format!("{folder}/physical_package_id"), format!("{}\n", core / cores));
        }
        files
    }

    fn topology(files: &BTreeMap<String, String>, allowed: impl IntoIterator<Item = usize>) -> Topology {
        let allowed: Vec<_> = allowed.into_iter().collect();
        Topology::read(&allowed, &|path| files.get(path).cloned())
    }

    fn order(topology: &Topology) -> String {
        list(&topology.order().iter().map(|processor| processor.number).collect::<Vec<_>>())
    }

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!(numbers("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers(""), [0; 0]);
        assert_eq!(numbers("x,4,9-7,0-99999999999"), [4]);
        assert_eq!(list(&[0, 1, 2, 8, 5, 6]), "0-2,8,5-6");
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn one_node_without_siblings_is_taken_in_order() {
        let small = topology(&machine(1, 4, 1), 0..4);
        assert_eq!((small.cores(), small.packages(), small.nodes()), (4, 1, 1));
        assert_eq!(order(&small), "0-3");
        assert_eq!(small.place(2, 0, 0), Placing { shards: vec![0, 1], logic: vec![] });
        // More shards than processors go round, and an offset is one in the order.
        assert_eq!(small.place(6, 0, 3).shards, [3, 0, 1, 2, 3, 0]);
        assert_eq!(small.place(2, 0, 7).shards, [3, 0]);
    }

    #[test]
    fn shards_take_cores_node_by_node_before_they_share_one() {
        let large = topology(&machine(2, 16, 2), 0..64);
        assert_eq!((large.cores(), large.packages(), large.nodes()), (32, 2, 2));
        // 0-15 are on node 0, 16-31 on node 1, and 32-63 are their siblings.
        assert_eq!(order(&large), "0-63");
        let nodes = |shards: usize| {
            let placed = large.place(shards, 0, 0).shards;
            let on = |node| placed.iter().filter(|at| large.processors()[**at].node == node).count();
            (on(0), on(1))
        };
        assert_eq!((nodes(16), nodes(20), nodes(40)), ((16, 0), (16, 4), (24, 16)));
    }

    #[test]
    fn siblings_that_are_counted_side_by_side_are_told_apart() {
        // As some machines count: 0 and 1 are one core.
        let mut files = machine(1, 4, 1);
        for number in 0..4_usize {
            let path = format!("/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list");
            files.insert(path, format!("{}-{}", number & !1, number | 1));
        }
        assert_eq!(order(&topology(&files, 0..4)), "0,2,1,3");
    }

    #[test]
    fn eight_nodes_with_processors_that_are_offline_or_not_allowed() {
        let all = topology(&machine(8, 8, 2), 0..128);
        assert_eq!((all.nodes(), order(&all)), (8, "0-127".to_owned()));
        // 0 and 9 are offline; 64-71 are the siblings of node 0: that of 0 is alone on its core now.
        let some = topology(&machine(8, 8, 2), (0..16).chain(64..72).filter(|n| ![0, 9].contains(n)));
        assert_eq!((some.nodes(), some.cores()), (2, 15));
        assert_eq!(order(&some), "1-7,64,8,10-15,65-71");
        // A cpuset that leaves the last node only.
        let last = topology(&machine(8, 8, 2), 56..64);
        assert_eq!((last.place(3, 0, 0).shards, last.nodes()), (vec![56, 57, 58], 1));
    }

    #[test]
    fn a_system_that_tells_nothing_has_cores_on_one_node() {
        let silent = topology(&BTreeMap::new(), [3, 1, 1]);
        assert_eq!((order(&silent), silent.cores(), silent.nodes()), ("1,3".to_owned(), 2, 1));
        let none = topology(&BTreeMap::new(), []);
        assert_eq!(none.place(2, 1, 5), Placing { shards: vec![], logic: vec![None] });
    }

    #[test]
    fn logic_threads_are_near_their_shards() {
        let large = topology(&machine(2, 4, 2), 0..16);
        // Node 0: 0-3 and 8-11, node 1: 4-7 and 12-15. Free cores of the node come first, then the shard's own core.
        assert_eq!(large.place(2, 4, 0).logic, [Some(2), Some(3), Some(8), Some(9)]);
        // Shards on both nodes: each logic thread is on its shard's.
        let both = large.place(6, 6, 0);
        assert_eq!(both.shards, [0, 1, 2, 3, 4, 5]);
        assert_eq!(both.logic, [Some(8), Some(9), Some(10), Some(11), Some(6), Some(7)]);
        // When all are taken, the others are bound to none.
        let small = topology(&machine(1, 2, 1), 0..2);
        assert_eq!(small.place(1, 2, 0).logic, [Some(1), None]);
        assert_eq!(small.place(2, 1, 0).logic, [None]);
    }

    #[test]
    fn this_machine_has_the_processors_that_the_process_may_use() {
        let here = Topology::here();
        let numbers: Vec<_> = here.processors().iter().map(|processor| processor.number).collect();
        assert_eq!(numbers, machine::processors());
        assert!(here.cores() >= 1 && here.cores() <= numbers.len());
        assert!(here.nodes() >= 1 && here.packages() >= 1);
    }
}
