#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anyport_fuzz_targets::length_prefix::run(bytes));
