//! The tree, against its rules. A failure names the file, the line and what to do.

use std::path::{Path, PathBuf};

use anyport_tidy::{
    Exempt, Finding, contract,
    layering::{self, Layer},
    limits, markdown,
    paths::{self, Ban},
    ports::{self, Talks},
    rows, source,
    tree::{self, SourceFile, TextFile},
    unsafety,
};

/// Which of our crates may use which. Tests may use what the crate itself may.
const LAYERS: [Layer; 10] = [
    Layer { name: "anyport-core", may_use: &[] },
    Layer { name: "anyport-driver", may_use: &["anyport-core", "anyport-guard"] },
    Layer { name: "anyport-tls", may_use: &["anyport-core"] },
    Layer { name: "anyport", may_use: &["anyport-core", "anyport-driver", "anyport-tls", "anyport-guard"] },
    Layer { name: "anyport-cli", may_use: &["anyport"] },
    // What its handler sees is what every user's handler sees.
    Layer { name: "anyport-simulation", may_use: &["anyport"] },
    Layer { name: "anyport-tidy", may_use: &[] },
    // For tests only.
    Layer { name: "anyport-guard", may_use: &[] },
    Layer { name: "anyport-fuzz-targets", may_use: &["anyport-core", "anyport-driver", "anyport"] },
    Layer { name: "anyport-fuzz", may_use: &["anyport-fuzz-targets"] },
];

/// The comparison with other engines is a workspace of its own, with rules of its own.
const BENCH: Exempt =
    Exempt { path: "bench/", reason: "a workspace of its own that compares bare system calls" };

/// Where `unsafe` may stand.
const UNSAFE: [Exempt; 6] = [
    Exempt { path: "driver/src/io_uring/", reason: "buffers and entries that the kernel reads and writes" },
    Exempt { path: "driver/src/iocp/", reason: "the calls and structures of Windows" },
    Exempt { path: "guard/", reason: "an allocator for tests that makes freed memory inaccessible" },
    Exempt { path: "core/tests/no_alloc.rs", reason: "an allocator that counts" },
    Exempt { path: "anyport/tests/no_alloc.rs", reason: "an allocator that counts" },
    BENCH,
];

/// Where the system's own names may stand.
const SYSTEM: [Exempt; 4] = [
    Exempt { path: "driver/src/", reason: "descriptors and handles stop in this crate" },
    Exempt { path: "guard/", reason: "maps memory and takes its permissions away, for tests" },
    Exempt {
        path: "driver/tests/conformance/",
        reason: "counts descriptors and uses them up, as a server would",
    },
    BENCH,
];

/// Crates whose root denies unsafe code instead of forbidding it.
const DENIES: [Exempt; 3] = [
    Exempt {
        path: "driver/src/lib.rs",
        reason: "its modules io_uring and iocp allow unsafe code for themselves",
    },
    Exempt { path: "guard/src/lib.rs", reason: "an allocator is unsafe code" },
    BENCH,
];

/// Tests that may sleep.
const SLEEPING: [Exempt; 1] = [BENCH];

const fn core(path: &'static str, instead: &'static str) -> Ban {
    Ban { path, within: &["core/src/"], except: &[], tests_only: false, instead }
}

const fn system(path: &'static str) -> Ban {
    let instead = "descriptors, handles and system calls stop in driver/src; ask the driver, or add the file to \
                   SYSTEM in tidy/tests/tidy.rs with a reason";
    Ban { path, within: &[], except: &SYSTEM, tests_only: false, instead }
}

const BANS: [Ban; 14] = [
    core("Instant::now", "time is an argument in core"),
    core("SystemTime", "time is an argument in core"),
    core("TcpStream", "core does no I/O"),
    core("TcpListener", "core does no I/O"),
    core("UdpSocket", "core does no I/O"),
    core("std::thread", "core has no thread"),
    core("std::fs", "core does no I/O"),
    system("std::os::fd"),
    system("std::os::unix::io"),
    system("std::os::windows::io"),
    system("libc"),
    system("windows_sys"),
    Ban {
        path: "SystemTime::now",
        within: &["anyport/src/"],
        except: &[],
        tests_only: false,
        instead: "the wall clock jumps: use the driver's `now`",
    },
    Ban {
        path: "thread::sleep",
        within: &[],
        except: &SLEEPING,
        tests_only: true,
        instead: "wait for the event itself, or use the simulator's time; if neither can be, add the file to \
                  SLEEPING in tidy/tests/tidy.rs with a reason",
    },
];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate lies in the workspace").to_owned()
}

fn sources() -> Vec<SourceFile> {
    let sources = tree::sources(&root()).expect("the tree can be read");
    assert!(sources.len() > 20, "only {} sources found: the walk is broken", sources.len());
    sources
}

/// The workspace's manifest, and those of its crates.
fn manifests() -> (TextFile, Vec<TextFile>) {
    let files = tree::files(&root(), "toml").expect("the tree can be read");
    let manifests = files.into_iter().filter(|file| {
        let is_manifest = file.path == "Cargo.toml" || file.path.ends_with("/Cargo.toml");
        is_manifest && !file.path.starts_with(BENCH.path)
    });
    let (roots, crates): (Vec<_>, Vec<_>) = manifests.partition(|file| file.path == "Cargo.toml");
    assert!(crates.len() >= 5, "only {} crates found: the walk is broken", crates.len());
    (roots.into_iter().next().expect("the workspace has a manifest"), crates)
}

