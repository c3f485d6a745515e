//! Every committed file through its target, and a run of bytes that no fuzzer has chosen.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use anyport_fuzz_targets::{TARGETS, Target};

/// Most files of a target's corpus, and most bytes of a file. A regression is kept as it is.
const FILES_MAX: usize = 100;
const BYTES_MAX: u64 = 1 << 10;

macro_rules! replays {
    ($($name:ident)*) => {
        /// What the tests below replay.
        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*
    };
}

replays! { connection delimiter engine fixed hostile_codec length_prefix lines raw send size_kind slab timer_wheel }

fn fuzz() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate lies in the folder of the fuzzers").to_owned()
}

/// The files of a folder, sorted; none if there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let target = TARGETS.into_iter().find(|target| target.name == name).expect("there is such a target");
    let corpus = files(&fuzz().join("corpus").join(name));
    assert!(!corpus.is_empty(), "{name} has no corpus: docs/fuzzing.md says how to grow one");
    let kept = files(&fuzz().join("regressions").join(name));
    let failed: Vec<_> = corpus.iter().chain(&kept).filter(|file| !passes(target, file)).collect();
    assert!(failed.is_empty(), "{name} fails with {failed:#?}");
}

fn passes(target: Target, file: &Path) -> bool {
    let bytes = fs::read(file).expect("the file can be read");
    // Above the failure's own message, which is what the test prints next.
    println!("{}", file.display());
    catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_ok()
}

#[test]
fn every_target_is_fuzzed_and_replayed_and_has_a_corpus_of_small_files() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert!(names.is_sorted() && names == REPLAYED, "{names:?} are targets, {REPLAYED:?} are replayed");
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the fuzzers' manifest can be read");
    let fuzzed: Vec<_> =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")).collect();
    let wanted: Vec<_> = names.iter().map(|name| format!("{name}.rs\"")).collect();
    assert_eq!(fuzzed, wanted, "a [[bin]] of fuzz/Cargo.toml for each target, in this order");
    for folder in files(&fuzz().join("corpus")).iter().chain(&files(&fuzz().join("regressions"))) {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(names.contains(&name), "{} belongs to no target", folder.display());
    }
    for name in names {
        let corpus = files(&fuzz().join("corpus").join(name));
        assert!(corpus.len() <= FILES_MAX, "{name}: {} files, {FILES_MAX} at most: minimise", corpus.len());
        for file in corpus {
            let size = file.metadata().expect("the file is there").len();
            assert!(size <= BYTES_MAX, "{}: {size} bytes, {BYTES_MAX} at most", file.display());
        }
    }
}

#[test]
fn bytes_that_nobody_chose_pass() {
    // A multiplication by Knuth's constant is chance enough here; runs of equal bytes make small numbers frequent.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for round in 0..300 {
        let mask = [0xff, 0x3f, 0x0f, 0x03][round % 4];
        let bytes: Vec<u8> = (0..round).map(|_| next() & mask).collect();
        for target in TARGETS {
            let passed = catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_ok();
            assert!(passed, "{} fails in round {round} with {bytes:?}", target.name);
        }
    }
}
