//! The targets, checked: defects that are put in on purpose must be found by the committed corpora alone.
//!
//! `RUSTFLAGS="--cfg planted_bugs" cargo test -p anyport-fuzz-targets --test planted`
#![cfg(planted_bugs)]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use anyport_core::planted::{Bug, plant};
use anyport_fuzz_targets::TARGETS;

#[test]
fn planted_bugs_are_found_by_the_corpora() {
    let fuzz =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the folder of the fuzzers");
    let corpora = TARGETS.map(|target| {
        let files = fs::read_dir(fuzz.join("corpus").join(target.name)).expect("it has a corpus");
        let read = |file: std::io::Result<fs::DirEntry>| fs::read(file?.path());
        files.map(read).collect::<Result<Vec<_>, _>>().expect("the corpus can be read")
    });
    // Hundreds of panics are on their way.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    let elsewhere =
        |bug: Bug| bug.is_for_limits_only() || bug.is_for_simulation_only() || bug.is_for_models_only();
    for &bug in Bug::ALL.iter().filter(|bug| !elsewhere(**bug)) {
        plant(Some(bug));
        let finds = |(target, corpus): (anyport_fuzz_targets::Target, &Vec<Vec<u8>>)| {
            let fails = |bytes: &&Vec<u8>| catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err();
            let found = corpus.iter().filter(fails).count();
            (found > 0).then(|| format!("{} ({found})", target.name))
        };
        let found: Vec<_> = TARGETS.into_iter().zip(&corpora).filter_map(finds).collect();
        plant(None);
        println!("{}: {}", bug.name(), found.join(", "));
        if found.is_empty() {
            missed.push(bug.name());
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "no file of any corpus finds {missed:?}");
}