#[track_caller]
fn none(mut findings: Vec<Finding>) {
    findings.sort();
    let list: Vec<_> = findings.iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "{} broken rules:\n  {}\n", list.len(), list.join("\n  "));
}

#[test]
fn crates_depend_downward_only() {
    let (root, crates) = manifests();
    none(layering::wrong_arrows(&root, &crates, &LAYERS));
}

#[test]
fn every_dependency_says_what_it_is_for() {
    none(layering::unexplained(&manifests().1, &LAYERS));
}

#[test]
fn clocks_sockets_threads_and_descriptors_stay_in_their_places() {
    none(paths::banned(&sources(), &BANS));
}

#[test]
fn files_are_short() {
    let sources = sources();
    for (lines, path) in source::watched(&sources) {
        println!("{path}: {lines} lines, of {} at most", source::LINES_MAX);
    }
    none(source::too_long(&sources));
}

#[test]
fn nothing_is_left_over() {
    let sources = sources();
    none(source::left_overs(&sources));
    none(source::ignored_without_reason(&sources));
}

#[test]
fn crates_say_what_they_are_for_and_forbid_unsafe_code() {
    let sources = sources();
    none(source::undocumented_roots(&sources));
    let ours: Vec<_> = sources.into_iter().filter(|file| !file.path.starts_with(BENCH.path)).collect();
    none(source::roots_that_allow_unsafe(&ours, &DENIES));
}

#[test]
fn unsafe_code_stays_in_its_places_and_is_explained() {
    let sources = sources();
    none(unsafety::misplaced(&sources, &UNSAFE));
    let ours: Vec<_> = sources.into_iter().filter(|file| !file.path.starts_with(BENCH.path)).collect();
    none(unsafety::unexplained(&ours));
    // The allocator for tests is explained as well, but in nobody's program.
    let shipped = ours.iter().filter(|file| !file.path.starts_with("guard/"));
    let count: usize = shipped.map(|file| unsafety::blocks(file).len()).sum();
    println!("{count} unsafe blocks, of {} at most", unsafety::BLOCKS_MAX);
    assert!(count <= unsafety::BLOCKS_MAX, "{count} unsafe blocks, {} at most", unsafety::BLOCKS_MAX);
}

#[test]
fn every_sentence_of_a_contract_has_a_test() {
    let sources = sources();
    for (contract, folder) in
        [(contract::CONTRACT, contract::CONFORMANCE), (contract::PORT, contract::PORT_TESTS)]
    {
        let written = sources.iter().find(|file| file.path == contract);
        let tests: Vec<_> = sources.iter().filter(|file| file.path.starts_with(folder)).collect();
        none(contract::untested(written.expect("the contract is there"), folder, &tests));
    }
}

#[test]
fn every_limit_has_a_row_in_its_page() {
    let sources = sources();
    let source = |path: &str| sources.iter().find(|file| file.path == path).expect("it is where it was");
    let documents = tree::files(&root(), "md").expect("the tree can be read");
    let page = documents.into_iter().find(|file| file.path == limits::PAGE).expect("the page is there");
    let (reasons, counters) = (source(limits::REASONS), source(limits::COUNTERS));
    none(limits::incomplete(source(limits::LIMITS), &page, reasons, counters, &sources));
}

#[test]
fn the_documents_exist() {
    none(markdown::missing(&root()));
}

#[test]
fn links_in_documents_lead_somewhere() {
    let root = root();
    let documents = tree::files(&root, "md").expect("the tree can be read").into_iter();
    let ours = documents.filter(|file| !file.path.contains('/') || file.path.starts_with("docs/"));
    none(markdown::broken_links(&root, &ours.collect::<Vec<_>>()));
}

#[test]
fn tests_that_the_tables_name_exist() {
    let (documents, sources) = (tree::files(&root(), "md").expect("the tree can be read"), sources());
    for path in ["docs/rows.md", "docs/bug-classes.md", "docs/sending.md"] {
        let page = documents.iter().find(|file| file.path == path).expect("the page is there");
        none(rows::unknown(page, &sources));
    }
}

#[test]
fn every_class_of_bugs_that_is_named_has_a_row() {
    let documents = tree::files(&root(), "md").expect("the tree can be read");
    let page = documents.iter().find(|file| file.path == rows::CLASSES).expect("the page is there");
    // Its own samples name classes that there are not.
    let sources: Vec<_> = sources().into_iter().filter(|file| !file.path.starts_with("tidy/")).collect();
    none(rows::classes_without_a_row(page, &sources));
}

#[test]
fn each_example_has_its_own_ports() {
    none(ports::shared(&sources(), &[Talks { example: "proxy", port: 7000 }]));
}

#[test]
fn what_is_exempt_is_exempt_for_a_reason() {
    for exempt in [&UNSAFE[..], &SYSTEM, &DENIES, &SLEEPING].into_iter().flatten() {
        assert!(exempt.reason.len() > 10, "{} is exempt without a reason", exempt.path);
        let is_file = !exempt.path.ends_with('/');
        assert!(!is_file || root().join(exempt.path).is_file(), "{} is exempt and not there", exempt.path);
    }
}
